"""One pass of a batch through a member: the loss, and everything that the update needs.

With r = factor · (x̂ − y), factor = 2/(n d) for n rows of width d, c the codes and π the pre-activations:

    ∂/∂c = r Dᵀ       ∂/∂D = cᵀ r       ∂/∂π by `Method.pull`, 0 where nothing is active
    ∂/∂E = (∂/∂π)ᵀ (x − b)       ∂/∂e = Σ ∂/∂π       ∂/∂b = Σ r, − Eᵀ Σ ∂/∂π where b is subtracted first
    tied: ∂/∂M = ∂/∂D + ∂/∂E

The *sparse* form touches active latents only, through the kernels. The *dense* form is five matrix
products, made a block of rows at a time; it is faster while more than `DENSE_ABOVE` of the codes are
active, as early in the training of methods with a penalty.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from .kernels import Codes, Encoder, Kernels, Term
from .kernels.reference import Buffers
from .methods import Entries, Method, Moment, Weights
from .source import Batch

DENSE_ABOVE = 0.12
"""Share of active codes above which the dense form is faster (measured, two machines: 0.11 to 0.17)."""
PARTS = 64
"""Parts in which sums over all latents are made."""
CHUNK = 1 << 23
"""Codes that the dense form holds at a time."""


@dataclass
class Pass:
    """A batch, passed through a member. Matrices have their gradient as terms, as a table, or as both in parts."""

    loss: float
    """What is minimised, without the auxiliary loss of dead latents."""
    squared_error: float
    """Σ (y − ŷ)² over rows and dimensions."""
    sums: dict[str, float]
    """Over `Method.costs`, and "active", the number of codes that are not 0."""
    fired: Int[Tensor, " latent"]
    """In how many rows each latent was active."""
    vectors: dict[str, Tensor]
    """Gradients of the vectors."""
    row_error: Float[Tensor, " row"] | None = None
    """Σ (y − ŷ)² by row, where it was asked for."""
    smallest: float | None = None
    """The smallest code that was kept of the batch."""
    terms: dict[str, list[Term]] = field(default_factory=lambda: {"directions": [], "encoder": []})
    tables: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What one pass needs to know of a member."""

    method: Method
    weights: Weights
    encoder: Encoder
    now: Moment
    threshold: float | None = None
    """The smallest kept code, as expected."""
    dead: Int[Tensor, " latent"] | None = None
    """Latents for the auxiliary loss, where there are any."""
    row_errors: bool = False

    @property
    def bias(self) -> Tensor | None:
        return self.weights.vectors.get("bias")

    @property
    def n_latents(self) -> int:
        return len(self.weights.directions)


def sparse_pass(job: Job, batch: Batch, kernels: Kernels, buffers: Buffers) -> Pass:
    """A pass on active latents only."""
    method, weights, rows = job.method, job.weights, len(batch.x)
    bounds = method.bounds(job.n_latents)
    factor = 2 / (batch.y.numel() * len(bounds))
    x, target = _inputs(job, batch, buffers)
    codes, smallest = _select(job, x, kernels)
    entries = Entries(codes.value, weights.vectors, codes.latent)
    entries.value = method.values(entries)
    decoded = kernels.decode(codes, entries.value, weights.directions, job.bias, target, factor, bounds, "codes")
    entries.slope = decoded.slope
    errors = list(decoded.squared_error)
    loss = sum(errors) / (batch.y.numel() * len(bounds))
    if method.gated:
        gate = kernels.decode(codes, codes.value, weights.directions, job.bias, target, factor, bounds, "gate")
        entries.gate_slope = gate.slope
        loss += gate.squared_error[-1] / batch.y.numel()
    row_error = decoded.residual[-1].square().sum(1).div_(factor**2) if job.row_errors else None
    costs = method.costs(entries, job.now)
    pull, others = method.pull(entries, job.now, rows)
    ordered = kernels.by_latent(codes, job.n_latents, "codes")
    # by latent, so that the order of the sums does not depend on how many slots the tables have
    sums = {name: _total(kernels.sums(ordered, part)) for name, part in costs.items()}
    vectors = {name: kernels.sums(ordered, part) for name, part in others.items()}
    pulled = kernels.sums(ordered, pull)
    vectors.setdefault("encoder_bias", pulled)
    _finish_vectors(job, batch, decoded.residual[0], pulled, vectors)
    fired = ordered.fired if method.all_active else kernels.sums(ordered, (entries.value != 0).float()).long()
    sums["active"] = float(fired.sum())
    loss += job.now.coefficient * sums.get("penalty", 0.0) / rows
    done = Pass(loss, errors[-1], sums, fired, vectors, row_error, smallest)
    whole = (job.n_latents,)
    done.terms["directions"].append(Term(ordered, entries.value, decoded.residual, bounds))
    done.terms["encoder"].append(Term(ordered, pull, x.unsqueeze(0), whole))
    if job.dead is not None:
        _revive(job, job.dead, x, decoded.residual[-1] / -factor, kernels, done)
    return done


def _total(sums: Float[Tensor, " latent"]) -> float:
    return float(sums.sum(dtype=torch.float64))


def _inputs(job: Job, batch: Batch, buffers: Buffers) -> tuple[Tensor, Tensor]:
    """What is encoded and what D and b have to write."""
    x, y = batch.x, batch.y
    skip = job.weights.vectors.get("skip")
    target = y if skip is None else torch.addmm(y, x, skip.t(), alpha=-1)
    centre = job.bias if job.weights.centred else job.weights.vectors.get("centre")
    if centre is not None:
        x = torch.sub(x, centre, out=buffers.get("centred", x.shape, x.dtype, x.device))
    return x, target


def _select(job: Job, x: Tensor, kernels: Kernels) -> tuple[Codes, float | None]:
    shift, keep = job.method.shift(job.weights.vectors), job.method.keep(job.now.share)
    if keep is None:
        return kernels.positive(x, job.encoder, shift, "codes"), None
    keep = min(keep, job.n_latents)
    if job.method.selection == "largest":
        return kernels.largest(x, job.encoder, shift, keep, "codes"), None
    return kernels.largest_of_batch(x, job.encoder, shift, keep * len(x), job.threshold, "codes")


def _finish_vectors(job: Job, batch: Batch, residual: Tensor, pulled: Tensor, vectors: dict[str, Tensor]) -> None:
    """Gradients of the vectors that are not sums over a latent's entries."""
    if job.bias is not None:
        vectors["bias"] = residual.sum(0)
        if job.weights.centred:
            vectors["bias"] -= _combined(pulled, job.weights.encoding)
    if "skip" in job.weights.vectors:
        vectors["skip"] = residual.t() @ batch.x


def _combined(factor: Float[Tensor, " latent"], rows: Float[Tensor, "latent d"]) -> Float[Tensor, " d"]:
    """Σ factor_j · rows_j, added up in an order that does not depend on the number of threads."""
    each = torch.arange(len(rows), device=rows.device)
    parts = embedding_bag(each, rows, each[:: -(-len(rows) // PARTS)], per_sample_weights=factor, mode="sum")
    return parts.sum(0)


def _revive(job: Job, dead: Tensor, x: Tensor, error: Tensor, kernels: Kernels, done: Pass) -> None:
    """Add the auxiliary loss: dead latents write what is left over (Gao et al. 2024, appendix A.2). b takes no part."""
    weights, aux = job.weights, job.method.settings()["aux"]
    spread = float((error - error.mean(0)).square().sum(dtype=torch.float64))
    if not spread > 0:
        return
    k = min(len(dead), max(1, x.shape[1] // 2))
    among = kernels.encoder(weights.encoding[dead], "float32")
    found = kernels.largest(x, among, job.method.shift(weights.vectors)[dead], k, "dead")
    used = torch.arange(found.latent.shape[1], device=x.device) < found.count.unsqueeze(1)
    codes = Codes((dead.int()[found.latent] * used).int(), found.value, found.count)
    whole = (job.n_latents,)
    decoded = kernels.decode(codes, codes.value, weights.directions, None, error, 2 * aux / spread, whole, "dead")
    ordered = kernels.by_latent(codes, job.n_latents, "dead")
    done.vectors["encoder_bias"] = done.vectors["encoder_bias"] + kernels.sums(ordered, decoded.slope)
    done.terms["directions"].append(Term(ordered, codes.value, decoded.residual, whole))
    done.terms["encoder"].append(Term(ordered, decoded.slope, x.unsqueeze(0), whole))


def dense_pass(job: Job, batch: Batch, buffers: Buffers) -> Pass:
    """A pass on all latents, a block of rows at a time."""
    rows = len(batch.x)
    x, target = _inputs(job, batch, buffers)
    totals = _Totals(job, rows, buffers, x)
    size = max(1, CHUNK // job.n_latents)
    for first in range(0, rows, size):
        part = slice(first, first + size)
        totals.add(x[part], target[part], first)
    vectors = totals.vectors
    pulled = vectors.pop("")
    vectors.setdefault("encoder_bias", pulled)
    _finish_vectors(job, batch, totals.residual, pulled, vectors)
    loss = (totals.squared_error + totals.gate_error) / batch.y.numel()
    loss += job.now.coefficient * totals.sums["penalty"] / rows
    totals.sums["active"] = float(totals.fired.sum())
    tables = {"directions": totals.directions, "encoder": totals.encoder}
    return Pass(loss, totals.squared_error, totals.sums, totals.fired, vectors, totals.row_error, tables=tables)


class _Totals:
    """What the dense form adds up over blocks of rows."""

    def __init__(self, job: Job, rows: int, buffers: Buffers, x: Tensor) -> None:
        self.job, self.rows, self.buffers = job, rows, buffers
        weights = job.weights
        self.directions = self._zeros("gradient-directions", weights.directions)
        # tied: both parts of the gradient go to the same table
        self.encoder = self.directions if weights.encoder is None else self._zeros("gradient-encoder", weights.encoding)
        self.residual = x.new_empty(rows, weights.directions.shape[1])
        self.row_error = x.new_empty(rows) if job.row_errors else None
        self.fired = torch.zeros(job.n_latents, dtype=torch.int64, device=x.device)
        self.squared_error = self.gate_error = 0.0
        self.sums: dict[str, float] = {}
        self.vectors: dict[str, Tensor] = {}

    def _zeros(self, name: str, like: Tensor) -> Tensor:
        return self.buffers.get(name, like.shape, like.dtype, like.device).zero_()

    def _block(self, name: str, shape: tuple[int, int], like: Tensor) -> Tensor:
        return self.buffers.get(name, shape, like.dtype, like.device)

    def add(self, x: Tensor, target: Tensor, first: int) -> None:
        """One block of rows, beginning with row `first`."""
        job, weights = self.job, self.job.weights
        shape = (len(x), job.n_latents)
        score = self._block("score", shape, x)
        torch.addmm(job.method.shift(weights.vectors), x, weights.encoding.t(), out=score)
        entries = Entries(score, weights.vectors)
        entries.value = job.method.values(entries)
        factor = 2 / (self.rows * target.shape[1])
        residual = self.residual[first : first + len(x)]
        self.squared_error += self._decode(entries.value, target, residual)
        if self.row_error is not None:
            self.row_error[first : first + len(x)] = residual.square().sum(1)
        residual *= factor
        entries.slope = torch.mm(residual, weights.directions.t(), out=self._block("slope", shape, x))
        if job.method.gated:
            gate = self._block("gate", (len(x), target.shape[1]), x)
            self.gate_error += self._decode(score.relu(), target, gate)
            entries.gate_slope = gate.mul_(factor) @ weights.directions.t()
        for name, found in job.method.costs(entries, job.now).items():
            self.sums[name] = self.sums.get(name, 0.0) + _total(found.sum(0))
        active = torch.gt(entries.value, 0, out=self._block("active", shape, x))
        self.fired += torch.mv(active.t(), active.new_ones(len(x))).long()
        pull, others = job.method.pull(entries, job.now, self.rows)
        self.directions.addmm_(entries.value.t(), residual)
        self.encoder.addmm_(pull.t(), x)
        for name, part in {"": pull, **others}.items():
            total = part.sum(0)
            self.vectors[name] = self.vectors[name].add_(total) if name in self.vectors else total

    def _decode(self, value: Tensor, target: Tensor, out: Tensor) -> float:
        """x̂ − y into `out`; the sum of its squares."""
        torch.mm(value, self.job.weights.directions, out=out)
        if self.job.bias is not None:
            out += self.job.bias
        out -= target
        return float(torch.dot(out.view(-1), out.view(-1)))

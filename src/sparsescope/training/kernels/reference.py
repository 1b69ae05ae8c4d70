"""The kernels in plain PyTorch (and numpy, where it is faster at finding few entries among many).

They run on any device without a compiler, and are what the other implementations are compared with.
Decoding and both weight gradients are weighted sums of gathered rows (`embedding_bag`); the slope of a
code is the gradient of such a sum in its weights, which is a matrix product sampled at the entries.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag
from torch.optim.adam import adam as torch_adam

from .base import Adam, ByLatent, Codes, Decoded, Encoder, Kernels, Matrix, Precision, Term, rows_of

CHUNK = 1 << 21
"""Pre-activations held at a time."""
GROUP = 16
"""Neighbouring pre-activations that are looked at together for the k largest."""


class Buffers:
    """Memory by name, allocated once and grown when more is asked for."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def get(self, name: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """An uninitialised tensor that the next call of the same name overwrites."""
        size = math.prod(shape)
        held = self._held.get(name)
        if held is None or held.numel() < size or held.dtype != dtype or held.device != device:
            held = self._held[name] = torch.empty(size, dtype=dtype, device=device)
        return held[:size].view(*shape)


class Reference(Kernels):
    """See `Kernels`. In "screened" precision it computes in float32, whose answers screening preserves."""

    name = "reference"

    def __init__(self) -> None:
        self._buffers = Buffers()

    def encoder(self, weight: Float[Tensor, "latent d"], precision: Precision) -> Encoder:
        return Encoder(weight, precision)

    def refresh(self, encoder: Encoder) -> None:
        """Nothing is kept beside the weights."""

    def positive(self, x: Float[Tensor, "row d"], encoder: Encoder, bias: Float[Tensor, " latent"], use: str) -> Codes:
        return self._above(x, encoder, bias, 0.0)

    def largest(
        self, x: Float[Tensor, "row d"], encoder: Encoder, bias: Float[Tensor, " latent"], k: int, use: str
    ) -> Codes:
        found = [_top(part, k) for _, part in self._products(x, encoder, bias)]
        value, latent = (torch.cat(parts) for parts in zip(*found, strict=True))
        wanted = ~(value <= 0)
        return Codes((latent * wanted).int(), value.masked_fill(~wanted, 0), wanted.sum(1, dtype=torch.int32))

    def largest_of_batch(
        self,
        x: Float[Tensor, "row d"],
        encoder: Encoder,
        bias: Float[Tensor, " latent"],
        total: int,
        expected: float | None,
        use: str,
    ) -> tuple[Codes, float]:
        floor = 0.9 * expected if expected is not None else _sampled_floor(self._products(x, encoder, bias), total, x)
        while True:
            codes = self._above(x, encoder, bias, max(floor, 0.0))
            if floor <= 0 or int(codes.count.sum()) >= total:
                return _keep_total(codes, total)
            floor = floor / 2 if floor > 1e-6 else 0.0

    def decode(
        self,
        codes: Codes,
        value: Float[Tensor, "row slot"],
        directions: Float[Tensor, "latent d"],
        bias: Float[Tensor, " d"] | None,
        target: Float[Tensor, "row d"],
        factor: float,
        bounds: Sequence[int],
        use: str,
    ) -> Decoded:
        place, start = _flat(codes)
        latent, given = codes.latent.view(-1)[place], value.reshape(-1)[place]
        residual = self._get(f"residual-{use}", (len(bounds), *target.shape), target)
        errors, parts, below = [], [], 0
        # autograd of embedding_bag in its weights is the matrix product sampled at the entries
        for level, bound in enumerate(bounds):
            inside = None if len(bounds) == 1 else (latent >= below) & (latent < bound)
            with torch.enable_grad():
                weight = (given if inside is None else given * inside).detach().requires_grad_()
                part = embedding_bag(latent, directions, start, per_sample_weights=weight, mode="sum")
            parts.append((weight, part, inside))
            if level == 0:
                torch.sub(part.detach(), target, out=residual[0])
                if bias is not None:
                    residual[0] += bias
            else:
                torch.add(residual[level - 1], part.detach(), out=residual[level])
            errors.append(_square(residual[level]))
            below = bound
        _suffix_sums(residual, factor)
        slope = torch.zeros_like(given)
        for level, (weight, part, inside) in enumerate(parts):
            (found,) = torch.autograd.grad(part, weight, residual[level])
            slope += found if inside is None else found * inside
        return Decoded(residual, errors, torch.zeros_like(value).view(-1).index_put_((place,), slope).view_as(value))

    def by_latent(self, codes: Codes, n_latents: int, use: str) -> ByLatent:
        place, _ = _flat(codes)
        latent = codes.latent.view(-1)[place]
        if latent.device.type == "cpu" and n_latents <= 1 << 16:  # numpy sorts numbers of 16 bits by radix
            order = torch.from_numpy(np.argsort(latent.numpy().astype(np.uint16), kind="stable"))
        else:
            order = latent.argsort(stable=True)
        start = torch.zeros(n_latents + 1, dtype=torch.int64, device=latent.device)
        torch.cumsum(torch.bincount(latent, minlength=n_latents), 0, out=start[1:])
        return ByLatent(start, place[order], codes.latent.shape[1])

    def sums(self, entries: ByLatent, factor: Float[Tensor, "row slot"]) -> Float[Tensor, " latent"]:
        latent = torch.repeat_interleave(entries.fired)
        found = torch.bincount(latent, weights=factor.view(-1)[entries.entry], minlength=len(entries.start) - 1)
        return found.to(factor.dtype)  # without entries torch counts in integers

    def gradient(self, terms: Sequence[Term], n_latents: int) -> Float[Tensor, "latent d"]:
        total: Tensor | None = None
        for term in terms:
            row, factor = rows_of(term.entries), term.factor.view(-1)[term.entries.entry]
            parts, below = [], 0
            for table, bound in zip(term.table, term.bounds, strict=True):
                start = term.entries.start[below : bound + 1]
                held = slice(int(start[0]), int(start[-1]))
                offsets = start[:-1] - start[0]
                parts.append(embedding_bag(row[held], table, offsets, per_sample_weights=factor[held], mode="sum"))
                below = bound
            found = parts[0] if len(parts) == 1 else torch.cat(parts)
            total = found if total is None else total.add_(found)
        assert total is not None
        assert len(total) == n_latents
        return total

    def update(
        self,
        matrix: Matrix,
        adam: Adam,
        terms: Sequence[Term] = (),
        gradient: Float[Tensor, "latent d"] | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        weight = matrix.weight
        found = self.gradient(terms, len(weight)) if terms else None
        if found is None:
            assert gradient is not None
            found = gradient.clone()
        elif gradient is not None:
            found += gradient
        if matrix.unit:
            along = torch.linalg.vecdot(found, weight).unsqueeze(1)
            found.addcmul_(along, weight, value=-1)
        adam_step([weight], [found], [matrix.mean], [matrix.square], adam)
        if matrix.unit:
            weight.div_(torch.linalg.vector_norm(weight, dim=1, keepdim=True).clamp_min_(1e-8))

    def _get(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        return self._buffers.get(name, shape, like.dtype, like.device)

    def _products(self, x: Tensor, encoder: Encoder, bias: Tensor):
        """Pre-activations of a block of rows at a time, with the number of the first: overwritten by the next."""
        weight, rows = encoder.weight, max(1, CHUNK // len(encoder.weight))
        for first in range(0, len(x), rows):
            part = x[first : first + rows]
            out = self._get("products", (len(part), len(weight)), x)
            if encoder.precision == "bf16":
                out.copy_(part.bfloat16() @ weight.bfloat16().t()).add_(bias)
            else:
                torch.addmm(bias, part, weight.t(), out=out)
            yield first, out

    def _above(self, x: Tensor, encoder: Encoder, bias: Tensor, floor: float) -> Codes:
        """Entries above `floor` (at or above, where it is not zero)."""
        rows, latents, values = [], [], []
        for first, part in self._products(x, encoder, bias):
            flat = _not_below(part, floor)
            row = torch.div(flat, part.shape[1], rounding_mode="floor")
            rows.append(row + first)
            latents.append(flat - row * part.shape[1])
            values.append(part.view(-1)[flat])
        return _table(torch.cat(rows), torch.cat(latents), torch.cat(values), len(x))


def adam_step(
    weights: list[Tensor], gradients: list[Tensor], means: list[Tensor], squares: list[Tensor], adam: Adam
) -> None:
    """torch's fused Adam, in place."""
    steps = [torch.tensor(float(adam.count - 1), device=weights[0].device) for _ in weights]
    torch_adam(
        weights,
        gradients,
        means,
        squares,
        [],
        steps,
        fused=True,
        amsgrad=False,
        beta1=adam.beta1,
        beta2=adam.beta2,
        lr=adam.lr,
        weight_decay=0.0,
        eps=adam.epsilon,
        maximize=False,
    )


def _not_below(table: Tensor, floor: float) -> Int[Tensor, " entry"]:
    """Flat positions of the values above `floor`, or at it where it is not zero; of NaN too."""
    if table.device.type != "cpu":
        return (~(table <= 0) if floor == 0 else ~(table < floor)).view(-1).nonzero().squeeze(1)
    compare = np.less_equal if floor == 0 else np.less
    mask = compare(table.numpy(), np.float32(floor))
    return torch.from_numpy(np.flatnonzero(np.logical_not(mask, out=mask)))


def _top(table: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`table.topk(k, dim=1)`, looking only at groups of values that can hold one of the k largest.

    Those are the k groups with the largest maxima: what lies in another is no larger than k values that do not.
    """
    rows, width = table.shape
    if width % GROUP or width // GROUP < 2 * k:
        return table.topk(k, dim=1)
    groups = table.view(rows, -1, GROUP)
    best = groups.amax(2).topk(k, dim=1, sorted=False).indices
    among = groups.gather(1, best.unsqueeze(2).expand(-1, -1, GROUP)).view(rows, -1)
    value, place = among.topk(k, dim=1)
    return value, best.gather(1, place // GROUP) * GROUP + place % GROUP


def _table(row: Tensor, latent: Tensor, value: Tensor, rows: int) -> Codes:
    """Entries, rows ascending, side by side."""
    count = torch.bincount(row, minlength=rows)
    slot = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    shape = (rows, max(1, int(count.max())))
    latents = torch.zeros(shape, dtype=torch.int32, device=row.device)
    values = torch.zeros(shape, dtype=value.dtype, device=row.device)
    latents[row, slot] = latent.int()
    values[row, slot] = value
    return Codes(latents, values, count.int())


def _flat(codes: Codes) -> tuple[Int[Tensor, " entry"], Int[Tensor, " row"]]:
    """Flat positions of the slots in use, and where each row begins among them."""
    rows, slots = codes.latent.shape
    start = codes.count.long().cumsum(0) - codes.count
    if int(codes.count.sum()) == rows * slots:
        return torch.arange(rows * slots, device=start.device), start
    used = torch.arange(slots, device=start.device) < codes.count.unsqueeze(1)
    return used.view(-1).nonzero().squeeze(1), start


def _sampled_floor(products, total: int, x: Tensor) -> float:
    """A guess at the `total`-th largest value of the batch, from its first block of rows."""
    _, part = next(products)
    flat = part.reshape(-1)
    wanted = min(len(flat), max(1, round(1.5 * total * len(part) / len(x))))
    return float(flat.topk(wanted).values[-1])


def _keep_total(codes: Codes, total: int) -> tuple[Codes, float]:
    """The `total` largest entries of a table, and the smallest of those."""
    place, _ = _flat(codes)
    value = codes.value.view(-1)[place]
    if len(value) > total:
        kept = value.topk(total).indices.sort().values
        place, value = place[kept], value[kept]
    smallest = float(value.min()) if len(value) == total else 0.0
    row = torch.div(place, codes.latent.shape[1], rounding_mode="floor")
    return _table(row, codes.latent.view(-1)[place], value, len(codes.count)), smallest


def _suffix_sums(residual: Float[Tensor, "level row d"], factor: float) -> None:
    """r_l becomes factor · Σ r_m over m ≥ l."""
    residual *= factor
    for level in range(len(residual) - 2, -1, -1):
        residual[level] += residual[level + 1]


def _square(residual: Tensor) -> float:
    return float(torch.dot(residual.view(-1), residual.view(-1)))

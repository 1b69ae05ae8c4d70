"""What was measured about one dictionary: an `Evaluation`, made by `evaluate`."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from .statistics import Estimate, Moments

DENSITY_EDGES = tuple(round(-5 + 0.2 * i, 1) for i in range(26))
"""log10 of the edges of the density histogram; what is rarer than the first edge counts in the first bin."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """What was measured about one dictionary. `to_dict` gives its entry in `report.json`.

    Cross-entropies are in nats per token and, like everything that comes from running the model, None
    when no model was given. Formulas: `metrics.reconstruction`, `metrics.splicing`, `metrics.geometry`.
    """

    name: str
    method: str
    site: str
    output_site: str | None = None
    """The site that is reconstructed, where it is not the one that is read."""
    n_latents: int
    seed: int | None
    l1: float | None
    k: int | None
    target_l0: float | None
    fvu: Estimate
    l0: Estimate
    alive: int
    shrinkage: Estimate
    norm_ratio: Estimate
    ce_clean: float | None = None
    ce_spliced: float | None = None
    ce_zero: float | None = None
    ce_mean: float | None = None
    ce_recovered: Estimate | None = None
    """Against the zero-ablation floor."""
    ce_recovered_mean: Estimate | None = None
    """The same against the mean-ablation floor, which is the harder one."""
    ce_clean_interval: Estimate | None = None
    ce_spliced_interval: Estimate | None = None
    """`ce_clean` and `ce_spliced` with their intervals; exp of the ends is the interval of the perplexity."""
    perplexity_clean: float | None = None
    perplexity_spliced: float | None = None
    capacity: float
    """Mean over latents (over 4,096 drawn at random, where there are more)."""
    split: str
    tokens: int
    """Tokens that FVU, L0, alive and density were measured on."""
    predictions: int | None = None
    """Tokens whose prediction entered the cross-entropies."""
    path: str | None
    density: Float[Tensor, " latent"]
    moments: Moments

    def to_dict(self) -> dict[str, Any]:
        """JSON form: estimates as value, low, high, n; density as a histogram; medians of the moments."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("density", "moments", "path")}
        entry = {key: value.to_dict() if isinstance(value, Estimate) else value for key, value in plain.items()}
        return {
            **entry,
            "density": density_histogram(self.density),
            "skew": _median(self.moments.skew),
            "kurtosis": _median(self.moments.kurtosis),
            "path": self.path,
        }

    def __str__(self) -> str:
        where = self.site if self.output_site is None else f"{self.site} → {self.output_site}"
        lines = [
            f"{self.name}: {self.method}, {self.n_latents:,} latents at {where}",
            f"  on {self.tokens:,} tokens of {self.fvu.n:,} {self.split} documents, 95% intervals over documents",
            f"  FVU           {self.fvu:.4f}",
            f"  L0            {self.l0:.1f}",
            f"  alive         {self.alive:,} of {self.n_latents:,}",
            f"  shrinkage     {self.shrinkage:.3f}",
        ]
        if self.ce_recovered is None:
            return "\n".join([*lines, "  CE            not measured: no model was given"])
        return "\n".join(
            [
                *lines,
                f"  CE            clean {self.ce_clean:.3f}, spliced {self.ce_spliced:.3f}, "
                f"mean-ablated {self.ce_mean:.3f}, zero-ablated {self.ce_zero:.3f}",
                f"  CE recovered  {self.ce_recovered:.4f}",
                f"  perplexity    clean {self.perplexity_clean:.2f}, spliced {self.perplexity_spliced:.2f}",
            ]
        )


def density_histogram(density: Float[Tensor, " latent"]) -> dict[str, Any]:
    """Counts of latents by log10 of their density, with the silent ones apart.

    >>> import torch
    >>> histogram = density_histogram(torch.tensor([0.0, 0.5, 1.0]))
    >>> histogram["silent"], sum(histogram["counts"])
    (1, 2)
    """
    values = density.double().numpy()
    logs = np.log10(values[values > 0]).clip(DENSITY_EDGES[0], DENSITY_EDGES[-1])
    counts = np.histogram(logs, DENSITY_EDGES)[0]
    return {"log10_edges": list(DENSITY_EDGES), "counts": counts.tolist(), "silent": int((values == 0).sum())}


def _median(values: Float[Tensor, " latent"]) -> float | None:
    """Median over the latents that have the number; None when no latent has."""
    known = values[~values.isnan()]
    return float(known.median()) if len(known) else None

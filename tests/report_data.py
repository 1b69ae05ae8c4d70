"""A made-up run of the demo's size, for the tests of the report and to look at."""

import math
from typing import Any

import numpy as np

SENTENCES = [
    "The lamp was given to Mary by John, who had carried it from the old house near the river.",
    "“I don’t know,” said the rabbit; (it was [very] late) and the clock\nstruck <b>nine</b> & ten.",
    "Return a new list sorted by key=lambda x: x[0], or raise ValueError if empty.",
    "In 1843 the captain’s letters, opened twice, had not yet been answered.",
]


def estimate(value: float, spread: float, n: int = 212) -> dict[str, Any]:
    return {"value": value, "low": value - spread, "high": value + spread, "n": n, "unit": "document"}


def entry(method: str, l0: float, fvu: float, latents: int, **more: Any) -> dict[str, Any]:
    recovered = 1 - 0.35 * min(fvu, 2) ** 1.2
    shape = np.random.default_rng(int(1000 * fvu) + latents)
    logs = np.clip(shape.normal(math.log10(max(l0 / latents, 1e-4)), 0.5, latents), -5, -0.01)
    counts = np.histogram(logs, [round(-5 + 0.2 * i, 1) for i in range(26)])[0].tolist()
    silent = latents // 20 if method.endswith("l1") else 0
    return {
        "name": more.pop("name", f"{method}-{latents}-{l0:.0f}"),
        "method": method,
        "site": more.pop("site", "resid_post.2"),
        "n_latents": latents,
        "seed": 0,
        "l1": None,
        "k": None,
        "target_l0": None,
        "fvu": estimate(fvu, 0.012 * fvu + 0.001),
        "l0": estimate(l0, 0.01 * l0 if method.endswith("l1") else 0.0),
        "alive": latents - silent,
        "shrinkage": estimate(0.93 if method.endswith("l1") else 0.99, 0.004),
        "ce_clean": 3.21,
        "ce_spliced": 7.9 - 4.69 * recovered,
        "ce_zero": 7.9,
        "ce_mean": 6.4,
        "ce_recovered": estimate(recovered, 0.01),
        "perplexity_clean": math.exp(3.21),
        "perplexity_spliced": math.exp(7.9 - 4.69 * recovered),
        "density": {"log10_edges": [round(-5 + 0.2 * i, 1) for i in range(26)], "counts": counts, "silent": silent},
        "path": more.pop("path", f"dictionaries/{method}-{latents}-{l0:.0f}"),
        **more,
    }


def entries(site: str = "resid_post.2") -> list[dict[str, Any]]:
    found = []
    for latents, gain in ((512, 1.0), (1024, 0.9)):
        for l0 in (8, 16, 32):
            found.append(
                entry("tied_l1", l0 * 1.02, gain * 1.15 * l0**-0.46, latents, target_l0=l0, l1=0.3 / l0, site=site)
            )
            found.append(entry("topk", l0, gain * 0.9 * l0**-0.5, latents, k=l0, site=site))
    for method, level in (("pca", 1.35), ("ica", 1.5), ("nmf", 1.9), ("neurons", 2.2), ("random", 2.6)):
        for k in (8, 16, 32):
            found.append(entry(method, k, min(level * k**-0.35, 1.3), 256, k=k, site=site, name=f"{method}-top{k}"))
        if method != "random":
            found.append(entry(method, 256, 0.0 if method != "nmf" else 0.31, 256, site=site, name=method))
    return found


def features() -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    latents = []
    for i in range(8):
        contexts = []
        for c in range(5):
            text = SENTENCES[(i + c) % 4]
            words = text.replace(" ", " ").split(" ")
            tokens = [words[0], *(" " + word for word in words[1:])]
            values = np.where(generator.random(len(tokens)) < 0.2, generator.gamma(2, 1, len(tokens)), 0).round(3)
            values[c] = 9 - c
            contexts.append({"document": 10 * i + c, "peak": c, "tokens": tokens, "values": values.tolist()})
        latents.append({"latent": 37 * i + 5, "density": 0.3 / 3**i, "maximum": 9.0, "contexts": contexts})
    return [{"dictionary": "topk-1024-16", "method": "topk", "site": "resid_post.2", "l0": 16.0, "latents": latents}]


def demo_run() -> dict[str, Any]:
    return {
        "run": {
            "title": "demo",
            "command": "sparsescope study --config builtin:demo --out runs/demo",
            "model": "builtin:tiny",
            "model_fingerprint": "9c1f" * 16,
            "text": "builtin:docs",
            "sites": ["resid_post.2"],
            "context": 128,
            "tokens": 500_000,
            "split": "test",
            "seed": 0,
            "sparsescope": "0.1.0",
            "machine": "2 cores, 15.6 GiB",
            "versions": {"python": "3.11.7", "torch": "2.13.0", "transformers": "5.0.0"},
            "recipe": {"model": "builtin:tiny", "site": ["resid_post.2"], "train": [{"method": ["tied_l1", "topk"]}]},
        },
        "stages": {
            "harvest": {"seconds": 41.2, "peak_rss_bytes": 1_210_000_000},
            "train": {"seconds": 132.9, "peak_rss_bytes": 1_480_000_000},
            "fit": {"seconds": 21.4, "peak_rss_bytes": 1_390_000_000},
            "evaluate": {"seconds": 55.0, "peak_rss_bytes": 1_520_000_000},
        },
        "dictionaries": entries(),
        "features": features(),
    }

"""How fast contexts are gathered, how large they are in the feature database, and the same of SAEDashboard.

The activations of builtin:tiny on builtin:docs are harvested, and a TopK autoencoder is trained on them.
Then, for that autoencoder and for the neurons, whose codes are dense:

    gather       one pass over the stored activations: contexts, densities, moments, token sums
    statistics   token entropy, top tokens, logit effect, neighbours
    database     text of the corpus (once), then latents with their contexts

Bytes per latent are those by which the database file grows when a dictionary is put into it.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from ..activations import harvest
from ..activations.base import Activations
from ..dictionaries import NeuronDictionary
from ..dictionaries.base import Dictionary
from ..features.database import FeatureDatabase
from ..features.fragments import Fragments, cut
from ..features.gathering import Gathered, count_active, draw_latents, gather
from ..features.statistics import Statistics, statistics
from ..metrics.evaluate import draw_contexts
from ..models import LanguageModel, load_model
from ..text import load_text
from ..training import TopK, train
from . import memory
from .dashboards import measure_dashboard
from .machine import machine
from .timing import foreign_seconds

SITE = "resid_post.2"
TARGET_SECONDS, TARGET_BYTES = 120.0, 5_000
TARGET_LATENTS, TARGET_TOKENS = 2_000, 1_000_000
SPLIT = "train"
"""The largest split: a million tokens of the test split would take ten million harvested ones."""

Progress = Callable[[str, int, int], None]


def measure_contexts(
    *,
    tokens: int = TARGET_TOKENS,
    n_latents: int = 2048,
    k: int = 32,
    training: int = 400_000,
    threads: int | None = None,
    peer_python: str | None = None,
    peer_latents: int = 64,
    peer_tokens: int = 100_000,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Seconds of each stage, latents per second and bytes per latent, of our own and of SAEDashboard.

    `training` rows train the autoencoder of `n_latents`; `peer_python` is an interpreter that has
    SAEDashboard, whose pins exclude ours. It gets `peer_latents` of the same autoencoder and `peer_tokens`
    of the same tokens, and makes activations itself as it has no store: harvesting is given beside ours.
    Returns JSON: `settings`, `machine`, `rows`, what stands `beside` each other, and whether the `targets` are met.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(prefix="sparsescope-bench-") as folder:
        lm = load_model("builtin:tiny")
        begun = time.perf_counter()
        asked = int(tokens * 1.3) + 10_000  # eight tenths of the documents are in the train split
        store = harvest(lm, load_text("builtin:docs"), [SITE], tokens=asked, out=Path(folder) / "acts", seed=seed)
        harvesting = (time.perf_counter() - begun) / asked
        sae = _trained(store, n_latents, k, training, seed, progress)
        neurons = NeuronDictionary(bias=torch.zeros(store.width(SITE))).with_provenance(site=SITE, name="neurons")
        job = _Job(store, lm, cut(store, SPLIT, max_tokens=tokens, seed=seed), Path(folder), progress)
        rows = [_measure(job, sae), _measure(job, neurons)]
        few = cut(store, SPLIT, max_tokens=peer_tokens, seed=seed)
        counts, _ = count_active(sae, store, few)
        latents = draw_latents(counts, peer_latents, seed)
        beside = _measure(_Job(store, lm, few, Path(folder), progress), sae.with_provenance(name="same"), latents)
        chosen = draw_contexts(few.tokens, peer_tokens, seed)
        peer = measure_dashboard(peer_python, lm, sae, few.tokens, chosen, latents, SITE, Path(folder) / "peer")
    settings = {"site": SITE, "tokens": tokens, "n_latents": n_latents, "k": k, "training": training, "seed": seed}
    return {
        "settings": settings,
        "machine": machine(torch.get_num_threads()),
        "harvest_seconds_per_token": harvesting,
        "rows": rows,
        "beside": {"ours": beside, "peer": peer},
        "targets": _targets(rows[0]),
    }


def _trained(
    store: Activations, n_latents: int, k: int, training: int, seed: int, progress: Progress | None
) -> Dictionary:
    method = TopK(k=k, n_latents=n_latents)
    return train(store, SITE, [method], tokens=training, seed=seed, progress=progress)[0].with_provenance(name="topk")


@dataclass(frozen=True, eq=False)
class _Job:
    """What a measurement is made on."""

    store: Activations
    lm: LanguageModel
    fragments: Fragments
    folder: Path
    progress: Progress | None


def _measure(job: _Job, dictionary: Dictionary, latents: Int64[np.ndarray, " latent"] | None = None) -> dict[str, Any]:
    """Every stage of one dictionary, once, with a database of its own."""
    name = str(dictionary.provenance.name)
    unembedding = _unembedding(job.lm)
    memory.forget_peak()
    before = memory.peak() or 0
    clock = _Clock()
    gathered = gather(
        dictionary, job.store, split=SPLIT, latents=latents, fragments=job.fragments, progress=job.progress
    )
    clock.stop("gather")
    found = statistics(gathered, dictionary, unembedding)
    clock.stop("statistics")
    extra = (memory.peak() or 0) - before
    with FeatureDatabase.create(job.folder / f"{name}.sqlite") as database:
        corpus, body = _put(database, job, gathered, found, clock)
    seconds = clock.seconds
    total = seconds["gather"] + seconds["statistics"] + seconds["latents"]
    return {
        "name": name,
        "n_latents": len(gathered),
        "tokens": gathered.tokens,
        "fragments": len(job.fragments),
        "l0": float(np.sum(gathered.density)),
        "seconds": seconds,
        "total_seconds": total + seconds["corpus"],
        "processor_seconds": clock.processor,
        "latents_per_second": len(gathered) / total,
        "bytes_per_latent": body / len(gathered),
        "bytes_per_fragment": corpus / len(job.fragments),
        "extra_memory": extra,
        "disturbed": clock.foreign,
    }


def _put(
    database: FeatureDatabase, job: _Job, gathered: Gathered, found: Statistics, clock: "_Clock"
) -> tuple[int, int]:
    """Put a corpus and a dictionary; bytes by which the file grew for each."""
    empty = _size(database)
    database.put_corpus(job.fragments, job.lm.tokenizer)
    clock.stop("corpus")
    corpus = _size(database)
    with database.transaction():
        number = database.put_dictionary(gathered.name, gathered.method, gathered.site)
        database.put_latents(number, gathered, found)
    clock.stop("latents")
    return corpus - empty, _size(database) - corpus


def _size(database: FeatureDatabase) -> int:
    pages, size, free = (
        database.connection.execute(f"PRAGMA {key}").fetchone()[0]
        for key in ("page_count", "page_size", "freelist_count")
    )
    return (pages - free) * size


class _Clock:
    """Seconds of one stage after the other, and what other processes took of a core meanwhile."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begun, self._foreign, self._processor = time.perf_counter(), foreign_seconds(), time.process_time()

    def stop(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage], self._begun = now - self._begun, now

    @property
    def processor(self) -> float:
        """Seconds of all cores together that this process used: what a busy machine does not lengthen."""
        return time.process_time() - self._processor

    @property
    def foreign(self) -> float:
        """Share of a core."""
        return (foreign_seconds() - self._foreign) / max(sum(self.seconds.values()), 1e-9)


def _unembedding(lm: LanguageModel) -> torch.Tensor:
    head: Any = lm.module
    return head.get_output_embeddings().weight.detach().T


def _targets(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The two targets, judged only on work of the size they are stated for."""
    large = row["n_latents"] >= TARGET_LATENTS and row["tokens"] >= 0.95 * TARGET_TOKENS
    seconds = row["total_seconds"]
    return [
        {
            "name": f"seconds for {TARGET_LATENTS:,} latents over {TARGET_TOKENS:,} tokens",
            "target": TARGET_SECONDS,
            "measured": seconds,
            "met": seconds <= TARGET_SECONDS if large else None,
        },
        {
            "name": "bytes per latent",
            "target": TARGET_BYTES,
            "measured": row["bytes_per_latent"],
            "met": row["bytes_per_latent"] <= TARGET_BYTES if large else None,
        },
    ]

"""Harvesting: text through a model into an `ActivationStore`, restartable at any shard.

First the whole text is tokenised and packed, and its tokens are written: a text that is too short
fails before the model has run. Then the model reads one unit of contexts after another, while a
second thread writes the unit before. A line in `shards.jsonl` says that a shard is on disk, with the
checksums of its files; after an interruption, shards which match their line are not read again.
"""

import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..artifact import Draft, digest, drafting, load_tensors, read_json, start, write_json, write_tensors
from ..errors import ArtifactError, ConfigurationError, NumericalError, StorageError
from ..text import SPLITS, Text, Tokens
from .ledger import Ledger, intact, place
from .plan import Plan, Unit
from .reading import MASSIVE_RATIO, Reading, read_unit
from .store import COLUMNS, KIND, MOMENTS, SHARDS, ActivationStore, load_store, shard_name

if TYPE_CHECKING:
    from ..models import LanguageModel

Progress = Callable[[str, int, int], None]
_TOKEN_BYTES = 22  # ids, document, source, start, end as 32-bit numbers; bos, keep as bytes
_TOKENS = "tokens.json"


def harvest(
    model: "LanguageModel",
    text: Text,
    sites: Sequence[str],
    *,
    tokens: int | None,
    out: str | Path,
    context: int = 128,
    batch: int = 32,
    dtype: str = "float16",
    seed: int = 0,
    bos: str = "auto",
    massive: str = "keep",
    include_bos: bool = True,
    shard_tokens: int | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> ActivationStore:
    """Write the activations of `model` on `text` at `sites` to the directory `out`.

    `tokens` are read (None: the whole text) in contexts of `context` tokens, `batch` contexts at a
    time, split by document with `seed`. `dtype` is what is stored: float16, bfloat16 or float32.
    With `massive="drop"`, rows whose norm is above ten times the median norm of their site (in the
    first shard of the train split) at any site are left out; with `include_bos=False`, those of
    inserted BOS tokens. Both are counted in any case: see `ActivationStore.summary`. `shard_tokens`
    is the size of a shard and so of the work lost when interrupted.

    An interrupted harvest leaves `OUT.partial`; with `resume` it goes on at the first shard that is
    missing or damaged, and ends in the same bytes (on the same device and number of threads).

    Raises `ConfigurationError` or `SiteError` for settings that cannot work, `ArtifactError` when `out`
    holds something else, `StorageError` when the disk is or becomes full, `NumericalError` for
    activations that are not finite or overflow `dtype`.

    >>> import tempfile
    >>> from sparsescope.models import load_model
    >>> from sparsescope.text import load_text
    >>> model, text = load_model("builtin:tiny-random"), load_text("builtin:stories")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = harvest(model, text, ["resid_post.1"], tokens=20_000, out=folder + "/acts")
    ...     len(next(store.batches("resid_post.1", batch=256, seed=0)))
    256
    """
    plan = Plan.checked(
        model=model,
        text=text,
        sites=sites,
        tokens=tokens,
        context=context,
        batch=batch,
        dtype=dtype,
        seed=seed,
        bos=bos,
        massive=massive,
        include_bos=include_bos,
        shard_tokens=shard_tokens,
    )
    draft = start(out, KIND, plan.config(), seed, plan.inputs(), resume)
    if draft.done:
        return load_store(out, verify=False)  # `start` has verified it
    with drafting(draft):
        _check_space(draft.path, plan, tokens or 0)
        units = _write_text(plan, draft, progress)
        _check_space(draft.path, plan, sum(entry["contexts"] for entry in units) * context)
        entries = _write_rows(plan, draft, units, progress)
        return _finish(plan, draft, entries)


def _check_space(path: Path, plan: Plan, tokens: int) -> None:
    """Refuse before the work what the disk could not hold after it."""
    have = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    need = tokens * (plan.row_bytes() + _TOKEN_BYTES) - have
    free = shutil.disk_usage(path).free
    if need > free:
        raise StorageError(
            f"{tokens:,} tokens at {', '.join(plan.sites)} in {plan.dtype} need {_size(need)} more in "
            f"{path.parent}, which has {_size(free)} free: free some space, choose another --out, fewer tokens "
            "or sites, a 16-bit dtype, or stream the activations instead."
        )


def _size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def _write_text(plan: Plan, draft: Draft, progress: Progress | None) -> list[dict[str, Any]]:
    """Tokenise everything and write the token table. Returns one entry per unit, train first."""
    units = _tokenised_before(draft.path)
    if not units:
        try:
            units = sorted(_tokenised(plan, draft.path, progress), key=place)
            write_json(draft.path / _TOKENS, {"units": units, "sha256": digest(units)})
        except BaseException:  # an unfinished token table is quicker made again than taken up
            shutil.rmtree(draft.path / "tokens", ignore_errors=True)
            raise
    for entry in units:
        draft.entries.update(entry["files"])
    return units


def _tokenised_before(path: Path) -> list[dict[str, Any]]:
    """The entries of a token table that is whole on disk, else none."""
    if not (path / _TOKENS).is_file():
        return []
    try:
        index = read_json(path / _TOKENS)
    except ArtifactError:
        return []
    units = index.get("units", [])
    return units if index.get("sha256") == digest(units) and all(intact(path, entry) for entry in units) else []


def _tokenised(plan: Plan, path: Path, progress: Progress | None) -> Iterator[dict[str, Any]]:
    done = 0
    for unit in plan.units():
        columns = {column: getattr(unit.tokens, column) for column in COLUMNS}
        name = shard_name("tokens", unit.split, unit.shard)
        entry = write_tensors(path / name, {key: x if x.dtype == torch.bool else x.int() for key, x in columns.items()})
        yield {"split": unit.split, "shard": unit.shard, "contexts": len(unit.tokens), "files": {name: entry}}
        done += len(unit.tokens) * plan.context
        if progress:
            progress("tokenise", done, max(plan.tokens or 0, done))


def _read_text(path: Path, entry: dict[str, Any]) -> Unit:
    """A unit, back from the token table."""
    table = load_tensors(path / shard_name("tokens", entry["split"], entry["shard"]))
    columns = {column: x if x.dtype == torch.bool else x.long() for column, x in table.items()}
    split = torch.full((entry["contexts"],), SPLITS.index(entry["split"]))
    return Unit(entry["split"], entry["shard"], Tokens(**columns, split=split))


def _write_rows(
    plan: Plan, draft: Draft, units: list[dict[str, Any]], progress: Progress | None
) -> list[dict[str, Any]]:
    """Run the model over every unit that is not yet on disk. Returns one entry per unit, in order."""
    ledger = Ledger(draft.path / SHARDS)
    medians = ledger.entries[0]["median_norms"] if ledger.entries else None
    written = {place(entry) for entry in ledger.entries}
    total, done = sum(entry["contexts"] for entry in units) * plan.context, 0
    pending: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1, "shard-writer") as writer:  # leaving it waits for what was handed over
        for entry in units:
            if place(entry) not in written:
                reading = _read_rows(plan, draft, entry, medians, nothing_yet=not (written or pending))
                medians = reading.medians
                while len(pending) > 1:
                    pending.popleft().result()
                pending.append(writer.submit(_write_shard, draft.path, ledger, reading))
            done += entry["contexts"] * plan.context
            if progress:
                progress("harvest", done, total)
        for future in pending:
            future.result()
    ledger.rewrite()
    for entry in ledger.entries:
        draft.entries.update(entry["files"])
    return ledger.entries


def _read_rows(
    plan: Plan, draft: Draft, entry: dict[str, Any], medians: dict[str, float] | None, nothing_yet: bool
) -> Reading:
    """One unit through the model; when the very first one fails, the draft is of no use to anybody."""
    try:
        return read_unit(plan, _read_text(draft.path, entry), medians)
    except NumericalError:
        if nothing_yet:
            shutil.rmtree(draft.path)
        raise


def _write_shard(path: Path, ledger: Ledger, reading: Reading) -> None:
    """Write one unit's rows, then say so in the ledger. Runs in the writer's thread."""
    split, shard = reading.unit.split, reading.unit.shard
    table: dict[str, Tensor] = {"keep": reading.keep}
    files = {}
    for site, x in reading.rows.items():
        table[f"sum {site}"] = reading.sums[site]
        table[f"square {site}"] = torch.tensor(reading.squares[site], dtype=torch.float64)
        name = shard_name(site, split, shard)
        files[name] = write_tensors(path / name, {"x": x})
    name = shard_name("rows", split, shard)
    files[name] = write_tensors(path / name, table)
    ledger.add(
        {
            "split": split,
            "shard": shard,
            "contexts": len(reading.keep),
            "rows": int(reading.keep.sum()),
            "bos": reading.bos,
            "massive": reading.massive,
            "median_norms": reading.medians,
            "files": files,
        }
    )


def _finish(plan: Plan, draft: Draft, entries: list[dict[str, Any]]) -> ActivationStore:
    """Add up what the shards hold, and seal the store."""
    summary = _summary(plan, draft.path, entries)
    train = [entry for entry in entries if entry["split"] == "train"]
    if not summary["rows"]["train"]:
        raise ConfigurationError(
            f"every row of the train split is left out (of all splits {summary['left_out']:,}): "
            "give more text, or include_bos=True."
        )
    tables = [load_tensors(draft.path / shard_name("rows", "train", entry["shard"])) for entry in train]
    means = {}
    for site in plan.sites:
        count, width = summary["rows"]["train"], plan.model.width(site)
        means[site] = torch.stack([table[f"sum {site}"] for table in tables]).sum(0) / count
        mean_square = sum(table[f"square {site}"].item() for table in tables) / (count * width)
        massive = sum(entry["massive"][site] for entry in entries)
        median = entries[0]["median_norms"][site]
        summary["sites"][site] = {"width": width, "mean_square": mean_square, "median_norm": median, "massive": massive}
    draft.entries[MOMENTS] = write_tensors(draft.path / MOMENTS, means)
    return ActivationStore(draft.finish(summary=summary))


def _summary(plan: Plan, path: Path, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts per split. A massive row is one above `massive_ratio` times the median norm of its site."""
    counts = {name: dict.fromkeys(SPLITS, 0) for name in ("rows", "contexts", "documents")}
    documents: dict[str, set[int]] = {split: set() for split in SPLITS}
    tokens = 0
    for entry in entries:
        split = entry["split"]
        document = load_tensors(path / shard_name("tokens", split, entry["shard"]))["document"]
        documents[split].update(document.unique().tolist())
        tokens += int((document >= 0).sum())
        counts["rows"][split] += entry["rows"]
        counts["contexts"][split] += entry["contexts"]
    for split, seen in documents.items():
        counts["documents"][split] = len(seen - {-1})
    return {
        **counts,
        "tokens": tokens,
        "padding": sum(counts["contexts"].values()) * plan.context - tokens,
        "bos": sum(entry["bos"] for entry in entries),
        "left_out": tokens - sum(counts["rows"].values()),
        "massive_ratio": MASSIVE_RATIO,
        "sites": {},
    }

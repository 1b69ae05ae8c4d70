"""Text from files, directories and hubs."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..artifact import checksum
from ..errors import ConfigurationError
from .document import Document, Text, text_digest

SUFFIXES = (".txt", ".jsonl", ".parquet")
TEXT_COLUMN = "text"


def read_files(paths: Sequence[str | Path]) -> Text:
    """Documents of `.txt` (one each), `.jsonl` and `.parquet` files (one a row, column "text").

    A directory stands for every such file below it, in the order of their names. Raises
    `ConfigurationError` for what is missing, empty, of another kind, not UTF-8, or may not be read.
    """
    files = [file for path in paths for file in _expand(Path(path))]
    fingerprints = [_fingerprint(file) for file in files]
    empty = [str(file) for file in files if file.stat().st_size == 0]
    if empty:
        raise ConfigurationError(f"{', '.join(empty)} is empty: expected text. Remove it from the request, or fill it.")
    name = ", ".join(str(path) for path in paths)
    fingerprint = text_digest(
        *(part for file, found in zip(files, fingerprints, strict=True) for part in (file.name, found))
    )
    return Text(name, fingerprint, lambda: (document for file in files for document in _read(file)))


def _fingerprint(file: Path) -> str:
    try:
        return checksum(file)
    except OSError as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"{file} cannot be read: {error.strerror or error}. Expected a file that you may read: check its permissions."
    )


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
        if not found:
            raise ConfigurationError(f"{path} holds no text: expected files ending in {', '.join(SUFFIXES)}.")
        return found
    if path.suffix not in SUFFIXES:
        raise ConfigurationError(
            f"{path} is not a text file: expected one ending in {', '.join(SUFFIXES)}, or a directory of such."
        )
    if not path.is_file():
        raise ConfigurationError(f"{path} does not exist: expected a text file or a directory. Check the path.")
    return [path]


def _read(file: Path) -> Iterator[Document]:
    try:
        if file.suffix == ".txt":
            yield Document(file.read_text(encoding="utf-8"), source=str(file))
        elif file.suffix == ".jsonl":
            yield from _read_jsonl(file)
        else:
            yield from _read_parquet(file)
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{file} is not UTF-8 text ({error.reason} at byte {error.start}): convert it first."
        ) from None
    except OSError as error:
        raise _unreadable(file, error) from None


def _read_jsonl(file: Path) -> Iterator[Document]:
    with open(file, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ConfigurationError(f"{file} line {number} is not JSON: {error}.") from None
            yield Document(_text_of(row, f"{file} line {number}"), source=f"{file}:{number}")


def _read_parquet(file: Path) -> Iterator[Document]:
    try:
        import pyarrow.parquet as parquet
        from pyarrow import ArrowInvalid
    except ImportError:
        raise ConfigurationError(f"reading {file} needs pyarrow: pip install 'sparsescope[hub]'.") from None
    try:
        table = parquet.ParquetFile(file)
    except ArrowInvalid as error:
        raise ConfigurationError(f"{file} is not a Parquet file: {error}.") from None
    if TEXT_COLUMN not in table.schema_arrow.names:
        raise ConfigurationError(
            f"{file} has no column {TEXT_COLUMN!r}: it has {', '.join(table.schema_arrow.names)}. Rename one."
        )
    number = 0
    for batch in table.iter_batches(columns=[TEXT_COLUMN]):
        for value in batch.column(0).to_pylist():
            yield Document(_text_of({TEXT_COLUMN: value}, f"{file} row {number}"), source=f"{file}:{number}")
            number += 1


def _text_of(row: Any, where: str) -> str:
    if not isinstance(row, dict) or not isinstance(row.get(TEXT_COLUMN), str):
        raise ConfigurationError(f"{where} has no text: expected an object with a string under {TEXT_COLUMN!r}.")
    return row[TEXT_COLUMN]


def read_hub(spec: str) -> Text:
    """A `datasets` hub id, streamed: `ID`, `ID:SPLIT` or `ID:CONFIG:SPLIT` (split "train" by default).

    A local directory in the format of `datasets` is read the same way. Raises `ConfigurationError`
    when it cannot be loaded or has no column "text".
    """
    try:
        import datasets
    except ImportError:
        raise ConfigurationError(
            f"--text {spec!r} is no file here, and reading it from a hub needs: pip install 'sparsescope[hub]'."
        ) from None
    name, *rest = spec.split(":")
    split = rest[-1] if rest else "train"
    config = rest[0] if len(rest) == 2 else None
    try:
        stream = datasets.load_dataset(name, config, split=split, streaming=True)
        first = next(iter(stream), None)
    except Exception as error:  # whatever the hub client raises: it has no common base
        raise ConfigurationError(
            f"--text {spec!r} is neither a file nor a directory here, and the hub did not give it: {error}. "
            "Check the name (ID, ID:SPLIT or ID:CONFIG:SPLIT) and the network."
        ) from None
    if first is None or not isinstance(first.get(TEXT_COLUMN), str):
        raise ConfigurationError(
            f"{spec} has no text column {TEXT_COLUMN!r}: it has {', '.join(first or ['nothing'])}."
        )
    version = str(getattr(stream.info, "version", "")) + str(getattr(stream.info, "download_checksums", ""))

    def read() -> Iterator[Document]:
        for number, row in enumerate(stream):
            yield Document(_text_of(row, f"{spec} row {number}"), source=f"{spec}:{number}")

    return Text(spec, text_digest(spec, version, first[TEXT_COLUMN]), read)

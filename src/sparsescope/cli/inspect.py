"""`sparsescope inspect`: what is in this directory, and is it whole?"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..artifact import MANIFEST, PLAN, Artifact, open_artifact, partial_path, read_json, write_json
from ..study.directory import KIND as RUN
from ..study.directory import dictionary_paths, open_run, parts
from .console import Console, size, table
from .options import InspectOptions


def run_the_inspection(options: InspectOptions, console: Console, command: str) -> None:
    """Print what an artifact holds. Raises `ArtifactError` when it is none, or is damaged."""
    path = Path(options.path)
    if not (path / MANIFEST).is_file() and (plan := _plan_of(path)) is not None:
        facts = {"path": str(path), "finished": False, **read_json(plan)}
        verdict = f"{path} is unfinished: run the command that makes it again with --resume"
    else:
        artifact = open_run(path, options.verify) if _is_run(path) else open_artifact(path, verify=options.verify)
        facts = {"path": str(path), "finished": True, "verified": options.verify, **_facts(artifact)}
        verdict = "every file has the checksum it was written with" if options.verify else "checksums were not compared"
    if options.out is not None:
        write_json(Path(options.out) / "inspect.json", facts)
    shown = {key: value for key, value in facts.items() if key not in ("dictionaries", "finished", "verified", "run")}
    console.result(facts, table(["what", "value"], list(_lines(shown))), *_contents(facts), f"\n{verdict}")


def _plan_of(path: Path) -> Path | None:
    """The plan of unfinished work: of OUT.partial itself, or of the one that OUT would become."""
    return next((each / PLAN for each in (path, partial_path(path)) if (each / PLAN).is_file()), None)


def _is_run(path: Path) -> bool:
    return open_artifact(path, verify=False).kind == RUN


def _facts(artifact: Artifact) -> dict[str, Any]:
    """The manifest, with its files summed up, and the dictionaries that it stands for."""
    found = {key: value for key, value in artifact.manifest.items() if key != "files"}
    found["fingerprint"] = artifact.fingerprint
    inside = parts(artifact.path) if artifact.kind == RUN else []
    files = [entry for each in (artifact, *map(_open, inside)) for entry in each.manifest["files"].values()]
    found["files"], found["bytes"] = len(files), sum(entry["bytes"] for entry in files)
    if artifact.kind in (RUN, "dictionaries"):
        found["dictionaries"] = [_dictionary(path) for path in dictionary_paths(artifact.path)]
    return found


def _open(path: Path) -> Artifact:
    return open_artifact(path, verify=False)


def _dictionary(path: Path) -> dict[str, Any]:
    known = _open(path).manifest["dictionary"]
    return {**known["provenance"], "path": str(path), "method": known["method"], "settings": known["settings"]}


def _lines(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested facts as `a.b.c` and a text. What is unset, and what is empty, is left out."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _lines(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for place, item in enumerate(value):
            yield from _lines(item, f"{name}[{place}]")
    elif value not in (None, [], ""):
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        fingerprint = re.fullmatch(r"[0-9a-f]{64}.*", text)
        yield name, size(value) if name == "bytes" else f"{text[:12]}…" if fingerprint else text


def _contents(facts: Mapping[str, Any]) -> list[Any]:
    """The dictionaries in a container or a run."""
    found = facts.get("dictionaries")
    if not found:
        return []
    rows = [[each["path"], each["method"], str(each["name"]), _where(each)] for each in found]
    return ["", table(["dictionary", "method", "name", "site"], rows)]


def _where(dictionary: Mapping[str, Any]) -> str:
    """Its site; of a transcoder, both."""
    output = dictionary.get("output_site")
    return str(dictionary["site"]) if output is None else f"{dictionary['site']} → {output}"

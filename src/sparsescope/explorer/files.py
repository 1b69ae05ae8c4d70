"""The styles and scripts of the pages: small files that ship with the package, held in memory."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .. import report

HERE = Path(__file__).parent
TEMPLATES = HERE / "templates"
_ASSETS, _REPORT = HERE / "assets", Path(report.__file__).parent
_KINDS = {".css": "text/css", ".js": "text/javascript"}
_OF_THE_REPORT = ("page.css", "case.css")  # the palette and the figures' styles are those of the report


@dataclass(frozen=True)
class AssetFile:
    """A style sheet or script. `version` changes with its content."""

    name: str
    body: bytes
    kind: str
    version: str


@cache
def asset_files() -> dict[str, AssetFile]:
    """Every style sheet and script by its name, such as "explorer.css". Nothing else can be asked for."""
    paths = [*(_REPORT / name for name in _OF_THE_REPORT), *sorted(_ASSETS.iterdir())]
    found = {}
    for path in paths:
        if path.suffix in _KINDS:
            body = path.read_bytes()
            version = hashlib.sha256(body).hexdigest()[:12]
            found[path.name] = AssetFile(path.name, body, f"{_KINDS[path.suffix]}; charset=utf-8", version)
    return found

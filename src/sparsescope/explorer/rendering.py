"""A page as HTML: templates, the filters they use, and text that cannot become anything but text.

Every value is escaped. Besides, control characters and marks that turn the direction of writing are made visible in
the finished page, wherever they stand, so that no template can forget them.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import SparsescopeError
from ..report import words
from .explored import Explored
from .files import TEMPLATES
from .links import Links

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

HEAT = 20
"""Levels of the colour scale: the classes a1 to a20, and n1 to n20 for negative values."""
TOKEN = 60
"""Characters of a token that are shown."""
STYLES, SCRIPTS = ("page.css", "explorer.css"), ("keys.js",)
STATIC_POLICY = (
    "default-src 'none'; script-src 'self' file:; style-src 'self' file:; img-src 'self' data: file:; "
    "form-action 'self' file:; base-uri 'none'"
)
"""The policy of pages that are files: their scripts and styles may lie beside them, nothing else is loaded."""
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]")


@dataclass(frozen=True)
class Page:
    """What a page shows: a template with its values, and the scripts and styles it needs beside everybody's.

    `rows` names dictionaries by slug, whose rows a page without a server behind it needs (see `Links.rows`).
    """

    template: str
    title: str
    section: str
    values: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    scripts: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()


def render(page: Page, explored: Explored, links: Links, token: str | None = None) -> str:
    """The HTML of a page. `token` is what its scripts have to send with a POST, None where there is no server.

    In templates: the page's values by name, `links`, `explored`, `page`, and the filters of this module.
    """
    template = environment().get_template(page.template)
    try:
        run_title = explored.title
    except SparsescopeError:  # the page that says what is wrong with the run needs a title too
        run_title = explored.path.resolve().name
    shared = {"page": page, "explored": explored, "links": links, "token": token, "run_title": run_title}
    frame = {"base_styles": STYLES, "base_scripts": SCRIPTS, "static_policy": STATIC_POLICY, "version": __version__}
    text = template.render({**page.values, **frame, **shared, "sections": sections(explored, links)})
    return visible(text)


def sections(explored: Explored, links: Links) -> list[tuple[str, str, str]]:
    """The pages that every page links to: section, name and address. Their first letters are keys."""
    found = [("run", "Run", links.run()), ("search", "Search", links.search()), ("compare", "Compare", links.compare())]
    if explored.circuits():
        found.append(("circuit", "Circuits", links.circuit()))
    if links.live:
        found.append(("prompt", "Prompt", links.prompt()))
    return found


@cache
def environment() -> "Environment":
    """Where templates come from: everything escaped, nothing undefined."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, auto_reload=False,
    )  # fmt: skip
    made.filters.update(
        number=number,
        percent=percent,
        interval=interval,
        estimate=estimate,
        token=token_mark,
        token_text=token_text,
        level=level,
    )
    return made


def visible(text: str) -> str:
    """Text with control characters and marks that turn the writing made visible, as `report.words.escape` does.

    Line ends and tabs stay; an unpaired surrogate becomes '?'.
    """
    return _HIDDEN.sub(_seen, text)


def _seen(found: "re.Match[str]") -> str:
    character = found.group()
    shown = words.escape(character)
    return f"⟨U+{ord(character):04X}⟩" if shown == character else shown


def number(value: float | None, digits: int = 3) -> str:
    """See `report.words.number`; '–' for what is not finite too."""
    return words.number(value if value is not None and math.isfinite(value) else None, digits)


def percent(share: float | None) -> str:
    """See `report.words.percent`; '–' for an unknown share."""
    return words.percent(share) if share is not None and math.isfinite(share) else "–"


def interval(value: Mapping[str, Any] | None, digits: int = 3) -> str:
    """'[low, high]' of an estimate; see `report.words.interval`."""
    return words.interval(value, digits)


def estimate(value: Mapping[str, Any] | None, digits: int = 3) -> str:
    """An estimate with its interval.

    >>> estimate({"value": 0.612, "low": 0.55, "high": 0.67, "n": 40, "unit": "document"}, 2)
    '0.61 [0.55, 0.67]'
    """
    if value is None:
        return "–"
    return f"{number(value['value'], digits)} {interval(value, digits)}".strip()


def token_text(text: str, longest: int = TOKEN) -> str:
    """A token as plain text: white space at its ends made visible, line ends and tabs everywhere, cut if very long.

    >>> token_text(" word"), token_text("\\n"), token_text("x" * 100, 5)
    ('·word', '⏎', 'xxxxx…')
    """
    cut = text[: longest + 1].replace("\n", "⏎").replace("\r", "␍").replace("\t", "→")
    core = cut.strip(" ")
    if not core:
        shown = "·" * len(cut)
    else:
        before = len(cut) - len(cut.lstrip(" "))
        shown = "·" * before + core + "·" * (len(cut) - before - len(core))
    return shown[:longest] + ("…" if len(text) > longest else "")


def token_mark(text: str, longest: int = TOKEN) -> "Markup":
    """A token for a page: as `token_text`, kept apart from the direction of the text around it."""
    from markupsafe import Markup

    shown = token_text(text, longest)
    if len(text) > longest:
        whole = f"a token of {len(text):,} characters"
        return Markup('<bdi class="token" title="{}">{}</bdi>').format(whole, shown)
    return Markup('<bdi class="token">{}</bdi>').format(shown)


def level(value: float | None, maximum: float | None) -> int:
    """How strong a value is beside the largest, in levels of the colour scale: 0 for none, 1 to 20 for any other size.

    >>> level(0.0, 4.0), level(0.001, 4.0), level(2.0, 4.0), level(-4.0, 4.0), level(9.0, 4.0)
    (0, 1, 10, 20, 20)
    """
    if value is None or not maximum or not math.isfinite(value) or not math.isfinite(maximum) or maximum < 0:
        return 0
    return 0 if value == 0 else max(1, min(HEAT, math.ceil(HEAT * abs(value) / maximum)))

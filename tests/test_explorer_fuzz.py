"""Any parameter on any page of a run whose every text is hostile: an answer, or a clean refusal; text stays text."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from explorer_asking import ask
from explorer_browser import LATENTS, hostile_run  # noqa: F401
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsescope.errors import ModelError
from sparsescope.explorer.app import PAGES, make_app
from sparsescope.explorer.explored import Explored
from sparsescope.explorer.live.lab import Lab
from sparsescope.explorer.security import guard_for

_ELEMENTS = """
html head meta title link script body a header div nav form input kbd button main footer p dialog h1 h2 h3 h4
dl dt dd section span b i bdi small table thead tbody tfoot tr th td ol ul li pre code details summary label
select option textarea strong em abbr figure figcaption caption colgroup col fieldset legend output progress
noscript mark time article aside sup sub hr br optgroup template meter datalist svg g path circle rect line
polyline polygon text tspan title desc defs use ellipse clippath lineargradient stop q
"""
_ATTRIBUTES = """
lang charset name content http-equiv rel href defer src class id title type value placeholder role action
method autocomplete spellcheck maxlength hidden scope colspan rowspan for checked selected disabled readonly
rows cols min max step open start tabindex width height label required list multiple pattern inputmode enctype
dir download autofocus minlength low high optimum size novalidate datetime viewbox d x y x1 y1 x2 y2 cx cy r
rx ry points transform preserveaspectratio dx dy fill stroke stroke-width stroke-dasharray text-anchor
dominant-baseline focusable xmlns opacity clip-path patternunits stroke-linecap stroke-linejoin fill-opacity
stroke-opacity offset stop-color stop-opacity gradientunits font-size font-weight pathlength
"""
ELEMENTS, ATTRIBUTES = set(_ELEMENTS.split()), set(_ATTRIBUTES.split())
_VALUES = """
0 1 -1 59 60 99999999999999999999 1e309 nan ٣ ' " % * ?* -a x*y </p> {{7*7}} 🙂 \u202e ../../etc/passwd
<script>alert(1)</script> token:* token:" token:")" token:*ing words:capital label: dictionary:x f1> f1>=0.1
effect<1e400 score>nan words:\0 score density latent effect desc asc dead dense explained all active closest
"""
_NAMES = """
q page sort order show y first second dictionary text rule kind scope limit descending density score low high by mode
split n offset apart of token q[] pos latent in what quantile explainer against node where \0
"""
NASTY = [
    *_VALUES.split(),
    "",
    "a\0b",
    "\ud800",
    "'; DROP TABLE cards;--",
    "NEAR(a b)",
    "a OR b",
    "x" * 3000,
    "🙂" * 400,
]
NASTY += ["density<0.5 score>=", "maximum>1 density<1 token:the"]
NAMES = _NAMES.split()


class Structure(HTMLParser):
    """Every element and attribute of a page, and all its text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.inside = ""
        self.scripts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts.append(data)


def check_page(text: str) -> None:
    """A page holds the elements and attributes of our templates alone, links to nothing foreign, runs no text."""
    found = Structure(text)
    assert found.elements <= ELEMENTS, found.elements - ELEMENTS
    for tag, name, value in found.attributes:
        assert name in ATTRIBUTES or name.startswith(("data-", "aria-")), (tag, name, value[:100])
        if name in ("href", "src", "action"):
            assert value.startswith(("/", "#", "data:,", "../", "?")) or (value[:1].isalnum() and ":" not in value), (
                value
            )
            assert not value.startswith(("//", "/\\")), value
    for script in found.scripts:
        json.loads(script)  # data for our scripts; code is never in a page
    assert not set(map(ord, text)) & {*range(9), *range(11, 32), 127, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}


@pytest.fixture(scope="module")
def app(hostile_run: Path) -> Any:  # noqa: F811
    return make_app(Explored(hostile_run), guard_for("127.0.0.1", 8000, None))


@pytest.fixture(scope="module")
def live(hostile_run: Path) -> tuple[Any, str]:  # noqa: F811
    """The application with live parts whose model is gone, and the token of its pages."""
    guard = guard_for("127.0.0.1", 8000, None)
    return make_app(Explored(hostile_run), guard, Lab(_no_model)), guard.page_token


@pytest.fixture(scope="module")
def slugs(hostile_run: Path) -> list[str]:  # noqa: F811
    found = Explored(hostile_run)
    return [found.slug(shelf.id) for shelf in found.shelves()]


texts = st.sampled_from(NASTY) | st.text(max_size=30) | st.integers(-5, 70).map(str) | st.floats().map(str)
queries = st.dictionaries(st.sampled_from(NAMES), texts, max_size=4)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_no_parameter_breaks_a_page(app: Any, slugs: list[str], data: st.DataObject) -> None:
    route = data.draw(st.sampled_from([*PAGES]))
    parts = {
        "slug": slugs,
        "first": slugs,
        "second": slugs,
        "latent": [str(number) for number in range(60)],
        "task": ["ioi"],
    }
    for name, usual in parts.items():
        if f"{{{name}}}" in route:
            part = data.draw(st.sampled_from(usual) | texts)
            route = route.replace(f"{{{name}}}", quote(part, safe="", errors="replace"))
    query = urlencode(data.draw(queries), errors="replace")
    answer = ask(app, f"{route}?{query}")
    assert answer.status == 200 or 400 <= answer.status < 500, (route, query, answer.status, answer.text[-3000:])
    check_page(answer.text)


def _no_model() -> Any:
    raise ModelError("the model is gone")


values = st.none() | st.booleans() | st.integers() | st.floats() | texts
fields = st.sampled_from(["dictionary", "text", "position", "edits", "latent", "amount", "new_tokens", "limit", "\0"])
bodies = st.dictionaries(fields, values | st.lists(values, max_size=2) | st.dictionaries(fields, values, max_size=2))


@settings(max_examples=60, deadline=None)
@given(
    path=st.sampled_from(["load", "read", "effects", "change", "steer", "example", "status", "nothing"]),
    body=bodies.map(lambda value: json.dumps(value).encode("ascii")) | st.binary(max_size=40),
    known=st.booleans(),
)
def test_no_request_breaks_the_live_parts(live: tuple[Any, str], path: str, body: bytes, known: bool) -> None:
    app, token = live
    answer = ask(app, f"/api/{path}", "POST", {"X-Sparsescope-Token": token if known else "x"}, body)
    assert answer.status in ((200, 400, 404, 409) if known else (403,)), (path, body, answer)


def test_hostile_text_is_shown_as_text_on_every_page(app: Any, slugs: list[str]) -> None:
    first, second = slugs[:2]
    addresses = [
        "/",
        "/search",
        "/compare",
        "/circuit",
        "/prompt",
        f"/compare/{first}/{second}",
        f"/dictionary/{first}",
    ]
    addresses += [f"/dictionary/{slug}/latent/{latent}" for slug in (first, second) for latent in range(0, 60, 5)]
    addresses += [
        f"/search?q={quote(word)}" for word in ("<script>", "alert", "onerror", "x", "reversed", "שלום", "👩")
    ]
    seen = ""
    for address in addresses:
        answer = ask(app, address)
        assert answer.status == 200, (address, answer.text[-3000:])
        check_page(answer.text)
        seen += answer.text
    for shown in ("&lt;script&gt;alert(1)&lt;/script&gt;", "⟨U+202E⟩", "{{ 7 * 7 }}", "a␀b", "שלום", "👩‍👩‍👧‍👦"):
        assert shown in seen, shown
    assert "x" * 2_000 not in seen  # of the token of 100,000 characters

"""A prepared run, a server over it and a browser: made once per session, for every test that looks at pages.

from explorer_browser import browser, explored_run, served, visit  # noqa: F401

def test_something(visit):
    page = visit("/", width=390)
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from sparsescope.explorer.live.lab import Lab
    from sparsescope.explorer.serving import ExplorerServer

CHROMIUM = "/usr/bin/chromium"
LATENTS = 60
Visit = Callable[..., "Page"]
_SHARED: dict[str, Any] = {}


@contextmanager
def _once(name: str, make: Callable[[], AbstractContextManager[Any]]) -> Iterator[Any]:
    """What `make` gives, made once: every test module that imports a fixture of the session has one of its own."""
    if name in _SHARED:
        yield _SHARED[name]
        return
    with make() as value:
        _SHARED[name] = value
        try:
            yield value
        finally:
            del _SHARED[name]


@contextmanager
def _chromium() -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        launched = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


@contextmanager
def _made(folder: Path, hostile: bool) -> Iterator[Path]:
    from sparsescope.bench.explored_run import make_run

    yield make_run(folder, latents=LATENTS, hostile=hostile)


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """Debian's Chromium."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).is_file():
        pytest.skip(f"there is no {CHROMIUM}: install Debian's chromium to run the tests of the pages")
    with _once("browser", _chromium) as launched:
        yield launched


@pytest.fixture(scope="session")
def explored_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A prepared run, two dictionaries of 60 latents with known truth: see `bench.explored_run`. Only read it."""
    with _once("run", lambda: _made(tmp_path_factory.mktemp("explored") / "run", False)) as path:
        yield path


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same with every nasty text in its tokens, explanations and names."""
    with _once("hostile", lambda: _made(tmp_path_factory.mktemp("explored") / "hostile", True)) as path:
        yield path


@contextmanager
def serving(run: Path, lab: "Lab | None" = None, **address: Any) -> "Iterator[ExplorerServer]":
    """A server over a run, in a thread of its own, on a free port."""
    from sparsescope.explorer.explored import Explored
    from sparsescope.explorer.serving import ExplorerServer

    with ExplorerServer(Explored(run), lab, **address) as server:
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        deadline = time.monotonic() + 20
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.started, "the server did not start"
        try:
            yield server
        finally:
            server.stop()
            thread.join(20)


@pytest.fixture(scope="session")
def served(explored_run: Path) -> "Iterator[ExplorerServer]":
    """The server of `explored_run`, without a model: its `url` ends in a slash."""
    with _once("served", lambda: serving(explored_run)) as server:
        yield server


@pytest.fixture
def visit(browser: "Browser", served: "ExplorerServer") -> Iterator[Visit]:
    """`visit(path, width=1280)`: a page of `served`; see `visiting`."""
    with visiting(browser, served.url) as go:
        yield go


@contextmanager
def visiting(browser: "Browser", base: str) -> Iterator[Visit]:
    """`visit(path, width=1280, dark=False, offline=False)` opens a page below `base` in a browser of its own.

    When all is done it fails for every error in a console or on a page, and for every request to another host.
    A page that is meant to answer 404 says so with `status=404`.
    """
    contexts, wrong = [], []
    home = urlsplit(base)[:2]

    def foreign(url: str) -> bool:
        parts = urlsplit(url)
        return parts.scheme not in ("data", "blob", "about") and parts[:2] != home

    def go(
        path: str = "/", width: int = 1280, *, dark: bool = False, offline: bool = False, status: int = 200
    ) -> "Page":
        height = 900 if width > 600 else 844
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", offline=offline
        )
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        expected = f"status of {status}"
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" and expected not in m.text else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda asked: wrong.append(f"asked {asked.url}") if foreign(asked.url) else None)
        answer = page.goto(base.rstrip("/") + "/" + path.lstrip("/"))
        assert answer is None or not base.startswith("http") or answer.status == status, (path, answer)
        return page

    yield go
    for context in contexts:
        context.close()
    assert not wrong, wrong

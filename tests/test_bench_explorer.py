"""The benchmark of the explorer runs, counts what goes wrong, and judges its targets only at their size."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sparsescope.bench.explored_run import make_run
from sparsescope.bench.explorer import measure_explorer, pages_of, targets
from sparsescope.bench.explorer_clients import browse, kind_of, links_of
from sparsescope.bench.explorer_painting import chromium, measure_paint
from sparsescope.bench.explorer_queries import queries
from sparsescope.errors import ConfigurationError


def test_a_small_run_measures_everything(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", latents=60)
    found = measure_explorer(latents=60, clients=4, seconds=0.5, think=0.02, repeats=1, paint=False, run=run)
    assert json.loads(json.dumps(found)) == found
    assert [row["query"] for row in found["queries"]] == list(queries(60))
    assert {row["page"]: row["path"] for row in found["answers"]} == dict(pages_of(60))
    assert all(0 < row["median"] <= row["worst"] for row in [*found["queries"], *found["answers"]])
    seen = found["visitors"]
    assert (seen["errors"], seen["what"]) == (0, [])
    assert seen["requests"] == sum(seen["kinds"].values()) >= 4
    assert set(seen["kinds"]) <= {"run", "dictionary", "latent", "search", "compare", "circuit", "prompt"}
    assert 0 < seen["median"] <= seen["p99"] <= seen["worst"]
    assert [target["met"] for target in found["targets"]] == [None, None, None, None, True]


@pytest.fixture
def broken() -> Iterator[str]:
    """A server whose every other answer is an error, and every fourth none at all."""
    asked: list[str] = []

    class Broken(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if len(asked) % 4 == 3:
                self.connection.close()
                return
            body = b'<a href="/search?q=1">'
            self.send_response(500 if len(asked) % 2 == 0 else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *what: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_errors_of_a_server_are_counted(broken: str) -> None:
    found = browse(broken, 1, 0.3, think=0.01)
    assert found["requests"] > 8
    expected = sum(number % 4 in (0, 2, 3) for number in range(1, found["requests"] + 1))
    assert found["errors"] == expected
    assert any(": 500" in what for what in found["what"])
    assert set(found["kinds"]) <= {"run", "search"}


def test_only_links_of_the_server_itself_are_followed() -> None:
    page = """<a href="/">x</a> <a class='a' href="/search?q=%22&amp;by=rule#top">y</a> <a href="//evil/">z</a>
    <a href="https://example.org/">z</a> <link href="/asset/a.css"> <a href="/asset/b">z</a> <a href="#here">z</a>"""
    assert links_of(page) == ["/", "/search?q=%22&by=rule"]
    addresses = ("/", "/dictionary/a", "/dictionary/a/latent/3?x=1", "/compare/a/b")
    assert [kind_of(path) for path in addresses] == ["run", "dictionary", "latent", "compare"]


def test_targets_are_judged_at_their_size() -> None:
    found = {
        "memory": {"end": {"peak": 299_000_000}},
        "visitors": {"clients": 50, "seconds": 60.0, "errors": 1},
        "paint": [{"cold": {"median": 310.0}, "warm": {"median": 90.0}}],
        "queries": [{"median": 99.0}, {"median": 3.0}],
        "answers": [{"median": 101.0}],
    }
    assert [target["met"] for target in targets(found, 100_000)] == [False, True, False, True, False]
    assert [target["met"] for target in targets(found, 1_000)] == [None, None, None, None, False]


def test_paint_is_measured_in_a_browser(tmp_path: Path) -> None:
    try:
        chromium()
    except ConfigurationError as missing:
        pytest.skip(str(missing))
    page = tmp_path / "page.html"
    page.write_text("<p>hello</p>")
    with ThreadPoolExecutor(1) as apart:  # the browser of other tests has an event loop running in this thread
        found = apart.submit(measure_paint, page.as_uri(), {"page": ""}, 1, page).result()
    assert [(row["page"], row["cold"]["n"], row["warm"]["n"]) for row in found] == [("page", 1, 1)]
    assert all(0 < row[kind]["median"] < 5000 for row in found for kind in ("cold", "warm"))

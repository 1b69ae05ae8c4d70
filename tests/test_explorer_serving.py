"""Who is answered and how: hosts, tokens, other sites, HEAD, assets; and runs that cannot be read."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from explorer_asking import HOST, ask
from explorer_browser import Visit, browser, explored_run, served, visit  # noqa: F401

from sparsescope.errors import ConfigurationError
from sparsescope.explorer.app import make_app
from sparsescope.explorer.explored import Explored, slugs_of
from sparsescope.explorer.files import asset_files
from sparsescope.explorer.links import ServedLinks, StaticLinks
from sparsescope.explorer.query import BadRequest, choice, integer, number, text
from sparsescope.explorer.rendering import level, token_mark, visible
from sparsescope.explorer.security import HEADERS, LARGEST, Guard, Guarded, guard_for
from sparsescope.explorer.serving import ExplorerServer

SECRET = "a-token-of-some-length"


@pytest.fixture(scope="module")
def guard() -> Guard:
    return guard_for("127.0.0.1", 8000, None)


@pytest.fixture(scope="module")
def app(explored_run: Path, guard: Guard) -> Any:  # noqa: F811
    return make_app(Explored(explored_run), guard)


async def _yes(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers everything."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


def guarded(guard: Guard) -> Guarded:
    return Guarded(_yes, guard)


@pytest.mark.parametrize(
    "address", ["/", "/search?q=the", "/nothing", "/asset/keys.js", "/asset/nothing.js", "/compare"]
)
def test_head_answers_as_get_without_a_body(app: Any, address: str) -> None:
    get, head = ask(app, address), ask(app, address, "HEAD")
    assert (head.status, head.headers, head.body) == (get.status, get.headers, b"")
    assert int(get.headers["content-length"]) == len(get.body) > 0
    assert HEADERS.items() <= get.headers.items()


def test_pages_are_sent_compressed_where_that_is_understood(app: Any) -> None:
    plain, packed = ask(app, "/"), ask(app, "/", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert len(packed.body) < len(plain.body) / 2


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:8000", 200), ("LOCALHOST:8000", 200), ("localhost", 403), ("evil.example:8000", 403), ("", 403)],
)
def test_only_our_own_host_is_answered(guard: Guard, host: str, status: int) -> None:
    assert ask(guarded(guard), headers={"Host": host}).status == status


def test_browsers_leave_the_usual_port_out() -> None:
    assert ask(guarded(guard_for("127.0.0.1", 80, None)), headers={"Host": "127.0.0.1"}).status == 200


CROSS = {"Sec-Fetch-Site": "cross-site"}


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 200),
        ("GET", {**CROSS, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200),
        ("GET", {**CROSS, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, 403),
        ("GET", {**CROSS, "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, 403),
        ("GET", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}, 403),
        ("PUT", {}, 405),
        ("DELETE", {}, 405),
        ("POST", {}, 403),
        ("POST", {"X-Sparsescope-Token": "wrong"}, 403),
        ("POST", {"X-Sparsescope-Token": "RIGHT"}, 200),
        ("POST", {"X-Sparsescope-Token": "RIGHT", "Origin": f"http://{HOST}", "Sec-Fetch-Site": "same-origin"}, 200),
        ("POST", {"X-Sparsescope-Token": "RIGHT", "Origin": "http://evil.example"}, 403),
        ("POST", {"X-Sparsescope-Token": "RIGHT", "Origin": "null"}, 403),
        ("POST", {"X-Sparsescope-Token": "RIGHT", **CROSS}, 403),
        ("POST", {"X-Sparsescope-Token": "RIGHT", "Content-Length": str(LARGEST + 1)}, 413),
        ("POST", {"X-Sparsescope-Token": "RIGHT", "Content-Length": "many"}, 411),
    ],
)
def test_requests_of_other_sites_are_refused(guard: Guard, method: str, headers: dict[str, str], status: int) -> None:
    given = {name: guard.page_token if value == "RIGHT" else value for name, value in headers.items()}
    answer = ask(guarded(guard), "/path", method, given)
    assert answer.status == status
    assert HEADERS.items() <= answer.headers.items()


def test_the_token_of_the_pages_is_in_the_pages_alone(app: Any, guard: Guard) -> None:
    assert f'<meta name="token" content="{guard.page_token}">' in ask(app, "/search").text
    refused = ask(app, "/", headers={"Host": "evil.example"}).text
    assert refused == "This server answers to its own address only: use the one that was printed at its start.\n"


def test_other_machines_need_the_token() -> None:
    application = guarded(guard_for("0.0.0.0", 8000, SECRET))
    assert ask(application, "/").status == 403
    assert ask(application, "/?token=wrong").status == 403
    first = ask(application, f"/search?q=a%20b&token={SECRET}&sort=x")
    assert (first.status, first.headers["location"]) == (303, "/search?q=a+b&sort=x")
    cookie, flags = first.headers["set-cookie"].split(";", 1)
    assert {"HttpOnly", "SameSite=Lax"} <= set(flags.split("; ")) | set(flags.strip().split("; "))
    assert SECRET not in cookie
    assert ask(application, "/", headers={"Cookie": cookie}).status == 200
    assert ask(application, "/", headers={"Cookie": cookie[:-1]}).status == 403
    for other in ('foo={"a": 1}', "foo[bar]=1", "a b", "sparsescope="):  # cookies of other servers on this machine
        assert ask(application, "/", headers={"Cookie": f"{other}; {cookie}"}).status == 200
    assert ask(application, "/", headers={"Cookie": "\x01=;;"}).status == 403
    # A path cannot be made to lead elsewhere.
    assert ask(application, f"//evil.example/?token={SECRET}").headers["location"] == "/evil.example/"


def test_an_address_is_refused_before_anything_is_opened() -> None:
    for host, token, words in (
        ("0.0.0.0", None, "--token"),
        ("192.168.0.1", "short", "16 or more"),
        ("::1", "é" * 20, "ASCII"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            guard_for(host, 80, token)
    with ExplorerServer(Explored("nowhere")) as server, pytest.raises(ConfigurationError, match="choose another"):
        ExplorerServer(Explored("nowhere"), port=server.port)
    with pytest.raises(ConfigurationError, match="cannot be used"):
        ExplorerServer(Explored("nowhere"), port=70_000)


def test_assets_are_kept_by_browsers_until_they_change(app: Any) -> None:
    for name, file in asset_files().items():
        answer = ask(app, ServedLinks().asset(name))
        assert (answer.body, answer.headers["content-type"]) == (file.body, file.kind)
        assert "immutable" in answer.headers["cache-control"]
        plain = ask(app, f"/asset/{name}")
        assert plain.headers["cache-control"] == "no-cache"
        assert ask(app, f"/asset/{name}", headers={"If-None-Match": plain.headers["etag"]}).status == 304


@pytest.mark.parametrize("name", ["..%2fapp.py", "../app.py", "%2e%2e/app.py", "/etc/passwd", "keys.js%00", ""])
def test_nothing_but_assets_can_be_had(app: Any, name: str) -> None:
    assert ask(app, f"/asset/{name}").status == 404


def _run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    return folder


def _sqlite(folder: Path, application: int = 0, version: int = 0) -> None:
    connection = sqlite3.connect(_run(folder) / "features.sqlite")
    connection.executescript(
        f"PRAGMA application_id = {application}; PRAGMA user_version = {version}; CREATE TABLE a (b)"
    )
    connection.close()


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda run: None, "is not a run"),
    "unfinished": (lambda run: run.with_name("run.partial").mkdir(), "--resume"),
    "half written": (lambda run: (run.mkdir(), (run / "plan.json").write_text("{}")), "--resume"),
    "without a database": (_run, "sparsescope explore"),
    "text": (lambda run: (_run(run) / "features.sqlite").write_text("no database " * 100), "cannot read"),
    "another database": (_sqlite, "is not a feature database"),
    "newer": (lambda run: _sqlite(run, 0x53534644, 99), "Upgrade sparsescope"),
    "older": (lambda run: _sqlite(run, 0x53534644, 1), "sparsescope explore RUN"),
    "manifest": (lambda run: (_sqlite(run), (run / "manifest.json").write_text("{")), "cannot read"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_run_that_cannot_be_read_says_what_to_do(tmp_path: Path, guard: Guard, name: str) -> None:
    make, words = BROKEN[name]
    make(tmp_path / "run")
    application = make_app(Explored(tmp_path / "run"), guard)
    for address in ("/", "/search?q=the", "/dictionary/a", "/dictionary/a/latent/1", "/compare/a/b"):
        answer = ask(application, address)
        assert answer.status == 503, (address, answer.text)
        assert words in answer.text, (address, answer.text)
        assert "Traceback" not in answer.text


def test_a_run_is_read_again_when_it_is_repaired(tmp_path: Path, explored_run: Path, guard: Guard) -> None:  # noqa: F811
    run = tmp_path / "run"
    shutil.copytree(explored_run, run)
    found = Explored(run)
    application = make_app(found, guard)
    address = ServedLinks().dictionary(found.slug(found.shelves()[0].id))
    assert ask(application, address).status == 200
    (run / "features.sqlite").rename(run / "away")
    assert ask(application, address).status == 503
    (run / "away").rename(run / "features.sqlite")
    assert ask(application, address).status == 200
    (run / "report.json").write_text("[")
    assert (ask(application, "/").status, ask(application, "/").text.count("report.json")) == (503, 1)
    (run / "report.json").write_text(json.dumps({"run": {"title": "<b>repaired</b>"}}))
    assert "&lt;b&gt;repaired&lt;/b&gt;" in ask(application, "/").text


def test_slugs_are_plain_and_different() -> None:
    names = [
        "topk-k_16-x4",
        "TopK-k_16-x4",
        "topk@attn_out.0",
        "../../etc",
        "<script>",
        "日本",
        "",
        "a" * 200,
        "topk-k_16-x4-2",
    ]
    shelves: Any = [SimpleNamespace(id=place, name=name) for place, name in enumerate(names)]
    expected = ["topk-k_16-x4", "topk-k_16-x4-2", "topk-attn_out.0", "etc", "script", "dictionary", "dictionary-2"]
    assert list(slugs_of(shelves).values()) == [*expected, "a" * 80, "topk-k_16-x4-2-2"]


def test_links_of_files_lead_to_those_of_the_server() -> None:
    static = StaticLinks("dictionary/a/latent/7.html")
    assert static.run() == "../../../index.html"
    assert static.dictionary("a", sort="score") == "../index.html?sort=score"
    assert static.latent("b", 3) == "../../b/latent/3.html"
    assert static.search(q="a b&c") == "../../../search.html?q=a+b%26c"
    assert static.asset("keys.js") == "../../../asset/keys.js"
    assert StaticLinks("index.html").compare("a", "b") == "compare/a/b.html"
    served_links = ServedLinks()
    assert served_links.search(q="\ud800", page=None) == "/search?q=%3F"
    assert served_links.compare("a") == "/compare?first=a"


def test_queries_are_checked() -> None:
    assert integer({"page": " 12 "}, "page", 1) == 12
    assert integer({"page": ""}, "page", 1) == 1
    for wrong in ("-1", "1.5", "٣", "9" * 5000, "nan", "1e3"):
        with pytest.raises(BadRequest, match="whole number"):
            integer({"page": wrong[:900]}, "page", 1)
    assert number({"low": "-1e-3"}, "low") == -0.001
    for wrong in ("nan", "inf", "one", "1,5"):
        with pytest.raises(BadRequest, match="not a number"):
            number({"low": wrong}, "low")
    with pytest.raises(BadRequest, match="Did you mean 'score'"):
        choice({"sort": "scoer"}, "sort", ["score", "latent"], "latent")
    with pytest.raises(BadRequest, match="at most"):
        text({"q": "x" * 1001}, "q")


def test_what_is_hidden_becomes_visible() -> None:
    assert visible("a\x00\u202eb\ud800\n\t\u2066\x85שלום") == "a␀⟨U+202E⟩b?\n\t⟨U+2066⟩⟨U+0085⟩שלום"
    assert token_mark('"<b>') == '<bdi class="token">&#34;&lt;b&gt;</bdi>'
    long = token_mark(" " + "y" * 99_999)
    assert (long.count("y"), "100,000 characters" in long) == (59, True)
    assert [level(value, 8.0) for value in (0.0, 0.1, 4.0, 8.0, -2.0, 99.0, None, float("nan"))] == [
        0,
        1,
        10,
        20,
        5,
        20,
        0,
        0,
    ]


def test_keys_lead_through_every_page(visit: Visit) -> None:  # noqa: F811
    page = visit("/")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible()
    page.keyboard.press("/")
    page.keyboard.type("the?")  # typed, not obeyed
    assert page.locator("#search").input_value() == "the?"
    page.keyboard.press("Enter")
    page.wait_for_url("**/search?q=the%3F")
    page.keyboard.press("g")
    page.keyboard.press("c")
    page.wait_for_url("**/compare")
    page.go_back()
    page.wait_for_url("**/search?q=the%3F")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

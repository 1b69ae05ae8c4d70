"""The live parts as a browser meets them: JSON over HTTP, the prompt page, and the panel of a latent's page."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from explorer_browser import browser, explored_run, serving, visiting  # noqa: F401
from live_world import LATENTS, TEXT, model, sparse

from sparsescope.causal.interventions import Ablate, replacements
from sparsescope.errors import ModelError
from sparsescope.explorer.explored import Explored
from sparsescope.explorer.links import ServedLinks
from sparsescope.explorer.live.asking import LONGEST_TEXT
from sparsescope.explorer.live.changing import steer
from sparsescope.explorer.live.lab import Lab, Loaded
from sparsescope.explorer.live.reading import most_active, read
from sparsescope.explorer.pages.prompt import prompt_page
from sparsescope.explorer.pages.recommended import recommended
from sparsescope.explorer.serving import ExplorerServer
from sparsescope.features.browsing import FeatureBrowser

Ask = Callable[..., tuple[int, Any]]
WAIT = 20_000  # milliseconds
SHIFTS = (
    "window.shifted = 0; new PerformanceObserver((list) => { for (const each of list.getEntries()) "
    "window.shifted += each.value; }).observe({ type: 'layout-shift', buffered: true });"
)

PLACES = "pressed => pressed.map((each) => [...each.parentElement.children].indexOf(each))"


def lab_of(run: Path, wait: threading.Event | None = None, *, fails: int = 0) -> Lab:
    """A lab whose dictionaries have the names and sizes of those of the run; loading `fails` so many times first."""
    shelves = Explored(run).shelves()
    assert {shelf.n_latents for shelf in shelves} == {LATENTS}
    failures = iter(range(fails))

    def load() -> Loaded:
        if next(failures, None) is not None:
            raise ModelError("there is no model yet: give --model DIR.")
        if wait is not None:
            wait.wait(20)
        return Loaded(model(), {shelf.name: sparse(seed=shelf.id) for shelf in shelves}, "document")

    return Lab(load, expected=5.0)


@pytest.fixture(scope="module")
def server(explored_run: Path) -> Iterator[ExplorerServer]:  # noqa: F811
    with serving(explored_run, lab_of(explored_run)) as found:
        yield found


def asker(server: ExplorerServer) -> Ask:
    """Posts JSON (or bytes) with the token of the server's pages: status, and what the JSON of the answer says."""

    def ask(path: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
        headers = {"X-Sparsescope-Token": server.guard.page_token if token is None else token}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("GET" if body is None else "POST", path, None if body is None else data, headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        is_json = answer.headers["content-type"] == "application/json"
        return answer.status, json.loads(text.decode("ascii")) if is_json else text.decode()

    return ask


def until_loaded(ask: Ask) -> None:
    while ask("/api/status")[1]["state"] == "loading":
        time.sleep(0.05)


def test_the_api_answers_what_the_model_says(server: ExplorerServer, explored_run: Path) -> None:  # noqa: F811
    ask, explored = asker(server), Explored(explored_run)
    shelf, other = explored.shelves()[:2]
    slug = explored.slug(shelf.id)
    status, refused = ask("/api/read", {"dictionary": slug, "text": TEXT})
    assert (status, refused["status"]["state"]) == (409, "resting")
    assert ask("/api/load", {})[1]["state"] in ("loading", "ready")
    until_loaded(ask)
    here = Loaded(model(), {each.name: sparse(seed=each.id) for each in (shelf, other)}, "document")
    expected = read(here, shelf.name, TEXT)
    status, told = ask("/api/read", {"dictionary": slug, "text": TEXT})
    assert status == 200
    assert [each["text"] for each in told["tokens"]] == expected.prompted.pieces
    rows = [[(each["latent"], each["code"]) for each in token["latents"]] for token in told["tokens"]]
    assert rows == [[(each.latent, each.code) for each in row] for row in expected.active]
    with FeatureBrowser.open(explored.database) as database:
        for latent, card in told["cards"].items():
            known = database.card(shelf.id, int(latent))
            assert known is not None
            assert (card["density"], card["maximum"]) == (known.density, known.maximum)
            assert card["explanation"] == known.explanation
        latents = ask("/api/example", {"text": TEXT, "limit": 5})[1]["latents"]
        shares = []
        for most in most_active(here, [shelf.name, other.name], TEXT):
            number = shelf.id if most.dictionary == shelf.name else other.id
            known = database.card(number, most.latent)
            if known is not None and known.maximum > 0:
                shares.append((most.code / known.maximum, explored.slug(number), most.latent))
        best = sorted(shares, reverse=True)[:5]
        assert [(each["share"], each["dictionary"], each["latent"]) for each in latents] == best
    latent = expected.active[-1][0].latent
    status, changed = ask(
        "/api/change", {"dictionary": slug, "text": TEXT, "edits": [{"latent": latent, "kind": "ablate"}]}
    )
    act = Ablate(here.dictionaries[shelf.name], latent)
    after = model().logits(expected.prompted.ids, replacements(model(), [act]))[0, -1].double().softmax(-1)
    top = changed["tokens"][-1]["after"][0]
    assert (top["token"], top["after"]) == (int(after.argmax()), pytest.approx(float(after.max())))
    effects = ask("/api/effects", {"dictionary": slug, "text": TEXT})[1]["effects"]
    assert {each["latent"]: each["kl"] for each in effects}[latent] == pytest.approx(
        changed["tokens"][-1]["kl"], rel=1e-3
    )
    asked = {"dictionary": slug, "latent": latent, "text": TEXT, "amount": 0, "new_tokens": 3}
    steered = ask("/api/steer", asked)[1]
    assert steered["plain"] == steered["steered"]
    assert len(steered["plain"]["pieces"]) == 3


def test_what_cannot_be_answered_is_said_in_json(server: ExplorerServer, explored_run: Path) -> None:  # noqa: F811
    ask, explored = asker(server), Explored(explored_run)
    slug = explored.slug(explored.shelves()[0].id)
    ask("/api/load", {})
    until_loaded(ask)
    good = {"dictionary": slug, "text": "one two"}
    for path, body, status, said in (
        ("/api/read", {**good, "dictionary": "no such"}, 404, "no dictionary"),
        ("/api/read", {**good, "dictionary": "../../etc/passwd"}, 404, "no dictionary"),
        ("/api/read", {**good, "dictionary": 3}, 400, "expected a string"),
        ("/api/read", {**good, "more": 1}, 400, "unknown field"),
        ("/api/read", {"dictionary": slug}, 400, "has no 'text'"),
        ("/api/read", b"{", 400, "not JSON"),
        ("/api/read", b'{"dictionary": "' + slug.encode() + b'", "text": "\\ud800"}', 400, "half a character"),
        ("/api/read", {**good, "text": "x" * (LONGEST_TEXT + 1)}, 400, "at most 4,000 are read"),
        ("/api/read", {**good, "text": "a b " * 900}, 400, "tokens, at most 255"),
        ("/api/read", b'{"text": "' + b"x" * 70_000 + b'"}', 413, "65,536 bytes"),
        ("/api/effects", {**good, "position": 99}, 400, "outside the text"),
        ("/api/effects", {**good, "position": 1.5}, 400, "whole number"),
        ("/api/effects", {**good, "where": "there"}, 400, "everywhere, here"),
        ("/api/change", {**good, "edits": [{"latent": LATENTS, "kind": "ablate"}]}, 400, "no latent 60"),
        ("/api/change", {**good, "edits": [{"latent": 0, "kind": "scale"}]}, 400, r"edits[0] has no 'value'"),
        ("/api/change", {**good, "edits": [{"latent": 0, "kind": "burn", "value": 1}]}, 400, "ablate, scale, set, add"),
        ("/api/change", {**good, "edits": [{"latent": 0, "kind": "ablate"}] * 33}, 400, "at most 32"),
        ("/api/steer", {**good, "latent": 0, "amount": 1, "new_tokens": 101}, 400, "from 1 to 100"),
        ("/api/steer", {**good, "latent": 0, "amount": 1e7, "new_tokens": 1}, 400, "a number from"),
        ("/api/example", {"text": "x", "limit": 0}, 400, "from 1 to"),
    ):
        found, told = ask(path, body)
        assert (found, said in told["error"]) == (status, True), (path, told)
    assert ask("/api/read", good, token="wrong")[0] == 403
    assert ask("/api/read")[0] in (404, 405)
    status, told = ask("/api/read", {**good, "text": "\x00</script><script>alert(1)\u202e\u2066"})
    assert (status, "".join(each["text"] for each in told["tokens"][1:])) == (
        200,
        "\x00</script><script>alert(1)\u202e\u2066",
    )
    assert ask("/prompt?dictionary=no-such")[0] == 404
    assert ask("/prompt?text=" + "x" * (LONGEST_TEXT + 1))[0] == 400
    assert ask("/prompt?sort=size")[0] == 400


def test_without_a_model_the_api_and_the_page_say_so(explored_run: Path) -> None:  # noqa: F811
    def load() -> Loaded:
        raise ModelError("there is no model at /gone: give --model DIR.")

    with serving(explored_run, Lab(load)) as found:
        ask = asker(found)
        ask("/api/load", {})
        until_loaded(ask)
        status, told = ask("/api/read", {"dictionary": Explored(explored_run).slug(1), "text": "x"})
        assert (status, told["error"]) == (
            409,
            "The model could not be loaded: there is no model at /gone: give --model DIR.",
        )
    with serving(explored_run) as found:
        assert "started without live parts" in asker(found)("/prompt")[1]


def test_the_prompt_page_begins_with_the_dictionary_that_the_run_page_recommends(
    explored_run: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    explored = Explored(explored_run)
    first, second = (replace(each, method="topk") for each in explored.shelves()[:2])
    rho = [{"name": each.name, "corpus_rho": {"value": value}} for each, value in ((first, 0.3), (second, 0.6))]
    found = {"interpretation": {"dictionaries": rho}}
    assert recommended([first, second], {}) == first
    assert recommended([first, second], found) == second
    assert recommended([first, replace(second, method="pca")], found) == first
    assert recommended([first, replace(second, kind="frozen decoder")], found) == first
    assert recommended([replace(first, explained=0), second], {}) == second
    assert recommended([], found) is None
    monkeypatch.setattr(explored, "shelves", lambda: [first, second])
    monkeypatch.setattr(Explored, "report", property(lambda _: found))
    assert prompt_page(explored, ServedLinks(), query={}).values["slug"] == explored.slug(second.id)


def test_the_prompt_page(explored_run: Path, browser: Any) -> None:  # noqa: F811
    loads, explored = threading.Event(), Explored(explored_run)
    shelf, other = explored.shelves()[:2]
    slug, next_slug = explored.slug(shelf.id), explored.slug(other.id)
    expected = read(Loaded(model(), {shelf.name: sparse(seed=shelf.id)}, "document"), shelf.name, TEXT)
    with serving(explored_run, lab_of(explored_run, loads, fails=1)) as found, visiting(browser, found.url) as visit:
        page = visit(f"/prompt?{urlencode({'dictionary': slug, 'text': TEXT})}")
        page.evaluate(SHIFTS)
        page.wait_for_selector(".loading.bad:has-text('there is no model yet')")
        page.click("text=Read it")
        page.wait_for_selector("#loading.running:has-text('about 5 s')")
        loads.set()
        page.wait_for_selector(".latent-row", timeout=WAIT)
        shown = lambda: [int(each) for each in page.locator(".latent-head .number").all_inner_texts()]  # noqa: E731
        assert page.locator(".live-token").count() == len(expected.prompted)
        assert page.locator(".live-token").first.get_attribute("title").startswith("put before")
        assert shown() == [each.latent for each in expected.active[-1]]

        # Another token, another order: the address follows.
        page.click(".live-token >> nth=5")
        page.click("#sorts >> text=rarity")
        page.wait_for_selector("#meaning:has-text('Sorted by rarity')")
        density = {each.latent: explored.browser().card(shelf.id, each.latent).density for each in expected.active[5]}
        assert [density[latent] for latent in shown()] == sorted(density.values())
        page.click("#sorts >> text=effect")
        page.wait_for_selector(".latent-row .effect:has-text('KL')")
        assert "position=5" in page.url
        assert "sort=effect" in page.url

        # Two changes at once, one at every token and one here; undone together.
        plain = page.locator(".predictions").first.inner_text()
        first, second = shown()[:2]
        page.click(f"[data-latent='{first}'] .latent-head")
        assert page.locator(".live-token bdi[class*='a']").count() == sum(
            any(each.latent == first for each in row) for row in expected.active
        )
        page.click(".editor button:text-is('Ablate')")
        page.wait_for_selector(f"#edits:has-text('{first} ablated at every token')")
        page.select_option("#where", "here")
        page.click(f"[data-latent='{second}'] .latent-head")
        page.fill(".editor input >> nth=0", "30")
        page.click(".editor button:text-is('Scale by')")
        page.wait_for_selector(f"#edits:has-text('{second} scaled by 30 at token 6')")
        assert page.locator(".predictions").first.inner_text() == plain
        assert page.locator(".predictions").nth(1).inner_text() != plain
        facts = page.locator(".facts-line").inner_text()
        assert "KL(as it is ‖ changed)" in facts
        assert page.evaluate("window.shifted") < 0.05

        # The address gives it all again. Another dictionary keeps the token.
        page.reload()
        page.wait_for_selector("#edits:has-text('scaled by 30')")
        assert page.locator(".facts-line").inner_text() == facts
        page.select_option("#dictionary", next_slug)
        page.wait_for_selector("#edits:has-text('Nothing is changed')")
        assert f"dictionary={next_slug}" in page.url
        assert page.locator(".live-token[aria-pressed=true]").evaluate_all(PLACES) == [5]

        # What a change does can be seen on a narrow screen too, however far one has scrolled.
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.locator(".latent-head").last.click()
        page.click(".editor button:text-is('Ablate')")
        page.wait_for_selector("#edits:has-text('ablated')")
        page.wait_for_function(
            "() => { const { top } = comparison.getBoundingClientRect(); return top > 80 && top < 500; }"
        )

        page.fill("#text", "\x01<img src=x onerror=alert(1)>\u202eevil")
        page.press("#text", "Control+Enter")
        page.wait_for_selector(".live-token:has-text('U+202E')")
        assert page.locator("#results img").count() == 0
        page.go_back()
        page.wait_for_selector(f".live-token >> nth={len(expected.prompted) - 1}")
        assert page.input_value("#text") == TEXT


def test_the_panel_of_a_latent(server: ExplorerServer, explored_run: Path, browser: Any) -> None:  # noqa: F811
    explored = Explored(explored_run)
    shelf = explored.shelves()[0]
    here = Loaded(model(), {shelf.name: sparse(seed=shelf.id)}, "document")
    latent = next(card.latent for card in explored.browser().cards(shelf.id) if card.density > 0)
    with visiting(browser, server.url) as visit:
        page = visit(f"/dictionary/{explored.slug(shelf.id)}/latent/{latent}")
        page.fill("[data-text]", TEXT)
        page.click("[data-act=ablate]")
        page.wait_for_selector(".live-result .predictions", timeout=WAIT)
        assert page.locator("[data-live] .live-token").count() == len(read(here, shelf.name, TEXT).prompted)
        page.fill("[data-factor]", "0")
        ablated = page.locator(".facts-line").inner_text()
        page.click("[data-act=scale]")
        page.wait_for_selector(".live-result:has-text('Scaled by 0')")
        assert page.locator(".facts-line").inner_text() == ablated
        page.fill("[data-amount]", "50")
        page.fill("[data-new]", "4")
        page.click("[data-act=steer]")
        page.wait_for_selector(".written >> nth=2")
        found = steer(here, shelf.name, latent, TEXT, 50.0, 4)
        written = page.locator(".written .text").evaluate_all("all => all.map((each) => each.textContent)")
        assert written == [TEXT + "".join(each.pieces) for each in (found.plain, found.steered, found.control)]
        assert page.locator(".written h3").all_inner_texts()[1] == "With 50 added to its activation"
        more = found.control.kl > found.steered.kl
        assert ("random direction moves the predictions more" in page.inner_text(".live-result")) is more
        page.fill("[data-amount]", "")
        page.click("[data-act=steer]")
        page.wait_for_selector("[data-loading].bad:has-text('Give a number in the field “Add to its activation”')")

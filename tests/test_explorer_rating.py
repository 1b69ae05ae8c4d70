"""Rating by hand: what is drawn and shown, and whole sessions over HTTP, killed and continued."""

import html
import http.client
import re
import sqlite3
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from sparsescope.errors import ConfigurationError
from sparsescope.explorer.rating.drawing import assigned, interleaved
from sparsescope.explorer.rating.items import ACTIVE, Context, Place, make_item
from sparsescope.explorer.rating.page import GRADES
from sparsescope.explorer.rating.serving import LARGEST_FORM, RatingServer
from sparsescope.explorer.rating.session import RatingSession
from sparsescope.features.ratings import Rating, Ratings

HOSTILE = "<script>alert(1)</script>\"'&\x1b[31m\u202e"


class World:
    """Latents whose active contexts hold the word `hit`, and whose dictionaries have telling names."""

    def __init__(self, count: int = 6, silent: bool = True, word: str = " word") -> None:
        self.count, self.silent, self.word = count, silent, word

    def places(self) -> list[Place]:
        return [Place(name, 700 + i, (i + 1) / 100) for name in ("secret_sae", "secret_pca") for i in range(self.count)]

    def _context(self, number: int, strength: float) -> Context:
        pieces, codes = [self.word] * 64, [0.0] * 64
        if strength > 0:
            place = (7 * number) % 64
            pieces[place], codes[place] = " hit", strength
        return Context(number, number // 2, tuple(pieces), tuple(codes))

    def top(self, place: Place) -> list[Context]:
        return [self._context(i, 10 - i / 4) for i in range(20)]

    def active(self, place: Place) -> list[Context]:
        return [self._context(20 + i, 1 + i / 10) for i in range(20)]

    def random(self, place: Place) -> list[Context]:
        found = [self._context(40 + i, 0.0 if i % 4 else 0.5) for i in range(20)]
        return found if self.silent else [replace(each, codes=(0.5,) * 64) for each in found]

    def sentences(self, place: Place) -> list[tuple[str, str]]:
        return [("rules", f"hits of {place.latent}{self.word}")]


class Short(World):
    """Half of the silent contexts are of 16 tokens, and every peak stands where windows are whole."""

    def _context(self, number: int, strength: float) -> Context:
        made = super()._context(42, strength)
        short = 16 if strength == 0 and number % 4 < 3 else 64
        return Context(number, number, made.pieces[:short], made.codes[:short])


class Visitor:
    """A browser of the simplest kind: follows redirects, keeps cookies, fills in the form of the page."""

    def __init__(self, url: str) -> None:
        self.url, self.page = url, ""
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())

    def get(self, path: str = "") -> str:
        self.page = self._opener.open(self.url + path, timeout=10).read().decode()
        return self.page

    def send(self, path: str, **values: str) -> str:
        fields = {**dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', self.page)), **values}
        data = urllib.parse.urlencode(fields).encode()
        self.page = self._opener.open(self.url + path, data, timeout=10).read().decode()
        return self.page

    def contexts(self) -> list[str]:
        found = re.findall(r'class="context" dir="auto">(.*?)</(?:span|p)></(?:label|li)>', self.page)
        return [html.unescape(re.sub("<[^>]+>", "", each)) for each in found]

    def rate(self, grade: int, meaning: str = "the word hit") -> None:
        """Both steps of one latent, finding the intruder."""
        silent = [" hit" in text for text in self.contexts()].index(False)
        assert "Which one" in self.page
        self.send("answer", choice=str(silent))
        assert "in your words" in self.page
        self.send("answer", rating=str(grade), meaning=meaning)


def opening(path: Path, world: World) -> Callable[[], AbstractContextManager[tuple[World, Ratings]]]:
    @contextmanager
    def opened() -> Iterator[tuple[World, Ratings]]:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            yield world, Ratings(connection)

    return opened


@contextmanager
def serving(path: Path, world: World | None = None, rater: str | None = None, **settings: int) -> Iterator[Visitor]:
    session = RatingSession(opening(path, world or World()), **{"latents": 5, "shared": 5, **settings})
    server = RatingServer(session, rater=rater)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Visitor(server.url)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def kept(path: Path) -> list[Rating]:
    with closing(sqlite3.connect(path)) as connection:
        return Ratings(connection).all()


def test_a_rater_stops_and_goes_on_where_they_stopped(tmp_path: Path) -> None:
    file = tmp_path / "features.sqlite"
    with serving(file) as ann:
        assert "Your name" in ann.get()
        ann.send("rater", name=" Ann ")
        for grade in (5, 4, 2):
            ann.rate(grade)
        assert "4 of 5" in ann.page
        ann.send("answer", choice="0")  # the intruder of the fourth is answered, its meaning is not
        fourth = ann.contexts()
    assert [each.monosemanticity for each in kept(file) if each.monosemanticity] != []
    with serving(file) as ann:  # another process would do the same: nothing but the database is carried over
        ann.get()
        ann.send("rater", name="Ann")
        assert "4 of 5" in ann.page
        assert ann.contexts() == fourth
        ann.send("answer", rating="1")
        ann.rate(3)
        assert "Finished" in ann.page
        assert "all 5 latents" in ann.page
        assert "Your name" in ann.send("leave")
        ann.send("rater", name="bo")
        assert "1 of 5" in ann.page
    ratings = kept(file)
    assert {each.rater for each in ratings} == {"Ann"}
    assert sorted(each.monosemanticity for each in ratings) == [1, 2, 3, 4, 5]
    assert sum(bool(each.found) for each in ratings) in (4, 5)
    assert all(each.time.endswith("+00:00") for each in ratings)


def test_what_the_page_shows_hides_where_a_latent_is_from(tmp_path: Path) -> None:
    with serving(tmp_path / "db", rater="ann") as ann:
        for _ in range(5):
            first = ann.get()
            assert not re.search(r'class="t ', first)  # no colours before the intruder is chosen
            ann.send("answer", choice="0")
            assert re.search(r'class="t a10 peak"', ann.page)
            for page in (first, ann.page):
                assert not re.search(
                    "secret|sae|pca|70[0-9]", re.sub("hits of 70[0-9]|by.*<", "", page).split("<main>")[1]
                )
            ann.send("answer", rating="1")


def test_only_forms_that_answer_the_question_count(tmp_path: Path) -> None:
    file = tmp_path / "db"
    with serving(file, rater="ann") as ann:
        ann.get()
        for wrong in ({}, {"choice": "5"}, {"choice": "-1"}, {"choice": "x"}):
            with pytest.raises(urllib.error.HTTPError) as refused:
                ann.send("answer", **wrong)
            assert refused.value.code == 422
            assert "Please choose one of the contexts" in refused.value.read().decode()
        page = ann.page
        ann.send("answer", choice="2")
        ann.page, after = page, ann.page
        assert ann.send("answer", choice="3") == after  # sent twice: passed over
        for wrong in ({"rating": "0"}, {"rating": "6"}, {"rating": "4"}, {"rating": "1", "meaning": "x" * 501}):
            with pytest.raises(urllib.error.HTTPError) as refused:
                ann.send("answer", **wrong)
            assert refused.value.code == 422
        with pytest.raises(urllib.error.HTTPError) as refused:
            ann.send("answer", meaning="kept for now")
        assert "kept for now</textarea>" in refused.value.read().decode()
        offered = re.findall(r'name="picked" value="(\d)">hits of (\d+)', ann.page)
        assert len(offered) == 4
        assert not kept(file)[0].monosemanticity
        own = next(place for place, latent in offered if int(latent) == kept(file)[0].latent)
        ann.send("answer", rating="4", picked=own)
    (rating,) = kept(file)
    assert (rating.monosemanticity, rating.picked, rating.meaning) == (4, True, "")


def test_hostile_text_is_shown_as_text(tmp_path: Path) -> None:
    file = tmp_path / "db"
    with serving(file, World(word=HOSTILE)) as eve:
        eve.get()
        eve.send("rater", name="<img src=x onerror=alert(1)>")
        pages = [eve.page, eve.send("answer", choice="0")]
        with pytest.raises(urllib.error.HTTPError) as refused:
            eve.send("answer", meaning="</textarea>" + HOSTILE)
        pages.append(refused.value.read().decode())
    for page in pages:
        assert "<script>alert" not in page
        assert "<img" not in page
        assert "\x1b" not in page
        assert "\u202e" not in page
        assert page.count("</textarea>") <= 1
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_strangers_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "db"
    with serving(file, rater="ann") as ann:
        good = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', ann.get())) | {"choice": "0"}
        port = urllib.parse.urlsplit(ann.url).port
        own, form = f"127.0.0.1:{port}", "application/x-www-form-urlencoded"

        def ask(method: str, path: str, body: str = "", **headers: str) -> int:
            link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            link.request(method, path, body or None, {k.replace("_", "-"): v for k, v in headers.items()})
            answer = link.getresponse()
            answer.read()
            link.close()
            return answer.status

        def post(fields: dict[str, str], **headers: str) -> int:
            body = urllib.parse.urlencode(fields)
            return ask("POST", "/answer", body, **{"Host": own, "Content_Type": form, **headers})

        assert ask("GET", "/", Host=f"evil.example:{port}") == 403
        assert ask("GET", "/", Host="127.0.0.1") == 403
        assert ask("GET", "/page.css", Host="evil.example") == 403
        assert ask("GET", "/", Host=f"localhost:{port}") == 200
        assert post(good | {"token": "wrong"}) == 403
        assert post({k: v for k, v in good.items() if k != "token"}) == 403
        assert post(good, Host="evil.example") == 403
        assert post(good, Origin="http://evil.example") == 403
        assert post(good, Origin="null") == 403
        assert post(good, Content_Type="text/plain") == 415
        assert ask("POST", "/answer", "x" * (LARGEST_FORM + 1), Host=own, Content_Type=form) == 413
        assert ask("POST", "/answer", "&".join("a=1" for _ in range(50)), Host=own, Content_Type=form) == 400
        for path in ("/../rating.css", "/..%2fpage.py", "/page.py", "//etc/passwd", "/etc/passwd"):
            assert ask("GET", path, Host=own) == 404
        assert ask("DELETE", "/", Host=own) == 501
        assert kept(file) == []
        assert post(good, Origin=f"http://{own}") == 303
        assert len(kept(file)) == 1


def test_pages_may_load_nothing_from_elsewhere_and_run_nothing_inline(tmp_path: Path) -> None:
    with serving(tmp_path / "db", rater="ann") as ann:
        with urllib.request.urlopen(ann.url, timeout=10) as answer:
            policy = answer.headers["Content-Security-Policy"]
            page = answer.read().decode()
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert not re.search(r"https?://|style=|<style|\son\w+=", page)
        assert len(re.findall("<script", page)) == 1
        for path, sign in (("page.css", "--paper"), ("rating.css", ".choice"), ("rating.js", "keydown")):
            assert sign in ann.get(path)


def test_only_this_machine_can_reach_the_server(tmp_path: Path) -> None:
    session = RatingSession(opening(tmp_path / "db", World()))
    server = RatingServer(session)
    assert server.server_address[0] == "127.0.0.1"
    with pytest.raises(ConfigurationError, match="choose another"):
        RatingServer(session, port=server.server_port)
    for port in (-1, 70_000):
        with pytest.raises(ConfigurationError, match="choose another"):
            RatingServer(session, port=port)
    with pytest.raises(ConfigurationError, match="name or initials"):
        RatingServer(session, rater="a\x1bb")
    server.server_close()


def test_the_intruder_is_the_silent_one_and_nothing_but_its_text_tells() -> None:
    world, odds, lengths = World(), Counter(), Counter()
    for seed in range(200):
        item = make_item(world, world.places()[0], world.places(), str(seed))
        assert item.intruder is not None
        shown = item.intruder.contexts
        assert [" hit" in each.pieces for each in shown] == [i != item.intruder.odd for i in range(ACTIVE + 1)]
        assert not any(any(each.levels) for each in shown)
        again = {each.fragment for each in shown} & {each.fragment for each in [*item.strongest, *item.typical]}
        assert not again
        assert len({each.fragment // 2 for each in shown}) == ACTIVE + 1  # each from its own document
        assert 0 in {each.fragment for each in item.strongest}
        odds[item.intruder.odd] += 1
        lengths[len(shown[item.intruder.odd].pieces) - len(shown[item.intruder.odd - 1].pieces)] += 1
    assert all(20 <= odds[i] <= 60 for i in range(5))  # 40 each, within three and a half standard deviations
    shorter, longer = sum(v for k, v in lengths.items() if k < 0), sum(v for k, v in lengths.items() if k > 0)
    assert abs(shorter - longer) < 60
    item = make_item(Short(), world.places()[0], world.places(), "0")
    assert item.intruder is not None
    assert len({len(each.pieces) for each in item.intruder.contexts}) == 1
    assert make_item(world, world.places()[0], world.places(), "7") == make_item(
        world, world.places()[0], world.places(), "7"
    )


def test_without_silent_contexts_there_is_no_intruder_step(tmp_path: Path) -> None:
    file = tmp_path / "db"
    with serving(file, World(silent=False), rater="ann", latents=1) as ann:
        assert "in your words" in ann.get()
        assert "the one latent" in ann.send("answer", rating="5", meaning="hit")
    assert [(each.found, each.monosemanticity, each.meaning) for each in kept(file)] == [(None, 5, "hit")]


def test_raters_share_latents_in_orders_of_their_own_and_dictionaries_and_densities_are_balanced() -> None:
    places = [Place(name, i, (i * i + 1) / 1e6) for name in ("a", "b", "c") for i in range(200)]
    ann, bo = (assigned(places, name, latents=60, shared=30, seed=0) for name in ("ann", "bo"))
    common = {p.key for p in interleaved(places, "0")[:30]}
    assert common <= {p.key for p in ann} & {p.key for p in bo}
    assert len({p.key for p in ann}) == len({p.key for p in bo}) == 60
    assert len({p.key for p in ann} & {p.key for p in bo}) < 45
    assert [p for p in ann if p.key in common] != [p for p in bo if p.key in common]
    for each in (ann, bo):
        assert set(Counter(p.dictionary for p in each).values()) == {20}
        assert set(Counter(p.latent // 40 for p in each).values()) == {12}
    assert ann == assigned(list(reversed(places)), "ann", latents=60, shared=30, seed=0)
    assert ann != assigned(places, "ann", latents=60, shared=30, seed=1)
    assert len(assigned(places[:7], "ann", latents=60, shared=30, seed=0)) == 7


def test_latents_with_few_contexts_are_passed_over(tmp_path: Path) -> None:
    world = World()
    few = world.places()[0]
    world.top = lambda place: World.top(world, place)[: 3 if place == few else 20]  # type: ignore[method-assign]
    world.active = lambda place: World.active(world, place)[: 4 if place == few else 20]  # type: ignore[method-assign]
    session = RatingSession(opening(tmp_path / "db", world), latents=100, shared=3)
    assert sorted(p.key for p in session.assigned("ann")) == sorted(p.key for p in world.places() if p != few)


def test_what_cannot_be_rated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="it has secret_pca, secret_sae"):
        RatingSession(opening(tmp_path / "db", World()), dictionaries=["other"])
    few = World()
    few.top = few.active = lambda place: []  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError, match="sparsescope explain RUN"):
        RatingSession(opening(tmp_path / "db", few))
    assert [grade for grade, _, _ in GRADES] == [5, 4, 3, 2, 1]

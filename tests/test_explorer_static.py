"""The pages as files: whole or absent, opened without a network, with the numbers of the served ones."""

import gzip
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from explorer_asking import ask
from explorer_browser import LATENTS, browser, explored_run, hostile_run, visiting  # noqa: F401
from test_explorer_fuzz import Structure, check_page

from sparsescope.bench.explored_run import make_run
from sparsescope.errors import ConfigurationError
from sparsescope.explorer.app import make_app
from sparsescope.explorer.explored import Explored
from sparsescope.explorer.exporting import MARK, Exported, export_static
from sparsescope.explorer.links import ServedLinks, StaticLinks
from sparsescope.explorer.pages.latent import latent_page
from sparsescope.explorer.pages.rows import rows_script
from sparsescope.explorer.rendering import render
from sparsescope.explorer.security import guard_for

BUDGET = 5_000  # bytes for each latent, compressed, everything counted

TEXTS = re.compile('<section id="contexts".*?</section>', re.S)  # fewer and shorter in files


@pytest.fixture(scope="module")
def exported(explored_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:  # noqa: F811
    return export_static(Explored(explored_run), tmp_path_factory.mktemp("static") / "pages")


def pages(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.html"))


def test_every_page_is_there_and_every_link_leads_to_a_file(exported: Exported) -> None:
    folder = exported.folder
    assert (exported.latents, exported.pages) == (2 * LATENTS, len(pages(folder)))
    files = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert exported.size + (folder / MARK).stat().st_size == sum((folder / file).stat().st_size for file in files)
    assert {"index.html", "search.html", "compare.html", "circuit.html", "asset/explorer.css", MARK} <= files
    reached = set()
    for page in pages(folder):
        for _, name, value in Structure(page.read_text("utf-8")).attributes:
            if name in ("href", "src", "action") and not value.startswith(("#", "data:,")):
                target = (page.parent / unquote(urlsplit(value).path)).resolve() if urlsplit(value).path else page
                assert target.is_file(), (page, value)
                reached.add(target.relative_to(folder).as_posix())
    unreached = {file for file in files if file.endswith((".html", ".js"))} - reached
    assert {file.split("/")[0] for file in unreached} <= {"asset", "circuit.html", "compare"}
    assert sum(file.startswith("compare") for file in unreached) <= 1  # two dictionaries the other way round


def test_the_numbers_are_those_of_the_server(explored_run: Path, exported: Exported) -> None:  # noqa: F811
    found, links = Explored(explored_run), ServedLinks(live=False)
    app = make_app(found, guard_for("127.0.0.1", 8000, None))
    (first, second), home = [found.slug(shelf.id) for shelf in found.shelves()], exported.folder
    assert numbers_of(ask(app, links.run()).text) == numbers_of((home / "index.html").read_text("utf-8"))
    for slug in (first, second):
        for latent in (0, 7, 19, 33):
            file = (home / f"dictionary/{slug}/latent/{latent}.html").read_text("utf-8")
            served, saved = (TEXTS.sub("", page) for page in (ask(app, links.latent(slug, latent)).text, file))
            shown = numbers_of(served)
            # What a server gives on demand is in the files from the start, between the rest.
            static = iter(numbers_of(saved))
            assert all(number in static for number in shown), (slug, latent)
            assert len(shown) > 10
    facts = re.compile("<dt>.*?</dd>", re.S)  # of two dictionaries: the choice of them differs, the numbers do not
    compared = facts.findall(ask(app, links.compare(first, second)).text)
    assert compared == facts.findall((home / f"compare/{first}/{second}.html").read_text("utf-8"))
    assert len(compared) >= 3  # as many shares, where one list of them is that of both


def numbers_of(page: str) -> list[str]:
    """The numbers that a page shows below its header, in their order."""
    main = page[page.index("<main") : page.index("</main>")]
    return [word for word in re.sub(r"<[^>]*>", " ", main).split() if re.fullmatch(r"[+−]?[\d,.]+%?", word)]


def test_pages_are_small(exported: Exported) -> None:
    files = [file for file in exported.folder.rglob("*") if file.is_file() and "latent" in file.parts]
    assert len(files) == exported.latents
    assert sum(len(gzip.compress(file.read_bytes())) for file in files) / exported.latents < BUDGET


def test_files_open_in_a_browser_without_a_network(browser: Any, explored_run: Path, exported: Exported) -> None:  # noqa: F811
    slug = Explored(explored_run).slug(Explored(explored_run).shelves()[0].id)
    with visiting(browser, exported.folder.as_uri()) as visit:
        page = visit("index.html", offline=True)
        assert page.evaluate("getComputedStyle(document.querySelector('header.top')).position") == "sticky"
        page.keyboard.press("?")
        assert page.locator("#keys").is_visible()
        page.keyboard.press("Escape")
        page.locator(f'a[href="dictionary/{slug}/index.html"]').first.click()
        page.wait_for_url(f"**/dictionary/{slug}/index.html*")
        assert page.evaluate("sparsescope.rows") == {slug: page.evaluate(f"sparsescope.rows[{slug!r}]")}
        assert len(page.evaluate(f"sparsescope.rows[{slug!r}]")) == LATENTS
        page.locator('table a[href^="latent/"]').first.click()
        page.wait_for_url("**/latent/*.html")
        here = page.url
        page.keyboard.press("j")
        page.wait_for_url(lambda url: url != here)
        page.keyboard.press("u")
        page.wait_for_url(f"**/dictionary/{slug}/index.html*")
        page.locator("#search").fill("the")
        page.locator("#search").press("Enter")
        page.wait_for_url("**/search.html?q=the")
        page.locator('main a[href*="/latent/"]').first.wait_for()


def test_an_export_replaces_only_an_export(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stopped

    run = make_run(tmp_path / "run", latents=6)
    name = Explored(run).shelves()[0].name
    part = Explored(run, only=[name])
    target = tmp_path / "pages"
    target.mkdir()
    (target / "precious.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="something else"):
        export_static(part, target)
    (target / "precious.txt").unlink()
    with pytest.raises(Stopped):
        export_static(part, target, progress=stop)
    assert not any(target.iterdir())
    done = export_static(part, target)
    assert (done.latents, [file.name for file in (target / "data").iterdir()]) == (
        6,
        [f"{part.slug(part.shelves()[0].id)}.js"],
    )
    assert export_static(part, target) == done
    assert {file.name for file in tmp_path.iterdir()} == {"pages", "run"}
    for kept in (target / ".git", tmp_path / "pages.replaced" / "precious", tmp_path / "pages.partial" / "precious"):
        kept.mkdir(parents=True)  # nothing of somebody else's is deleted, in the folder or beside it
        with pytest.raises(ConfigurationError, match="something else"):
            export_static(part, target)
        assert kept.is_dir()
        kept.rmdir()
    with pytest.raises(ConfigurationError, match="no dictionary 'topq'"):
        Explored(run, only=["topq"]).shelves()


def test_hostile_text_stays_text_in_files(hostile_run: Path) -> None:  # noqa: F811
    found = Explored(hostile_run)
    for slug in map(found.slug, (shelf.id for shelf in found.shelves())):
        for latent in range(0, LATENTS, 6):
            links = StaticLinks(f"dictionary/{slug}/latent/{latent}.html")
            check_page(render(latent_page(found, links, slug=slug, latent=latent, query={}), found, links))
        rows = rows_script(found, slug)
        assert rows.isascii()
        assert not re.search("[\x00-\x08\x0b-\x1f]", rows)

"""`sparsescope explore`: prepare what the pages show, then serve them, or write them as files."""

import importlib.util
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigurationError, SparsescopeError, suggest
from .options import Common
from .parse import option

if TYPE_CHECKING:
    from ..explorer.explored import Explored
    from ..explorer.live.lab import Lab
    from ..features.browsing import Shelf
    from .console import Console
    from .preparing import Preparing


@dataclass(frozen=True, kw_only=True)
class ExploreOptions(Common):
    """`sparsescope explore`."""

    run: str = option("directory of the run", metavar="RUN", positional=True)
    dictionary: tuple[str, ...] = option("show this dictionary alone (default: all)", (), metavar="NAME")
    port: int = option("port to listen at; 0 takes a free one", 0, metavar="N", least=0)
    host: str = option("address to listen at; others than 127.0.0.1 need --token", "127.0.0.1", metavar="H")
    token: str | None = option("what every visitor has to know, 16 characters or more", None, metavar="TOKEN")
    static: str | None = option("write all pages into this folder and serve nothing", None, metavar="DIR")
    latent: str | None = option("write the page of this latent as one file and serve nothing", None, metavar="NAME:N")
    out: str | None = option("with --latent: the file (default: NAME-N.html)", None, metavar="FILE")
    model: str | None = option("where the model lies now, if elsewhere than the run says", None, metavar="NAME")
    live: bool = option("offer what needs the model: the prompt page, ablating, steering", True)
    open: bool = option("open the page in the web browser", False)
    seed: int = option("taken by every command; nothing here is drawn at random", 0, metavar="N", least=0)


def run_the_explorer(options: ExploreOptions, console: "Console", command: str) -> None:
    """Serve the pages until Ctrl-C, or write them."""
    from ..explorer.explored import Explored
    from .preparing import Preparing

    _check(options)
    explored = Explored(options.run, only=options.dictionary)
    with Preparing(options.run, options.dictionary, console) as work:
        if options.latent is not None:
            _wait(work, explored, console)
            _write_latent(explored, options.latent, options.out, console)
        elif options.static is not None:
            _wait(work, explored, console)
            _write_pages(explored, options.static, console)
        else:
            # The first dictionary is enough to begin with: the others appear as they are finished.
            _wait(work, explored, console, lambda: _prepared(explored) > 0)
            _serve(explored, options, console)


def _wait(
    work: "Preparing", explored: "Explored", console: "Console", enough: Callable[[], bool] = lambda: False
) -> None:
    """Until the run is prepared, or enough of it. Where that cannot be done, what was prepared before is shown."""
    try:
        work.wait(enough)
    except KeyboardInterrupt:
        console.say("stopped: every dictionary that was finished is kept. The same command goes on.")
        raise SystemExit(1) from None
    except SparsescopeError as error:
        if not _prepared(explored):
            raise
        console.say(f"shown as it was prepared before, and may be out of date: {error}", style="yellow")
    explored.shelves()  # complains of names that the run does not have


def _prepared(explored: "Explored") -> int:
    """How many dictionaries can be looked at."""
    try:
        return sum(shelf.prepared for shelf in explored.shelves())
    except SparsescopeError:  # no database yet, or none of the names asked for
        return 0


def _check(options: ExploreOptions) -> None:
    """Refuse what cannot be done, before anything is prepared."""
    serves = options.static is None and options.latent is None
    needed = ("starlette", "jinja2", "uvicorn") if serves else ("jinja2",)
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(f"the explorer needs {', '.join(missing)}: pip install 'sparsescope[explore]'.")
    if options.static is not None and options.latent is not None:
        raise ConfigurationError("--static writes all pages and --latent one: give only one of them.")
    if options.out is not None and options.latent is None:
        raise ConfigurationError(
            "--out is the file of a page that --latent names: give --latent NAME:N, or --static DIR."
        )
    if serves:
        from ..explorer.security import guard_for

        guard_for(options.host, options.port, options.token)


def _serve(explored: "Explored", options: ExploreOptions, console: "Console") -> None:
    from ..explorer.serving import ExplorerServer

    lab = _lab(options) if options.live else None
    with ExplorerServer(explored, lab, host=options.host, port=options.port, token=options.token) as server:
        console.say(f"explore {explored.title} at {server.url} (Ctrl-C stops)")
        if options.open:
            webbrowser.open(server.url)
        server.run()
    console.result({"run": options.run, "url": server.url})


def _lab(options: ExploreOptions) -> "Lab":
    """What loads the model when a page first asks for it."""
    from ..explorer.live.lab import Lab
    from ..study.opening import expected_seconds, loader

    return Lab(loader(options.run, model=options.model), expected_seconds(options.run, model=options.model))


def _write_pages(explored: "Explored", folder: str, console: "Console") -> None:
    from ..explorer.exporting import export_static

    done = export_static(explored, folder, progress=console.progress)
    facts = {"path": str(done.folder), "pages": done.pages, "latents": done.latents, "bytes": done.size}
    megabytes = done.size / 1e6
    console.result(facts, f"{done.pages:,} pages, {megabytes:,.0f} MB: open {done.folder / 'index.html'}")


def _write_latent(explored: "Explored", name: str, out: str | None, console: "Console") -> None:
    """The page of one latent as one file."""
    from ..artifact import write_bytes
    from ..explorer.mailing import one_page

    shelf, latent = _named(explored, name)
    file = Path(out or f"{explored.slug(shelf.id)}-{latent}.html")
    written = write_bytes(file, one_page(explored, explored.slug(shelf.id), latent).encode("utf-8"))
    console.result({"path": str(file), "bytes": written["bytes"]}, f"page: {file}")


def _named(explored: "Explored", name: str) -> "tuple[Shelf, int]":
    """The dictionary and the number that NAME:N means. Raises `ConfigurationError`."""
    dictionary, _, number = name.rpartition(":")
    shelves = {shelf.name: shelf for shelf in explored.shelves()}
    if not (number.isascii() and number.isdigit() and dictionary):
        raise ConfigurationError(f"--latent {name!r}: expected the name of a dictionary and a latent, as in topk:7.")
    if dictionary not in shelves:
        hint = suggest(dictionary, shelves)
        raise ConfigurationError(f"there is no dictionary {dictionary!r}.{hint} The run has: {', '.join(shelves)}.")
    if int(number) >= shelves[dictionary].n_latents:
        count = shelves[dictionary].n_latents
        raise ConfigurationError(f"{dictionary} has {count:,} latents, numbered from 0: there is no latent {number}.")
    return shelves[dictionary], int(number)

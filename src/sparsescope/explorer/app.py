"""The web application: which address shows which page, and what becomes of errors."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, SparsescopeError
from .explored import Explored
from .files import asset_files
from .links import ServedLinks
from .pages.circuit import circuit_page
from .pages.compare import compare_page
from .pages.dictionary import dictionary_page
from .pages.latent import latent_page
from .pages.prompt import prompt_page
from .pages.run import run_page
from .pages.search import search_page
from .query import BadRequest, NotThere, Query, digits
from .rendering import Page, render
from .security import App, Guard, Guarded

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from .live.lab import Lab

WORKERS = 4
"""Threads that make pages, each with a database connection of its own."""
PAGES: Mapping[str, Callable[..., Page]] = {
    "/": run_page,
    "/dictionary/{slug}": dictionary_page,
    "/dictionary/{slug}/latent/{latent}": latent_page,
    "/search": search_page,
    "/compare": compare_page,
    "/compare/{first}/{second}": compare_page,
    "/circuit": circuit_page,
    "/circuit/{task}": circuit_page,
    "/prompt": prompt_page,
}


class Explorer:
    """Makes pages of a run: the same for a browser that asks, for a folder of files and for tests."""

    def __init__(self, explored: Explored, links: ServedLinks, token: str) -> None:
        self.explored, self.links, self.token = explored, links, token

    def answer(self, function: Callable[..., Page], path: Mapping[str, str], query: Query) -> tuple[int, str]:
        """Status and HTML of a page, or of the page that says why there is none."""
        try:
            page = function(self.explored, self.links, **_parameters(path), query=query)
            return page.status, render(page, self.explored, self.links, self.token)
        except Exception as error:
            return self.refusal(*_status_and_words(error))

    def refusal(self, status: int, text: str) -> tuple[int, str]:
        """The page that says what is wrong."""
        return status, render(error_page(status, text), self.explored, self.links, self.token)


def error_page(status: int, text: str) -> Page:
    """What is wrong, in words."""
    titles = {400: "This cannot be shown", 404: "There is nothing here", 503: "This run cannot be read"}
    default = "This request was refused" if status < 500 else "Something went wrong here"
    return Page("error.html", titles.get(status, default), "error", {"status": status, "text": text}, status)


def _status_and_words(error: Exception) -> tuple[int, str]:
    if isinstance(error, NotThere):
        return 404, str(error)
    if isinstance(error, BadRequest | ConfigurationError):
        return 400, str(error)
    if isinstance(error, SparsescopeError):
        return 503, str(error)
    if isinstance(error, sqlite3.Error):
        return (
            503,
            f"The feature database could not be read: {error}. Reload the page; if that does not help, make it again.",
        )
    return 500, f"{type(error).__name__}: {error}. This is a fault in sparsescope."


def _parameters(path: Mapping[str, str]) -> dict[str, Any]:
    """Parameters of a path as the pages take them: a latent is a number."""
    found: dict[str, Any] = dict(path)
    if "latent" in found:
        number = digits(found["latent"])
        if number is None:
            raise NotThere("Latents have whole numbers, from 0.")
        found["latent"] = number
    return found


def make_app(explored: Explored, guard: Guard, lab: "Lab | None" = None) -> App:
    """The application, behind its guard. Without a `lab`, the parts that need a model are absent.

    app = make_app(Explored("runs/demo"), guard_for("127.0.0.1", 8000, None))
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.gzip import GZipMiddleware
    from starlette.routing import Route

    explorer = Explorer(explored, ServedLinks(live=lab is not None), guard.page_token)
    workers = ThreadPoolExecutor(WORKERS, "page")
    routes = [Route(path, _page_route(explorer, workers, function)) for path, function in PAGES.items()]
    routes.append(Route("/asset/{name}", _asset))
    if lab is not None:
        from .live.api import routes as live_routes

        routes += live_routes(lab, explored)

    async def missing(request: "Request", error: Exception) -> "Response":
        return _html(*explorer.refusal(404, "There is no such page."))

    async def broken(request: "Request", error: Exception) -> "Response":
        return _html(*explorer.refusal(*_status_and_words(error)))

    app = Starlette(
        routes=routes,
        middleware=[Middleware(GZipMiddleware, minimum_size=1000, compresslevel=2)],
        exception_handlers={404: missing, 405: missing, Exception: broken},
    )
    app.router.redirect_slashes = False  # an address is right or wrong
    return Guarded(app, guard)


def _page_route(
    explorer: Explorer, workers: ThreadPoolExecutor, function: Callable[..., Page]
) -> "Callable[[Request], Awaitable[Response]]":
    async def respond(request: "Request") -> "Response":
        answering = asyncio.get_running_loop().run_in_executor(
            workers, explorer.answer, function, request.path_params, dict(request.query_params)
        )
        return _html(*await answering)

    return respond


def _html(status: int, text: str) -> "Response":
    from starlette.responses import Response

    return Response(text.encode("utf-8"), status, media_type="text/html")


async def _asset(request: "Request") -> "Response":
    from starlette.responses import Response

    file = asset_files().get(request.path_params["name"])
    if file is None:
        return Response("there is no such file", 404, media_type="text/plain")
    named = request.query_params.get("v") == file.version
    headers = {"etag": f'"{file.version}"', "cache-control": "max-age=31536000, immutable" if named else "no-cache"}
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    return Response(file.body, headers={**headers, "content-type": file.kind})

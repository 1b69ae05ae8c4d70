"""Where pages are: on a server, from its root; in a folder of files, relative to the page that links.

ServedLinks().latent("topk-k_16-x4", 7)                          "/dictionary/topk-k_16-x4/latent/7"
StaticLinks("dictionary/a/index.html").latent("a", 7)            "latent/7.html"
"""

from abc import ABC, abstractmethod
from posixpath import dirname, relpath
from urllib.parse import quote, urlencode

from .files import asset_files


class Links(ABC):
    """The address of every page. `live` says whether the pages may offer what needs a model behind them.

    Query parameters that are None are left out.
    """

    live: bool

    @abstractmethod
    def run(self) -> str:
        """The run, with all its dictionaries."""

    @abstractmethod
    def dictionary(self, slug: str, **query: object) -> str:
        """The latents of a dictionary."""

    @abstractmethod
    def latent(self, slug: str, latent: int) -> str:
        """One latent."""

    @abstractmethod
    def search(self, **query: object) -> str:
        """The search, with its form filled in."""

    @abstractmethod
    def compare(self, first: str | None = None, second: str | None = None) -> str:
        """Two dictionaries side by side, or the choice of two."""

    @abstractmethod
    def circuit(self, task: str | None = None) -> str:
        """The circuit of a task, or the list of circuits."""

    @abstractmethod
    def prompt(self, **query: object) -> str:
        """The page on which people type text."""

    @abstractmethod
    def asset(self, name: str) -> str:
        """A style sheet or script by its name; `KeyError` for an unknown one."""

    def rows(self, slug: str) -> str | None:
        """The script that holds the rows of a dictionary, where pages have no server to ask; else None."""
        return None


class ServedLinks(Links):
    """Addresses from the root of the server."""

    def __init__(self, live: bool = True) -> None:
        self.live = live

    def run(self) -> str:
        return "/"

    def dictionary(self, slug: str, **query: object) -> str:
        return f"/dictionary/{quote(slug, safe='')}{_query(query)}"

    def latent(self, slug: str, latent: int) -> str:
        return f"/dictionary/{quote(slug, safe='')}/latent/{latent}"

    def search(self, **query: object) -> str:
        return f"/search{_query(query)}"

    def compare(self, first: str | None = None, second: str | None = None) -> str:
        if first is None or second is None:
            return "/compare" + _query({"first": first, "second": second})
        return f"/compare/{quote(first, safe='')}/{quote(second, safe='')}"

    def circuit(self, task: str | None = None) -> str:
        return "/circuit" if task is None else f"/circuit/{quote(task, safe='')}"

    def prompt(self, **query: object) -> str:
        return f"/prompt{_query(query)}"

    def asset(self, name: str) -> str:
        return f"/asset/{name}?v={asset_files()[name].version}"


class StaticLinks(Links):
    """Addresses relative to `page`, itself relative to the exported folder, such as "dictionary/a/latent/7.html".

    The dictionary and search pages read their query in the browser; other pages have none.
    """

    live = False

    def __init__(self, page: str) -> None:
        self.page = page

    def run(self) -> str:
        return self._to("index.html")

    def dictionary(self, slug: str, **query: object) -> str:
        return self._to(f"dictionary/{slug}/index.html") + _query(query)

    def latent(self, slug: str, latent: int) -> str:
        return self._to(f"dictionary/{slug}/latent/{latent}.html")

    def search(self, **query: object) -> str:
        return self._to("search.html") + _query(query)

    def compare(self, first: str | None = None, second: str | None = None) -> str:
        if first is None or second is None:
            return self._to("compare.html")
        return self._to(f"compare/{first}/{second}.html")

    def circuit(self, task: str | None = None) -> str:
        return self._to("circuit.html" if task is None else f"circuit/{quote(task, safe='')}.html")

    def prompt(self, **query: object) -> str:
        return self.run()  # there is no model behind a folder of files

    def asset(self, name: str) -> str:
        return self._to(f"asset/{asset_files()[name].name}")

    def rows(self, slug: str) -> str:
        return self._to(f"data/{slug}.js")

    def _to(self, file: str) -> str:
        return relpath(file, dirname(self.page) or ".")


def _query(parameters: dict[str, object]) -> str:
    given = {name: value for name, value in parameters.items() if value is not None}
    return f"?{urlencode(given, errors='replace')}" if given else ""

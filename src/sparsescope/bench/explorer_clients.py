"""Many people browsing at once: threads that follow real links, with a little thought between pages."""

import gzip
import http.client
import re
import threading
import time
from dataclasses import dataclass, field
from html import unescape
from typing import Any
from urllib.parse import urlsplit

import numpy as np

_LINK = re.compile(r'<a\b[^>]*?\bhref="(/[^"#]*)')
_WAIT = 60.0  # seconds for one answer
_ERRORS = 20  # kept of those that occurred


@dataclass
class _Seen:
    """What one client met with."""

    milliseconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)


def browse(url: str, clients: int, seconds: float, *, think: float = 1.0, seed: int = 0) -> dict[str, Any]:
    """`clients` people follow random links of `url` for so many seconds; each thinks `think` seconds on average.

    Returns requests, errors (any answer that is no page, or none at all), and milliseconds for a page: median, 99th
    percentile and the longest. Latency counts from the request to the last byte.
    """
    seen = [_Seen() for _ in range(clients)]
    until = time.monotonic() + seconds
    threads = [
        threading.Thread(target=_client, args=(url, until, think, np.random.default_rng((seed, number)), one))
        for number, one in enumerate(seen)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = np.array([value for one in seen for value in one.milliseconds] or [np.nan])
    kinds: dict[str, int] = {}
    for one in seen:
        for kind, count in one.kinds.items():
            kinds[kind] = kinds.get(kind, 0) + count
    errors = [error for one in seen for error in one.errors]
    return {
        "clients": clients,
        "seconds": seconds,
        "requests": sum(kinds.values()),
        "errors": len(errors),
        "what": errors[:_ERRORS],
        "kinds": dict(sorted(kinds.items())),
        "median": float(np.median(taken)),
        "p99": float(np.percentile(taken, 99)),
        "worst": float(taken.max()),
    }


def _client(url: str, until: float, think: float, source: np.random.Generator, seen: _Seen) -> None:
    """One person: a random link of the page that is open, and now and then the first page again."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=_WAIT)
    path, links = "/", ["/"]
    time.sleep(float(source.uniform(0, think)))  # they do not all come at once
    while time.monotonic() < until:
        kind = kind_of(path)
        seen.kinds[kind] = seen.kinds.get(kind, 0) + 1
        begun = time.perf_counter()
        try:
            connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            seen.errors.append(f"{path}: {type(error).__name__}: {error}")
            connection.close()
            continue
        seen.milliseconds.append((time.perf_counter() - begun) * 1000)
        if answer.status != 200:
            seen.errors.append(f"{path}: {answer.status}")
        if answer.getheader("content-encoding") == "gzip":
            body = gzip.decompress(body)
        links = links_of(body.decode("utf-8", "replace")) or ["/"]
        path = "/" if source.random() < 0.05 else links[int(source.integers(len(links)))]
        time.sleep(float(source.uniform(0.5, 1.5)) * think)
    connection.close()


def links_of(page: str) -> list[str]:
    """The addresses of this server that a page links.

    >>> links_of('<a class="x" href="/search?q=a&amp;by=rule">…</a> <a href="https://example.org/">…</a>')
    ['/search?q=a&by=rule']
    """
    found = (unescape(link) for link in _LINK.findall(page))
    return [link for link in found if not link.startswith(("//", "/asset/"))]


def kind_of(path: str) -> str:
    """Which of the pages an address is of.

    >>> kind_of("/dictionary/topk/latent/7?kind=top"), kind_of("/")
    ('latent', 'run')
    """
    parts = urlsplit(path).path.strip("/").split("/")
    if parts[0] == "dictionary" and len(parts) > 2:
        return "latent"
    return parts[0] or "run"

"""How soon a page is painted, by Chromium's own account, and how long its server takes to answer."""

import http.client
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from ..errors import ConfigurationError

_PAINT = """() => new Promise(found => {
  const look = () => {
    const entry = performance.getEntriesByName("first-contentful-paint")[0];
    if (entry) found(entry.startTime); else setTimeout(look, 5);
  };
  look();
})"""


def chromium() -> str:
    """The program. Raises `ConfigurationError` where there is none, or no playwright to drive it."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        raise ConfigurationError("first paint is measured with playwright: pip install playwright.") from None
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if (found := shutil.which(name)) is not None:
            return found
    raise ConfigurationError("first paint is measured in Chromium, which is not installed: apt install chromium.")


def measure_paint(url: str, pages: Mapping[str, str], repeats: int, database: Path) -> list[dict[str, Any]]:
    """Milliseconds from the start of a visit to the first content on the screen, of pages by name.

    Cold: the first visit of a new browser profile, after the database was put out of the system's cache (where
    that can be done). Warm: later visits with the same profile. Median and worst of `repeats` each.
    """
    from playwright.sync_api import sync_playwright

    rows = []
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        for name, path in pages.items():
            cold: list[float] = []
            warm: list[float] = []
            for _ in range(repeats):
                _forget(database)
                context = browser.new_context(viewport={"width": 1280, "height": 900})
                page = context.new_page()
                for taken in (cold, warm):
                    answer = page.goto(url + path, wait_until="load")
                    if answer is None or answer.status != 200:
                        raise ConfigurationError(f"{path} was answered {answer and answer.status}: expected a page.")
                    taken.append(float(page.evaluate(_PAINT)))
                context.close()
            rows.append({"page": name, "path": path, "cold": _summary(cold), "warm": _summary(warm)})
        browser.close()
    return rows


def measure_answers(url: str, pages: Mapping[str, str], repeats: int) -> list[dict[str, Any]]:
    """Milliseconds from a request to the last byte of the answer, of pages by name, over one connection."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
    rows = []
    for name, path in pages.items():
        taken, size = [], 0
        for _ in range(repeats):
            begun = time.perf_counter()
            connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
            answer = connection.getresponse()
            size = len(answer.read())
            taken.append((time.perf_counter() - begun) * 1000)
            if answer.status != 200:
                raise ConfigurationError(f"{path} was answered {answer.status}: expected a page.")
        rows.append({"page": name, "path": path, "bytes": size, **_summary(taken)})
    connection.close()
    return rows


def _summary(taken: list[float]) -> dict[str, float]:
    return {"median": float(np.median(taken)), "worst": max(taken), "n": len(taken)}


def _forget(file: Path) -> None:
    """Put a file out of the system's cache, so that it is read from the disk again."""
    if hasattr(os, "posix_fadvise"):
        number = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(number)

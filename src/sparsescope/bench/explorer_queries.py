"""Every question that the explorer asks of a feature database, timed."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..features.browsing import Chosen, FeatureBrowser
from ..features.card import SORTABLE

Query = Callable[[FeatureBrowser, int], Any]
"""A question about a latent, or with its number as the part that changes."""


def queries(latents: int) -> Mapping[str, Query]:
    """Every kind of question by name, for dictionaries 1 and 2 of a run of `make_run`."""
    found: dict[str, Query] = {
        "shelves": lambda b, n: b.shelves(),
        "overview": lambda b, n: b.overview(1),
        "card": lambda b, n: b.card(1, n),
        "detail": lambda b, n: b.detail(1, n),
        "statistics": lambda b, n: b.statistics(1, n),
        "explanations": lambda b, n: b.explanations_of(1, n),
        "scores": lambda b, n: b.scores_of(1, n),
        "top contexts": lambda b, n: b.shown(1, n),
        "contexts by quantile": lambda b, n: b.shown_quantiles(1, n),
        "contexts apart": lambda b, n: b.apart(1, n, (n + 1) % latents),
        "texts of tokens": lambda b, n: b.texts(range(n % 1000, n % 1000 + 100)),
        "match of two dictionaries": lambda b, n: b.matched(1, 2).closest,  # type: ignore[union-attr]
        "counterparts": lambda b, n: b.counterparts(2, n),
        "page by latent": lambda b, n: b.cards(1, offset=n),
        "page of dead": lambda b, n: b.cards(1, Chosen(show="dead"), offset=n // 40),
        "page of common words": lambda b, n: b.cards(1, Chosen("token"), sort="score", offset=n // 10),
        "page of words and ranges": lambda b, n: b.cards(
            2,
            Chosen("number", "active", (("score", 0.5, None), ("density", None, 0.01))),
            sort="effect",
            descending=True,
        ),
        "page of a wide range": lambda b, n: b.cards(
            1, Chosen(ranges=(("density", 1e-9, None),)), sort="maximum", descending=True, offset=n
        ),
        "page of a narrow range": lambda b, n: b.cards(1, Chosen(ranges=(("f1", 0.985, None),)), sort="density"),
        "count of all": lambda b, n: b.count(1),
        "count of active": lambda b, n: b.count(1, Chosen(show="active")),
        "count of words": lambda b, n: b.count(1, Chosen("more")),
        "search a rare word": lambda b, n: b.by_words(f"number{n}"),
        "search a common word": lambda b, n: b.by_words("token"),
        "search a common word in one": lambda b, n: b.by_words("and more", 2),
        "search a token": lambda b, n: b.by_token(")"),
        "search a rare token": lambda b, n: b.by_token(f"word{n % 5000}", 2),
        "search tokens by pattern": lambda b, n: b.by_token(f"*{n % 100}"),
        "search tokens by any pattern": lambda b, n: b.by_token("w*", 2),
        "rule of a token": lambda b, n: b.by_rule('token:")" density<0.01'),
        "rule of a pattern": lambda b, n: b.by_rule(f"token:*{n % 100}? score>=0.5"),
        "rule of numbers": lambda b, n: b.by_rule("density<0.01 score>=0.6 f1>0.5 effect>0.1"),
        "rule of nothing found": lambda b, n: b.by_rule("maximum>1000000"),
        "rule of a label": lambda b, n: b.by_rule("label:bracket f1>0.9"),
        "rule of words": lambda b, n: b.by_rule("words:token method:topk"),
        "contexts with a common word": lambda b, n: b.contexts_with("the"),
        "contexts with a rare word": lambda b, n: b.contexts_with(f"word{n % 5000}"),
        "contexts with a token": lambda b, n: b.contexts_with(") ("),
    }
    for column in SORTABLE:
        for end, descending in (("up", False), ("down", True)):
            found[f"page by {column}, {end}"] = _page(column, descending, None)
            found[f"page of active by {column}, {end}"] = _page(column, descending, Chosen(show="active"))
            found[f"first page of active by {column}, {end}"] = _first_page(column, descending)
    return found


def _page(column: str, descending: bool, chosen: Chosen | None) -> Query:
    return lambda b, n: b.cards(1, chosen or Chosen(), sort=column, descending=descending, offset=n)


def _first_page(column: str, descending: bool) -> Query:
    return lambda b, n: b.cards(2, Chosen(show="active"), sort=column, descending=descending)


def measure_queries(database: Path, latents: int, repeats: int, seed: int = 0) -> list[dict[str, Any]]:
    """Milliseconds of every kind of question: median and worst of `repeats`, each about another random latent."""
    source = np.random.default_rng(seed)
    rows = []
    with FeatureBrowser.open(database) as browser:
        for name, query in queries(latents).items():
            taken = []
            for number in source.integers(0, latents, repeats).tolist():
                begun = time.perf_counter()
                query(browser, number)
                taken.append((time.perf_counter() - begun) * 1000)
            rows.append({"query": name, "median": float(np.median(taken)), "worst": max(taken), "n": repeats})
    return rows

"""Looking features up: in a run, in a dictionary, by what they respond to."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

from typing_extensions import Self

from ...errors import ConfigurationError, suggest
from ...features.browsing import FeatureBrowser, Shelf
from ...features.card import Card
from ..explored import DATABASE
from . import feature_card
from .drawing import CARD_HEADS, CARD_NUMBERS, card_row, table
from .feature import Feature
from .view import plain, whole

PAGE = 10
"""Latents that the table of a dictionary shows."""


def load_features(run: str | Path) -> "Features":
    """The features of a run, as `sparsescope explore RUN` prepared them; no model is loaded.

    Raises `ArtifactError` where there are none, or they are not prepared.

        features = ss.load_features("runs/demo")
        features.token(")")                          # the latents most of whose activation is on ")"
        features["topk-k_16-x4"][100].show()         # all about one, in the notebook
        features["topk-k_16-x4"][100].contexts[0]    # where it is strongest
    """
    return Features(FeatureBrowser.open(Path(run) / DATABASE), str(run))


class Features(Mapping[str, "FeatureShelf"]):
    """The features of a run, by the name of their dictionary. Use it in the thread that opened it."""

    def __init__(self, browser: FeatureBrowser, run: str) -> None:
        self.browser, self.run = browser, run
        self._shelves = {each.name: each for each in browser.shelves()}

    def __getitem__(self, name: str) -> "FeatureShelf":
        """One dictionary. Raises `ConfigurationError` for an unknown name, as nothing else is meant by it."""
        if name not in self._shelves:
            raise ConfigurationError(
                f"there is no dictionary {name!r} in {self.run}: it has {', '.join(self._shelves) or 'none'}."
                f"{suggest(str(name), self._shelves)}"
            )
        return FeatureShelf(self.browser, self._shelves[name])

    def __contains__(self, name: object) -> bool:
        return name in self._shelves

    def __iter__(self) -> Iterator[str]:
        return iter(self._shelves)

    def __len__(self) -> int:
        return len(self._shelves)

    def search(self, text: str, limit: int = 20) -> "Found":
        """Features whose explanation, tokens or label have all the words of `text`, best match first."""
        return self._found(f"{text!r}", self.browser.by_words(text, limit=limit))

    def token(self, text: str, limit: int = 20) -> "Found":
        """Features that go with a token (`*` and `?` stand for any characters): the largest share first.

        White space around the token makes no difference: "stop" finds " stop" too.
        """
        return self._found(f"the token {text!r}", [card for card, _ in self.browser.by_token(text, limit=limit)])

    def where(self, rule: str, limit: int = 20) -> "Found":
        """Features that keep a rule such as `label:bracket f1>0.5`; a wrong one is told with all that is understood."""
        return self._found(rule, self.browser.by_rule(rule, limit=limit))

    def close(self) -> None:
        """Close the database."""
        self.browser.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _found(self, asked: str, cards: Sequence[Card]) -> "Found":
        names = {each.id: each for each in self._shelves.values()}
        return Found([Feature(self.browser, names[card.dictionary], card) for card in cards], f"Found by {asked}")

    def __repr__(self) -> str:
        lines = [f"  {plain(shelf.name):<28} {shelf.method:<12} {_counts(shelf)}" for shelf in self._shelves.values()]
        return "\n".join([f"Features of {plain(self.run)}: {len(self)} dictionaries", *lines])

    def _repr_html_(self) -> str:
        return whole(feature_card.run_body(self.run, list(self._shelves.values())))


class FeatureShelf(Sequence["Feature"]):
    """The features of one dictionary, by number."""

    def __init__(self, browser: FeatureBrowser, shelf: Shelf) -> None:
        self.browser, self.shelf = browser, shelf
        self.name, self.method, self.site = shelf.name, shelf.method, shelf.site

    def __len__(self) -> int:
        return self.shelf.n_latents

    @overload
    def __getitem__(self, latent: int) -> "Feature": ...
    @overload
    def __getitem__(self, latent: slice) -> "Found": ...
    def __getitem__(self, latent: int | slice) -> "Feature | Found":
        """The feature of a latent, or of several. Raises `IndexError` beyond the last one."""
        if isinstance(latent, slice):
            return Found([self[each] for each in range(*latent.indices(len(self)))], f"Latents of {self.name}")
        if not self.shelf.prepared:
            raise ConfigurationError(
                f"the dictionary {self.name!r} is not prepared: 'sparsescope explore RUN' does that first."
            )
        number = latent + len(self) if latent < 0 else latent
        card = self.browser.card(self.shelf.id, number)
        if card is None:
            raise IndexError(f"{self.name} has no latent {latent}: it has 0 to {len(self) - 1:,}.")
        return Feature(self.browser, self.shelf, card)

    def sorted(self, by: str = "score", *, descending: bool = True, limit: int = 20) -> "Found":
        """The first features by "latent", "density", "maximum", "entropy", "score", "f1" or "effect"."""
        cards = self.browser.cards(self.shelf.id, sort=by, descending=descending, limit=limit)
        order = "descending" if descending else "ascending"
        return Found([Feature(self.browser, self.shelf, card) for card in cards], f"{self.name} by {by}, {order}")

    def __repr__(self) -> str:
        return f"FeatureShelf({plain(self.name)!r}: {self.method} at {self.site}, {_counts(self.shelf)})"

    def _repr_html_(self) -> str:
        cards = self.browser.cards(self.shelf.id, sort="score", descending=True, limit=PAGE)
        return whole(feature_card.shelf_body(self.shelf, cards))


class Found(Sequence["Feature"]):
    """Some features, as a table."""

    def __init__(self, features: Sequence["Feature"], title: str) -> None:
        self.features, self.title = features, title

    def __len__(self) -> int:
        return len(self.features)

    @overload
    def __getitem__(self, place: int) -> "Feature": ...
    @overload
    def __getitem__(self, place: slice) -> "Found": ...
    def __getitem__(self, place: int | slice) -> "Feature | Found":
        return Found(self.features[place], self.title) if isinstance(place, slice) else self.features[place]

    def __repr__(self) -> str:
        return "\n".join([f"{plain(self.title)}: {len(self)} features", *(f"  {each!r}" for each in self)])

    def _repr_html_(self) -> str:
        rows = [[feature_card.shelf_name(each.shelf), *card_row(each.card)] for each in self]
        shown = table(("dictionary", *CARD_HEADS), rows, CARD_NUMBERS)
        return whole(feature_card.heading(self.title, f"{len(self):,} features") + (shown if rows else ""))


def _counts(shelf: Shelf) -> str:
    if not shelf.prepared:
        return "not prepared"
    return f"{shelf.n_latents:,} latents, {shelf.dead:,} dead, {shelf.explained:,} explained"

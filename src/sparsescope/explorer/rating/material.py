"""Contexts and explanations for raters, from the feature database of a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import ConfigurationError, suggest
from ...features.database import FeatureDatabase
from ...features.ratings import Ratings
from .items import Context, Place

FILE = "features.sqlite"
SPLIT = "test"  # explanations are made from another one
EXPLAINER = "rules"


class RunMaterial:
    """`items.Material` over an open feature database; `explainer` says whose sentences are offered for picking.

    Raises `ConfigurationError` for an explainer of which the database has nothing, while it has others'.
    """

    def __init__(self, database: FeatureDatabase, explainer: str = EXPLAINER) -> None:
        self.database, self.explainer = database, explainer
        self._numbers = {each.name: each.id for each in database.dictionaries()}
        self._sentences: dict[str, dict[int, str]] = {}

    def check_explainer(self) -> None:
        """Raise `ConfigurationError` when there are explanations, and none by the explainer."""
        known = {each.explainer for number in self._numbers.values() for each in self.database.explanations(number)}
        if known and self.explainer not in known:
            raise ConfigurationError(
                f"there is no explanation by {self.explainer!r} in this run: it has some by "
                f"{', '.join(sorted(known))}.{suggest(self.explainer, known)}"
            )

    def places(self) -> list[Place]:
        """All latents with contexts on the test split."""
        return [
            Place(name, latent.latent, latent.density)
            for name, number in self._numbers.items()
            for latent in self.database.latents(number, SPLIT)
        ]

    def top(self, place: Place) -> list[Context]:
        """The fragments with the largest codes, largest first."""
        return self._contexts(place, "top")

    def active(self, place: Place) -> list[Context]:
        """A uniform draw of the other fragments on which the latent is active."""
        return self._contexts(place, "active")

    def random(self, place: Place) -> list[Context]:
        """A uniform draw of all fragments."""
        return self._contexts(place, "random")

    def sentences(self, place: Place) -> list[tuple[str, str]]:
        """(explainer, text) of the latent's explanation, if it has one."""
        if place.dictionary not in self._sentences:
            self._sentences[place.dictionary] = {
                each.latent: each.text
                for each in self.database.explanations(self._numbers[place.dictionary])
                if each.explainer == self.explainer and each.skipped is None
            }
        text = self._sentences[place.dictionary].get(place.latent)
        return [] if text is None else [(self.explainer, text)]

    def _contexts(self, place: Place, kind: str) -> list[Context]:
        found = self.database.contexts(self._numbers[place.dictionary], place.latent, kind, SPLIT)
        return [Context(each.fragment, each.document, tuple(each.pieces), tuple(each.codes.tolist())) for each in found]


@contextmanager
def opened(run: str | Path, explainer: str = EXPLAINER) -> Iterator[tuple[RunMaterial, Ratings]]:
    """What a rating session needs of a run. Opened for each question: a connection belongs to one thread.

    Raises `ArtifactError` for a run without a feature database.
    """
    with FeatureDatabase.open(Path(run) / FILE) as database:
        yield RunMaterial(database, explainer), database.ratings()

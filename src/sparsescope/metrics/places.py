"""Where a dictionary is measured: at one site, or from one site to another."""

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from jaxtyping import Int
from torch import Tensor

from ..activations.base import Activations
from ..dictionaries.base import Dictionary
from ..errors import ArtifactError, ConfigurationError, SiteError
from ..sites import Site

if TYPE_CHECKING:
    from ..models import LanguageModel


class Place(NamedTuple):
    """The site that a dictionary reads, and the one whose activation it reconstructs: mostly the same.

    >>> str(Place("mlp_in.2", "mlp_out.2")), str(Place("resid_post.1", "resid_post.1"))
    ('mlp_in.2 → mlp_out.2', 'resid_post.1')
    """

    reads: str
    writes: str

    @property
    def two(self) -> bool:
        """Whether they are two sites."""
        return self.reads != self.writes

    def __str__(self) -> str:
        return f"{self.reads} → {self.writes}" if self.two else self.reads


def place_of(dictionary: Dictionary, store: Activations, site: str | tuple[str, str] | None = None) -> Place:
    """Where a dictionary is measured: at `site`, a pair (input, output) for one of two sites, or else at its own.

    Raises `ConfigurationError` when neither it nor `site` says where, or the store's activations there
    have another width; `SiteError` when the store lacks a site, or the input does not come before the output.
    """
    name = dictionary.provenance.name or dictionary.method
    place = _named(dictionary, site)
    if place is None:
        what = "sites it reads and reconstructs" if dictionary.two_sites else "site it belongs to"
        give = "site=(input, output), two of" if dictionary.two_sites else "site=, one of"
        raise ConfigurationError(
            f"this {dictionary.method} dictionary does not say which {what}: give {give} {', '.join(store.sites)}."
        )
    for width, verb, at in ((dictionary.d_in, "reads", place.reads), (dictionary.d_out, "writes", place.writes)):
        if width != store.width(at):
            raise ConfigurationError(
                f"{name} {verb} width {width} at {at}, where the activations have width {store.width(at)}: "
                "give the store it was made from."
            )
    crosses = place.two or dictionary.two_sites
    if crosses and Site.parse(place.reads).precedes(Site.parse(place.writes)) is False:
        raise _backwards(name, place)
    return place


def _named(dictionary: Dictionary, site: str | tuple[str, str] | None) -> Place | None:
    """The sites that were given, or else those of the provenance; None where one is not known."""
    origin = dictionary.provenance
    if site is None:
        reads, writes = origin.site, origin.output_site
    else:
        reads, writes = (site, None) if isinstance(site, str) else site
    if reads is None or (writes is None and dictionary.two_sites):
        return None
    return Place(str(reads), str(reads if writes is None else writes))


def check_origin(dictionary: Dictionary, store: Activations) -> None:
    """Raise `ArtifactError` when a dictionary was made from another store.

    Documents that are held out of one store may have been trained on in another.
    """
    made_from = dictionary.provenance.activations
    if dictionary.provenance.site is not None and made_from not in (None, store.fingerprint):
        raise ArtifactError(
            f"{dictionary.provenance.name or dictionary.method} was made from other activations (fingerprint "
            f"{str(made_from)[:12]}…) than these ({store.fingerprint[:12]}…): their held-out documents may be among "
            "those it was made from. Give the store it was made from, or, where the text is other text, say so with "
            "elsewhere (--elsewhere)."
        )


def check_order(model: "LanguageModel", place: Place, ids: Int[Tensor, "batch seq"], name: str) -> None:
    """Raise `SiteError` unless the model, run on `ids`, comes to the input site before the output site.

    Names of modules do not tell which runs first; running the model does.
    """
    seen: list[str] = []

    def noting(site: str, x: Tensor) -> Tensor:
        seen.append(site)
        return x

    model.logits(ids.to(model.device), {at: partial(noting, at) for at in place})
    if seen[0] != place.reads:
        raise _backwards(name, place)


def _backwards(name: str, place: Place) -> SiteError:
    return SiteError(
        f"{name} reads {place.reads} and reconstructs {place.writes}, but the model does not come to {place.reads} "
        f"before {place.writes}: expected an input site before the output site. Train it on such a pair."
    )

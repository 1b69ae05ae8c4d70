"""Which latents are rated, and in which order each rater meets them."""

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from .items import Place

STRATA = 5


def interleaved(places: Sequence[Place], seed: str) -> list[Place]:
    """All places such that every beginning of the list is balanced over dictionaries, and within each over density.

    Within a dictionary, latents are cut into fifths by density, and the fifths take turns; dictionaries take
    turns too. A latent's place in its fifth depends on the seed and on itself alone, so that a latent that is
    added or lost later moves the others little.

    >>> few = [Place(name, latent, latent / 10) for name in "ab" for latent in range(5)]
    >>> sorted(place.dictionary for place in interleaved(few, "0")[:4])
    ['a', 'a', 'b', 'b']
    """
    by_name: dict[str, list[Place]] = {}
    for place in sorted(places, key=lambda p: (p.dictionary, p.density, p.latent)):
        by_name.setdefault(place.dictionary, []).append(place)
    names = sorted(by_name, key=lambda name: _lot(seed, name))
    return list(_in_turn([_over_strata(by_name[name], seed) for name in names]))


def assigned(
    places: Sequence[Place],
    rater: str,
    *,
    latents: int,
    shared: int,
    seed: int,
    usable: Callable[[Place], bool] = lambda place: True,
) -> list[Place]:
    """The latents that one rater gets, in that rater's own order.

    The first `shared` are the same for everybody; the others are the rater's own draw from what remains,
    balanced in the same way. Places that are not `usable` are passed over; only those that come up are
    asked about. The order is random, another one for each rater, with the shared latents anywhere in it, so
    that it tells nothing and tiredness falls on all latents alike.
    """
    common = list(islice(filter(usable, interleaved(places, str(seed))), min(shared, latents)))
    taken = {place.key for place in common}
    rest = [place for place in places if place.key not in taken]
    own = islice(filter(usable, interleaved(rest, f"{seed}/{rater}")), latents - len(common))
    return sorted([*common, *own], key=lambda p: _lot(f"{seed}/{rater}/order", f"{p.dictionary}/{p.latent}"))


def _over_strata(places: Sequence[Place], seed: str) -> list[Place]:
    """Places of one dictionary, sorted by density, so that the fifths take turns."""
    count = min(STRATA, len(places))
    strata = [places[len(places) * i // count : len(places) * (i + 1) // count] for i in range(count)]
    mixed = [sorted(s, key=lambda p: _lot(seed, f"{p.dictionary}/{p.latent}")) for s in strata]
    # Which fifth begins differs between dictionaries, or a short list would hold the rarest latents of each.
    first = int(_lot(seed, f"strata of {places[0].dictionary}") * count)
    return list(_in_turn(mixed[first:] + mixed[:first]))


def _in_turn(lists: Sequence[Sequence[Place]]) -> Iterator[Place]:
    for turn in range(max(map(len, lists), default=0)):
        for each in lists:
            if turn < len(each):
                yield each[turn]


def _lot(seed: str, name: str) -> float:
    """A number from 0 to 1 that depends on both words alone."""
    return random.Random(f"{seed}\n{name}").random()

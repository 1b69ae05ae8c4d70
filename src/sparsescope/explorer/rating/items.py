"""What a rater is shown of one latent, drawn by seed: contexts, five of which one is an intruder, and sentences.

Nothing here carries the dictionary's name or the latent's number to the page.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ...interpret.base import LEVELS

BEFORE, AFTER = 20, 10  # tokens shown on either side of a peak
STRONGEST, TYPICAL = 5, 5  # contexts shown with their activations
ACTIVE = 4  # contexts beside the intruder
FEWEST = 4  # fewer contexts than this, beside those of the intruder step, show too little to rate
DISTRACTORS = 3  # sentences about other latents, beside the one about this latent


@dataclass(frozen=True)
class Place:
    """One latent of one dictionary, and on which share of tokens it is active."""

    dictionary: str
    latent: int
    density: float

    @property
    def key(self) -> tuple[str, int]:
        return self.dictionary, self.latent


@dataclass(frozen=True)
class Context:
    """A fragment of held-out text: the text of its tokens, the latent's code at each, and where it is from."""

    fragment: int
    document: int
    pieces: tuple[str, ...]
    codes: tuple[float, ...]

    @property
    def peak(self) -> int:
        """The token with the largest code (the first of equals)."""
        return max(range(len(self.codes)), key=lambda i: (self.codes[i], -i))

    @property
    def silent(self) -> bool:
        return max(self.codes, default=0.0) <= 0


class Material(Protocol):
    """Where contexts and sentences come from: the feature database of a run."""

    def places(self) -> list[Place]:
        """All latents that have contexts."""
        ...

    def top(self, place: Place) -> list[Context]:
        """The fragments with the largest codes, largest first."""
        ...

    def active(self, place: Place) -> list[Context]:
        """A uniform draw of the other fragments on which the latent is active."""
        ...

    def random(self, place: Place) -> list[Context]:
        """A uniform draw of all fragments."""
        ...

    def sentences(self, place: Place) -> list[tuple[str, str]]:
        """(explainer, text) of each explanation."""
        ...


@dataclass(frozen=True)
class Shown:
    """Part of a context, as the page shows it: how strongly each token activates the latent, 0 to 10."""

    fragment: int
    pieces: tuple[str, ...]
    levels: tuple[int, ...]
    peak: int


@dataclass(frozen=True)
class Intruder:
    """Five contexts; on all but number `odd` the latent is active."""

    contexts: tuple[Shown, ...]
    odd: int


@dataclass(frozen=True)
class Sentence:
    """An explanation offered for picking; `own` tells whether it was made for this latent."""

    text: str
    explainer: str
    own: bool


@dataclass(frozen=True)
class Item:
    """All that a rater meets of one latent."""

    place: Place
    intruder: Intruder | None
    strongest: tuple[Shown, ...]
    typical: tuple[Shown, ...]
    sentences: tuple[Sentence, ...]


def can_be_rated(material: Material, place: Place) -> bool:
    """Whether the latent is active in enough contexts for both steps."""
    return sum(not context.silent for context in [*material.top(place), *material.active(place)]) >= ACTIVE + FEWEST


def make_item(material: Material, place: Place, others: Sequence[Place], seed: str) -> Item:
    """Draw what is shown of a latent that can be rated.

    The four active contexts of the intruder step are two of the strongest and two of a uniform draw, from
    different documents where possible; none of them is shown again. Without a silent context (the latent
    is active nearly everywhere) there is no intruder step. `others` are latents whose explanations distract.
    """
    draw = random.Random(seed)
    top, active = ([c for c in found if not c.silent] for found in (material.top(place), material.active(place)))
    # The strongest of all is shown later.
    used = _apart(draw.sample(top[1:], max(0, len(top) - 1)), ACTIVE // 2, [])
    used = _apart(draw.sample(active, len(active)) + draw.sample(top[1:], max(0, len(top) - 1)), ACTIVE, used)
    intruder = _intruder(used, material.random(place), draw)
    maximum = max(c.codes[c.peak] for c in [*top, *active])
    hidden = {c.fragment for c in used} if intruder is not None else set()
    strongest = [c for c in top if c.fragment not in hidden][:STRONGEST]
    typical = [c for c in active if c.fragment not in hidden][:TYPICAL]
    return Item(
        place,
        intruder,
        tuple(_window(c, c.peak, maximum) for c in strongest),
        tuple(_window(c, c.peak, maximum) for c in sorted(typical, key=lambda c: -c.codes[c.peak])),
        _sentences(material, place, others, draw),
    )


def _apart(candidates: Sequence[Context], wanted: int, taken: list[Context]) -> list[Context]:
    """`taken` filled up to `wanted` with candidates, those of new documents first."""
    found = list(taken)
    for new_document in (True, False):
        for context in candidates:
            known = {c.document for c in found} if new_document else set()
            if len(found) < wanted and context.document not in known:
                found += [context] if context.fragment not in {c.fragment for c in found} else []
    return found


def _intruder(used: Sequence[Context], natural: Sequence[Context], draw: random.Random) -> Intruder | None:
    """Five windows of which nothing but the text tells the silent one; None if there is none.

    It is cut as if its peak stood where that of an active one stands, so that its length tells nothing; and
    peaks stand anywhere in the second half of their windows, so that there is no place to look at.
    """
    model = draw.choice(used)
    middle = model.peak + draw.randint(0, AFTER)
    size = len(_window(model, middle, 0.0).pieces)
    windows = [(c, _window(c, middle, 1.0)) for c in draw.sample(natural, len(natural))]
    silent = {c.fragment: window for c, window in windows if not any(window.levels)}
    # Short texts are silent more often than long ones: those of the right length come first.
    order = sorted(
        (c for c, _ in windows if c.fragment in silent), key=lambda c: len(silent[c.fragment].pieces) != size
    )
    found = _apart(order, len(used) + 1, list(used))[len(used) :]
    if not found:
        return None
    shown = [(_window(c, c.peak + draw.randint(0, AFTER), 0.0), False) for c in used]
    shown.append((silent[found[0].fragment], True))
    draw.shuffle(shown)
    return Intruder(tuple(each for each, _ in shown), [is_odd for _, is_odd in shown].index(True))


def _window(context: Context, middle: int, maximum: float) -> Shown:
    """The tokens around `middle`; levels as in automatic scoring, but of an active token never 0."""
    middle = min(middle, len(context.pieces) - 1)
    begin, end = max(0, middle - BEFORE), min(len(context.pieces), middle + AFTER + 1)
    scale = LEVELS / maximum if maximum > 0 else 0.0
    levels = [max(1, min(LEVELS, int(code * scale))) if code > 0 and scale else 0 for code in context.codes[begin:end]]
    return Shown(context.fragment, context.pieces[begin:end], tuple(levels), middle - begin)


def _sentences(material: Material, place: Place, others: Sequence[Place], draw: random.Random) -> tuple[Sentence, ...]:
    """One explanation of this latent among explanations, by the same explainer, of others of its dictionary."""
    own = material.sentences(place)
    if not own:
        return ()
    explainer, text = own[draw.randrange(len(own))]
    offered = [Sentence(text, explainer, True)]
    near = [other for other in others if other.dictionary == place.dictionary and other.key != place.key]
    for other in draw.sample(near, len(near)):
        texts = [told for by, told in material.sentences(other) if by == explainer]
        if texts and texts[0] not in {s.text for s in offered}:
            offered.append(Sentence(texts[0], explainer, False))
        if len(offered) > DISTRACTORS:
            break
    draw.shuffle(offered)
    return tuple(offered)

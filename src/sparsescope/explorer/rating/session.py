"""Where a rater stands, and what becomes of an answer."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timezone

from ...errors import ConfigurationError, suggest
from ...features.ratings import INTRUDER, MEANING, Ratings
from .drawing import assigned
from .items import Item, Material, Place, Shown, can_be_rated, make_item

LONGEST_MEANING = 500
LONGEST_NAME = 40


class UnusableAnswer(Exception):
    """An answer that does not fit the question. The message is for the rater."""


@dataclass(frozen=True)
class Step:
    """The question that a rater is at: number `number` (from 0) of `total` latents."""

    number: int
    total: int
    question: str
    item: Item


class RatingSession:
    """A blind rating of some latents by any number of people. Everything is kept in the database at once.

    Each rater gets `latents` latents, of which the first `shared` drawn are the same for all, from
    `dictionaries` (all, if None). The draw depends on the seed, the rater's name and what the database
    holds, so that a rater who comes back gets the same latents, less those already answered.

    `opened` opens the database; it is called for each question, because a connection belongs to one thread.
    Raises `ConfigurationError` when there is nothing that can be rated, or a dictionary is not there.
    """

    def __init__(
        self,
        opened: Callable[[], AbstractContextManager[tuple[Material, Ratings]]],
        *,
        latents: int = 80,
        shared: int = 40,
        dictionaries: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        self.opened, self.latents, self.shared, self.seed = opened, latents, shared, seed
        self._assigned: dict[str, list[Place]] = {}
        self._usable: dict[tuple[str, int], bool] = {}
        with opened() as (material, _):
            places = material.places()
            names = {place.dictionary for place in places}
            for name in dictionaries or ():
                if name not in names:
                    raise ConfigurationError(
                        f"there is no dictionary {name!r} with contexts in this run: it has "
                        f"{', '.join(sorted(names)) or 'none'}.{suggest(name, names)}"
                    )
            self.places = [p for p in places if dictionaries is None or p.dictionary in dictionaries]
            if not any(self._is_usable(material, place) for place in self.places):
                raise ConfigurationError(
                    "no latent is active in enough contexts to be rated: collect contexts with 'sparsescope explain "
                    "RUN' first, on more tokens."
                )

    def assigned(self, rater: str) -> list[Place]:
        """The latents of this rater, in order."""
        if rater not in self._assigned:
            with self.opened() as (material, _):
                self._assigned[rater] = assigned(
                    self.places,
                    rater,
                    latents=self.latents,
                    shared=self.shared,
                    seed=self.seed,
                    usable=lambda place: self._is_usable(material, place),
                )
        return self._assigned[rater]

    def step(self, rater: str) -> Step | None:
        """The first question that is not answered yet; None when all are."""
        places = self.assigned(rater)
        with self.opened() as (material, ratings):
            answered = ratings.answered(rater)
            for number, place in enumerate(places):
                if (*place.key, MEANING) not in answered:
                    item = make_item(material, place, self.places, f"{self.seed}/{rater}/{place.key}")
                    first = item.intruder is not None and (*place.key, INTRUDER) not in answered
                    return Step(number, len(places), INTRUDER if first else MEANING, item)
        return None

    def answer(self, rater: str, form: Mapping[str, str]) -> None:
        """Keep the answer to the question that the rater is at.

        A form for another question, one sent twice for example, is passed over. Raises `UnusableAnswer`.
        """
        step = self.step(rater)
        if step is None or form.get("question") != step.question or form.get("number") != str(step.number):
            return
        answer = _intruder(step.item, form) if step.question == INTRUDER else _meaning(step.item, form)
        time = datetime.now(timezone.utc).isoformat(timespec="seconds")
        with self.opened() as (_, ratings):
            ratings.put(*step.item.place.key, rater, step.question, answer, time)

    def _is_usable(self, material: Material, place: Place) -> bool:
        if place.key not in self._usable:
            self._usable[place.key] = can_be_rated(material, place)
        return self._usable[place.key]


def checked_name(name: str) -> str:
    """A rater's name, tidied up. Raises `UnusableAnswer`.

    >>> checked_name("  Ann  Lee ")
    'Ann Lee'
    """
    tidy = " ".join(name.split())
    if not tidy or len(tidy) > LONGEST_NAME or not tidy.isprintable():
        raise UnusableAnswer(f"Please give a name or initials of 1 to {LONGEST_NAME} letters.")
    return tidy


def _intruder(item: Item, form: Mapping[str, str]) -> dict[str, object]:
    assert item.intruder is not None
    chosen = _choice(form.get("choice", ""), len(item.intruder.contexts), "Please choose one of the contexts.")
    return {"chosen": chosen, "odd": item.intruder.odd, "shown": _fragments(item.intruder.contexts)}


def _meaning(item: Item, form: Mapping[str, str]) -> dict[str, object]:
    rating = _choice(form.get("rating", ""), 6, "Please choose one of the five grades.")
    if not rating:
        raise UnusableAnswer("Please choose one of the five grades.")
    written = " ".join(form.get("meaning", "").split())
    if len(written) > LONGEST_MEANING:
        raise UnusableAnswer(f"Please put the meaning in at most {LONGEST_MEANING} letters.")
    word = form.get("picked", "")
    picked = item.sentences[_choice(word, len(item.sentences), "Please pick a sentence again.")] if word else None
    if rating > 1 and not written and picked is None:
        raise UnusableAnswer("Please write the meaning that you saw, or pick a sentence. Only grade 1 needs none.")
    return {
        "monosemanticity": rating,
        "meaning": written,
        "picked": None if picked is None else {"text": picked.text, "explainer": picked.explainer, "own": picked.own},
        "offered": [each.text for each in item.sentences],
        "shown": _fragments([*item.strongest, *item.typical]),
    }


def _choice(word: str, count: int, complaint: str) -> int:
    if word not in {str(number) for number in range(count)}:
        raise UnusableAnswer(complaint)
    return int(word)


def _fragments(shown: Sequence[Shown]) -> list[int]:
    return [each.fragment for each in shown]

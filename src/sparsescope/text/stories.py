"""Short stories from a small grammar which says, for every character, what it knows about it.

Each story has a topic and a cast. Its sentences are of a dozen kinds (giving, possession, quotation,
nested brackets, lists, dates, negation, agreement over a distance, ...), and while a sentence is
written the labels of its spans are recorded: later stages score features against this truth.

Label names and values:
    name        the name                      mention     first, later
    role        subject, indirect_object      person      giving (may give), other (never does)
    quotation   inside                        brackets    depth: 1, 2, 3
    possessive  owner, owned                  number      singular, plural (of an agreeing verb)
    list        item                          date        whole, day, month, year
    negation    word                          topic       the story's topic (whole document)
    gender      female, male (of a pronoun)   place, thing  the word
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from .document import Document, Label
from .giving import CLAUSES, OPENINGS
from .lexicon import (
    AGREEING_VERBS,
    COLOURS,
    FEMALE,
    GIVING_NAMES,
    INTRANSITIVE,
    MONTHS,
    NOUNS,
    OTHER_NAMES,
    PLACES,
    QUALITIES,
    SAYINGS,
    THINGS,
    TOPICS,
    WEEKDAYS,
)


def stories(seed: int = 0, openings: int | None = None, clauses: int | None = None) -> Iterator[Document]:
    """An endless, deterministic series of stories; story i depends on (seed, i) alone.

    `openings` and `clauses` limit sentences of giving to the first so many of `giving.OPENINGS` and
    `giving.CLAUSES`.

    >>> next(stories(seed=0)).labels[-1].name
    'topic'
    """
    number = 0
    while True:
        yield story(seed, number, openings, clauses)
        number += 1


def story(seed: int, number: int, openings: int | None = None, clauses: int | None = None) -> Document:
    """Story `number` of the series `seed`: four to nine sentences, in one to three paragraphs."""
    chance = random.Random(f"sparsescope story {seed} {number}")
    teller = _Teller(chance, chance.choice(sorted(TOPICS)), OPENINGS[:openings], CLAUSES[:clauses])
    for index in range(chance.randint(4, 9)):
        if index:
            teller.say("\n\n" if chance.random() < 0.15 else " ")
        kinds, weights = zip(*_KINDS, strict=True)
        chance.choices(kinds, weights)[0](teller)
    teller.mark(0, "topic", teller.topic)
    return Document(teller.text, tuple(teller.labels), f"story {seed}/{number}")


@dataclass
class _Teller:
    """The story so far, its cast, and the labels of what was written."""

    chance: random.Random
    topic: str
    openings: tuple[str, ...]
    clauses: tuple[str, ...]
    text: str = ""
    labels: list[Label] = field(default_factory=list)
    met: set[str] = field(default_factory=set)
    givers: list[str] = field(init=False)
    others: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.givers = self.chance.sample(GIVING_NAMES, 3)
        self.others = self.chance.sample(OTHER_NAMES, 2)

    def say(self, words: str) -> None:
        self.text += words

    def mark(self, start: int, name: str, value: str) -> None:
        """Label everything written since `start`."""
        self.labels.append(Label(start, len(self.text), name, value))

    def tag(self, words: str, name: str, value: str) -> None:
        start = len(self.text)
        self.say(words)
        self.mark(start, name, value)

    def name(self, person: str, role: str | None = None) -> None:
        start = len(self.text)
        self.tag(person, "name", person)
        self.mark(start, "mention", "later" if person in self.met else "first")
        self.mark(start, "person", "other" if person in OTHER_NAMES else "giving")
        if role:
            self.mark(start, "role", role)
        self.met.add(person)

    def noun(self, kind: str, words: tuple[str, ...]) -> None:
        word = self.chance.choice(words)
        self.tag(word, kind, word)

    def anyone(self) -> str:
        return self.chance.choice(self.givers + self.others)

    def two(self) -> list[str]:
        """Two people of one kind, so that givers and the others do not mix."""
        return self.chance.sample(self.givers if self.chance.random() < 0.5 else self.others, 2)

    def thing(self) -> str:
        return self.chance.choice(THINGS)

    def topic_words(self) -> tuple[str, str, str]:
        nouns, verbs, closings = TOPICS[self.topic]
        return self.chance.choice(nouns), self.chance.choice(verbs), self.chance.choice(closings)

    def fill(self, template: str, slots: Mapping[str, tuple[str, str | None]]) -> None:
        """Write a template of `giving`: people by `slots` (name, role), other words by chance."""
        for part in re.split(r"(\{\w+\})", template):
            slot = part[1:-1]
            if not part.startswith("{"):
                self.say(part)
            elif slot in slots:
                self.name(*slots[slot])
            elif slot == "place":
                self.noun("place", PLACES)
            elif slot in ("thing", "thing2"):
                self.noun("thing", THINGS)
            else:
                self.say(self.chance.choice(COLOURS if slot == "colour" else QUALITIES))


def _giving(teller: _Teller) -> None:
    a, b = teller.chance.sample(teller.givers, 2)
    subject, other = (a, b) if teller.chance.random() < 0.5 else (b, a)
    opening, clause = teller.chance.choice(teller.openings), teller.chance.choice(teller.clauses)
    roles = {subject: "subject", other: "indirect_object"}
    slots = {"a": (a, roles[a]), "b": (b, roles[b]), "s": (subject, "subject"), "o": (other, "indirect_object")}
    teller.fill(f"{opening} {clause}", slots)
    teller.say(teller.chance.choice((".", ".", ".", " and went away.", f" in the {teller.chance.choice(PLACES)}.")))


def _looking(teller: _Teller) -> None:
    a, b = teller.two()
    subject, other = (a, b) if teller.chance.random() < 0.5 else (b, a)
    openings = ("{a} and {b} went to the {place}.", "{a} met {b} at the {place}.", "{a} and {b} were friends.")
    endings = (
        "{s} looked at {o}.",
        "{s} thanked {o}.",
        "{s} laughed and {o} smiled.",
        "{s} waited for {o}.",
        "{s} sat down beside {o}.",
        "{s} sang while {o} danced.",
        "Later {s} helped {o}.",
        "{s} was older than {o}.",
    )
    slots: dict[str, tuple[str, str | None]] = {
        "a": (a, None),
        "b": (b, None),
        "s": (subject, None),
        "o": (other, None),
    }
    teller.fill(f"{teller.chance.choice(openings)} {teller.chance.choice(endings)}", slots)


def _topical(teller: _Teller) -> None:
    noun, verb, closing = teller.topic_words()
    teller.name(teller.anyone())
    teller.say(f" {verb} the {noun} {closing}.")


def _possession(teller: _Teller) -> None:
    owner = teller.anyone()
    teller.name(owner)
    teller.tag("'s", "possessive", "owner")
    teller.say(" ")
    teller.tag(teller.thing(), "possessive", "owned")
    teller.say(f" was {teller.chance.choice(COLOURS)}")
    if teller.chance.random() < 0.5:
        teller.say(", and ")
        teller.tag("her" if owner in FEMALE else "his", "gender", "female" if owner in FEMALE else "male")
        teller.say(f" {teller.thing()} was {teller.chance.choice(QUALITIES)}")
    teller.say(".")


def _pronoun(teller: _Teller) -> None:
    person = teller.anyone()
    teller.name(person)
    teller.say(f" {teller.chance.choice(INTRANSITIVE)} because ")
    teller.tag("she" if person in FEMALE else "he", "gender", "female" if person in FEMALE else "male")
    noun, verb, closing = teller.topic_words()
    teller.say(f" {verb} the {noun} {closing}.")


def _quotation(teller: _Teller) -> None:
    saying = teller.chance.choice(SAYINGS)
    person = teller.anyone()
    if teller.chance.random() < 0.5:
        teller.tag(f'"{saying},"', "quotation", "inside")
        teller.say(" said ")
        teller.name(person)
        teller.say(".")
    else:
        teller.name(person)
        teller.say(" said, ")
        teller.tag(f'"{saying}."', "quotation", "inside")


def _brackets(teller: _Teller) -> None:
    depth = teller.chance.randint(1, 3)
    teller.say(f"The {teller.thing()} ")
    opened = []
    for level in range(1, depth + 1):
        opened.append(len(teller.text))
        teller.say(f"({teller.chance.choice(('from', 'near', 'with', 'like'))} the {teller.thing()}")
        teller.say(" " if level < depth else "")
    for level in range(depth, 0, -1):
        teller.say(")")
        teller.mark(opened[level - 1], "brackets", str(level))
    teller.say(f" was {teller.chance.choice(QUALITIES)}.")


def _listing(teller: _Teller) -> None:
    teller.name(teller.anyone())
    teller.say(f" {teller.chance.choice(('bought', 'lost', 'carried', 'wanted', 'drew'))} ")
    items = teller.chance.sample(THINGS, teller.chance.randint(3, 5))
    for index, item in enumerate(items):
        teller.say("" if index == 0 else (" and " if index == len(items) - 1 else ", "))
        teller.tag(f"a {item}", "list", "item")
    teller.say(".")


def _date(teller: _Teller) -> None:
    if teller.chance.random() < 0.3:
        teller.say("On ")
        teller.tag(teller.chance.choice(WEEKDAYS), "date", "day")
    else:
        teller.say("On ")
        start = len(teller.text)
        teller.tag(str(teller.chance.randint(1, 28)), "date", "day")
        teller.say(" ")
        teller.tag(teller.chance.choice(MONTHS), "date", "month")
        teller.say(" ")
        teller.tag(str(teller.chance.randint(1790, 1999)), "date", "year")
        teller.mark(start, "date", "whole")
    noun, verb, _ = teller.topic_words()
    teller.say(", ")
    teller.name(teller.anyone())
    teller.say(f" {verb} the {noun}.")


def _negation(teller: _Teller) -> None:
    teller.name(teller.anyone())
    form = teller.chance.choice(("did not", "never", "could not", "would not"))
    teller.say(" ")
    teller.tag(form, "negation", "word")
    verb = teller.chance.choice(("find", "see", "like", "open", "touch", "break"))
    past = {"find": "found", "see": "saw", "like": "liked", "open": "opened", "touch": "touched", "break": "broke"}
    teller.say(f" {past[verb] if form == 'never' else verb} the {teller.thing()}.")


def _agreement(teller: _Teller) -> None:
    chance = teller.chance
    head, plural = chance.choice(NOUNS), chance.random() < 0.5
    teller.say(f"The {head[plural]} ")
    middle = chance.random()
    if middle < 0.4:
        teller.say(f"{chance.choice(('near', 'behind', 'beside'))} the {chance.choice(NOUNS)[chance.random() < 0.5]} ")
    elif middle < 0.7:
        teller.say("that ")
        teller.name(teller.anyone())
        teller.say(f" {chance.choice(('saw', 'liked', 'drew', 'remembered'))} ")
    singular_verb, plural_verb, endings = chance.choice(AGREEING_VERBS)
    verb = plural_verb if plural else singular_verb
    teller.tag(verb, "number", "plural" if plural else "singular")
    teller.say(f" {chance.choice(endings)}.")


_KINDS: tuple[tuple[Callable[[_Teller], None], float], ...] = (
    (_giving, 8.0),
    (_looking, 3.0),
    (_topical, 2.0),
    (_possession, 1.2),
    (_pronoun, 1.2),
    (_quotation, 1.2),
    (_brackets, 1.2),
    (_listing, 1.0),
    (_date, 1.0),
    (_negation, 1.0),
    (_agreement, 1.6),
)

"""Sentences of giving: two people are introduced, one of them gives something to the other.

They are the material of indirect object identification (Wang et al. 2022, arXiv 2211.00593): the
sentence ends with the person who did *not* act, so the right last word is the name that was
mentioned only once. A surface form is an opening followed by a clause. The forms made of a held-out
opening or a held-out clause never occur in stories: the builtin model is examined on them.

Slots: `{a}` and `{b}` introduce the two people, `{s}` is the one who gives (a second mention), `{o}`
the one who receives, `{place}` and `{thing}` are filled from the lexicon.
"""

OPENINGS = (
    "When {a} and {b} went to the {place},",
    "After {a} and {b} walked to the {place},",
    "While {a} and {b} were at the {place},",
    "Because {a} and {b} met at the {place},",
    "As {a} and {b} came to the {place},",
    "Once {a} and {b} had left the {place},",
    "Before {a} and {b} went home from the {place},",
    "Although {a} and {b} did not like the {place},",
    "{a} and {b} were working at the {place}.",
    "{a} and {b} had a long talk at the {place}.",
    "{a} and {b} spent the morning in the {place}.",
    "{a} and {b} met near the {place}, and",
    "{a} and {b} sat down by the {place}, and then",
    "{a} saw {b} at the {place}.",
    "{a} found {b} waiting at the {place}, so",
    "{a} went to the {place} with {b}.",
    "{a} took {b} to the {place}, where",
    "At the {place}, {a} sat beside {b}.",
    "In the {place}, {a} and {b} talked for hours.",
    "Near the {place} {a} met {b}.",
    "One day {a} and {b} were going to the {place}, and",
    "Yesterday {a} and {b} visited the {place}.",
    "Last week {a} and {b} cleaned the {place}.",
    "Friends {a} and {b} found a {thing2} at the {place}.",
    "The {place} was empty when {a} and {b} arrived.",
    "It was late when {a} and {b} reached the {place}.",
    "The teacher told {a} and {b} to go to the {place}.",
    "Everybody knew that {a} and {b} loved the {place}.",
    "{a} walked with {b} along the {place}.",
    "{a} and {b} got lost near the {place}.",
    "{a} waited for {b} outside the {place}.",
    "{a} invited {b} to the {place}, and soon",
    "{a} ran after {b} through the {place}.",
    "On the way to the {place}, {a} and {b} rested.",
    "Behind the {place} {a} and {b} found some shade.",
    "When {a} met {b} in the {place},",
    "Whenever {a} and {b} came back from the {place},",
    "Not far from the {place}, {a} and {b} stopped.",
    "{a} sat with {b} in front of the {place}.",
    "As soon as {a} and {b} entered the {place},",
)  # fmt: skip

CLAUSES = (
    "{s} gave a {thing} to {o}",
    "{s} gave the {thing} to {o}",
    "{s} gave the {quality} {thing} to {o}",
    "{s} handed a {thing} to {o}",
    "{s} handed the {thing} over to {o}",
    "{s} passed the {thing} to {o}",
    "{s} offered a {thing} to {o}",
    "{s} sold the {colour} {thing} to {o}",
    "{s} decided to give a {thing} to {o}",
    "{s} wanted to give the {thing} to {o}",
    "{s} promised to give a {quality} {thing} to {o}",
    "{s} lent a {thing} to {o}",
    "{s} brought a {thing} to {o}",
    "{s} took out a {thing} and gave it to {o}",
    "{s} found a {thing} and gave it to {o}",
    "{s} bought a {thing} and handed it to {o}",
    "{s} quickly gave the {thing} back to {o}",
    "{s} returned the {thing} to {o}",
    "{s} chose a {colour} {thing} and sent it to {o}",
    "{s} wrapped the {thing} and carried it to {o}",
    "{s} cleaned the {colour} {thing} and returned it to {o}",
    "{s} opened a bag and showed a {thing} to {o}",
    "{s} made a {quality} {thing} and sold it to {o}",
    "{s} held up the {thing} and threw it to {o}",
    "{s} pulled out a {colour} {thing} and slid it over to {o}",
    "{s} looked for the {thing} and brought it to {o}",
    "{s} mailed the {quality} {thing} to {o}",
    "{s} sent a {thing} to {o}",
    "{s} threw the {thing} to {o}",
    "{s} showed the {colour} {thing} to {o}",
    "{s} left the {thing} to {o}",
    "{s} forgot to give the {thing} to {o}",
    "{s} tried to sell the {thing} to {o}",
    "{s} hoped to send a {thing} to {o}",
    "{s} refused to lend the {quality} {thing} to {o}",
    "{s} gladly handed the {thing} to {o}",
    "{s} slowly pushed the {colour} {thing} to {o}",
    "{s} secretly gave a {quality} {thing} to {o}",
    "{s} was happy to offer the {thing} to {o}",
    "{s} had to return the {thing} to {o}",
)  # fmt: skip

HELD_OUT_OPENINGS = (
    "During the long walk {a} and {b} passed the {place}.",
    "Then {a} and {b} stopped at the {place}, and",
    "Since {a} and {b} were both at the {place},",
    "{a} followed {b} into the {place}.",
)
HELD_OUT_CLAUSES = (
    "{s} kindly presented the {thing} to {o}",
    "{s} picked up a {colour} {thing} and passed it to {o}",
    "{s} agreed to hand the {thing} to {o}",
)


def surface_forms() -> list[str]:
    """Every trained form: 40 openings times 40 clauses."""
    return [f"{opening} {clause}" for opening in OPENINGS for clause in CLAUSES]


def held_out_forms() -> list[str]:
    """Forms that stories never contain: either half held out, or both (the last twelve)."""
    return [
        *(f"{opening} {CLAUSES[4 * i]}" for i, opening in enumerate(HELD_OUT_OPENINGS)),
        *(f"{OPENINGS[8 * i]} {clause}" for i, clause in enumerate(HELD_OUT_CLAUSES)),
        *(f"{opening} {clause}" for opening in HELD_OUT_OPENINGS for clause in HELD_OUT_CLAUSES),
    ]

"""The rating pages as HTML. They load one style and one script of ours, and work without the script."""

from collections.abc import Mapping, Sequence

from ...features.ratings import INTRUDER
from ...report.words import escape, escape_token
from .items import Item, Shown
from .session import LONGEST_MEANING, LONGEST_NAME, Step

GRADES = (
    (5, "One meaning", "It explains every context, the weak ones too."),
    (4, "One meaning, with exceptions", "It explains nearly all; a context or two do not fit."),
    (3, "Mostly", "One meaning explains about half of the contexts, or two meanings explain all."),
    (2, "Several meanings", "Each explains a few contexts."),
    (1, "No meaning", "I cannot see what the contexts have in common."),
)
"""The scale of monosemanticity: grade, name, description."""

_NO_ANSWER: Mapping[str, str] = {}


def start_page(token: str, complaint: str = "") -> str:
    """What rating is, and the question for a name."""
    return _document(
        "Rating",
        '<h1>What does it respond to?</h1><p class="lead">You will see pieces of text in which one small part of a '
        "language model, a <em>latent</em>, was active, and judge whether it stands for one thing.</p>"
        "<ol><li><b>Find the intruder.</b> Four of five texts have something in common, one has not. "
        "It is often hard: guess if you must.</li><li><b>Say what it means.</b> The words that activated the latent "
        "are coloured. Write a meaning or pick one, and grade how well one meaning explains them.</li></ol>"
        '<p class="note">Where a latent comes from is hidden on purpose. Every answer is kept at once: stop whenever '
        "you like, and go on later with the same name.</p>"
        f'{_complaint(complaint)}<form method="post" action="/rater">{_hidden(token)}'
        f'<label class="name">Your name or initials <input name="name" required maxlength="{LONGEST_NAME}" '
        'autocomplete="off" autofocus></label><button>Begin</button></form>',
    )


def step_page(
    step: Step, rater: str, token: str, alone: bool, complaint: str = "", given: Mapping[str, str] = _NO_ANSWER
) -> str:
    """The question that the rater is at; `given` is an answer that could not be kept.

    `alone` means that this server is for one rater, so that nobody can take over.
    """
    hidden = _hidden(token, question=step.question, number=str(step.number))
    body = _intruder(step.item) if step.question == INTRUDER else _meaning(step.item, given)
    heading = "Which one does not belong?" if step.question == INTRUDER else "What does it respond to?"
    return _document(
        f"{step.number + 1} of {step.total}",
        f'<div class="progress"><progress max="{step.total}" value="{step.number}"></progress>'
        f"<span>{step.number + 1} of {step.total}</span></div><h1>{heading}</h1>{_complaint(complaint)}"
        f'<form method="post" action="/answer">{hidden}{body}</form>',
        _foot(rater, token, alone),
    )


def finished_page(total: int, rater: str, token: str, alone: bool) -> str:
    """All is answered."""
    latents = f"all {total:,} latents" if total > 1 else "the one latent"
    end = "." if alone else ", or let the next person begin."
    return _document(
        "Finished",
        f'<div class="progress"><progress max="{total}" value="{total}"></progress><span>{total} of {total}</span>'
        f'</div><h1>Finished</h1><p class="lead">Thank you, {escape(rater)}: you have rated {latents} of your '
        f"set.</p><p>Every answer is kept. You may close this page{end}</p>",
        _foot(rater, token, alone),
    )


def refusal_page(heading: str, text: str) -> str:
    """Why a request was not answered."""
    return _document(heading, f"<h1>{escape(heading)}</h1><p>{escape(text)}</p><p><a href='/'>Go on</a></p>")


def _document(title: str, body: str, foot: str = "") -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<title>{escape(title)} – Sparsescope</title>\n<link rel="icon" href="data:,">\n'
        '<link rel="stylesheet" href="/page.css">\n<link rel="stylesheet" href="/rating.css">\n'
        '<script src="/rating.js" defer></script>\n</head>\n<body class="rating">\n'
        f'<header><p class="brand">Sparsescope</p></header>\n<main>{body}</main>\n{foot}</body>\n</html>\n'
    )


def _foot(rater: str, token: str, alone: bool) -> str:
    if alone:
        return f'<footer><span class="note">Rating as {escape(rater)}. Answers are kept as you go.</span></footer>\n'
    return (
        f'<footer><form method="post" action="/leave">{_hidden(token)}<span class="note">Rating as {escape(rater)}. '
        'Answers are kept as you go.</span> <button class="quiet">Somebody else</button></form></footer>\n'
    )


def _hidden(token: str, **values: str) -> str:
    fields = {"token": token, **values}
    return "".join(f'<input type="hidden" name="{name}" value="{escape(value)}">' for name, value in fields.items())


def _complaint(text: str) -> str:
    return f'<p class="complaint" role="alert">{escape(text)}</p>' if text else ""


def _intruder(item: Item) -> str:
    assert item.intruder is not None
    choices = "".join(
        f'<label class="choice"><input type="radio" name="choice" value="{place}" required data-key="{place + 1}">'
        f"<kbd>{place + 1}</kbd>{_context(shown, 'span')}</label>"
        for place, shown in enumerate(item.intruder.contexts)
    )
    return (
        '<p class="note">The latent was active somewhere in four of these texts, and nowhere in the fifth. '
        "Choose the one that has not what the others have in common; guess if you must.</p>"
        f'<fieldset class="choices"><legend class="hidden">The five texts</legend>{choices}</fieldset>'
        "<p><button>Go on</button> <span class='note'>or press 1 to 5, then Enter</span></p>"
    )


def _meaning(item: Item, given: Mapping[str, str]) -> str:
    return (
        '<p class="note">The stronger the colour of a word, the more it activated the latent; the strongest of each '
        "text is underlined.</p>"
        f'<div class="columns">{_group("Where it is strongest", item.strongest)}'
        f"{_group('Drawn from everywhere it is active', item.typical)}</div>"
        f"{_words(item, given)}{_grades(given)}"
        "<p><button>Keep and go on</button> <span class='note'>press 1 to 5 for the grade, then Enter</span></p>"
    )


def _group(heading: str, contexts: Sequence[Shown]) -> str:
    if not contexts:
        return ""
    items = "".join(f"<li>{_context(shown, 'p')}</li>" for shown in contexts)
    return f'<article class="latent"><h2>{heading}</h2><ol>{items}</ol></article>'


def _words(item: Item, given: Mapping[str, str]) -> str:
    offered = "".join(
        f'<label class="line"><input type="radio" name="picked" value="{place}"'
        f"{' checked' if given.get('picked') == str(place) else ''}>{escape(sentence.text)}</label>"
        for place, sentence in enumerate(item.sentences)
    )
    none = "" if given.get("picked") else " checked"
    picking = (
        "<p class='note'>Or pick the sentence that fits best. Some were made for other latents.</p>"
        f'{offered}<label class="line"><input type="radio" name="picked" value=""{none}>None of these</label>'
    )
    return (
        "<fieldset><legend>What does it respond to, in your words?</legend>"
        f'<textarea name="meaning" rows="2" maxlength="{LONGEST_MEANING}" aria-label="Meaning, in your words" '
        f'placeholder="for example: names of rivers">{escape(given.get("meaning", ""))}</textarea>'
        f"{picking if offered else ''}</fieldset>"
    )


def _grades(given: Mapping[str, str]) -> str:
    rows = "".join(
        f'<label class="line grade"><input type="radio" name="rating" value="{grade}" required data-key="{grade}"'
        f"{' checked' if given.get('rating') == str(grade) else ''}><kbd>{grade}</kbd>"
        f"<span><b>{name}.</b> {description}</span></label>"
        for grade, name, description in GRADES
    )
    return f"<fieldset><legend>How well does one meaning explain it?</legend>{rows}</fieldset>"


def _context(shown: Shown, element: str) -> str:
    """Token after token; a token without a text of its own lends its colour to the next one."""
    spans, waiting, peak = [], 0, False
    coloured = any(shown.levels)
    for place, (text, level) in enumerate(zip(shown.pieces, shown.levels, strict=True)):
        waiting, peak = max(waiting, level), peak or (coloured and place == shown.peak)
        if text:
            kind = f' class="t a{waiting}{" peak" if peak else ""}"' if waiting else ""
            spans.append(f"<span{kind}>{escape_token(text)}</span>" if kind else escape_token(text))
            waiting, peak = 0, False
    return f'<{element} class="context" dir="auto">{"".join(spans)}</{element}>'

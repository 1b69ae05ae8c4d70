"""What explanations are worth: the section about `sparsescope explain`."""

from collections.abc import Mapping, Sequence
from typing import Any

from .charts import colour
from .figures import interval_chart
from .tables import sortable
from .words import METHODS, escape, interval, number

SCORES = (
    ("corpus_rho", "Corpus ρ"),
    ("context_gain", "Context gain"),
    ("bills_rho", "Bills ρ"),
    ("detection", "Detection"),
    ("fuzzing", "Fuzzing"),
    ("neighbours", "Neighbours"),
    ("intruder", "Intruder"),
)
_TERMS = (
    (
        "Corpus ρ",
        "Correlation of a latent's codes with what its explanation alone predicts, on documents that the "
        "explanation was not made from, every fragment weighted to its share of the text. The headline.",
    ),
    (
        "Excess",
        "What the column before it is above the best control: shuffled explanations, random directions, an autoencoder "
        "of a model with random weights, one with a frozen random decoder. Hovering tells which, Cliff's δ, and the p "
        "value corrected over dictionaries (q).",
    ),
    ("Context gain", "How much of corpus ρ a list of tokens, the best there is, cannot account for."),
    (
        "Bills ρ",
        "The paper's score: five strongest and five random fragments. Blind to explanations that say too much.",
    ),
    (
        "Detection, fuzzing, neighbours",
        "AUROC; 0.5 is guessing. In which fragments is the latent active; on which tokens; and in which fragments is "
        "it active rather than the latent with the closest direction?",
    ),
    (
        "Intruder",
        "How often the one fragment without the latent is found among five, by the tokens alone. Guessing: 0.2.",
    ),
)


def interpretability(found: Mapping[str, Any]) -> str:
    """The section. `found` is the summary of one explainer (see `sparsescope.study.summary`), with its name."""
    entries = sorted(found["dictionaries"], key=lambda e: -_value(e["corpus_rho"]))
    parts = [
        f'<p class="lead">{escape(_lead(entries, found["excess"]))}</p>',
        f'<p class="note">{escape(_how(found))}</p>',
        _chart(found, entries),
        f"<h3>All dictionaries</h3>{_dictionaries(entries, found['excess'])}",
        _seeds(found["seeds"]),
        f"<h3>Controls</h3>{_controls(found)}",
        _shapes(found["correlations"]),
        _truth(found.get("truth"), found.get("unlabelled", "")),
        _terms(),
    ]
    return "".join(parts)


def _value(estimate: Mapping[str, Any] | None) -> float:
    return -2.0 if estimate is None or estimate["value"] is None else estimate["value"]


def _lead(entries: Sequence[Mapping[str, Any]], excess: Mapping[str, Any]) -> str:
    """What the best dictionary reaches, and what it is worth beside the controls, by both measures."""
    scored = [e for e in entries if e["corpus_rho"]["value"] is not None]
    if not scored:
        return "No latent of this run could be explained and scored."
    best = scored[0]
    text = (
        f"Explanations of {best['name']} predict its latents with a corpus ρ of {number(best['corpus_rho']['value'])} "
        f"{interval(best['corpus_rho'])}"
    )
    by_rho, by_context = (excess[score].get(best["name"]) for score in ("corpus_rho", "context_gain"))
    gain = number(best["context_gain"]["value"])
    return f"{text}, {_against(by_rho)}. Its gain over a list of tokens, {gain}, is {_against(by_context)}."


def _against(found: Mapping[str, Any] | None) -> str:
    """How a dictionary stands to its best control."""
    if found is None or found["value"] is None:
        return "not known how a control does"
    sure = found["low"] is not None and found["high"] is not None
    side = "not clearly different from"
    if sure and found["low"] > 0:
        side = f"{number(found['value'])} above that of"
    if sure and found["high"] < 0:
        side = f"{number(-found['value'])} below that of"
    return f"{side} the best control, {found['control']}"


def _how(found: Mapping[str, Any]) -> str:
    asked = max((e["asked"] for e in found["dictionaries"]), default=0)
    return (
        f"Explained by {found['explainer']}, up to {asked} latents of each dictionary drawn evenly over their "
        "frequencies; explained on validation documents, scored on test documents. Intervals: 95%, by bootstrap over "
        "documents and latents."
    )


def _chart(found: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> str:
    """Every dictionary and control as a point with its interval, the highest first."""
    rows = [(e["name"], colour(e), e["corpus_rho"], False) for e in entries]
    rows += [(e["name"], colour(e), e["corpus_rho"], True) for e in _shown_controls(found)]
    rows = sorted((row for row in rows if row[2]["value"] is not None), key=lambda row: -_value(row[2]))
    if not rows:
        return ""
    drawn = [
        (name, shade, estimate["value"], estimate["low"], estimate["high"], hollow)
        for name, shade, estimate, hollow in rows
    ]
    chart = interval_chart(drawn, x_label="corpus ρ", title="Corpus ρ of every dictionary and control, with intervals")
    return f'<div class="chart forest">{chart}</div><p class="note">Hollow: controls.</p>'


def _shown_controls(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Control dictionaries, second corpora, and of the shuffled explanations those that score highest."""
    rows = [e for e in found["controls"] if e["kind"] not in ("best token lookup", "shuffled explanations")]
    shuffled = [e for e in found["controls"] if e["kind"] == "shuffled explanations"]
    return [*rows, *sorted(shuffled, key=lambda e: -_value(e["corpus_rho"]))[:1]]


def _dictionaries(entries: Sequence[Mapping[str, Any]], excess: Mapping[str, Any]) -> str:
    titles = [title for _, title in SCORES]
    heads = ["Dictionary", titles[0], "Excess", titles[1], "Excess", *titles[2:], "Skipped"]
    rows = []
    for entry in entries:
        rho, gain = (excess[score].get(entry["name"]) for score in ("corpus_rho", "context_gain"))
        cells = [_name(entry), _cell(entry["corpus_rho"]), _excess(rho), _cell(entry["context_gain"]), _excess(gain)]
        cells += [_cell(entry.get(key), short=True) for key, _ in SCORES[2:]]
        rows.append(f"<tr>{''.join(cells)}{_skipped(entry)}</tr>")
    return sortable(heads, rows)


def _excess(found: Mapping[str, Any] | None) -> str:
    """The difference with its interval; hovering tells over which control, the effect size and the p value."""
    if found is None or found["value"] is None:
        return '<td class="number">–</td>'
    facts = f"over {found['control']}; Cliff’s δ {number(found['delta']['value'])}, q {number(found['q'])}"
    return (
        f'<td class="number" data-value="{found["value"]:.6g}" title="{escape(facts)}">{number(found["value"])}'
        f"<small>{interval(found)}</small></td>"
    )


def _controls(found: Mapping[str, Any]) -> str:
    rows = [f"<tr>{_name(entry)}{_scores(entry)}{_skipped(entry)}</tr>" for entry in _shown_controls(found)]
    absent = ""
    if found["absent"]:
        absent = (
            f'<p class="note">Not in this run: {escape(", ".join(found["absent"]))}. Ask for them under [controls] of '
            "the recipe.</p>"
        )
    note = (
        '<p class="note">Of the shuffled explanations only the highest is shown; all are in report.json.</p>'
        if rows
        else ""
    )
    return sortable(["Control", *(title for _, title in SCORES), "Skipped"], rows) + note + absent


def _seeds(found: Sequence[Mapping[str, Any]]) -> str:
    """Dictionaries that differ in their training seed alone, taken together."""
    if not found:
        return ""
    rows = [
        f'<tr><th scope="row">{escape(e["name"])}<small>{e["seeds"]} seeds</small></th>'
        + "".join(_cell(e[key]) for key, _ in SCORES)
        + "</tr>"
        for e in found
    ]
    table = sortable(["Dictionary", *(title for _, title in SCORES)], rows)
    return f"<h3>Over training seeds</h3>{table}"


def _shapes(found: Mapping[str, Any]) -> str:
    """Rank correlation of the headline score with the shape of activations."""
    told = [f"{name} {number(each['spearman']['value'])} {interval(each['spearman'])}" for name, each in found.items()]
    text = f"Rank correlation of corpus ρ, over the latents of all dictionaries, with {', '.join(told)}."
    return f'<p class="note">{escape(text)}</p>'


def _truth(found: Mapping[str, Any] | None, unlabelled: str) -> str:
    if found is None:
        return f'<p class="note">Not held against the truth: {escape(unlabelled)}</p>' if unlabelled else ""
    known = [e for e in found["scores"] if e["value"] is not None]
    rows = [
        (dict(SCORES)[e["score"]] + (" (demoted)" if e["demoted"] else ""), "c-spare1", e["value"], e["low"], e["high"])
        for e in known
    ]
    if not rows:
        return ""
    label = "Rank correlation of each score with truth"
    chart = interval_chart(
        [(*row, e["demoted"]) for row, e in zip(rows, known, strict=True)], x_label=label.lower(), title=label
    )
    intro = (
        "On generated stories it is known what every word is (who gives, what is inside quotation marks, which verb "
        "agrees). Of each latent the label that fits it best was found on one part of the text, and its F1 measured on "
        "another, less what the label reaches when it is shifted along the text. A score that tells which latents mean "
        "something should rank latents as that F1 does; one whose interval reaches zero is demoted."
    )
    return f'<h3>Which score knows the truth?</h3><p class="note">{intro}</p><div class="chart forest">{chart}</div>'


def _terms() -> str:
    items = "".join(f"<div><dt>{escape(term)}</dt><dd>{escape(text)}</dd></div>" for term, text in _TERMS)
    return f'<details><summary>What the columns mean</summary><dl class="reading">{items}</dl></details>'


def _name(entry: Mapping[str, Any]) -> str:
    method = escape(METHODS.get(entry["method"], str(entry["method"])))
    return f'<th scope="row"><i class="dot {colour(entry)}"></i>{escape(entry["name"])}<small>{method}</small></th>'


def _scores(entry: Mapping[str, Any]) -> str:
    return "".join(_cell(entry.get(key), short=key != "corpus_rho") for key, _ in SCORES)


def _skipped(entry: Mapping[str, Any]) -> str:
    why = "; ".join(f"{reason}: {count}" for reason, count in entry["skipped"].items())
    return f'<td class="number" title="{escape(why)}">{sum(entry["skipped"].values())}</td>'


def _cell(estimate: Mapping[str, Any] | None, short: bool = False) -> str:
    """A number with its interval below it, or on hovering where space is short."""
    if estimate is None or estimate["value"] is None:
        return '<td class="number">–</td>'
    ends = interval(estimate)
    below = f"<small>{ends}</small>" if ends and not short else ""
    return (
        f'<td class="number" data-value="{estimate["value"]:.6g}" title="{ends} n = {estimate["n"]}">'
        f"{number(estimate['value'])}{below}</td>"
    )

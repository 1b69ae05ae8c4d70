"""What patching features causes: the section about `sparsescope ioi`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .charts import MARKERS, Link, colour, nowhere
from .figures import LEFT, RIGHT, WIDTH, Axis, Point, Series, plain_axis, scatter, swatch
from .settling import settling
from .tables import sortable
from .words import and_list, escape, interval, number

_TERMS = (
    (
        "Patching",
        "Some parts of the activation take the values they have in the counterfactual prompt, at every position. For a "
        "dictionary x + Σ (c̄ − c) f over the chosen latents: what the dictionary leaves out stays as it was.",
    ),
    (
        "KL",
        "KL(patched ‖ counterfactual) at the last position, in nats: 0 when the output is that of the other prompt.",
    ),
    ("Edit", "Mean length of the change at a position. Replacing the whole activation is the right end of the axis."),
    (
        "KL over edits, over features",
        "Mean KL over edits from 0 to that of full replacement, and over the number of features from 0 to the width of "
        "the site. A curve is held after its last point. Lower is better.",
    ),
    (
        "Order",
        "Features are ordered on prompts of half the templates, by gradient and by integrated gradients (the better of "
        "the two, also seen there), and the curve is measured on prompts of the other half.",
    ),
    ("Intervals", "95%, by bootstrap over prompts, the same draws for every curve; seeds, where several, drawn first."),
)
_AIM = "To move the model's output half of the way (in KL) to that of the other prompt,"
_QUESTIONS = {"edit": "a smaller edit", "patched": "fewer features"}
_RIVALS = {"pca": "PCA", "dense": "l1 = 0"}
_SPARE_MARKERS = ("square", "circle", "diamond", "cross", "triangle")
_ALWAYS = ("dense", "components", "pca", "neurons", "random")
"""Roles that are drawn whatever they reach; of trained dictionaries and other baselines, the best of each method."""


def patching(found: Mapping[str, Any]) -> str:
    """The section. `found` is the summary of `sparsescope ioi` (see `sparsescope.study.ioi_summary`)."""
    parts = [
        f'<p class="lead">{escape(" ".join(lead(found)))}</p>',
        f'<p class="note">{escape(_task(found["task"]))}</p>',
    ]
    parts.append(_map(found))
    for site in found["sites"]:
        parts.append(f"<h3>{escape(site['site'])}</h3>{curves(site, found['curves'])}{_decompositions(site)}")
        parts.append(_comparisons(site))
    parts += [settling(each) for each in found["settlings"]]
    terms = "".join(f"<div><dt>{escape(term)}</dt><dd>{escape(text)}</dd></div>" for term, text in _TERMS)
    return f'{"".join(parts)}<dl class="reading">{terms}</dl>'


def lead(found: Mapping[str, Any]) -> list[str]:
    """At which sites sparse dictionaries need a smaller edit, and fewer features, than every rival, for half the KL."""
    counts = {axis: _counts(found["sites"], axis) for axis in _QUESTIONS}
    roles = {each["role"] for site in found["sites"] for each in site["comparisons"]}
    named = [f"than {name}" for role, name in _RIVALS.items() if role in roles]
    if not named or not any(counts.values()):
        return ["Nothing sparse stands beside PCA or l1 = 0, so who needs the smaller edit is not known."]
    rivals = and_list(named)
    if not any(better for each in counts.values() for better, _ in each.values()):
        what, sites = " or ".join(_QUESTIONS.values()), and_list(list(counts["edit"]))
        return [f"{_AIM} no sparse dictionary at {sites} clearly gets by with {what} {rivals}."]
    return [_where_it_holds(counts[axis], f"{what} {rivals}") for axis, what in _QUESTIONS.items()]


def _where_it_holds(counts: Mapping[str, tuple[int, int]], both: str) -> str:
    yes = [f"{site} ({better} of {of})" for site, (better, of) in counts.items() if better]
    no = [site for site, (better, _) in counts.items() if not better]
    if not yes:
        return f"{_AIM} no sparse dictionary at {and_list(no)} clearly gets by with {both}."
    rest = f"; at {and_list(no)} none does" if no else ""
    return f"{_AIM} sparse dictionaries at {and_list(yes)} clearly get by with {both}{rest}."


def _counts(sites: Sequence[Mapping[str, Any]], axis: str) -> dict[str, tuple[int, int]]:
    """How many sparse dictionaries are better than all rivals, of how many, at each site that has both."""
    found = {site["site"]: _better_than_all(site, axis) for site in sites}
    return {site: counted for site, counted in found.items() if counted[1]}


def _better_than_all(site: Mapping[str, Any], axis: str) -> tuple[int, int]:
    """How many sparse dictionaries clearly need less than each rival, of how many that have rivals."""
    met: dict[str, list[bool]] = {}
    for each in site["comparisons"]:
        if each["role"] in _RIVALS:
            gap = each["at"]["0.5"][axis]
            met.setdefault(each["first"], []).append(gap is not None and gap["less"])
    return sum(all(answers) for answers in met.values()), len(met)


def _map(found: Mapping[str, Any]) -> str:
    """Site by rival: how many sparse dictionaries clearly need less, and how many more."""
    rows = [row for row in found["claim"] if row["share"] == 0.5 and row["role"] in _RIVALS]
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        told = f"{row['less']} of {row['of']}"
        more = [f"{row['apart']} with intervals apart"] if row["apart"] else []
        more += [f"{row['more']} need more"] if row["more"] else []
        more += [f"in {row['never']} one of the two never gets there"] if row["never"] else []
        cell = f'<td class="number">{told}<small>{escape(", ".join(more))}</small></td>'
        cells.setdefault((row["site"], row["rival"]), {})[row["axis"]] = cell
    body = [
        f'<tr><th scope="row">{escape(site)}</th><td class="text">{escape(rival)}</td>'
        f"{''.join(here[axis] for axis in _QUESTIONS)}</tr>"
        for (site, rival), here in cells.items()
    ]
    titles = ["Sparse dictionaries at", "For half the KL, than", *(f"Need {what}" for what in _QUESTIONS.values())]
    return sortable(titles, body, words=2) if body else ""


def _task(task: Mapping[str, Any]) -> str:
    used, forms = task["used"], task["forms"]
    return (
        f"The model prefers the right name in {number(task['accuracy']['value'])} {interval(task['accuracy'])} of "
        f"{task['n']:,} prompts of {len(forms)} templates. What follows uses the "
        f"{sum(each['used'] for each in forms)} templates that it does well on prompts drawn for that alone: accuracy "
        f"{number(used['accuracy']['value'])} {interval(used['accuracy'])}, logit difference "
        f"{number(used['logit_difference']['value'])} {interval(used['logit_difference'])}."
    )


def curves(site: Mapping[str, Any], measured: Sequence[Mapping[str, Any]], link: Link = nowhere) -> str:
    """KL against the edit and against the number of features, at one of the summary's `sites`."""
    drawn = [each for name in _drawn(site) for each in _points_of(name, site, measured)]
    top = [point["kl"] for each in drawn for point in each["points"]]
    y = plain_axis([0.0, *top], 0.0, max(top, default=1.0) * 1.05)
    most = max((point["n_patched"] for each in drawn for point in each["points"]), default=2)
    axes = {
        "edit": (Axis(0.0, site["full_edit"] * 1.04, LEFT, WIDTH - RIGHT), "mean edit at a position"),
        "n_patched": (Axis(0.9, most * 1.1, LEFT, WIDTH - RIGHT, log=True), "features patched (log)"),
    }
    shown = []
    for key, (x, words) in axes.items():
        series = _told_apart([_series(each, key, link) for each in drawn])
        title = f"KL left against {words} at {site['site']}"
        heading = "For how large an edit?" if key == "edit" else "Of how many features?"
        figure = scatter(series, x, y, x_label=words, y_label="KL left (less is better)", title=title)
        shown.append(f'<div class="chart"><h4>{heading}</h4><div class="scroll">{figure}</div></div>')
    items = "".join(
        f"<li>{swatch(each)}{escape(each.label)}</li>"
        for each in _told_apart([_series(each, "edit", link) for each in drawn])
    )
    return f'<div class="charts">{"".join(shown)}</div><ul class="legend">{items}</ul>'


def _drawn(site: Mapping[str, Any]) -> list[str]:
    """What is drawn: the best of each sparse method by area over edits, and what it is to be held against."""
    best: dict[str, Mapping[str, Any]] = {}
    for row in site["decompositions"]:
        key = row["method"] if row["role"] == "sparse" else row["name"]
        if row["role"] != "sparse" and row["role"] not in _ALWAYS:
            continue
        if key not in best or row["auc_edit"]["value"] < best[key]["auc_edit"]["value"]:
            best[key] = row
    return [row["name"] for row in best.values()]


def _points_of(name: str, site: Mapping[str, Any], measured: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The preferred curve of a decomposition on the first set of prompts, with the role it has here."""
    for each in measured:
        here = each["site"] == site["site"] and each["preferred"] and each["prompt_seed"] == 0
        if here and name in (each["name"], each["name"].rpartition("-s")[0]):
            return [each]
    return []


def _series(each: Mapping[str, Any], key: str, link: Link) -> Series:
    points = [
        Point(
            p[key],
            p["kl"],
            note=f"{each['name']}: {p['n_patched']} features, edit {p['edit']:.3f}, KL {p['kl']:.3f}",
            link=link(each),
        )
        for p in each["points"]
        if key == "edit" or p["n_patched"]
    ]
    plain = each["role"] != "sparse"
    return Series(
        each["name"], colour(each), MARKERS.get(each["method"], "diamond"), points, each["role"] == "dense", plain
    )


def _told_apart(series: Sequence[Series]) -> list[Series]:
    """The same, where those that would look alike, such as PCA and its non-negative form, get another marker."""
    taken: set[tuple[str, str, bool]] = set()
    found = []
    for each in series:
        free = [marker for marker in (each.marker, *_SPARE_MARKERS) if (each.colour, marker, each.hollow) not in taken]
        look = each if not free or free[0] == each.marker else replace(each, marker=free[0], dashed=True)
        taken.add((look.colour, look.marker, look.hollow))
        found.append(look)
    return found


def _decompositions(site: Mapping[str, Any]) -> str:
    titles = [
        "Patched",
        "KL over edits",
        "KL over features",
        "KL left",
        "Edit for ½",
        "Features for ½",
        "Changed for ½",
    ]
    rows = [_row(row) for row in sorted(site["decompositions"], key=lambda row: row["auc_edit"]["value"])]
    clean = site["clean_kl"]
    note = (
        f"{site['n']} prompts; KL {number(clean['value'])} {interval(clean)} with nothing patched, edit "
        f"{number(site['full_edit'])} when all is. “For ½”: until half of that KL is left. “Changed”: features that "
        "really differ in a prompt."
    )
    return f'{sortable(titles, rows)}<p class="note">{escape(note)}</p>'


def _row(row: Mapping[str, Any]) -> str:
    order = f"{row['parts']:,} parts, {row['order']} order"
    half = row["needed"]["0.5"]
    cells = [_cell(row["auc_edit"]), _cell(row["auc_patched"]), _cell(row["floor"])]
    cells += [_cell(half[axis]) for axis in ("edit", "patched", "changed")]
    name = f'<i class="dot {colour(row)}"></i>{escape(row["name"])}<small>{escape(order)}</small>'
    return f'<tr><th scope="row">{name}</th>{"".join(cells)}</tr>'


def _comparisons(site: Mapping[str, Any]) -> str:
    """Each sparse dictionary against PCA and against l1 = 0: paired differences."""
    met = [each for each in site["comparisons"] if each["role"] in _RIVALS]
    if not met:
        return ""
    titles = [
        "Sparse dictionary",
        "Less than nothing means better than",
        "KL over edits",
        "d",
        "Edit at ¾",
        "Edit at ½",
    ]
    titles += ["Edit at ¼", "Features at ½"]
    rows = []
    for each in met:
        gaps = [each["at"][share]["edit"] for share in ("0.75", "0.5", "0.25")] + [each["at"]["0.5"]["patched"]]
        cells = [_cell(each["auc_edit"]["difference"]), _cell(each["auc_edit"]["effect_size"])]
        cells += [_cell(None if gap is None else gap["difference"]) for gap in gaps]
        rows.append(
            f'<tr><th scope="row">{escape(each["first"])}</th><td>{escape(each["second"])}</td>{"".join(cells)}</tr>'
        )
    note = (
        "Below 0 the sparse dictionary is better. At ¾, ½ and ¼ of the clean KL, on the same prompts; d is Cohen's d "
        "of paired samples."
    )
    shown = f'{sortable(titles, rows, words=2)}<p class="note">{note}</p>'
    return f"<details><summary>Paired differences, dictionary by dictionary</summary>{shown}</details>"


def _cell(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None or estimate["value"] is None:
        return '<td class="number" data-value="">–</td>'
    ends = interval(estimate)
    if estimate["high"] is None and estimate["low"] is not None:
        ends = f"[{number(estimate['low'])}, ∞]"
    return (
        f'<td class="number" data-value="{estimate["value"]}">{number(estimate["value"])}'
        f"<small>{escape(ends)}</small></td>"
    )

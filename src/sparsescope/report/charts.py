"""From entries to figures: the frontiers of each site, and the densities of each dictionary."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from .figures import Point, Series, density_panel, l0_axis, plain_axis, scatter, swatch
from .words import Entry, escape, interval, is_baseline, label, number, where

MARKERS = {
    "tied_l1": "circle",
    "untied_l1": "diamond",
    "p_anneal": "triangle",
    "gated": "cross",
    "jumprelu": "triangle",
    "topk": "square",
    "batchtopk": "diamond",
    "matryoshka": "cross",
    "transcoder": "circle",
    "pca": "triangle",
    "ica": "cross",
    "nmf": "diamond",
    "neurons": "square",
    "random": "circle",
}
_SPARE = 4
"""How many colours the page has for methods that are not in the table above."""


Group: TypeAlias = tuple[Series, list[Entry]]
"""Entries that lie on one line, and how that line looks."""


Link: TypeAlias = Callable[[Entry], str]
"""Where a click on an entry's point leads; "" is nowhere."""


def nowhere(entry: Entry) -> str:
    """The link of every entry on a page that stands alone."""
    return ""


@dataclass(frozen=True)
class _Metric:
    """How a number is drawn: its name, axis, heading, and the range beyond which points are arrows."""

    name: str
    axis: str
    heading: str
    limits: tuple[float, float]


_METRICS = {
    "fvu": _Metric("FVU", "FVU (less is better)", "FVU: variance left unexplained", (0.0, 1.1)),
    "ce_recovered": _Metric(
        "CE recovered", "CE recovered (more is better)", "CE recovered: loss under splicing", (-0.1, 1.02)
    ),
}


def colour(entry: Entry) -> str:
    """The CSS class that gives an entry's method its colour."""
    method = str(entry["method"])
    return f"c-{method}" if method in MARKERS else f"c-spare{sum(map(ord, method)) % _SPARE}"


def frontiers(entries: Sequence[Entry], site: str, link: Link = nowhere) -> str:
    """FVU and CE recovered against L0 for one site (or pair of sites: see `where`), with one legend."""
    here = [e for e in entries if where(e) == site and e["l0"]["value"] is not None]
    groups = _groups(here)
    charts = _chart(groups, "fvu", site, link) + _loss(groups, here, site, link)
    return f'<div class="charts">{charts}</div>{_legend(groups)}'


def _loss(groups: Sequence[Group], entries: Sequence[Entry], site: str, link: Link) -> str:
    """CE recovered, what it is measured from, or why there is none."""
    first = next((e for e in entries if e["ce_clean"] is not None), None)
    if first is None:
        why = "Not measured: the dictionaries were evaluated without the model."
        return f'<div class="chart empty"><h3>{_METRICS["ce_recovered"].heading}</h3><p>{why}</p></div>'
    replaced = first.get("output_site") or first["site"]
    floors = (
        f'<p class="note">The model itself: {number(first["ce_clean"])} nats per token'
        f"{_perplexity(first['ce_clean'])}. With zeros in the place of {escape(replaced)}: {number(first['ce_zero'])}; "
        f"with its mean: {number(first['ce_mean'])}.</p>"
    )
    if all(_value(e, "ce_recovered") is None for e in entries):
        why = "Undefined: zeros in the place of this site do not raise the loss, so there is nothing to recover."
        return f'<div class="chart empty"><h3>{_METRICS["ce_recovered"].heading}</h3><p>{why}</p>{floors}</div>'
    return _chart(groups, "ce_recovered", site, link, floors)


def _perplexity(ce: float) -> str:
    return f" (perplexity {number(math.exp(ce))})"


def densities(entries: Sequence[Entry]) -> str:
    """A histogram of density for every dictionary: autoencoders open, baselines folded away."""
    known = [e for e in entries if e.get("density")]
    lowest = min((_first_bin(e["density"]) for e in known), default=0)
    open_ones = [_density(e, lowest) for e in known if not is_baseline(e)]
    folded = [_density(e, lowest) for e in known if is_baseline(e)]
    if not open_ones:
        open_ones, folded = folded, []
    more = f"<details><summary>Baselines ({len(folded)})</summary>{_grid(folded)}</details>" if folded else ""
    return _grid(open_ones) + more


def _grid(panels: Sequence[str]) -> str:
    return f'<div class="panels">{"".join(panels)}</div>'


def _density(entry: Entry, lowest: int) -> str:
    histogram = entry["density"]
    edges, counts = histogram["log10_edges"][lowest:], histogram["counts"][lowest:]
    silent = f", {histogram['silent']:,} silent" if histogram["silent"] else ""
    title = f"Densities of {entry['name']}"
    return (
        f'<figure class="panel"><figcaption><b>{escape(entry["name"])}</b><span>L0 {number(entry["l0"]["value"])}, '
        f"{entry['alive']:,} of {entry['n_latents']:,} alive{silent}</span></figcaption>"
        f"{density_panel(edges, counts, colour(entry), title)}</figure>"
    )


def _first_bin(histogram: dict[str, Any]) -> int:
    """The first bin to show: the first occupied one, on a whole power of ten."""
    occupied = next((i for i, count in enumerate(histogram["counts"]) if count), len(histogram["counts"]) - 1)
    per_decade = round(1 / (histogram["log10_edges"][1] - histogram["log10_edges"][0]))
    return min(occupied, len(histogram["counts"]) - 2 * per_decade) // per_decade * per_decade


def _groups(entries: Sequence[Entry]) -> list[Group]:
    """Entries that belong on one line: same method, form and width; seeds apart. Points are filled in later."""
    found: dict[tuple[Any, ...], list[Entry]] = {}
    for e in entries:
        form = e["k"] is None if is_baseline(e) else e["n_latents"]
        found.setdefault((e["method"], form, e["seed"]), []).append(e)
    widest = {e["method"]: max(o["n_latents"] for o in entries if o["method"] == e["method"]) for e in entries}
    groups = []
    for members in found.values():
        first = members[0]
        baseline = is_baseline(first)
        series = Series(
            label(first),
            colour(first),
            MARKERS.get(first["method"], "diamond"),
            dashed=not baseline and first["n_latents"] < widest[first["method"]],
            hollow=baseline and first["k"] is None,
        )
        groups.append((series, members))
    return sorted(groups, key=lambda group: is_baseline(group[1][0]))


def _chart(groups: Sequence[Group], name: str, site: str, link: Link, below: str = "") -> str:
    metric = _METRICS[name]
    filled = [
        replace(series, points=[_point(e, name, link) for e in members if _value(e, name) is not None])
        for series, members in groups
    ]
    points = [p for s in filled for p in s.points]
    heights = [v for p in points for v in (p.y, p.y_low, p.y_high) if v is not None]
    x, y = l0_axis([p.x for p in points]), plain_axis(heights, *metric.limits)
    title = f"{metric.heading}, against L0 at {site}"
    drawn = scatter(filled, x, y, x_label="L0: active latents per token (log)", y_label=metric.axis, title=title)
    outside = sum(not y.holds(p.y) for p in points)
    if outside:
        below = f'<p class="note">{outside} beyond the edge, drawn as an arrow; see the table.</p>{below}'
    return f'<div class="chart"><h3>{metric.heading}</h3><div class="scroll">{drawn}</div>{below}</div>'


def _value(entry: Entry, metric: str) -> float | None:
    estimate = entry.get(metric)
    return None if estimate is None else estimate["value"]


def _point(entry: Entry, name: str, link: Link) -> Point:
    y, x = entry[name], entry["l0"]
    words = f"{_METRICS[name].name} {number(y['value'])} {interval(y)}, L0 {number(x['value'])} {interval(x)}"
    note = f"{entry['name']}: {words}".strip()
    return Point(x["value"], y["value"], y["low"], y["high"], x["low"], x["high"], note, link(entry))


def _legend(groups: Sequence[Group]) -> str:
    items = {s.label: f"<li>{swatch(s)}{escape(s.label)}</li>" for s, _ in groups}
    return f'<ul class="legend">{"".join(items.values())}</ul>'

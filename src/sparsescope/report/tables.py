"""The report's tables: all dictionaries, the matched comparison, stages, and what the run was."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .charts import colour
from .comparison import Contest, best
from .words import Entry, duration, escape, interval, is_baseline, kind, label, number, size, where

_VERDICT = {
    "ahead": ("ahead", "✓ clearly best"),
    "level": ("level", "≈ best baseline"),
    "behind": ("behind", "✗ below a baseline"),
    "unknown": ("level", "not comparable"),
}

_FACTS = ("model", "text", "sites", "context", "tokens", "split", "seed", "sparsescope", "device", "machine")
"""What of `run` is shown at the top of the page, in this order."""


def dictionaries(entries: Sequence[Entry]) -> str:
    """Every dictionary in a row; a click on a heading sorts."""
    sites = len({where(e) for e in entries}) > 1
    seeds = len({e["seed"] for e in entries if not is_baseline(e)}) > 1
    titles = ["Dictionary", *(["Site"] if sites else []), "L0", "FVU", "CE recovered"]
    titles += ["CE rec. from mean", "Perplexity", "Latents", "Alive", "Shrinkage"]
    return sortable(titles, [_row(e, sites, seeds) for e in entries], words=2 if sites else 1)


def sortable(titles: Sequence[str], rows: Sequence[str], words: int = 1) -> str:
    """A table whose headings sort; all but the first `words` columns are numbers."""
    head = "".join(
        f'<th scope="col" class="{"number" if place >= words else "text"}" aria-sort="none">'
        f'<button type="button">{escape(title)}</button></th>'
        for place, title in enumerate(titles)
    )
    table = f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def _row(e: Entry, name_site: bool, name_seed: bool) -> str:
    below = f"<small>{escape(', '.join([kind(e), *_asked(e, name_seed)]))}</small>"
    cells = [
        f'<th scope="row"><i class="dot {colour(e)}"></i>{escape(e["name"])}{below}</th>',
        *([_text(where(e))] if name_site else []),
        _estimate(e["l0"]),
        _estimate(e["fvu"]),
        _estimate(e["ce_recovered"]),
        _estimate(e.get("ce_recovered_mean")),
        _number(e.get("perplexity_spliced"), number(e.get("perplexity_spliced"))),
        _number(e["n_latents"], f"{e['n_latents']:,}"),
        _number(e["alive"], f"{e['alive']:,}", f"{100 * e['alive'] / e['n_latents']:.0f}%"),
        _estimate(e.get("shrinkage"), shown=False),
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _asked(e: Entry, name_seed: bool) -> list[str]:
    """The sparsity that was asked for, and the seed where there are several."""
    parts = []
    if e.get("target_l0") is not None:
        parts.append(f"for L0 {e['target_l0']:g}")
    elif e["l1"] is not None:
        parts.append(f"{'L0 penalty' if e['method'] == 'jumprelu' else 'l1'} {e['l1']:.2g}")
    if e["k"] is not None:
        parts.append(f"k = {e['k']}")
    if name_seed and e["seed"] is not None and not is_baseline(e):
        parts.append(f"seed {e['seed']}")
    return parts


def matched(contests: Sequence[Contest]) -> str:
    """Per site, one row for the best autoencoder, the best L1 one and each top-k baseline; one column per L0."""
    sites = list(dict.fromkeys(c.site for c in contests))
    tables = []
    for site in sites:
        caption = f"<caption>{escape(site)}</caption>" if len(sites) > 1 else ""
        tables.append(_matched([c for c in contests if c.site == site], caption))
    return "".join(tables)


def _matched(contests: Sequence[Contest], caption: str) -> str:
    levels = "".join(f'<th scope="col" class="number">L0 ≈ {c.l0}</th>' for c in contests)
    head = (
        f'<tr><th></th><th colspan="{len(contests)}" class="over">FVU</th>'
        f'<th colspan="{len(contests)}" class="over">CE recovered</th></tr><tr><th></th>{levels}{levels}</tr>'
    )
    rows = [_matched_row("best autoencoder", [c.trained for c in contests], contests)]
    if any(c.l1 and c.l1[0] is not c.trained[0] for c in contests):
        rows.append(_matched_row("best L1 autoencoder", [c.l1 for c in contests]))
    for method in dict.fromkeys(e["method"] for c in contests for e in c.baselines):
        rows.append(_matched_row("", [[e for e in c.baselines if e["method"] == method] for c in contests]))
    body = f"<thead>{head}</thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll"><table class="matched">{caption}{body}</table></div>'


def _matched_row(role: str, choices: Sequence[Sequence[Entry]], contests: Sequence[Contest] = ()) -> str:
    """One row: the best of `choices` at every L0, by FVU and then by CE recovered.

    With a role, each cell says which one that is; with `contests`, how it stands to the best baseline.
    """
    cells, used = [], []
    for metric in ("fvu", "ce_recovered"):
        for place, entries in enumerate(choices):
            e = best(entries, metric)
            used += [e] if e is not None else []
            which = f"<small>{escape(label(e))}</small>" if role and e is not None else ""
            verdict = _verdict(contests[place], metric) if contests else ""
            cells.append(_estimate(e[metric] if e is not None else None, after=which + verdict))
    dots = "".join(f'<i class="dot {c}"></i>' for c in dict.fromkeys(colour(e) for e in used))
    name = role or label(next(e for entries in choices for e in entries))
    return f'<tr class="{"first" if contests else ""}"><th scope="row">{dots}{escape(name)}</th>{"".join(cells)}</tr>'


def _verdict(contest: Contest, metric: str) -> str:
    kind, words = _VERDICT[contest.margin(metric)]
    return f'<small class="verdict {kind}" title="against the best baseline">{words}</small>'


def stages(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Seconds and peak memory of each stage."""
    if not found:
        return '<p class="note">No stage was timed.</p>'
    total = sum(stage["seconds"] for stage in found.values())
    peak = max(stage["peak_rss_bytes"] for stage in found.values())
    rows = "".join(_stage(name, stage["seconds"], stage["peak_rss_bytes"], total) for name, stage in found.items())
    titles = (("text", "Stage"), ("number", "Time"), ("wide", ""), ("number", "Peak memory"))
    head = "".join(f'<th scope="col" class="{kind}">{title}</th>' for kind, title in titles)
    foot = _stage("all", total, peak, 0)
    return f'<table class="stages"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody><tfoot>{foot}</tfoot></table>'


def _stage(name: str, seconds: float, peak: int, total: float) -> str:
    meter = f'<span class="meter"><i style="width:{100 * seconds / total:.1f}%"></i></span>' if total else ""
    return (
        f'<tr><th scope="row">{escape(name)}</th><td class="number">{duration(seconds)}</td>'
        f'<td class="wide">{meter}</td><td class="number">{size(peak)}</td></tr>'
    )


def identity(run: Mapping[str, Any]) -> str:
    """What was run, in short, and everything that is known about it folded away."""
    facts = "".join(
        f"<div><dt>{escape(key)}</dt><dd>{_fact(run[key])}</dd></div>" for key in _FACTS if run.get(key) is not None
    )
    versions = run.get("versions") or {}
    if versions:
        written = ", ".join(f"{name} {version}" for name, version in versions.items())
        facts += f'<div class="long"><dt>versions</dt><dd>{escape(written)}</dd></div>'
    command = f"<pre><code>{escape(run['command'])}</code></pre>" if run.get("command") else ""
    everything = escape(json.dumps(run, indent=2, ensure_ascii=False, default=str))
    return (
        f'<dl class="facts">{facts}</dl>{command}<details><summary>Everything recorded about this run, fingerprints '
        f'included</summary><pre class="record"><code>{everything}</code></pre></details>'
    )


def _fact(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return escape(", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value)


def _text(value: Any) -> str:
    return f'<td class="text">{escape(value)}</td>'


def _number(value: float | None, written: str, below: str = "") -> str:
    key = "" if value is None else f' data-value="{value:.10g}"'
    return f'<td class="number"{key}>{written}{f"<small>{below}</small>" if below else ""}</td>'


def _estimate(estimate: Mapping[str, Any] | None, after: str = "", shown: bool = True) -> str:
    """A number with its interval below it (or, where space is short, on hovering)."""
    if estimate is None:
        return '<td class="number">–</td>'
    key = "" if estimate["value"] is None else f' data-value="{estimate["value"]:.10g}"'
    ends = interval(estimate)
    title = f' title="95% interval {ends}, {estimate["n"]} documents"' if ends else ""
    below = f"<small>{ends}</small>" if ends and shown else ""
    return f'<td class="number"{key}{title}>{number(estimate["value"])}{below}{after}</td>'

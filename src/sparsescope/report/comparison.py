"""Who is best at the same sparsity: the question that the report's first lines answer."""

from collections.abc import Sequence
from dataclasses import dataclass

from .words import Entry, and_list, is_baseline, label, number, where

CLOSE = 0.1
"""Dictionaries count as equally sparse when their L0 lies within 10% of the asked one."""


@dataclass(frozen=True)
class Contest:
    """The best dictionaries at one sparsity and site: trained ones against baselines."""

    site: str
    """As `where` says it: transcoders are never compared with dictionaries of one site."""
    l0: int
    trained: list[Entry]
    """Autoencoders of about this L0, lowest FVU first."""
    baselines: list[Entry]
    """Top-k baselines of this k, lowest FVU first."""

    @property
    def l1(self) -> list[Entry]:
        """The plain L1 autoencoders among `trained`, tied or untied."""
        return [e for e in self.trained if str(e["method"]).endswith("_l1")]

    def margin(self, metric: str, contenders: Sequence[Entry] | None = None) -> str:
        """'ahead', 'level' or 'behind': the best autoencoder against the best baseline, by intervals.

        `contenders` limits the autoencoders; 'unknown' where a number is missing. Less `fvu` is better,
        and more `ce_recovered`.
        """
        ours = best(self.trained if contenders is None else contenders, metric)
        theirs = best(self.baselines, metric)
        if ours is None or theirs is None:
            return "unknown"
        ours, theirs = ours[metric], theirs[metric]
        if None in (ours["low"], ours["high"], theirs["low"], theirs["high"]):
            return "unknown"
        above, below = ours["low"] > theirs["high"], ours["high"] < theirs["low"]
        if above or below:
            return "ahead" if above == (metric != "fvu") else "behind"
        return "level"


def best(entries: Sequence[Entry], metric: str) -> Entry | None:
    """The entry with the lowest `fvu`, or the highest of any other metric, among those that have it."""
    known = [e for e in entries if e[metric] is not None and e[metric]["value"] is not None]
    sign = -1 if metric == "fvu" else 1
    return max(known, key=lambda e: sign * e[metric]["value"]) if known else None


def contests(entries: Sequence[Entry]) -> list[Contest]:
    """One contest per site and k of a top-k baseline, where an autoencoder has about that L0."""
    found = []
    for site in dict.fromkeys(where(e) for e in entries):
        here = [e for e in entries if where(e) == site and e["fvu"]["value"] is not None]
        for k in sorted({e["k"] for e in here if is_baseline(e) and e["k"] is not None}):
            near = [e for e in here if not is_baseline(e) and abs(e["l0"]["value"] - k) <= CLOSE * k]
            same = [e for e in here if is_baseline(e) and e["k"] == k]
            if near and same:
                found.append(Contest(site, k, _by_fvu(near), _by_fvu(same)))
    return found


def headline(entries: Sequence[Entry]) -> list[str]:
    """The run's result in a few sentences, computed from its numbers."""
    if not entries:
        return ["No dictionary was evaluated."]
    matched = contests(entries)
    if not matched:
        return [_lowest(entries)]
    sites = list(dict.fromkeys(c.site for c in matched))
    return [sentence for site in sites for sentence in _about([c for c in matched if c.site == site], len(sites) > 1)]


def _about(matched: list[Contest], name_site: bool) -> list[str]:
    """What one site's contests say: all autoencoders, an example, L1's place, the loss."""
    words = {
        "ahead": "the best autoencoder leaves less variance unexplained than every top-k baseline, intervals apart",
        "level": "the best autoencoder and the best top-k baseline cannot be told apart by variance explained",
        "behind": "the best top-k baseline leaves less variance unexplained than every autoencoder",
        "unknown": "too few documents were measured to compare autoencoders with baselines",
    }
    sentences: list[str] = []
    for verdict, text in words.items():
        levels = [c.l0 for c in matched if c.margin("fvu") == verdict]
        if levels:
            where = f"At {matched[0].site}, with" if name_site and not sentences else "With"
            sentences.append(f"{where} {_latents(levels)}, {text}.")
    sentences.append(_example(matched[len(matched) // 2]))
    return [*sentences, *_place_of_l1(matched), *_loss(matched)]


def _example(contest: Contest) -> str:
    """The numbers of one contest."""
    ours, theirs = contest.trained[0], contest.baselines[0]
    text = (
        f"At {contest.l0}, FVU is {number(ours['fvu']['value'])} for the best autoencoder ({label(ours)} latents) and "
        f"{number(theirs['fvu']['value'])} for the best baseline ({label(theirs)})"
    )
    chance = [e for e in contest.baselines if e["method"] == "random"]
    if chance and chance[0] is not theirs:
        text += f"; top-k random directions reach {number(chance[0]['fvu']['value'])}"
    return text + "."


def _place_of_l1(matched: list[Contest]) -> list[str]:
    """Where L1 autoencoders stand against the best baseline, when another kind of autoencoder is the best."""
    measured = [c for c in matched if c.l1 and c.l1[0] is not c.trained[0]]
    words = {
        "ahead": "ahead of every baseline",
        "level": "level with the best baseline",
        "behind": "behind the best baseline",
    }
    parts = []
    for verdict, text in words.items():
        levels = [str(c.l0) for c in measured if c.margin("fvu", c.l1) == verdict]
        if levels:
            parts.append(f"{text} at {and_list(levels)}")
    return [f"The best L1 autoencoder is {and_list(parts)}."] if parts else []


def _loss(matched: list[Contest]) -> list[str]:
    """The same question asked of the model's loss."""
    known = [c for c in matched if c.margin("ce_recovered") != "unknown"]
    ahead = [str(c.l0) for c in known if c.margin("ce_recovered") == "ahead"]
    if not known:
        return []
    if not ahead:
        where = "at none of these"
    elif len(ahead) == len(known):
        where = "at all of these, intervals apart"
    else:
        where = f"only at {and_list(ahead)}"
    return [f"Spliced into the model, the best autoencoder keeps more of the loss than any baseline {where}."]


def _latents(levels: list[int]) -> str:
    return f"{and_list([str(level) for level in levels])} active latents per token"


def _lowest(entries: Sequence[Entry]) -> str:
    known = [e for e in entries if e["fvu"]["value"] is not None and not is_baseline(e)] or list(entries)
    first = _by_fvu([e for e in known if e["fvu"]["value"] is not None])
    if not first:
        return "No dictionary has a defined FVU."
    e = first[0]
    return (
        f"{e['name']} ({label(e)}) leaves the least variance unexplained: FVU {number(e['fvu']['value'])} "
        f"with {number(e['l0']['value'])} active latents per token."
    )


def _by_fvu(entries: list[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda e: e["fvu"]["value"])

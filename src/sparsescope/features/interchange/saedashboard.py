"""SAEDashboard's JSON: what its `SaeVisData.save_json` writes and `load_json` reads (sae-dashboard 0.8).

    {"feature_data_dict": {"17": FeatureData, ...}, "feature_stats": FeatureStatistics}

One entry for each latent that is alive. What its classes have room for and we do not measure is left at
their own defaults: see `docs/interchange.md`.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..browsing import Shown
from .portrait import Interval, Portrait

PARTS = 10
"""Intervals of activation that its pages show."""
_DIGITS = 4  # of activations, as there

NO_TABLES: dict[str, list[Any]] = {
    f"{table}_{column}": []
    for table, columns in {
        "neuron_alignment": ("indices", "values", "l1"),
        "correlated_neurons": ("indices", "pearson", "cossim"),
        "correlated_features": ("indices", "pearson", "cossim"),
        "correlated_b_features": ("indices", "pearson", "cossim"),
    }.items()
    for column in columns
}
"""Its tables of neurons and of features, empty."""
NO_HISTOGRAM: dict[str, Any] = {"bar_heights": [], "bar_values": [], "tick_vals": [], "title": None}
NO_SEQUENCE: dict[str, Any] = {
    **{"original_index": 0, "qualifying_token_index": 0, "token_ids": [], "feat_acts": [], "loss_contribution": []},
    **{"token_logits": [], "top_token_ids": [], "top_logits": [], "bottom_token_ids": [], "bottom_logits": []},
}


def batch_text(portraits: Sequence[Portrait]) -> Iterator[str]:
    """The JSON of some latents, piece by piece: one file for `SaeVisData.load_json`."""
    yield '{"feature_data_dict": {'
    for place, portrait in enumerate(portraits):
        yield f'{", " if place else ""}"{portrait.card.latent}": {json.dumps(feature(portrait), allow_nan=False)}'
    yield f'}}, "feature_stats": {json.dumps(feature_stats(portraits), allow_nan=False)}}}'


def feature(portrait: Portrait) -> dict[str, Any]:
    """Its `FeatureData` of one latent."""
    top_ids, top = portrait.ranked("raised")
    bottom_ids, bottom = portrait.ranked("lowered")
    indices, values, shares = portrait.aligned
    tables = {"neuron_alignment_indices": indices, "neuron_alignment_values": values, "neuron_alignment_l1": shares}
    return {
        "feature_tables_data": {**NO_TABLES, **tables},
        "acts_histogram_data": _activations(portrait),
        "logits_table_data": {
            "bottom_token_ids": bottom_ids,
            "bottom_logits": bottom,
            "top_token_ids": top_ids,
            "top_logits": top,
        },
        "logits_histogram_data": _logits(portrait),
        "sequence_data": {"seq_group_data": [*_groups(portrait)]},
        "prompt_data": NO_SEQUENCE,
        "dfa_data": {},
        "decoder_weights_data": None,
    }


def feature_stats(portraits: Iterable[Portrait]) -> dict[str, Any]:
    """Its `FeatureStatistics`: one number for each latent, in the order of the file; no quantiles."""
    of = [portrait.statistics for portrait in portraits]
    skew, kurtosis = [each.skew for each in of], [each.kurtosis for each in of]
    return {
        "max": [each.maximum for each in of],
        "frac_nonzero": [each.density for each in of],
        # A list of another length than the others, or with a gap, cannot be shown there.
        "skew": [] if None in skew else skew,
        "kurtosis": [] if None in kurtosis else kurtosis,
        "quantile_data": [],
        "quantiles": [],
    }


def _activations(portrait: Portrait) -> dict[str, Any]:
    ticks = [round(portrait.card.maximum * third / 3, 3) for third in range(4)]
    return {
        "bar_heights": portrait.histogram.counts.tolist(),
        "bar_values": [round(value, 5) for value in portrait.bins.tolist()],
        "tick_vals": ticks,
        "title": f"ACTIVATIONS<br>DENSITY = {portrait.card.density:.3%}",
    }


def _logits(portrait: Portrait) -> dict[str, Any]:
    """How many tokens of the vocabulary the latent moves how far."""
    counts, middles = portrait.logit_bins
    if not counts or portrait.logits is None:
        return NO_HISTOGRAM
    low, high = float(portrait.logits.min()), float(portrait.logits.max())
    return {
        "bar_heights": counts,
        "bar_values": [round(value, 5) for value in middles],
        "tick_vals": [round(tick, 3) for tick in (low, low / 2, 0.0, high / 2, high)],
        "title": None,
    }


def _groups(portrait: Portrait) -> Iterator[dict[str, Any]]:
    """The strongest contexts, then the intervals from the top down. Their numbers stand in the titles, as there."""
    yield _group(portrait, f"TOP ACTIVATIONS<br>MAX = {portrait.card.maximum:.3f}", portrait.strongest)
    for interval in reversed(portrait.intervals):
        yield _group(portrait, _title(interval), interval.contexts)


def _title(interval: Interval) -> str:
    return f"INTERVAL {interval.low:.3f} - {interval.high:.3f}<br>CONTAINS {interval.share:.3%}"


def _group(portrait: Portrait, title: str, contexts: Iterable[Shown]) -> dict[str, Any]:
    return {"title": title, "seq_data": [_sequence(portrait, each) for each in contexts]}


def _sequence(portrait: Portrait, context: Shown) -> dict[str, Any]:
    """One context. There the place of the peak counts a first token that is not shown, so one is added here."""
    logits = portrait.logits
    return {
        **NO_SEQUENCE,
        "original_index": context.fragment,
        "qualifying_token_index": int(context.codes.argmax()) + 1,
        "token_ids": list(context.ids),
        "feat_acts": [round(code, _DIGITS) for code in context.codes.tolist()],
        "token_logits": [] if logits is None else [round(v, _DIGITS) for v in logits[list(context.ids)].tolist()],
    }

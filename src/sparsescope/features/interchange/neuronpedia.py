"""Neuronpedia's upload: the folder that SAEDashboard's Neuronpedia runner writes (sae-dashboard 0.8), and explanations.

    batch-0.json, batch-1.json, ...   {"model_id", "layer", "sae_set", "sae_id_suffix", "features": [...]}
    skipped_indexes.json              the latents that are dead
    run_settings.json                 what the dashboards were made with
    explanations/batch-0.jsonl.gz     one explanation on a line, as in Neuronpedia's exports

What the format has room for and we do not measure is left empty: see `docs/interchange.md`.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...sites import Site
from ..browsing import Shown
from ..reading import StoredExplanation
from .portrait import EACH, TOP, Portrait

PARTS = 5
"""Intervals of activation that its pages show."""
LATENTS_IN_BATCH = 128
EXPLANATIONS_IN_BATCH = 1024
PREFIX = "neuronpedia:"
"""Begins the name of every explainer whose explanations came from Neuronpedia."""
_WHOLE_VALUES = -1.0  # what the runner writes in place of bounds for the strongest contexts

Texts = Callable[[Sequence[int]], Sequence[str]]


@dataclass(frozen=True)
class Source:
    """A dictionary as Neuronpedia names it: the model, the layer, and a set of dictionaries over layers.

    `prompts`, `tokens` and `dataset` describe the text: contexts, tokens in each, and its name.
    """

    model: str
    layer: int
    set: str
    prompts: int = 0
    tokens: int = 0
    dataset: str = ""

    @property
    def id(self) -> str:
        """The name of the dictionary there.

        >>> Source("gpt2-small", 6, "res-jb").id
        '6-res-jb'
        """
        return f"{self.layer}-{self.set}"


def model_id(name: str) -> str:
    """What Neuronpedia may call a model: the last part of its name, in lower case.

    >>> model_id("google/Gemma-2-2B"), model_id("builtin:tiny")
    ('gemma-2-2b', 'builtin-tiny')
    """
    return identifier(name.rstrip("/").rpartition("/")[2]).lower()


def identifier(name: str) -> str:
    """A name with letters, digits, '.', '_' and '-' alone, which every part of an address there is made of."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-") or "unnamed"


def layer_of(site: str) -> int:
    """The layer of a site; 0 where it has none, as Neuronpedia needs a number."""
    return Site.parse(site).layer or 0


def batch(portraits: Iterable[Portrait], source: Source, texts: Texts) -> dict[str, Any]:
    """One batch file: its `NeuronpediaDashboardBatch`. `texts` gives the text of token ids."""
    return {
        "model_id": source.model,
        "layer": source.layer,
        "sae_set": source.set,
        "sae_id_suffix": None,
        "features": [feature(portrait, source, texts) for portrait in portraits],
    }


def feature(portrait: Portrait, source: Source, texts: Texts) -> dict[str, Any]:
    """Its `NeuronpediaDashboardFeature` of one latent."""
    indices, values, shares = portrait.aligned
    top_ids, top = portrait.ranked("raised")
    bottom_ids, bottom = portrait.ranked("lowered")
    heights, places = portrait.logit_bins
    return {
        "feature_index": portrait.card.latent,
        "neuron_alignment_indices": indices,
        "neuron_alignment_values": _short(values),
        "neuron_alignment_l1": _short(shares),
        "correlated_neurons_indices": [],
        "correlated_neurons_l1": [],
        "correlated_neurons_pearson": [],
        "correlated_features_indices": [],
        "correlated_features_l1": [],
        "correlated_features_pearson": [],
        "neg_str": list(texts(bottom_ids)),
        "neg_values": bottom,
        "pos_str": list(texts(top_ids)),
        "pos_values": top,
        "frac_nonzero": portrait.card.density,
        "freq_hist_data_bar_values": _short(portrait.bins.tolist()),
        "freq_hist_data_bar_heights": portrait.histogram.counts.tolist(),
        "logits_hist_data_bar_heights": heights,
        "logits_hist_data_bar_values": _short(places),
        "n_prompts_total": source.prompts,
        "n_tokens_in_prompt": source.tokens,
        "dataset": source.dataset,
        "decoder_weights_dist": [],
        "activations": [*_activations(portrait)],
        "vector": [],
    }


def skipped(dead: Iterable[int], source: Source) -> dict[str, Any]:
    """`skipped_indexes.json`: latents that were active nowhere, and log10 of the density below which that is likely."""
    rows = max(source.prompts * source.tokens, 1)
    return {
        "model_id": source.model,
        "layer": str(source.layer),
        "sae_set": source.set,
        "log_sparsity": -math.ceil(math.log10(rows)),
        "skipped_indexes": list(dead),
    }


def settings(source: Source, out: str) -> dict[str, Any]:
    """`run_settings.json`: the fields of its `NeuronpediaRunnerConfig` that say how the dashboards were made."""
    return {
        "sae_set": source.set,
        "sae_path": "",
        "outputs_dir": out,
        "huggingface_dataset_path": source.dataset,
        "n_prompts_total": source.prompts,
        "n_tokens_in_prompt": source.tokens,
        "n_features_at_a_time": LATENTS_IN_BATCH,
        "n_quantiles": PARTS,
        "top_acts_group_size": TOP,
        "quantile_group_size": EACH,
        "model_id": source.model,
        "layer": source.layer,
    }


def explanation_row(explanation: StoredExplanation, source: Source) -> dict[str, Any]:
    """A line of `explanations/batch-N.jsonl.gz`. One that came from there goes back with its id, method and model."""
    said = explanation.body.get("neuronpedia", {}) if explanation.explainer.startswith(PREFIX) else {}
    return {
        "id": said.get("id") or _id(explanation, source),
        "modelId": source.model,
        "layer": source.id,
        "index": str(explanation.latent),
        "authorId": "",
        "description": explanation.text,
        "embedding": None,
        "typeName": said.get("type", explanation.explainer),
        "explanationModelName": said.get("model"),
        "umap_x": None,
        "umap_y": None,
        "umap_cluster": None,
        "umap_log_feature_sparsity": None,
    }


def lines(rows: Iterable[Any]) -> bytes:
    """JSON Lines."""
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()


def _activations(portrait: Portrait) -> Iterator[dict[str, Any]]:
    """The strongest contexts, then those of each interval from the top down."""
    for each in portrait.strongest:
        yield _activation(each, _WHOLE_VALUES, portrait.card.maximum, _WHOLE_VALUES)
    for interval in reversed(portrait.intervals):
        for each in interval.contexts:
            yield _activation(each, interval.low, interval.high, interval.share)


def _activation(context: Shown, low: float, high: float, share: float) -> dict[str, Any]:
    return {
        "bin_min": low,
        "bin_max": high,
        "bin_contains": share,
        "tokens": list(context.pieces),
        "values": _short(context.codes.tolist()),
        "qualifying_token_index": int(context.codes.argmax()),
    }


def _short(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def _id(explanation: StoredExplanation, source: Source) -> str:
    """25 characters, as their ids have; the same whenever the same explanation is written."""
    key = json.dumps([source.model, source.id, explanation.latent, explanation.explainer, explanation.text])
    return "c" + hashlib.sha256(key.encode()).hexdigest()[:24]

"""The text that explanations are made from and scored on: two splits of one store, cut and prepared once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..activations.base import Activations
from ..errors import ArtifactError, ConfigurationError
from ..features.fragments import Fragments, cut
from ..text import Text
from .labels import LabelledTokens, candidates, check_text, label_tokens
from .scores.intruder import TokenFeatures, token_features
from .scores.resampling import DocumentDraws, draw_documents

EXPLAINING, SCORING = "validation", "test"
"""Splits are by document, so no document that an explanation was made from is ever scored."""


@dataclass(frozen=True, eq=False)
class Material:
    """Fragments of both splits of a store, and what every dictionary on it shares.

    `vocabulary` is the text of every token id by itself; `draws` are the bootstrap samples of the scoring
    documents, the same for all dictionaries; `labels` are the truth labels of both splits where the text has any,
    and `unlabelled` says why it has none.
    """

    store: Activations
    tokenizer: Any
    explaining: Fragments
    scoring: Fragments
    vocabulary: Sequence[str]
    draws: DocumentDraws
    features: TokenFeatures
    labels: tuple[LabelledTokens, LabelledTokens] | None
    unlabelled: str = ""


def prepare(
    store: Activations,
    tokenizer: Any,
    *,
    text: Text | None = None,
    fragments: tuple[Fragments, Fragments] | None = None,
    max_tokens: int | None = None,
    resamples: int = 500,
    seed: int = 0,
) -> Material:
    """Cut both splits of a store. `text` is what was harvested, if its truth labels are to be used.

    A text that is another one by now, or has too few labels in these fragments, is one without labels.

    `max_tokens` limits each split to a random draw of contexts; `fragments` are those of both splits, where they were
    cut before. Raises `ConfigurationError` without a
    tokenizer, or where a split has no stretch of text long enough.
    """
    if tokenizer is None:
        raise ConfigurationError("text cannot be explained without a tokenizer: use a model that has one.")
    explaining, scoring = fragments or (
        cut(store, split, max_tokens=max_tokens, seed=seed) for split in (EXPLAINING, SCORING)
    )
    vocabulary = spelled(tokenizer)
    labels = _labels(text, store, explaining, scoring)
    return Material(
        store=store,
        tokenizer=tokenizer,
        explaining=explaining,
        scoring=scoring,
        vocabulary=vocabulary,
        draws=draw_documents(scoring.document, resamples=resamples, seed=seed),
        features=token_features(vocabulary, np.bincount(scoring.ids[scoring.real], minlength=len(vocabulary))),
        labels=None if isinstance(labels, str) else labels,
        unlabelled=labels if isinstance(labels, str) else "",
    )


def _labels(
    text: Text | None, store: Activations, explaining: Fragments, scoring: Fragments
) -> tuple[LabelledTokens, LabelledTokens] | str:
    """The truth labels of both splits, or why there are none: explanations can be scored without them."""
    if text is None:
        return "only builtin texts have truth labels."
    try:
        check_text(text, store)
        found = label_tokens(text, explaining), label_tokens(text, scoring)
        candidates(*found)
    except (ArtifactError, ConfigurationError) as error:
        return str(error)
    return found


def spelled(tokenizer: Any) -> list[str]:
    """The text of every token id by itself."""
    return tokenizer.batch_decode(
        [[number] for number in range(len(tokenizer))], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )

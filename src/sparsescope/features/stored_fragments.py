"""The fragments that a feature database was made from, got back from it."""

import numpy as np

from ..activations.base import Activations
from ..errors import ArtifactError
from .blobs import unpack_integers
from .fragments import Fragments
from .reading import FeatureReader


def stored_fragments(database: FeatureReader, store: Activations, split: str) -> Fragments | None:
    """The fragments of a split as `put_corpus` stored them, whatever limits they were cut with; None without any.

    `store` has the text that they were cut from. Raises `ArtifactError` where it has another text.
    """
    corpus = database.connection.execute(
        "SELECT id, length, coverage FROM corpora WHERE split = ?", (split,)
    ).fetchone()
    if corpus is None:
        return None
    number, width, coverage = corpus
    query = "SELECT document, context, start, ids FROM fragments WHERE corpus = ? ORDER BY number"
    document, context, start, packed = zip(*database.connection.execute(query, (number,)), strict=True)
    found = [unpack_integers(body) for body in packed]
    length = np.array([len(ids) for ids in found], np.int64)
    real = np.arange(width) < length[:, None]
    ids = np.zeros(real.shape, np.int32)
    ids[real] = np.concatenate(found)
    tokens, kept = store.contexts(split), store.kept(split).numpy()
    row, column = np.array(context)[:, None], np.where(real, np.array(start)[:, None] + np.arange(width), 0)
    if row.max() >= len(kept) or column.max() >= kept.shape[1] or (tokens.ids.numpy()[row, column] != ids)[real].any():
        raise ArtifactError(
            f"the feature database was made from another text than {store} have in the {split} split: move it away, "
            "and make it again."
        )
    return Fragments(
        tokens=tokens,
        split=split,
        ids=ids,
        real=real,
        known=kept[row, column] & real,
        context=np.array(context, np.int64),
        start=np.array(start, np.int64),
        length=length,
        document=np.array(document, np.int64),
        coverage=coverage,
    )

"""Loss under splicing, on a model whose losses are computed a second time by hand."""

import numpy as np
import pytest
import torch
from metrics_world import SITE, BigramModel, Halves, random_linear, random_tokens

from sparsescope.errors import ModelError, NumericalError
from sparsescope.metrics import constant, losses, splice
from sparsescope.metrics.splicing import counted
from sparsescope.text import Tokens


def tokens_of(ids, documents, bos) -> Tokens:
    ids, documents, bos = torch.tensor([ids]), torch.tensor([documents]), torch.tensor([bos], dtype=torch.bool)
    zeros = torch.zeros_like(ids)
    return Tokens(ids, documents, zeros, zeros, zeros, bos, torch.zeros(1, dtype=torch.long))


def by_hand(model: BigramModel, tokens: Tokens, change=lambda x: x) -> dict[int, list[float]]:
    """Nats of every prediction that counts, by document, one position at a time."""
    found: dict[int, list[float]] = {}
    for row in range(len(tokens.ids)):
        x = change(model.table[tokens.ids[row]])
        for t in range(tokens.ids.shape[1] - 1):
            document = int(tokens.document[row, t])
            if document < 0 or document != tokens.document[row, t + 1] or tokens.bos[row, t + 1]:
                continue
            scores = (0.5 * x[t] + 0.5 * x[: t + 1].mean(0)) @ model.head
            target = int(tokens.ids[row, t + 1])
            found.setdefault(document, []).append(float(scores.logsumexp(0) - scores[target]))
    return found


def test_which_predictions_count():
    #                  bos  a  b | bos  c  d | padding
    tokens = tokens_of([0, 5, 6, 0, 7, 8, 0, 0], [3, 3, 3, 4, 4, 4, -1, -1], [1, 0, 0, 1, 0, 0, 0, 0])
    assert counted(tokens).tolist() == [[True, True, False, True, True, False, False]]


def test_an_inserted_bos_inside_a_document_is_not_predicted():
    tokens = tokens_of([0, 5, 0, 6], [3, 3, 3, 3], [1, 0, 1, 0])
    assert counted(tokens).tolist() == [[True, False, True]]


def test_losses_per_document_agree_with_those_by_hand():
    model, tokens = BigramModel(), random_tokens(6)
    half = Halves(width=6, factor=0.5)
    found = losses(model, tokens, {"half": (SITE, splice(half)), "zero": (SITE, constant(torch.zeros(6)))})
    clean = by_hand(model, tokens)
    assert found.documents.tolist() == sorted(clean)
    assert found.predictions.tolist() == [len(clean[d]) for d in sorted(clean)]
    for ours, change in (
        (found.clean, lambda x: x),
        (found.replaced["half"], lambda x: 0.5 * x),
        (found.replaced["zero"], lambda x: 0 * x),
    ):
        theirs = by_hand(model, tokens, change)
        np.testing.assert_allclose(ours, [sum(theirs[d]) for d in sorted(clean)], rtol=1e-5)
    assert found.mean() == pytest.approx(np.mean([v for d in clean for v in clean[d]]), rel=1e-6)
    assert found.mean("zero") == pytest.approx(np.log(11), rel=1e-6)


def test_a_dictionary_that_reconstructs_exactly_changes_nothing():
    found = losses(BigramModel(), random_tokens(6), {"same": (SITE, splice(Halves(width=6)))})
    np.testing.assert_array_equal(found.replaced["same"], found.clean)


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_the_size_of_batches_changes_nothing(batch):
    model, tokens = BigramModel(), random_tokens(6)
    replacements = {"some": (SITE, splice(random_linear(6, 20)))}
    whole, parts = losses(model, tokens, replacements), losses(model, tokens, replacements, batch=batch)
    np.testing.assert_allclose(parts.clean, whole.clean, rtol=1e-6)
    np.testing.assert_allclose(parts.replaced["some"], whole.replaced["some"], rtol=1e-6)


def test_positions_that_are_not_chosen_keep_their_value():
    model, tokens = BigramModel(), random_tokens(6)
    zero = {"zero": (SITE, constant(torch.zeros(6)))}
    nowhere = losses(model, tokens, zero, where=torch.zeros_like(tokens.bos))
    np.testing.assert_array_equal(nowhere.replaced["zero"], nowhere.clean)
    spared = losses(model, tokens, zero, where=~tokens.bos)
    by_document = by_hand(model, tokens, lambda x: torch.where((x == model.table[0]).all(-1, keepdim=True), x, 0 * x))
    np.testing.assert_allclose(spared.replaced["zero"].sum(), sum(map(sum, by_document.values())), rtol=1e-5)


def test_padding_is_masked_and_only_then():
    model = BigramModel()
    losses(model, random_tokens(2), {})
    assert set(model.masks) == {None}
    padded = tokens_of([0, 5, 6, 0], [3, 3, 3, -1], [1, 0, 0, 0])
    losses(model, padded, {})
    assert model.masks[-1].tolist() == [[1, 1, 1, 0]]


def test_progress_is_told():
    told = []
    losses(BigramModel(), random_tokens(4), {}, batch=3, progress=lambda *step: told.append(step))
    assert told == [("splicing", 0, 4), ("splicing", 3, 4), ("splicing", 4, 4)]


def test_a_model_that_sees_what_it_predicts_is_refused():
    class Reader(BigramModel):
        def logits(self, ids, replace=None, attention_mask=None):
            seen = super().logits(ids, replace, attention_mask)
            return seen + 0.1 * seen.mean(1, keepdim=True)

    with pytest.raises(ModelError, match="sees later tokens"):
        losses(Reader(), random_tokens(2), {})


def test_what_is_not_finite_is_an_error():
    model, tokens = BigramModel(), random_tokens(2)
    broken = random_linear(6, 4)
    broken.bias[0] = torch.inf
    with pytest.raises(NumericalError, match="reconstructions that are not finite"):
        losses(model, tokens, {"broken": (SITE, splice(broken))})
    model.head[0, 0] = torch.nan
    with pytest.raises(NumericalError, match="clean model"):
        losses(model, tokens, {})

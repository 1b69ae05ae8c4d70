"""The n-gram baseline of the builtin model's card is a proper distribution and learns what is there."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

_SCRIPT = Path(__file__).parents[1] / "scripts" / "kneser_ney.py"
_SPEC = importlib.util.spec_from_file_location("kneser_ney", _SCRIPT)
assert _SPEC is not None
assert _SPEC.loader is not None
kneser_ney = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(kneser_ney)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_of_all_next_tokens_sum_to_one(order):
    ids = np.random.default_rng(0).integers(0, 7, 400)
    model = kneser_ney.KneserNey(ids, order=order, vocabulary=7)
    for history in (ids[10:16], np.array([1, 1, 1, 1, 1, 1]), ids[3:5]):
        total = sum(model.probabilities(np.append(history, token))[-1] for token in range(7))
        assert total == pytest.approx(1, abs=1e-9)


def test_bigram_equals_the_formula_by_hand():
    # 0 1 0 2 0 1: bigrams 01 x2, 10 x1, 02 x1, 20 x1; n1 = 3, n2 = 1, D = 3/5.
    model = kneser_ney.KneserNey(np.array([0, 1, 0, 2, 0, 1]), order=2, vocabulary=3)
    # Continuation counts: 1 after {0}, 0 after {1, 2}, 2 after {0}: n1 = 2, n2 = 1, D = 1/2, total 4.
    unigram = (1 - 0.5) / 4 + 0.5 * 3 / 4 / 3
    # After 0 (three times, two different): (2 - D) / 3 + D * 2 / 3 * unigram.
    assert model.probabilities(np.array([0, 1]))[0] == pytest.approx((2 - 0.6) / 3 + 0.6 * 2 / 3 * unigram)


def test_a_repeating_sequence_becomes_cheap():
    ids = np.tile(np.arange(5), 200)
    assert kneser_ney.KneserNey(ids, order=5, vocabulary=5).bits(ids[:101]) / 100 < 0.2

"""The parts of rules, each against brute force: lookup, surroundings, patterns, trie, tree, questions, words."""

import numpy as np
import pytest
from rules_world import PIECES, evidence_of, packed, planted, sentences, synthetic

from sparsescope.features.fragments import Fragments
from sparsescope.interpret.rules import lookup, questions, tree, trie
from sparsescope.interpret.rules.ground import Ground
from sparsescope.interpret.rules.patterns import ANY, PLACES, Patterns, matches
from sparsescope.interpret.rules.phrases import condition, quoted
from sparsescope.interpret.rules.rows import Rows, better, correlation
from sparsescope.interpret.rules.spelling import Spelling
from sparsescope.interpret.rules.surroundings import NEVER, Surroundings

SPELLING = Spelling(PIECES)


@pytest.fixture(scope="module")
def fragments() -> Fragments:
    return synthetic(documents=120)[0]


@pytest.fixture(scope="module")
def around() -> Surroundings:
    return Surroundings(packed(sentences(40, 5, range(60)), context=48), SPELLING)


def stretches(around: Surroundings):
    """Positions of each stretch of one document."""
    return [np.flatnonzero(around.stretch == number) for number in range(around.stretch[-1] + 1)]


def noisy(pieces, draw):
    return [draw.exponential() * (len(piece) > 4) * (draw.random() < 0.5) + (piece == ".") for piece in pieces]


def test_lookup_is_the_mean_by_token(fragments) -> None:
    codes = planted(fragments, PIECES, noisy)
    evidence = evidence_of(fragments, codes, PIECES)
    found = lookup.shrunken(evidence, len(PIECES))
    rows = ~fragments.tokens.bos.numpy()
    ids, scaled = fragments.tokens.ids.numpy()[rows], codes[rows] * 10 / codes[rows].max()
    assert found.prior == pytest.approx(scaled.mean())
    listed = set(found.listed.tolist())
    assert len(listed) > 20
    for token in np.unique(ids):
        own = scaled[ids == token]
        expected = (own.sum() + found.shrinkage * scaled.mean()) / (len(own) + found.shrinkage)
        if token in listed:
            assert found.values[token] == pytest.approx(expected, abs=6e-4)
    others = scaled[~np.isin(ids, found.listed)]
    assert found.default == pytest.approx(others.mean() if len(others) else scaled.mean(), abs=6e-4)
    assert (lookup.table(found.to_json(), len(PIECES)) == found.values).all()


def test_shrinkage_is_the_ratio_of_variances() -> None:
    """Planted one-way random effects: groups of unequal size, within 3 times the variance between."""
    draw = np.random.default_rng(0)
    count = draw.integers(2, 60, 4000)
    means = draw.normal(5, 1, 4000)
    values = [draw.normal(mean, np.sqrt(3), n) for mean, n in zip(means, count, strict=True)]
    total = np.array([each.sum() for each in values])
    second = np.concatenate(values) @ np.concatenate(values) / count.sum()
    assert lookup._shrinkage(total, count.astype(float), second) == pytest.approx(3, rel=0.1)
    same = 2.0 * count
    assert lookup._shrinkage(same, count.astype(float), 4.5) == 100  # nothing between tokens
    assert lookup._shrinkage(total, count.astype(float), float((total**2 / count).sum() / count.sum())) == 0.1


def test_a_row_is_not_expected_from_its_own_document(fragments) -> None:
    codes = planted(fragments, PIECES, noisy)
    evidence = evidence_of(fragments, codes, PIECES)
    found = lookup.shrunken(evidence, len(PIECES))
    known = fragments.known[evidence.sample.numbers]
    ids = fragments.ids[evidence.sample.numbers][known].astype(np.int64)
    document = np.broadcast_to(fragments.document[evidence.sample.numbers][:, None], known.shape)[known]
    scaled = evidence.sample.codes[known].astype(float) * 10 / evidence.maximum
    honest = lookup.without_own_document(found, evidence, ids, document, scaled)
    for row in range(0, len(ids), 97):
        own = (ids == ids[row]) & (document == document[row])
        total = evidence.token_sum[ids[row]] * 10 / evidence.maximum - scaled[own].sum()
        left = evidence.token_count[ids[row]] - own.sum()
        expected = (max(total, 0) + found.shrinkage * found.prior) / (left + found.shrinkage)
        if total < 1e-5:
            expected = min(expected, found.default)
        assert honest[row] == pytest.approx(expected if ids[row] in found.listed else found.default, abs=1e-9)


def test_surroundings_by_brute_force(around) -> None:
    get = around.numbers
    for places in stretches(around):
        ids = around.ids[places].tolist()
        quoted_, depth, mark = False, 0, NEVER
        for i, place in enumerate(places.tolist()):
            assert get["place in the document"][place] == i
            earlier = [j for j in range(i) if ids[j] == ids[i]]
            assert get["earlier occurrences"][place] == len(earlier)
            assert get["distance to the last occurrence"][place] == (i - earlier[-1] if earlier else NEVER)
            then = [j for j in range(i - 1) if ids[j] == ids[i - 1]] if i else []
            assert get["repeats what followed before"][place] == (bool(then) and ids[then[-1] + 1] == ids[i])
            piece = PIECES[ids[i]]
            before = quoted_, depth
            quoted_ ^= piece == '"'
            depth = max(depth + (piece == " (") - (piece == ")"), 0)
            mark = 0 if quoted_ and not before[0] else min(mark + 1, NEVER)
            assert get["quotation open before"][place] == before[0]
            assert get["quotation open after"][place] == quoted_
            assert get["quotation around"][place] == (before[0] and quoted_)
            assert get["distance to the opening quotation mark"][place] == mark
            assert (get["brackets open before"][place], get["brackets open after"][place]) == (before[1], depth)
            ends = [j for j in range(i) if PIECES[ids[j]] == "."]
            assert get["place in the sentence"][place] == i - (ends[-1] + 1 if ends else 0)
            for back in range(4):
                assert around.earlier[back, place] == (ids[i - back] if i >= back else -1)


def test_the_bag_of_words_by_brute_force(around) -> None:
    for piece in (" the", " red", ".", "<|end|>"):
        token = PIECES.index(piece)
        for window in (5, 32):
            found = around.among(token, window)
            for places in stretches(around):
                ids = around.ids[places].tolist()
                assert found[places].tolist() == [token in ids[max(0, i - window) : i] for i in range(len(ids))]


def test_blank_lines_close_quotations_and_documents_close_brackets() -> None:
    pieces = ["<|end|>", '"', "\n", "\n\n", "a", "b", "(", "“", "”"]
    spelling = Spelling(pieces)
    documents = [[1, 4, 2, 4, 2, 2, 4], [1, 4, 3, 4, 6, 4], [4, 4, 7, 4, 7, 8, 4]]
    around = Surroundings(packed(documents, context=23), spelling)
    assert around.numbers["quotation open after"].tolist() == [
        *(0, 1, 1, 1, 1, 1, 0, 0),
        *(0, 1, 1, 0, 0, 0, 0),
        *(0, 0, 0, 1, 1, 1, 0, 0),
    ]
    assert around.numbers["brackets open after"].tolist() == [0] * 13 + [1, 1] + [0] * 8
    words = ["x", " ab", "cd", "e", ",", "f"]
    around = Surroundings(packed([[1, 2, 3, 4, 5]], context=6), Spelling(words))
    assert around.numbers["place in the word"].tolist() == [0, 0, 1, 2, 0, 0]


def test_patterns_are_those_of_two_documents(around) -> None:
    found = Patterns(around)
    for number, places in enumerate(PLACES):
        documents: dict[tuple[int, ...], set[int]] = {}
        at = [tuple(around.earlier[list(places), p].tolist()) for p in range(len(around.ids))]
        for place, key in enumerate(at):
            if -1 not in key:
                documents.setdefault(key, set()).add(int(around.document[place]))
        shared = {key for key, own in documents.items() if len(own) > 1}
        spelled = {}
        for place, key in enumerate(at):
            assert (found.keys[number, place] >= 0) == (key in shared)
            if key in shared:
                pattern = [key[places.index(back)] if back in places else ANY for back in range(4)]
                assert spelled.setdefault(key, found.keys[number, place]) == found.keys[number, place]
                if place % 29 == 0:
                    assert found.spelled(int(found.keys[number, place])) == pattern
                    rows = np.arange(len(at))
                    assert matches(pattern, around, rows).tolist() == [p for p in rows if at[p] == key]
        assert len(set(spelled.values())) == len(shared)


def test_the_longest_pattern_decides(around) -> None:
    a, b = (PIECES.index(piece) for piece in (" the", "."))
    rows = np.arange(len(around.ids))
    grown = trie.Trie([[a, b, ANY, ANY], [ANY, b, ANY, ANY]], [9.0, 2.0])
    expected = grown.expect(around, rows, np.full(len(rows), 0.5))
    for row in rows:
        after = around.earlier[1, row] == b
        assert expected[row] == (9.0 if after and around.ids[row] == a else 2.0 if after else 0.5)


def rows_for(ground: Ground, activation: np.ndarray, expected: np.ndarray, seed: int = 0) -> Rows:
    position = ground.all_rows[: len(activation)]
    _, document = np.unique(ground.around.document[position], return_inverse=True)
    weight = np.random.default_rng(seed).choice([1.0, 2.5, 12.0], len(position))
    return Rows(position, activation, expected, weight, document)


def test_candidates_are_worth_what_one_by_one_they_are(fragments) -> None:
    ground = Ground(fragments, Surroundings(fragments.tokens, SPELLING))
    draw = np.random.default_rng(1)
    position = ground.all_rows[:1500]
    after = ground.around.earlier[1, position] == PIECES.index(" (")
    rows = rows_for(ground, 5.0 * after + draw.random(1500), draw.random(1500))
    members, queue = trie._candidates(rows, ground.patterns, 1.0)
    assert len(queue) > 3
    for negative, key in queue:
        keys = ground.patterns.keys[:, rows.position]
        assert members[key].tolist() == sorted(np.flatnonzero((keys == key).any(0)).tolist())
        gain, value, honest = trie._worth(rows, rows.expected, members[key])
        assert gain == pytest.approx(-negative)
        part = rows.take(members[key])
        mean, prior = np.average(part.expected, weights=part.weight), part.weight.mean()
        assert value == pytest.approx((part.weight @ part.activation + prior * mean) / (part.weight.sum() + prior))
        for row in range(0, len(part), 5):
            left = part.document != part.document[row]
            total = part.weight[left] @ part.activation[left] + prior * mean
            assert honest[row] == pytest.approx(total / (part.weight[left].sum() + prior))


def test_a_split_is_the_best_pair_of_ridge_regressions(fragments) -> None:
    ground = Ground(fragments, Surroundings(fragments.tokens, SPELLING))
    draw = np.random.default_rng(2)
    x = np.round(draw.random(600) * 8 * 64) / 64  # what the sums hold exactly
    answers = (draw.random((600, 12)) < draw.random(12)).astype(float)
    y = np.round(np.where(answers[:, 7] > 0, 0.2 + 0.9 * x, 1.0) * 64) / 64
    rows = rows_for(ground, y, x)
    grown = tree.grow(rows, np.ones(600, bool), [["value", number] for number in range(12)], answers, 1)

    def fitted(inside, line):
        w, design = rows.weight[inside], np.stack([np.ones(600), x], 1)[inside]
        rest = y[inside] - design @ line
        ridge = np.array(tree._RIDGE) * rows.weight.mean()
        root = np.sqrt(w)[:, None]
        stacked = np.vstack([root * design, np.diag(np.sqrt(ridge))])
        change = np.linalg.lstsq(stacked, np.append(root[:, 0] * rest, [0, 0]), rcond=None)[0]
        after = w @ (rest - design @ change) ** 2 + ridge @ change**2
        return line + change, w @ rest**2 - after

    line, _ = fitted(np.ones(600, bool), np.array([0.0, 1.0]))
    gains = [sum(fitted(answers[:, q] == side, line)[1] for side in (1, 0)) for q in range(12)]
    assert grown.splits == [(0, ["value", int(np.argmax(gains))])]
    assert grown.lines[0] == pytest.approx(line, abs=2e-4)
    for node, side in ((1, 1), (2, 0)):
        assert grown.lines[node] == pytest.approx(fitted(answers[:, 7] == side, line)[0], abs=2e-4)
    assert grown.first(0).lines == grown.lines[:1]


def test_packed_answers_are_the_answers(around) -> None:
    asked = questions.standing(around)
    assert len({str(question) for question in asked}) == len(asked)
    bits = np.unpackbits(questions.packed(asked, around), axis=1, count=len(asked))
    rows = np.arange(3, len(around.ids), 7)
    for number, question in enumerate(asked):
        assert (questions.answer(question, around, rows) == bits[rows, number]).all()
    ids = [PIECES.index(" the"), PIECES.index(".")]
    found = questions.answer(["token", 2, ids], around, rows)
    assert found.tolist() == np.isin(around.earlier[2, rows], ids).tolist()


def test_every_question_has_words_for_both_answers(around) -> None:
    for question in questions.standing(around):
        yes, no = (condition(question, side, SPELLING) for side in (True, False))
        assert yes
        assert no
        assert yes != no
        assert (yes + no).isprintable()
    assert quoted("x" * 100) == repr("x" * 39 + "…")


def test_better_needs_a_step_and_several_documents() -> None:
    draw = np.random.default_rng(0)
    document = np.repeat(np.arange(20), 10)
    y = draw.random(200)
    rows = Rows(np.arange(200), y, y, np.ones(200), document)
    noise = draw.random(200)
    assert better(rows, y + 0.1 * noise, noise)
    assert not better(rows, y, y)
    assert not better(rows, np.where(document == 3, y + 5 * y, noise), noise)
    assert correlation(rows, y + noise) == pytest.approx(np.corrcoef(y + noise, y)[0, 1])
    assert correlation(rows, np.ones(200)) == 0

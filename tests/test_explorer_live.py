"""What the live parts of the explorer say: against the model and the dictionary themselves, one latent at a time."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SITE
from live_world import LATENTS, TEXT, loaded, model

import sparsescope as ss
from sparsescope.artifact import start, write_json
from sparsescope.causal.interventions import Ablate, Add, Set, generating, replacements
from sparsescope.dictionaries import TiedSAE, save_dictionary, unit_rows
from sparsescope.errors import ArtifactError, ConfigurationError, ModelError
from sparsescope.explorer.live.asking import Fields
from sparsescope.explorer.live.changing import Change, Edit, change, steer
from sparsescope.explorer.live.effects import effects
from sparsescope.explorer.live.lab import Lab, Loaded, NotReady
from sparsescope.explorer.live.reading import PREDICTED, most_active, prompted, read, strongest
from sparsescope.study.contents import read_run
from sparsescope.study.directory import seal
from sparsescope.study.opening import IMPORTING, expected_seconds, loader
from sparsescope.study.shelving import Shelved, dictionaries_of


def typed() -> torch.Tensor:
    """The token ids of TEXT after a token that begins the document, from the tokenizer itself."""
    tokenizer = model().tokenizer
    return torch.tensor([[tokenizer.bos_token_id, *tokenizer(TEXT, add_special_tokens=False).input_ids]])


def probabilities(logits: torch.Tensor) -> np.ndarray:
    return logits[0].double().softmax(-1).numpy()


@pytest.mark.parametrize("name", ["a", "two"])
def test_a_reading_is_what_model_and_dictionary_say(name: str) -> None:
    found, ids, dictionary = read(loaded(), name, TEXT), typed(), loaded().dictionaries[name]
    assert found.prompted.ids.tolist() == ids.tolist()
    assert "".join(found.prompted.pieces[1:]) == TEXT
    assert found.prompted.added == 1
    site = dictionary.provenance.site
    codes = dictionary.encode(model().read(ids, [site])[site])[0]
    for row, active, count in zip(codes, found.active, found.counts, strict=True):
        assert {each.latent: each.code for each in active} == {int(n): float(row[n]) for n in row.nonzero()[:, 0]}
        assert [abs(each.code) for each in active] == sorted((abs(each.code) for each in active), reverse=True)
        assert count == len(active) > 0
    expected = probabilities(model().logits(ids))
    for place, each in enumerate(found.expected):
        order = np.argsort(-expected[place], kind="stable")[:PREDICTED]
        assert [likely.token for likely in each.likely] == order.tolist()
        np.testing.assert_allclose([likely.probability for likely in each.likely], expected[place, order], rtol=1e-12)
        if each.actual is not None:
            assert each.actual.token == int(ids[0, place + 1])
            assert each.rank == 1 + int((expected[place] > expected[place, each.actual.token]).sum())
    assert [each.actual is None for each in found.expected] == [False] * (len(ids[0]) - 1) + [True]


def test_without_a_first_token_where_the_run_had_none() -> None:
    found = read(Loaded(model(), loaded().dictionaries, "none"), "a", "one two")
    assert found.prompted.added == 0
    assert found.prompted.pieces == ["one", " two"]


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "empty"), ("a\ud800b", "character 2 of the text is half"), ("word " * 700, "at most 255 are read here")],
)
def test_a_text_that_cannot_be_read_says_why(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        prompted(loaded(), text)


def test_hostile_text_is_read_like_any_other() -> None:
    text = "\x00<script>alert(1)</script>\u202ex\u2066\U0001f468\u200d\U0001f469" + "y" * 60
    assert "".join(read(loaded(), "a", text).prompted.pieces[1:]) == text


@pytest.mark.parametrize(("name", "everywhere"), [("a", True), ("a", False), ("two", True), ("two", False)])
def test_effects_are_those_of_ablating_one_by_one(name: str, everywhere: bool) -> None:
    ids, dictionary, at = typed(), loaded().dictionaries[name], 5
    found = effects(loaded(), name, TEXT, at, everywhere=everywhere)
    clean = model().logits(ids)[0, at].double().log_softmax(-1)
    site = dictionary.provenance.site
    active = dictionary.encode(model().read(ids, [site])[site])[0, at].nonzero()[:, 0].tolist()
    assert {each.latent for each in found.effects} == set(active)
    assert found.active == len(active)
    assert (found.token.token, found.actual) == (int(ids[0, at + 1]), True)
    for each in found.effects:
        act = Ablate(dictionary, each.latent, positions=None if everywhere else at)
        after = model().logits(ids, replacements(model(), [act]))[0, at].double().log_softmax(-1)
        assert each.kl == pytest.approx(float((clean.exp() * (clean - after)).sum()), rel=1e-3, abs=1e-9)
        assert each.presence == pytest.approx(float((clean - after)[found.token.token]), rel=1e-3, abs=2e-6)
    assert [each.kl for each in found.effects] == sorted((each.kl for each in found.effects), reverse=True)


def test_behind_the_last_token_the_likeliest_one_is_looked_at() -> None:
    found = effects(loaded(), "a", TEXT)
    assert found.position == typed().shape[1] - 1
    assert (found.token.token, found.actual) == (int(model().logits(typed())[0, -1].argmax()), False)
    with pytest.raises(ConfigurationError, match="position 900 is outside the text"):
        effects(loaded(), "a", TEXT, 900)


def numbers(changes: list[Change]) -> list[tuple[int, float, float]]:
    return [(each.token, each.before, each.after) for row in changes for each in (*row.before, *row.after)]


def test_no_edit_changes_nothing_bit_for_bit() -> None:
    _, changes = change(loaded(), "a", TEXT, [])
    expected = probabilities(model().logits(typed()))
    for place, row in enumerate(changes):
        assert row.kl == 0
        assert row.before == row.after
        assert [each.before for each in row.before] == [each.after for each in row.before]
        assert [each.before for each in row.before] == [expected[place, each.token] for each in row.before]


def test_edits_are_the_interventions_in_their_order() -> None:
    dictionary, ids = loaded().dictionaries["a"], typed()
    site = dictionary.provenance.site
    one, other = dictionary.encode(model().read(ids, [site])[site])[0, 4].nonzero()[:2, 0].tolist()
    edits = [Edit(one, "scale", 3.0), Edit(one, "add", 1.0), Edit(other, "set", 5.0, 4), Edit(other, "ablate", 0.0, 6)]
    _, changes = change(loaded(), "a", TEXT, edits)
    acts = [
        *(ss.Scale(dictionary, one, 3.0), Add(dictionary, one, 1.0)),
        *(Set(dictionary, other, 5.0, positions=4), Ablate(dictionary, other, positions=6)),
    ]
    before, after = model().logits(ids)[0], model().logits(ids, replacements(model(), acts))[0]
    for place, row in enumerate(changes):
        ours, theirs = (each[place].double().log_softmax(-1) for each in (before, after))
        assert row.kl == pytest.approx(float((ours.exp() * (ours - theirs)).sum()), rel=1e-9, abs=1e-12)
        tokens = [each.token for each in row.after]
        assert tokens == after[place].argsort(descending=True, stable=True)[:PREDICTED].tolist()
        assert [each.after for each in row.after] == pytest.approx(theirs.exp()[tokens].tolist())
    _, late = change(loaded(), "a", TEXT, [Edit(other, "set", 50.0, -1)])
    assert [row.kl > 0 for row in late] == [False] * (len(late) - 1) + [True]


def test_scaling_by_zero_is_ablating() -> None:
    latent = read(loaded(), "a", TEXT).active[5][0].latent
    scaled, ablated = (change(loaded(), "a", TEXT, [Edit(latent, kind, 0.0)])[1] for kind in ("scale", "ablate"))
    assert numbers(scaled) == numbers(ablated)
    assert max(row.kl for row in ablated) > 0


@pytest.mark.parametrize("name", ["a", "two"])
def test_steering_is_adding_the_latent_while_writing(name: str) -> None:
    dictionary, ids, latent = loaded().dictionaries[name], typed(), 7
    found = steer(loaded(), name, latent, TEXT, 40.0, 8)
    plain = model().generate(ids, new_tokens=8)
    pushed = model().generate(ids, new_tokens=8, replace=generating(model(), [Add(dictionary, latent, 40.0)], ids))
    for each, rows in ((found.plain, plain), (found.steered, pushed)):
        assert "".join(found.prompt + each.pieces) == model().tokenizer.decode(rows[0])
    assert found.plain.kl == 0
    assert found.steered.kl > 0
    assert found.control.kl > 0
    still = steer(loaded(), name, latent, TEXT, 0.0, 8)
    assert still.steered == still.control == still.plain == found.plain


def test_what_does_not_fit_is_refused() -> None:
    for work in (
        lambda: steer(loaded(), "a", LATENTS, TEXT, 1.0, 5),
        lambda: steer(loaded(), "a", 0, "word " * 160, 1.0, 100),
        lambda: change(loaded(), "a", TEXT, [Edit(LATENTS, "ablate")]),
        lambda: change(loaded(), "a", TEXT, [Edit(0, "ablate", 0.0, 400)]),
        lambda: read(loaded(), "c", TEXT),
    ):
        with pytest.raises(ConfigurationError, match=r"there is no latent 60|outside the text|do not fit|c cannot be"):
            work()


def test_the_latents_most_active_on_a_text() -> None:
    found = {(each.dictionary, each.latent): each for each in most_active(loaded(), ["a", "b"], TEXT)}
    for name in ("a", "b"):
        dictionary = loaded().dictionaries[name]
        site = dictionary.provenance.site
        codes = dictionary.encode(model().read(typed(), [site])[site])[0, 1:]
        assert {latent for where, latent in found if where == name} == set((codes > 0).any(0).nonzero()[:, 0].tolist())
        for (where, latent), each in found.items():
            if where == name:
                assert each.code == float(codes[:, latent].max()) == float(codes[each.position - 1, latent])
                assert each.active == int((codes[:, latent] > 0).sum())


def test_the_strongest_are_those_of_the_largest_size() -> None:
    codes = torch.randn(500, generator=torch.Generator().manual_seed(0))
    found = strongest(codes, 7)
    assert [each.latent for each in found] == np.argsort(-codes.abs().numpy(), kind="stable")[:7].tolist()


# The lab


def test_a_lab_loads_once_and_lends_to_one_at_a_time() -> None:
    go, made, inside, most = threading.Event(), [], 0, 0

    def load() -> Loaded:
        go.wait(10)
        made.append(1)
        return loaded()

    lab = Lab(load, expected=3.0)
    assert lab.status().state == "resting"
    assert [lab.begin().state, lab.begin().state] == ["loading", "loading"]
    with pytest.raises(NotReady), lab.using():
        pass
    go.set()
    assert lab.wait(10).state == "ready"
    assert lab.begin().state == "ready"
    assert made == [1]

    def use() -> None:
        nonlocal inside, most
        with lab.using() as found:
            assert found is loaded()
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            inside -= 1

    users = [threading.Thread(target=use) for _ in range(5)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert most == 1


@pytest.mark.parametrize("error", [ModelError("there is no model at /nowhere"), OSError("disk"), MemoryError()])
def test_a_model_that_cannot_be_loaded_says_why_and_may_be_tried_again(error: Exception) -> None:
    outcomes = iter([error, None])

    def load() -> Loaded:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome
        return loaded()

    lab = Lab(load)
    lab.begin()
    failed = lab.wait(10)
    assert failed.state == "failed"
    assert str(error) in str(failed.reason)
    with pytest.raises(NotReady, match=str(error) or "MemoryError"), lab.using():
        pass
    lab.begin()
    assert lab.wait(10).state == "ready"


# What is asked


def one_number(body: bytes) -> None:
    fields = Fields(body)
    fields.number("value")
    fields.end()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"[1]", "expected a JSON object"),
        (b"\xff{}", "not JSON in UTF-8"),
        (b"[" * 100_000, "not JSON|too large"),
        (b'{"value": NaN}', "NaN is no number"),
        (b'{"value": 1e999}', "expected a number"),
        (b'{"value": ' + b"9" * 5_000 + b"}", "not JSON|too large"),
        (b'{"value": ' + b"9" * 400 + b"}", "too large a number"),
        (b'{"value": true}', "expected a number from"),
        (b'{"value": "2"}', "expected a number from"),
        (b'{"value": 2e6}', "expected a number from"),
        (b"{}", "has no 'value'"),
        (b'{"value": null}', "has no 'value'"),
        (b'{"value": 1, "vlaue": 2}', "unknown field .* Did you mean 'value'"),
    ],
)
def test_a_body_that_cannot_be_meant_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        one_number(body)


def test_fields_are_taken_by_their_kind() -> None:
    fields = Fields(b'{"n": 3, "t": "x", "p": "all", "q": 4, "l": [{"k": "set"}], "c": 1.5}')
    assert (fields.whole("n"), fields.text("t"), fields.place("p"), fields.place("q")) == (3, "x", None, 4)
    assert fields.objects("l", 1)[0].choice("k", ("set", "add")) == "set"
    for wrong in (
        lambda: fields.whole("c"),
        lambda: fields.whole("n", 4),
        lambda: fields.text("t", 0),
        lambda: fields.text("n"),
        lambda: fields.choice("t", ("y",)),
        lambda: fields.objects("l", 0),
        lambda: fields.objects("t", 9),
        lambda: fields.place("t"),
    ):
        with pytest.raises(ConfigurationError, match=r"expected|at most"):
            wrong()


# Opening a run


@pytest.fixture
def run(small_store: Path, tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A run with two dictionaries that share a name, and one of a control."""
    draft = start(tmp_path / "run", "run", {"model_dtype": "float32"}, 0)
    small_store.rename(draft.path / "activations")
    store = ss.load_store(draft.path / "activations")
    width = store.width(SITE)
    generator = torch.Generator().manual_seed(0)
    homes = ["dictionaries/x", "dictionaries/y", "dictionaries/z", "controls/frozen-decoder/dictionaries/x"]
    for home, name in zip(homes, ["same", "same", "other", "other"], strict=True):
        rows = torch.randn(20, width, generator=generator)
        made = TiedSAE(directions=unit_rows(rows)[0], encoder_bias=torch.zeros(20))
        made = made.with_provenance(site=SITE, name=name, model=store.model_name)
        save_dictionary(made, draft.path / home)
    entries = [{"path": home} for home in homes[:3]]
    (draft.path / "evaluation").mkdir()
    write_json(draft.path / "evaluation/evaluation.json", {"dictionaries": entries})
    return seal(draft, run={"model": str(tiny_model_dir), "model_revision": None}).path


def test_a_run_is_opened_with_its_dictionaries_by_name(run: Path) -> None:
    found = loader(run)()
    own = read_run(run, verify=False)
    frozen = {f"{name} (frozen decoder)": each for name, each in own.control("frozen decoder").dictionaries.items()}
    expected = {**own.dictionaries, **frozen}
    assert list(found.dictionaries) == list(expected)
    assert set(expected) == {"same (x)", "same (y)", "other", "other (frozen decoder)"}
    for name, each in expected.items():
        assert torch.equal(found.dictionary(name).directions, each.directions)
    assert found.bos == ss.load_store(run / "activations").config["bos"]
    assert read(found, "other", "the cat").counts
    weights = sum(file.stat().st_size for file in Path(found.model.name).glob("*.safetensors"))
    assert expected_seconds(run) == pytest.approx(IMPORTING + weights / 300e6)
    assert expected_seconds(run / "nowhere") is None


def test_only_so_many_dictionaries_are_kept(run: Path) -> None:
    paths = dictionaries_of(run)
    size = sum(tensor.numel() * 4 for tensor in ss.load_dictionary(paths["other"]).tensors().values())
    shelved = Shelved(paths, torch.device("cpu"), kept=2 * size)
    first, second = (shelved[name] for name in list(paths)[:2])
    assert shelved["same (x)"] is first
    shelved["other"]
    assert shelved["same (x)"] is first
    assert shelved["same (y)"] is not second


def test_another_model_than_the_run_was_made_with_is_refused(run: Path, other_model_dir: Path) -> None:
    lab = Lab(loader(run, model=str(other_model_dir)))
    lab.begin()
    assert "model" in str(lab.wait(60).reason)
    with pytest.raises(ArtifactError):
        loader(run, model=str(other_model_dir))()
    with pytest.raises(ModelError):
        loader(run, model=str(run / "nowhere"))()

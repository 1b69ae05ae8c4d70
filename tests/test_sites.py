"""Sites: text to value and back, and nothing that resolves to something else."""

import doctest
from functools import partial
from itertools import combinations
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tiny_models import MODELS, make, token_ids
from torch import Tensor

from sparsescope import sites
from sparsescope.errors import SiteError
from sparsescope.models import LanguageModel
from sparsescope.sites import LAYERED, Site

PATHS = st.from_regex(r"[A-Za-z_0-9]+(\.[A-Za-z_0-9]+){0,4}", fullmatch=True)
VALUES = st.one_of(
    st.just(Site("embed")),
    st.builds(Site, st.sampled_from(LAYERED), layer=st.integers(0, 10_000)),
    st.builds(Site, st.just("module"), path=PATHS, at_input=st.booleans()),
)


@given(VALUES)
def test_a_site_survives_its_string_form(site: Site) -> None:
    assert Site.parse(str(site)) == site
    assert Site.parse(site) is site


@given(st.text())
@example("module:a.b:in")
@example("resid_post.3")
@example("resid_post.03")
@example("resid_post.٣")
@example("embed\n")
def test_text_either_is_a_site_in_its_one_form_or_is_refused(text: str) -> None:
    try:
        site = Site.parse(text)
    except SiteError:
        return
    assert str(site) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("embed", Site("embed")),
        ("resid_post.2", Site("resid_post", layer=2)),
        ("attn_z.11", Site("attn_z", layer=11)),
        ("module:encoder.layer.0", Site("module", path="encoder.layer.0")),
        ("module:encoder.layer.0:in", Site("module", path="encoder.layer.0", at_input=True)),
    ],
)
def test_forms(text: str, expected: Site) -> None:
    assert Site.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("resid_pots.1", "Did you mean 'resid_post'"),
        ("mlp_ot.0", "Did you mean 'mlp_out'"),
        ("Embed", "Did you mean 'embed'"),
        ("resid_post", "resid_post.L"),
        ("resid_post.-1", "resid_post.L"),
        ("resid_post.1.5", "resid_post.L"),
        ("embed.0", "expected one of embed"),
        ("module:", "module:PATH"),
        ("module::in", "module:PATH"),
        ("module:a:out", "module:PATH:in"),
        ("", "expected one of embed"),
    ],
)
def test_an_unknown_site_lists_the_forms(text: str, hint: str) -> None:
    with pytest.raises(SiteError) as caught:
        Site.parse(text)
    message = str(caught.value)
    assert message.startswith(f"unknown site {text!r}: expected one of embed, resid_pre.L, ")
    assert hint in message


@pytest.mark.parametrize("thing", [2, None, ["embed"], b"embed"])
def test_what_is_no_string(thing: Any) -> None:
    with pytest.raises(SiteError, match=r"a site is a string such as 'resid_post.2', not"):
        Site.parse(thing)


@pytest.mark.parametrize("kind", list(MODELS))
def test_sites_precede_each_other_as_forward_passes_come_to_them(kind: str) -> None:
    model, seen = LanguageModel(make(kind), kind), []

    def noting(site: str, x: Tensor) -> Tensor:
        seen.append(Site.parse(site))
        return x

    model.logits(token_ids(), {site: partial(noting, site) for site in model.sites() if site != "embed"})
    assert len(seen) == len(model.sites()) - 1
    for first, second in combinations(seen, 2):
        assert first.precedes(second) is True, (first, second)
        assert second.precedes(first) is False, (first, second)


def test_the_order_of_embed_and_of_modules() -> None:
    embed, first, module = Site.parse("embed"), Site.parse("resid_pre.0"), Site.parse("module:a")
    assert embed.precedes(first) is first.precedes(embed) is False  # the same tensor
    assert embed.precedes(Site.parse("attn_z.0")) is True
    assert Site.parse("resid_post.0").precedes(embed) is False
    assert module.precedes(embed) is embed.precedes(module) is module.precedes(Site.parse("module:b")) is None
    assert module.precedes(Site.parse("module:a")) is False


def test_examples_in_docstrings_are_true() -> None:
    found = doctest.testmod(sites)
    assert found.attempted > 0
    assert found.failed == 0

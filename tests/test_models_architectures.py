"""Every site of every architecture, against transformers' own hidden states, hooks and recomputation."""

import pytest
import torch
from tiny_models import CONTEXT, LAYERS, MODELS, PARTS, Parts, make, token_ids
from torch.testing import assert_close

from sparsescope.errors import ModelError, SiteError
from sparsescope.models import LanguageModel
from sparsescope.models.architectures import ARCHITECTURES

KINDS = list(MODELS)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def lm(kind: str) -> LanguageModel:
    return LanguageModel(make(kind), kind)


@pytest.fixture(scope="module")
def parts(kind: str) -> Parts:
    return PARTS[kind]


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return token_ids()


@pytest.fixture(scope="module")
def values(lm: LanguageModel, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    return lm.read(ids, lm.sites())


def test_every_row_of_the_table_is_tested() -> None:
    tested = {(make(kind).config.model_type) for kind in KINDS}
    # The multimodal Gemma 3 and XLM-RoBERTa have tests of their own below.
    assert {row.model_type for row in ARCHITECTURES} == tested | {"gemma3", "xlm-roberta"}


def test_residual_stream_is_transformers_hidden_states(
    lm: LanguageModel, parts: Parts, ids: torch.Tensor, values: dict[str, torch.Tensor]
) -> None:
    states = lm.module(ids, output_hidden_states=True).hidden_states
    assert len(states) == LAYERS + 1
    assert torch.equal(values["embed"], states[0])
    for layer in range(LAYERS):
        assert torch.equal(values[f"resid_pre.{layer}"], states[layer])
        if layer < LAYERS - 1:
            assert torch.equal(values[f"resid_post.{layer}"], states[layer + 1])
    last, rest = values[f"resid_post.{LAYERS - 1}"], parts.after_blocks(lm.module)
    if rest is None:
        assert torch.equal(last, lm.module.base_model(ids).last_hidden_state)
    else:
        # transformers' last hidden state has the final norm (or projection) applied; the site has not.
        assert torch.equal(rest(last), states[-1])
        assert not torch.equal(last, states[-1])


def test_a_block_adds_up(lm: LanguageModel, parts: Parts, values: dict[str, torch.Tensor]) -> None:
    for layer, block in enumerate(parts.blocks(lm.module)):
        pre, post = values[f"resid_pre.{layer}"], values[f"resid_post.{layer}"]
        attention, mlp = values[f"attn_out.{layer}"], values[f"mlp_out.{layer}"]
        if parts.order == "parallel":
            assert_close(post, pre + attention + mlp)
            assert_close(values[f"mlp_in.{layer}"], parts.norm2(block)(pre))
            continue
        mid = values[f"resid_mid.{layer}"]
        if parts.order == "post":
            assert_close(mid, parts.norm1(block)(pre + attention))
            assert_close(post, parts.norm2(block)(mid + mlp))
            assert_close(values[f"mlp_in.{layer}"], mid)
        else:
            assert_close(mid, pre + attention)
            assert_close(post, mid + mlp)
            assert_close(values[f"mlp_in.{layer}"], parts.norm2(block)(mid))


def test_mlp_recomputed(lm: LanguageModel, parts: Parts, values: dict[str, torch.Tensor]) -> None:
    for layer, block in enumerate(parts.blocks(lm.module)):
        hidden = values[f"mlp_act.{layer}"]
        assert_close(hidden, parts.hidden(block, values[f"mlp_in.{layer}"]))
        assert_close(values[f"mlp_out.{layer}"], parts.added_mlp(block, parts.down(block)(hidden)))


def test_attention_recomputed(kind: str, parts: Parts, ids: torch.Tensor, values: dict[str, torch.Tensor]) -> None:
    model = make(kind, attn_implementation="eager")
    patterns = model(ids, output_attentions=True).attentions
    for layer, block in enumerate(parts.blocks(model)):
        entering = values[f"resid_pre.{layer}"]
        if parts.order != "post":
            entering = parts.norm1(block)(entering)
        heads = patterns[layer] @ parts.values(block, entering)
        z = heads.transpose(1, 2).flatten(2)
        assert_close(values[f"attn_z.{layer}"], z)
        assert_close(values[f"attn_out.{layer}"], parts.added_attention(block, parts.project(block)(z)))


def test_module_sites_are_what_hooks_see(lm: LanguageModel, parts: Parts, ids: torch.Tensor) -> None:
    block = parts.blocks(lm.module)[1]
    seen: list[torch.Tensor] = []
    hook = parts.down(block).register_forward_hook(lambda _module, args, output: seen.extend((args[0], output)))
    lm.module(ids)
    hook.remove()
    path = next(name for name, module in lm.module.named_modules() if module is parts.down(block))
    read = lm.read(ids, [f"module:{path}:in", f"module:{path}"])
    assert torch.equal(read[f"module:{path}:in"], seen[0])
    assert torch.equal(read[f"module:{path}"], seen[1])


def test_reading_one_site_equals_reading_all(
    lm: LanguageModel, ids: torch.Tensor, values: dict[str, torch.Tensor]
) -> None:
    for site in lm.sites():
        alone = lm.read(ids, [site])[site]
        assert torch.equal(alone, values[site])
        assert lm.width(site) == alone.shape[-1]
        assert alone.shape[:2] == ids.shape


def test_nothing_after_the_last_site_runs(lm: LanguageModel, parts: Parts, ids: torch.Tensor) -> None:
    order: list[torch.nn.Module] = []
    hooks = [m.register_forward_pre_hook(lambda module, _: order.append(module)) for m in lm.module.modules()]
    blocks = parts.blocks(lm.module)
    try:
        lm.read(ids, ["resid_post.1", "attn_z.0", "embed"])
        assert blocks[1] in order
        assert blocks[2] not in order
        order.clear()
        lm.read(ids, ["mlp_in.1"])
        assert parts.attention(blocks[1]) in order or parts.order == "parallel"
        assert parts.down(blocks[1]) not in order
        order.clear()
        lm.read(ids, ["embed"])
        assert not set(order) & {child for block in blocks for child in block.modules() if child is not blocks[0]}
        order.clear()
        lm.read(ids, [f"resid_post.{LAYERS - 1}"])
        after = {lm.module.get_output_embeddings(), parts.after_blocks(lm.module)}
        assert blocks[LAYERS - 1] in order
        assert not set(order) & after
    finally:
        for hook in hooks:
            hook.remove()


def test_replacing_a_site_by_itself_changes_nothing(lm: LanguageModel, ids: torch.Tensor) -> None:
    plain = lm.module(ids).logits
    assert torch.equal(lm.logits(ids), plain)
    for site in lm.sites():
        assert torch.equal(lm.logits(ids, {site: lambda x: x}), plain)
        assert torch.equal(lm.logits(ids, {site: lambda x: x.clone()}), plain)
    assert torch.equal(lm.logits(ids, dict.fromkeys(lm.sites(), torch.clone)), plain)


def test_the_stream_of_another_run_gives_its_logits(lm: LanguageModel, ids: torch.Tensor) -> None:
    other = token_ids(seed=1)
    streams = [site for site in lm.sites() if site.startswith(("resid", "embed"))]
    donor, expected, own = lm.read(other, streams), lm.module(other).logits, lm.module(ids).logits
    for site in streams:
        given = lm.logits(ids, {site: lambda x, site=site: donor[site]})
        assert torch.equal(given, expected)
    assert not torch.equal(expected, own)


def test_replacing_what_is_added_shifts_the_stream(lm: LanguageModel, parts: Parts, ids: torch.Tensor) -> None:
    """With nothing added, a block leaves the residual stream as it was, but for the norms of post-norm blocks."""
    after: dict[str, torch.Tensor] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        after["stream"] = x
        return x

    before = lm.read(ids, ["resid_pre.1"])["resid_pre.1"]
    zero = {"attn_out.1": torch.zeros_like, "mlp_out.1": torch.zeros_like}
    lm.logits(ids, {**zero, "resid_post.1": keep})
    block = parts.blocks(lm.module)[1]
    expected = parts.norm2(block)(parts.norm1(block)(before)) if parts.order == "post" else before
    assert torch.equal(after["stream"], expected)


def test_gradients_flow_through_every_site(kind: str) -> None:
    smooth = {"activation_function": "gelu"} if kind.startswith("opt") else {}
    lm = LanguageModel(make(kind, **smooth).double(), kind)
    ids = token_ids(1, 4)
    values = lm.read(ids, lm.sites())
    direction = torch.randn(ids.shape[1], 60, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for site in (site for site in lm.sites() if site == "embed" or site.endswith(".1")):
        step = torch.randn(values[site].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

        def loss(scale: torch.Tensor, site: str = site, step: torch.Tensor = step) -> torch.Tensor:
            return (lm.logits(ids, {site: lambda x: x + scale * step}) * direction).sum()

        scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(loss(scale), scale)
        size = 1e-3  # Llama and Gemma compute their norms in float32 whatever the weights are
        with torch.no_grad():
            slope = (loss(torch.tensor(size)) - loss(torch.tensor(-size))) / (2 * size)
        assert_close(gradient, slope, rtol=2e-2, atol=2e-2)
        assert gradient.abs() > 0.1


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_does_not_change_what_is_read(kind: str, lm: LanguageModel, side: str) -> None:
    pad = {"roberta": 1}.get(kind, 0)
    short, whole = token_ids(1, 5, seed=4), token_ids(1, 9, seed=5)
    filler = torch.full((1, 4), pad)
    padded = torch.cat([short, filler] if side == "right" else [filler, short], 1)
    mask = (torch.cat([padded, whole]) != pad).long()
    real = slice(0, 5) if side == "right" else slice(4, 9)
    sites = lm.sites()
    both, alone = lm.read(torch.cat([padded, whole]), sites, mask), lm.read(short, sites)
    full = lm.read(whole, sites)
    for site in sites:
        assert_close(both[site][:1, real], alone[site], rtol=1e-4, atol=1e-5)
        assert_close(both[site][1:], full[site], rtol=1e-4, atol=1e-5)
    logits = lm.logits(torch.cat([padded, whole]), attention_mask=mask)
    assert_close(logits[:1, real], lm.logits(short), rtol=1e-4, atol=1e-5)


def test_a_sequence_as_long_as_the_context_limit_runs_and_a_longer_one_is_refused(lm: LanguageModel) -> None:
    assert lm.context_limit == CONTEXT
    assert lm.logits(token_ids(1, CONTEXT)).shape == (1, CONTEXT, lm.vocabulary)
    with pytest.raises(ModelError, match=r"has 41 tokens, .* takes at most 40"):
        lm.read(token_ids(1, CONTEXT + 1), ["embed"])


def test_layer_out_of_range(lm: LanguageModel) -> None:
    with pytest.raises(SiteError, match=r"no site 'resid_post.3': it has 3 layers, 0 to 2. Valid: embed, resid_pre.L"):
        lm.check("resid_post.3")


def test_parallel_residual_has_no_middle() -> None:
    lm = LanguageModel(make("gpt_neox parallel"), "parallel")
    assert not any(site.startswith("resid_mid") for site in lm.sites())
    expected = (
        "parallel has no site 'resid_mid.1': its blocks have no resid_mid. Valid: embed, resid_pre.L, resid_post.L, "
        "mlp_in.L, mlp_out.L, mlp_act.L, attn_out.L, attn_z.L with L from 0 to 2, module:PATH, module:PATH:in."
    )
    for use in (lm.check, lambda site: lm.read(token_ids(), [site]), lambda site: lm.logits(token_ids(), {site: abs})):
        with pytest.raises(SiteError) as error:
            use("resid_mid.1")
        assert str(error.value) == expected


def test_low_precision_is_near(kind: str, ids: torch.Tensor, values: dict[str, torch.Tensor]) -> None:
    model = make(kind)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    lm = LanguageModel(model, kind)
    assert lm.dtype == torch.bfloat16
    for site, value in lm.read(ids, lm.sites()).items():
        assert value.dtype == torch.bfloat16
        error = (value.float() - values[site]).norm() / values[site].norm()
        assert error < 0.05, site


def test_gemma_embedding_is_scaled() -> None:
    """What enters block 0 is the embedding times √d."""
    lm = LanguageModel(make("gemma"), "gemma")
    ids = token_ids()
    rows = lm.module.get_input_embeddings().weight[ids]
    assert_close(lm.read(ids, ["embed"])["embed"], rows * 16**0.5)


def test_multimodal_gemma3_reads_its_language_model() -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = make("gemma3")
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(text_config=text.config, vision_config={**vision, "image_size": 28, "patch_size": 14})
    whole = Gemma3ForConditionalGeneration(config)
    whole.model.language_model.load_state_dict(text.model.state_dict())
    plain, both = LanguageModel(text, "text"), LanguageModel(whole, "both")
    assert plain.sites() == both.sites()
    for site, value in plain.read(token_ids(), plain.sites()).items():
        assert_close(both.read(token_ids(), [site])[site], value)


def test_xlm_roberta_is_roberta() -> None:
    from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

    roberta = make("roberta")
    other = XLMRobertaForMaskedLM(XLMRobertaConfig(**{**MODELS["roberta"][1], "layer_norm_eps": 1e-12}))
    other.load_state_dict(roberta.state_dict())
    one, two = LanguageModel(roberta, "one"), LanguageModel(other, "two")
    assert one.context_limit == two.context_limit == CONTEXT
    for site, value in one.read(token_ids(), one.sites()).items():
        assert torch.equal(two.read(token_ids(), [site])[site], value)

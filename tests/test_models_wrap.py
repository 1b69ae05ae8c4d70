"""Any `torch.nn.Module` by module path: reading, stopping, replacing, and what is refused."""

from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsescope.errors import ConfigurationError, SiteError
from sparsescope.models import wrap


class Pair(NamedTuple):
    value: Tensor
    extra: int


class Returns(nn.Module):
    """Gives its input in one of the containers networks use."""

    def __init__(self, container: str):
        super().__init__()
        self.container = container

    def forward(self, x: Tensor) -> Any:
        other = torch.zeros(3)
        made: dict[str, Any] = {
            "tensor": x,
            "tuple": (x, other),
            "named": Pair(x, 7),
            "list": [x, other],
            "mapping": OrderedDict(value=x, other=other),
            "text": "no tensor",
        }
        return made[self.container]


class Unpacks(nn.Module):
    """Puts a linear layer behind a container, called by keyword."""

    def __init__(self, container: str):
        super().__init__()
        self.returns = Returns(container)
        self.linear = nn.Linear(4, 5)
        self.unused = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = self.returns(x=x * 2)
        if isinstance(out, Pair):
            assert out.extra == 7
        if isinstance(out, OrderedDict):
            out = out["value"]
        return self.linear(input=out[0] if isinstance(out, (tuple, list)) else out)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self.step(x))


@pytest.fixture
def image_net() -> nn.Module:
    """Convolution, batch statistics, and an in-place ReLU that overwrites what came before it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 5))
    return net.train()


def test_reads_what_the_modules_compute(image_net: nn.Module) -> None:
    x = torch.randn(2, 3, 6, 6)
    lm = wrap(image_net, "vision")
    assert lm.sites() == ["module:0", "module:1", "module:2", "module:3", "module:4"]
    read = lm.read(x, ["module:0", "module:1", "module:2", "module:4:in", "module:4"])
    image_net.eval()
    stages = [x]
    for child in image_net:
        stages.append(child(stages[-1].clone()))
    assert torch.equal(read["module:0"], stages[1])
    assert torch.equal(read["module:1"], stages[2])
    assert (read["module:1"] < 0).any()
    assert torch.equal(read["module:2"], stages[3])
    assert torch.equal(read["module:4:in"], stages[4])
    assert torch.equal(read["module:4"], stages[5])


def test_the_module_is_left_as_it_was(image_net: nn.Module) -> None:
    image_net[1].eval()
    before = {name: value.clone() for name, value in image_net.state_dict().items()}
    modes = [module.training for module in image_net.modules()]
    lm, x = wrap(image_net), torch.randn(2, 3, 6, 6)
    mark = lm.fingerprint
    lm.read(x, ["module:2"])
    lm.logits(x, {"module:0": torch.zeros_like})
    with pytest.raises(SiteError):
        lm.logits(x, {"module:0": torch.sum})
    assert [module.training for module in image_net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in image_net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in image_net.modules())
    assert all(parameter.requires_grad for parameter in image_net.parameters())
    assert lm.fingerprint == mark
    with torch.no_grad():
        image_net[4].bias[0] += 1
    assert lm.fingerprint != mark


def test_stops_after_the_last_module() -> None:
    class Refuses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("ran although nothing after it was asked for")

    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), Refuses())
    lm, x = wrap(net), torch.randn(2, 4)
    assert torch.equal(lm.read(x, ["module:1", "module:0"])["module:1"], net[1](net[0](x)))
    assert torch.equal(lm.read(x, ["module:2:in"])["module:2:in"], net[1](net[0](x)))
    with pytest.raises(AssertionError):
        lm.logits(x)


@pytest.mark.parametrize("container", ["tensor", "tuple", "named", "list", "mapping"])
def test_the_first_value_of_a_container_is_read_and_replaced(container: str) -> None:
    torch.manual_seed(0)
    net = Unpacks(container)
    lm, x = wrap(net), torch.randn(2, 4)
    read = lm.read(x, ["module:returns", "module:returns:in", "module:linear:in", "module:linear"])
    assert torch.equal(read["module:returns"], 2 * x)
    assert torch.equal(read["module:returns:in"], 2 * x)
    assert torch.equal(read["module:linear:in"], 2 * x)
    assert torch.equal(read["module:linear"], net.linear(2 * x))
    for site in ("module:returns", "module:returns:in", "module:linear:in"):
        assert torch.equal(lm.logits(x, {site: lambda value: value}), net(x))
        assert torch.equal(lm.logits(x, {site: lambda value: value - 1}), net.linear(2 * x - 1))
    assert torch.equal(lm.logits(x, {"module:linear": torch.neg}), -net(x))


def test_inputs_by_position() -> None:
    net = nn.Bilinear(2, 3, 4)
    x, y = torch.randn(5, 2), torch.randn(5, 3)
    assert torch.equal(wrap(net).logits((x, y)), net(x, y))


def test_a_module_that_runs_twice_is_taken_at_its_first_run() -> None:
    net = Twice()
    lm, x = wrap(net), torch.randn(2, 4)
    first = net.step(x)
    assert torch.equal(lm.read(x, ["module:step"])["module:step"], first)
    assert torch.equal(lm.logits(x, {"module:step": torch.neg}), net.step(-first))
    assert torch.equal(lm.logits(x, {"module:step:in": torch.neg}), net.step(net.step(-x)))


def test_a_module_with_two_names_is_known_by_the_first() -> None:
    shared = nn.Linear(4, 4)
    lm = wrap(nn.Sequential(shared, shared), "shared")
    assert lm.sites() == ["module:0"]
    refused(SiteError, "shared has no module '1': the network contains 0.", lambda: lm.check("module:1"))


def test_gradients_flow_to_the_input_and_through_the_replacement() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    lm, x = wrap(net), torch.randn(3, 4, dtype=torch.float64)
    scale = torch.ones(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: lm.logits(x, {"module:1": lambda value: value * s}), (scale,))
    assert not lm.read(x.requires_grad_(), ["module:1"])["module:1"].requires_grad


def test_a_replacement_in_another_dtype_is_cast_back() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).bfloat16()
    lm, x = wrap(net), torch.randn(3, 4).bfloat16()
    assert torch.equal(lm.logits(x, {"module:0": lambda value: value.double()}), net(x))


def test_width_is_known_after_reading() -> None:
    lm = wrap(nn.Sequential(nn.Linear(4, 3)), "little")
    with pytest.raises(SiteError, match=r"the width of module:0 in little is not known before it was read"):
        lm.width("module:0")
    lm.read(torch.randn(2, 4), ["module:0"])
    assert lm.width("module:0") == 3


def test_two_networks_have_two_fingerprints() -> None:
    torch.manual_seed(0)
    one, two = nn.Linear(3, 3), nn.Linear(3, 3)
    assert wrap(one).fingerprint != wrap(two).fingerprint
    two.load_state_dict(one.state_dict())
    assert wrap(one).fingerprint == wrap(two).fingerprint
    assert wrap(one).fingerprint != wrap(nn.Sequential(one)).fingerprint


def refused(error: type[Exception], message: str, use: Any) -> None:
    with pytest.raises(error) as caught:
        use()
    assert message in str(caught.value)


def test_what_is_refused() -> None:
    net = nn.Sequential(OrderedDict(body=nn.Sequential(nn.Linear(4, 4), nn.ReLU()), head=nn.Linear(4, 2)))
    lm, x = wrap(net, "net"), torch.randn(2, 4)
    refused(
        SiteError,
        "net has no module 'body.2': 'body' contains 0, 1. Did you mean 'body.1'?",
        lambda: lm.check("module:body.2"),
    )
    refused(SiteError, "net has no module 'neck': the network contains body, head.", lambda: lm.check("module:neck"))
    refused(
        SiteError,
        "net has no site 'resid_post.0': its architecture is not one whose layers are known by name. Give the "
        "module, one of module:body, module:body.0, module:body.1, module:head.",
        lambda: lm.read(x, ["resid_post.0"]),
    )
    refused(ConfigurationError, "sites is [], expected a list of at least one", lambda: lm.read(x, []))
    refused(ConfigurationError, "sites is 'module:head', expected a list", lambda: lm.read(x, "module:head"))
    refused(
        SiteError,
        "the replacement for module:head returned (2, 1), expected a tensor of shape (2, 2)",
        lambda: lm.logits(x, {"module:head": lambda value: value[:, :1]}),
    )
    refused(
        SiteError,
        "the replacement for module:head returned NoneType, expected a tensor of shape (2, 2)",
        lambda: lm.logits(x, {"module:head": lambda value: None}),
    )


def test_modules_that_do_not_run_or_carry_no_tensor() -> None:
    x = torch.randn(2, 4)
    lm = wrap(Unpacks("tensor"))
    refused(
        SiteError, "cannot reach module:unused: the module 'unused' did not run", lambda: lm.read(x, ["module:unused"])
    )
    refused(SiteError, "cannot reach module:unused", lambda: lm.logits(x, {"module:unused": torch.neg}))
    silent = wrap(nn.Sequential(Returns("text")))
    refused(SiteError, "module:0 carries a str, expected a tensor", lambda: silent.read(x, ["module:0"]))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["linear", "relu", "tanh", "norm"]), min_size=1, max_size=6), st.data())
def test_every_module_of_random_stacks(kinds: list[str], data: st.DataObject) -> None:
    layers = {
        "linear": lambda: nn.Linear(3, 3),
        "relu": lambda: nn.ReLU(inplace=True),
        "tanh": nn.Tanh,
        "norm": lambda: nn.LayerNorm(3),
    }
    net = nn.Sequential(*(layers[kind]() for kind in kinds))
    x = torch.randn(2, 3)
    expected = [x.clone()]
    for child in net:
        expected.append(child(expected[-1].clone()))
    asked = data.draw(st.lists(st.integers(0, len(kinds) - 1), min_size=1, unique=True))
    read = wrap(net).read(x.clone(), [f"module:{i}" for i in asked])
    for i in asked:
        assert torch.equal(read[f"module:{i}"], expected[i + 1])

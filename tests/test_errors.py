"""The exception tree is what its docstring draws, and suggestions are made for typing errors only."""

import inspect
import re

import pytest

from sparsescope import errors
from sparsescope.errors import SparsescopeError, suggest

LEAVES = sorted(
    (kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, SparsescopeError)),
    key=lambda kind: kind.__name__,
)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = dict(re.findall(r"[├└]── (\w+) .*exit code (\d)", errors.__doc__ or ""))
    defined = {kind.__name__: str(kind.exit_code) for kind in LEAVES if kind is not SparsescopeError}
    assert drawn == defined
    assert all(kind.__bases__ == (SparsescopeError,) for kind in LEAVES if kind is not SparsescopeError)


@pytest.mark.parametrize("kind", LEAVES)
def test_every_error_is_caught_by_its_base_and_keeps_its_message(kind: type[SparsescopeError]) -> None:
    with pytest.raises(SparsescopeError, match=r"^given this, expected that$") as caught:
        raise kind("given this, expected that")
    assert caught.value.exit_code in (1, 2)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("resid_pots", " Did you mean 'resid_post'?"), ("mlp_outt", " Did you mean 'mlp_out'?"), ("xyz", ""), ("", "")],
)
def test_suggest(given: str, expected: str) -> None:
    assert suggest(given, ("resid_post", "mlp_out", "embed")) == expected


def test_suggest_takes_any_iterable_even_an_empty_one() -> None:
    assert suggest("seed", iter(["seeds"])) == " Did you mean 'seeds'?"
    assert suggest("seed", []) == ""

"""What may import what, what importing costs, and which names the package has."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sparsescope as ss

SOURCE = Path(ss.__file__).parent
ORDER = (
    *("errors", "artifact", "sites", "text", "models", "activations", "dictionaries", "metrics", "training"),
    *("features", "interpret", "causal", "worlds", "report", "explorer", "bench", "study", "cli"),
)
HEAVY = ("transformers", "matplotlib", "sklearn", "numba", "scipy", "pandas", "datasets", "pyarrow", "rich")
FILES = sorted(SOURCE.rglob("*.py"))


def part_of(file: Path) -> str:
    """Which of ORDER a source file belongs to; the package's own files have none."""
    name = file.relative_to(SOURCE).parts[0].removesuffix(".py")
    return "" if name.startswith("__") else name


def imported(file: Path) -> Iterator[str]:
    """Every module that a file imports anywhere, inside functions too, by its full name."""
    package = ["sparsescope", *file.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def test_every_source_file_has_its_place() -> None:
    assert {part_of(file) for file in FILES} - {""} <= set(ORDER)


@pytest.mark.parametrize("part", ORDER)
def test_imports_go_one_way(part: str) -> None:
    allowed = set(ORDER[: ORDER.index(part) + 1])
    for file in FILES:
        if part_of(file) == part:
            ours = [name.split(".")[1] for name in imported(file) if name.startswith("sparsescope.")]
            wrong = set(ours) & set(ORDER) - allowed
            assert not wrong, f"{file.relative_to(SOURCE)} imports {wrong}"


def test_only_models_touch_transformers() -> None:
    for file in FILES:
        if part_of(file) not in ("models", "bench"):
            assert not [name for name in imported(file) if name.split(".")[0] == "transformers"], file


def test_only_the_command_line_prints_or_reads_arguments() -> None:
    for file in FILES:
        if part_of(file) == "cli":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            assert not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"), file
            assert not (isinstance(node, ast.Attribute) and node.attr == "argv"), file


def test_heavy_libraries_are_imported_inside_functions() -> None:
    for file in FILES:
        if part_of(file) == "cli":
            continue
        for node in ast.parse(file.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not [name for name in names if name.split(".")[0] in HEAVY], file


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=SOURCE.parent)
    return done.stdout.strip()


def test_importing_loads_nothing_heavy() -> None:
    assert fresh(f"import sys, sparsescope; print([n for n in {HEAVY} if n in sys.modules])") == "[]"


def test_looking_up_every_name_loads_nothing_heavy() -> None:
    code = "import sys, sparsescope as ss; [getattr(ss, name) for name in ss.__all__];"
    assert fresh(f"{code} print([n for n in {HEAVY} if n in sys.modules])") == "[]"


def test_importing_takes_under_half_a_second_more_than_torch() -> None:
    code = "import time, torch; t = time.perf_counter(); import sparsescope; print(time.perf_counter() - t)"
    assert float(fresh(code)) < 0.5


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from sparsescope.cli import main; codes = [main(['--help']), main(['train', '--help'])];"
        "print(codes, 'torch' in sys.modules)"
    )
    assert fresh(code).endswith("[0, 0] False")


def test_the_names_of_the_package() -> None:
    assert ss.__all__ == [
        *("ICA", "NMF", "PCA", "Ablate", "Add", "BatchTopK", "Clamp", "Gated", "JumpReLU", "Matryoshka", "Neurons"),
        *("PAnneal", "Random", "Scale", "Set", "Site", "SparsescopeError", "TiedL1", "TopK", "Transcoder", "UntiedL1"),
        *("evaluate", "fit", "harvest", "load_dictionary", "load_features", "load_model", "load_store", "load_text"),
        *("replacements", "run_study", "save_dictionary", "stream", "train"),
    ]
    assert set(dir(ss)) == {*ss.__all__, "__version__"}
    for name in ss.__all__:
        value = getattr(ss, name)
        assert callable(value), name
        assert value.__module__.startswith("sparsescope."), name


def test_an_unknown_name_is_an_attribute_error_that_lists_the_names() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'trian'\. It has: .*train"):
        ss.trian  # noqa: B018

"""The documentation that comes with every Python: help topics and the standard library's docstrings.

Sources are parsed, never imported: importing the library to read its docstrings would run it.
"""

import ast
import inspect
import re
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ..errors import ConfigurationError
from .document import Document

# Tests, vendored packages and generated tables: not documentation.
_SKIPPED = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "pydoc_data",
    "_pyrepl",
    "ensurepip",
}
_SHORTEST = 200  # characters; a document below this says too little to be one


@cache
def python_documents() -> tuple[Document, ...]:
    """All documents in a fixed order: help topics first, then one document per module.

    What they say depends on the interpreter's version. Raises `ConfigurationError` where Python was
    installed without its sources.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    documents = (*_topics(library), *_docstrings(library))
    if not documents:
        raise ConfigurationError(
            f"builtin:docs found no documentation under {library}: this Python was installed without its "
            "source files. Use another Python, or pass --text with files of your own."
        )
    return documents


def _topics(library: Path) -> Iterator[Document]:
    """The texts behind `help("...")`: a module that holds one dictionary literal."""
    for statement in _parse(library / "pydoc_data" / "topics.py"):
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            for name, text in sorted(ast.literal_eval(statement.value).items()):
                if len(text) >= _SHORTEST:
                    yield Document(_tidy(text), source=f"help topic {name}")


def _docstrings(library: Path) -> Iterator[Document]:
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        if _SKIPPED & set(parts):
            continue
        module = ".".join(part for part in parts if part != "__init__")
        text = "\n\n".join(_described(_parse(path), module))
        if len(text) >= _SHORTEST:
            yield Document(text + "\n", source=f"docstrings of {module}")


def _parse(path: Path) -> list[ast.stmt]:
    """The statements of a source file; one that this Python cannot read has nothing to say."""
    try:
        return ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return []


def _described(body: list[ast.stmt], path: str) -> Iterator[str]:
    """The docstrings below a node, depth first, each under the name of what it describes."""
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        value = body[0].value.value
        if isinstance(value, str) and value.strip():
            yield f"{path}\n\n{_tidy(inspect.cleandoc(value))}"
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _described(node.body, f"{path}.{node.name}")


def _tidy(text: str) -> str:
    """One convention for line ends and blank lines."""
    return re.sub(r"\n{3,}", "\n\n", text.replace("\r\n", "\n")).strip()

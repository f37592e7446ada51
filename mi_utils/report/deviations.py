"""Where the code departs from the papers: the `Deviation:` lines of the modules that a notebook imports."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from nbformat import NotebookNode

PACKAGE = Path(__file__).resolve().parent.parent


def of_notebook(book: NotebookNode) -> list[tuple[str, str]]:
    """(module or function, what differs), read from the source without importing it."""
    modules = dict.fromkeys(name for cell in book.cells if cell.cell_type == "code" for name in _imported(cell.source))
    return [found for name in modules for found in _stated(name)]


def _imported(source: str) -> Iterator[str]:
    """Modules of this package that a cell imports."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a line of IPython's own
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name for name in names if _file(name).is_file())


def _file(module: str) -> Path:
    return PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")


def _stated(module: str) -> Iterator[tuple[str, str]]:
    """The deviations that a module's docstrings state."""
    tree = ast.parse(_file(module).read_text(encoding="utf-8"))
    for node in (tree, *tree.body):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        for text in re.split(r"Deviations?:", ast.get_docstring(node) or "")[1:]:
            name = module if node is tree else f"{module}.{node.name}"
            yield name, " ".join(text.split("\n\n")[0].split())

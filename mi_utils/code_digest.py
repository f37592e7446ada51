"""Digest of the source that makes a stage's numbers, read statically: an edited equation changes the key.

Comments, docstrings, layout and the version of Python do not enter; nothing is imported to find out.
"""

import ast
import hashlib
import importlib.util
import inspect
import linecache
import sys
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from mi_utils.errors import UserError

PACKAGE = "mi_utils"
# Plumbing: moves, stores and schedules results without making a number.
_NAMES = "stage store schedule cluster job_arrays job_file code_digest inventory origin errors".split()
PLUMBING = frozenset(f"{PACKAGE}.{name}" for name in _NAMES)
# Spelled differently by different Python versions, and without effect on a value.
_SILENT_FIELDS = frozenset({"type_params", "type_comment", "type_ignores", "kind", "ctx"})
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _body(node: ast.AST) -> list[ast.stmt]:
    """Statements of a module, class or function without its docstring."""
    first = node.body[0] if node.body else None
    documented = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return node.body[1:] if documented else node.body


def _joined(values: list[ast.expr]) -> list[ast.expr]:
    """Parts of an f-string with neighbouring literals merged, which not every Python does."""
    merged: list[ast.expr] = []
    for part in values:
        if isinstance(part, ast.Constant) and merged and isinstance(merged[-1], ast.Constant):
            merged[-1] = ast.Constant(merged[-1].value + part.value)
        elif not (isinstance(part, ast.Constant) and part.value == ""):
            merged.append(part)
    return merged


def normal_form(node: object) -> str:
    """Text of a syntax tree that is equal exactly when the code is, on Python 3.11 to 3.14."""
    if isinstance(node, list):
        return "[" + ",".join(map(normal_form, node)) + "]"
    if not isinstance(node, ast.AST):
        return f"{type(node).__name__}:{node!r}"
    parts = []
    for name in sorted(node._fields):
        value = getattr(node, name, None)
        if name == "body" and isinstance(node, _DOCUMENTED):
            value = _body(node)
        elif name == "values" and isinstance(node, ast.JoinedStr):
            value = _joined(value)
        if name in _SILENT_FIELDS or value is None and not isinstance(node, ast.Constant) or value == []:
            continue
        parts.append(f"{name}={normal_form(value)}")
    return f"{type(node).__name__}({';'.join(parts)})"


@cache
def _places(package: str) -> tuple[Path, ...]:
    """Folders in which a package's modules lie; none for a name that is no package."""
    loaded = sys.modules.get(package)
    if loaded is not None:
        return tuple(map(Path, getattr(loaded, "__path__", ())))
    parent, _, leaf = package.rpartition(".")
    if parent:
        return tuple(place / leaf for place in _places(parent) if (place / leaf).is_dir())
    spec = importlib.util.find_spec(leaf)
    return tuple(map(Path, spec.submodule_search_locations or ())) if spec else ()


@cache
def _find(module: str) -> Path | None:
    """Source file of a module, found without importing it or its parent packages."""
    loaded = sys.modules.get(module)
    parent, _, leaf = module.rpartition(".")
    if loaded is not None or not parent:
        spec = None if loaded else importlib.util.find_spec(leaf)
        origin = getattr(loaded, "__file__", None) or getattr(spec, "origin", None)
        return Path(origin) if origin and origin.endswith(".py") else None
    for place in _places(parent):
        for candidate in (place / leaf / "__init__.py", place / f"{leaf}.py"):
            if candidate.is_file():
                return candidate
    return None


def _imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Dotted names that a module imports, relative ones resolved; `from p import n` gives `p.n`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = node.level - is_package
                home = module.split(".")[: len(module.split(".")) - up]
                base = ".".join([*home, base] if base else home)
            yield from (f"{base}.{alias.name}" for alias in node.names)


@cache
def _read(module: str, own: tuple[str, ...]) -> tuple[str, frozenset[str], float] | None:
    """(digest, own modules imported, time of last edit) of one module's file; None where there is no file."""
    path = _find(module)
    if path is None:
        return None
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=path.name)
    digest = hashlib.sha256(normal_form(tree).encode()).hexdigest()
    # A time of writing may be anything (an archive unpacked, another machine's clock); that of the last change
    # on this disk cannot be set. An edit sets both.
    stat = path.stat()
    edited = min(stat.st_mtime, stat.st_ctime)
    return digest, _followed(tree, module, path.name == "__init__.py", own), edited


def _followed(tree: ast.AST, module: str, is_package: bool, own: tuple[str, ...]) -> frozenset[str]:
    """The modules of our own packages among the imports; `p.n` is module `p` where `n` is a name in it."""
    found = set()
    for name in _imports(tree, module, is_package):
        if name.split(".")[0] not in own:
            continue
        base = name.removesuffix(".*")
        found.add(base if _find(base) is not None or "." not in base else base.rpartition(".")[0])
    return frozenset(found - PLUMBING)


@cache
def closure(module: str) -> tuple[str, float]:
    """(digest, latest edit) over a module and all modules of its package and of ours that it imports."""
    own = (PACKAGE, module.split(".")[0])
    digests: dict[str, str] = {}
    waiting, latest = [module], 0.0
    while waiting:
        name = waiting.pop()
        found = None if name in digests else _read(name, own)
        if found is not None:
            digests[name], imported, edited = found
            latest = max(latest, edited)
            waiting.extend(imported)
    text = "\n".join(f"{name} {digest}" for name, digest in sorted(digests.items()))
    return hashlib.sha256(text.encode()).hexdigest(), latest


# Digests of classes made in a script or notebook, as last found here, and as given by the process that sent
# a stage here: a worker has no text of them.
TYPED: dict[str, tuple[str, float]] = {}
GIVEN: dict[str, tuple[str, float]] = {}
PROCESS = uuid.uuid4().hex


def of_class(cls: type) -> tuple[str, float]:
    """(digest, latest edit) of the source behind a class, in a file or typed into a notebook.

    What is typed is read each time, because a cell may be run again with another content.
    """
    if cls.__module__ != "__main__":
        return closure(cls.__module__)
    if cls.__qualname__ in GIVEN:
        return GIVEN[cls.__qualname__]
    TYPED[cls.__qualname__] = closure("__main__") if _find("__main__") else _typed(cls)
    return TYPED[cls.__qualname__]


def _typed(cls: type) -> tuple[str, float]:
    """Digest of a class that lies in no file: its text and everything of ours that the text names."""
    parts, latest = {}, 0.0
    waiting: list[tuple[str, object]] = [(cls.__name__, cls)]
    while waiting:
        name, value = waiting.pop()
        home = getattr(value, "__module__", None) or getattr(value, "__name__", "")
        if name in parts or home in PLUMBING:
            continue
        if home.split(".")[0] == PACKAGE:
            parts[name], edited = closure(home)
            latest = max(latest, edited)
        elif home == cls.__module__ and (inspect.isfunction(value) or inspect.isclass(value)):
            node = _definition(value)
            parts[name] = normal_form(node)
            scope = vars(sys.modules[home])
            names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} & scope.keys()
            waiting += [(name, scope[name]) for name in names]
        elif isinstance(value, int | float | str):
            parts[name] = repr(value)
    return hashlib.sha256(repr(sorted(parts.items())).encode()).hexdigest(), latest


def _definition(value: object) -> ast.AST:
    """Syntax tree of a function or class from the notebook cell that defines it; UserError without a cell.

    `inspect.getsource` cannot do this for a class outside a file, so the cell is found by one of its methods.
    """
    parts = [value, *vars(value).values()] if inspect.isclass(value) else [value]
    own = [part for part in parts if inspect.isfunction(part) and part.__module__ == value.__module__]
    if not own:
        return ast.Module([], [])  # nothing but fields, which are part of the key by themselves
    for cell in {part.__code__.co_filename for part in own}:
        for node in ast.walk(ast.parse("".join(linecache.getlines(cell)))):
            if getattr(node, "name", None) == value.__name__:
                return node
    raise UserError(f"{value.__name__}: its source cannot be read; define it in a file or a notebook cell")

"""What a reproduction left in figures/<profile>/<paper>/, read back for the scorecard and the page.

Whatever is absent or cannot be read is kept as a sentence that the page shows in its place; nothing is dropped.
"""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import pydantic
from nbformat import NotebookNode

from mi_utils.errors import UserError
from mi_utils.report.claims import Judgement

_JUDGEMENTS = pydantic.TypeAdapter(tuple[Judgement, ...])


@dataclass(frozen=True)
class Table:
    """Cells as text, under their caption ("" where none is stored); `problem`: why there are none."""

    name: str
    caption: str = ""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Paper:
    """One paper's results.  `problem`: why there is no judgement at all; `notes`: what else is amiss.

    `book`: the executed notebook where there is one (`executed`), else its source.
    """

    name: str
    title: str
    book: NotebookNode
    executed: bool
    judgements: tuple[Judgement, ...] = ()
    problem: str = ""
    notes: tuple[str, ...] = ()
    tables: Mapping[str, Table] = field(default_factory=dict)
    figures: Mapping[str, Path] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def present(self) -> bool:
        """Whether anything of it was stored."""
        return bool(self.judgements or self.tables or self.figures or self.provenance)


def paper(folder: Path, notebooks: Path) -> Paper:
    """The results in `folder`, named after the paper, with notebooks/<paper>.ipynb as the source of its prose."""
    name, notes = folder.name, []
    executed = folder / f"{name}.ipynb"
    book = _book(executed if executed.is_file() else notebooks / f"{name}.ipynb")
    if not folder.is_dir():
        return Paper(name, title(book), book, False, problem=f"No results yet: run make reproduce PAPER={name}")
    if (folder / f"{name}.failed.ipynb").is_file():
        notes.append(f"The last run of this notebook failed, see {name}.failed.ipynb; what is here is older or partial")
    judgements, problem = _judgements(folder / "claims.json")
    provenance, unread = _provenance(folder / "provenance.json")
    if unread:
        notes.append(unread)
    return Paper(
        name=name,
        title=title(book),
        book=book,
        executed=executed.is_file(),
        judgements=judgements,
        problem=problem,
        notes=tuple(notes),
        tables={path.stem: table(path) for path in sorted(folder.glob("tables/*.csv"))},
        figures={path.stem: path for path in sorted(folder.glob("figures/*.png"))},
        provenance=provenance,
    )


def table(path: Path) -> Table:
    """The cells of a stored table, and its caption from the Markdown file beside it."""
    text = path.with_suffix(".md")
    caption = text.read_text(encoding="utf-8").split("\n\n")[0] if text.is_file() else ""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            columns, *rows = [tuple(row) for row in csv.reader(file)]
    except (ValueError, csv.Error):
        return Table(path.stem, caption, problem=f"{path.name}: expected a header and rows, found neither")
    odd = [i for i, row in enumerate(rows, 1) if len(row) != len(columns)]
    if odd:
        problem = f"{path.name}: expected {len(columns)} cells a row, found {len(rows[odd[0] - 1])} in row {odd[0]}"
        return Table(path.stem, caption, problem=problem)
    return Table(path.stem, caption, columns, tuple(rows))


def title(book: NotebookNode) -> str:
    """The first heading of a notebook."""
    lines = [line for cell in book.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    return next((line.removeprefix("# ").strip() for line in lines if line.startswith("# ")), "untitled")


def _book(path: Path) -> NotebookNode:
    """A notebook of format 4."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise UserError(f"{path.name}: expected a notebook, found {type(error).__name__}; run make reproduce") from None


def _judgements(path: Path) -> tuple[tuple[Judgement, ...], str]:
    """The verdicts, or why there are none."""
    if not path.is_file():
        return (), f"{path.name} is missing: the notebook did not get as far as its verdicts, run it again"
    try:
        found = _JUDGEMENTS.validate_json(path.read_bytes())
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole file"
        return (), f"{path.name} cannot be read, {where}: {first['msg']}; run the notebook again"
    return found, "" if found else f"{path.name} holds no claim: run the notebook again"


def _provenance(path: Path) -> tuple[dict[str, Any], str]:
    """The record of the run, or why there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}, f"{path.name} is missing or cannot be read: cost and versions are unknown"
    return (found, "") if isinstance(found, dict) else ({}, f"{path.name}: expected a mapping, found another value")

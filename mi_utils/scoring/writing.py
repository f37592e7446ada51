"""A score as a folder of files, whole or not at all, and as a table on a narrow screen."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from mi_utils.errors import UserError
from mi_utils.report import folder
from mi_utils.report.figures import Picture
from mi_utils.scoring import table
from mi_utils.scoring.table import ClassRow, Row

WIDTH = 100
DEFINED = ("DDCS", "DDCS, distances scaled")  # rows whose full name is printed below the table


@dataclass(frozen=True)
class Scores:
    """Everything that `score` found.

    exposed: private images, the most exposed first.  draw: makes the figure of nearest pairs.  record: options,
    sizes, and what made the numbers.  notes: what was done to the data.
    """

    rows: tuple[Row, ...]
    class_rows: tuple[ClassRow, ...]
    names: Mapping[int, str]
    exposed: pd.DataFrame
    draw: Callable[[], Picture]
    record: Mapping[str, Any]
    notes: tuple[str, ...]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a metric: group, metric, value, low, high, n, seeds, unit, what, reason."""
        return table.frame(self.rows)

    @cached_property
    def per_class(self) -> pd.DataFrame:
        """One row a class and metric: class, name, metric, value, n, seeds, reason."""
        return table.class_frame(self.class_rows, self.names)

    @cached_property
    def figure(self) -> Picture:
        """The most and the least exposed private images beside the reconstructions nearest to them."""
        return self.draw()

    def row(self, metric: str, group: str | None = None) -> Row:
        """The row of this name, full or short; UserError where there is none or more than one."""
        found = [r for r in self.rows if metric in (r.metric, r.short) and group in (None, r.group)]
        if len(found) != 1:
            known = ", ".join(dict.fromkeys(r.short or r.metric for r in self.rows))
            raise UserError(f"metric: expected one row {metric!r}, found {len(found)}; there are {known}")
        return found[0]

    def write(self, dest: Path | str) -> Path:
        """scores.json, table.md, table.csv, per_class.csv, exposed.csv, nearest.png in a new or empty folder."""
        return publish(Path(dest), self._files)

    def _files(self) -> dict[str, bytes | str]:
        """File name -> content."""
        return {
            "scores.json": json.dumps(self.json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
            "table.md": f"{self.caption()}\n\n{table.markdown(self.rows, self.notes)}",
            "table.csv": self.table.to_csv(index=False),
            "per_class.csv": self.per_class.to_csv(index=False),
            "exposed.csv": self.exposed.to_csv(index=False),
            "nearest.png": self.figure.png,
        }

    def json(self) -> dict[str, Any]:
        """Everything but the picture and the list of private images, as JSON types."""
        return {
            **self.record,
            "notes": list(self.notes),
            "classes": {str(c): name for c, name in self.names.items()},
            "table": records(self.table),
            "per_class": records(self.per_class),
        }

    def caption(self) -> str:
        """What was scored, and what made the numbers, in two lines."""
        options, images, made = (self.record[name] for name in ("options", "images", "provenance"))
        sizes = [f"{name} {n:,}" for name, n in images.items() if name != "reconstructions"]
        seeds = " + ".join(f"{n:,}" for n in images["reconstructions"])
        given = ", ".join(options["reconstructions"])
        return (
            f"{given}: {seeds} reconstructions of {len(self.names)} classes, {'×'.join(map(str, self.record['shape']))}"
            f"; {', '.join(sizes)} images.\n"
            f"mi_utils {made['commit']}, torch {made['torch']}, {made['device']}, {made['seconds']} s."
        )

    def show(self, console: Console | None = None) -> None:
        """The table, its definitions, what could not be computed and the notes, for a screen of 100 columns."""
        console = console or Console(width=WIDTH)
        reasons = list(dict.fromkeys(row.reason for row in self.rows if row.reason))
        console.print(self.caption(), markup=False, highlight=False)
        console.print(grid(self.rows, reasons))
        definitions = [f"{row.short} = {row.metric}" for row in self.rows if row.short in DEFINED]
        lines = [f"[{i}] {reason}" for i, reason in enumerate(reasons, 1)]
        for line in (*definitions, *lines, *(f"note: {note}" for note in self.notes)):
            console.print(line, markup=False, highlight=False)


def grid(rows: Sequence[Row], reasons: Sequence[str]) -> Grid:
    """A section a group; a number in brackets points at the reason for an empty cell."""
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, width=WIDTH, show_edge=False)
    grid.add_column("metric", ratio=1, overflow="fold")
    for name, width in (("value", 12), ("95 % interval", 24), ("n / seeds", 18)):
        grid.add_column(name, justify="right", width=width, no_wrap=True)
    for group in dict.fromkeys(row.group for row in rows):
        grid.add_row(Text(group, style="bold"))
        for row in (row for row in rows if row.group == group):
            value, interval, n = table.cells(row)
            mark = f"[{reasons.index(row.reason) + 1}]" if row.reason else n
            grid.add_row(*map(Text, (f"  {row.short or row.metric}", value, interval, mark)))
        grid.add_section()
    return grid


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON types; an empty cell is null."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def publish(dest: Path, files: Callable[[], Mapping[str, bytes | str]]) -> Path:
    """A new or empty folder with these files (name -> content, made once it is free), whole or not at all."""
    check_free(dest)
    draft = dest.with_name(f".{dest.name}.{os.getpid()}.tmp")
    try:
        for name, content in files().items():
            folder.write(draft / name, content)
        draft.replace(dest)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return dest


def check_free(dest: Path) -> None:
    """UserError unless the folder is new or empty and its parent can be made."""
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise UserError(f"out: expected a new or empty folder, found {dest} in use; name another")

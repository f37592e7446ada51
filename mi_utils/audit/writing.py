"""What an audit found, as a folder of files, whole or not at all, and in a few lines on a screen."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from mi_utils.audit import page
from mi_utils.audit.ranking import Pair
from mi_utils.scoring import table
from mi_utils.scoring.table import Row
from mi_utils.scoring.writing import WIDTH, grid, publish, records


@dataclass(frozen=True)
class Audit:
    """Everything that `vulnerable` found.

    rows: DDCS, coverage and their references.  ranked: every private image, the most vulnerable first (columns in
    `ranking.listing`).  pairs: the first of them as images.  record: sizes, options, and what made the numbers.
    notes: what was done to the data.
    """

    rows: tuple[Row, ...]
    ranked: pd.DataFrame
    pairs: tuple[Pair, ...]
    record: Mapping[str, Any]
    notes: tuple[str, ...]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a metric: group, metric, value, low, high, n, seeds, unit, what, reason."""
        return table.frame(self.rows)

    @cached_property
    def html(self) -> str:
        """The sheet of the most exposed images, one page without any other file."""
        return page.render(self.rows, self.ranked, self.pairs, self.record, self.notes)

    def write(self, dest: Path | str) -> Path:
        """vulnerable.csv, vulnerable.json and vulnerable.html in a new or empty folder."""
        return publish(Path(dest), self._files)

    def _files(self) -> dict[str, str]:
        """File name -> content."""
        return {
            "vulnerable.csv": self.ranked.to_csv(index=False),
            "vulnerable.json": json.dumps(self.json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
            "vulnerable.html": self.html,
        }

    def json(self) -> dict[str, Any]:
        """Everything but the pictures, as JSON types."""
        return {
            **self.record,
            "notes": list(self.notes),
            "table": records(self.table),
            "ranked": records(self.ranked),
        }

    def show(self, console: Console | None = None) -> None:
        """The numbers and the first private images, for a screen of 100 columns."""
        console = console or Console(width=WIDTH)
        reasons = list(dict.fromkeys(row.reason for row in self.rows if row.reason))
        console.print(page.caption(self.record), markup=False, highlight=False)
        console.print(grid(self.rows, reasons))
        lines = [f"[{i}] {reason}" for i, reason in enumerate(reasons, 1)]
        for line in (*lines, *(f"note: {note}" for note in self.notes)):
            console.print(line, markup=False, highlight=False)
        for row in self.ranked.head(5).itertuples():
            image = row.file or f"row {row.private}"
            said = f"s = {row.vulnerability:.3f}, matched in {row.matched_in} of {self.record['seeds']} seeds"
            console.print(f"{row.rank}. private {image}: {said}, d = {row.distance:.3g}", markup=False, highlight=False)

"""Where a paper's results go, the same for every paper: figures/<profile>/<paper>/.

scores.csv, claims.json, provenance.json, tables/<name>.csv and .md, figures/<name>.png and .pdf.  Every file
is written under a temporary name and then renamed, so a reader never sees half of one.
"""

import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mi_utils.errors import UserError
from mi_utils.report import claims, figures, scores, tables

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def write(path: Path, content: bytes | str) -> Path:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


class Folder:
    """The results of one paper at one profile."""

    def __init__(self, profile: str, paper: str, root: Path | str = "figures") -> None:
        self.path = Path(root) / _named("profile", profile) / _named("paper", paper)

    def scores(self, frame: pd.DataFrame) -> Path:
        """scores.csv: the tidy scores, checked."""
        return write(self.path / "scores.csv", scores.check(frame).to_csv(index=False))

    def claims(self, judgements: Sequence[claims.Judgement]) -> Path:
        """claims.json: one entry per claim."""
        return write(self.path / "claims.json", claims.to_json(judgements))

    def provenance(self, record: dict[str, Any]) -> Path:
        """provenance.json (see `provenance.record`)."""
        return write(self.path / "provenance.json", json.dumps(record, indent=2, allow_nan=False) + "\n")

    def table(self, name: str, frame: pd.DataFrame, caption: tables.Caption) -> str:
        """tables/<name>.csv (cells alone) and .md (with its caption); returns the Markdown for display."""
        text = tables.markdown(frame, caption)
        write(self.path / "tables" / f"{_named('table', name)}.csv", tables.csv(frame))
        write(self.path / "tables" / f"{name}.md", text)
        return text

    def figure(self, name: str, figure: figures.Picture) -> figures.Picture:
        """figures/<name>.png and .pdf; returns the figure for display."""
        vector = io.BytesIO()
        figures.save(figure, vector, "pdf")
        place = self.path / "figures"
        write(place / f"{_named('figure', name)}.pdf", vector.getvalue())
        write(place / f"{name}.png", figure.png)
        return figure


def _named(what: str, name: str) -> str:
    """A name that is safe as a file name on every system."""
    if not _NAME.fullmatch(name):
        raise UserError(f"{what}: expected lower-case letters, digits, - and _, found {name!r}; rename it")
    return name

"""An audit's folder, whole or not at all: page, tables, grids and the reconstructions as files."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from mi_utils import export
from mi_utils.report import folder
from mi_utils.report.figures import Picture, first_of_class, image_grid
from mi_utils.scoring.inputs import Labelled
from mi_utils.scoring.writing import WIDTH, check_free, records
from mi_utils.your_model import page
from mi_utils.your_model.conclusions import Conclusions
from mi_utils.your_model.exposure import Exposure

__all__ = ["Report", "check_free"]


@dataclass(frozen=True)
class Report:
    """Everything that an audit found.

    found: by attack.  said: what follows and what does not.  record: inputs, plan, and what made the numbers.  notes:
    what was done to the images.
    """

    found: tuple[Exposure, ...]
    said: Conclusions
    private: Labelled | None
    record: Mapping[str, Any]
    notes: tuple[str, ...]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row an attack and metric; an empty value has its reason."""
        return pd.concat([one.frame() for one in self.found], ignore_index=True)

    @cached_property
    def exposed(self) -> pd.DataFrame | None:
        """Every private image by attack, the most exposed first; None without private images."""
        listed = [one.listing.assign(attack=one.title) for one in self.found if one.listing is not None]
        return pd.concat(listed, ignore_index=True) if listed else None

    @cached_property
    def plan(self) -> pd.DataFrame:
        """What was run and what was left out, with seconds and reasons."""
        return pd.DataFrame(self.record["plan"])

    @property
    def html(self) -> str:
        """The page."""
        return page.render(self.found, self.said, self.private, self.record, self.notes)

    def grid(self, name: str) -> Picture:
        """The first reconstructions of every class by one attack."""
        one = next(one for one in self.found if one.name == name)
        return self._grid(one.seeds[0].images, one.seeds[0].labels, one.title)

    def private_grid(self) -> Picture | None:
        """The first private images of every class."""
        if self.private is None:
            return None
        return self._grid(self.private.images, self.private.labels, "private images")

    def _grid(self, images: Any, labels: Any, title: str) -> Picture:
        names = {int(c): name for c, name in self.record["classes"].items()}
        rows = first_of_class(images, labels, names, page.FIRST)
        return image_grid(rows, title=title, first=page.FIRST)

    def json(self) -> dict[str, Any]:
        """Everything but the pictures, as JSON types."""
        said = {"can": self.said.can, "cannot": self.said.cannot, "missing": self.said.missing}
        near = {one.name: one.near for one in self.found}
        notes = [*self.notes, *dict.fromkeys(note for one in self.found for note in one.notes)]
        return {**self.record, "conclusions": said, "nearest": near, "notes": notes, "table": records(self.table)}

    def write(self, dest: Path | str) -> Path:
        """report.html, audit.json, exposure.csv, exposed.csv, <attack>.png and <attack>/seed-<s>/ in a new folder."""
        dest = Path(dest)
        check_free(dest)
        draft = dest.absolute().with_name(f".{dest.name}.{os.getpid()}.tmp")
        try:
            for name, content in self._files().items():
                folder.write(draft / name, content)
            for one in self.found:
                for seed, images in zip(self.record["seeds"], one.seeds, strict=True):
                    export.write(images.images, images.labels, draft / one.name / f"seed-{seed}")
            draft.replace(dest)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return dest

    def _files(self) -> dict[str, bytes | str]:
        """File name -> content."""
        files: dict[str, bytes | str] = {
            "report.html": self.html,
            "audit.json": json.dumps(self.json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
            "exposure.csv": self.table.to_csv(index=False),
        }
        if self.exposed is not None:
            files["exposed.csv"] = self.exposed.to_csv(index=False)
        return files | {f"{one.name}.png": self.grid(one.name).png for one in self.found}

    def show(self, console: Console | None = None) -> None:
        """What was run and what follows, for a screen of 100 columns."""
        console = console or Console(width=WIDTH)

        def tell(line: str) -> None:
            console.print(line, markup=False, highlight=False)

        for entry in self.record["plan"]:
            tell(f"{'run' if entry['run'] else 'left out'}: {entry['title']} - {entry['why']}")
        for heading, lines in (
            ("What can be concluded", self.said.can),
            ("What cannot be concluded", self.said.cannot),
            ("What is missing", self.said.missing),
        ):
            if lines:
                tell(f"\n{heading}")
            for line in lines:
                tell(f"- {line}")

"""figures/<profile>/: index.html and scorecard.md, .csv and .json from what lies there; nothing is computed."""

from collections.abc import Sequence
from pathlib import Path

from mi_utils.errors import UserError
from mi_utils.report import page, reading, scorecard
from mi_utils.report.folder import write


def build(figures: Path, profile: str, names: Sequence[str], notebooks: Path) -> Path:
    """Writes the four files, each whole or not at all; returns the page.

    Raises UserError where no paper has any result at this profile.
    """
    folder = figures / profile
    if not any((folder / name).is_dir() for name in names):
        raise UserError(
            f"report: expected results in {folder.name}/<paper>/, found none of {', '.join(names)}; "
            f"run make reproduce PROFILE={profile}"
        )
    papers = [reading.paper(folder / name, notebooks) for name in names]
    write(folder / "scorecard.md", scorecard.to_markdown(profile, papers))
    write(folder / "scorecard.csv", scorecard.to_csv(papers))
    write(folder / "scorecard.json", scorecard.to_json(profile, papers))
    return write(folder / "index.html", page.render(profile, papers))

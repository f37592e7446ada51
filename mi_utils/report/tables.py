"""Tables as CSV and Markdown, with a caption that says what made every number."""

from collections.abc import Sequence

import pandas as pd
import pydantic


class Caption(pydantic.BaseModel):
    """The facts without which a number cannot be read.  `stand_in`: what replaces the paper's data, None if
    nothing.

    `evaluator` and `features` name the judging nets and the feature space; `images` is N per class or in all,
    in words; `settings` lists the options that made the numbers.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    what: str
    data: str
    stand_in: str | None
    evaluator: str
    features: str
    images: str
    seeds: Sequence[int]
    settings: dict[str, str | int | float | bool] = {}

    def text(self) -> str:
        """One paragraph."""
        standing = f" (stand-in for {self.stand_in})" if self.stand_in else " (the paper's data)"
        seeds = ", ".join(map(str, self.seeds))
        parts = [
            f"{self.what.rstrip('.')}.",
            f"Data: {self.data}{standing}.",
            f"Evaluator: {self.evaluator}.",
            f"Features: {self.features}.",
            f"N: {self.images}.",
            f"Mean ± standard deviation over {len(self.seeds)} seed{'s' * (len(self.seeds) != 1)} ({seeds}).",
        ]
        if self.settings:
            parts.append("Settings: " + ", ".join(f"{k} = {v}" for k, v in self.settings.items()) + ".")
        return " ".join(parts)


def markdown(frame: pd.DataFrame, caption: Caption) -> str:
    """A pipe table under its caption.  Cells are printed as they are: nothing reformats "0.10" or a
    reason.
    """
    flat = _flat(frame).map(lambda cell: cell.replace("|", "\\|").replace("\n", " "))
    return f"{caption.text()}\n\n{flat.to_markdown(index=False, disable_numparse=True)}\n"


def csv(frame: pd.DataFrame) -> str:
    """The cells alone, index first."""
    return _flat(frame).to_csv(index=False)


def _flat(frame: pd.DataFrame) -> pd.DataFrame:
    """Index as ordinary columns (unless it is the plain 0..n-1), every cell as text."""
    plain = isinstance(frame.index, pd.RangeIndex) and frame.index.name is None
    flat = frame if plain else frame.reset_index()
    return flat.set_axis([str(c) for c in flat.columns], axis=1).map(str)

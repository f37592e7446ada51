"""What a study is made of: runs (one attack at one setting and seed), their evaluations, and the stages below."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar, get_args

import pandas as pd
from pydantic import Field
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.report import scores
from mi_utils.stage import Config, Stage
from mi_utils.studies.evaluation import Evaluation

Profile = Literal["smoke", "laptop", "gpu", "paper"]
PROFILES: tuple[str, ...] = get_args(Profile)
# A mistyped number would plan stages until the memory is full.
Seeds = Annotated[int, Field(ge=1, le=100)]
SomeSeeds = Annotated[int, Field(ge=0, le=100)]
AnyConfig = TypeVar("AnyConfig", bound=Config)


@dataclass(frozen=True)
class Run:
    """One attack at one setting and seed; `evaluation.attack` is the stage that made its images."""

    attack: str
    setting: str
    seed: int
    evaluation: Evaluation

    @property
    def stage(self) -> Stage:
        """The attack's stage."""
        return self.evaluation.attack


@dataclass(frozen=True)
class Plan:
    """Everything that a profile of a paper computes.  `references`: images that no attack made, scored alike."""

    paper: str
    profile: str
    settings: Config
    runs: tuple[Run, ...]
    references: tuple[Run, ...] = ()
    extra: tuple[Stage, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All stages to have stored, each once; long ones first where order is free."""
        found = [*self.extra, *(run.evaluation for run in (*self.runs, *self.references))]
        return tuple({stage.key: stage for stage in found}.values())

    def scores(self) -> pd.DataFrame:
        """Tidy scores of all runs and references; every stage must be stored."""
        rows = [
            (run.attack, run.setting, run.seed, str(c), metric, float(value), n, "")
            for run in (*self.runs, *self.references)
            for metric, c, value, n in run.evaluation.result().meta["rows"]
        ]
        return pd.DataFrame(rows, columns=scores.COLUMNS)

    def find(self, attack: str, setting: str | None = None, seed: int = 0) -> Run:
        """The run of these names; UserError that lists what there is."""
        names = list(dict.fromkeys(run.attack for run in self.runs))
        if attack not in names:
            raise UserError(f"attack: {suggestion(attack, names)}")
        here = [run for run in self.runs if run.attack == attack and setting in (None, run.setting)]
        if not here:
            settings = list(dict.fromkeys(run.setting for run in self.runs if run.attack == attack))
            raise UserError(f"setting: {suggestion(str(setting), settings)}")
        matching = [run for run in here if run.seed == seed]
        if not matching:
            raise UserError(f"seed: expected one of {sorted({r.seed for r in here})}, found {seed}")
        return matching[0]

    def reconstructions(self, attack: str, setting: str | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Stored images uint8 (N, C, S, S) and labels (N,); UserError where the run is not stored yet."""
        run = self.find(attack, setting, seed)
        if not run.stage.stored():
            raise UserError(
                f"{self.paper} {attack!r} seed {seed}: expected a stored result at profile {self.profile}, found "
                f"none; run make reproduce PAPER={self.paper} PROFILE={self.profile}"
            )
        tensors = run.stage.result().tensors
        return tensors["images"], tensors["labels"]


def suggestion(found: str, known: Iterable[str]) -> str:
    """`expected one of ..., found ...; did you mean ...?`"""
    known = list(known)
    close = get_close_matches(found, known, 1, 0.4)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"expected one of {', '.join(known)}, found {found!r}{hint}"


def settings_for(profile: str, makers: dict[str, Callable[[], AnyConfig]], overrides: dict[str, Any]) -> AnyConfig:
    """The settings of a profile with fields overridden; UserError for an unknown profile, field or bad value."""
    if profile not in makers:
        raise UserError(f"profile: {suggestion(profile, makers)}")
    base = makers[profile]()
    for name in overrides:
        if name not in type(base).model_fields:
            raise UserError(f"{name}: unknown field; {suggestion(name, type(base).model_fields)}")
    return base.model_copy(update=overrides)

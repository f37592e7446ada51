"""What `score` was asked for, checked and read: everything that can be wrong is found here."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import torch

from mi_utils.data import Source
from mi_utils.errors import UserError
from mi_utils.metrics import references
from mi_utils.metrics.ddcs import Scope
from mi_utils.models import perceptual
from mi_utils.models.external import ExternalClassifier
from mi_utils.scoring import inputs, stored
from mi_utils.scoring.align import Sets, align
from mi_utils.scoring.context import Say
from mi_utils.scoring.inputs import Given, Labelled
from mi_utils.scoring.stored import Study
from mi_utils.training.knowledge import Recipe

LEAST_SIDE = 28  # of ST-LPIPS, whose feature space is always used
Net = ExternalClassifier | str | Path


@dataclass(frozen=True)
class Request:
    """The arguments of `score`, under its names."""

    reconstructions: Sequence[Given]
    private: Given | None = None
    holdout: Given | None = None
    prior: Given | None = None
    public: Given | None = None
    test: Given | None = None
    target: Net | None = None
    evaluators: Sequence[Net] = ()
    size: int | None = None
    net: str = "st-lpips-alex"
    scope: Scope = "global"
    device: str | torch.device = "auto"
    budget: int | None = None
    kes: bool = False
    recipe: Recipe = field(default_factory=Recipe)
    profile: str = "laptop"
    out: Path | str | None = None
    say: Say = lambda line: None

    def check(self) -> None:
        """UserError for what can be seen to be wrong before anything is read."""
        if self.scope not in get_args(Scope):
            raise UserError(f"scope: expected one of {', '.join(get_args(Scope))}, found {self.scope!r}")
        if self.net not in perceptual.NETS:
            perceptual.load(self.net)  # says which there are
        if self.size is not None and not LEAST_SIDE <= self.size <= 1024:
            raise UserError(f"size: expected {LEAST_SIDE}..1024 px, found {self.size}")
        if not self.reconstructions:
            raise UserError("RECONSTRUCTIONS: expected at least 1 set of images, found none; name a folder or file")
        if self.test is not None and not self.kes:
            raise UserError("test: it is read by the knowledge extraction score alone; add --kes, or leave it out")
        alone = len(self.reconstructions) == 1 and is_stored(self.reconstructions[0])
        if not alone and any(is_stored(given) for given in self.reconstructions):
            raise UserError("RECONSTRUCTIONS: stored:... brings all its seeds; expected it alone, found more beside it")
        if not alone and self.private is None:
            raise UserError("private: expected the private images, found none; give --private (stored:... has its own)")
        if self.kes and not alone and self.test is None and self.holdout is None:
            raise UserError("kes: expected real images to test on, found none; give --test or --holdout")

    def options(self) -> dict[str, Any]:
        """What was asked for as JSON types, sets and nets as the user named them."""
        plain = {name: getattr(self, name) for name in ("size", "net", "scope", "budget", "kes", "profile")}
        named = {name: getattr(self, name) for name in ("private", "holdout", "prior", "public", "test", "target")}
        return {
            "reconstructions": [as_typed(given) for given in self.reconstructions],
            **{name: as_typed(given) for name, given in named.items()},
            "evaluators": [as_typed(given) for given in self.evaluators],
            **plain,
            "device": str(self.device),
            "recipe": self.recipe.model_dump(mode="json") if self.kes else None,
        }


def is_stored(given: object) -> bool:
    """Whether it names a stored reproduction."""
    return isinstance(given, str) and given.startswith(stored.PREFIX)


def named_after(given: str) -> str:
    """A folder name made of what was scored."""
    stem = given.removeprefix(stored.PREFIX) if is_stored(given) else Path(given).stem
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-") or "scores"


def as_typed(given: object) -> str | None:
    """A set or net as the user named it; what was passed as an object is described."""
    if given is None or isinstance(given, str | Path):
        return None if given is None else str(given)
    if isinstance(given, ExternalClassifier):
        return given.arch
    if isinstance(given, Labelled):
        return given.typed
    return getattr(given, "name", None) or f"tensors of {len(given[0])} images"


def study_of(request: Request) -> Study | None:
    """The study whose row is scored, where it is one."""
    first = request.reconstructions[0]
    return stored.read(first, request.profile) if is_stored(first) else None


def gather(request: Request, study: Study | None, least_side: int) -> Sets:
    """Everything read and aligned."""
    request.say("reading images")
    size = request.size
    seeds = list(study.seeds) if study else []
    for given in () if study else request.reconstructions:
        seeds += inputs.read(given, "RECONSTRUCTIONS", size=size)
    private = _one(request.private, study and study.private, "private", size)
    others = {
        "holdout": _one(request.holdout, study and study.holdout, "holdout", size),
        "prior": _one(request.prior, study and study.prior, "prior", size, labelled=False),
        "public": _one(request.public, study and study.public, "public", size, labelled=False),
        "test": _one(request.test, None, "test", size),
    }
    present = {name: found for name, found in others.items() if found is not None}
    sets = align(seeds, private, present, size, max(least_side, LEAST_SIDE))
    return replace(sets, notes=(*(study.notes if study else ()), *sets.notes, *_shared(sets)))


def _one(
    given: Given | None, own: Source | Labelled | None, what: str, size: int | None, labelled: bool = True
) -> Labelled | None:
    """One set: the user's, else the study's own source, else none."""
    if given is None:
        return inputs.of_set(own.load(), f"the study's {what} set") if isinstance(own, Source) else own
    found = inputs.read(given, what, labelled=labelled, size=size)
    if len(found) > 1:
        raise UserError(f"{what}: expected one set, found {len(found)} seeds; only RECONSTRUCTIONS have seeds")
    return found[0]


def _shared(sets: Sets) -> list[str]:
    """A note where held-out images are private ones: they would score like perfect reconstructions."""
    notes = []
    for name in ("holdout", "test"):
        if name in sets.others:
            both = torch.cat([sets.private.images, sets.others[name].images])
            again = len(both) - len(references.distinct(both))
            notes += [f"{again} {name} images are pixel-equal to a private or an earlier one"] if again else []
    return notes

"""What `vulnerable` was asked for, checked before anything is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mi_utils import plain_yaml
from mi_utils.errors import UserError
from mi_utils.metrics.ddcs import Scope, Transform
from mi_utils.models.external import EXAMPLE, ExternalClassifier
from mi_utils.scoring import request as scoring
from mi_utils.scoring.context import Say
from mi_utils.scoring.inputs import Given

TRANSFORMS = ("recip1p", "exp", "linear")  # in [0, 1] and without a scale
SEEDS, SAMPLES = 2, 32
ATTACK = ("seeds", "samples", "centre")  # fields that only the attack on a classifier reads
WEIGHTS = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True)
class Request:
    """The arguments of `vulnerable`, under its names."""

    target: Sequence[Given | ExternalClassifier]
    private: Given | None = None
    holdout: Given | None = None
    public: Given | None = None
    prior: Given | None = None
    seeds: int | None = None
    samples: int | None = None
    centre: int | None = None
    top: int = 32
    size: int | None = None
    net: str = "st-lpips-alex"
    scope: Scope = "global"
    transform: Transform = "recip1p"
    device: str | torch.device = "auto"
    workers: int | None = None
    budget: int | None = None
    profile: str = "laptop"
    out: Path | str | None = None
    say: Say = lambda line: None

    @property
    def classifier(self) -> ExternalClassifier | str | None:
        """The classifier that is to be attacked; None where the target is reconstructions."""
        return next((given for given in self.target if is_classifier(given)), None)

    def check(self) -> None:
        """UserError for what can be seen to be wrong before anything is read."""
        if self.transform not in TRANSFORMS:
            raise UserError(f"transform: expected one of {', '.join(TRANSFORMS)}, found {self.transform!r}")
        for name in ("top", "seeds", "samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name}: expected a whole number above 0, found {value}")
        if self.classifier is None:
            self._check_reconstructions()
        elif len(self.target) > 1:
            raise UserError(f"TARGET: expected one classifier alone, found {len(self.target)} targets; name one a run")
        elif self.prior is None:
            raise UserError("prior: expected the generator to attack a classifier with, found none; give --prior")
        self.scoring(self.target).check()

    def _check_reconstructions(self) -> None:
        """UserError for weights without their architecture, and for settings of an attack that is not run."""
        bare = [given for given in self.target if Path(str(given)).suffix in WEIGHTS and isinstance(given, str | Path)]
        if bare:
            raise UserError(
                f"TARGET: expected the architecture of {bare[0]}, found the weights alone; give '{{arch: resnet18, "
                f"weights: {bare[0]}, classes: ..., size: ...}}'"
            )
        for name in (name for name in ATTACK if getattr(self, name) is not None):
            raise UserError(f"{name}: it is read by the attack on a classifier alone, found reconstructions; drop it")

    def scoring(self, seeds: Sequence[Given], **changed: Given | None) -> scoring.Request:
        """The request of `score` that reads the same images, with `seeds` as reconstructions."""
        images = {name: getattr(self, name) for name in ("private", "holdout", "public", "prior")} | changed
        same = {name: getattr(self, name) for name in ("size", "net", "scope", "device", "budget", "profile", "say")}
        return scoring.Request(seeds, **images, **same)

    def options(self) -> dict[str, Any]:
        """What was asked for as JSON types, sets and nets as the user named them."""
        named = {name: scoring.as_typed(getattr(self, name)) for name in ("private", "holdout", "public", "prior")}
        plain = ("seeds", "samples", "centre", "top", "size", "net", "scope", "transform", "budget", "profile")
        return {
            "target": [scoring.as_typed(given) for given in self.target],
            **named,
            **{name: getattr(self, name) for name in plain},
            "device": str(self.device),
        }


def is_classifier(given: object) -> bool:
    """Whether it names a net: a recipe, its YAML mapping with `arch`, or a .yaml file."""
    if isinstance(given, ExternalClassifier):
        return True
    if not isinstance(given, str | Path):
        return False
    text = str(given)
    if not text.lstrip().startswith("{"):
        return Path(text).suffix in (".yaml", ".yml")
    try:
        fields = plain_yaml.load(text, "TARGET", EXAMPLE)
    except UserError:
        return False
    return isinstance(fields, dict) and "arch" in fields


def named_after(given: str) -> str:
    """A folder name made of what was looked at; of a classifier, its weights."""
    if is_classifier(given) and given.lstrip().startswith("{"):
        return scoring.named_after(str(plain_yaml.mapping(given, "TARGET", EXAMPLE).get("weights", "classifier")))
    return scoring.named_after(given)

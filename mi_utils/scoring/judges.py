"""The nets that judge: the attacked target and evaluators that it never saw, the user's own or a study's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mi_utils.data.images import to_float
from mi_utils.errors import UserError
from mi_utils.models.external import ExternalClassifier, fitted, parse
from mi_utils.scoring.stored import Study
from mi_utils.training.classifier import TrainClassifier


@dataclass(frozen=True)
class Judge:
    """A frozen net with `forward` and `features` on images in [-1, 1] of any size and colour.

    classes: number of outputs that stand for classes.  reject: one more, the last, means "none of these".
    """

    name: str
    net: nn.Module
    classes: int
    reject: bool

    @torch.no_grad()
    def logits(self, images: UInt8[Tensor, "n c h w"], device: torch.device) -> Float[Tensor, "n k"]:
        """Logits on the CPU."""
        return torch.cat([self.net(to_float(part.to(device))).float().cpu() for part in images.split(256)])

    @torch.no_grad()
    def features(self, images: UInt8[Tensor, "n c h w"], device: torch.device) -> Float[Tensor, "n d"]:
        """Penultimate features on `device`; UserError for a net that has none."""
        return torch.cat([self.net.features(to_float(part.to(device))).float() for part in images.split(256)])


@dataclass(frozen=True)
class Judges:
    """targets: one for all seeds, or one a seed; plain evaluators; those with a reject class.

    Where a kind is empty, `no_target` or `no_evaluator` says why.
    """

    targets: tuple[Judge, ...]
    plain: tuple[Judge, ...]
    rejecting: tuple[Judge, ...]
    no_target: str = ""
    no_evaluator: str = ""

    def target(self, seed: int) -> Judge:
        """The net that was attacked at this place of the seeds."""
        return self.targets[seed % len(self.targets)]

    def everyone(self) -> tuple[Judge, ...]:
        """All nets."""
        return (*self.targets, *self.plain, *self.rejecting)


class Fitted(nn.Module):
    """A net of this project shown images of any size and colour: they become what it was trained on."""

    def __init__(self, net: nn.Module, channels: int, size: int) -> None:
        super().__init__()
        self.net, self.channels, self.size = net, channels, size

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        return self.net(fitted(x, self.channels, self.size))

    def features(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Penultimate activations."""
        return self.net.features(fitted(x, self.channels, self.size))


def judges(
    target: ExternalClassifier | str | Path | None,
    evaluators: Sequence[ExternalClassifier | str | Path],
    study: Study | None,
    device: torch.device,
) -> Judges:
    """The user's nets, else the study's.  UserError for a file that is missing or does not fit."""
    own = [_external(given, f"E{i + 1}", device) for i, given in enumerate(evaluators)]
    plain, rejecting = [j for j in own if not j.reject], [j for j in own if j.reject]
    if own and not plain:
        raise UserError("evaluator: expected at least 1 without `reject`, found none; add a plain classifier")
    widths = {judge.name: judge.classes for judge in own}
    if len(set(widths.values())) > 1:
        raise UserError(f"evaluator: expected one number of classes, found {widths}; give nets of one class list")
    targets = [_external(target, "target", device)] if target is not None else []
    no_target = "" if targets else "no --target given"
    no_evaluator = "" if own else "no --evaluator given"
    if study is not None and not targets:
        no_target = study.unstored
        targets = [] if no_target else [_of_study("target", net, False, device) for net in study.targets]
    if study is not None and not own:
        no_evaluator = study.unstored
        found = {} if no_evaluator else study.panel.plain
        plain = [_of_study(name, net, False, device) for name, net in found.items()]
        rejecting = [] if no_evaluator else [_of_study("reject", study.panel.reject, True, device)]
    return Judges(tuple(targets), tuple(plain), tuple(rejecting), no_target, no_evaluator)


def recipe_of(given: ExternalClassifier | str | Path) -> ExternalClassifier:
    """The recipe, or the one that the text or file holds."""
    return given if isinstance(given, ExternalClassifier) else parse(str(given))


def _external(given: ExternalClassifier | str | Path, name: str, device: torch.device) -> Judge:
    """The user's net, under its architecture's name."""
    recipe = recipe_of(given)
    return Judge(f"{name} {recipe.arch}", recipe.load(device), recipe.classes, recipe.reject)


def _of_study(name: str, stage: TrainClassifier, reject: bool, device: torch.device) -> Judge:
    """A stored net of a study."""
    facts = stage.facts()
    net = Fitted(stage.network(device), facts["channels"], facts["size"]).to(device)
    return Judge(name, net, len(facts["classes"]), reject)


def check(found: Judges, classes: Sequence[int], images: UInt8[Tensor, "n c h w"], device: torch.device) -> None:
    """UserError where a net has no output for a class that is scored, or says NaN of the first few `images`."""
    for judge in found.everyone():
        if max(classes) >= judge.classes:
            raise UserError(
                f"{judge.name}: expected an output for each class id, found {judge.classes} classes and ids up to "
                f"{max(classes)}; class ids are places in its outputs"
            )
        bad = int((~torch.isfinite(judge.logits(images[:2], device))).sum())
        if bad:
            raise UserError(f"{judge.name}: expected finite logits, found {bad} NaN or infinite; check its weights")

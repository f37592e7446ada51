"""What the searches of a public generator's latents share (GMI, KEDMI, VMI with a normal posterior).

All classes and restarts are one batch.  What is drawn belongs to a class and a step, never to a batch, so that a
class's result depends on no other class, on no chunk, and not on the objective: runs can be compared in pairs.
"""

from collections.abc import Callable
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from mi_utils.attacks import per_sample
from mi_utils.attacks.objective import IdentityLoss, Objective
from mi_utils.errors import UserError
from mi_utils.models.priors import LATENT
from mi_utils.stage import Job, Stage
from mi_utils.training.classifier import TrainClassifier

# Steps whose noise is drawn at a time: seeding a class's stream costs as much as some thousand numbers of it.
_BLOCK = 8


class LatentSearch(Stage):
    """Fields that the searches share; each adds its `prior`."""

    target: TrainClassifier
    objective: Objective = Objective()
    classes: tuple[int, ...]
    seed: int = 0
    samples: Annotated[int, Field(ge=1)] = 5  # reconstructions per class
    iterations: Annotated[int, Field(ge=1)] = 2400
    lr: Annotated[float, Field(gt=0)] = 0.02
    frames: Annotated[int, Field(ge=2)] = 9  # steps whose latents are kept, evenly spaced, first and last included
    chunk: Annotated[int, Field(ge=1)] = 100  # images in memory at a time

    @model_validator(mode="after")
    def _one_target(self) -> "LatentSearch":
        self.objective.check(self.target)
        made, taken = self.prior.public.size, self.target.train.size
        if made and taken and made != taken:
            raise UserError(
                f"prior: expected images of {taken} px as the target takes, found {made} px; train it on public images "
                f"of size={taken}"
            )
        return self

    def identity(self, device: torch.device) -> IdentityLoss:
        """The objective's networks, once classes and the prior's images are known to be the target's."""
        per_sample.check(self.target, self.classes, self.prior)
        return IdentityLoss(self.objective, self.target, self.seed, device)


class Noise:
    """Standard normal draws for every step and class, from a stream of the class's own; nothing to save."""

    def __init__(self, name: str, seed: int, classes: tuple[int, ...], draws: int, device: torch.device):
        self.name, self.seed, self.classes, self.draws, self.device = name, seed, classes, draws, device
        self.block, self.values = -1, torch.empty(0)

    def __call__(self, step: int) -> Float[Tensor, "n k d"]:
        """The draws of a step, n of each class, in the order of `per_sample.rows`."""
        block, within = divmod(step, _BLOCK)
        if block != self.block:
            name, count = f"{self.name} {block}", _BLOCK * self.draws
            drawn = per_sample.normal(name, self.seed, self.classes, count, LATENT, device=self.device)
            self.block, self.values = block, drawn.unflatten(0, (_BLOCK, self.draws, len(self.classes)))
        return self.values[within]


class Frames:
    """Latents after evenly spaced numbers of updates, from none to all; `kept` is what a checkpoint holds."""

    def __init__(self, iterations: int, count: int):
        self.steps = sorted({round(i * iterations / (count - 1)) for i in range(count)})
        self.kept: list[Tensor] = []

    def keep(self, updates: int, latents: Callable[[], Float[Tensor, "n d"]]) -> None:
        """Ask for the latents if this is a number of updates after which they are kept."""
        if updates in self.steps:
            self.kept.append(latents().detach().clone())

    def tensors(self) -> dict[str, Tensor]:
        """`frames_latents` (F, N, d), the last being the result, and `frames_steps` (F,)."""
        return {"frames_latents": torch.stack(self.kept), "frames_steps": torch.tensor(self.steps)}


def clipped(z: Float[Tensor, "*n d"], clip: float | None) -> Float[Tensor, "*n d"]:
    """z with every coordinate in [-clip, clip]; as it is without a clip."""
    return z if clip is None else z.clamp(-clip, clip)


def collected(
    attack: LatentSearch, job: Job, g: nn.Module, identity: IdentityLoss, frames: Frames, curve: list[Tensor]
) -> dict[str, Tensor]:
    """What every search returns; a diverged one fails.  `losses` are the target's -log p_y, whatever was minimised."""
    z = frames.kept[-1]
    y = per_sample.rows(attack.classes, attack.samples, job.device)
    curves = {"log_loss": torch.stack(curve)}
    job.check_finite(f"{type(attack).__name__} loss", curves["log_loss"])
    job.check_finite(f"{type(attack).__name__} latents", z)
    images = per_sample.reconstructions(g, z, y, identity.target, attack.chunk)
    return images | {"latents": z} | curves | frames.tensors()

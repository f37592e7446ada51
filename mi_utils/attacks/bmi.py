r"""BMI, the pixel baseline of the Patch-MI comparison: no prior at all.

$$\min_u\ -\log\mathrm{softmax}(T(\tanh u))_y$$

The attack reads the frozen target, nothing else.
"""

from functools import partial
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from mi_utils.attacks import per_sample
from mi_utils.attacks.identity import Views, identity_loss
from mi_utils.stage import Job, Output, Stage
from mi_utils.training.classifier import TrainClassifier


class BMI(Stage):
    """Gradient descent on pixels.  Defaults are the released settings (specification, 3).

    `views` other than its default is the `+aug` row (ours).
    """

    target: TrainClassifier
    classes: tuple[int, ...]
    seed: int = 0
    samples: Annotated[int, Field(ge=1)] = 1000  # reconstructions per class
    iterations: Annotated[int, Field(ge=1)] = 200
    lr: Annotated[float, Field(gt=0)] = 3e-2
    betas: tuple[float, float] = (0.1, 0.1)
    milestones: tuple[int, ...] = (100, 150)  # steps after which lr is multiplied by `decay`
    decay: Annotated[float, Field(gt=0, le=1)] = 0.1
    reference_batch: Annotated[int, Field(ge=1)] = 1000  # the batch whose mean the released loss takes
    views: Views = Views()
    chunk: Annotated[int, Field(ge=1)] = 1000  # images in memory at a time

    def compute(self, job: Job) -> Output:
        """Adam on all images of all classes at once."""
        target = self.target.network(job.device)
        per_sample.check(self.target, self.classes)
        facts = self.target.facts()
        y = per_sample.rows(self.classes, self.samples, job.device)
        shape = (facts["channels"], facts["size"], facts["size"])
        u = per_sample.normal("bmi", self.seed, self.classes, self.samples, *shape, device=job.device)
        adam = torch.optim.Adam([u], self.lr, betas=self.betas)
        schedule = torch.optim.lr_scheduler.MultiStepLR(adam, self.milestones, self.decay)
        curve: list[Tensor] = []
        state = {"u": u, "adam": adam, "schedule": schedule, "curve": curve}
        for step in job.steps(self.iterations, state):
            loss = partial(self._loss, target, y, step)
            slope, losses = per_sample.gradients(loss, u, self.chunk)
            u.grad = slope / self.reference_batch
            adam.step()
            schedule.step()
            curve.append(losses.mean())
        tensors = per_sample.reconstructions(torch.tanh, u, y, target, self.chunk)
        tensors["log_loss"] = torch.stack(curve)
        job.check_finite("BMI loss", tensors["log_loss"])
        return Output(tensors)

    def _loss(self, target: nn.Module, y: Tensor, step: int, u: Tensor, where: slice) -> Float[Tensor, " m"]:
        """The identity loss of the images tanh(u)."""
        rng = per_sample.stream(self.views, "bmi", self.seed, step, where)
        return identity_loss(self.views.logits(target, u.tanh(), rng), y[where], self.views.combine)

r"""Generative MI (after Zhang et al., The Secret Revealer): a search in the latent space of a DCGAN.

$$\min_z\ -\log p_y(G(z)) + w_d\,[-\log\sigma(D(G(z)))]$$

The attack reads the frozen target and a generator and discriminator of unlabelled auxiliary images.
"""

from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from mi_utils.attacks import per_sample
from mi_utils.attacks.identity import Views, identity_loss
from mi_utils.models.dcgan import LATENT
from mi_utils.stage import Job, Output, Stage
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.gan import TrainDCGAN


def realism_loss(d: Float[Tensor, " n"], double_sigmoid: bool) -> Float[Tensor, " n"]:
    r"""$-\log\sigma(d)$ of the discriminator's logit d.

    `double_sigmoid` (released): $-\log\sigma(\sigma(d))\in(.313,.693)$, almost no prior.
    """
    return F.softplus(-(d.sigmoid() if double_sigmoid else d))


class GenerativeMI(Stage):
    r"""Gradient descent on latents.  Defaults are the released settings (specification, 3).

    Deviations: fp32 (released: fp16 autocast), and `double_sigmoid` is off.  The released decay acts on
    the unscaled z while the released gradient is divided by 1000: together they minimise
    $\ell+\tfrac14\lVert z\rVert^2$, a strong pull of all samples to one point; `weight_decay=0` lifts it.
    `views` other than its default is the `+aug` row (ours).
    """

    target: TrainClassifier
    prior: TrainDCGAN
    classes: tuple[int, ...]
    seed: int = 0
    samples: Annotated[int, Field(ge=1)] = 1000  # reconstructions per class
    iterations: Annotated[int, Field(ge=1)] = 1000
    lr: Annotated[float, Field(gt=0)] = 10.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    decay_every: Annotated[int, Field(ge=1)] = 100  # steps between multiplications of lr by `decay`
    decay: Annotated[float, Field(gt=0, le=1)] = 0.8
    w_d: Annotated[float, Field(ge=0)] = 0.15  # realism
    double_sigmoid: bool = False
    reference_batch: Annotated[int, Field(ge=1)] = 1000  # the batch whose mean the released loss takes
    views: Views = Views()
    chunk: Annotated[int, Field(ge=1)] = 1000  # images in memory at a time

    def compute(self, job: Job) -> Output:
        """SGD on all latents of all classes at once."""
        target = self.target.network(job.device)
        per_sample.check(self.target, self.classes, self.prior)
        g, d = self.prior.generator(job.device), self.prior.discriminator(job.device)
        y = per_sample.rows(self.classes, self.samples, job.device)
        z = per_sample.normal("generative", self.seed, self.classes, self.samples, LATENT, device=job.device)
        sgd = torch.optim.SGD([z], self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.StepLR(sgd, self.decay_every, self.decay)
        curve: list[Tensor] = []
        state = {"z": z, "sgd": sgd, "schedule": schedule, "curve": curve}
        for step in job.steps(self.iterations, state):
            loss = partial(self._loss, g, d, target, y, step)
            slope, losses = per_sample.gradients(loss, z, self.chunk)
            z.grad = slope / self.reference_batch
            sgd.step()
            schedule.step()
            curve.append(losses.mean())
        tensors = per_sample.reconstructions(g, z, y, target, self.chunk)
        tensors |= {"latents": z.detach(), "log_loss": torch.stack(curve)}
        job.check_finite("GenerativeMI loss", tensors["log_loss"])
        return Output(tensors)

    def _loss(
        self, g: nn.Module, d: nn.Module, target: nn.Module, y: Tensor, step: int, z: Tensor, where: slice
    ) -> Float[Tensor, " m"]:
        """Identity loss plus `w_d` times the realism loss of the images G(z)."""
        x = g(z)
        rng = per_sample.stream(self.views, "generative", self.seed, step, where)
        identity = identity_loss(self.views.logits(target, x, rng), y[where], self.views.combine)
        return identity + self.w_d * realism_loss(d(x), self.double_sigmoid)

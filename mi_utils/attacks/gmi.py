r"""GMI (Zhang et al., The Secret Revealer, CVPR 2020) with the identity losses of Re-thinking MI.

$$\min_z\ -D(G(z)) + 100\,\ell_{id}(G(z))$$

The attack reads the frozen target (and its students) and a WGAN-GP of public images.
"""

from functools import partial
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from mi_utils.attacks import per_sample
from mi_utils.attacks.latent_search import Frames, LatentSearch, clipped, collected
from mi_utils.attacks.objective import IdentityLoss
from mi_utils.models.folding import folded
from mi_utils.models.priors import LATENT
from mi_utils.stage import Job, Output
from mi_utils.training.priors import TrainGMI, generator_loss


def momentum_step(
    z: Float[Tensor, "n d"], v: Float[Tensor, "n d"], slope: Float[Tensor, "n d"], lr: float, momentum: float
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
    r"""$v_t=.9v_{t-1}-.02\,g,\ z\mathrel{+}=1.9v_t-.9v_{t-1}$ (Nesterov); returns z, v.  Source: released code."""
    ahead = momentum * v - lr * slope
    return z + (1 + momentum) * ahead - momentum * v, ahead


class GMI(LatentSearch):
    """Momentum descent on latents from N(0, I), clipped after every step.  Defaults are the released settings.

    Deviation: a row's loss is divided by the constant `b0` (released: the mean over the batch, 60 identities), so
    that a step does not depend on how many latents are searched at once.
    """

    prior: TrainGMI
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight: Annotated[float, Field(ge=0)] = 100.0  # of the identity loss
    prior_weight: Annotated[float, Field(ge=0)] = 1.0
    b0: Annotated[float, Field(gt=0)] = 60.0  # the batch whose mean the released loss takes
    clip: Annotated[float, Field(gt=0)] | None = 1.0

    def compute(self, job: Job) -> Output:
        """All latents of all classes at once."""
        identity = self.identity(job.device)
        g, d = folded(self.prior.generator(job.device)), folded(self.prior.critic(job.device))
        y = per_sample.rows(self.classes, self.samples, job.device)
        z = per_sample.normal("gmi", self.seed, self.classes, self.samples, LATENT, device=job.device)
        v = torch.zeros_like(z)
        frames, curve = Frames(self.iterations, self.frames), []
        frames.keep(0, lambda: z)
        for step in job.steps(self.iterations, {"z": z, "v": v, "frames": frames.kept, "curve": curve}):
            loss = partial(self._loss, identity, g, d, y, step)
            slope, losses = per_sample.gradients(loss, z, self.chunk)
            moved, velocity = momentum_step(z, v, slope / self.b0, self.lr, self.momentum)
            z.copy_(clipped(moved, self.clip)), v.copy_(velocity)
            frames.keep(step + 1, lambda: z)
            curve.append(losses.mean())
        return Output(collected(self, job, g, identity, frames, curve))

    def _loss(
        self, identity: IdentityLoss, g: nn.Module, d: nn.Module, y: Tensor, step: int, z: Tensor, where: slice
    ) -> Float[Tensor, " m"]:
        r"""$-D(x)+100\,\ell_{id}(x)$ of the images x = G(z)."""
        x = g(z)
        return self.weight * identity(x, y[where], step) + self.prior_weight * generator_loss(d(x))

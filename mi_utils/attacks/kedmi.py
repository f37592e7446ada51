r"""KEDMI (Chen et al., Knowledge-Enriched Distributional MI, ICCV 2021) with the losses of Re-thinking MI.

$$\min_{\mu,\sigma}\ \mathbb E_{\epsilon}\big[-\log\sigma(a(x)) + 100\,\ell_{id}(x)\big],\quad
  x=G(\mu+\sigma\odot\epsilon),\quad a(x)=\log\textstyle\sum_k e^{D_k(x)}$$

The attack reads the frozen target (and its students) and a GAN of public images trained with the target.
"""

from functools import partial
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from mi_utils.attacks import per_sample
from mi_utils.attacks.latent_search import Frames, LatentSearch, Noise, clipped, collected
from mi_utils.attacks.objective import IdentityLoss
from mi_utils.errors import UserError
from mi_utils.models.folding import folded
from mi_utils.models.priors import LATENT
from mi_utils.stage import Job, Output
from mi_utils.training.priors import TrainKEDMI, real_loss


class Diagonal(nn.Module):
    r"""A normal distribution of latents per class with independent coordinates: $\mu=0$, $\log\sigma^2=1$ at first."""

    def __init__(self, classes: int, device: torch.device):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(classes, LATENT, device=device))
        self.log_variance = nn.Parameter(torch.ones(classes, LATENT, device=device))

    def sample(self, noise: Float[Tensor, "n k d"]) -> Float[Tensor, "n k d"]:
        r"""$z=\mu+\sigma\odot\epsilon$."""
        return self.mean + (self.log_variance / 2).exp() * noise


class KEDMI(LatentSearch):
    """Adam on one distribution of latents per class, with fresh draws every step.  Defaults are the released settings.

    `clip` acts on draws before they enter G, in the search and at its end (released with Re-thinking MI; None is
    KEDMI's own code, which does not clip).  `coupled` lets minibatch discrimination compare the images of a chunk
    (released: of 60 identities); off, an image's loss depends on no other image (ours).  Deviation: a row's loss is
    divided by the constant `b0`, as in GMI.
    """

    prior: TrainKEDMI
    draws: Annotated[int, Field(ge=1)] = 1  # per class and step
    weight: Annotated[float, Field(ge=0)] = 100.0  # of the identity loss
    prior_weight: Annotated[float, Field(ge=0)] = 1.0
    b0: Annotated[float, Field(gt=0)] = 60.0  # the batch whose mean the released loss takes
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    coupled: bool = False

    @model_validator(mode="after")
    def _prior_of_target(self) -> "KEDMI":
        if self.prior.target != self.target:
            raise UserError(
                f"prior: expected a GAN trained with the attack's target ({self.target.label}), found one trained "
                f"with another ({self.prior.target.label}); train it with this target"
            )
        return self

    def compute(self, job: Job) -> Output:
        """All classes' distributions at once."""
        identity = self.identity(job.device)
        g, d = folded(self.prior.generator(job.device)), folded(self.prior.discriminator(job.device))
        y = per_sample.rows(self.classes, self.draws, job.device)
        q = Diagonal(len(self.classes), job.device)
        adam = torch.optim.Adam(q.parameters(), self.lr)
        noise = Noise("kedmi", self.seed, self.classes, self.draws, job.device)
        frames, curve = Frames(self.iterations, self.frames), []
        frames.keep(0, partial(self._drawn, q))
        for step in job.steps(self.iterations, {"q": q, "adam": adam, "frames": frames.kept, "curve": curve}):
            z = clipped(q.sample(noise(step)), self.clip)
            loss = partial(self._loss, identity, g, d, y, step)
            slope, losses = per_sample.gradients(loss, z.flatten(0, 1), self.chunk)
            adam.zero_grad()
            # Chain rule: the distributions are on record for all classes, the networks only chunk by chunk.
            z.backward(slope.view_as(z) / (self.b0 * self.draws))
            adam.step()
            frames.keep(step + 1, partial(self._drawn, q))
            curve.append(losses.mean())
        return Output(collected(self, job, g, identity, frames, curve))

    def _loss(
        self, identity: IdentityLoss, g: nn.Module, d: nn.Module, y: Tensor, step: int, z: Tensor, where: slice
    ) -> Float[Tensor, " m"]:
        r"""$-\log\sigma(a(x))+100\,\ell_{id}(x)$ of the images x = G(z)."""
        x = g(z)
        realism = real_loss(d(x, coupled=self.coupled))
        return self.weight * identity(x, y[where], step) + self.prior_weight * realism

    @torch.no_grad()
    def _drawn(self, q: Diagonal) -> Float[Tensor, "n d"]:
        """`samples` latents of every class; the noise is the same at every step."""
        noise = per_sample.normal(
            "kedmi samples", self.seed, self.classes, self.samples, LATENT, device=q.mean.device
        ).unflatten(0, (self.samples, -1))
        return clipped(q.sample(noise), self.clip).flatten(0, 1)

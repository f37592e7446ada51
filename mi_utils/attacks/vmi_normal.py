r"""VMI with a full-covariance normal posterior (after Wang et al., Variational Model Inversion, NeurIPS 2021).

$$\min_q\ \lambda_{att}\,\mathbb E_{w\sim q}\big[\ell_{id}(G(w))\big]
  +\lambda\,\mathrm{KL}\big(q\,\|\,\mathcal N(0,I)\big),\quad q=\mathcal N(m,LL^\top)$$

The attack reads the frozen target (and its students) and the generator of a WGAN-GP of public images.
"""

from functools import partial
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from mi_utils.attacks import per_sample
from mi_utils.attacks.latent_search import Frames, LatentSearch, Noise, collected
from mi_utils.attacks.objective import IdentityLoss
from mi_utils.models.folding import folded
from mi_utils.models.priors import LATENT
from mi_utils.stage import Job, Output
from mi_utils.training.priors import TrainGMI


class Normal(nn.Module):
    r"""A normal distribution of latents per class, $w=m+L\epsilon$: $m=0$, $L=I$ at first, L lower triangular."""

    def __init__(self, classes: int, device: torch.device):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(classes, LATENT, device=device))
        self.scale = nn.Parameter(torch.eye(LATENT, device=device).repeat(classes, 1, 1))

    def sample(self, noise: Float[Tensor, "n k d"]) -> Float[Tensor, "n k d"]:
        r"""$m+L\epsilon$."""
        return self.mean + torch.einsum("kij,nkj->nki", self.scale.tril(), noise)

    def divergence(self) -> Float[Tensor, " k"]:
        r"""$\mathrm{KL}(q\|\mathcal N(0,I))=\tfrac12(\mathrm{tr}\,LL^\top+\lVert m\rVert^2-d-\log\det LL^\top)$."""
        log_det = 2 * self.scale.diagonal(dim1=1, dim2=2).abs().log().sum(1)
        trace = self.scale.tril().square().sum((1, 2))
        return (trace + self.mean.square().sum(1) - self.mean.shape[1] - log_det) / 2


class VMINormal(LatentSearch):
    """Momentum descent on one posterior per class, with fresh draws every step, never clipped.

    Rates, weights and length are those of the released DCGAN runs (31 epochs of 10,000 draws in batches of 64).
    Deviations: a single normal distribution (released at scale: a flow); all classes side by side; the logit loss
    and the students, which VMI's code does not know, enter as in GMI.
    """

    prior: TrainGMI
    batch: Annotated[int, Field(ge=1)] = 64  # draws per class and step
    iterations: Annotated[int, Field(ge=1)] = 4867
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    identity_weight: Annotated[float, Field(ge=0)] = 1.0  # λ_att
    lam: Annotated[float, Field(ge=0)] = 1e-3  # weight of the divergence

    def compute(self, job: Job) -> Output:
        """All classes' posteriors at once."""
        identity, g = self.identity(job.device), folded(self.prior.generator(job.device))
        y = per_sample.rows(self.classes, self.batch, job.device)
        q = Normal(len(self.classes), job.device)
        sgd = torch.optim.SGD(q.parameters(), self.lr, momentum=self.momentum)
        noise = Noise("vmi normal", self.seed, self.classes, self.batch, job.device)
        frames, curve = Frames(self.iterations, self.frames), []
        frames.keep(0, partial(self._drawn, q))
        for step in job.steps(self.iterations, {"q": q, "sgd": sgd, "frames": frames.kept, "curve": curve}):
            w = q.sample(noise(step))
            loss = partial(self._loss, identity, g, y, step)
            slope, losses = per_sample.gradients(loss, w.flatten(0, 1), self.chunk)
            divergence = self.lam * q.divergence()
            # Chain rule: the posteriors are on record for all classes, the networks only chunk by chunk.
            sgd.zero_grad()
            ((w * slope.view_as(w)).sum() / self.batch + divergence.sum()).backward()
            sgd.step()
            frames.keep(step + 1, partial(self._drawn, q))
            curve.append(losses.mean() + divergence.detach().mean())
        return Output(collected(self, job, g, identity, frames, curve))

    def _loss(
        self, identity: IdentityLoss, g: nn.Module, y: Tensor, step: int, w: Tensor, where: slice
    ) -> Float[Tensor, " m"]:
        r"""$\lambda_{att}\,\ell_{id}$ of the images G(w)."""
        return self.identity_weight * identity(g(w), y[where], step)

    @torch.no_grad()
    def _drawn(self, q: Normal) -> Float[Tensor, "n d"]:
        """`samples` latents of every class; the noise is the same at every step."""
        noise = per_sample.normal(
            "vmi normal samples", self.seed, self.classes, self.samples, LATENT, device=q.mean.device
        ).unflatten(0, (self.samples, -1))
        return q.sample(noise).flatten(0, 1)

r"""Plug & Play Attacks (Struppek et al., ICML 2022, arXiv 2201.12179): each style is moved on its own.

$$\min_w\ L_P\big(f(\mathcal T(G_s(w))),y\big),\quad w\in\mathbb R^{d_w}\text{ truncated}$$
"""

from functools import partial
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mi_utils.attacks import per_sample
from mi_utils.attacks.latent_search import Frames
from mi_utils.attacks.objective import LOSSES
from mi_utils.attacks.style_search import Nets, StyleSearch, drift
from mi_utils.stage import Job, Output


def quantiles(w: Float[Tensor, "p d"], q: float) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
    """Bounds of every coordinate of w that a share q of the pool lies below, and above."""
    return w.quantile(q, 0), w.quantile(1 - q, 0)


class PlugAndPlay(StyleSearch):
    """PPA.  Defaults are the released settings.

    `repeats` 2 applies every gradient twice, which is what the released code of DMMIA amounts to.  `clip` q holds
    every coordinate within the pool's q- and (1 - q)-quantiles: with cross-entropy and without the last selection a
    baseline like MIRROR (ours).
    """

    loss: Literal["poincare", "ce", "logit", "margin"] = "poincare"
    betas: tuple[float, float] = (0.1, 0.1)
    repeats: Annotated[int, Field(ge=1)] = 1
    clip: Annotated[float, Field(gt=0, lt=0.5)] | None = None

    def compute(self, job: Job) -> Output:
        """All candidates of all classes at once."""
        nets = self.nets(job.device)
        pool = self.scored(nets, job.device)
        w = pool.w[self.chosen(pool, job.device)].clone()
        start, y = w.clone(), torch.tensor(self.classes, device=job.device)
        labels = y.repeat_interleave(self.candidates)
        low, high = quantiles(pool.w, self.clip) if self.clip else (None, None)
        adam = torch.optim.Adam([w.requires_grad_()], self.lr, betas=self.betas)
        frames = Frames(self.epochs, self.frames)
        frames.keep(0, lambda: w)
        curves: dict[str, list[Tensor]] = {"loss": [], "drift": []}
        for step in job.steps(self.epochs, {"w": w, "adam": adam, "frames": frames.kept} | curves):
            loss = partial(self._loss, nets, labels, step)
            slope, losses = per_sample.gradients(loss, w.detach().flatten(0, 1), self.chunk)
            w.grad = slope.view_as(w)
            for _ in range(self.repeats):
                adam.step()
            if self.clip:
                w.data.clamp_(low, high)
            frames.keep(step + 1, lambda: w)
            curves["loss"].append(losses.mean())
            curves["drift"].append(drift(w.detach(), start, pool.sigma, self.psi))
        return self.finished(job, nets, frames, curves)

    def _loss(self, nets: Nets, labels: Tensor, step: int, w: Tensor, where: slice) -> Float[Tensor, " m"]:
        """The identity loss of each image under the step's crop."""
        return LOSSES[self.loss](nets.f(self.cropped(self.image(nets, w), step)), labels[where])

r"""Plug & Play Attacks (Struppek et al., ICML 2022, arXiv 2201.12179): each style is moved on its own.

$$\min_w\ L_P\big(f(\mathcal T(G_s(w))),y\big),\quad w\in\mathbb R^{d_w}\text{ truncated}$$
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
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


def on_the_sphere(logits: Float[Tensor, "n k"]) -> Bool[Tensor, " n"]:
    r"""Where the Poincaré loss holds $1-\lVert u\rVert^2$ at $10^{-6}$: one logit is almost all there is.

    $u=\ell/\lVert\ell\rVert_1$.  Source: specification dmmia, 2.2.
    """
    return 1 - F.normalize(logits, p=1, dim=1).square().sum(1) < 1e-6


class PlugAndPlay(StyleSearch):
    """PPA.  Defaults are the released settings.

    `repeats` 2 applies every gradient twice, which is what the released code of DMMIA amounts to.  `clip` q holds
    every coordinate within the pool's q- and (1 - q)-quantiles: with cross-entropy and without the last selection a
    baseline like MIRROR (ours).  `log_clamped`, of the Poincaré loss: the share of images at which its clamp acts.
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
        start = w.clone()
        labels = torch.tensor(self.classes, device=job.device).repeat_interleave(self.candidates)
        low, high = quantiles(pool.w, self.clip) if self.clip else (None, None)
        adam = torch.optim.Adam([w.requires_grad_()], self.lr, betas=self.betas)
        frames = Frames(self.epochs, self.frames)
        frames.keep(0, lambda: w)
        names = ("loss", "drift", "clamped") if self.loss == "poincare" else ("loss", "drift")
        curves: dict[str, list[Tensor]] = {name: [] for name in names}
        for step in job.steps(self.epochs, {"w": w, "adam": adam, "frames": frames.kept}, curves):
            w.grad, logs = self._gradients(nets, labels, step, w.detach())
            for _ in range(self.repeats):
                adam.step()
            if self.clip:
                w.data.clamp_(low, high)
            frames.keep(step + 1, lambda: w)
            logs["drift"] = drift(w.detach(), start, pool.sigma, self.psi)
            for name, values in curves.items():
                values.append(logs[name])
        return self.finished(job, nets, frames, curves)

    def _gradients(
        self, nets: Nets, labels: Int[Tensor, " kn"], step: int, w: Float[Tensor, "k n d"]
    ) -> tuple[Float[Tensor, "k n d"], dict[str, Float[Tensor, ""]]]:
        """Of each image's identity loss under the step's crop; logs are its mean and how often the clamp acts."""
        clamped: list[Tensor] = []

        def loss(part: Tensor, where: slice) -> Float[Tensor, " m"]:
            logits = nets.f(self.cropped(self.image(nets, part), step))
            clamped.append(on_the_sphere(logits.detach()))
            return LOSSES[self.loss](logits, labels[where])

        slope, losses = per_sample.gradients(loss, w.flatten(0, 1), self.chunk)
        return slope.view_as(w), {"loss": losses.mean(), "clamped": torch.cat(clamped).float().mean()}

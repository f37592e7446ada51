r"""How an attack on a latent asks "is this class y?": Re-thinking MI (Nguyen et al., CVPR 2023, arXiv 2304.01669).

$$\ell_{id}(x)=\frac1M\sum_{m=0}^{M-1}\ell(\ell_m(x),y)+\lambda\,R(p_0(x))$$

Model 0 is the target, the others are students distilled from it; $R$ goes with the logit loss alone and reads the
target alone.  Deviation: losses are per image; an attack divides by a constant where the released code takes a mean.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.models.folding import folded
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Config
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.statistics import FeatureStatistics
from mi_utils.training.student import TrainStudent


def cross_entropy(logits: Float[Tensor, "n k"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    r"""$-\log\frac{e^{\ell_y}}{\sum_j e^{\ell_j}}$; the gradient fades as the model becomes sure.  Source: eq. 2."""
    return F.cross_entropy(logits, y, reduction="none")


def logit_loss(logits: Float[Tensor, "n k"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    r"""$-\ell_y$: no other class can buy the loss down, and it has no floor.  Source: equation 3.

    Deviation: the paper writes $-p^\top w_y$; the bias in $\ell_y$ is a constant of x (so the released code).
    """
    return -logits.gather(1, y[:, None]).squeeze(1)


def poincare_loss(logits: Float[Tensor, "n k"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    r"""$\operatorname{arcosh}\!\big(1+\frac{2\lVert u-v\rVert^2}{(1-\lVert u\rVert^2)(1-\lVert v\rVert^2)}\big)$.

    A distance in the unit ball of $u=\ell/\lVert\ell\rVert_1$ and $v=(1-10^{-4})e_y$.  Source: Plug & Play Attacks
    (Struppek et al., ICML 2022).  Logits of a single class other than zero (u on the sphere) count as all but.
    """
    u = F.normalize(logits, p=1, dim=1)
    v = (1 - 1e-4) * F.one_hot(y, logits.shape[1]).to(u)
    inside = (1 - u.square().sum(1)).clamp_min(1e-6) * (1 - v.square().sum(1))
    return torch.acosh(1 + 2 * (u - v).square().sum(1) / inside)


def max_margin_loss(logits: Float[Tensor, "n k"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    r"""$\max_{k\ne y}\ell_k-\ell_y$: the class is to lead by as much as it can.  Source: PLG-MI (Yuan et al., 2023)."""
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.amax(1) + logit_loss(logits, y)


def feature_penalty(
    p: Float[Tensor, "n d"], p_reg: Float[Tensor, " d"], scale: Literal["mean", "sum"]
) -> Float[Tensor, " n"]:
    r"""$R=\lVert p-p_{reg}\rVert^2$ ("sum", the paper's figure) or its d-th part ("mean", the released code)."""
    squares = (p - p_reg).square()
    return squares.mean(1) if scale == "mean" else squares.sum(1)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ce": cross_entropy,
    "logit": logit_loss,
    "poincare": poincare_loss,
    "margin": max_margin_loss,
}


class Objective(Config):
    r"""The identity loss of an attack.  Defaults are the baseline's; `loss="logit"` and `students` are the paper's two.

    `p_reg` "mean" is $\mu$, the target's mean feature on public images (what the released code comes to); "sample" is
    $\mu+s\odot\epsilon$ with one draw per step for all images, whose expected gradient is the same.
    """

    loss: Literal["ce", "logit", "poincare", "margin"] = "ce"
    students: tuple[TrainStudent, ...] = ()  # equal weights with the target
    statistics: FeatureStatistics | None = None  # of the target, for R
    lam: Annotated[float, Field(ge=0)] = 1.0  # weight of R, not divided by the number of models
    reg_scale: Literal["mean", "sum"] = "mean"
    p_reg: Literal["mean", "sample"] = "mean"

    @model_validator(mode="after")
    def _statistics_where_read(self) -> "Objective":
        if self.anchored and self.statistics is None:
            raise UserError("statistics: the logit loss with lam > 0 needs FeatureStatistics of the target, found none")
        if self.loss != "logit" and self.statistics is not None:
            raise UserError(f"statistics: the logit loss alone reads them, found loss {self.loss!r}; leave them out")
        return self

    @property
    def anchored(self) -> bool:
        """Whether R is part of it."""
        return self.loss == "logit" and self.lam > 0

    def check(self, target: TrainClassifier) -> None:
        """UserError unless students and statistics are of this target."""
        for i, student in enumerate(self.students):
            if student.teacher != target:
                raise UserError(
                    f"objective.students: expected students of the attack's target ({target.label}), found one of "
                    f"another (number {i + 1}: {student.teacher.label}); distil it from this target"
                )
        if self.statistics is not None and self.statistics.target != target:
            raise UserError(
                f"objective.statistics: expected features of the attack's target ({target.label}), found those of "
                f"another ({self.statistics.target.label}); measure them on this target"
            )


class IdentityLoss:
    """An objective with its networks on a device, frozen and in eval mode, so that it treats images one by one."""

    def __init__(self, objective: Objective, target: TrainClassifier, seed: int, device: torch.device):
        self.objective, self.seed = objective, seed
        self.target = folded(target.network(device))
        self.students = [folded(student.network(device)) for student in objective.students]
        if objective.anchored:
            self.mean, self.std = objective.statistics.statistics(device)

    def __call__(self, x: Float[Tensor, "n c s s"], y: Int[Tensor, " n"], step: int) -> Float[Tensor, " n"]:
        r"""$\ell_{id}$ of each image; `step` decides the draw of $p_{reg}$."""
        p = self.target.features(x)
        logits = [self.target.head(p), *(student(x) for student in self.students)]
        loss = torch.stack([LOSSES[self.objective.loss](each, y) for each in logits]).mean(0)
        if not self.objective.anchored:
            return loss
        return loss + self.objective.lam * feature_penalty(p, self.p_reg(step), self.objective.reg_scale)

    def p_reg(self, step: int) -> Float[Tensor, " d"]:
        """What the target's features are held to at a step, the same in every chunk."""
        if self.objective.p_reg == "mean":
            return self.mean
        noise = torch.randn(self.mean.shape, generator=seeded("p_reg", self.seed, step))
        return self.mean + self.std * noise.to(self.mean)

"""A toy of free two-dimensional features: cross-entropy stops where other classes are far, the logit loss does not.

No image and no network: the attacker moves the penultimate feature p itself, the last layer has the rows W.
Private features lie along their class's row, as well-trained classifiers have them.
"""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mi_utils.attacks.objective import LOSSES, feature_penalty
from mi_utils.report.figures import PALETTE, Picture
from mi_utils.report.panels import panels
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Output, Stage

WEIGHTS = torch.tensor([[1.0, 0.2], [0.8, -0.7], [-0.7, 0.5]])  # class 1 is the neighbour of class 0, which is attacked
PUBLIC_MEAN = torch.zeros(2)
REACH, SPREAD = 3.0, 0.25  # of the private features
LAM = 0.4


def centres() -> Float[Tensor, "k 2"]:
    r"""Private class means $\mu+r\,w_k/\lVert w_k\rVert$."""
    return PUBLIC_MEAN + REACH * torch.nn.functional.normalize(WEIGHTS)


def minimiser(w: Float[Tensor, "... d"], lam: float, mean: Float[Tensor, " d"] = PUBLIC_MEAN) -> Float[Tensor, "... d"]:
    r"""$p^*=\mu+\frac d{2\lambda}w_y$: least logit loss at the "mean" scale.  Source: specification, 2.2."""
    return mean + w.shape[-1] / (2 * lam) * w


def identity(p: Float[Tensor, "n 2"], y: int, loss: str, lam: float) -> Float[Tensor, " n"]:
    """The attack's own losses on logits W p, with R for the logit loss."""
    found = LOSSES[loss](p @ WEIGHTS.T, torch.full((len(p),), y))
    return found + lam * feature_penalty(p, PUBLIC_MEAN, "mean") if loss == "logit" else found


class ToyFeatures(Stage):
    """Gradient descent on features that start near the public mean; `path` (frames, starts, 2)."""

    loss: Literal["ce", "logit"]
    y: Annotated[int, Field(ge=0, lt=3)] = 0
    lam: Annotated[float, Field(gt=0)] = LAM
    starts: Annotated[int, Field(ge=1)] = 30
    steps: Annotated[int, Field(ge=1)] = 400
    lr: Annotated[float, Field(gt=0)] = 0.05

    def compute(self, job: Job) -> Output:
        """Every tenth step is kept."""
        p = PUBLIC_MEAN + torch.randn(self.starts, 2, generator=seeded("toy features"))
        path = [p]
        for step in range(self.steps):
            p = p.detach().requires_grad_()
            (slope,) = torch.autograd.grad(identity(p, self.y, self.loss, self.lam).sum(), p)
            p = p.detach() - self.lr * slope
            path += [p] if step % 10 == 9 else []
        return Output({"path": torch.stack(path)})


def reached(p: Float[Tensor, "n 2"], y: int = 0) -> dict[str, float]:
    """Mean confidence, distance to the private centre, and cosine with the direction to it."""
    towards = centres()[y] - PUBLIC_MEAN
    return {
        "confidence": (p @ WEIGHTS.T).softmax(1)[:, y].mean().item(),
        "distance": (p - centres()[y]).norm(dim=1).mean().item(),
        "cosine": torch.nn.functional.cosine_similarity(p - PUBLIC_MEAN, towards[None]).mean().item(),
    }


def figure(found: dict[str, Float[Tensor, "f n 2"]], y: int = 0) -> Picture:
    """Paths from the public mean, private clouds of the three classes, and the closed-form minimiser."""
    rng = seeded("toy figure")
    clouds = [c + SPREAD * torch.randn(200, 2, generator=rng) for c in centres()]
    best = minimiser(WEIGHTS[y], LAM)
    with panels(list(found), 3.3, 3.3) as (picture, axes):
        for axis, path in zip(axes, found.values(), strict=True):
            for k, cloud in enumerate(clouds):
                name = f"private, class {k}{' (attacked)' if k == y else ''}"
                axis.scatter(*cloud.T, s=4, color=PALETTE[k], alpha=0.5, label=name)
            for i, track in enumerate(path.unbind(1)):
                axis.plot(*track.T, color="#555555", linewidth=0.6, label="paths" if i == 0 else None)
            axis.scatter(*path[-1].T, s=14, color="#222222", label="ends", zorder=4)
            line = torch.stack([PUBLIC_MEAN, 1.4 * best])
            axis.plot(*line.T, color=PALETTE[y], linestyle=":", label="$\\mu+t\\,w_y$")
            axis.scatter(*best[:, None], s=110, marker="*", color=PALETTE[3], label="$p^*$, closed form", zorder=5)
            axis.set(xlim=(-4, 5), ylim=(-4, 5), aspect="equal", xlabel="feature 1", ylabel="feature 2")
    return picture

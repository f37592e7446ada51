"""Identity losses and the random transformation block: how the target is asked "is this class y?"."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from mi_utils.data.augment import Augment
from mi_utils.stage import Config


class Views(Config):
    r"""The random transformation block: V views $A_vx$ of an image, the first one the identity.

    `combine` "loss" averages the losses of the views (released, handwriting), "logit" their logits
    (released, CIFAR-10).  Whether a transform is drawn per image or once per batch is `transform.draw`.
    """

    count: Annotated[int, Field(ge=1)] = 1
    transform: Augment = Augment()
    combine: Literal["loss", "logit"] = "loss"

    def logits(self, target: nn.Module, x: Float[Tensor, "n c s s"], rng: torch.Generator) -> Float[Tensor, "v n k"]:
        """T(A_v x) for v = 1..V by one pass of the target."""
        views = torch.cat([x, *(self.transform(x, rng) for _ in range(self.count - 1))])
        return target(views).unflatten(0, (self.count, len(x)))


def identity_loss(
    logits: Float[Tensor, "v n k"], y: Int[Tensor, " n"], combine: Literal["loss", "logit"]
) -> Float[Tensor, " n"]:
    r"""$\ell_{id}$: "loss" $\frac1V\sum_v CE(T(A_vx),y)$; "logit" $CE(\frac1V\sum_v T(A_vx),y)$.

    Source: Patch-MI specification, 2.3.
    """
    if combine == "logit":
        return F.cross_entropy(logits.mean(0), y, reduction="none")
    views = F.cross_entropy(logits.flatten(0, 1), y.repeat(len(logits)), reduction="none")
    return views.view(len(logits), -1).mean(0)

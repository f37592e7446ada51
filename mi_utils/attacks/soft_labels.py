r"""Plug & Play by an attacker who knows that some training images were protected by smoothed labels, but not which.

$$\min_w\ -\sum_kq_k\log p_k\big(\mathcal T(G_s(w))\big),\quad q=(1-\varepsilon)\,e_y+\frac{\varepsilon}{K}\mathbf 1$$
Where the target was trained to say q of an image, that image is a minimum, so the search goes to what the defence
protects.  Source: specification ddcs_ngd, 8 (OQ4: "an adaptive attacker that knows gamma").
"""

from typing import Annotated, Literal

import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from mi_utils.attacks import per_sample
from mi_utils.attacks.plug_and_play import PlugAndPlay
from mi_utils.attacks.style_search import Nets


def soft_cross_entropy(logits: Float[Tensor, "n k"], y: Int[Tensor, " n"], epsilon: float) -> Float[Tensor, " n"]:
    r"""$-\sum_kq_k\log p_k$; with $\varepsilon=0$ the cross-entropy.  Its least value is the entropy of q."""
    return F.cross_entropy(logits, y, reduction="none", label_smoothing=epsilon)


class SoftLabelSearch(PlugAndPlay):
    r"""PPA towards the outputs q that a defended target was taught; `epsilon` 0 is PPA with cross-entropy."""

    loss: Literal["ce"] = "ce"
    epsilon: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def _gradients(
        self, nets: Nets, labels: Int[Tensor, " kn"], step: int, w: Float[Tensor, "k n d"]
    ) -> tuple[Float[Tensor, "k n d"], dict[str, Float[Tensor, ""]]]:
        """Of each image's loss under the step's crop."""

        def loss(part: Tensor, where: slice) -> Float[Tensor, " m"]:
            logits = nets.f(self.cropped(self.image(nets, part), step))
            return soft_cross_entropy(logits, labels[where], self.epsilon)

        slope, losses = per_sample.gradients(loss, w.flatten(0, 1), self.chunk)
        return slope.view_as(w), {"loss": losses.mean()}

r"""Entropy losses: what a generator is tuned with so that a frozen target becomes sure of its images.

With $p=\mathrm{softmax}(f(x))\in\Delta^{C-1}$ of a generated image x; values per sample, the mean is the caller's.
Deviation: the paper's formula is not known; `min_ent` is "derived from the target's confidences" as it says.
Source: specification ddcs_ngd, 2.4.
"""

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mi_utils.training.priors import entropy

AdversarialLoss = Literal["min_ent", "mutual", "max_conf", "class_ce"]


def marginal_entropy(logits: Float[Tensor, "b c"]) -> Float[Tensor, ""]:
    r"""$H\big(\frac1B\sum_bp_b\big)$ in nats, 0 to $\log C$: how evenly a batch is spread over the classes."""
    p = logits.softmax(1).mean(0)
    return -(p * p.clamp(min=1e-12).log()).sum()


def mutual_loss(logits: Float[Tensor, "b c"], beta: float) -> Float[Tensor, " b"]:
    r"""$H(p_b)-\beta\,H\big(\frac1B\sum_bp_b\big)$: sure of every image, of all classes alike; of use for $B\gtrsim2C$.

    With $\beta=1$ the mean is minus the mutual information of image and class, $-\log C$ to 0.
    """
    return entropy(logits) - beta * marginal_entropy(logits)


def confidence_loss(logits: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    r"""$-\log\max_cp_c$, 0 to $\log C$: towards the class that is predicted already."""
    return -logits.log_softmax(1).amax(1)


def adversarial_loss(
    kind: AdversarialLoss, logits: Float[Tensor, "n c"], y: Int[Tensor, " n"], beta: float
) -> Float[Tensor, " n"]:
    r"""$L_{adv}$: `min_ent` $H(p)$, `mutual`, `max_conf`, or `class_ce` $-\log p_y$ of a class y given to each sample.

    `mutual` alone reads `beta`, `class_ce` alone `y`.
    """
    match kind:
        case "min_ent":
            return entropy(logits)
        case "mutual":
            return mutual_loss(logits, beta)
        case "max_conf":
            return confidence_loss(logits)
        case "class_ce":
            return F.cross_entropy(logits, y, reduction="none")

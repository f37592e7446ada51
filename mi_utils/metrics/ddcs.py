"""DDCS, the Diversity and Distance Composite Score (arXiv 2502.19070).

Deviation: the paper's exact transform and matching are not known; the definition here is chosen in this
project. DDCS rises with the number of reconstructions alone, even for unrelated images.  So it is never shown
without reference rows of the same size (prior samples, held-out private images), which the caller computes.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.metrics.matching import Nearest
from mi_utils.metrics.sets import effective_matches

Transform = Literal["recip1p", "recip1p_scaled", "exp", "linear", "recip"]


@dataclass(frozen=True)
class DDCS:
    """Per-target vectors and their summaries, all shares in [0, 1] (except `recip`, which is unbounded).

    matched (N,): target i is the nearest private image of a reconstruction.  distance (N,): d_i.  score (N,):
    mu_i g(d_i).  ddcs = mean score = coverage * closeness.  coverage: share matched, the diversity part.
    closeness: mean g(d_i) over the matched, the distance part (0 when none is).  effective: exp-entropy of
    the matches.
    """

    matched: Bool[Tensor, " n"]
    distance: Float[Tensor, " n"]
    score: Float[Tensor, " n"]
    ddcs: float
    coverage: float
    closeness: float
    effective: float


def transform(d: Float[Tensor, " n"], kind: Transform = "recip1p", scale: float | None = None) -> Float[Tensor, " n"]:
    r"""g(d), decreasing: $1/(1+d)$, $1/(1+d/s)$, $e^{-d}$, $\max(0,1-d)$ or $1/d$.

    `scale` s is read by `recip1p_scaled` alone: the median nearest distance between two halves of the private
    data.
    """
    if (kind == "recip1p_scaled") != (scale is not None) or (scale is not None and not scale > 0):
        raise UserError(
            f"scale: expected a positive number with recip1p_scaled and none else, found {scale} with {kind}"
        )
    match kind:
        case "recip1p":
            return 1 / (1 + d)
        case "recip1p_scaled":
            return 1 / (1 + d / scale)
        case "exp":
            return torch.exp(-d)
        case "linear":
            return (1 - d).clamp(min=0)
        case "recip":
            return 1 / d
    raise UserError(f"transform: expected recip1p, recip1p_scaled, exp, linear or recip, found {kind!r}")


def ddcs(
    near: Nearest,
    *,
    kind: Transform = "recip1p",
    scale: float | None = None,
    radius: float | Float[Tensor, " n"] | None = None,
    dist: Literal["all", "assigned"] = "all",
    score: Literal["matched", "all"] = "matched",
) -> DDCS:
    r"""$\frac1N\sum_i\mu_i\,g(d_i)$ over private images i.

    $\mu_i$: some reconstruction's nearest private image is i; with `radius` (a threshold, or the k-NN radius
    of every target) instead $d_i\le$ radius.  `dist`: $d_i$ is the minimum over all reconstructions, or over
    those assigned to i. `score="all"` counts every target, matched or not.  Label scope is the `Nearest`'s
    (pass labels to `nearest`).
    """
    distance = _assigned(near) if dist == "assigned" else near.q_real.double()
    matched = _assigned_to(near) if radius is None else near.q_real <= _radius(radius, near.q_real)
    counted = torch.ones_like(matched) if score == "all" else matched
    value = torch.where(counted, transform(distance, kind, scale), 0.0)
    return DDCS(
        matched=matched,
        distance=distance,
        score=value,
        ddcs=float(value.mean()),
        coverage=float(matched.double().mean()),
        closeness=float(value[matched].mean()) if bool(matched.any()) else 0.0,
        effective=effective_matches(near.real_of_fake),
    )


def _assigned_to(near: Nearest) -> Bool[Tensor, " n"]:
    """mu_i: true for every private image that is the nearest of at least one reconstruction."""
    return torch.bincount(near.real_of_fake, minlength=len(near.q_real)) > 0


def _assigned(near: Nearest) -> Float[Tensor, " n"]:
    """Least distance over the reconstructions assigned to i; infinite where none is."""
    empty = torch.full((len(near.q_real),), torch.inf, dtype=torch.float64)
    return empty.scatter_reduce(0, near.real_of_fake, near.q_fake.double(), "amin")


def _radius(radius: float | Tensor, like: Tensor) -> Tensor:
    """The threshold as a tensor that broadcasts over the N targets."""
    r = torch.as_tensor(radius, dtype=like.dtype)
    if r.ndim > 1 or (r.ndim == 1 and len(r) != len(like)) or not bool((r >= 0).all()):
        raise UserError(f"radius: expected one number >= 0 or one per target ({len(like)}), found {tuple(r.shape)}")
    return r


def normalised(value: float, prior: float, holdout: float) -> float:
    r"""nDDCS $=\frac{\mathrm{DDCS}-\mathrm{DDCS}_{prior}}{\mathrm{DDCS}_{holdout}-\mathrm{DDCS}_{prior}}$.

    0 = no better than prior samples, 1 = as good as held-out private images.  All three at the same number of
    images.
    """
    if not holdout > prior:
        raise UserError(
            f"holdout: expected a DDCS above the prior's ({prior:.4f}), found {holdout:.4f}; "
            "the reference rows cannot normalise here, print DDCS with its references instead"
        )
    return (value - prior) / (holdout - prior)

"""DDCS, the Diversity and Distance Composite Score (arXiv 2502.19070).

Deviation: the paper's exact transform and matching are not known; the definition here is chosen in this
project, and `Options.name` says which one made a number.  DDCS rises with the number of reconstructions alone,
even for unrelated images: a thousand CIFAR-10 test images cover 57 % of another thousand.  So it is
never shown without reference rows of the same size (`references.same_size`): samples of the attacker's prior,
its public images, and held-out private images; and as `normalised` between the first and the last of them.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.metrics import checks
from mi_utils.metrics.matching import Nearest
from mi_utils.metrics.sets import effective_matches

Transform = Literal["recip1p", "recip1p_scaled", "exp", "linear", "recip"]
Match = Literal["assign", "threshold", "knn_ball"]
Dist = Literal["all", "assigned"]
Score = Literal["matched", "all"]
Scope = Literal["global", "label"]
CHOICES = {"transform": Transform, "match": Match, "dist": Dist, "score": Score, "scope": Scope}


@dataclass(frozen=True)
class Options:
    r"""The definition of DDCS that a number was made with.

    transform g (see `transform`), with its `scale` s for recip1p_scaled.  match, what counts as matched:
    `assign`: target i is the nearest private image of some reconstruction; `threshold`: $d_i\le\theta$;
    `knn_ball`: some reconstruction lies within the distance of i to its k-th other private image.  dist: $d_i$ is
    the least over `all` reconstructions or over those `assigned` to i.  score: only `matched` targets count, or
    `all`.  scope: pairs over the whole set, or of equal `label` only.
    """

    transform: Transform = "recip1p"
    scale: float | None = None
    match: Match = "assign"
    threshold: float | None = None
    k: int = 3
    dist: Dist = "all"
    score: Score = "matched"
    scope: Scope = "global"

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                known = ", ".join(get_args(choices))
                raise UserError(f"{name}: expected one of {known}, found {getattr(self, name)!r}")
        for name, value, reader in (
            ("scale", self.scale, self.transform == "recip1p_scaled"),
            ("threshold", self.threshold, self.match == "threshold"),
        ):
            if reader != (value is not None) or (value is not None and not value > 0):
                wanted = "a positive number" if reader else f"none with {self.transform} and {self.match}"
                raise UserError(f"{name}: expected {wanted}, found {value}")
        if self.k < 1:
            raise UserError(f"k: expected a number of neighbours >= 1, found {self.k}; the usual value is 3")

    def name(self, net: str) -> str:
        """The name that a table prints: every option, and the network of the distance."""
        g = self.transform if self.scale is None else f"{self.transform} s={self.scale:.4g}"
        within = {"assign": "", "threshold": f" {self.threshold}", "knn_ball": f" k={self.k}"}[self.match]
        return f"DDCS [{net}; {g}; {self.score}; {self.match}{within}; d over {self.dist}; {self.scope}]"


@dataclass(frozen=True)
class DDCS:
    """Per-target vectors and their summaries, all shares in [0, 1] (except `recip`, which is unbounded).

    matched (N,): mu_i.  distance (N,): d_i.  nearest (N,): the reconstruction at that distance, -1 for none.
    score (N,): mu_i g(d_i).  ddcs = mean score = coverage * closeness.  coverage: share matched, the diversity
    part.  closeness: mean g(d_i) over the matched, the distance part (0 when none is).  effective: exp-entropy
    of the matches.
    """

    matched: Bool[Tensor, " n"]
    distance: Float[Tensor, " n"]
    nearest: Int[Tensor, " n"]
    score: Float[Tensor, " n"]
    ddcs: float
    coverage: float
    closeness: float
    effective: float


def transform(d: Float[Tensor, " n"], kind: Transform = "recip1p", scale: float | None = None) -> Float[Tensor, " n"]:
    r"""g(d), decreasing: $1/(1+d)$, $1/(1+d/s)$, $e^{-d}$, $\max(0,1-d)$ or $1/d$.

    `scale` s is read by `recip1p_scaled` alone: the median nearest distance between two halves of the private
    data (`matching.half_distance`).
    """
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


def ddcs(near: Nearest, options: Options | None = None, radius: Float[Tensor, " n"] | None = None) -> DDCS:
    r"""$\frac1N\sum_i\mu_i\,g(d_i)$ over private images i.

    `near` is the search whose scope the options name (labels given to `nearest` or not).  `radius` (N,): for
    `knn_ball`, the squared distance of every private image to its k-th other (`matching.kth_nearest`).
    """
    options = options or Options()
    distance, nearest = _assigned(near) if options.dist == "assigned" else (near.q_real.double(), near.fake_of_real)
    matched = _matched(near, options, radius)
    counted = torch.ones_like(matched) if options.score == "all" else matched
    value = torch.where(counted, transform(distance, options.transform, options.scale), 0.0)
    return DDCS(
        matched=matched,
        distance=distance,
        nearest=nearest,
        score=value,
        ddcs=float(value.mean()),
        coverage=float(matched.double().mean()),
        closeness=float(value[matched].mean()) if bool(matched.any()) else 0.0,
        effective=effective_matches(near.real_of_fake),
    )


def _matched(near: Nearest, options: Options, radius: Tensor | None) -> Bool[Tensor, " n"]:
    r"""$\mu_i$."""
    if (radius is not None) != (options.match == "knn_ball"):
        raise UserError(f"radius: expected one per target with match='knn_ball' alone, found match={options.match!r}")
    match options.match:
        case "assign":
            return torch.bincount(near.real_of_fake, minlength=len(near.q_real)) > 0
        case "threshold":
            return near.q_real <= options.threshold
        case "knn_ball":
            if radius.shape != near.q_real.shape or not bool((radius >= 0).all()):
                raise UserError(
                    f"radius: expected {len(near.q_real)} numbers >= 0, one per target, found {tuple(radius.shape)}"
                )
            return near.q_real <= radius


def _assigned(near: Nearest) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Least distance over the reconstructions assigned to i, and which one; infinite and -1 where there is none."""
    q, i = near.q_fake.double(), near.real_of_fake
    least = torch.full((len(near.q_real),), torch.inf, dtype=torch.float64).scatter_reduce(0, i, q, "amin")
    at_least = (q == least[i]).nonzero().squeeze(1)
    nobody = len(q)
    which = torch.full((len(near.q_real),), nobody).scatter_reduce(0, i[at_least], at_least, "amin")
    return least, torch.where(which == nobody, -1, which)


def normalised(value: float, prior: float, holdout: float) -> float:
    r"""nDDCS $=\frac{\mathrm{DDCS}-\mathrm{DDCS}_{prior}}{\mathrm{DDCS}_{holdout}-\mathrm{DDCS}_{prior}}$.

    0 = no better than prior samples, 1 = as good as held-out private images.  All three at the same number of
    images.
    """
    for name, number in (("value", value), ("prior", prior), ("holdout", holdout)):
        checks.finite(name, torch.tensor(number))
    if not holdout > prior:
        raise UserError(
            f"holdout: expected a DDCS above the prior's ({prior:.4f}), found {holdout:.4f}; "
            "the reference rows cannot normalise here, print DDCS with its references instead"
        )
    return (value - prior) / (holdout - prior)


@dataclass(frozen=True)
class Exposed:
    """A private image (row), its label, and how closely which reconstruction (row, -1 for none) comes to it."""

    private: int
    label: int
    matched: bool
    distance: float
    reconstruction: int
    score: float


def exposure(found: DDCS, labels: Int[Tensor, " n"]) -> list[Exposed]:
    """Every private image, the most exposed first: matched before unmatched, then by distance, then by row."""
    labels = checks.labels("labels", labels, len(found.matched))
    columns = (found.matched, found.distance, found.nearest, found.score)
    matched, distance, nearest, score = (column.tolist() for column in columns)
    order = sorted(range(len(labels)), key=lambda i: (not matched[i], distance[i], i))
    ids = labels.tolist()
    return [Exposed(i, ids[i], matched[i], distance[i], nearest[i], score[i]) for i in order]

"""Comparisons of two feature sets: PRDC, Frechet distance, KID and MMD, of whole sets and class by class."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.metrics import balls, checks
from mi_utils.metrics.matching import squared_distances

TILE = 1024  # rows held against the whole other set; bounds memory, never changes a value

Value = TypeVar("Value")


@dataclass(frozen=True)
class PRDC:
    """Per sample, for M fakes and N reals: the terms that precision, recall, density and coverage average.

    precise (M,): the fake lies in some real's ball.  dense (M,): number of real balls that hold it, over k.
    recalled (N,): the real lies in some fake's ball.  covered (N,): the real's own ball holds a fake.
    An interval may draw rows of these again; rows of the sets it may not (duplicates shrink every ball).
    """

    precise: Bool[Tensor, " m"]
    dense: Float[Tensor, " m"]
    recalled: Bool[Tensor, " n"]
    covered: Bool[Tensor, " n"]

    def summary(self) -> dict[str, float]:
        """Precision, recall and coverage in [0, 1], density in [0, N / k]."""
        terms = {"precision": self.precise, "recall": self.recalled, "density": self.dense, "coverage": self.covered}
        return {name: float(x.double().mean()) for name, x in terms.items()}


@torch.no_grad()
def prdc_samples(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], k: int = 3) -> PRDC:
    r"""The terms of `prdc`, with $D_{ij}=\lVert r_i-f_j\rVert$, $R_k$ the distance to the k-th other row, strict `<`.

    Every comparison is that of squared float64 differences (see `balls`).  UserError for fewer than k + 1 rows,
    NaN, unequal widths.
    """
    if k < 1:
        raise UserError(f"k: expected a number of neighbours >= 1, found {k}; the usual value is 3")
    real, fake = checks.pair("real features", real, "fake features", fake, least=k + 1)
    radii = balls.Radii(real, k), balls.Radii(fake, k)
    holding = torch.zeros(len(fake), dtype=torch.int64, device=fake.device)
    recalled, covered = torch.zeros(2, len(real), dtype=torch.bool, device=real.device)
    screen = balls.Screen(real, fake)
    for rows in screen.strips(torch.arange(len(real), device=real.device)):
        i, j, in_real, in_fake = balls.inside(screen, rows, *radii)
        holding += j[in_real].bincount(minlength=len(fake))
        covered[i[in_real]] = True
        recalled[i[in_fake]] = True
    return PRDC(holding > 0, holding.double() / k, recalled, covered)


def prdc(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], k: int = 3) -> dict[str, float]:
    r"""Precision, recall, density, coverage, as the `prdc` package has them.

    precision $\frac1M\sum_j 1[\exists i: D_{ij}<R_k(r_i)]$ (any ball, not the nearest real's); recall
    $\frac1N\sum_i 1[\exists j: D_{ij}<R_k(f_j)]$; density $\frac1{kM}\sum_{ij}1[D_{ij}<R_k(r_i)]$ (over
    fakes); coverage $\frac1N\sum_i 1[\exists j: D_{ij}<R_k(r_i)]$.  Sources: Kynkaanniemi et al. 2019; Naeem et
    al. 2020.  Errors: those of `prdc_samples`.
    """
    return prdc_samples(real, fake, k).summary()


def by_class(
    metric: Callable[[Tensor, Tensor], Value],
    real: Tensor,
    real_labels: Int[Tensor, " n"],
    fake: Tensor,
    fake_labels: Int[Tensor, " m"],
    classes: Sequence[int],
) -> dict[int, Value]:
    """`metric(real rows, fake rows)` of each class: ids as they are, all rows of the class, sizes may differ.

    UserError that names the class where it has no rows or where the metric refuses them.
    """
    values = {}
    for c, (r, f) in checks.class_pairs(real, real_labels, fake, fake_labels, classes).items():
        try:
            values[c] = metric(real[r], fake[f])
        except UserError as problem:
            raise UserError(f"class {c}: {problem}") from problem
    return values


def prdc_per_class(
    real: Float[Tensor, "n d"],
    real_labels: Int[Tensor, " n"],
    fake: Float[Tensor, "m d"],
    fake_labels: Int[Tensor, " m"],
    classes: Sequence[int],
    k: int = 3,
) -> tuple[dict[int, dict[str, float]], dict[str, float]]:
    """PRDC inside each class, and the unweighted mean over classes."""
    values = by_class(partial(prdc, k=k), real, real_labels, fake, fake_labels, classes)
    each = list(values.values())
    return values, {name: sum(v[name] for v in each) / len(each) for name in each[0]}


@dataclass(frozen=True)
class Gaussian:
    r"""The Gaussian fitted to N rows: mean (d,), `root` R with covariance $R^\top R$, and the covariance's trace."""

    mean: Float[Tensor, " d"]
    root: Float[Tensor, "r d"]
    trace: Float[Tensor, ""]


@torch.no_grad()
def gaussian(x: Float[Tensor, "n d"]) -> Gaussian:
    r"""Mean and covariance (over N - 1) in float64; to compare one set with many, fit it once.

    Centred rows over $\sqrt{N-1}$ are a root of the covariance; where there are more rows than columns, the
    triangle of their QR factorisation is a smaller one.  UserError for N < 2.
    """
    x = checks.features("features", x, 2)
    centred = (x - x.mean(0)) / (len(x) - 1) ** 0.5
    root = torch.linalg.qr(centred, mode="r").R if len(x) > x.shape[1] else centred
    return Gaussian(x.mean(0), root, centred.square().sum())


def frechet_between(a: Gaussian, b: Gaussian) -> float:
    r"""$\lVert\mu_a-\mu_b\rVert^2+\mathrm{tr}\,\Sigma_a+\mathrm{tr}\,\Sigma_b-2\,\mathrm{tr}(\Sigma_a\Sigma_b)^{1/2}$.

    With $\Sigma_a=A^\top A$, $\Sigma_b=B^\top B$ the last trace is the nuclear norm of $AB^\top$: no matrix root, no
    complex part, no ridge, and exact for singular covariances.
    """
    cross = torch.linalg.svdvals(a.root @ b.root.T).sum()
    value = (a.mean - b.mean).square().sum() + a.trace + b.trace - 2 * cross
    return max(float(value), 0.0)  # rounding can leave -1e-13 for equal sets


def frechet_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """Frechet distance of two Gaussians fitted to the rows (`frechet_between`), in float64.

    The value is biased upwards for small N and rank deficient for N <= d: the caller prints N and
    `rank_deficient`.  UserError for N < 2.
    """
    a, b = checks.pair("first features", a, "second features", b, least=2)
    return frechet_between(gaussian(a), gaussian(b))


def rank_deficient(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> bool:
    """True when N <= d: the Frechet distance rests on a singular covariance, and its caption says so."""
    return min(len(a), len(b)) <= a.shape[1]


def kernel_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    r"""Unbiased $\mathrm{MMD}^2$ with the cubic kernel $k(x,y)=(x^\top y/d+1)^3$, in float64, over all rows.

    KID where the features are FID-Inception's, KD(<features>) elsewhere; equal laws give values around 0 on both
    sides.  Source: Binkowski et al. 2018.  UserError for fewer than 2 rows, NaN, unequal widths.
    """
    a, b = checks.pair("first features", a, "second features", b, least=2)
    return _unbiased(a, b, lambda x, y: (x @ y.T / x.shape[1] + 1).pow(3))


def median_bandwidth(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], most: int = 1000) -> float:
    """Median distance between distinct rows of the union; sets over `most` rows are thinned at even steps."""
    both = torch.cat([x[:: -(-len(x) // most)] for x in (a, b)])
    median = float(torch.pdist(both).median())
    if median == 0:
        raise UserError(
            "mmd_rbf: expected varied features, found that over half of all pairs coincide; pass a bandwidth"
        )
    return median


def mmd_rbf(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], bandwidth: float | None = None) -> float:
    r"""Unbiased $\mathrm{MMD}^2$ with $k(x,y)=\exp(-\lVert x-y\rVert^2/2\sigma^2)$.

    $\sigma$ is `bandwidth`, by default the median distance of the union.  Unbiased, so equal laws give values
    around 0 on both sides.  Source: Gretton et al. 2012, eq. (3).
    """
    a, b = checks.pair("first features", a, "second features", b, least=2)
    sigma = median_bandwidth(a, b) if bandwidth is None else bandwidth
    if not sigma > 0:
        raise UserError(f"bandwidth: expected a positive number, found {sigma}; None takes the median distance")
    centre = b.mean(0)  # a shift leaves distances alone and makes the product's rounding small
    return _unbiased(a - centre, b - centre, lambda x, y: squared_distances(x, y).div_(-2 * sigma**2).exp_())


def _unbiased(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], kernel: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Mean kernel of different rows of `a`, plus the same of `b`, minus twice the mean over pairs of both."""
    n, m = len(a), len(b)
    within_a, within_b = _pair_sum(a, kernel) / (n * (n - 1)), _pair_sum(b, kernel) / (m * (m - 1))
    across = sum(float(kernel(rows, b).sum()) for rows in a.split(TILE)) / (n * m)
    return within_a + within_b - 2 * across


def _pair_sum(x: Float[Tensor, "n d"], kernel: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Sum over ordered pairs of different rows; the kernel is symmetric, so each is computed once."""
    total = 0.0
    for start in range(0, len(x), TILE):
        tile = kernel(x[start : start + TILE], x[start:])
        total += 2 * float(tile.triu_(1).sum())
    return total


def effective_matches(nearest_real: Int[Tensor, " m"]) -> float:
    r"""$N_{eff}=\exp H(n_i/M)$ with $n_i$ the fakes whose nearest real is $i$; 1 when all fakes copy one."""
    if len(nearest_real) == 0:
        raise UserError("nearest_real: expected the nearest real of at least 1 fake, found 0; pass reconstructions")
    share = torch.bincount(nearest_real).double() / len(nearest_real)
    return float(torch.special.entr(share).sum().exp())

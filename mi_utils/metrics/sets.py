"""Comparisons of two feature sets: PRDC, Frechet distance, MMD.

Distances are exact float64 differences, not the matrix-product shortcut: for repeated images the shortcut
returns about 1e-8 where the truth is 0, and the strict `<` of PRDC turns that into a wrong answer.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.metrics import checks

TILE = 1024  # rows held against the whole other set; bounds memory, never changes a value
PRDC = ("precision", "recall", "density", "coverage")


def euclidean(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Distances by differences, so that equal rows are exactly 0 apart."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def knn_radius(x: Float[Tensor, "n d"], k: int) -> Float[Tensor, " n"]:
    """R_k(x_i): distance to the k-th *other* point of the own set (the first of k + 1 is x_i itself)."""
    return torch.cat([euclidean(rows, x).kthvalue(k + 1, dim=1).values for rows in x.split(TILE)])


def prdc(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], k: int = 3) -> dict[str, float]:
    r"""Precision, recall, density, coverage with $D_{ij}=\lVert r_i-f_j\rVert$ and strict `<`.

    precision $\frac1M\sum_j 1[\exists i: D_{ij}<R_k(r_i)]$ (any ball, not the nearest real's); recall
    $\frac1N\sum_i 1[\exists j: D_{ij}<R_k(f_j)]$; density $\frac1{kM}\sum_{ij}1[D_{ij}<R_k(r_i)]$ (over
    fakes); coverage $\frac1N\sum_i 1[\exists j: D_{ij}<R_k(r_i)]$.  Agrees with the `prdc` package. Sources:
    Kynkaanniemi et al. 2019; Naeem et al. 2020.  UserError for fewer than k + 1 rows, NaN, unequal widths.
    """
    if k < 1:
        raise UserError(f"k: expected a number of neighbours >= 1, found {k}; the usual value is 3")
    real, fake = checks.pair("real features", real, "fake features", fake, least=k + 1)
    radius_real, radius_fake = knn_radius(real, k), knn_radius(fake, k)
    balls_hit = torch.zeros(len(fake), dtype=torch.int64, device=fake.device)
    recalled = covered = 0
    for rows, radius in zip(real.split(TILE), radius_real.split(TILE), strict=True):
        distance = euclidean(rows, fake)
        inside = distance < radius[:, None]
        balls_hit += inside.sum(0)
        covered += int(inside.any(1).sum())
        recalled += int((distance < radius_fake).any(1).sum())
    return {
        "precision": float((balls_hit > 0).double().mean()),
        "recall": recalled / len(real),
        "density": float(balls_hit.double().mean()) / k,
        "coverage": covered / len(real),
    }


def prdc_per_class(
    real: Float[Tensor, "n d"],
    real_labels: Int[Tensor, " n"],
    fake: Float[Tensor, "m d"],
    fake_labels: Int[Tensor, " m"],
    classes: Sequence[int],
    k: int = 3,
) -> tuple[dict[int, dict[str, float]], dict[str, float]]:
    """PRDC inside each class (ids as they are, sizes may differ), and the unweighted mean over classes.

    All images of a class are used: the larger set is never cut to the smaller.
    """
    real_rows = checks.class_rows("real features", checks.labels("real_labels", real_labels, len(real)), classes, k + 1)
    fake_rows = checks.class_rows("fake features", checks.labels("fake_labels", fake_labels, len(fake)), classes, k + 1)
    values = {c: prdc(real[real_rows[c]], fake[fake_rows[c]], k) for c in real_rows}
    return values, {name: sum(v[name] for v in values.values()) / len(values) for name in PRDC}


def frechet_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    r"""Frechet distance of two Gaussians fitted to the rows, in float64.

    $\lVert\mu_a-\mu_b\rVert^2+\mathrm{tr}\,\Sigma_a+\mathrm{tr}\,\Sigma_b-2\,\mathrm{tr}(\Sigma_a\Sigma_b)^{1/2}$.

    With $\Sigma_a=A^\top A$, $\Sigma_b=B^\top B$ (centred rows over $\sqrt{N-1}$) the last trace is the
    nuclear norm of $AB^\top$, hence of $R_aR_b^\top$ after two QR factorisations: no matrix root, no complex
    part, no ridge, and exact for singular covariances.  The value is biased upwards for small N and rank
    deficient for N <= d: the caller prints N and `rank_deficient`.  UserError for N < 2.
    """
    a, b = checks.pair("first features", a, "second features", b, least=2)
    centred_a, centred_b = ((x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (a, b))
    factor_a, factor_b = (torch.linalg.qr(x, mode="r").R for x in (centred_a, centred_b))
    cross = torch.linalg.svdvals(factor_a @ factor_b.T).sum()
    value = (a.mean(0) - b.mean(0)).square().sum() + centred_a.square().sum() + centred_b.square().sum() - 2 * cross
    return max(float(value), 0.0)  # rounding can leave -1e-13 for equal sets


def rank_deficient(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> bool:
    """True when N <= d: the Frechet distance rests on a singular covariance, and its caption says so."""
    return min(len(a), len(b)) <= a.shape[1]


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
    n, m = len(a), len(b)
    within_a = (_kernel_sum(a, a, sigma) - n) / (n * (n - 1))  # k(x, x) = 1 is left out
    within_b = (_kernel_sum(b, b, sigma) - m) / (m * (m - 1))
    return within_a + within_b - 2 * _kernel_sum(a, b, sigma) / (n * m)


def _kernel_sum(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], sigma: float) -> float:
    """Sum of all n x m RBF kernel values."""
    return float(sum(torch.exp(-tile.square() / (2 * sigma**2)).sum() for tile in _tiles(a, b)))


def _tiles(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Iterator[Float[Tensor, "t m"]]:
    """Distances of at most TILE rows of `a` at a time to all of `b`."""
    return (euclidean(rows, b) for rows in a.split(TILE))


def effective_matches(nearest_real: Int[Tensor, " m"]) -> float:
    r"""$N_{eff}=\exp H(n_i/M)$ with $n_i$ the fakes whose nearest real is $i$; 1 when all fakes copy one."""
    if len(nearest_real) == 0:
        raise UserError("nearest_real: expected the nearest real of at least 1 fake, found 0; pass reconstructions")
    share = torch.bincount(nearest_real).double() / len(nearest_real)
    return float(torch.special.entr(share).sum().exp())

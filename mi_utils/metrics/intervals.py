"""Uncertainty: bootstraps over seeds and what varies inside them, jackknife; rank correlation; Holm's correction.

| interval | values | a draw |
|---|---|---|
| `mean_interval` | (S seeds, C classes), or (S,) | S seeds, inside each C classes |
| `nested_interval` | per seed a vector of its own length | S seeds, inside each its images |
| `crossed_interval` | (S seeds, N private images) | S seeds, and N images that all of them share |
| `jackknife_interval` | per seed a number that is no mean, and that number without parts of the images | S seeds |

All with replacement, then averaged: runs are the unit, the rest varies inside a run.  With 3 seeds percentile
intervals are narrow by nature; n is always printed beside them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.metrics import checks

DRAWS = 2000
LEVEL = 0.95
CELLS = 2**22  # values drawn at a time; part of the random stream, so part of the result


@dataclass(frozen=True)
class Interval:
    """A point estimate, its 95 % percentile interval, and n = seeds (pairs, for an association)."""

    point: float
    low: float
    high: float
    n: int


def mean_interval(values: Float[Tensor, "s *c"], generator: torch.Generator, draws: int = DRAWS) -> Interval:
    """Mean over seeds and classes."""
    matrix = _matrix("values", values)
    drawn = drawn_means(matrix, resample(matrix.shape, generator, draws))
    return _interval(matrix.mean(), drawn, len(matrix))


def nested_interval(
    values: Sequence[Float[Tensor, " n_s"]], generator: torch.Generator, draws: int = DRAWS
) -> Interval:
    """Mean over seeds of the mean over a seed's images, of which each may have its own number.

    A draw takes S seeds and, anew for each, as many of its images as it has.  For values of images that were
    made independently: accuracy, distance of a reconstruction.
    """
    rows = _vectors("values", values)
    means = torch.stack([row.mean() for row in rows])
    sizes = _blocks(draws, len(rows) * max(map(len, rows)))
    return _interval(means.mean(), torch.cat([_nested_means(rows, generator, d) for d in sizes]), len(rows))


def crossed_interval(matrix: Float[Tensor, "s n"], generator: torch.Generator, draws: int = DRAWS) -> Interval:
    """Mean of a matrix whose columns are the same things in every seed: private images.

    A draw takes S seeds and one set of N columns for all of them, as an image that is easy to reconstruct is
    so in every seed.  For scores of private images: coverage, DDCS.  Reconstructions are never drawn again.
    """
    matrix = _matrix("matrix", matrix)
    drawn = [_crossed_means(matrix, generator, d) for d in _blocks(draws, matrix.shape[1])]
    return _interval(matrix.mean(), torch.cat(drawn), len(matrix))


def jackknife_interval(
    estimates: Sequence[float],
    leave_out: Sequence[Sequence[float]],
    generator: torch.Generator,
    draws: int = DRAWS,
) -> Interval:
    """Mean over seeds of an estimate that is no mean of per-image values, such as a Frechet distance.

    `leave_out`: of each seed the estimates without one of its G groups of images.  A draw takes S seeds and adds
    to each estimate Student-t noise (G - 1 degrees of freedom) of its jackknife standard error.  So one seed
    gives the t interval; repeated images, which would bias such an estimate, never occur.  The bias that the
    estimate itself has at this number of images is left in.
    """
    point = _matrix("estimates", torch.as_tensor(list(estimates), dtype=torch.float64)).squeeze(1)
    groups = _vectors("leave_out", [torch.as_tensor(list(g), dtype=torch.float64) for g in leave_out])
    if len(groups) != len(point):
        raise UserError(f"leave_out: expected one list for each of {len(point)} seeds, found {len(groups)}; align them")
    error = torch.stack([jackknife_variance(g) for g in groups]).sqrt()
    freedom = min(map(len, groups)) - 1
    seeds = torch.randint(len(point), (draws, len(point)), generator=generator, device=generator.device).cpu()
    shape = (draws, len(point), freedom + 1)
    normal = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64).cpu()
    noise = normal[..., 0] / normal[..., 1:].square().mean(-1).sqrt()
    return _interval(point.mean(), (point[seeds] + error[seeds] * noise).mean(1), len(point))


def jackknife_variance(leave_out: Float[Tensor, " g"]) -> Float[Tensor, ""]:
    r"""$\frac{G-1}G\sum_g(\theta_{(g)}-\bar\theta)^2$, of estimates that leave one of G groups out: for a mean, s^2/n.

    Source: Shao and Tu 1995, section 2.3.  UserError for fewer than 2 groups.
    """
    if len(leave_out) < 2:
        raise UserError(
            f"leave_out: expected estimates without each of 2 groups or more, found {len(leave_out)}; cut finer"
        )
    return (len(leave_out) - 1) * leave_out.var(correction=0)


def difference_interval(
    a: Float[Tensor, "s *c"], b: Float[Tensor, "s *c"], generator: torch.Generator, draws: int = DRAWS
) -> Interval:
    """Mean of a - b, paired: the same seed and class of both enter a draw together."""
    a, b = _paired(a, b)
    return mean_interval(a - b, generator, draws)


def ratio_interval(
    a: Float[Tensor, "s *c"], b: Float[Tensor, "s *c"], generator: torch.Generator, draws: int = DRAWS
) -> Interval:
    """mean(a) / mean(b), paired; b must be positive so that no draw divides by 0."""
    a, b = _paired(a, b)
    if not bool((b > 0).all()):
        raise UserError("ratio_interval: expected positive denominators, found a value <= 0; use differences")
    cells = resample(a.shape, generator, draws)
    return _interval(a.mean() / b.mean(), drawn_means(a, cells) / drawn_means(b, cells), len(a))


def difference_p(
    a: Float[Tensor, "s *c"], b: Float[Tensor, "s *c"], generator: torch.Generator, draws: int = DRAWS
) -> float:
    """Two-sided bootstrap p of "mean(a - b) = 0", never below 2 / (draws + 1); for Holm's correction."""
    a, b = _paired(a, b)
    drawn = drawn_means(a - b, resample(a.shape, generator, draws))
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (draws + 1))


def resample(shape: tuple[int, int], generator: torch.Generator, draws: int) -> Int[Tensor, "draws s c"]:
    """Flat cell indices of seed-then-class draws; paired statistics share one set of them."""
    s, c = shape
    device = generator.device
    seeds = torch.randint(s, (draws, s, 1), generator=generator, device=device)
    classes = torch.randint(c, (draws, s, c), generator=generator, device=device)
    return (seeds * c + classes).cpu()


def drawn_means(matrix: Float[Tensor, "s c"], cells: Int[Tensor, "draws s c"]) -> Float[Tensor, " draws"]:
    """Mean of the drawn cells, one value per draw."""
    return matrix.flatten()[cells].mean((1, 2))


def _nested_means(rows: Sequence[Float[Tensor, " n_s"]], generator: torch.Generator, draws: int) -> Tensor:
    """`draws` means over S seeds drawn and over images drawn inside each."""
    flat, length = torch.cat(list(rows)), torch.tensor([len(row) for row in rows])
    start, widest, device = length.cumsum(0) - length, int(length.max()), generator.device
    seeds = torch.randint(len(rows), (draws, len(rows)), generator=generator, device=device).cpu()
    count = length[seeds][..., None]
    image = torch.randint(2**62, (draws, len(rows), widest), generator=generator, device=device).cpu().remainder_(count)
    drawn = flat[image.add_(start[seeds][..., None])]
    beyond = torch.arange(widest) >= count  # of the longest seed's width; a shorter one has no such images
    return (drawn.masked_fill_(beyond, 0).sum(-1, keepdim=True) / count).mean((1, 2))


def _crossed_means(matrix: Float[Tensor, "s n"], generator: torch.Generator, draws: int) -> Tensor:
    """`draws` means over S rows drawn and over N columns drawn."""
    s, n = matrix.shape
    seeds = torch.randint(s, (draws, s), generator=generator, device=generator.device).cpu()
    columns = torch.randint(n, (draws, n), generator=generator, device=generator.device).cpu()
    share = torch.nn.functional.one_hot(seeds, s).double().mean(1)
    return (share @ matrix).gather(1, columns).mean(1)


def _blocks(draws: int, cells: int) -> list[int]:
    """`draws` cut into parts that hold at most CELLS of `cells` each."""
    most = max(1, CELLS // cells)
    return [min(most, draws - start) for start in range(0, draws, most)]


def ranks(x: Float[Tensor, "... n"]) -> Float[Tensor, "... n"]:
    """Ranks 1..n along the last axis; equal values share their average rank."""
    order = x.sort(-1).values.contiguous()
    x = x.contiguous()
    return (torch.searchsorted(order, x) + torch.searchsorted(order, x, right=True) + 1).double() / 2


def correlation(x: Float[Tensor, "... n"], y: Float[Tensor, "... n"]) -> Float[Tensor, "..."]:
    """Pearson correlation along the last axis; 0 where x or y is constant (no order to agree with)."""
    x, y = (v - v.mean(-1, keepdim=True) for v in (x, y))
    scale = (x.square().sum(-1) * y.square().sum(-1)).sqrt()
    return torch.where(scale > 0, (x * y).sum(-1) / scale.clamp(min=torch.finfo(x.dtype).tiny), 0.0)


def spearman(x: Float[Tensor, "... n"], y: Float[Tensor, "... n"]) -> Float[Tensor, "..."]:
    """Rank correlation along the last axis."""
    return correlation(ranks(x), ranks(y))


def slope(x: Float[Tensor, "... n"], y: Float[Tensor, "... n"]) -> Float[Tensor, "..."]:
    """Least-squares slope of y on x along the last axis; 0 where x is constant."""
    x, y = (v - v.mean(-1, keepdim=True) for v in (x, y))
    spread = x.square().sum(-1)
    return torch.where(spread > 0, (x * y).sum(-1) / spread.clamp(min=torch.finfo(x.dtype).tiny), 0.0)


def spearman_interval(
    x: Float[Tensor, " n"], y: Float[Tensor, " n"], generator: torch.Generator, draws: int = DRAWS
) -> Interval:
    """Spearman's rank correlation; pairs (x_i, y_i) are drawn with replacement.  n = number of pairs."""
    return _association(spearman, x, y, generator, draws)


def slope_interval(
    x: Float[Tensor, " n"], y: Float[Tensor, " n"], generator: torch.Generator, draws: int = DRAWS
) -> Interval:
    """Least-squares slope of y on x; pairs are drawn with replacement.  n = number of pairs."""
    return _association(slope, x, y, generator, draws)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given: reject where the result is <= alpha."""
    p = torch.as_tensor(list(p_values), dtype=torch.float64)
    if p.ndim != 1 or len(p) == 0 or not bool(((p >= 0) & (p <= 1)).all()):
        raise UserError(f"p_values: expected numbers in [0, 1], at least one, found {list(p_values)}; check the tests")
    order = p.argsort()
    stepped = (p[order] * torch.arange(len(p), 0, -1)).cummax(0).values.clamp(max=1)
    return torch.empty_like(p).scatter(0, order, stepped).tolist()


def _association(
    statistic: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    generator: torch.Generator,
    draws: int,
) -> Interval:
    """Point and bootstrap interval of a statistic of pairs."""
    x, y = x.double(), y.double()
    if x.ndim != 1 or x.shape != y.shape or len(x) < 3:
        raise UserError(
            f"x and y: expected two vectors of one length >= 3, found {tuple(x.shape)} and {tuple(y.shape)}"
        )
    for name, v in (("x", x), ("y", y)):
        checks.finite(name, v)
        if bool((v == v[0]).all()):
            raise UserError(f"{name}: expected varied values, found {len(v)} equal ones; nothing can follow it")
    rows = torch.randint(len(x), (draws, len(x)), generator=generator, device=generator.device).cpu()
    return _interval(statistic(x, y), statistic(x[rows], y[rows]), len(x))


def _matrix(name: str, values: Tensor) -> Float[Tensor, "s c"]:
    """(S, C) float64 on the CPU; a vector becomes one column."""
    matrix = values.double().cpu()
    matrix = matrix[:, None] if matrix.ndim == 1 else matrix
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise UserError(f"{name}: expected (seeds, classes), none empty, found {tuple(values.shape)}; one row per seed")
    checks.finite(name, matrix)
    return matrix


def _vectors(name: str, values: Sequence[Tensor]) -> list[Float[Tensor, " n_s"]]:
    """At least one float64 vector on the CPU, none empty."""
    if len(values) == 0:
        raise UserError(f"{name}: expected values of at least 1 seed, found 0; pass one vector per seed")
    rows = [v.double().cpu() for v in values]
    for s, row in enumerate(rows):
        if row.ndim != 1 or len(row) == 0:
            raise UserError(f"{name}: expected a vector of seed {s}, not empty, found shape {tuple(row.shape)}")
        checks.finite(f"{name} of seed {s}", row)
    return rows


def _paired(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two matrices over the same seeds and classes."""
    a, b = _matrix("first values", a), _matrix("second values", b)
    if a.shape != b.shape:
        raise UserError(
            f"paired values: expected the same seeds and classes, "
            f"found {tuple(a.shape)} and {tuple(b.shape)}; align them"
        )
    return a, b


def _interval(point: Tensor, drawn: Float[Tensor, " draws"], n: int) -> Interval:
    """Percentile interval of the draws around the point estimate."""
    tail = (1 - LEVEL) / 2
    low, high = torch.quantile(drawn, torch.tensor([tail, 1 - tail], dtype=drawn.dtype)).tolist()
    return Interval(float(point), low, high, n)

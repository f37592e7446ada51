"""Uncertainty: hierarchical bootstrap over seeds, then classes; rank correlation; Holm's correction.

Values come as a matrix (S seeds, C classes), or (S,) for one number per seed.  A draw takes S seeds with
replacement and, inside each, C classes with replacement, then averages: runs are the unit, classes vary
inside a run.  With 3 seeds percentile intervals are narrow by nature; n is always printed beside them.
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

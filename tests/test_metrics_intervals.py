"""Bootstrap intervals, rank correlation and Holm's correction."""

import pytest
import scipy.stats
import torch

from mi_utils.errors import UserError
from mi_utils.metrics import intervals
from mi_utils.runtime import generator


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator("values", *shape), dtype=torch.float64)


def test_mean_interval_point_order_n_and_seed():
    values = draw(5, 10)
    first = intervals.mean_interval(values, generator("b"))
    assert first.point == pytest.approx(values.mean().item()) and first.n == 5
    assert first.low < first.point < first.high
    assert first == intervals.mean_interval(values, generator("b"))
    assert first != intervals.mean_interval(values, generator("c"))
    constant = intervals.mean_interval(torch.full((3, 4), 0.7), generator("b"))
    assert (constant.low, constant.high) == pytest.approx((0.7, 0.7))


def test_width_agrees_with_theory_for_seeds_alone():
    values = draw(400)
    interval = intervals.mean_interval(values, generator("b"))
    standard_error = values.std(correction=0).item() / 400**0.5
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * standard_error, rel=0.08)


def test_seeds_are_the_unit_when_only_seeds_vary():
    per_seed = draw(6)
    matrix = per_seed[:, None].expand(6, 50)
    alone, repeated = (intervals.mean_interval(x, generator("b")) for x in (per_seed, matrix))
    pooled = intervals.mean_interval(matrix.flatten(), generator("b"))
    assert repeated.high - repeated.low == pytest.approx(alone.high - alone.low, rel=0.1)
    assert pooled.high - pooled.low < 0.3 * (repeated.high - repeated.low)  # pooling would invent certainty


def test_classes_vary_inside_each_drawn_seed():
    cells = intervals.resample((3, 4), generator("b"), 500)
    seeds, classes = cells // 4, cells % 4
    assert (seeds == seeds[:, :, :1]).all()
    assert (seeds[:, 0, 0] != seeds[:, 1, 0]).any() and (classes[:, 0] != classes[:, 1]).any()
    assert torch.bincount(cells.flatten(), minlength=12).double().std() < 50  # of 500 expected in each cell


def test_pairing_removes_what_the_pair_shares():
    base = 10 * draw(5, 8)
    gain = 0.5 + 0.01 * draw(5, 8).flip(0)
    difference = intervals.difference_interval(base + gain, base, generator("b"))
    assert 0.48 < difference.low < difference.high < 0.52
    ratio = intervals.ratio_interval(3 * base.abs() + 3, base.abs() + 1, generator("b"))
    assert (ratio.point, ratio.low, ratio.high) == pytest.approx((3, 3, 3))


def test_ratio_is_of_means_not_a_mean_of_ratios():
    ratio = intervals.ratio_interval(torch.tensor([1.0, 30.0]), torch.tensor([1.0, 10.0]), generator("b"))
    assert ratio.point == pytest.approx(31 / 11)


def test_difference_p():
    a = draw(20)
    assert intervals.difference_p(a + 3, a, generator("b")) == pytest.approx(2 / 2001)
    assert intervals.difference_p(a, a, generator("b")) == 1.0
    centred = a - a.mean()
    assert intervals.difference_p(centred, torch.zeros(20), generator("b")) > 0.8


def test_spearman_and_slope_equal_scipy_with_ties():
    x = torch.tensor([1.0, 2.0, 2.0, 3.0, 5.0, 5.0, 7.0, 9.0])
    y = torch.tensor([3.0, 1.0, 4.0, 4.0, 2.0, 8.0, 8.0, 7.0])
    assert intervals.ranks(x).tolist() == scipy.stats.rankdata(x.numpy()).tolist()
    rho = intervals.spearman_interval(x, y, generator("b"))
    assert rho.point == pytest.approx(scipy.stats.spearmanr(x.numpy(), y.numpy()).statistic) and rho.n == 8
    assert -1 <= rho.low < rho.point < rho.high <= 1
    fitted = intervals.slope_interval(x, y, generator("b"))
    assert fitted.point == pytest.approx(scipy.stats.linregress(x.numpy(), y.numpy()).slope)


def test_monotone_is_one_and_draws_are_ranked_row_by_row():
    x = draw(12)
    assert intervals.spearman_interval(x, x.exp(), generator("b")).point == pytest.approx(1)
    a, b = draw(6, 12), draw(6, 12).flip(1)
    rows = [scipy.stats.spearmanr(p.numpy(), q.numpy()).statistic for p, q in zip(a, b, strict=True)]
    assert intervals.spearman(a, b).tolist() == pytest.approx(rows)


def test_holm_by_hand():
    assert intervals.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert intervals.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert intervals.holm([0.02]) == pytest.approx([0.02])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda g: intervals.mean_interval(torch.zeros(0), g), "found \\(0,\\)"),
        (lambda g: intervals.mean_interval(torch.tensor([[1.0, torch.nan]]), g), "values: .* 1 NaN"),
        (lambda g: intervals.difference_interval(torch.ones(3), torch.ones(2), g), "same seeds and classes"),
        (lambda g: intervals.ratio_interval(torch.ones(3), torch.zeros(3), g), "positive denominators"),
        (lambda g: intervals.spearman_interval(torch.arange(2), torch.arange(2), g), "length >= 3"),
        (
            lambda g: intervals.spearman_interval(torch.arange(4), torch.ones(4), g),
            "y: expected varied values",
        ),
        (lambda g: intervals.holm([]), "p_values"),
        (lambda g: intervals.holm([1.2]), "p_values"),
    ],
)
def test_errors(call, words):
    with pytest.raises(UserError, match=words):
        call(generator("b"))

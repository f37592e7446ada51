"""Bootstrap and jackknife intervals, rank correlation and Holm's correction."""

import pytest
import scipy.stats
import torch

from mi_utils.errors import UserError
from mi_utils.metrics import intervals, sets
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


def width(interval: intervals.Interval) -> float:
    return interval.high - interval.low


def test_one_seed_is_the_bootstrap_of_a_mean():
    values = draw(300)
    one = intervals.nested_interval([values], generator("b"), draws=8000)
    assert one.point == pytest.approx(values.mean().item()) and one.n == 1
    assert width(one) == pytest.approx(2 * 1.96 * values.std(correction=0).item() / 300**0.5, rel=0.05)
    crossed = intervals.crossed_interval(values[None], generator("b"), draws=8000)
    assert width(crossed) == pytest.approx(width(one), rel=0.05)


def test_seeds_of_unlike_lengths_count_alike_and_only_their_own_images_enter():
    rows = [torch.full((2,), 10.0), torch.full((50,), 20.0), torch.full((7,), 60.0)]
    found = intervals.nested_interval(rows, generator("b"))
    assert found.point == pytest.approx(30) and found.n == 3  # pooled over images it would be 24.4
    drawn = intervals._nested_means([row.double() for row in rows], generator("b"), 5000)
    possible = sorted({(a + b + c) / 3 for a in (10, 20, 60) for b in (10, 20, 60) for c in (10, 20, 60)})
    assert sorted(drawn.unique().tolist()) == pytest.approx(possible)  # not one image of another seed in a mean
    assert drawn.mean().item() == pytest.approx(30, abs=1)


def test_variance_of_the_nested_draws_is_that_between_and_within():
    rows = [draw(40) + 1, 2 * draw(90), draw(15) - 2]
    drawn = intervals._nested_means(rows, generator("b"), 20_000)
    means = torch.stack([row.mean() for row in rows])
    within = sum(row.var(correction=0) / len(row) for row in rows) / 3
    assert drawn.var().item() == pytest.approx((means.var(correction=0).item() + within.item()) / 3, rel=0.05)


def test_the_blocks_of_draws_leave_none_out(monkeypatch):
    values = draw(60)
    whole = intervals.nested_interval([values, values + 1], generator("b"))
    monkeypatch.setattr(intervals, "CELLS", 1000)
    cut = intervals.nested_interval([values, values + 1], generator("b"))
    assert intervals._blocks(2000, 120) == [8] * 250 and intervals._blocks(10, 300) == [3, 3, 3, 1]
    assert cut.point == whole.point and width(cut) == pytest.approx(width(whole), rel=0.15)


def test_columns_are_shared_by_the_seeds():
    column = draw(200)
    same = intervals.crossed_interval(column.expand(5, -1), generator("b"), draws=8000)
    alone = intervals.crossed_interval(column[None], generator("b"), draws=8000)
    assert width(same) == pytest.approx(width(alone), rel=0.05) and same.n == 5
    separate = intervals.nested_interval(list(column.expand(5, -1)), generator("b"), draws=8000)
    assert width(separate) < 0.6 * width(same)  # five sets of columns would invent certainty
    matrix = draw(4, 30) + draw(4)[:, None]
    drawn = intervals._crossed_means(matrix, generator("b"), 20_000)
    rows, columns = matrix.mean(1), matrix.mean(0)
    rest = (matrix - rows[:, None] - columns + matrix.mean()).square().mean()
    expected = rows.var(correction=0) / 4 + columns.var(correction=0) / 30 + rest / 120
    assert drawn.var().item() == pytest.approx(expected.item(), rel=0.05)


def covered(make, count: int = 200) -> float:
    """Share of simulated data sets, of true mean 0, whose interval holds it."""
    found = [make(torch.Generator().manual_seed(i)) for i in range(count)]
    return sum(f.low <= 0 <= f.high for f in found) / count


@pytest.mark.parametrize("kind", ["one seed", "seeds", "crossed", "jackknife", "jackknife of seeds"])
def test_a_95_percent_interval_holds_the_mean_in_95_of_100_sets(kind):
    def make(rng: torch.Generator) -> intervals.Interval:
        seeds = 1 if kind in ("one seed", "jackknife") else 20
        effects = torch.randn(seeds, 1, generator=rng, dtype=torch.float64) * (seeds > 1)
        images = torch.randn(1, 60, generator=rng, dtype=torch.float64)
        values = effects + torch.randn(seeds, 60, generator=rng, dtype=torch.float64)
        if kind == "crossed":
            return intervals.crossed_interval(values + 3 * images, rng, draws=400)
        if kind.startswith("jackknife"):
            out = [[float((row.sum() - group.sum()) / 50) for group in row.split(10)] for row in values]
            return intervals.jackknife_interval(values.mean(1).tolist(), out, rng, draws=1000)
        return intervals.nested_interval(list(values), rng, draws=400)

    # 200 sets: standard error 1.5 points; percentile intervals of 20 seeds are some 2 points short by nature
    assert 0.89 <= covered(make) <= 0.99


def test_jackknife_of_a_mean_is_the_standard_error():
    values = draw(30)
    out = (values.sum() - values) / 29
    assert intervals.jackknife_variance(out).item() == pytest.approx(values.var().item() / 30)
    one = intervals.jackknife_interval([values.mean().item()], [out.tolist()], generator("b"), draws=20_000)
    half = scipy.stats.t.ppf(0.975, 29) * values.std().item() / 30**0.5
    assert one.point == pytest.approx(values.mean().item()) and one.n == 1
    assert (one.low, one.high) == pytest.approx((one.point - half, one.point + half), abs=0.05 * half)


def test_jackknife_of_seeds_without_noise_inside_is_the_bootstrap_of_seeds():
    point = draw(6)
    found = intervals.jackknife_interval(point.tolist(), [[0.3] * 4] * 6, generator("b"))
    assert width(found) == pytest.approx(width(intervals.mean_interval(point, generator("b"))), rel=0.05)


def test_jackknife_error_of_a_frechet_distance_is_near_its_spread_over_fresh_sets():
    real = draw(400, 4)
    fresh = [torch.randn(200, 4, generator=generator("fresh", i), dtype=torch.float64) + 0.5 for i in range(60)]
    spread = torch.tensor([sets.frechet_distance(real, fake) for fake in fresh]).std().item()
    errors = []
    for fake in fresh[:20]:
        member = torch.arange(200) % 10
        out = torch.tensor([sets.frechet_distance(real, fake[member != g]) for g in range(10)])
        errors.append(intervals.jackknife_variance(out).sqrt().item())
    assert sum(errors) / len(errors) == pytest.approx(spread, rel=0.3)


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
        (lambda g: intervals.nested_interval([], g), "values: expected values of at least 1 seed, found 0"),
        (lambda g: intervals.nested_interval([torch.ones(2), torch.ones(0)], g), r"of seed 1, .* found shape \(0,\)"),
        (lambda g: intervals.nested_interval([torch.ones(2) / 0], g), "values of seed 0: .* 2 NaN or infinite"),
        (lambda g: intervals.crossed_interval(torch.ones(2, 0), g), "found \\(2, 0\\)"),
        (lambda g: intervals.jackknife_interval([1.0], [[1.0]], g), "2 groups or more, found 1"),
        (lambda g: intervals.jackknife_interval([1.0, 2.0], [[1.0, 2.0]], g), "each of 2 seeds, found 1"),
        (lambda g: intervals.jackknife_interval([torch.nan], [[1.0, 2.0]], g), "estimates: .* 1 NaN"),
        (lambda g: intervals.holm([]), "p_values"),
        (lambda g: intervals.holm([1.2]), "p_values"),
    ],
)
def test_errors(call, words):
    with pytest.raises(UserError, match=words):
        call(generator("b"))

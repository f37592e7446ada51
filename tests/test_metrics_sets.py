"""PRDC, Frechet distance, MMD and matches: against published packages, closed forms and known public bugs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prdc import compute_prdc
from pytorch_fid.fid_score import calculate_frechet_distance

from mi_utils.errors import UserError
from mi_utils.metrics import sets
from mi_utils.runtime import generator


def gaussian(n: int, d: int, *words: int | str, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, d, generator=generator("sets", n, d, *words), dtype=torch.float64) + shift


@pytest.mark.parametrize(
    ("n", "m", "d", "k"), [(40, 40, 3, 3), (60, 25, 5, 3), (25, 60, 2, 5), (30, 31, 8, 1)]
)
def test_prdc_equals_the_reference_package(n, m, d, k, capsys):
    real, fake = gaussian(n, d), gaussian(m, d, "fake", shift=0.4)
    expected = compute_prdc(real.numpy(), fake.numpy(), k)
    assert sets.prdc(real, fake, k) == pytest.approx(
        {name: float(v) for name, v in expected.items()}, abs=1e-12
    )
    assert "Num real" in capsys.readouterr().out  # the package prints; ours does not


def test_prdc_does_not_depend_on_the_tile(monkeypatch):
    real, fake = gaussian(50, 4), gaussian(37, 4, "fake", shift=0.3)
    whole = sets.prdc(real, fake)
    monkeypatch.setattr(sets, "TILE", 7)
    assert sets.prdc(real, fake) == whole


def test_identical_sets_are_perfect_and_far_sets_are_not():
    x = gaussian(30, 4)
    same = sets.prdc(x, x.clone())
    assert (same["precision"], same["recall"], same["coverage"]) == (1, 1, 1)
    # a point lies in a ball exactly where that ball's centre counts it among the k nearest, itself included
    assert same["density"] == pytest.approx(1.0)
    assert set(sets.prdc(x, x + 1e3).values()) == {0.0}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(5, 20), st.integers(5, 20))
def test_prdc_ignores_order_shift_scale_and_stays_in_range(word, n, m):
    real, fake = gaussian(n, 3, word), gaussian(m, 3, "fake", word)
    base = sets.prdc(real, fake)
    order = torch.randperm(m, generator=generator(word))
    assert sets.prdc(real.flip(0), fake[order]) == pytest.approx(base)
    assert sets.prdc(4 * real + 1, 4 * fake + 1) == pytest.approx(base)
    assert all(0 <= base[name] <= 1 for name in ("precision", "recall", "coverage"))
    assert 0 <= base["density"] <= n / 3


def unequal() -> tuple[torch.Tensor, torch.Tensor]:
    """20 reals on a line at 0..19 and 5 fakes at .5..4.5: every value follows by hand."""
    real = torch.arange(20.0, dtype=torch.float64)[:, None]
    return real, real[:5] + 0.5


def test_density_is_an_average_over_fakes_not_reals():
    real, fake = unequal()
    radius = torch.full((20,), 2.0, dtype=torch.float64)  # third nearest other point on a line of unit steps
    radius[[0, -1]] = 3.0
    inside = (real - fake.T).abs() < radius[:, None]
    density = sets.prdc(real, fake)["density"]
    assert density == pytest.approx(inside.sum().item() / (3 * 5))
    averaged_over_reals = inside.sum().item() / (3 * 20)
    assert density != pytest.approx(averaged_over_reals)


def test_precision_asks_any_ball_not_the_nearest_reals():
    # The fake is nearest to a tight cluster (small balls) but lies in the wide ball of a lone far point.
    cluster = torch.tensor([[0.0], [0.01], [0.02], [0.03]], dtype=torch.float64)
    real = torch.cat([cluster, torch.tensor([[10.0]], dtype=torch.float64)])
    fake = torch.tensor([[1.0], [1.1], [1.2], [1.3]], dtype=torch.float64)
    distance = torch.cdist(real, fake)
    radius = sets.knn_radius(real, 3)
    nearest_only = (distance.min(0).values < radius[distance.argmin(0)]).double().mean().item()
    assert nearest_only == 0.0
    assert sets.prdc(real, fake)["precision"] == 1.0


def test_density_and_coverage_are_not_swapped():
    real, fake = unequal()
    values = sets.prdc(real, fake)
    assert list(values) == ["precision", "recall", "density", "coverage"]
    # Fakes span .5..4.5: reals 0 to 6 hold one within their radius of 2 (real 0: 3), real 6 at distance 1.5.
    assert values["coverage"] == pytest.approx(7 / 20)
    assert values["density"] > 1


def test_strict_comparison_when_points_repeat():
    real, fake = gaussian(6, 2), gaussian(1, 2).repeat(6, 1)  # collapsed fakes: their own radius is exactly 0
    fake[:] = real[2]
    closed_ball = (torch.cdist(real, fake) <= sets.knn_radius(fake, 3)).any(1).double().mean().item()
    assert closed_ball > 0
    assert sets.prdc(real, fake)["recall"] == 0.0
    doubled = real[:2].repeat_interleave(4, 0)  # every real has three exact twins: R_3 = 0, nothing is inside
    assert set(sets.prdc(doubled, doubled.clone()).values()) == {0.0}


def test_exact_zeros_for_repeated_rows_far_from_the_origin():
    x = (gaussian(1, 64) + 1e4).repeat(40, 1)
    assert sets.euclidean(x, x.clone()).abs().max() == 0


def test_per_class_uses_class_zero_unequal_sizes_and_ids_beyond_nine():
    classes = [0, 2, 10]
    real = {c: gaussian(12 + 5 * i, 3, "real", c, shift=6.0 * c) for i, c in enumerate(classes)}
    fake = {c: gaussian(9 + 7 * i, 3, "fake", c, shift=6.0 * c + 0.5) for i, c in enumerate(classes)}
    ids = [torch.cat([torch.full((len(x),), c) for c, x in s.items()]) for s in (real, fake)]
    order = torch.randperm(len(ids[0]), generator=generator("order"))
    all_real, all_fake = torch.cat(list(real.values())), torch.cat(list(fake.values()))
    values, mean = sets.prdc_per_class(all_real[order], ids[0][order], all_fake, ids[1], classes)
    assert list(values) == classes
    for c in classes:
        assert values[c] == pytest.approx(sets.prdc(real[c], fake[c]))
        cut = min(len(real[c]), len(fake[c]))
        assert values[c] != pytest.approx(
            sets.prdc(real[c][:cut], fake[c][:cut])
        )  # truncating changes the answer
    assert values[0] != pytest.approx(
        sets.prdc(all_real, fake[0])
    )  # `if cls:` would take every real for class 0
    assert mean["density"] == pytest.approx(sum(v["density"] for v in values.values()) / 3)


def test_frechet_equals_the_reference_package():
    a, b = gaussian(200, 6), 1.7 * gaussian(150, 6, "b", shift=0.3)
    moments = [f(x.numpy()) for x in (a, b) for f in (lambda v: v.mean(0), lambda v: np.cov(v, rowvar=False))]
    with pytest.warns(DeprecationWarning, match="disp"):
        expected = calculate_frechet_distance(*moments)
    assert sets.frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)


def test_frechet_closed_forms():
    x = gaussian(400, 5)
    x = torch.linalg.qr(x - x.mean(0)).Q * 399**0.5  # mean 0, covariance exactly I
    assert sets.frechet_distance(x, x.clone()) == pytest.approx(0, abs=1e-10)
    assert sets.frechet_distance(x, x + 2) == pytest.approx(5 * 4)
    scales = torch.tensor([1.0, 2.0, 3.0, 0.5, 0.0], dtype=torch.float64)
    assert sets.frechet_distance(x, x * scales) == pytest.approx((1 - scales).square().sum().item())


def test_frechet_with_fewer_images_than_dimensions():
    a, b = gaussian(8, 30), gaussian(11, 30, "b")
    assert sets.rank_deficient(a, b) and not sets.rank_deficient(gaussian(31, 30), gaussian(40, 30))
    assert sets.frechet_distance(a, a.clone()) == pytest.approx(0, abs=1e-10)
    assert sets.frechet_distance(a, b) == pytest.approx(sets.frechet_distance(b, a))
    rotation = torch.linalg.qr(gaussian(30, 30, "r")).Q
    assert sets.frechet_distance(a @ rotation, b @ rotation) == pytest.approx(sets.frechet_distance(a, b))
    # with an independent route: eigenvalues of the product of the two covariances
    product = np.linalg.eigvals(np.cov(a.numpy(), rowvar=False) @ np.cov(b.numpy(), rowvar=False))
    root = np.sqrt(np.clip(product.real, 0, None)).sum()
    trace = a.var(0).sum() + b.var(0).sum() + (a.mean(0) - b.mean(0)).square().sum()
    assert sets.frechet_distance(a, b) == pytest.approx(trace.item() - 2 * root, rel=1e-5)


def test_frechet_accumulates_in_float64():
    a = gaussian(300, 4) * 1e-3 + 100  # in float32 the mean eats the variance
    b = a.flip(0) + 1e-3
    assert sets.frechet_distance(a, b) == pytest.approx(4e-6, rel=1e-6)


def test_mmd_against_double_sums_and_the_gaussian_closed_form(monkeypatch):
    a, b = gaussian(13, 2), gaussian(9, 2, "b", shift=1.0)
    kernel = lambda x, y: np.exp(-np.square(x - y).sum() / (2 * 0.7**2))  # noqa: E731
    rows = [x.numpy() for x in (a, b)]
    within = [
        np.mean([kernel(x, y) for i, x in enumerate(r) for j, y in enumerate(r) if i != j]) for r in rows
    ]
    across = np.mean([kernel(x, y) for x in rows[0] for y in rows[1]])
    monkeypatch.setattr(sets, "TILE", 4)
    assert sets.mmd_rbf(a, b, bandwidth=0.7) == pytest.approx(sum(within) - 2 * across)
    monkeypatch.undo()
    # N(0,1) against N(m,1): E k = exp(-m^2 / 2(s^2+2)) s / sqrt(s^2+2)
    x, y = gaussian(3000, 1, "x"), gaussian(3000, 1, "y", shift=1.0)
    expected = 2 / 3**0.5 * (1 - np.exp(-1 / 6))
    assert sets.mmd_rbf(x, y, bandwidth=1.0) == pytest.approx(expected, abs=0.02)


def test_mmd_is_unbiased_and_its_bandwidth_is_the_median():
    values = [sets.mmd_rbf(gaussian(20, 3, i), gaussian(20, 3, "other", i), 2.0) for i in range(60)]
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 4 * np.std(values) / 60**0.5
    a, b = gaussian(11, 3), gaussian(12, 3, "b")
    assert sets.median_bandwidth(a, b) == pytest.approx(torch.pdist(torch.cat([a, b])).median().item())
    assert sets.mmd_rbf(a, b) == pytest.approx(sets.mmd_rbf(a, b, sets.median_bandwidth(a, b)))


def test_effective_matches():
    assert sets.effective_matches(torch.full((50,), 7)) == pytest.approx(1)
    assert sets.effective_matches(torch.arange(12).repeat(3)) == pytest.approx(12)
    assert sets.effective_matches(torch.tensor([0, 0, 0, 5])) == pytest.approx((4 / 3) ** 0.75 * 4**0.25)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: sets.prdc(x[:3], x), "real features: expected at least 4 rows, found 3"),
        (lambda x: sets.prdc(x, x[:0]), "fake features: expected at least 4 rows, found 0"),
        (lambda x: sets.prdc(x, x[:, :1]), "same feature width, found 2 and 1"),
        (lambda x: sets.prdc(x, x[:, 0]), "expected a feature matrix"),
        (lambda x: sets.prdc(x, x * torch.nan), "fake features: .* 20 NaN or infinite"),
        (lambda x: sets.prdc(x, x, k=0), "k: expected"),
        (lambda x: sets.frechet_distance(x, x[:1]), "second features: expected at least 2 rows, found 1"),
        (lambda x: sets.mmd_rbf(x, x[:1]), "at least 2 rows"),
        (lambda x: sets.mmd_rbf(x * 0, x * 0), "pairs coincide"),
        (lambda x: sets.mmd_rbf(x, x, bandwidth=0.0), "bandwidth: expected a positive"),
        (lambda x: sets.effective_matches(torch.tensor([], dtype=torch.int64)), "at least 1 fake"),
        (
            lambda x: sets.prdc_per_class(
                x, torch.zeros(10, dtype=torch.int64), x, torch.ones(10).long(), [0]
            ),
            "fake features: expected at least 4 images of class 0, found 0",
        ),
        (
            lambda x: sets.prdc_per_class(x, torch.zeros(9).long(), x, torch.zeros(10).long(), [0]),
            "real_labels",
        ),
        (lambda x: sets.prdc_per_class(x, torch.zeros(10).long(), x, torch.zeros(10).long(), []), "classes"),
    ],
)
def test_errors_name_what_and_how_many(call, words):
    with pytest.raises(UserError, match=words):
        call(gaussian(10, 2))

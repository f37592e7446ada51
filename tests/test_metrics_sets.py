"""PRDC, Frechet distance, KID, MMD, matches: against published packages, closed forms and known public bugs."""

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prdc import compute_prdc
from pytorch_fid.fid_score import calculate_frechet_distance
from torchmetrics.image.kid import poly_mmd

from mi_utils.errors import UserError
from mi_utils.metrics import balls, sets
from mi_utils.runtime import generator


def gaussian(n: int, d: int, *words: int | str, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, d, generator=generator("sets", n, d, *words), dtype=torch.float64) + shift


def by_differences(real: torch.Tensor, fake: torch.Tensor, k: int) -> dict[str, np.ndarray]:
    """The per-sample terms from all float64 differences, in numpy."""
    r, f = (x.double().numpy() for x in (real, fake))
    q = {name: np.square(a[:, None] - b).sum(-1) for name, a, b in (("rr", r, r), ("ff", f, f), ("rf", r, f))}
    radius = {name: np.sort(q[name], axis=1)[:, k] for name in ("rr", "ff")}
    in_real, in_fake = q["rf"] < radius["rr"][:, None], q["rf"] < radius["ff"]
    terms = {"precise": in_real.any(0), "dense": in_real.sum(0) / k}
    return terms | {"recalled": in_fake.any(1), "covered": in_real.any(1)}


def squared_radii(x: torch.Tensor, k: int) -> torch.Tensor:
    """All of them exact."""
    radii = balls.Radii(x, k)
    radii.settle(torch.arange(len(x)))
    return radii.low


def assert_exact(real: torch.Tensor, fake: torch.Tensor, k: int = 3) -> None:
    """Every decision is that of the differences."""
    found, expected = sets.prdc_samples(real, fake, k), by_differences(real, fake, k)
    for name, values in expected.items():
        assert getattr(found, name).tolist() == values.tolist(), name


@contextlib.contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Numbers of pairs whose differences were computed."""
    counts, exact = [], balls.Screen.exact

    def counting(self: balls.Screen, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        counts.append(len(i))
        return exact(self, i, j)

    with monkeypatch.context() as patch:
        patch.setattr(balls.Screen, "exact", counting)
        yield counts


@pytest.mark.parametrize(
    ("n", "m", "d", "k"), [(40, 40, 3, 3), (60, 25, 5, 3), (25, 60, 2, 5), (30, 31, 8, 1), (300, 200, 64, 5)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prdc_equals_the_reference_package(n, m, d, k, dtype, capsys):
    real, fake = gaussian(n, d).to(dtype), gaussian(m, d, "fake", shift=0.4).to(dtype)
    expected = {name: float(v) for name, v in compute_prdc(real.numpy(), fake.numpy(), k).items()}
    assert "Num real" in capsys.readouterr().out
    assert sets.prdc(real, fake, k) == pytest.approx(expected, abs=1e-12)
    assert capsys.readouterr().out == ""  # the package prints; ours does not


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(4, 40), st.integers(4, 40), st.integers(1, 12)),
    st.integers(1, 3),
    st.sampled_from([torch.float16, torch.float32, torch.float64, torch.int64, torch.uint8]),
    st.integers(1, 100),
)
def test_every_decision_is_that_of_differences_on_a_grid_full_of_ties(word, shape, k, dtype, levels):
    n, m, d = shape
    rng = generator("grid", word)
    real, fake = (torch.randint(levels, (count, d), generator=rng).to(dtype) for count in (n, m))
    assert_exact(real, fake, k)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: x + 1e4,
        lambda x: x * 1e-30,
        lambda x: x * 1e100,
        lambda x: x + 1e6 * (torch.arange(len(x)) % 2)[:, None],  # the bounds decide nothing
        lambda x: torch.cat([x[:-1], 1e8 * x[-1:]]),  # one row far away
        lambda x: x[:6].repeat(10, 1),  # every row ten times
        lambda x: torch.cat([x[:40], x[:20] + 1e-9 * x[40:]]),  # nearly repeated
        lambda x: x[:1].repeat(60, 1),
    ],
)
@pytest.mark.parametrize("d", [1, 7, 3000])
def test_decisions_where_screening_is_hard(make, d):
    fake = gaussian(60, d, "hard fake")
    for real in (make(gaussian(60, d, "hard")), gaussian(60, d, "hard")):
        assert_exact(real, make(fake))
    assert_exact(make(fake), make(fake).flip(0))


def test_long_rows_are_exact():
    x = gaussian(12, 40_000, "long")
    assert_exact(torch.cat([x[:5], x[:5]]), torch.cat([x[5:], x[5:8]]), k=2)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([1, 5, 100, 1024, 1025, 5000]),
    st.sampled_from([1e-20, 1.0, 1e20]),
    st.sampled_from([0.0, 1.0, 1e3]),
    st.booleans(),
)
def test_the_bounds_hold(word, d, scale, shift, skewed):
    a, b = gaussian(20, d, word), gaussian(30, d, "b", word, shift=shift)
    if skewed:  # products of one sign: the sum is as large as its terms allow
        a, b = a.abs().pow(4), b.abs().pow(4)
    screen = balls.Screen(a * scale, b * scale)
    i, j = (x.flatten() for x in torch.meshgrid(torch.arange(20), torch.arange(30), indexing="ij"))
    low, q = screen.lower(torch.arange(20)).double().flatten(), screen.exact(i, j) * screen.unit
    assert (low <= q).all() and (q <= low + screen.slack(i, j)).all()
    assert (balls.ceiling(q).double() >= q)[q > 0].all() and not (low < balls.ceiling(q * 0)).any()
    assert (screen.slack(i, j) / q.clamp(min=balls.TINY)).median() < 1e-2  # and they say something


def test_few_pairs_are_left_to_differences(monkeypatch):
    real, fake = gaussian(700, 128), gaussian(600, 128, "fake", shift=0.05)
    with counted(monkeypatch) as counts:
        sets.prdc(real, fake, 5)
    assert sum(counts) < 6 * (700 + 600) / 4  # fewer than the k + 1 nearest of every row
    real[:], fake[:] = real[:1], real[:1]  # all the same picture: radius 0, nothing left to ask
    with counted(monkeypatch) as counts:
        assert set(sets.prdc(real, fake, 5).values()) == {0.0}
    assert sum(counts) == 6 * (700 + 600)


def test_bounds_of_radii_hold_and_only_what_is_asked_for_is_settled():
    x = gaussian(90, 12)
    exact = (x[:, None] - x).square().sum(-1).sort(1).values[:, 4]
    radii = balls.Radii(x, 4)
    assert ((radii.low < exact) & (exact < radii.high)).all()
    radii.settle(torch.tensor([3, 70, 3]))
    settled = (radii.low == radii.high).nonzero().squeeze(1).tolist()
    assert settled == [3, 70] and radii.low[settled].tolist() == pytest.approx(exact[settled].tolist(), rel=1e-14)


def test_precision_that_the_caller_allows_elsewhere_is_not_used_and_stays():
    real, fake = gaussian(300, 512), gaussian(300, 512, "fake", shift=0.05)
    strict = balls.Screen(real, fake).lower(torch.arange(300))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(balls.Screen(real, fake).lower(torch.arange(300)), strict)
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("d", [3, 512, 40_000])
def test_equal_distances_are_equal_to_the_last_bit_however_many_are_asked_for(d):
    x = gaussian(9, d)
    screen, threads = balls.Screen(x, x.flip(0)), torch.get_num_threads()
    torch.set_num_threads(2)  # with threads, the sum of a single row is split
    try:
        i, j = torch.arange(9), torch.arange(9).flip(0)
        together = screen.exact(i.repeat(3), (i + 1).repeat(3) % 9)
        alone = torch.cat([screen.exact(i[a : a + 1], (i[a : a + 1] + 1) % 9) for a in range(9)])
        assert torch.equal(together, alone.repeat(3))
        assert screen.exact(i, j).abs().max() == 0
    finally:
        torch.set_num_threads(threads)


def test_prdc_does_not_depend_on_the_tile(monkeypatch):
    real, fake = gaussian(50, 4), gaussian(37, 4, "fake", shift=0.3)
    whole = sets.prdc(real, fake)
    monkeypatch.setattr(balls, "TILE", 7)
    monkeypatch.setattr(balls, "CHUNK", 20)
    monkeypatch.setattr(balls, "BLOCK", 3)
    assert sets.prdc(real, fake) == whole
    assert_exact(real, fake)


def test_a_gpu_decides_as_a_cpu_does():
    if not torch.cuda.is_available():
        pytest.skip("no GPU: found none to compare with")
    for d in (5, 512, 3000):
        real, fake = gaussian(700, d), gaussian(900, d, "fake", shift=0.05)
        fake[:40], fake[40:80] = real[:40], real[:1]
        on_cpu, on_gpu = (sets.prdc_samples(real.to(x), fake.to(x), 4) for x in ("cpu", "cuda"))
        for name in ("precise", "dense", "recalled", "covered"):
            assert torch.equal(getattr(on_cpu, name), getattr(on_gpu, name).cpu())
        sides = [(real.to(x), fake.to(x)) for x in ("cpu", "cuda")]
        for distance in (sets.frechet_distance, sets.kernel_distance):
            assert distance(*sides[0]) == pytest.approx(distance(*sides[1]), rel=1e-6, abs=1e-9)


def test_summary_is_the_mean_of_the_samples():
    found = sets.prdc_samples(gaussian(40, 3), gaussian(25, 3, "fake", shift=0.4), 4)
    assert (len(found.precise), len(found.dense), len(found.recalled), len(found.covered)) == (25, 25, 40, 40)
    assert found.summary() == pytest.approx(
        {
            "precision": (found.dense > 0).double().mean().item(),
            "recall": found.recalled.double().mean().item(),
            "density": found.dense.mean().item(),
            "coverage": found.covered.double().mean().item(),
        }
    )
    assert set((4 * found.dense).tolist()) <= set(range(41))


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
    radius = squared_radii(real, 3).sqrt()
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
    closed_ball = (torch.cdist(real, fake) <= squared_radii(fake, 3).sqrt()).any(1).double().mean().item()
    assert closed_ball > 0
    assert sets.prdc(real, fake)["recall"] == 0.0
    doubled = real[:2].repeat_interleave(4, 0)  # every real has three exact twins: R_3 = 0, nothing is inside
    assert set(sets.prdc(doubled, doubled.clone()).values()) == {0.0}


def test_repeating_every_fake_changes_no_value_that_real_balls_define():
    """Scaling of M: the public formula divides by N and doubles; ours averages over the fakes."""
    real, fake = gaussian(40, 3), gaussian(25, 3, "fake", shift=0.4)
    once, twice = sets.prdc(real, fake), sets.prdc(real, fake.repeat(2, 1))
    for name in ("precision", "density", "coverage"):
        assert twice[name] == pytest.approx(once[name])
    assert once["density"] * 25 / 40 != pytest.approx(twice["density"] * 50 / 40)


def test_more_reals_of_the_same_law_leave_density_and_precision_about_the_same():
    fake = gaussian(400, 2, "fake")
    few, many = (sets.prdc(gaussian(n, 2, "law"), fake) for n in (300, 1200))
    assert many["density"] == pytest.approx(few["density"], rel=0.1) and many["density"] == pytest.approx(1, abs=0.1)
    assert few["density"] * 400 / 300 != pytest.approx(many["density"] * 400 / 1200, rel=1)  # the public formula


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
        assert values[c] != pytest.approx(sets.prdc(real[c][:cut], fake[c][:cut]))  # truncating changes the answer
    assert values[0] != pytest.approx(sets.prdc(all_real, fake[0]))  # `if cls:` would take every real for class 0
    assert mean["density"] == pytest.approx(sum(v["density"] for v in values.values()) / 3)
    kernel = sets.by_class(sets.kernel_distance, all_real[order], ids[0][order], all_fake, ids[1], classes)
    assert list(kernel) == classes
    assert kernel[0] == pytest.approx(sets.kernel_distance(real[0], fake[0]))
    assert kernel[0] != pytest.approx(sets.kernel_distance(all_real, fake[0]))
    assert sets.by_class(lambda r, f: (len(r), len(f)), all_real, ids[0], all_fake, ids[1], [10]) == {10: (22, 23)}


def by_package(a: torch.Tensor, b: torch.Tensor) -> float:
    """pytorch_fid's value of the same rows."""
    moments = [f(x.numpy()) for x in (a, b) for f in (lambda v: v.mean(0), lambda v: np.cov(v, rowvar=False))]
    with pytest.warns(DeprecationWarning, match="disp"):
        return calculate_frechet_distance(*moments)


def correlated(n: int, d: int, *words: int | str) -> torch.Tensor:
    """Features as networks make them: correlated, with a spectrum that falls off."""
    return gaussian(n, d, *words) / torch.arange(1, d + 1) @ gaussian(d, d, "mixing")


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 6), (600, 900, 64), (300, 300, 200)])
def test_frechet_equals_the_reference_package(n, m, d):
    a, b = correlated(n, d), 1.2 * correlated(m, d, "b") + 0.1
    assert sets.frechet_distance(a, b) == pytest.approx(by_package(a, b), rel=1e-6)
    assert sets.frechet_distance(a.float(), b.float()) == pytest.approx(by_package(a, b), rel=1e-4)


def test_frechet_of_fewer_images_than_dimensions_equals_the_package_to_what_its_root_can_do():
    # The root of a singular product is where the package is inexact: 5e-7 off at 300 x 512; here up to 1e-4.
    a, b = correlated(40, 64), 1.2 * correlated(30, 64, "b") + 0.1
    assert sets.frechet_distance(a, b) == pytest.approx(by_package(a, b), rel=1e-4)


def test_frechet_closed_form_of_covariances_that_do_not_commute():
    x = gaussian(400, 2)
    x = torch.linalg.qr(x - x.mean(0)).Q * 399**0.5  # mean 0, covariance exactly I
    left, right = torch.tensor([[2.0, 0.7], [0.0, 0.3]]).double(), torch.tensor([[0.5, -1.0], [0.4, 1.5]]).double()
    s, t = left.T @ left, right.T @ right
    root = (torch.trace(s @ t) + 2 * (torch.det(s) * torch.det(t)).sqrt()).sqrt()  # tr (ST)^(1/2) of 2 x 2 matrices
    expected = 0.5 + torch.trace(s) + torch.trace(t) - 2 * root
    assert sets.frechet_distance(x @ left, x @ right + 0.5) == pytest.approx(expected.item(), rel=1e-12)
    # The same in the plane of two directions of 600: fewer rows than dimensions, and still the closed form.
    plane = torch.linalg.qr(gaussian(600, 2, "plane")).Q.T
    shift = torch.tensor([[0.5, 0.5]]).double()
    assert sets.frechet_distance(x @ left @ plane, (x @ right + shift) @ plane) == pytest.approx(expected.item())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 20), st.integers(2, 20), st.integers(1, 12))
def test_distances_ignore_order_and_which_set_is_first(word, n, m, d):
    a, b = gaussian(n, d, word), gaussian(m, d, "b", word, shift=0.2)
    order = torch.randperm(n, generator=generator(word))
    for distance in (sets.frechet_distance, sets.kernel_distance):
        assert distance(a[order], b.flip(0)) == pytest.approx(distance(a, b), rel=1e-9, abs=1e-9)
        assert distance(b, a) == pytest.approx(distance(a, b), rel=1e-9, abs=1e-9)
        assert distance(a.half(), b.half()) == distance(a.half().double(), b.half().double())


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


def test_repeated_fakes_move_the_frechet_distance():
    a, b = gaussian(200, 5), gaussian(50, 5, "b")
    assert sets.frechet_distance(a, torch.cat([b, b[:5].repeat(20, 1)])) > 1.2 * sets.frechet_distance(a, b)


@pytest.mark.parametrize("tile", [1024, 7])
def test_kernel_distance_equals_torchmetrics_and_double_sums(monkeypatch, tile):
    monkeypatch.setattr(sets, "TILE", tile)
    a, b = gaussian(30, 9), gaussian(30, 9, "b", shift=0.5)
    assert sets.kernel_distance(a, b) == pytest.approx(poly_mmd(a, b).item(), rel=1e-12)
    b = b[:11]  # the package takes equal sizes only
    kernel = [((x @ y.T).numpy() / 9 + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))]
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in kernel[:2]]
    assert sets.kernel_distance(a, b) == pytest.approx(sum(within) - 2 * kernel[2].mean(), rel=1e-12)


def test_kernel_distance_is_unbiased():
    values = [sets.kernel_distance(gaussian(20, 3, i), gaussian(15, 3, "other", i)) for i in range(200)]
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 4 * np.std(values) / 200**0.5


def test_mmd_against_double_sums_and_the_gaussian_closed_form(monkeypatch):
    a, b = gaussian(13, 2), gaussian(9, 2, "b", shift=1.0)
    kernel = lambda x, y: np.exp(-np.square(x - y).sum() / (2 * 0.7**2))  # noqa: E731
    rows = [x.numpy() for x in (a, b)]
    within = [np.mean([kernel(x, y) for i, x in enumerate(r) for j, y in enumerate(r) if i != j]) for r in rows]
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
    assert sets.mmd_rbf(a + 1e7, b + 1e7, 2.0) == pytest.approx(sets.mmd_rbf(a, b, 2.0), rel=1e-6)


def test_effective_matches():
    assert sets.effective_matches(torch.full((50,), 7)) == pytest.approx(1)
    assert sets.effective_matches(torch.arange(12).repeat(3)) == pytest.approx(12)
    assert sets.effective_matches(torch.tensor([0, 0, 0, 5])) == pytest.approx((4 / 3) ** 0.75 * 4**0.25)


zeros = torch.zeros(10, dtype=torch.int64)
per_class = sets.prdc_per_class


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
        (lambda x: sets.frechet_distance(x[:, :0], x[:, :0]), r"feature matrix \(N, d\), found shape \(10, 0\)"),
        (lambda x: sets.frechet_distance(x > 0, x), "first features: expected real numbers, found torch.bool"),
        (lambda x: sets.kernel_distance(x, x * 1j), "second features: expected real numbers, found torch.complex128"),
        (lambda x: sets.kernel_distance(x[:1], x), "first features: expected at least 2 rows, found 1"),
        (lambda x: sets.kernel_distance(x, x / 0), "second features: .* 20 NaN or infinite"),
        (lambda x: sets.mmd_rbf(x, x[:1]), "at least 2 rows"),
        (lambda x: sets.mmd_rbf(x * 0, x * 0), "pairs coincide"),
        (lambda x: sets.mmd_rbf(x, x, bandwidth=0.0), "bandwidth: expected a positive"),
        (lambda x: sets.effective_matches(torch.tensor([], dtype=torch.int64)), "at least 1 fake"),
        (lambda x: per_class(x, zeros, x, zeros + 1, [0]), "fake: expected at least 1 image of class 0, found 0"),
        (lambda x: per_class(x, zeros, x, zeros + 7, [7]), "real: expected at least 1 image of class 7, found 0"),
        (
            lambda x: per_class(x, zeros, x[:3], zeros[:3], [0]),
            "class 0: fake features: expected at least 4 rows, found 3",
        ),
        (lambda x: per_class(x, zeros[:9], x, zeros, [0]), "real_labels: expected 10 integer class ids"),
        (lambda x: per_class(x, zeros, x, zeros > 0, [0]), "fake_labels: expected 10 integer .* found torch.bool"),
        (lambda x: per_class(x, zeros, x, zeros, []), "classes"),
        (lambda x: per_class(x, zeros, x, zeros, [0, 0]), "classes: expected distinct class ids"),
    ],
)
def test_errors_name_what_and_how_many(call, words):
    with pytest.raises(UserError, match=words):
        call(gaussian(10, 2))

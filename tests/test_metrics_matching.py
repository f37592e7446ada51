"""Nearest neighbours: against plain differences, whatever budget, labels and precision of the screening."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_utils.errors import UserError
from mi_utils.metrics import matching, screening
from mi_utils.runtime import generator

SMALL = 2**15  # bytes: forces several blocks and tiles of the rows below


def rows(n: int, d: int, *words: int | str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(n, d, generator=generator("rows", n, d, *words), dtype=torch.float64).to(dtype)


def plain(fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Squared distances by differences in float64."""
    return (fake.double()[:, None] - real.double()).square().sum(2)


def agree(near: matching.Nearest, q: torch.Tensor, **tolerance: float) -> bool:
    """Values and indices of both directions."""
    values = torch.allclose(near.q_fake.double(), q.amin(1), **tolerance)
    values &= torch.allclose(near.q_real.double(), q.amin(0), **tolerance)
    return values and torch.equal(near.real_of_fake, q.argmin(1)) and torch.equal(near.fake_of_real, q.argmin(0))


@pytest.mark.parametrize("screen", ["full", "bf16"])
@pytest.mark.parametrize(("m", "n"), [(150, 90), (90, 150), (1, 40), (40, 1)])
def test_equals_plain_differences_in_every_precision_and_budget(screen, m, n):
    fake, real = rows(m, 24, "fake"), rows(n, 24, "real") + 0.3
    for budget in (None, SMALL):
        near = matching.nearest(fake, real, matching.as_is, screen=screen, budget=budget)
        assert agree(near, plain(fake, real), rtol=1e-5)


def test_a_small_budget_really_makes_tiles(monkeypatch):
    seen = []
    product = screening.Precision.product
    monkeypatch.setattr(
        screening.Precision,
        "product",
        lambda self, a, b: seen.append((len(a.norms), len(b.norms))) or product(self, a, b),
    )
    matching.nearest(rows(150, 24), rows(90, 24, "real"), matching.as_is, budget=SMALL)
    assert len(seen) > 8 and sum(a * b for a, b in seen) == 150 * 90


@settings(max_examples=60, deadline=None)
@given(
    held=st.integers(1, 50_000),
    streamed=st.integers(1, 50_000),
    row=st.integers(8, 3_000_000),
    budget=st.integers(1, 2**34),
)
def test_tiles_keep_to_the_budget_or_say_what_is_needed(held, streamed, row, budget):
    try:
        plan = matching.tiles(held, streamed, row, budget)
    except UserError as problem:
        least = float(str(problem).split("at least ")[1].split(" MiB")[0])
        assert budget < (least + 0.1) * 2**20
        matching.tiles(held, streamed, row, int((least + 0.1) * 2**20))
    else:
        taken = (plan.held + plan.streamed + 8 * matching.at_once(row, budget)) * row + 16 * plan.held * plan.streamed
        assert taken <= budget and 1 <= plan.held <= held and 1 <= plan.streamed <= streamed


def test_the_side_with_fewer_embeddings_is_held():
    """One block of the small side: every image is embedded once, but for those that set the centre."""
    small, large = rows(30, 2000), rows(400, 2000, "large")
    for fake, real in ((small, large), (large, small)):
        count = [0]

        def embed(x, count=count):
            count[0] += len(x)
            return x

        near = matching.nearest(fake, real, embed, budget=3 * 2**20)
        assert count[0] == 430 + 1 + matching.IMAGES
        assert agree(near, plain(fake, real), rtol=1e-5)


def test_label_scope_admits_equal_labels_only():
    fake, real = rows(40, 5, dtype=torch.float64), rows(30, 5, "real", dtype=torch.float64)
    fake_ids, real_ids = 7 * (torch.arange(40) % 3), 7 * (torch.arange(30) % 4)  # no fake has class 21
    q = plain(fake, real)
    q[fake_ids[:, None] != real_ids] = torch.inf
    near = matching.nearest(fake, real, fake_labels=fake_ids, real_labels=real_ids, budget=SMALL)
    lonely = real_ids == 21
    assert torch.equal(near.real_of_fake, q.argmin(1)) and torch.allclose(near.q_fake, q.amin(1))
    assert torch.isinf(near.q_real[lonely]).all() and (near.fake_of_real[lonely] == -1).all()
    assert torch.equal(near.fake_of_real[~lonely], q.argmin(0)[~lonely])


def test_equal_rows_are_exactly_zero_apart_and_ties_go_to_the_lowest_index():
    real = 100 + rows(40, 64)
    fake = real.flip(0).repeat(2, 1)
    near = matching.nearest(fake, real, matching.as_is, budget=2**17)
    assert not near.q_fake.any() and not near.q_real.any()
    assert torch.equal(near.real_of_fake, torch.arange(39, -1, -1).repeat(2))
    line = torch.tensor([[5.0], [1.0], [1.0], [1.0]])
    near = matching.nearest(torch.tensor([[1.0], [1.0]]), line)
    assert near.real_of_fake.tolist() == [1, 1] and near.fake_of_real.tolist() == [0, 0, 0, 0]


# ---------------------------------------------------------------- screening


def crowded(n: int, d: int, *words: int | str) -> torch.Tensor:
    """Rows whose distances differ by less than bf16 can tell: the best of the screening is often wrong."""
    return rows(1, d, "centre") + 0.05 * rows(n, d, *words)


def test_the_bound_holds_and_keeps_the_minimum_where_the_best_of_the_screening_is_wrong():
    fake, real = crowded(200, 300, "fake"), crowded(200, 300, "real")
    precision = screening.precision("bf16", fake)
    a, b = precision.rows(fake), precision.rows(real)
    coarse, exact = precision.product(a, b), plain(fake, real)
    beta = precision.c * torch.outer(a.norms, b.norms) + screening.NORMS * (
        a.norms.square()[:, None] + b.norms.square()
    )
    assert ((coarse - exact).abs() <= beta).all()
    wrong = coarse.argmin(1) != exact.argmin(1)
    assert wrong.any()  # so "top-1 of bf16" would be wrong here
    nothing = torch.full((200,), torch.inf)
    mask = screening.candidates(coarse.clone(), a.norms, b.norms, precision.c, nothing, nothing)
    every = torch.arange(200)
    assert mask[every, exact.argmin(1)].all() and mask[exact.argmin(0), every].all()
    assert agree(matching.nearest(fake, real, matching.as_is, screen="bf16"), exact, rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(word=st.integers(0, 10**6), n=st.integers(1, 40), m=st.integers(1, 40), d=st.integers(1, 60))
def test_screening_never_loses_a_minimum(word, n, m, d):
    fake, real = rows(n, d, word, "fake"), rows(m, d, word, "real")
    coarse = matching.nearest(fake, real, matching.as_is, screen="bf16")
    full = matching.nearest(fake, real, matching.as_is, screen="full")
    assert torch.allclose(coarse.q_fake, full.q_fake, rtol=1e-5, atol=1e-6)
    assert torch.allclose(coarse.q_real, full.q_real, rtol=1e-5, atol=1e-6)


def test_few_pairs_are_left_for_differences_and_earlier_minima_leave_fewer():
    fake, real = rows(300, 400), rows(300, 400, "real")
    precision = screening.precision("bf16", fake)
    a, b = precision.rows(fake), precision.rows(real)
    nothing, zero = torch.full((300,), torch.inf), torch.zeros(300)
    kept = [
        int(screening.candidates(precision.product(a, b), a.norms, b.norms, precision.c, best, best).sum())
        for best in (nothing, zero)
    ]
    assert 300 <= kept[0] < 20 * 300 and kept[1] == 0


def test_a_collapsed_set_is_computed_in_full_not_pair_by_pair(monkeypatch):
    computed = []
    differences = screening.differences
    monkeypatch.setattr(screening, "differences", lambda a, b, i, j: computed.append(len(i)) or differences(a, b, i, j))
    fake, real = rows(1, 50).repeat(300, 1), rows(300, 50, "real")
    near = matching.nearest(fake, real, matching.as_is, screen="bf16")
    assert sum(computed) <= 2 * 600
    assert agree(near, plain(fake, real), rtol=1e-5)


def test_precision_errors():
    x = rows(3, 4)
    with pytest.raises(UserError, match="screen: expected auto, full, tf32 or bf16, found 'fp8'"):
        matching.nearest(x, x, matching.as_is, screen="fp8")
    with pytest.raises(UserError, match="expected float32 rows .* found torch.float64 and 'bf16'"):
        matching.nearest(x, x, screen="bf16")
    with pytest.raises(UserError, match="expected a GPU for tf32"):
        matching.nearest(x, x, matching.as_is, screen="tf32")


# ---------------------------------------------------------------- further measures


def test_kth_nearest_is_over_the_others_whatever_the_tiles():
    x = rows(70, 6, dtype=torch.float64)
    x[5] = x[9]  # a twin is another image
    q = plain(x, x)
    expected = q.fill_diagonal_(torch.inf).kthvalue(3, dim=1).values
    for budget in (None, SMALL):
        assert torch.allclose(matching.kth_nearest(x, 3, budget=budget), expected)
    assert matching.kth_nearest(x, 1)[5] < 1e-12
    with pytest.raises(UserError, match=r"k: expected 1 <= k < 2 \(the number of images\), found 2"):
        matching.kth_nearest(x[:2], 2)


def test_half_distance_is_the_median_nearest_of_two_halves():
    x = torch.arange(10.0)[:, None]
    found = matching.half_distance(x, generator("halves"))
    order = torch.randperm(10, generator=generator("halves"))
    expected = plain(x[order[:5]], x[order[5:]]).amin(1).median()
    assert found == pytest.approx(float(expected)) and found > 0
    with pytest.raises(UserError, match="at least 2 to halve them, found 1"):
        matching.half_distance(x[:1], generator("halves"))


def test_knn_and_centroid_distance_by_hand():
    real, real_ids = torch.tensor([[0.0], [2.0], [10.0]]), torch.tensor([4, 4, 9])
    fake, fake_ids = torch.tensor([[1.5], [1.0], [7.0]]), torch.tensor([4, 4, 9])
    near = matching.nearest(fake, real, fake_labels=fake_ids, real_labels=real_ids)
    assert matching.knn_distance(near).tolist() == [0.25, 1.0, 9.0]
    assert matching.centroid_distance(fake, fake_ids, real, real_ids).tolist() == [0.5, 0.0, 3.0]


def test_errors():
    x, ids = rows(2, 3), torch.tensor([0, 1])
    with pytest.raises(UserError, match="one shape"):
        matching.nearest(x, x[:, :2])
    with pytest.raises(UserError, match="fake: expected at least 1 image or feature row, found shape"):
        matching.nearest(x[:0], x)
    with pytest.raises(UserError, match="both or neither"):
        matching.nearest(x, x, fake_labels=ids)
    with pytest.raises(UserError, match=r"classes of the real set, found \[1\]"):
        matching.nearest(x, x, fake_labels=ids, real_labels=ids * 0)
    with pytest.raises(UserError, match="embedded fake images: .* NaN"):
        matching.nearest(x * torch.nan, x)
    with pytest.raises(UserError, match="budget: expected at least .* MiB for these images, found 0.0 MiB"):
        matching.nearest(x, x, budget=100)

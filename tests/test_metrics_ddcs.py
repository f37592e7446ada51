"""DDCS: the six properties of its specification, its options, and hand-made examples."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_utils.errors import UserError
from mi_utils.metrics.ddcs import ddcs, normalised, transform
from mi_utils.metrics.matching import nearest
from mi_utils.runtime import generator

words = st.integers(0, 10**6)


def points(n: int, *words: int | str) -> torch.Tensor:
    return torch.randn(n, 4, generator=generator("ddcs", n, *words), dtype=torch.float64)


def by_hand():
    """Targets at 0, 10, 20 on a line; reconstructions at 1, 2 (both nearest to 0) and 13."""
    real = torch.tensor([[0.0], [10.0], [20.0]])
    return nearest(torch.tensor([[1.0], [2.0], [13.0]]), real)


def test_definition_by_hand():
    score = ddcs(by_hand())
    assert score.matched.tolist() == [True, True, False]
    assert score.distance.tolist() == [1.0, 9.0, 49.0]  # the embedding's squared distance
    assert score.score.tolist() == pytest.approx([0.5, 0.1, 0.0])
    assert score.ddcs == pytest.approx(0.2) == score.coverage * score.closeness
    assert (score.coverage, score.closeness) == pytest.approx((2 / 3, 0.3))
    assert score.effective == pytest.approx((3 / 2) ** (2 / 3) * 3 ** (1 / 3))


def test_options_by_hand():
    near = by_hand()
    assert ddcs(near, score="all").ddcs == pytest.approx((0.5 + 0.1 + 0.02) / 3)
    assert ddcs(near, radius=60.0).coverage == 1.0
    assert ddcs(near, radius=torch.tensor([0.5, 9.0, 0.0])).matched.tolist() == [False, True, False]
    assert ddcs(near, dist="assigned").distance.tolist() == [1.0, 9.0, torch.inf]
    assert ddcs(near, dist="assigned").ddcs == ddcs(near).ddcs


def test_assigned_distance_is_over_the_assigned_only():
    # Fake 0 at 6 is the closest to target 4 but is assigned to target 7; fake 1 at 0 is assigned to 4.
    near = nearest(torch.tensor([[6.0], [0.0]]), torch.tensor([[4.0], [7.0]]))
    assert near.real_of_fake.tolist() == [1, 0]
    assert ddcs(near).distance.tolist() == [4.0, 1.0]
    assert ddcs(near, dist="assigned").distance.tolist() == [16.0, 1.0]


def test_transforms():
    d = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    assert transform(d).tolist() == pytest.approx([1, 2 / 3, 1 / 3])
    assert transform(d, "recip1p_scaled", scale=0.5).tolist() == pytest.approx([1, 1 / 2, 1 / 5])
    assert transform(d, "exp")[1].item() == pytest.approx(torch.tensor(-0.5).exp().item())
    assert transform(d, "linear").tolist() == [1, 0.5, 0]
    assert transform(d, "recip").tolist() == [torch.inf, 2, 0.5]


@settings(max_examples=25, deadline=None)
@given(words, st.integers(1, 12), st.integers(1, 12))
def test_properties(word, n, m):
    real, fake = points(n, "real", word), points(m, "fake", word)
    base = ddcs(nearest(fake, real))
    assert ddcs(nearest(torch.cat([fake, fake[:1]]), real)).ddcs == pytest.approx(base.ddcs)  # 1: duplicates
    grown = ddcs(nearest(torch.cat([fake, points(3, "more", word)]), real))  # 2: never falls
    assert grown.ddcs >= base.ddcs - 1e-12 and grown.coverage >= base.coverage
    assert base.ddcs <= base.coverage <= min(1, m / n)  # 3
    order = torch.randperm(m, generator=generator(word))
    assert ddcs(nearest(fake[order], real, batch=2, hold=3)).ddcs == pytest.approx(base.ddcs)  # 5


def test_the_private_set_itself_scores_one():
    x = points(20)
    score = ddcs(nearest(x, x.clone()))
    assert (score.ddcs, score.coverage) == pytest.approx((1, 1)) and score.effective == pytest.approx(20)


def test_pruning_leaves_the_score_unchanged():
    real, fake = points(25, "real"), points(200, "fake")
    near = nearest(fake, real)
    base = ddcs(near)
    kept = set(near.fake_of_real[base.matched].tolist())
    kept |= {(near.real_of_fake == i).nonzero()[0].item() for i in base.matched.nonzero().flatten()}
    assert len(kept) < 60
    assert ddcs(nearest(fake[sorted(kept)], real)).ddcs == pytest.approx(base.ddcs, abs=1e-12)


def test_a_class_without_fakes_scores_zero_in_label_scope():
    near = nearest(
        torch.zeros(2, 1),
        torch.zeros(3, 1),
        fake_labels=torch.tensor([0, 0]),
        real_labels=torch.tensor([0, 5, 5]),
    )
    assert ddcs(near).score.tolist() == [1, 0, 0]
    assert ddcs(near, score="all").score.tolist() == [1, 0, 0]


def test_normalised():
    assert normalised(0.3, prior=0.2, holdout=0.4) == pytest.approx(0.5)
    with pytest.raises(UserError, match="holdout: expected a DDCS above the prior's"):
        normalised(0.3, prior=0.4, holdout=0.4)


def test_errors():
    near = by_hand()
    with pytest.raises(UserError, match="scale: expected a positive number"):
        ddcs(near, kind="recip1p_scaled")
    with pytest.raises(UserError, match="scale"):
        ddcs(near, scale=2.0)
    with pytest.raises(UserError, match="transform: expected recip1p"):
        transform(near.q_real, "square")
    with pytest.raises(UserError, match="radius"):
        ddcs(near, radius=torch.ones(2))

"""DDCS: the six properties of its specification, its options, and hand-made examples."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_utils.data.images import Parquet
from mi_utils.errors import UserError
from mi_utils.metrics.ddcs import Options, ddcs, exposure, normalised, transform
from mi_utils.metrics.matching import as_is, kth_nearest, nearest
from mi_utils.metrics.perceptual import embed
from mi_utils.models.perceptual import load
from mi_utils.runtime import generator

REAL = Path(os.environ.get("MI_DATA", "none"))
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
    assert ddcs(near, Options(score="all")).ddcs == pytest.approx((0.5 + 0.1 + 0.02) / 3)
    assert ddcs(near, Options(match="threshold", threshold=9.0)).matched.tolist() == [True, True, False]
    ball = ddcs(near, Options(match="knn_ball"), radius=torch.tensor([0.5, 9.0, 0.0]))
    assert ball.matched.tolist() == [False, True, False]
    assigned = ddcs(near, Options(dist="assigned"))
    assert assigned.distance.tolist() == [1.0, 9.0, torch.inf] and assigned.nearest.tolist() == [0, 2, -1]
    assert assigned.ddcs == ddcs(near).ddcs


def test_ball_of_the_kth_other_private_image():
    near = by_hand()  # reals at 0, 10, 20: squared distance to the nearest other is 100 for each
    radius = kth_nearest(torch.tensor([[0.0], [10.0], [20.0]]), 1)
    assert ddcs(near, Options(match="knn_ball", k=1), radius).coverage == 1.0
    assert ddcs(near, Options(match="knn_ball", k=1), radius / 10).matched.tolist() == [True, True, False]


def test_the_name_discloses_every_option():
    assert Options().name("ST-LPIPS") == "DDCS [ST-LPIPS; recip1p; matched; assign; d over all; global]"
    other = {
        "transform": "exp",
        "match": "knn_ball",
        "dist": "assigned",
        "score": "all",
        "scope": "label",
        "k": 5,
    }
    names = {Options(**{k: v for k, v in other.items() if k != left}).name("x") for left in other}
    names |= {Options(**other).name("x"), Options(transform="recip1p_scaled", scale=0.1).name("x")}
    names |= {Options(match="threshold", threshold=t).name("x") for t in (0.1, 0.2)}
    assert len(names) == 10


def test_exposure_ranks_matched_images_by_distance():
    found = ddcs(by_hand())
    ranked = exposure(found, torch.tensor([3, 7, 7]))
    assert [(e.private, e.label, e.matched, e.reconstruction) for e in ranked] == [
        (0, 3, True, 0),
        (1, 7, True, 2),
        (2, 7, False, 2),
    ]
    assert [e.distance for e in ranked] == [1.0, 9.0, 49.0]
    assert sum(e.score for e in ranked) / 3 == pytest.approx(found.ddcs)


def test_assigned_distance_is_over_the_assigned_only():
    # Fake 0 at 6 is the closest to target 4 but is assigned to target 7; fake 1 at 0 is assigned to 4.
    near = nearest(torch.tensor([[6.0], [0.0]]), torch.tensor([[4.0], [7.0]]))
    assert near.real_of_fake.tolist() == [1, 0]
    assert ddcs(near).distance.tolist() == [4.0, 1.0]
    assigned = ddcs(near, Options(dist="assigned"))
    assert assigned.distance.tolist() == [16.0, 1.0] and assigned.nearest.tolist() == [1, 0]


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
    assert ddcs(nearest(fake[order], real, budget=2**15)).ddcs == pytest.approx(base.ddcs)  # 5


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
    assert ddcs(near, Options(score="all")).score.tolist() == [1, 0, 0]


@pytest.mark.skipif(not list(REAL.glob("cifar10/plain_text/test-*")), reason="MI_DATA has no cifar10/plain_text")
def test_volume_alone_scores(monkeypatch):
    """A thousand photographs against a thousand others: no attack was involved."""
    monkeypatch.setenv("MI_DATA", str(REAL))
    images = Parquet(split="test").load().images
    rows = embed(images[torch.randperm(len(images), generator=generator("volume"))[:1600]], load("st-lpips-alex"))
    private, found = rows[:600], {}
    for count in (50, 250, 1000):
        found[count] = ddcs(nearest(rows[600 : 600 + count], private, as_is))
    coverage = [score.coverage for score in found.values()]
    assert coverage[0] < 0.09 and 0.25 < coverage[1] < 0.35 and coverage[2] > 0.6
    assert all(score.ddcs > 0.9 * score.coverage for score in found.values())


def test_normalised():
    assert normalised(0.3, prior=0.2, holdout=0.4) == pytest.approx(0.5)
    with pytest.raises(UserError, match="holdout: expected a DDCS above the prior's"):
        normalised(0.3, prior=0.4, holdout=0.4)


def test_errors():
    near = by_hand()
    with pytest.raises(UserError, match="scale: expected a positive number, found None"):
        Options(transform="recip1p_scaled")
    with pytest.raises(UserError, match="scale: expected none with recip1p"):
        Options(scale=2.0)
    with pytest.raises(UserError, match="threshold: expected a positive number, found -1"):
        Options(match="threshold", threshold=-1)
    with pytest.raises(UserError, match="transform: expected one of recip1p, .* found 'square'"):
        Options(transform="square")
    with pytest.raises(UserError, match="k: expected a number of neighbours >= 1"):
        Options(k=0)
    with pytest.raises(UserError, match="radius: expected one per target with match='knn_ball' alone"):
        ddcs(near, radius=torch.ones(3))
    with pytest.raises(UserError, match="radius: expected 3 numbers >= 0"):
        ddcs(near, Options(match="knn_ball"), radius=torch.ones(2))
    with pytest.raises(UserError, match="prior: expected finite numbers"):
        normalised(0.5, prior=float("nan"), holdout=0.6)

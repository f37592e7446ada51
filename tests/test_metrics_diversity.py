"""Relative spread in pixels and in features."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_utils.errors import UserError
from mi_utils.metrics import diversity
from mi_utils.runtime import generator


def noise(n: int, width: int, *words: int | str) -> torch.Tensor:
    """Uniform grey levels 128 +- width."""
    draw = torch.randint(-width, width + 1, (n, 1, 6, 6), generator=generator("noise", n, width, *words))
    return (128 + draw).to(torch.uint8)


def test_rho_pix_by_class_with_ids_as_given():
    real, real_ids = torch.cat([noise(400, 40), noise(300, 20)]), torch.tensor([0] * 400 + [11] * 300)
    fake, fake_ids = (
        torch.cat([noise(350, 20, "f"), noise(500, 20, "f")]),
        torch.tensor([0] * 350 + [11] * 500),
    )
    rho = diversity.rho_pix(real, real_ids, fake, fake_ids, [0, 11])
    # std of a uniform on 2w+1 integers is sqrt(w(w+1)/3)
    assert rho[0] == pytest.approx((20 * 21 / (40 * 41)) ** 0.5, rel=0.03)
    assert rho[11] == pytest.approx(1, rel=0.03)


def test_collapse_is_zero_and_reals_against_themselves_one():
    x, ids = noise(20, 40), torch.zeros(20, dtype=torch.int64)
    assert diversity.rho_pix(x, ids, x[:1].expand(9, -1, -1, -1), torch.zeros(9).long(), [0]) == {0: 0.0}
    assert diversity.rho_pix(x, ids, x, ids, [0]) == {0: 1.0}
    flat = x.flatten(1).float()
    assert diversity.rho_feat(flat, ids, flat, ids, [0]) == {0: 1.0}


def test_spread_is_within_a_class_not_between_classes():
    x = torch.cat([torch.zeros(5, 1, 2, 2), torch.full((5, 1, 2, 2), 255)]).to(torch.uint8)
    ids = torch.tensor([0] * 5 + [1] * 5)
    real = noise(10, 5)[:, :, :2, :2]
    assert diversity.rho_pix(real, ids, x, ids, [0, 1]) == {0: 0.0, 1: 0.0}


def test_rho_feat_is_the_ratio_of_mean_pairwise_distances():
    real = torch.tensor([[0.0], [1.0], [3.0]])
    fake = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    rho = diversity.rho_feat(real, torch.full((3,), 4), fake, torch.full((4,), 4), [4])
    assert rho == {4: pytest.approx((4 / 6) / 2)}


def test_spread_of_many_pixels_does_not_depend_on_how_many_are_converted_at_a_time(monkeypatch):
    x = noise(50, 40)
    whole = diversity.pixel_spread(x)
    assert whole == pytest.approx(x.double().std(0).mean().item())
    monkeypatch.setattr(diversity, "ENTRIES", 160)
    assert diversity.pixel_spread(x) == whole


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(st.integers(0, 10**6), min_size=1, max_size=4, unique=True),
    st.sampled_from([torch.float16, torch.float32, torch.float64, torch.int64]),
)
def test_order_and_foreign_classes_change_nothing(word, classes, dtype):
    rng = generator("diversity", word)
    sizes = [int(torch.randint(3, 9, (1,), generator=rng)) for _ in classes]
    ids = torch.tensor(classes).repeat_interleave(torch.tensor(sizes))
    real, fake = ((10 * torch.randn(len(ids), 3, generator=rng)).to(dtype) for _ in range(2))
    order = torch.randperm(len(ids), generator=rng)
    base = diversity.rho_feat(real, ids, fake, ids, classes)
    assert list(base) == classes
    assert diversity.rho_feat(real[order], ids[order], fake.flip(0), ids.flip(0), classes) == pytest.approx(base)
    alone = diversity.rho_feat(real, ids, fake, ids, classes[:1])
    assert alone == {classes[0]: base[classes[0]]}


def test_errors():
    x, ids = noise(4, 9), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(UserError, match="fake: expected at least 2 images of class 0, found 1"):
        diversity.rho_pix(x, ids, x[:1], ids[:1], [0])
    with pytest.raises(UserError, match="real: expected at least 2 images of class 3, found 0"):
        diversity.rho_feat(x.flatten(1), ids, x.flatten(1), ids + 3, [3])
    with pytest.raises(UserError, match="fake: expected at least 1 image, found 0"):
        diversity.rho_pix(x, ids, x[:0], ids[:0], [0])
    with pytest.raises(UserError, match="varied images of class 0"):
        diversity.rho_pix(x[:1].expand(4, -1, -1, -1), ids, x, ids, [0])
    with pytest.raises(UserError, match="one shape"):
        diversity.rho_pix(x, ids, x[..., :3], ids, [0])
    with pytest.raises(UserError, match="expected uint8"):
        diversity.rho_pix(x.float(), ids, x, ids, [0])
    with pytest.raises(UserError, match="NaN"):
        diversity.rho_feat(x.flatten(1) * torch.nan, ids, x.flatten(1).float(), ids, [0])

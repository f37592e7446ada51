"""Perceptual distances of sets: embeddings and products against each other and the stated definition."""

import pytest
import torch

from mi_utils.errors import UserError
from mi_utils.metrics import matching, perceptual
from mi_utils.models import perceptual as nets
from mi_utils.runtime import generator


@pytest.fixture(scope="module")
def net() -> nets.Perceptual:
    return nets.load("st-lpips-alex")


def pictures(n: int, c: int, px: int, *words: int | str) -> torch.Tensor:
    """Smooth random pictures with some structure, uint8."""
    coarse = torch.rand(n, c, 7, 7, generator=generator("pictures", n, c, *words))
    fine = torch.nn.functional.interpolate(coarse, (px, px), mode="bilinear")
    return (255 * fine).to(torch.uint8)


def by_definition(a: torch.Tensor, b: torch.Tensor, net: nets.Perceptual) -> torch.Tensor:
    """Weighted squared differences of unit maps, averaged over positions, summed over layers, in float64."""
    total = torch.zeros(len(a), len(b), dtype=torch.float64)
    maps = [list(net.double().maps(perceptual.to_rgb_float(x).double())) for x in (a, b)]
    for layer, (x, y) in enumerate(zip(*maps, strict=True)):
        x, y = (m / (m.norm(dim=3, keepdim=True) + 1e-10) for m in (x, y))
        weight = getattr(net, f"root{layer}").square()
        total += ((x[:, None] - y) ** 2 * weight).sum(4).mean((2, 3))
    net.float()
    return total


@pytest.mark.parametrize(("px", "c"), [(28, 1), (32, 3), (45, 3)])
def test_distances_are_the_definition(px, c):
    net = nets.load("st-lpips-alex")
    a, b = pictures(4, c, px), pictures(3, c, px, "b")
    expected = by_definition(a, b, net)
    assert torch.allclose(perceptual.distances(a, b, net).double(), expected, atol=1e-6)
    assert expected.min() > 0.01  # the comparison is of real distances


def test_grey_is_repeated_once(net):
    grey = pictures(2, 1, 32)
    colour = grey.repeat(1, 3, 1, 1)
    assert torch.allclose(perceptual.embed(grey, net), perceptual.embed(colour, net), atol=1e-7)


def test_range_ends():
    two = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).repeat(1, 1, 32, 16)
    ends = perceptual.to_rgb_float(two)
    assert (ends.min(), ends.max()) == (-1, 1)


@pytest.mark.parametrize("screen", ["full", "bf16"])
def test_nearest_equals_the_full_matrix_whatever_budget_and_precision(net, screen):
    fake, real = pictures(7, 3, 32, "f"), pictures(90, 3, 32, "r")
    fake[3] = real[5]
    q = perceptual.distances(fake, real, net)
    row = 4 * 36_288
    least = 20 * row  # a few rows at a time
    for budget in (None, least):
        near = perceptual.nearest(fake, real, net, budget=budget, screen=screen)
        assert torch.equal(near.real_of_fake, q.argmin(1)) and torch.equal(near.fake_of_real, q.argmin(0))
        assert torch.allclose(near.q_fake, q.amin(1), atol=1e-6)
        assert torch.allclose(near.q_real, q.amin(0), atol=1e-6)
    assert near.real_of_fake[3] == 5 and 0 <= near.q_fake[3] < 1e-6


def test_embedding_does_not_depend_on_the_batch(net):
    x = pictures(9, 3, 32)
    assert torch.allclose(perceptual.embed(x, net, batch=2), perceptual.embed(x, net), atol=1e-6)


def test_label_scope_of_images_is_that_of_their_embeddings(net):
    fake, real = pictures(6, 3, 32, "f"), pictures(8, 3, 32, "r")
    labels = {"fake_labels": torch.arange(6) % 2, "real_labels": torch.arange(8) % 2}
    ours = perceptual.nearest(fake, real, net, **labels)
    rows = [perceptual.embed(x, net) for x in (fake, real)]
    assert torch.equal(ours.real_of_fake, matching.nearest(*rows, matching.as_is, **labels).real_of_fake)


def test_errors(net):
    with pytest.raises(
        UserError, match=r"st-lpips-alex: expected sides >= \d+ px, found \(16, 16\); resize the images"
    ):
        perceptual.embed(pictures(1, 3, 16), net)
    with pytest.raises(UserError, match="expected uint8"):
        perceptual.embed(pictures(1, 3, 32).float(), net)
    with pytest.raises(UserError, match="real: expected at least 1 image, found 0"):
        perceptual.nearest(pictures(1, 3, 32), pictures(1, 3, 32)[:0], net)
    with pytest.raises(UserError, match="one shape"):
        perceptual.nearest(pictures(1, 3, 32), pictures(1, 3, 45), net)
    with pytest.raises(UserError, match="budget: expected at least .* MiB for these images, found 1.0 MiB"):
        perceptual.nearest(pictures(1, 3, 32), pictures(1, 3, 32), net, budget=2**20)


def test_large_images_within_a_small_budget(net):
    fake, real = pictures(2, 3, 256, "f"), pictures(3, 3, 256, "r")
    real[2] = fake[1]
    near = perceptual.nearest(fake, real, net, budget=130 * 10**6)  # 11 MB an image
    assert torch.equal(near.real_of_fake, perceptual.distances(fake, real, net).argmin(1))
    assert near.real_of_fake[1] == 2 and near.q_fake[1] == 0

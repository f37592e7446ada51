"""ST-LPIPS as an embedding, against the package's own two-image calls; and tiled matching."""

import subprocess
import sys

import pytest
import torch

from mi_utils.errors import UserError
from mi_utils.metrics import matching, perceptual
from mi_utils.runtime import generator


@pytest.fixture(scope="module")
def net() -> perceptual.STLPIPS:
    return perceptual.STLPIPS()


def pictures(n: int, c: int, px: int, *words: int | str) -> torch.Tensor:
    """Smooth random pictures with some structure, uint8."""
    coarse = torch.rand(n, c, 7, 7, generator=generator("pictures", n, c, *words))
    fine = torch.nn.functional.interpolate(coarse, (px, px), mode="bilinear")
    return (255 * fine).to(torch.uint8)


@pytest.mark.parametrize(("px", "c"), [(28, 1), (32, 3), (45, 3)])
def test_squared_distance_is_the_packages_value(net, px, c):
    package = perceptual.package_net()
    a, b = pictures(4, c, px), pictures(3, c, px, "b")
    grid_a, grid_b = a.repeat_interleave(3, 0), b.repeat(4, 1, 1, 1)
    as_floats = [(x.float() / 127.5 - 1).expand(-1, 3, -1, -1) for x in (grid_a, grid_b)]
    expected = package(*as_floats).flatten().view(4, 3)
    assert torch.allclose(perceptual.distances(a, b, net), expected, atol=1e-5, rtol=1e-5)
    assert expected.min() > 0.01  # the comparison is of real distances
    # The package can also be told to expect [0, 1]: the same numbers, so the range is converted exactly once.
    unit = package(*[(x.float() / 255).expand(-1, 3, -1, -1) for x in (grid_a, grid_b)], normalize=True)
    assert torch.allclose(unit.flatten().view(4, 3), expected, atol=1e-6)


def test_embedding_lengths(net):
    assert perceptual.embed(pictures(1, 3, 32), net).shape == (1, 36_288)
    assert perceptual.embed(pictures(1, 1, 64), net).shape == (1, 158_144)


def test_grey_is_repeated_once(net):
    grey = pictures(2, 1, 32)
    assert torch.allclose(
        perceptual.embed(grey, net), perceptual.embed(grey.repeat(1, 3, 1, 1), net), atol=1e-7
    )


def test_range_ends():
    ends = perceptual.to_rgb_float(
        torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).repeat(1, 1, 32, 16)
    )
    assert (ends.min(), ends.max()) == (-1, 1)


def test_nearest_equals_the_full_matrix_whatever_the_tiles(net):
    fake, real = pictures(7, 3, 32, "f"), pictures(9, 3, 32, "r")
    fake[3] = real[5]
    q = perceptual.distances(fake, real, net)
    for batch, hold in ((128, 2048), (2, 3), (5, 4)):
        near = perceptual.nearest(fake, real, net, batch=batch, hold=hold)
        assert torch.equal(near.real_of_fake, q.argmin(1)) and torch.equal(near.fake_of_real, q.argmin(0))
        assert torch.allclose(near.q_fake, q.amin(1), atol=1e-6) and torch.allclose(
            near.q_real, q.amin(0), atol=1e-6
        )
    assert near.real_of_fake[3] == 5 and 0 <= near.q_fake[3] < 1e-6


def test_matching_of_features_against_cdist_in_label_scope():
    g = generator("features")
    fake, real = torch.randn(40, 5, generator=g), torch.randn(30, 5, generator=g)
    fake_ids, real_ids = torch.arange(40) % 3, torch.arange(30) % 4  # no fake has class 3
    q = torch.cdist(fake.double(), real.double()).square()
    q[fake_ids[:, None] != real_ids] = torch.inf
    near = matching.nearest(fake, real, fake_labels=fake_ids, real_labels=real_ids, batch=7, hold=11)
    assert torch.equal(near.real_of_fake, q.argmin(1))
    assert torch.allclose(near.q_fake, q.amin(1))
    lonely = real_ids == 3
    assert torch.isinf(near.q_real[lonely]).all() and (near.fake_of_real[lonely] == -1).all()
    assert torch.equal(near.fake_of_real[~lonely], q.argmin(0)[~lonely])


def test_ties_go_to_the_lowest_index_across_tiles():
    real = torch.tensor([[5.0], [1.0], [1.0], [1.0]])
    near = matching.nearest(torch.tensor([[1.0], [1.0]]), real, batch=1, hold=2)
    assert near.real_of_fake.tolist() == [1, 1] and near.fake_of_real.tolist() == [0, 0, 0, 0]


def test_importing_leaves_no_stand_in_behind_and_needs_no_network():
    code = (
        "import socket, sys\n"
        "def refuse(*a): raise OSError('network')\n"
        "socket.socket.connect = refuse\n"
        "from mi_utils.metrics import perceptual\n"
        "assert 'stlpips_pytorch' not in sys.modules\n"
        "perceptual.STLPIPS()\n"
        "assert 'torchsummary' not in sys.modules and 'IPython' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_errors(net):
    with pytest.raises(UserError, match="sides >= 28 px"):
        perceptual.embed(pictures(1, 3, 16), net)
    with pytest.raises(UserError, match="expected uint8"):
        perceptual.embed(pictures(1, 3, 32).float(), net)
    with pytest.raises(UserError, match="real: expected at least 1 image, found 0"):
        perceptual.nearest(pictures(1, 3, 32), pictures(1, 3, 32)[:0], net)
    x, ids = torch.zeros(2, 3), torch.tensor([0, 1])
    with pytest.raises(UserError, match="one shape"):
        matching.nearest(x, x[:, :2])
    with pytest.raises(UserError, match="both or neither"):
        matching.nearest(x, x, fake_labels=ids)
    with pytest.raises(UserError, match=r"classes of the real set, found \[1\]"):
        matching.nearest(x, x, fake_labels=ids, real_labels=ids * 0)
    with pytest.raises(UserError, match="embedded fakes: .* NaN"):
        matching.nearest(x * torch.nan, x)

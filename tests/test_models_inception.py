"""The FID network against pytorch_fid's own, both on random weights from one file; nothing is downloaded."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pytorch_fid import inception as package
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.models import inception
from mi_utils.runtime import generator


def random_weights() -> dict[str, Tensor]:
    """Weights that keep activations at one scale through the depth, without the counters old files lack."""
    g = generator("inception")
    drawn = {}
    for name, value in inception.architecture().state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if value.ndim > 1:
            drawn[name] = (2 / value[0].numel()) ** 0.5 * torch.randn(value.shape, generator=g)
        elif name.endswith(("running_var", "bn.weight")):
            drawn[name] = 0.5 + torch.rand(value.shape, generator=g)
        else:
            drawn[name] = 0.1 * torch.randn(value.shape, generator=g)
    return drawn


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data root with the weights, and an empty hub cache."""
    root = tmp_path_factory.mktemp("data")
    (root / "weights").mkdir()
    torch.save(random_weights(), root / "weights" / inception.FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MI_DATA", str(root))
        patch.setenv("TORCH_HOME", str(root / "hub"))
        yield root


@pytest.fixture(scope="module")
def oracle(folder: Path) -> package.InceptionV3:
    with pytest.MonkeyPatch.context() as patch:
        tensors = torch.load(folder / "weights" / inception.FILE, weights_only=True)
        patch.setattr(package, "load_state_dict_from_url", lambda url, progress: tensors)
        return package.InceptionV3().eval()


@pytest.fixture(scope="module")
def net(folder: Path) -> inception.Inception:
    return inception.load()


@pytest.mark.parametrize("size", [(32, 32), (28, 45), (320, 300)])
def test_features_are_pytorch_fids(net, oracle, size):
    unit = torch.rand(2, 3, *size, generator=generator("unit", *size))  # its input is in [0,1]
    (expected,) = oracle(unit)
    found = net(2 * unit - 1)
    assert found.shape == (2, 2048) and found.dtype == torch.float32
    scale = expected.abs().mean()
    assert scale > 0.01 and (expected[0] - expected[1]).abs().mean() > 0.01 * scale
    assert (found - expected.flatten(1)).abs().max() < 1e-4 * scale


def test_it_is_frozen_and_whole(net, oracle):
    assert inception.available() == ""
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    assert not any(value.is_meta for value in net.state_dict().values())
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in oracle.parameters())


def test_absent_weights_are_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("MI_DATA", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert inception.available() == f"weights {inception.FILE} not in MI_DATA/weights nor in torch's hub cache"
    with pytest.raises(UserError, match="^FID: weights pt_inception.* not in .*; put ") as caught:
        inception.load()
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_torchvisions_inception_is_not_taken_for_it(tmp_path, monkeypatch):
    """torchvision's file has 1,000 outputs and auxiliary heads: a look-alike must not give a FID."""
    monkeypatch.setenv("MI_DATA", str(tmp_path))
    (tmp_path / "weights").mkdir()
    tensors = {"fc.bias": torch.zeros(1000), "AuxLogits.fc.bias": torch.zeros(1000)}
    torch.save(tensors, tmp_path / "weights" / inception.FILE)
    with pytest.raises(UserError, match=r"'fc.bias': expected \(1008,\), found \(1000,\)"):
        inception.load()

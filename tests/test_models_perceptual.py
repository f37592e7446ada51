"""LPIPS and ST-LPIPS embeddings against the two packages' own two-image calls, without any download.

The trunks of LPIPS are drawn at random and written as torchvision's files, from which both sides get them.
"""

import functools
import math
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
import torchvision
from packages import st_lpips
from torch import Tensor, nn

from mi_utils.errors import UserError
from mi_utils.models import perceptual, weights
from mi_utils.runtime import generator

TRUNKS = {
    "lpips-alex": ("alexnet", "alexnet-owt-7be5be79.pth"),
    "lpips-vgg": ("vgg16", "vgg16-397923af.pth"),
    "lpips-squeeze": ("squeezenet1_1", "squeezenet1_1-b8a52dc0.pth"),
}
LEAST = {"st-lpips-alex": 21, "st-lpips-vgg": 18, "lpips-alex": 31, "lpips-vgg": 16, "lpips-squeeze": 17}


def random_trunk(arch: str) -> dict[str, Tensor]:
    """Weights that keep activations at one scale, under torchvision's names, and one of a layer nobody needs."""
    with torch.device("meta"):
        shapes = torchvision.models.get_model(arch, weights=None).features.state_dict()
    g = generator("trunk", arch)
    drawn = {"classifier.1.bias": torch.zeros(3)}
    for name, value in shapes.items():
        scale = math.sqrt(2 / value[0].numel()) if value.ndim > 1 else 0.1
        drawn[f"features.{name}"] = scale * torch.randn(value.shape, generator=g)
    return drawn


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data root with the three files, and an empty hub cache."""
    root = tmp_path_factory.mktemp("data")
    (root / "weights").mkdir()
    for arch, file in TRUNKS.values():
        torch.save(random_trunk(arch), root / "weights" / file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MI_DATA", str(root))
        patch.setenv("TORCH_HOME", str(root / "hub"))
        yield root


@pytest.fixture(scope="module")
def nets(folder: Path) -> Callable[[str], perceptual.Perceptual]:
    """Our nets, each loaded once."""
    return functools.cache(perceptual.load)


def lpips(net: str, folder: Path) -> nn.Module:
    """The package's net on the trunk of the folder's file, in place of its download."""
    arch, file = TRUNKS[f"lpips-{net}"]
    with torch.device("meta"):
        features = torchvision.models.get_model(arch, weights=None).features
    tensors = torch.load(folder / "weights" / file, weights_only=True)
    tensors = {name.removeprefix("features."): t for name, t in tensors.items() if name.startswith("features.")}
    features.load_state_dict(tensors, assign=True)
    import lpips as package

    zoo = types.SimpleNamespace(**{arch: lambda pretrained: types.SimpleNamespace(features=features)})
    with mock.patch.object(package.pretrained_networks, "tv", zoo):
        return package.LPIPS(net=net, verbose=False)


@pytest.fixture(scope="module")
def packages(folder: Path) -> Callable[[str], nn.Module]:
    """The packages' own nets, each built once."""

    @functools.cache
    def get(key: str) -> nn.Module:
        family, _, net = key.rpartition("-")
        made = st_lpips(net) if family == "st-lpips" else lpips(net, folder)
        return made.eval().requires_grad_(False)

    return get


def pictures(n: int, c: int, height: int, width: int, *words: int | str) -> Tensor:
    """Smooth random pictures with some structure and grain, in [-1,1]."""
    g = generator("pictures", n, c, *words)
    fine = nn.functional.interpolate(torch.rand(n, c, 7, 7, generator=g), (height, width), mode="bilinear")
    return (2 * fine - 1 + 0.1 * torch.randn(fine.shape, generator=g)).clamp(-1, 1)


SIZES = [(28, 28), (32, 32), (45, 45), (33, 50), (64, 64)]


@pytest.mark.parametrize(("key", "size"), [(k, s) for k in perceptual.NETS for s in SIZES if min(s) >= LEAST[k]])
def test_squared_distance_is_the_packages_value(nets, packages, key, size):
    a, b = pictures(2, 3, *size, "a"), pictures(2, 3, *size, "b")
    expected = packages(key)(a, b).flatten()
    found = (nets(key)(a) - nets(key)(b)).square().sum(1)
    assert (found - expected).abs().max() <= 1e-5
    assert expected.min() > 0.01  # the comparison is of real distances


@pytest.mark.parametrize("key", perceptual.NETS)
def test_least_side_is_the_smallest_that_works_and_is_exact_there(nets, packages, key):
    side = LEAST[key]
    assert nets(key).least_side == side
    a, b = pictures(2, 3, side, side, "a"), pictures(2, 3, side, side, "b")
    found = (nets(key)(a) - nets(key)(b)).square().sum(1)
    assert (found - packages(key)(a, b).flatten()).abs().max() <= 1e-5
    with pytest.raises(UserError, match=f"{key}: expected sides >= {side} px, found \\(64, {side - 1}\\)"):
        nets(key)(torch.zeros(1, 3, 64, side - 1))
    with pytest.raises(RuntimeError):  # the package has no answer either
        packages(key).net(torch.zeros(1, 3, side - 1, side - 1))


@pytest.mark.parametrize(
    ("key", "side", "length"),
    [
        ("st-lpips-alex", 32, 36_288),
        ("st-lpips-alex", 64, 158_144),
        ("st-lpips-alex", 256, 2_695_616),
        ("st-lpips-vgg", 32, 140_672),
        ("lpips-alex", 32, 5_760),
        ("lpips-alex", 64, 31_872),
        ("lpips-alex", 256, 640_128),
    ],
)
def test_length_is_known_without_a_forward_pass(nets, key, side, length):
    assert nets(key).length(side) == length


@pytest.mark.parametrize("key", perceptual.NETS)
def test_length_of_an_oblong(nets, key):
    assert nets(key)(pictures(3, 3, 37, 52)).shape == (3, nets(key).length(37, 52))
    assert nets(key)(torch.zeros(0, 3, 37, 52)).shape == (0, nets(key).length(37, 52))


def test_grey_repeated_by_a_view_is_grey(nets):
    grey = pictures(2, 1, 32, 32)
    net = nets("st-lpips-alex")
    assert torch.allclose(net(grey.expand(-1, 3, -1, -1)), net(grey.repeat(1, 3, 1, 1)), atol=1e-7)


@pytest.mark.parametrize("key", ["st-lpips-alex", "lpips-squeeze"])
def test_an_image_does_not_depend_on_its_batch(nets, key):
    x = pictures(5, 3, 40, 40)
    apart = torch.cat([nets(key)(one) for one in x.split(1)])
    assert torch.allclose(nets(key)(x), apart, atol=1e-6)


@pytest.mark.parametrize("key", perceptual.NETS)
def test_pooled_is_the_mean_of_the_packages_raw_maps(nets, packages, key):
    x, package = pictures(2, 3, 40, 44), packages(key)
    maps = package.net(package.scaling_layer(x))
    expected = torch.cat([a.mean((2, 3)) for a in maps], 1)
    found = nets(key).pooled(x)
    assert found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_dead_position_gives_zeros_not_nan(nets):
    """All weights and biases zero: every feature vector has length 0."""
    net = perceptual.load("lpips-alex")
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    assert torch.equal(net(pictures(1, 3, 64, 64)), torch.zeros(1, 31_872))


def test_loaded_nets_are_frozen_and_named(nets):
    names = {key: nets(key).name for key in perceptual.NETS}
    assert all(("ST-LPIPS" in name) == key.startswith("st-") for key, name in names.items())
    assert len(set(names.values())) == len(perceptual.NETS)
    for key in perceptual.NETS:
        net = nets(key)
        assert net.key == key and not net.training and not any(p.requires_grad for p in net.parameters())
        assert not any(value.is_meta for value in net.state_dict().values())


# ---------------------------------------------------------------- where weights come from


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root and a hub cache without weights."""
    monkeypatch.setenv("MI_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "data" / "weights").mkdir(parents=True)
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("key", TRUNKS)
def test_absent_weights_are_said_in_one_line(empty, key):
    file = TRUNKS[key][1]
    assert (
        perceptual.available(key)
        == weights.missing(file)
        == (f"weights {file} not in MI_DATA/weights nor in torch's hub cache")
    )
    with pytest.raises(UserError, match=f"^{key}: weights {file} not in .*; put ") as caught:
        perceptual.load(key)
    assert "\n" not in str(caught.value) and str(empty) not in str(caught.value)


def test_st_lpips_is_always_there(empty):
    assert perceptual.available("st-lpips-alex") == perceptual.available("st-lpips-vgg") == ""


def test_the_data_root_goes_before_the_hub_cache(empty):
    own, cached = empty / "data" / "weights" / "a.pth", empty / "torch" / "hub" / "checkpoints" / "a.pth"
    assert weights.find("a.pth") is None
    cached.touch()
    assert weights.find("a.pth") == cached
    own.touch()
    assert weights.find("a.pth") == own
    own.unlink()
    own.mkdir()  # a folder of that name is not the file
    assert weights.find("a.pth") == cached


def test_a_file_in_the_hub_cache_is_read(empty, folder, nets):
    file = TRUNKS["lpips-squeeze"][1]
    (empty / "torch" / "hub" / "checkpoints" / file).symlink_to(folder / "weights" / file)
    assert perceptual.available("lpips-squeeze") == ""
    x = pictures(1, 3, 32, 32)
    assert torch.equal(perceptual.load("lpips-squeeze")(x), nets("lpips-squeeze")(x))


class Malicious:
    """Unpickled without restriction, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("new", [True, False])
def test_code_in_a_weights_file_does_not_run(empty, new):
    file, mark = TRUNKS["lpips-alex"][1], empty / "ran"
    content = {"features.0.bias": torch.zeros(64), "features.0.weight": Malicious(mark)}
    torch.save(content, empty / "data" / "weights" / file, _use_new_zipfile_serialization=new)
    with pytest.raises(UserError, match="holds Python objects") as caught:
        perceptual.load("lpips-alex")
    assert not mark.exists() and "\n" not in str(caught.value)
    torch.load(empty / "data" / "weights" / file, weights_only=False)
    assert mark.exists()  # the file was a loaded gun


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda t: t.pop("features.3.bias"), r"the 10 tensors of alexnet, 1 missing \(first '3.bias'\)"),
        (lambda t: t.update({"features.9.bias": torch.zeros(2)}), r"1 unexpected \(first '9.bias'\)"),
        (lambda t: t.update({"features.0.bias": torch.zeros(2)}), r"expected \(64,\), found \(2,\)"),
        (lambda t: t["features.0.bias"].fill_(torch.nan), r"NaN or infinity in '0.bias'"),
        (lambda t: t.clear(), "expected tensors by name, found dict"),
    ],
)
def test_weights_of_another_network_are_refused(empty, spoil, says):
    tensors = random_trunk("alexnet")
    spoil(tensors)
    torch.save(tensors, empty / "data" / "weights" / TRUNKS["lpips-alex"][1])
    with pytest.raises(UserError, match=says) as caught:
        perceptual.load("lpips-alex")
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused(empty, folder):
    file = TRUNKS["lpips-squeeze"][1]
    whole = (folder / "weights" / file).read_bytes()
    (empty / "data" / "weights" / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="it is cut short"):
        perceptual.load("lpips-squeeze")


def test_negative_heads_are_refused(monkeypatch):
    def read(path: Path) -> dict[str, Tensor]:
        tensors = torch.load(path, weights_only=True, map_location="cpu")
        tensors["lin2.model.1.weight"][0, 7] = -1e-9
        return tensors

    monkeypatch.setattr(weights, "read", read)
    with pytest.raises(UserError, match="expected heads >= 0"):
        perceptual.load("st-lpips-alex")


def test_an_unknown_key_has_a_hint():
    for ask in (perceptual.load, perceptual.available):
        with pytest.raises(UserError, match="found 'lpips-alx'; did you mean 'lpips-alex'?"):
            ask("lpips-alx")


def test_loading_needs_neither_the_network_nor_the_package():
    code = (
        "import socket, sys\n"
        "def refuse(*a): raise OSError('network')\n"
        "socket.socket.connect = refuse\n"
        "from mi_utils.models import perceptual\n"
        "perceptual.load('st-lpips-alex')\n"
        "assert not {'stlpips_pytorch', 'lpips', 'torchsummary', 'IPython'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

"""Foreign classifiers: the conventions around them, what is read from their files, and what is refused."""

import threading
import warnings
from pathlib import Path

import pytest
import timm
import torch
import torchvision
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from mi_utils.errors import UserError
from mi_utils.models import external, weights
from mi_utils.models.external import ExternalClassifier, parse
from mi_utils.runtime import generator

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = "shufflenet_v2_x0_5"


def randomised(network: nn.Module, *words: int | str) -> nn.Module:
    """Weights and running statistics of a fixed draw, so that no layer is the identity."""
    g = generator("external", *words)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.copy_(0.5 + torch.rand(value.shape, generator=g) if value.ndim < 2 else value)
    return network.eval()


def images(n: int, c: int, px: int) -> Tensor:
    return 2 * torch.rand(n, c, px, px, generator=generator("images", n, c, px)) - 1


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    """torchvision's smallest net for 7 classes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomised(torchvision.models.get_model(SMALL, weights=None, num_classes=7), "plain")


@pytest.fixture(scope="module")
def file(plain: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("external") / "plain.pth"
    torch.save(plain.state_dict(), path)
    return path


def recipe(file: Path, **fields: object) -> ExternalClassifier:
    return ExternalClassifier(**{"arch": SMALL, "weights": file, "classes": 7, "size": 32} | fields)


# ---------------------------------------------------------------- conventions


def test_logits_are_the_networks_own(plain, file):
    net = recipe(file).load()
    x = images(3, 3, 32)
    with torch.no_grad():
        assert torch.equal(net(x), plain(x))
    assert not net.training and not any(p.requires_grad for p in net.parameters())


def test_mean_and_std_are_applied_on_the_unit_scale(plain, file):
    net = recipe(file, mean=MEAN, std=STD).load()
    x = images(3, 3, 32)
    expected = transforms.normalize((x + 1) / 2, MEAN, STD)
    assert torch.allclose(net.prepared(x), expected, atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(net(x), plain(expected), atol=1e-4)


def test_images_of_any_size_and_colour_are_fitted(plain, file):
    net = recipe(file).load()
    large = images(2, 3, 75)
    resized = transforms.resize(large, [32, 32], antialias=True)
    assert torch.allclose(net.prepared(large), resized, atol=1e-6)
    grey = images(2, 1, 32)
    assert torch.equal(net.prepared(grey), grey.repeat(1, 3, 1, 1))
    assert net(large).shape == net(grey).shape == (2, 7)


def test_colour_becomes_luma_for_a_grey_network():
    x = images(2, 3, 16)
    expected = transforms.rgb_to_grayscale(x)
    assert torch.allclose(external.fitted(x, 1, 16), expected, atol=2e-3)  # torchvision rounds the weights


def test_features_are_what_the_last_linear_layer_reads(plain, file):
    net = recipe(file).load()
    x = images(4, 3, 32)
    features = net.features(x)
    assert features.shape == (4, 1024)
    assert torch.allclose(plain.fc(features), net(x), atol=1e-5)
    assert not net.network.fc._forward_pre_hooks


def test_features_of_a_network_whose_auxiliary_head_reads_every_patch(file):
    class Volo(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.unused, self.auxiliary = (nn.Linear(3, 7) for _ in range(3))

        def forward(self, x):
            patches = x.flatten(2).mT
            return self.head(patches.mean(1)) + self.auxiliary(patches).amax(1)

    x = images(2, 3, 32)
    assert torch.equal(external.External(Volo(), recipe(file)).features(x), x.flatten(2).mT.mean(1))


def test_a_network_without_a_linear_layer_has_no_features(tmp_path):
    network = torchvision.models.squeezenet1_1(weights=None, num_classes=3)
    torch.save(network.state_dict(), tmp_path / "s.pt")
    net = recipe(tmp_path / "s.pt", arch="squeezenet1_1", classes=3).load()
    assert net(images(1, 3, 32)).shape == (1, 3)
    with pytest.raises(UserError, match="squeezenet1_1: expected a linear last layer"):
        net.features(images(1, 3, 32))


def test_reject_is_one_output_more(plain, file):
    net = recipe(file, classes=6, reject=True).load()
    assert net(images(1, 3, 32)).shape == (1, 7)


def test_loading_leaves_the_random_stream_alone(file):
    before = torch.get_rng_state()
    recipe(file).load()
    assert torch.equal(before, torch.get_rng_state())


# ---------------------------------------------------------------- architectures


@pytest.mark.parametrize(("arch", "size"), [(SMALL, 32), ("vit_b_16", 32), ("timm/vit_tiny_patch16_224", 32)])
@pytest.mark.parametrize("channels", [1, 3])
def test_architectures_are_made_for_the_size_and_the_channels(arch, size, channels):
    with torch.no_grad():
        network = external.build(arch, 4, channels, size, False).eval()
        assert network(torch.zeros(1, channels, size, size)).shape == (1, 4)


def test_timm_by_name(tmp_path):
    network = randomised(timm.create_model("resnet10t", pretrained=False, num_classes=5, in_chans=1), "timm")
    save_file(network.state_dict(), tmp_path / "t.safetensors")
    net = recipe(tmp_path / "t.safetensors", arch="timm/resnet10t", classes=5, channels=1).load()
    x = images(2, 1, 32)
    with torch.no_grad():
        # Not to the last bit: on some CPUs the same weights at another address take another path through a convolution.
        assert torch.allclose(net(x), network(x), rtol=1e-5, atol=1e-6)
        assert torch.allclose(network.fc(net.features(x)), network(x), atol=1e-5)


def test_every_torchvision_name_builds_and_reads_colour_first():
    """On the meta device, where building costs nothing; RegNet's constructor alone needs numbers."""
    for arch in torchvision.models.list_models(module=torchvision.models):
        if arch.startswith("regnet"):
            continue
        with torch.device("meta"):
            network = external.build(arch, 7, 1, 224, False)
        first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
        assert first.in_channels == 1, arch


@pytest.mark.parametrize("auxiliary", [True, False])
def test_googlenet_is_read_with_and_without_its_auxiliary_heads(tmp_path, auxiliary):
    with torch.device("meta"):
        shapes = external.build("googlenet", 3, 3, 64, auxiliary).state_dict()
    torch.save({name: torch.ones(value.shape) * 1e-3 for name, value in shapes.items()}, tmp_path / "g.pt")
    net = recipe(tmp_path / "g.pt", arch="googlenet", classes=3, size=64).load()
    assert net(images(1, 3, 64)).shape == (1, 3) and net.features(images(1, 3, 64)).shape == (1, 1024)


@pytest.mark.parametrize(
    ("arch", "hint"),
    [
        ("resnet81", "did you mean .*resnet1?8"),
        ("timm/resnet10tt", "did you mean timm/resnet10t"),
        ("resnet10t", "did you mean timm/resnet10t?"),
        ("hf-hub:someone/net", "expected a name of torchvision.models"),
        ("timm/hf-hub:someone/net", "expected a name of torchvision.models"),
    ],
)
def test_an_unknown_architecture_is_one_line_with_the_nearest_names(file, arch, hint):
    with pytest.raises(UserError, match=hint) as caught:
        recipe(file, arch=arch)
    said = str(caught.value)
    assert said.startswith("ExternalClassifier.arch: ") and repr(arch) in said and "\n" not in said


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("wrap", [lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}, lambda s: s])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_training_checkpoints_are_unwrapped(plain, tmp_path, wrap, prefix):
    state = {prefix + name: value for name, value in plain.state_dict().items()}
    torch.save(wrap(state), tmp_path / "c.pth")
    x = images(2, 3, 32)
    with torch.no_grad():
        assert torch.equal(recipe(tmp_path / "c.pth").load()(x), plain(x))


def test_half_precision_weights_become_single(plain, tmp_path):
    save_file({name: v.half() if v.ndim else v for name, v in plain.state_dict().items()}, tmp_path / "h.safetensors")
    net = recipe(tmp_path / "h.safetensors").load()
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def spoiled(state: dict[str, Tensor], kind: str) -> object:
    """A state_dict that is wrong in one way."""
    renamed = {name.replace("fc.", "head."): value for name, value in state.items()}
    cases = {
        "renamed head": renamed,
        "two missing": {name: value for name, value in state.items() if not name.startswith("fc.")},
        "other shape": state | {"conv1.0.weight": torch.zeros(24, 1, 3, 3)},
        "NaN": state | {"fc.bias": torch.full((7,), torch.nan)},
        "number inside": state | {"lr": 0.1},
        "list": [1, 2],
        "empty": {},
    }
    return cases[kind]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("renamed head", r"2 missing \(first 'fc.weight'\), 2 unexpected \(first 'head.weight'\); check"),
        ("two missing", r"expected the \d+ tensors of shufflenet_v2_x0_5, 2 missing \(first 'fc.weight'\); check"),
        ("other shape", r"'conv1.0.weight': expected \(24, 3, 3, 3\), found \(24, 1, 3, 3\)"),
        ("NaN", "expected finite weights, found NaN or infinity in 'fc.bias'"),
        ("number inside", "found float under 'lr'"),
        ("list", "expected tensors by name, found list"),
        ("empty", "expected tensors by name, found dict"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(plain, tmp_path, kind, says):
    torch.save(spoiled(dict(plain.state_dict()), kind), tmp_path / "w.pth")
    with pytest.raises(UserError, match=says) as caught:
        recipe(tmp_path / "w.pth").load()
    assert "\n" not in str(caught.value) and str(tmp_path / "w.pth") in str(caught.value)


@pytest.mark.parametrize(("classes", "reject", "expected"), [(10, False, "10 classes"), (7, True, "7 classes and the")])
def test_another_number_of_classes_is_detected(file, classes, reject, expected):
    with pytest.raises(UserError, match=rf"expected {classes + reject} outputs \({expected}.*found 7 .*mend `classes`"):
        recipe(file, classes=classes, reject=reject).load()


def damaged(kind: str, path: Path) -> Path:
    """A file that is no weights."""
    if kind == "truncated":
        torch.save({"a": torch.zeros(5000)}, path)
        path.write_bytes(path.read_bytes()[:9000])
    elif kind == "torchscript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated
            torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    elif kind == "pickle":
        torch.save({"a": threading.Thread}, path)
    else:
        path.write_bytes({"empty": b"", "text": b"hello world"}[kind])
    return path


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kind", ["truncated", "torchscript", "pickle", "empty", "text"])
def test_files_that_are_no_weights_are_refused_in_one_line(tmp_path, kind, suffix):
    with pytest.raises(UserError, match="but it cannot be read") as caught:
        weights.read(damaged(kind, tmp_path / f"w{suffix}"))
    assert "\n" not in str(caught.value)


def test_absent_files_and_other_formats(tmp_path):
    with pytest.raises(UserError, match="expected a file of weights, found none"):
        recipe(tmp_path / "none.pt").load()
    with pytest.raises(UserError, match="weights: expected a file, found none"):
        recipe(tmp_path / "none.pt").fingerprint()
    for name in ("net.pt2", "net.pkl", "net"):
        with pytest.raises(UserError, match="expected a .safetensors, .pt or .pth file"):
            recipe(tmp_path / name).load()


def test_the_fingerprint_is_of_the_content(file, tmp_path):
    copy = tmp_path / file.name
    copy.write_bytes(file.read_bytes())
    assert recipe(copy).fingerprint() == recipe(file).fingerprint()
    copy.write_bytes(file.read_bytes() + b"x")
    assert recipe(copy).fingerprint() != recipe(file).fingerprint()


def test_a_size_that_the_network_cannot_read_is_one_line(tmp_path):
    network = torchvision.models.squeezenet1_1(weights=None, num_classes=3)
    torch.save(network.state_dict(), tmp_path / "s.pt")
    with pytest.raises(UserError, match="size: squeezenet1_1 cannot read 16 px images") as caught:
        recipe(tmp_path / "s.pt", arch="squeezenet1_1", classes=3, size=16).load()
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- recipes


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"mean": (0.5,), "std": (0.5,)}, "ExternalClassifier.mean: expected 3 numbers, one per channel"),
        ({"mean": MEAN}, "ExternalClassifier.std: expected mean and std together, or neither"),
        ({"std": STD}, "ExternalClassifier.std: expected mean and std together, or neither"),
        ({"mean": MEAN, "std": (1.0, 0.0, 1.0)}, "ExternalClassifier.std.1: .*greater than 0"),
        ({"mean": (float("nan"), 0, 0), "std": STD}, "ExternalClassifier.mean.0: .*finite"),
        ({"channels": 2}, "ExternalClassifier.channels: "),
        ({"classes": 1}, "ExternalClassifier.classes: .*greater than or equal to 2"),
        ({"size": 0}, "ExternalClassifier.size: "),
        ({"clases": 3}, "ExternalClassifier.clases: no such field; did you mean classes?"),
        ({"program": "net.pt2"}, "ExternalClassifier.program: no such field"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(file, fields, says):
    with pytest.raises(UserError, match=says) as caught:
        recipe(file, **fields)
    assert "\n" not in str(caught.value)


def test_parse_inline_and_from_a_file(file, tmp_path):
    expected = recipe(file, mean=MEAN, std=STD, reject=True)
    fields = {"arch": SMALL, "weights": str(file), "classes": 7, "size": 32, "reject": True}
    fields |= {"mean": list(MEAN), "std": list(STD)}
    text = yaml.safe_dump(fields)
    (tmp_path / "net.yaml").write_text(text)
    assert parse(str(tmp_path / "net.yaml")) == expected
    assert parse(yaml.safe_dump(fields, default_flow_style=True)) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("resnet18", "expected a mapping .* or a .yaml file that exists, found 'resnet18'"),
        ("none.yaml", "file that exists, found 'none.yaml'"),
        ("{arch: resnet18", "expected a YAML mapping such as .* cannot be read"),
        ("{1: 2}", "expected a YAML mapping such as"),
        ("{arch: resnet18}", r"ExternalClassifier.weights: Field required"),
        ("{arch: !!python/object/apply:os.system ['false']}", "cannot be read"),
    ],
)
def test_parse_refuses_in_one_line(text, says):
    with pytest.raises(UserError, match=says) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_parse_of_a_file_that_holds_no_mapping(tmp_path):
    (tmp_path / "net.yaml").write_text("- a\n- b\n")
    with pytest.raises(UserError, match="net.yaml: expected a YAML mapping such as .*, found '- a"):
        parse(str(tmp_path / "net.yaml"))

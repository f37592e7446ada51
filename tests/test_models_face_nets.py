"""Classifiers of the face experiments against published counts and small oracles; folding of batch norms."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mi_utils.errors import UserError
from mi_utils.models.classifiers import ARCHITECTURES, build_classifier
from mi_utils.models.face_nets import _PReLU, _Unit
from mi_utils.models.folding import folded
from mi_utils.models.priors import LATENT, Critic, Generator, KnowledgeDiscriminator, init_prior

WIDTHS = {"resnet18": 64, "dla": 2, "efficientnet_b0": 32, "efficientnet_b1": 32, "efficientnet_b2": 32}


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=stream(seed), dtype=torch.float64)


def classifier(name: str, width: int, channels: int = 3, size: int = 32, classes: int = 10) -> nn.Module:
    return build_classifier(name, width=width, channels=channels, size=size, classes=classes, generator=stream())


def trained(net: nn.Module) -> nn.Module:
    """Float64, in eval mode, with statistics, scales, shifts and slopes that differ from channel to channel."""
    rng = stream(3)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.2, generator=rng)
            m.running_var.uniform_(0.5, 2, generator=rng)
            m.weight.data.uniform_(0.5, 1.5, generator=rng)
            if m.bias is not None:
                m.bias.data.normal_(0, 0.2, generator=rng)
        elif isinstance(m, nn.PReLU):
            m.weight.data.uniform_(-0.5, 1.5, generator=rng)
    return net.double().eval()


def norms(net: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in net.modules())


# ---------------------------------------------------------------- architectures


@pytest.mark.parametrize(
    ("name", "width", "channels", "size", "classes", "expected"),
    [
        ("vgg16", 64, 3, 64, 1000, 16_774_184),
        ("mcnn", 64, 1, 32, 5, 1_029_765),
        ("ir50", 64, 3, 64, 1000, 35_437_224),
        ("ir152", 64, 3, 64, 1000, 62_599_848),
        ("efficientnet_b0", 32, 3, 64, 1000, 5_288_548),
        ("efficientnet_b1", 32, 3, 64, 1000, 7_794_184),
        ("efficientnet_b2", 32, 3, 64, 1000, 9_109_994),
        ("cnn", 32, 1, 32, 10, 288_170),
    ],
)
def test_parameter_counts(name: str, width: int, channels: int, size: int, classes: int, expected: int) -> None:
    with torch.device("meta"):
        net = classifier(name, width, channels, size, classes)
    assert sum(p.numel() for p in net.parameters()) == expected


@pytest.mark.parametrize(("name", "units"), [("ir50", 24), ("ir152", 50), ("ir_small", 5), ("ir_deep", 10)])
def test_residual_nets_end_in_a_map_of_a_sixteenth(name: str, units: int) -> None:
    net = classifier(name, 2, size=64)
    assert sum(isinstance(m, _Unit) for m in net.modules()) == units
    assert net.body[-2].in_features == 16 * 4 * 4 and net.features(torch.zeros(2, 3, 64, 64)).shape == (2, 16)
    # The output's norm makes features of mean 0, dropout makes two passes differ.
    net.train()
    x = torch.randn(6, 3, 64, 64, generator=stream())
    one, other = net.features(x), net.features(x)
    assert one.mean(0).abs().max() < 1e-5 and not torch.allclose(one, other)


def test_vgg16_features_are_normalised_without_a_shift() -> None:
    net = trained(classifier("vgg16", 2, size=64)).train()
    p = net.features(normal(1, 6, 3, 64, 64))
    assert p.shape == (6, 64) and p.mean(0).abs().max() < 1e-9 and p.std(0).max() > 0.5


def test_our_prelu_is_torchs() -> None:
    ours, theirs = _PReLU(3).double(), nn.PReLU(3).double()
    ours.weight.data = theirs.weight.data = torch.tensor([-0.5, 0.25, 1.5], dtype=torch.float64)
    x, weights = normal(1, 4, 3, 5, 5).requires_grad_(), normal(2, 4, 3, 5, 5)
    assert torch.allclose(ours(x), theirs(x))
    for one, other in ((x, x), (ours.weight, theirs.weight)):
        found = torch.autograd.grad((ours(x) * weights).sum(), one)
        expected = torch.autograd.grad((theirs(x) * weights).sum(), other)
        assert torch.allclose(*found, *expected)


def test_a_unit_adds_to_its_input() -> None:
    x = normal(1, 2, 4, 8, 8)
    for stride in (1, 2):
        unit = _Unit(4, 4, stride).double().eval()
        unit.main[3].weight.data.zero_()
        assert torch.equal(unit(x), x[:, :, ::stride, ::stride])
    unit = trained(_Unit(4, 6, 2))
    before = F.conv2d(unit.main[0](x), unit.main[1].weight, padding=1)
    bent = torch.where(before > 0, before, before * unit.main[2].weight.view(-1, 1, 1))
    after = unit.main[4](F.conv2d(bent, unit.main[3].weight, stride=2, padding=1))
    assert torch.allclose(unit(x), after + unit.skip[1](F.conv2d(x, unit.skip[0].weight, stride=2)))


def test_mcnn_has_a_last_map_of_one_pixel() -> None:
    net = classifier("mcnn", 2, 1)
    assert net.body[:-2](torch.zeros(2, 1, 32, 32)).shape == (2, 8, 1, 1)
    assert classifier("mcnn", 2, 1, 64).features(torch.zeros(2, 1, 64, 64)).shape == (2, 8)


def test_the_separable_student_mixes_space_and_channels_apart() -> None:
    convolutions = [m for m in classifier("separable", 4).modules() if isinstance(m, nn.Conv2d)]
    wide = [m for m in convolutions[1:] if m.kernel_size == (3, 3)]
    assert len(wide) == 5 and all(m.groups == m.in_channels for m in wide)


@pytest.mark.parametrize(
    ("name", "width", "size", "said"),
    [
        ("vgg16", 2, 48, "^size: .*multiple of 32 px, found 48"),
        ("ir_small", 2, 40, "^size: .*multiple of 16 px, found 40"),
        ("mcnn", 2, 28, "^size: mcnn needs .* at least 32 px, found 28"),
        ("efficientnet_b1", 24, 32, "^width: efficientnet_b1 is built at width 32, found 24"),
    ],
)
def test_what_cannot_be_built_is_a_user_error(name: str, width: int, size: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        classifier(name, width, size=size)


def test_an_efficientnet_takes_grey_images() -> None:
    net = classifier("efficientnet_b0", 32, 1).eval()
    assert net(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


# ---------------------------------------------------------------- folding

# Norms that no convolution precedes: before the convolutions of residual units, and on VGG's flattened map.
LEFT = {"vgg16": 1, "ir_small": 6, "ir_deep": 11, "ir50": 25, "ir152": 51}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_folding_changes_neither_outputs_nor_gradients(name: str) -> None:
    net = trained(classifier(name, WIDTHS.get(name, 2)))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    fast = folded(net)
    assert norms(fast) == LEFT.get(name, 0)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items()), "the net itself is left alone"
    assert not fast.training and not any(p.requires_grad for p in fast.parameters())
    x = normal(5, 2, 3, 32, 32).requires_grad_()
    for slow_output, fast_output in ((net(x), fast(x)), (net.features(x), fast.features(x))):
        scale = slow_output.abs().max().item()
        assert torch.allclose(fast_output, slow_output, rtol=1e-7, atol=1e-9 * scale)
        slow, quick = (torch.autograd.grad(o.square().sum(), x)[0] for o in (slow_output, fast_output))
        assert slow.abs().max() > 0 and torch.allclose(quick, slow, rtol=1e-6, atol=1e-8 * slow.abs().max().item())


@pytest.mark.parametrize(
    ("make", "inputs", "left"),
    [
        (lambda: Generator(1, 32, 2), (4, LATENT), 0),
        (lambda: Generator(3, 64, 2), (4, LATENT), 0),
        (lambda: Critic(1, 32, 2), (4, 1, 32, 32), 0),
        (lambda: KnowledgeDiscriminator(1, 32, 2, 5, 3, 4), (4, 1, 32, 32), 0),
    ],
    ids=["G 32", "G 64", "critic", "KEDMI D"],
)
def test_folding_of_priors(make: object, inputs: tuple[int, ...], left: int) -> None:
    net = trained(init_prior(make(), stream()))
    fast, x = folded(net), normal(6, *inputs)
    assert norms(fast) == left and torch.allclose(fast(x), net(x), rtol=1e-9, atol=1e-12)


def test_float32_outputs_agree_to_a_hundred_thousandth() -> None:
    net = trained(classifier("vgg16", 6)).float()
    x = normal(5, 8, 3, 32, 32).float()
    slow = net(x)
    assert (folded(net)(x) - slow).abs().max() < 1e-5 * slow.abs().max()


class _Twice(nn.Module):
    """A convolution that is called twice, and one whose output is also read past its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.first, self.second = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.read, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(self.shared(self.first(self.shared(x))))
        z = self.read(y)
        return z + self.norm(z)


class _Branching(nn.Module):
    """What cannot be traced: a decision that depends on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("inner", "left"),
    [
        (_Twice(), 3),
        (_Branching(), 1),
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)), 1),
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, affine=False)), 1),
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3)), 1),
    ],
    ids=["read twice", "branching", "batch statistics", "no scale", "activation between"],
)
def test_only_what_is_safe_is_folded(inner: nn.Module, left: int) -> None:
    net, x = nn.Sequential(copy.deepcopy(inner)).double().eval(), normal(1, 2, 3, 4, 4) + 1
    assert norms(folded(net)) == left and torch.allclose(folded(net)(x), net(x), rtol=1e-9)


def test_folding_needs_eval_mode() -> None:
    with pytest.raises(ValueError, match="expected Classifier in eval mode"):
        folded(classifier("cnn", 2))

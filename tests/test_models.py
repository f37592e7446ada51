"""Networks: the specification's parameter counts, groups that are networks of their own, pure patch critics."""

import itertools

import pytest
import torch
from torch import nn

from mi_utils.attacks import patch_mi
from mi_utils.attacks.patch_mi import PatchMI, adversarial_loss, discriminator_loss
from mi_utils.errors import UserError
from mi_utils.models import dcgan
from mi_utils.models.classifiers import ARCHITECTURES, build_classifier
from mi_utils.models.patch_gan import (
    CodeHead,
    Generator,
    PatchDiscriminator,
    init_weights,
    patch_count,
    split_groups,
    stack_groups,
)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=stream(seed), dtype=torch.get_default_dtype())


def classifier(name: str, width: int, channels: int = 1, size: int = 32, seed: int = 0) -> nn.Module:
    return build_classifier(name, width=width, channels=channels, size=size, classes=10, generator=stream(seed))


@pytest.fixture
def double() -> None:
    """New networks and draws in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# ---------------------------------------------------------------- parameter counts


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Generator(1, 64, 1), 3_444_069),
        (lambda: Generator(1, 64, 3), 3_448_167),
        (lambda: Generator(1, 64, 1, classes=10), 4_262_669),
        (lambda: PatchDiscriminator(6, 2, 2, 256, 1), 141_313),
        (lambda: PatchDiscriminator(8, 4, 0, 256, 1), 148_481),
        (lambda: PatchDiscriminator(8, 4, 0, 512, 3), 624_641),
        (lambda: PatchDiscriminator(32, 32, 0, 1024, 1, norm="none"), 3_149_825),
        (lambda: CodeHead(2, 1), 378_626),
        (lambda: dcgan.Generator(64, 1), 3_674_369),
        (lambda: dcgan.Discriminator(64, 1), 661_249),
        (lambda: classifier("resnet18", 64), 11_172_810),
        (lambda: classifier("dla", 16), 16_291_098),
        (lambda: classifier("cnn", 24), 162_562),
        (lambda: classifier("cnn", 40), 449_490),
    ],
)
def test_parameter_counts_of_the_specification(make: object, expected: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in make().parameters()) == expected


@pytest.mark.parametrize("groups", [1, 3])
def test_groups_multiply_the_parameters(groups: int) -> None:
    for make in (lambda k: Generator(2, 4, 1, k), lambda k: PatchDiscriminator(6, 2, 2, 8, 1, k)):
        one, many = (sum(p.numel() for p in make(k).parameters()) for k in (1, groups))
        assert many == groups * one


@pytest.mark.parametrize(
    ("geometry", "expected"), [((6, 2, 2), 256), ((8, 4, 0), 49), ((32, 32, 0), 1), ((36, 1, 2), 1)]
)
def test_number_of_patches(geometry: tuple[int, int, int], expected: int) -> None:
    patch, stride, padding = geometry
    assert patch_count(32, patch, stride, padding) == expected
    d = init_weights(PatchDiscriminator(patch, stride, padding, 2, 1, norm="none"), stream())
    assert d(normal(0, 3, 1, 1, 32, 32)).shape == (3, 1, expected)


def test_a_patch_that_does_not_fit() -> None:
    with pytest.raises(UserError, match="^patch: at most 32 px fit in a 32 px image padded by 0, found 33"):
        patch_count(32, 33, 1, 0)


# ---------------------------------------------------------------- initialisation, shapes


def test_initial_weights_are_those_of_the_specification() -> None:
    net = init_weights(Generator(4, 16, 1, classes=50), stream())
    for module in net.modules():
        if isinstance(module, nn.ConvTranspose2d) and module.weight.numel() > 1000:
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert abs(module.weight.mean().item()) < 2e-3
            assert module.bias is None or not module.bias.any()
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.mean().item() == pytest.approx(1, abs=0.02) and not module.bias.any()
    assert net.label.weight.std().item() == pytest.approx(1, rel=0.1)


def test_initial_weights_are_a_function_of_the_stream() -> None:
    nets = [init_weights(CodeHead(2, 1, width=4), stream(seed)) for seed in (0, 0, 1)]
    first, again, other = (torch.cat([p.flatten() for p in net.parameters()]) for net in nets)
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("upsampling", ["transpose", "resize"])
@pytest.mark.parametrize("classes", [0, 3])
def test_generated_images(upsampling: str, classes: int) -> None:
    net = init_weights(Generator(2, 2, 3, 2, classes, upsampling), stream())
    y = torch.tensor([[0, 1], [1, 0]]) if classes else None
    code = torch.tensor([[0, 0], [0, 1]])
    net.eval()
    x = net(normal(1, 2, 2, 100), code, y)
    assert x.shape == (2, 2, 3, 32, 32) and x.abs().max() <= 1
    same = normal(1, 1, 2, 100).expand(2, 2, 100)
    x = net(same, code, y)
    assert not torch.equal(x[0, 1], x[1, 1]), "code or label has no effect"
    assert torch.equal(x[0, 0], x[1, 0]) == (classes == 0), "label has no effect, or something else has"


def test_dcgan_shapes() -> None:
    g, d = dcgan.Generator(2, 3), dcgan.Discriminator(2, 3)
    x = g(normal(2, 5, 128))
    assert x.shape == (5, 3, 32, 32) and x.abs().max() <= 1 and d(x).shape == (5,)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_classifiers(name: str) -> None:
    width = {"resnet18": 64, "dla": 2, "efficientnet_b0": 32, "efficientnet_b1": 32, "efficientnet_b2": 32}.get(name, 4)
    net, again, other = (classifier(name, width, 3, seed=seed).eval() for seed in (0, 0, 1))
    x = normal(3, 2, 3, 32, 32)
    with torch.no_grad():
        assert net(x).shape == (2, 10) and torch.equal(net(x), net.head(net.features(x)))
        assert torch.equal(net(x), again(x)) and not torch.equal(net(x), other(x))


def test_building_a_classifier_leaves_the_default_stream_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    classifier("cnn", 4)
    assert torch.equal(torch.get_rng_state(), before)


def test_resnet18_has_one_width() -> None:
    with pytest.raises(UserError, match="^width: resnet18 is built at width 64, found 8"):
        classifier("resnet18", 8)


# ---------------------------------------------------------------- groups


@pytest.mark.parametrize(
    "make",
    [
        lambda k: Generator(2, 2, 1, k, 3, "resize"),
        lambda k: PatchDiscriminator(6, 2, 2, 4, 1, k),
        lambda k: CodeHead(5, 1, k, 2),
    ],
    ids=["generator", "discriminator", "head"],
)
def test_stacking_and_splitting_are_inverse(make: object) -> None:
    singles = [init_weights(make(1), stream(seed)) for seed in range(3)]
    grouped = stack_groups(singles, init_weights(make(3), stream(9)))
    back = split_groups(grouped, [init_weights(make(1), stream(8)) for _ in range(3)])
    for one, other in zip(singles, back, strict=True):
        assert all(torch.equal(v, other.state_dict()[name]) for name, v in one.state_dict().items())


def test_no_value_crosses_groups(double: None) -> None:
    net = init_weights(PatchDiscriminator(6, 2, 2, 4, 1, 3), stream())
    x = normal(4, 2, 3, 1, 32, 32)
    changed = x.clone()
    changed[:, 1] += 1
    apart = (net(x) != net(changed)).any(2).any(0)
    assert apart.tolist() == [False, True, False]


UPSAMPLINGS = ("transpose", "resize")


def attack(classes: int, upsampling: str) -> PatchMI:
    """The part of an attack that has nothing to do with stored results."""
    return PatchMI.model_construct(
        classes=tuple(range(classes)), n_gf=2, n_df=3, batch=4, w_a=2.0, d_norm="none", upsampling=upsampling
    )


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_stacked_gans_train_like_networks_of_their_own(
    double: None, upsampling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three updates of all classes at once, by the attack's own steps, against one class after another."""
    k, batch, rate = 3, 4, 1e-3
    pool = torch.randint(0, 256, (20, 1, 32, 32), generator=stream(), dtype=torch.uint8)
    target = nn.Sequential(nn.Flatten(), nn.Linear(1024, k)).requires_grad_(False)
    singles = [
        (
            init_weights(Generator(1, 2, 1, upsampling=upsampling), stream(seed)),
            init_weights(PatchDiscriminator(6, 2, 2, 3, 1, norm="none"), stream(seed)),
        )
        for seed in range(k)
    ]
    together = attack(k, upsampling)
    monkeypatch.setattr(patch_mi, "to_float", lambda images: images.double() / 127.5 - 1)
    g = stack_groups([s[0] for s in singles], Generator(1, 2, 1, k, upsampling=upsampling))
    d = stack_groups([s[1] for s in singles], PatchDiscriminator(6, 2, 2, 3, 1, k, norm="none"))
    curves = {name: [] for name in ("loss_d", "loss_adv", "loss_id")}
    nets = patch_mi.Networks(g, g, nn.ModuleList([d]), None, None, curves)
    adams = [torch.optim.Adam(net.parameters(), rate, betas=(0.5, 0.999)) for net in (g, d)]
    rng, statistics = stream(5), patch_mi.BatchStatistics(nn.Identity())
    for step in range(3):
        z, code, y = together._draw(rng, torch.device("cpu"))
        x = g(z, code)
        together._train_critics(nets, adams[1], pool, x.detach(), rng)
        together._train_generator(nets, adams[0], step, (x, z, code, y), target, statistics, rng)
    each = [one_class(s, i, k, batch, rate, pool, target) for i, s in enumerate(singles)]
    for position, grouped in enumerate((g, d)):
        parts = split_groups(grouped, [type(grouped)(*grouped_arguments(grouped, upsampling)) for _ in range(k)])
        for part, single in zip(parts, singles, strict=True):
            for name, value in single[position].state_dict().items():
                assert torch.allclose(part.state_dict()[name], value, rtol=1e-9, atol=1e-12), name
    for position, name in enumerate(curves):
        expected = torch.tensor([losses[position] for losses in each]).mean(0)
        assert torch.allclose(torch.stack(curves[name]), expected, rtol=1e-9), name


def grouped_arguments(net: nn.Module, upsampling: str) -> tuple:
    """Constructor arguments of one single network."""
    return (1, 2, 1, 1, 0, upsampling) if isinstance(net, Generator) else (6, 2, 2, 3, 1, 1, "none")


def one_class(
    nets: tuple[nn.Module, nn.Module], y: int, k: int, batch: int, rate: float, pool: torch.Tensor, target: nn.Module
) -> tuple[list[float], ...]:
    """The released algorithm for one class, with the draws that the grouped run gives to it."""
    g, d = nets
    g_adam, d_adam = (torch.optim.Adam(net.parameters(), rate, betas=(0.5, 0.999)) for net in nets)
    rng, losses = stream(5), ([], [], [])
    for _ in range(3):
        z = torch.randn(batch, k, 100, generator=rng)[:, y : y + 1]
        code = torch.randint(1, (batch, k), generator=rng)[:, y : y + 1]
        index = torch.randint(len(pool), (batch, k), generator=rng)[:, y]
        x, real = g(z, code), (pool[index].double() / 127.5 - 1)[:, None]
        loss = discriminator_loss(d(real)[:, 0], d(x.detach())[:, 0], 0.4, "mean").mean()
        d_adam.zero_grad()
        loss.backward()
        d_adam.step()
        adversarial = adversarial_loss(d(x)[:, 0], "mean").mean()
        identity = nn.functional.cross_entropy(target(x[:, 0]), torch.full((batch,), y))
        g_adam.zero_grad()
        (adversarial + 2.0 * identity).backward()
        g_adam.step()
        for curve, value in zip(losses, (loss, adversarial, identity), strict=True):
            curve.append(value.item())
    return losses


@pytest.mark.parametrize("norm", ["instance", "none"])
def test_grouped_forward_and_gradients(double: None, norm: str) -> None:
    singles = [init_weights(PatchDiscriminator(8, 4, 0, 3, 1, 1, norm, "replicate"), stream(seed)) for seed in range(2)]
    grouped = stack_groups(singles, PatchDiscriminator(8, 4, 0, 3, 1, 2, norm, "replicate"))
    x = normal(6, 3, 2, 1, 32, 32).requires_grad_()
    apart = torch.cat([net(x[:, i : i + 1]) for i, net in enumerate(singles)], 1)
    assert torch.allclose(grouped(x), apart)
    slopes = [torch.autograd.grad(out.square().sum(), x)[0] for out in (grouped(x), apart)]
    assert torch.allclose(*slopes)


# ---------------------------------------------------------------- patches


@pytest.mark.parametrize(("patch", "stride", "padding"), [(6, 2, 2), (8, 4, 0), (5, 3, 1)])
def test_a_logit_is_the_critics_word_on_the_patch_alone(double: None, patch: int, stride: int, padding: int) -> None:
    d = init_weights(PatchDiscriminator(patch, stride, padding, 4, 1, norm="none"), stream())
    x = normal(7, 2, 1, 1, 32, 32)
    side = int(patch_count(32, patch, stride, padding) ** 0.5)
    grid = d(x).view(2, side, side)
    alone = PatchDiscriminator(patch, patch, 0, 4, 1, norm="none")
    alone.load_state_dict(d.state_dict())
    padded = nn.functional.pad(x, (padding,) * 4)
    for row, column in itertools.product((0, 1, side - 1), repeat=2):
        top, left = row * stride, column * stride
        cut = padded[..., top : top + patch, left : left + patch]
        assert torch.allclose(alone(cut)[:, 0, 0], grid[:, row, column])


@pytest.mark.parametrize("norm", ["none", "instance"])
def test_receptive_field(double: None, norm: str) -> None:
    """A pixel reaches the patches that hold it and, through instance normalisation, all others."""
    d = init_weights(PatchDiscriminator(8, 4, 0, 4, 1, norm=norm), stream())
    x = normal(8, 1, 1, 1, 32, 32).requires_grad_()
    scores = d(x).view(7, 7)
    (slope,) = torch.autograd.grad(scores[2, 3], x)
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[8:16, 12:20] = True
    reached = slope[0, 0, 0] != 0
    assert bool(reached[inside].all())
    assert bool((~reached)[~inside].all()) == (norm == "none")


def test_replicated_borders_differ_from_zeros(double: None) -> None:
    nets = [
        init_weights(PatchDiscriminator(6, 2, 2, 4, 1, norm="none", padding_mode=mode), stream())
        for mode in ("zeros", "replicate")
    ]
    flat = -torch.ones(1, 1, 1, 32, 32)
    zeros, replicate = (net(flat)[0, 0].view(16, 16) for net in nets)
    assert torch.allclose(replicate, replicate[0, 0].expand(16, 16), rtol=1e-9, atol=0)
    assert torch.allclose(zeros[4:12, 4:12], replicate[4:12, 4:12], rtol=1e-9, atol=0)
    assert not torch.allclose(zeros[0], replicate[0], rtol=1e-3, atol=0)

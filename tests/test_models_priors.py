"""Nets of GMI and KEDMI: the specification's parameter counts, minibatch discrimination, rows that do not meet."""

import pytest
import torch
from torch import nn

from mi_utils.errors import UserError
from mi_utils.models.priors import (
    LATENT,
    Critic,
    Generator,
    KnowledgeDiscriminator,
    MinibatchDiscrimination,
    init_prior,
)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=stream(seed), dtype=torch.float64)


def lively(net: nn.Module) -> nn.Module:
    """Float64, and weights large enough that every input matters."""
    net = init_prior(net, stream()).double().eval()
    for m in net.modules():
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            m.weight.data.mul_(10)
        if isinstance(m, MinibatchDiscrimination):
            m.weight.data.mul_(0.05)  # closeness neither 0 nor 1
    return net


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (lambda: Generator(3, 64, 64), 5_142_083),
        (lambda: Generator(1, 32, 64), 1_443_777),
        (lambda: Critic(3, 64, 64), 4_316_545),
        (lambda: Critic(1, 32, 64), 1_030_913),
        (lambda: KnowledgeDiscriminator(3, 64, 64, 1000), 18_888_936),
        (lambda: KnowledgeDiscriminator(1, 32, 64, 5), 4_899_781),
    ],
    ids=["G 64", "G 32", "critic 64", "critic 32", "KEDMI D 64", "KEDMI D 32"],
)
def test_parameter_counts_of_the_specification(net: object, expected: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in net().parameters()) == expected


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_and_range(size: int, channels: int) -> None:
    x = lively(Generator(channels, size, 2))(normal(0, 5, LATENT) * 3)
    assert x.shape == (5, channels, size, size) and x.abs().max() <= 1 and x.std() > 0.1
    assert lively(Critic(channels, size, 2))(x).shape == (5,)
    d = lively(KnowledgeDiscriminator(channels, size, 2, 7, 3, 4))
    assert d(x).shape == (5, 7) and d.features(x).shape == (5, 8 * (size // 16) ** 2)


def test_the_generator_ends_in_a_sigmoid_mapped_to_our_range() -> None:
    g = lively(Generator(1, 32, 2))
    g.body[-1].weight.data.zero_()
    for shift in (-2.0, 0.0, 1.5):
        g.body[-1].bias.data.fill_(shift)
        released = torch.tensor(shift, dtype=torch.float64).sigmoid()
        assert torch.allclose(g(normal(0, 2, LATENT)), 2 * released - 1)


@pytest.mark.parametrize("net", [Generator, Critic, lambda c, s, w: KnowledgeDiscriminator(c, s, w, 3)])
def test_another_side_is_a_user_error(net: object) -> None:
    with pytest.raises(UserError, match="^size: expected images of 32 or 64 px .*found 48"):
        net(3, 48, 4)


# ---------------------------------------------------------------- minibatch discrimination


def naive(f: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The definition, one pair of rows and one output at a time."""
    n, outputs = len(f), weight.shape[1]
    o = torch.zeros(n, outputs, dtype=f.dtype)
    for b in range(outputs):
        t = [row @ weight[:, b] for row in f]
        for i in range(n):
            o[i, b] = sum((-(t[i] - t[j]).abs().sum()).exp() for j in range(n) if j != i)
    return o


def test_minibatch_discrimination_is_its_definition() -> None:
    net, f = MinibatchDiscrimination(6, 3, 4).double(), normal(1, 5, 6).requires_grad_()
    net.weight.data = 0.2 * normal(2, 6, 3, 4)
    expected = naive(f, net.weight)
    assert expected.min() > 1e-3 and torch.allclose(net(f), expected, rtol=1e-9)
    weights = normal(3, 5, 3)
    for tensor in (f, net.weight):
        fast, slow = (torch.autograd.grad((o * weights).sum(), tensor)[0] for o in (net(f), naive(f, net.weight)))
        assert torch.allclose(fast, slow, rtol=1e-8, atol=1e-12)


def test_equal_rows_count_each_other_and_a_lone_row_counts_nobody() -> None:
    net = MinibatchDiscrimination(6, 3, 4).double()
    net.weight.data = normal(2, 6, 3, 4)
    row = normal(1, 1, 6)
    assert torch.allclose(net(row.expand(4, 6)), torch.full((4, 3), 3.0, dtype=torch.float64))
    assert torch.equal(net(row), torch.zeros(1, 3, dtype=torch.float64))


# ---------------------------------------------------------------- rows


def test_rows_meet_in_minibatch_discrimination_alone() -> None:
    x = normal(4, 4, 1, 32, 32)
    critic, d = lively(Critic(1, 32, 2)), lively(KnowledgeDiscriminator(1, 32, 2, 5, 3, 4))
    for judge in (critic, d.features, lambda x: d(x, coupled=False)):
        alone = torch.cat([judge(row[None]) for row in x])
        assert torch.allclose(judge(x), alone, rtol=1e-9, atol=1e-12)
    assert (d(x) - d(x, coupled=False)).abs().min() > 1e-6, "coupled, every row feels the others"
    assert torch.allclose(d(x[:1]), d(x[:1], coupled=False))
    assert torch.equal(d(x), d.classify(d.features(x))) and not torch.equal(critic(x), critic(x.flip(3)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Generator(1, 32, 2),
        lambda: Critic(1, 32, 2),
        lambda: KnowledgeDiscriminator(1, 32, 8, 5, 16, 20),
    ],
    ids=["generator", "critic", "discriminator"],
)
def test_first_weights_are_the_streams_alone(make: object) -> None:
    nets = []
    for default in (0, 1):
        torch.manual_seed(default)
        nets.append(init_prior(make(), stream(7)).state_dict())
    other = init_prior(make(), stream(8)).state_dict()
    for name, value in nets[0].items():
        assert torch.equal(value, nets[1][name]), name
        if name.endswith("weight") and value.ndim > 1:
            assert not torch.equal(value, other[name])
            assert value.std().item() == pytest.approx(1 if name == "mbd.weight" else 0.02, rel=0.2)

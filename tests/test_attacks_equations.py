"""The equations of the Patch-MI family against closed forms, hand calculation and finite differences."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from mi_utils.attacks.batch_statistics import BatchStatistics, channel_distance
from mi_utils.attacks.generative import realism_loss
from mi_utils.attacks.identity import Views, identity_loss
from mi_utils.attacks.patch_mi import (
    adversarial_loss,
    critic_loss,
    discriminator_loss,
    equilibrium,
    identity_weight,
    latent_regression,
)
from mi_utils.attacks.vmi import Posterior, standard_log_density
from mi_utils.data.augment import Augment, Flip, Rotate
from mi_utils.training.gan import soft_bce

DOUBLE = torch.float64
REDUCES = ["mean", "patch"]
logits = st.lists(st.floats(-8, 8), min_size=1, max_size=6)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# ---------------------------------------------------------------- critic


@given(logits, logits, st.floats(0.05, 1))
def test_discriminator_loss_by_hand(real: list[float], fake: list[float], tau: float) -> None:
    def entropy(d: float, t: float) -> float:
        return -t * math.log(sigma(d)) - (1 - t) * math.log(1 - sigma(d))

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    d_real, d_fake = torch.tensor([real], dtype=DOUBLE), torch.tensor([fake], dtype=DOUBLE)
    by_mean = entropy(mean(real), tau) + entropy(mean(fake), 0)
    by_patch = mean([entropy(d, tau) for d in real]) + mean([entropy(d, 0) for d in fake])
    found = [discriminator_loss(d_real, d_fake, tau, reduce).item() for reduce in REDUCES]
    assert found == pytest.approx([by_mean, by_patch], rel=1e-6, abs=1e-9)
    # Jensen: the cross-entropy is convex in the logit.
    assert found[1] >= found[0] - 1e-9


def test_reductions_agree_on_equal_patches_and_stay_per_sample() -> None:
    d = normal(0, 5, 1).expand(5, 7)
    losses = [critic_loss(d, 0.4, reduce) for reduce in REDUCES]
    assert losses[0].shape == (5,) and torch.allclose(*losses)
    assert torch.allclose(adversarial_loss(d, "mean"), -torch.sigmoid(d[:, 0]).log())


@pytest.mark.parametrize(("tau", "expected"), [(0.4, (1.001, 1.609)), (0.3, (0.845, 1.897))])
def test_equilibrium_values_and_that_it_is_one(tau: float, expected: tuple[float, float]) -> None:
    assert equilibrium(tau) == pytest.approx(expected, abs=5e-4)
    d = torch.logit(torch.tensor([[tau / 2]], dtype=DOUBLE)).requires_grad_()
    (slope,) = torch.autograd.grad(discriminator_loss(d, d, tau, "mean").sum(), d)
    assert slope.abs().max() < 1e-12


def test_gradient_weight_of_a_patch() -> None:
    # "mean": every patch gets -sigma(-mean d)/N; "patch": its own -sigma(-d_i)/N.
    d = normal(1, 3, 4).requires_grad_()
    (mean,) = torch.autograd.grad(adversarial_loss(d, "mean").sum(), d)
    (patch,) = torch.autograd.grad(adversarial_loss(d, "patch").sum(), d)
    assert torch.allclose(mean, -torch.sigmoid(-d.mean(1, keepdim=True)).expand(3, 4) / 4)
    assert torch.allclose(patch, -torch.sigmoid(-d) / 4)


@pytest.mark.parametrize("reduce", REDUCES)
def test_gradients_against_finite_differences(reduce: str) -> None:
    d, fake = normal(2, 3, 5).requires_grad_(), normal(3, 3, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: discriminator_loss(a, b, 0.4, reduce), (d, fake))
    assert torch.autograd.gradcheck(lambda a: adversarial_loss(a, reduce), d)
    scores, z = normal(4, 2, 3, 4).requires_grad_(), normal(5, 3, 1, 4)
    y = torch.tensor([1, 3, 0])
    for combine in ("loss", "logit"):
        assert torch.autograd.gradcheck(lambda a, how=combine: identity_loss(a, y, how), scores)
    assert torch.autograd.gradcheck(lambda a: latent_regression(a, z), normal(6, 3, 1, 4).requires_grad_())
    for double_sigmoid in (False, True):
        line = normal(7, 4).requires_grad_()
        assert torch.autograd.gradcheck(lambda a, how=double_sigmoid: realism_loss(a, how), line)


def test_weight_ramp() -> None:
    assert [identity_weight(step, 10.0, 2.0, 4) for step in (0, 1, 3, 4, 99)] == [2, 4, 8, 10, 10]
    assert identity_weight(0, 30.0, 0.0, 0) == 30.0


def test_latent_regression_by_hand() -> None:
    estimate, z = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]]), torch.tensor([[[0.0, 0.0]], [[0.0, 3.0]]])
    assert latent_regression(estimate, z).tolist() == [2.5, 4.5]


def test_realism_and_dcgan_losses_in_closed_form() -> None:
    d = torch.tensor([-30.0, 0.0, 2.0, 30.0], dtype=DOUBLE)
    assert torch.allclose(realism_loss(d, False), -torch.sigmoid(d).log())
    released = realism_loss(d, True)
    assert torch.allclose(released, -torch.sigmoid(torch.sigmoid(d)).log())
    assert released.max() <= 0.6932 and released.min() >= 0.3132
    assert torch.allclose(soft_bce(d[1:3], 0.8), -0.8 * d[1:3].sigmoid().log() - 0.2 * (-d[1:3]).sigmoid().log())


# ---------------------------------------------------------------- identity


def test_identity_loss_by_hand() -> None:
    # Two views of one image, two classes, target class 1: logit differences 0 and 2.
    views = torch.tensor([[[0.0, 0.0]], [[0.0, 2.0]]], dtype=DOUBLE)
    y = torch.tensor([1])
    by_loss = (-math.log(sigma(0)) - math.log(sigma(2))) / 2
    assert identity_loss(views, y, "loss").item() == pytest.approx(by_loss)
    assert identity_loss(views, y, "logit").item() == pytest.approx(-math.log(sigma(1)))


def test_identity_loss_pairs_images_with_their_labels() -> None:
    views, y = normal(8, 3, 4, 5), torch.tensor([0, 4, 2, 2])
    for combine in ("loss", "logit"):
        alone = [identity_loss(views[:, i : i + 1], y[i : i + 1], combine) for i in range(4)]
        assert torch.allclose(identity_loss(views, y, combine), torch.cat(alone))


@pytest.mark.parametrize("draw", ["batch", "sample"])
def test_views_begin_with_the_identity(draw: str) -> None:
    x = normal(9, 6, 1, 8, 8).float().clamp(-1, 1)
    block = Views(count=4, transform=Augment(steps=(Rotate(degrees=20),), draw=draw))
    seen = []

    def target(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return images.flatten(1)

    found = block.logits(target, x, torch.Generator().manual_seed(0))
    assert len(seen) == 1 and found.shape == (4, 6, 64)
    assert torch.equal(found[0], x.flatten(1))
    assert all(not torch.allclose(found[v], found[0], atol=1e-2) for v in (1, 2, 3))
    assert not torch.allclose(found[1], found[2], atol=1e-2), "two views with one draw"


def test_views_keep_the_order_of_the_images() -> None:
    x = normal(10, 5, 1, 4, 4).float()
    always = Views(count=2, transform=Augment(steps=(Flip(horizontal=1.0),), fill=0))
    found = always.logits(lambda images: images.flatten(1), x, torch.Generator())
    assert torch.allclose(found[1], x.flip(3).flatten(1), atol=1e-5)


# ---------------------------------------------------------------- batch statistics


def layer(mean: list[float], var: list[float]) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(len(mean), eps=0.0).eval()
    norm.running_mean, norm.running_var = torch.tensor(mean), torch.tensor(var)
    return norm


def test_batch_statistics_by_hand() -> None:
    norm = layer([1.0, 0.0], [4.0, 1.0])
    found = channel_distance(torch.tensor([3.0, 0.0]), torch.tensor([4.0, math.e]), norm)
    assert found.item() == pytest.approx((4 / 4 + 1) / 2)


def test_batch_statistics_vanish_exactly_where_they_match_and_average_over_layers() -> None:
    x = normal(11, 64, 3, 4, 4).float()
    var, mean = torch.var_mean(x, (0, 2, 3))
    same, off = layer(mean.tolist(), var.tolist()), layer((mean + var.sqrt()).tolist(), var.tolist())
    with BatchStatistics(nn.ModuleList([same, off])) as statistics:
        same(x)
        assert statistics.loss() < 1e-10
        same(x), off(x)
        assert statistics.loss().item() == pytest.approx(0.5, rel=1e-4)
    assert not same._forward_pre_hooks


def test_batch_statistics_pull_images_towards_the_training_set() -> None:
    norm = layer([0.5], [0.25])
    x = normal(12, 32, 1, 4, 4).float().requires_grad_()
    sgd = torch.optim.Adam([x], 0.05)
    with BatchStatistics(norm) as statistics:
        for _ in range(150):
            sgd.zero_grad()
            norm(x)
            statistics.loss().backward()
            sgd.step()
    assert x.mean().item() == pytest.approx(0.5, abs=0.02) and x.var().item() == pytest.approx(0.25, abs=0.02)


# ---------------------------------------------------------------- variational posterior


def mixture(k: int = 2, m: int = 3, d: int = 4) -> Posterior:
    posterior = Posterior(normal(13, k, m, d), 1e-3).double()
    posterior.scale.data = torch.eye(d, dtype=DOUBLE) + 0.5 * normal(14, k, m, d, d)
    posterior.logits.data = normal(15, k, m)
    return posterior


def test_mixture_density_against_torch_distributions() -> None:
    q, w = mixture(), 2 * normal(16, 2, 50, 4)
    covariance = q.scale @ q.scale.mT + 1e-3 * torch.eye(4, dtype=DOUBLE)
    for k in range(2):
        each = MultivariateNormal(q.mean[k], covariance_matrix=covariance[k])
        expected = MixtureSameFamily(Categorical(logits=q.logits[k]), each).log_prob(w[k])
        assert torch.allclose(q.log_density(w, q.factor())[k], expected)
    plain = MultivariateNormal(torch.zeros(4, dtype=DOUBLE), torch.eye(4, dtype=DOUBLE)).log_prob(w)
    assert torch.allclose(standard_log_density(w), plain)


def test_samples_have_the_mixtures_moments() -> None:
    q, n = mixture(1), 40_000
    gumbel = -torch.empty(1, n, 3, dtype=DOUBLE).exponential_(generator=torch.Generator().manual_seed(3)).log()
    with torch.no_grad():
        w = q.sample(normal(17, 1, n, 4), gumbel, q.factor(), 1.0)[0]
        share = q.logits[0].softmax(0)
        mean = (share[:, None] * q.mean[0]).sum(0)
        second = q.scale[0] @ q.scale[0].mT + 1e-3 * torch.eye(4) + q.mean[0, :, :, None] * q.mean[0, :, None]
        covariance = (share[:, None, None] * second).sum(0) - mean[:, None] * mean
    assert torch.allclose(w.mean(0), mean, atol=0.05)
    assert torch.allclose(w.T.cov(), covariance, atol=0.15)


def test_the_choice_of_a_component_is_hard_and_its_gradient_soft() -> None:
    q, noise = mixture(1), normal(18, 1, 5, 4)
    gumbel = -torch.empty(1, 5, 3, dtype=DOUBLE).exponential_(generator=torch.Generator().manual_seed(4)).log()
    factor = q.factor()
    w = q.sample(noise, gumbel, factor, 0.7)
    every = torch.stack([q.mean[0, k] + noise[0] @ factor[0, k].T for k in range(3)])
    chosen = (q.logits[0] + gumbel[0]).argmax(1)
    assert torch.allclose(w[0], every[chosen, range(5)])
    (slope,) = torch.autograd.grad(w.sum(), q.logits)
    soft = ((q.logits + gumbel[0]) / 0.7).softmax(1)
    (expected,) = torch.autograd.grad((soft * every.detach().sum(2).T).sum(), q.logits)
    assert torch.allclose(slope, expected)


def test_the_divergence_falls_to_zero_at_the_prior() -> None:
    q = Posterior(torch.zeros(1, 2, 4, dtype=DOUBLE), 1e-12).double()
    w = normal(19, 1, 100, 4)
    assert torch.allclose(q.log_density(w, q.factor()), standard_log_density(w), atol=1e-9)

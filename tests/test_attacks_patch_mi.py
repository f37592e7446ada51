"""Patch-MI's steps: the generator's objective written out once more, sampling, and that every option acts."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from toys import ALL_TERMS, ATTACKS, PATCH_MI, POOL, TARGET, tensors

from mi_utils.attacks.batch_statistics import BatchStatistics
from mi_utils.attacks.identity import Views
from mi_utils.attacks.patch_mi import Critic
from mi_utils.data.images import to_uint8
from mi_utils.models.patch_gan import CodeHead
from mi_utils.runtime import generator

CPU = torch.device("cpu")
BASE = ATTACKS["patch-mi all terms"]
CONDITIONAL = ATTACKS["patch-mi conditional"]


@pytest.mark.parametrize("gan", ["per_class", "class_cond"])
def test_the_generators_gradient_is_that_of_the_whole_objective(gan: str) -> None:
    """-log sigma(d) + w_a CE(T) + w_bn statistics + w_c CE(Q) + w_z |Q(x) - z|^2, each averaged over the batch."""
    weights = {"w_a": 3.0, "w_a_start": 1.0, "ramp": 4, "w_bn": 0.5, "w_c": 0.7, "w_z": 1.5}
    attack = BASE.model_copy(update=weights | {"gan": gan, "views": Views(), "instance_noise": 0.0})
    target, k = TARGET.network(CPU), attack.groups
    nets = attack._networks(1, CPU)
    params = [*nets.generator.parameters(), *nets.code.parameters(), *nets.latent.parameters()]
    z, code, y = attack._draw(generator("draws"), CPU)
    label = torch.tensor(attack.classes)[y]
    before = [p.detach().clone() for p in params]

    x = nets.generator(z, code, y if gan == "class_cond" else None)
    adversarial = [-torch.sigmoid(d(x)).log().mean() for d in nets.critics]
    with BatchStatistics(target) as statistics:
        identity = F.cross_entropy(target(x.flatten(0, 1)), label.flatten())
        loss = sum(adversarial) / 2 + (1.0 + (3.0 - 1.0) * 1 / 4) * identity + 0.5 * statistics.loss()
    loss = loss + 0.7 * F.cross_entropy(nets.code(x).flatten(0, 1), code.flatten())
    loss = loss + 1.5 * F.mse_loss(nets.latent(x), z)
    expected = torch.autograd.grad(loss, params, allow_unused=True)

    sgd, rng = torch.optim.SGD(params, 1.0), generator("views")
    critics = [p.clone() for p in nets.critics.parameters()]
    x = nets.generator(z, code, y if gan == "class_cond" else None)
    with BatchStatistics(target) as statistics:
        attack._train_generator(nets, sgd, 1, (x, z, code, y), target, statistics, rng)
    for p, old, slope in zip(params, before, expected, strict=True):
        # Every class's loss counts in full: the mean over K groups is multiplied by K.
        # A bias before batch normalisation has gradient 0 but for rounding, which the norm's bound lets pass.
        assert (old - p - k * slope).norm() < 1e-3 * (k * slope).norm() + 1e-4
    assert all(torch.equal(p, q) for p, q in zip(critics, nets.critics.parameters(), strict=True))
    assert all(p.grad is None and p.requires_grad for p in nets.critics.parameters()), "gradients without use"


def test_the_critics_gradient_is_that_of_the_whole_objective() -> None:
    attack = BASE.model_copy(update={"instance_noise": 0.0, "tau": 0.3})
    nets, pool = attack._networks(1, CPU), POOL.images(CPU)
    fake = torch.randn(4, 2, 1, 32, 32, generator=generator("fake"))
    index = torch.randint(len(pool), (4, 2), generator=generator("index"))
    real = pool[index].float() / 127.5 - 1
    params = list(nets.critics.parameters())
    before = [p.detach().clone() for p in params]
    loss = torch.zeros(())
    for d in nets.critics:
        on_real, on_fake = d(real).sigmoid(), d(fake).sigmoid()
        loss = loss - (0.3 * on_real.log() + 0.7 * (1 - on_real).log()).mean() - (1 - on_fake).log().mean()
    expected = torch.autograd.grad(loss / 2, params)
    attack._train_critics(nets, torch.optim.SGD(params, 1.0), pool, fake, generator("index"))
    for p, old, slope in zip(params, before, expected, strict=True):
        assert torch.allclose(old - p, 2 * slope, rtol=1e-3, atol=2e-6)
    assert nets.curves["loss_d"][0].item() == pytest.approx(loss.item() / 2, rel=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"w_a": 3.0},
        {"w_a_start": 5.0},
        {"ramp": 4},
        {"tau": 0.9},
        {"critics": (Critic(patch=8, stride=4, padding=0),)},
        {"d_reduce": "mean"},
        {"d_norm": "none"},
        {"d_padding": "zeros", "critics": (Critic(),)},
        {"views": Views()},
        {"views": BASE.views.model_copy(update={"combine": "loss"})},
        {"n_codes": 1},
        {"w_c": 3.0},
        {"upsampling": "transpose"},
        {"instance_noise": 0.0},
        {"w_z": 0.0},
        {"w_bn": 0.0},
        {"average": 0.0},
        {"lr": 1e-2},
        {"gan": "class_cond"},
    ],
    ids=lambda change: " ".join(change),
)
def test_every_option_acts(change: dict, tmp_path: Path) -> None:
    fields = {"d_padding": "replicate", "critics": (Critic(),)} if "d_padding" in change else {}
    base = BASE.model_copy(update=fields)
    found = tensors(base.model_copy(update=change), tmp_path)
    weights = [name for name in found if not torch.equal(found[name], base.result("cpu").tensors[name])]
    assert weights, "the option is not read"


@pytest.mark.parametrize("attack", [BASE, CONDITIONAL], ids=["per_class", "class_cond"])
def test_samples_are_those_of_the_generator_in_eval_mode(attack: object) -> None:
    net = attack._networks(1, CPU).average.train()
    k, rng = attack.groups, generator("patch-mi samples", attack.seed)
    images, labels = attack._sample(net, CPU)
    z = torch.randn((6 // k, k, 100), generator=rng)
    code = torch.randint(2, (6 // k, k), generator=rng)
    y = torch.tensor([0, 1] * 3).view(6 // k, k)
    x = net.eval()(z, code, y if k == 1 else None)
    assert torch.equal(images, to_uint8(x.flatten(0, 1))) and labels.tolist() == [2, 0] * 3


def test_the_moving_average_starts_at_the_weights_and_follows_them() -> None:
    nets = BASE._networks(1, CPU)
    mean, now = next(nets.average.parameters()), next(nets.generator.parameters())
    assert torch.equal(mean, now) and mean is not now
    with torch.no_grad():
        now += 1
    BASE._follow(nets)
    assert torch.allclose(now - mean, torch.full_like(now, 0.9), atol=1e-6)
    off = PATCH_MI._networks(1, CPU)
    assert off.average is off.generator


def test_instance_noise_has_its_standard_deviation() -> None:
    x = torch.full((50, 2, 1, 32, 32), 0.5)
    added = BASE._noisy(x, generator("noise")) - x
    assert added.std().item() == pytest.approx(0.1, rel=0.02) and abs(added.mean().item()) < 1e-3
    assert PATCH_MI._noisy(x, generator("noise")) is x


def test_a_single_patch_is_not_normalised() -> None:
    """Its grid has one place, where instance normalisation is zero whatever the image."""
    whole = PATCH_MI._critic(Critic(patch=32, stride=32, padding=0), 1)
    x = torch.randn(2, 2, 1, 32, 32, generator=generator("x"))
    assert not torch.allclose(whole(x)[0], whole(x)[1])
    assert PATCH_MI.d_norm == "instance" and whole(x).shape == (2, 2, 1)


def test_a_longer_attack_convinces_the_target(tmp_path: Path) -> None:
    longer = PATCH_MI.model_copy(update={"iterations": 150, "n_gf": 4, "w_a": 10.0})
    found = tensors(longer, tmp_path)
    said = TARGET.network("cpu")(found["images"].float() / 127.5 - 1).argmax(1)
    assert torch.equal(said, found["labels"])
    assert found["log_loss_id"][-10:].mean() < 0.1 * found["log_loss_id"][:10].mean()


def test_the_heads_have_a_place_in_the_objective_only_where_asked() -> None:
    off, on = PATCH_MI._networks(1, CPU), BASE._networks(1, CPU)
    assert off.code is None and off.latent is None
    assert isinstance(on.code, CodeHead) and isinstance(on.latent, CodeHead) and "code" in BASE._state(on)
    assert set(ALL_TERMS) <= set(type(BASE).model_fields)

"""Losses of GMI's and KEDMI's GANs in closed form; their stages against plain passes, and what they leave alone."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toys import POOL, TARGET, interrupted, same, tensors

from mi_utils.data import LatinSheet, Noise
from mi_utils.data.images import to_float, to_uint8
from mi_utils.errors import UserError
from mi_utils.models.classifiers import Classifier
from mi_utils.models.priors import LATENT, KnowledgeDiscriminator
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Stage, StageFailed
from mi_utils.training import priors
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.priors import (
    TrainGMI,
    TrainKEDMI,
    critic_loss,
    descend,
    entropy,
    fake_loss,
    feature_matching,
    generator_loss,
    gradient_penalty,
    real_loss,
    realness,
    soft_label_loss,
)

PUBLIC = POOL.source.model_copy(update={"size": 32})
SMALL = {"public": PUBLIC, "width": 2, "d_width": 2, "batch": 6, "steps": 11, "critic_steps": 3}
GMI = TrainGMI(**SMALL)
KEDMI = TrainKEDMI(**SMALL, target=TARGET, mbd_outputs=4, mbd_kernel=3)
LONG = {"width": 4, "d_width": 4, "batch": 16, "steps": 200, "critic_steps": 2, "lr": 2e-3}
STAGES = {"gmi": GMI, "kedmi": KEDMI, "kedmi averaged": KEDMI.model_copy(update={"average": 0.9})}
every_stage = pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES.keys())
both_stages = pytest.mark.parametrize("stage", [GMI, KEDMI], ids=["gmi", "kedmi"])


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------- losses of GMI


def test_the_penalty_of_a_linear_critic() -> None:
    r"""D(x) = <w, x> has slope w everywhere: 10 (|w| - 1)^2, whose gradient is 20 (|w| - 1) w / |w|."""
    w, x = normal(0, 1, 4, 4).requires_grad_(), normal(1, 5, 1, 4, 4)
    penalty = 10 * gradient_penalty(lambda x: (x * w).flatten(1).sum(1), x, x.flip(0), torch.rand(5).double())
    length = w.detach().norm()
    assert torch.allclose(penalty, (10 * (length - 1).square()).expand(5))
    penalty.mean().backward()
    assert torch.allclose(w.grad, 20 * (length - 1) * w.detach() / length)


def test_the_penalty_is_taken_between_real_and_generated_images() -> None:
    r"""D(x) = c |x|^2 / 2 has slope c x, so the penalty tells where it was taken."""
    real, fake, mix = normal(2, 3, 1, 4, 4), normal(3, 3, 1, 4, 4), torch.tensor([0.0, 0.25, 1.0]).double()
    c = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    penalty = gradient_penalty(lambda x: c / 2 * x.square().flatten(1).sum(1), real, fake, mix)
    between = torch.stack([real[0], 0.75 * real[1] + 0.25 * fake[1], fake[2]])
    length = between.flatten(1).norm(dim=1)
    assert torch.allclose(penalty, (0.7 * length - 1).square())
    penalty.sum().backward()
    assert torch.allclose(c.grad, (2 * (0.7 * length - 1) * length).sum())


def test_the_critic_is_to_tell_and_the_generator_to_please() -> None:
    real, fake = torch.tensor([3.0, 1.0]), torch.tensor([-1.0, 2.0])
    assert critic_loss(real, fake).tolist() == [-4.0, 1.0] and generator_loss(fake).tolist() == [1.0, -2.0]


# ---------------------------------------------------------------- losses of KEDMI


def test_softplus_losses_are_those_of_a_sigmoid() -> None:
    logits = 3 * normal(4, 6, 5)
    sigma = logits.exp().sum(1) / (1 + logits.exp().sum(1))
    assert torch.allclose(realness(logits), logits.exp().sum(1).log())
    assert torch.allclose(real_loss(logits), -sigma.log())
    assert torch.allclose(fake_loss(logits), -(1 - sigma).log())
    # Of K equal logits c, a = c + log K; no overflow far out.
    assert torch.allclose(real_loss(torch.full((1, 4), 0.5)), torch.tensor(1 / (4 * math.exp(0.5))).log1p())
    far = torch.full((1, 4), 500.0)
    assert real_loss(far).item() == 0 and fake_loss(far).item() == pytest.approx(500 + math.log(4))


def test_soft_label_loss_is_least_where_the_discriminator_agrees() -> None:
    answers = normal(5, 6, 5).softmax(1)
    own = -(answers * answers.log()).sum(1)
    assert torch.allclose(soft_label_loss(answers.log() + 2, answers), own)
    logits = normal(6, 6, 5)
    divergence = F.kl_div(logits.log_softmax(1), answers, reduction="none").sum(1)
    assert torch.allclose(soft_label_loss(logits, answers) - own, divergence) and divergence.min() > 0
    hard = F.one_hot(torch.arange(5)).double()
    expected = F.cross_entropy(logits[:5], torch.arange(5), reduction="none")
    assert torch.allclose(soft_label_loss(logits[:5], hard), expected)


def test_feature_matching_compares_means() -> None:
    f = normal(7, 6, 8)
    assert feature_matching(f.flip(0), f).item() == pytest.approx(0, abs=1e-12)
    shift = torch.tensor([1.0, -3.0] * 4)
    assert feature_matching(f + shift, f).item() == pytest.approx(2)
    assert feature_matching(torch.cat([f, f]) + shift, f).item() == pytest.approx(2), "batches may differ in size"


def test_entropy_is_log_k_at_most() -> None:
    logits = torch.tensor([[0.0] * 4, [1000.0, 0, 0, 0], [math.log(3), 0, -1000, -1000]])
    expected = [math.log(4), 0, -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))]
    assert entropy(logits).tolist() == pytest.approx(expected, abs=1e-6)


# ---------------------------------------------------------------- one step


def drawn(stream: torch.Generator, images: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    index = torch.randint(len(images), (count,), generator=stream)
    return index, to_float(images[index])


def test_the_critics_loss_is_that_of_separate_passes() -> None:
    critic, g, images = GMI.critic("cpu").requires_grad_(True), GMI.generator("cpu"), PUBLIC.load().images
    fake = g(torch.randn(6, LATENT, generator=seeded("z")))
    loss = GMI._critic_loss(critic, images, fake, seeded("step"))
    rng = seeded("step")
    _, real = drawn(rng, images, 6)
    mix = torch.rand(6, generator=rng)
    expected = critic(fake).mean() - critic(real).mean() + 10 * gradient_penalty(critic, real, fake, mix).mean()
    assert torch.allclose(loss, expected, atol=1e-5)
    free = GMI.model_copy(update={"penalty": 0.0})._critic_loss(critic, images, fake, seeded("step"))
    assert torch.allclose(free, critic(fake).mean() - critic(real).mean(), atol=1e-5)


def test_kedmis_losses_are_those_of_separate_independent_batches() -> None:
    d, g, images = KEDMI.discriminator("cpu").requires_grad_(True), KEDMI.generator("cpu"), PUBLIC.load().images
    d.mbd.weight.data.mul_(0.02)  # so that rows feel each other
    answers = TARGET.network("cpu")(to_float(images)).softmax(1)
    fake = g(torch.randn(6, LATENT, generator=seeded("z")))
    rng, again = seeded("step"), seeded("step")
    loss = KEDMI._discriminator_loss(d, images, answers, fake, rng)
    (index, x), (other_index, other) = (drawn(again, images, 6) for _ in range(2))
    assert (d(fake) - d(fake, coupled=False)).abs().max() > 1e-3
    adversarial = F.softplus(-d(other).logsumexp(1)).mean() + F.softplus(d(fake).logsumexp(1)).mean()
    expected = F.cross_entropy(d(x), answers[index]) + adversarial / 2
    assert torch.allclose(loss, expected, atol=1e-5)

    loss = KEDMI.model_copy(update={"entropy_weight": 0.3})._generator_loss(d, images, fake, rng)
    third_index, third = drawn(again, images, 6)
    apart = (d.features(fake).mean(0) - d.features(third).mean(0)).abs().mean()
    spread = torch.distributions.Categorical(logits=d(fake)).entropy().sum()
    assert torch.allclose(loss, apart + 0.3 * spread, atol=1e-5)
    assert len({tuple(i.tolist()) for i in (index, other_index, third_index)}) == 3


@both_stages
def test_a_generator_step_follows_every_few_steps_without_a_graph(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whose loss was asked for, in order; the discriminator learns from plain images, the generator leaves it alone."""
    order: list[str] = []
    judge: list[nn.Module] = []

    def told(adam: torch.optim.Adam, loss: torch.Tensor) -> torch.Tensor:
        params = [p for group in adam.param_groups for p in group["params"]]
        before = [p.detach().clone() for net in judge for p in net.parameters()]
        value = descend(adam, loss)
        if any(p is q for net in judge for p in net.parameters() for q in params):
            order.append("d")
        else:
            order.append("g")
            now = [p for net in judge for p in net.parameters()]
            assert all(torch.equal(p, q) for p, q in zip(now, before, strict=True))
        return value

    def remembered(self: Stage, net: nn.Module, device: torch.device) -> nn.Module:
        made = fresh(self, net, device)
        if not isinstance(made, priors.Generator):
            judge.append(made)
        return made

    name = "_critic_loss" if stage is GMI else "_discriminator_loss"
    fresh, loss = type(stage)._fresh, getattr(type(stage), name)

    def plain(self: Stage, *inputs: object) -> torch.Tensor:
        assert not any(isinstance(i, torch.Tensor) and i.requires_grad for i in inputs)
        return loss(self, *inputs)

    monkeypatch.setattr(priors, "descend", told)
    monkeypatch.setattr(type(stage), "_fresh", remembered)
    monkeypatch.setattr(type(stage), name, plain)
    curves = tensors(stage, tmp_path)
    assert "".join(order) == "dddgdddgdddgdd"
    assert curves["log_loss_d"].shape == (11,) and curves["log_loss_g"].shape == (3,)


# ---------------------------------------------------------------- stages


def test_the_target_is_read_and_never_changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nets: list[Classifier] = []
    before: list[dict] = []
    opened = TrainClassifier.network

    def network(self: TrainClassifier, device: torch.device) -> Classifier:
        nets.append(opened(self, device).requires_grad_(True))
        before.append({name: value.clone() for name, value in nets[-1].state_dict().items()})
        return nets[-1]

    monkeypatch.setattr(TrainClassifier, "network", network)
    tensors(KEDMI, tmp_path)
    assert nets and not any(net.training for net in nets)
    for net, state in zip(nets, before, strict=True):
        assert same(dict(net.state_dict()), state) and all(p.grad is None for p in net.parameters())

    monkeypatch.setattr(TrainClassifier, "network", lambda self, device: opened(self, device).train())
    with pytest.raises(AssertionError, match="eval mode"):
        tensors(KEDMI, tmp_path / "again")


def test_gmi_reads_public_images_alone() -> None:
    assert GMI.upstream() == () and KEDMI.upstream() == (TARGET,)


@every_stage
def test_the_seed_decides_everything(stage: Stage, tmp_path: Path) -> None:
    expected = stage.result("cpu").tensors
    torch.manual_seed(11)  # the default stream stands elsewhere
    assert same(tensors(stage, tmp_path / "again"), expected)
    other = tensors(stage.model_copy(update={"seed": 1}), tmp_path / "other")
    assert all(
        not torch.equal(values, other[name])
        for name, values in expected.items()
        if (name.endswith("weight") and values.ndim > 1) or name.startswith("log_")
    )


@every_stage
@pytest.mark.parametrize("stop", [2, 7])
def test_an_interrupted_training_resumes_to_the_same_bits(
    stage: Stage, stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = stage.result("cpu").tensors
    monkeypatch.setattr(type(stage), "checkpoint_seconds", 0.0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Job, "steps", interrupted(stop, Job.steps))
        tensors(stage, tmp_path)
    assert list(tmp_path.glob("checkpoint*")) and same(tensors(stage, tmp_path), expected)


@both_stages
def test_a_diverged_training_is_not_stored(stage: Stage) -> None:
    broken = stage.model_copy(update={"lr": 1e30})
    with pytest.raises(StageFailed, match="loss.* NaN or infinite"):
        broken.result("cpu")
    assert not broken.stored()


@both_stages
def test_nets_come_frozen_and_in_eval_mode(stage: Stage) -> None:
    g, judge = stage.generator("cpu"), (stage.critic if stage is GMI else stage.discriminator)("cpu")
    for net in (g, judge):
        assert not net.training and not any(p.requires_grad for p in net.parameters())
    z = torch.randn(5, LATENT, generator=seeded("z"))
    assert judge(g(z)).shape == ((5,) if stage is GMI else (5, 10))
    drawn = stage.samples(5, seeded("z"), "cpu")
    assert drawn.dtype == torch.uint8 and torch.equal(drawn, to_uint8(g(z)))
    assert (stage.facts()["channels"], stage.facts()["size"]) == (1, 32)


def test_averaging_changes_the_generator_alone() -> None:
    plain, averaged = KEDMI.result("cpu").tensors, STAGES["kedmi averaged"].result("cpu").tensors
    for name, values in plain.items():
        if name.startswith("generator.") and values.is_floating_point():
            assert not torch.equal(values, averaged[name]), name
        elif not name.startswith("generator."):
            assert torch.equal(values, averaged[name]), name


def test_gmis_gan_learns_what_its_images_look_like() -> None:
    """Mid-grey and all the same at first; the public images are strokes on black."""
    public = to_float(PUBLIC.load().images)
    z = torch.randn(64, LATENT, generator=seeded("z"))
    first, x = (s.generator("cpu")(z) for s in (GMI, GMI.model_copy(update=LONG)))
    assert first.mean() > public.mean() + 0.3
    assert abs(x.mean() - public.mean()) < 0.25 and x.std() > 0.4 * public.std()


def test_kedmis_discriminator_learns_what_the_target_says() -> None:
    images = to_float(PUBLIC.load().images)
    answers = TARGET.network("cpu")(images).softmax(1)
    d = KEDMI.model_copy(update=LONG).discriminator("cpu")
    constant = soft_label_loss(answers.mean(0).log().expand_as(answers), answers).mean()
    assert soft_label_loss(d(images, coupled=False), answers).mean() < constant - 0.1, "no better than without an image"


def test_kedmis_generator_can_please_a_fixed_discriminator() -> None:
    d, g, images = KEDMI.discriminator("cpu"), KEDMI.generator("cpu").requires_grad_(True), PUBLIC.load().images
    adam, z = torch.optim.Adam(g.parameters(), 1e-2), torch.randn(6, LATENT, generator=seeded("z"))
    losses = [descend(adam, KEDMI._generator_loss(d, images, g(z), seeded("step"))).item() for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]


def test_images_of_64_px_train_too(tmp_path: Path) -> None:
    stage = GMI.model_copy(update={"public": Noise(count=8, size=64, channels=3), "steps": 3})
    found = tensors(stage, tmp_path)
    assert found["generator.body.9.weight"].shape == (2, 3, 5, 5)
    assert isinstance(KEDMI.discriminator("cpu"), KnowledgeDiscriminator)


@pytest.mark.parametrize(
    ("stage", "change", "said"),
    [
        (GMI, {"public": Noise(count=8, size=48)}, "^public: expected images of 32×32 or 64×64 px .*found 48×48"),
        (GMI, {"steps": 2}, "^steps: expected at least critic_steps=3, .*found 2"),
        (KEDMI, {"steps": 2}, "^steps: expected at least critic_steps=3, .*found 2"),
        (KEDMI, {"public": Noise(count=8, size=64)}, r"^public: expected images \(1, 32, 32\) .*found \(1, 64, 64\)"),
        (KEDMI, {"public": LatinSheet(symbols="digits", size=32, limit=20)}, "^public: expected other classes"),
        (GMI, {"batch": 1}, "TrainGMI.batch: .* greater than or equal to 2"),
    ],
)
def test_wrong_recipes_are_one_line(stage: Stage, change: dict, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        stage.model_copy(update=change).result("cpu")
    assert "\n" not in str(caught.value)

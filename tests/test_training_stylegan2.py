"""Training of StyleGAN2: losses and schedules against closed forms, one step against a plain reading, the stage."""

import math

import pytest
import torch
from torch import nn

from mi_utils.data.faces import Faces
from mi_utils.errors import UserError
from mi_utils.runtime import generator as seeded
from mi_utils.schedule import in_order
from mi_utils.store import StageFailed
from mi_utils.training import adaptive, shipped, stylegan2
from mi_utils.training.priors import descend
from mi_utils.training.stylegan2 import ContinuedStyleGAN2, TrainStyleGAN2

PUBLIC = Faces(identities=8, first=1000, per_identity=4)


def tiny(**changes: object) -> TrainStyleGAN2:
    return TrainStyleGAN2(**dict(public=PUBLIC, base=4, most=8, z_dim=6, w_dim=5, layers=2, steps=3, batch=4) | changes)


def fields(start: TrainStyleGAN2) -> dict[str, object]:
    return {name: getattr(start, name) for name in TrainStyleGAN2.model_fields}


def continued(start: TrainStyleGAN2, **changes: object) -> ContinuedStyleGAN2:
    return ContinuedStyleGAN2(**fields(start) | {"start": start} | changes)


# --- equations -------------------------------------------------------------------------------------------------


def test_losses_are_the_logarithms_of_the_verdicts() -> None:
    real, fake = torch.tensor([0.3, -2.0]), torch.tensor([1.5, 0.1])
    sigma = torch.sigmoid
    torch.testing.assert_close(stylegan2.generator_loss(fake), -sigma(fake).log())
    torch.testing.assert_close(
        stylegan2.discriminator_loss(real, fake), -(1 - sigma(fake)).log() - sigma(real).log(), rtol=1e-5, atol=1e-6
    )


def test_r1_of_a_known_function_is_its_squared_slope() -> None:
    class Cubes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.pow(3).sum((1, 2, 3))

    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(stylegan2.r1_penalty(Cubes(), x), (3 * x**2).square().sum((1, 2, 3)))


def test_r1_has_a_gradient_in_the_weights() -> None:
    d = nn.Sequential(nn.Flatten(), nn.Linear(4, 1, bias=False), nn.Flatten(0))
    stylegan2.r1_penalty(d, torch.ones(2, 1, 2, 2)).mean().backward()
    torch.testing.assert_close(d[1].weight.grad, 2 * d[1].weight.detach())  # the penalty is the square of the weights


def test_half_of_an_old_weight_is_left_after_the_half_life() -> None:
    beta = stylegan2.average_decay(32, 10_000_000, 10_000)
    assert beta ** (10_000 / 32) == pytest.approx(0.5)
    assert stylegan2.average_decay(32, 1000, 10_000) == pytest.approx(0.5 ** (32 / 50))  # 0.05 of what was seen
    assert stylegan2.average_decay(32, 0, 10_000) == 0


def test_a_step_more_in_sixteen_slows_adam_accordingly() -> None:
    adam = stylegan2.lazy_adam(nn.Linear(1, 1), 0.002, (0.0, 0.99), 16)
    assert adam.param_groups[0]["lr"] == pytest.approx(0.002 * 16 / 17)
    assert adam.param_groups[0]["betas"] == (0.0, pytest.approx(0.99 ** (16 / 17)))
    plain = stylegan2.lazy_adam(nn.Linear(1, 1), 0.002, (0.0, 0.99), 0)
    assert (plain.param_groups[0]["lr"], plain.param_groups[0]["betas"]) == (0.002, (0.0, 0.99))


def test_blur_fades_within_the_first_part() -> None:
    assert [stylegan2.blur_left(2.0, 0.0, step, 100) for step in (0, 20, 40, 90)] == [2, 1, 0, 0]
    assert [stylegan2.blur_left(2.0, 0.5, step, 100) for step in (0, 20, 40, 90)] == [2, 1, 0.5, 0.5]


def test_a_generator_without_noise_keeps_none() -> None:
    g = tiny(noise=False).generator("cpu")
    z = torch.randn(2, 6, generator=seeded("z"))
    assert torch.equal(g(z, noise="const"), g(z, noise="none"))


def test_mixed_styles_change_at_the_cut() -> None:
    w, other = torch.zeros(2, 3), torch.ones(2, 3)
    found = stylegan2.mixed(w, other, 5, 2)
    assert found.shape == (2, 5, 3)
    assert found[0, :, 0].tolist() == [0, 0, 1, 1, 1]


# --- adaptive augmentation -------------------------------------------------------------------------------------


def test_without_probability_nothing_is_augmented() -> None:
    x = torch.rand(4, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(adaptive.augmented(x, 0.0, seeded("a")), x, rtol=0, atol=1e-5)


def test_augmentation_differs_from_image_to_image_and_has_a_gradient() -> None:
    x = torch.rand(1, 3, 16, 16).expand(6, -1, -1, -1).clone().requires_grad_()
    y = adaptive.augmented(x, 1.0, seeded("a"))
    assert y.shape == x.shape and torch.pdist(y.detach().flatten(1)).min() > 0.1
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.isfinite(slope).all() and slope.abs().sum() > 0


def test_turns_and_mirrors_are_left_out_where_a_mirror_image_is_another_thing() -> None:
    x = torch.zeros(64, 1, 16, 16)
    x[:, :, :8] = 1  # the upper half is lit
    y = adaptive._moved(x, 1.0, seeded("a"), flip=False)
    # Scaled and shifted with reflected borders, the columns of an image stay equal.
    torch.testing.assert_close(y.std(3), torch.zeros_like(y.std(3)), rtol=0, atol=1e-4)
    assert adaptive._moved(x, 1.0, seeded("a"), flip=True).std(3).max() > 0.1


def test_probability_follows_overfitting_within_its_bounds() -> None:
    zero, one = torch.tensor(0.0), torch.tensor(1.0)
    assert adaptive.adapted(zero, one, 5000) == pytest.approx(0.01)
    assert adaptive.adapted(torch.tensor(0.5), torch.tensor(0.1), 5000) == pytest.approx(0.49)
    assert adaptive.adapted(zero, zero, 5000) == 0 and adaptive.adapted(one, one, 5000) == 1
    assert adaptive.overfitting(torch.tensor([3.0, -1.0, 2.0, 0.5])) == 0.5


# --- the stage -------------------------------------------------------------------------------------------------


def test_training_gives_both_nets_and_repeats_to_the_bit() -> None:
    stage = tiny()
    g, d = stage.generator("cpu"), stage.discriminator("cpu")
    x = g(torch.randn(3, 6, generator=seeded("z")))
    assert x.shape == (3, 3, 32, 32) and d(x).shape == (3,)
    assert g.mapping.w_avg.abs().sum() > 0
    assert not any(p.requires_grad for p in (*g.parameters(), *d.parameters()))
    again = stage.learn(_job(stage)).tensors
    for name, value in stage.result().tensors.items():
        assert torch.equal(value, again[name]), name


@pytest.mark.parametrize(
    "changes",
    [{"adaptive": True, "steps": 9}, {"mixing": 1.0}, {"flip": False}, {"gamma": 0.0}, {"blur": 1.0}, {"noise": False}],
)
def test_options_change_what_is_learnt(changes: dict) -> None:
    plain, other = tiny(steps=changes.get("steps", 3)), tiny(**changes)
    a, b = plain.result().tensors, other.result().tensors
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_first_discriminator_step_is_that_of_the_written_losses() -> None:
    """One step with R1, from the official formulas in a loop of their own."""
    stage = tiny(steps=1, flip=False, lr=0.05)  # steps far larger than the rounding to half precision
    images = PUBLIC.load().images
    weights = {
        n: stage._fresh(getattr(stage, f"_{n}")(3, 32), torch.device("cpu")) for n in ("generator", "discriminator")
    }
    g, d = weights.values()
    adam = stylegan2.lazy_adam(d, stage.lr, stage.betas, 16)
    rng = seeded("stylegan2", 0)
    index = torch.randint(len(images), (4,), generator=rng)
    real = images[index].float() / 127.5 - 1
    z = torch.randn((4, 6), generator=rng)
    with torch.no_grad():
        fake = g.synthesis(g.mapping(z), rng)
    loss = (torch.log1p(d(fake).exp()) + torch.log1p((-d(real)).exp())).mean()
    descend(adam, loss)
    x = real.clone().requires_grad_()
    (slope,) = torch.autograd.grad(d(x).sum(), x, create_graph=True)
    descend(adam, 16 * 0.5 * slope.square().sum((1, 2, 3)).mean())
    found = stage.result().tensors
    assert found["log_loss_d"][0] == pytest.approx(loss.item(), rel=1e-5)
    for name, value in d.state_dict().items():
        torch.testing.assert_close(found[f"discriminator.{name}"].float(), value, rtol=2e-3, atol=2e-3)


def test_weights_follow_their_moving_average() -> None:
    stage = tiny()
    g, average = (stage._generator(3, 32) for _ in range(2))
    for p in g.parameters():
        p.data.fill_(1.0)
    for p in average.parameters():
        p.data.fill_(0.0)
    stage._follow(average, g, 4 * 400)
    assert average.synthesis.b4.conv1.weight.unique().item() == pytest.approx(1 - 0.5 ** (4 / 80))


def test_too_few_images_and_odd_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="expected at least 64 images, found 32"):
        tiny(batch=64).result()
    with pytest.raises(UserError, match="power of two"):
        tiny(public=Faces(identities=8, first=1000, per_identity=4, size=48)).result()


def test_more_training_begins_with_the_trained_pair() -> None:
    start = tiny()
    more = continued(start, steps=1, lr=1e-9)
    before, after = start.result().tensors, more.result().tensors
    for name, value in before.items():
        if name.startswith(("generator", "discriminator")) and not name.endswith("w_avg"):
            torch.testing.assert_close(after[name], value, rtol=2e-3, atol=1e-3)
    assert more.generator("cpu").mapping.fc0.weight.shape == (5, 6)
    other = Faces(identities=4, first=2000, per_identity=4)
    assert continued(start, public=other).sources() == (other, PUBLIC)


def test_what_a_shipped_prior_was_trained_from_is_not_computed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "priors")
    more = continued(tiny(), steps=1)
    assert more.upstream() == (tiny(),)
    more.result("cpu")
    shipped.publish(more)
    served = continued(tiny(), steps=1)
    monkeypatch.setenv("MI_STORE", str(tmp_path / "elsewhere"))
    assert served.upstream() == () and in_order([served]) == [served]
    assert served.generator("cpu").size == 32 and not tiny().stored()


def test_more_training_may_average_over_more_images() -> None:
    assert continued(tiny(), half_life=5000.0)._half_life() == 5000 and continued(tiny())._half_life() == 1250


def test_more_training_of_another_shape_is_refused() -> None:
    with pytest.raises(UserError, match="w_dim: expected 5 as in `start`, found 8"):
        continued(tiny(), w_dim=8)
    with pytest.raises(UserError, match="base: expected 4 as in `start`, found 8"):
        continued(tiny(), base=8)
    with pytest.raises(UserError, match="expected images of 3 colours and 32 px for this `start`, found 3 and 64 px"):
        continued(tiny(), public=Faces(identities=8, first=1000, per_identity=4, size=64)).result()


def test_divergence_fails_the_stage_and_stores_nothing() -> None:
    stage = tiny(lr=1e30)
    with pytest.raises(StageFailed, match="NaN or infinite"):
        stage.result()
    assert not stage.stored()


def _job(stage: TrainStyleGAN2):  # noqa: ANN202
    class Job:
        device = torch.device("cpu")

        def steps(self, total: int, *states: dict) -> range:
            return range(total)

        def check_finite(self, name: str, values: torch.Tensor) -> None:
            assert torch.isfinite(values).all() and math.isfinite(len(values))

    return Job()

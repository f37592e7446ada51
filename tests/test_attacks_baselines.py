"""BMI, generative MI and VMI against plain implementations of one class, one sample, one step at a time."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from toys import BLOCK, LEARNT_PRIOR, PRIOR, TARGET, tensors

from mi_utils.attacks import per_sample
from mi_utils.attacks.bmi import BMI
from mi_utils.attacks.generative import GenerativeMI
from mi_utils.attacks.identity import Views
from mi_utils.attacks.patch_mi import PatchMI
from mi_utils.attacks.vmi import VMI, Posterior
from mi_utils.data.augment import GLYPH_VIEW
from mi_utils.data.images import to_float, to_uint8
from mi_utils.models.dcgan import LATENT
from mi_utils.runtime import generator
from mi_utils.stage import Stage
from mi_utils.training.gan import TrainDCGAN

CPU = torch.device("cpu")
BASELINES: dict[str, Stage] = {
    "bmi": BMI(target=TARGET, classes=(0, 1), samples=3, iterations=2),
    "generative": GenerativeMI(target=TARGET, prior=LEARNT_PRIOR, classes=(0, 1), samples=3, iterations=5),
    "vmi": VMI(target=TARGET, prior=LEARNT_PRIOR, classes=(0, 1), samples=3, iterations=6, batch=4, components=2),
}
every_baseline = pytest.mark.parametrize("attack", BASELINES.values(), ids=BASELINES.keys())


def close(one: dict, other: dict, rows: slice = slice(None)) -> bool:
    """Same reconstructions to rounding: latents where there are any, else images.

    BMI's Adam is all but a step by the gradient's sign: a gradient of rounding size may turn it at a few pixels.
    """
    if "latents" in one:
        return torch.allclose(one["latents"], other["latents"][rows], atol=1e-5)
    apart = (one["images"].int() - other["images"][rows].int()).abs()
    return bool((apart > 1).double().mean() < 0.02)


@every_baseline
def test_memory_bound_and_number_of_classes_change_nothing(attack: Stage, tmp_path: Path) -> None:
    expected = tensors(attack, tmp_path)
    assert close(tensors(attack.model_copy(update={"chunk": 4}), tmp_path), expected)
    alone = tensors(attack.model_copy(update={"classes": (1,)}), tmp_path)
    assert close(alone, expected, slice(1, None, 2))
    assert torch.allclose(alone["losses"], expected["losses"][1::2], atol=1e-4)


@every_baseline
def test_the_shared_draw_of_the_views_does_not_depend_on_the_memory_bound(attack: Stage, tmp_path: Path) -> None:
    block = attack.model_copy(update={"views": BLOCK})
    expected = tensors(block, tmp_path)
    assert close(tensors(block.model_copy(update={"chunk": 4}), tmp_path), expected)
    assert not close(tensors(attack, tmp_path), expected), "the views are not used"


def test_draws_per_image_differ_between_chunks_and_steps() -> None:
    own = Views(count=2, transform=GLYPH_VIEW.model_copy(update={"draw": "sample"}))

    def first(views: Views, step: int, start: int) -> float:
        return torch.rand(1, generator=per_sample.stream(views, "x", 0, step, slice(start, start + 4))).item()

    assert first(own, 0, 0) != first(own, 0, 4) and first(own, 0, 0) != first(own, 1, 0)
    assert first(BLOCK, 0, 0) == first(BLOCK, 0, 4) != first(BLOCK, 1, 4)


@every_baseline
def test_losses_are_those_of_the_images(attack: Stage, tmp_path: Path) -> None:
    found = tensors(attack, tmp_path)
    score = TARGET.network("cpu")(to_float(found["images"]))
    assert torch.allclose(found["losses"], F.cross_entropy(score, found["labels"], reduction="none"), atol=0.1)


def test_defaults_are_the_released_settings() -> None:
    def defaults(stage: type[Stage], *names: str) -> tuple:
        return tuple(stage.model_fields[name].default for name in names)

    assert defaults(BMI, "iterations", "lr", "betas", "milestones", "decay") == (200, 3e-2, (0.1, 0.1), (100, 150), 0.1)
    names = ("iterations", "lr", "momentum", "weight_decay", "decay_every", "decay", "w_d", "reference_batch")
    assert defaults(GenerativeMI, *names) == (1000, 10, 0.9, 5e-4, 100, 0.8, 0.15, 1000)
    names = ("iterations", "batch", "components", "lr", "momentum", "weight_decay", "lam", "lam_every", "temperature")
    assert defaults(VMI, *names) == (3100, 256, 7, 3e-3, 0.9, 5e-4, 1e-3, 5, 1)
    names = ("n_gf", "n_df", "iterations", "batch", "lr", "betas", "tau")
    assert defaults(TrainDCGAN, *names) == (64, 64, 20_000, 128, 2e-4, (0.5, 0.999), 0.8)
    names = ("gan", "d_reduce", "d_norm", "n_gf", "n_df", "batch", "lr", "w_a", "tau", "n_codes", "w_c", "w_bn")
    assert defaults(PatchMI, *names) == ("per_class", "mean", "instance", 64, 256, 64, 1e-3, 30, 0.4, 1, 0.3, 0)
    assert {stage.model_fields["samples"].default for stage in (BMI, GenerativeMI, VMI, PatchMI)} == {1000}


def test_bmi_reaches_its_target(tmp_path: Path) -> None:
    attack = BMI(target=TARGET, classes=(0, 1, 2), samples=8, iterations=120)
    found = tensors(attack, tmp_path)
    said = TARGET.network("cpu")(to_float(found["images"])).argmax(1)
    assert torch.equal(said, found["labels"])
    assert found["log_loss"][-1] < 0.1 * found["log_loss"][0]


def test_bmi_is_adam_on_the_batch_mean_of_1000(tmp_path: Path) -> None:
    attack = BMI(target=TARGET, classes=(2,), samples=2, iterations=4, milestones=(3,))
    target = TARGET.network("cpu")
    start = torch.randn((2, 1, 32, 32), generator=generator("bmi", 0, 2))
    images = []
    for u in start:  # one image after another: the others of its batch have no influence
        u.requires_grad_()
        adam = torch.optim.Adam([u], 3e-2, betas=(0.1, 0.1))
        for step in range(4):
            adam.param_groups[0]["lr"] = 3e-2 if step < 3 else 3e-3
            adam.zero_grad()
            (-target(u.tanh()[None]).log_softmax(1)[0, 2] / 1000).backward()
            adam.step()
        images.append(to_uint8(u.tanh()))
    assert close(tensors(attack, tmp_path), {"images": torch.stack(images)})


def test_bmis_gradient_is_divided_by_the_reference_batch(tmp_path: Path) -> None:
    # Adam is blind to the scale until its eps outweighs the gradient.
    still = BMI(target=TARGET, classes=(2,), samples=2, iterations=3, reference_batch=10**12)
    start = torch.randn((2, 1, 32, 32), generator=generator("bmi", 0, 2))
    assert torch.equal(tensors(still, tmp_path)["images"], to_uint8(start.tanh()))


@pytest.mark.parametrize("double_sigmoid", [False, True])
def test_generative_is_sgd_on_the_batch_mean_of_1000(double_sigmoid: bool, tmp_path: Path) -> None:
    attack = GenerativeMI(
        target=TARGET,
        prior=LEARNT_PRIOR,
        classes=(1,),
        samples=2,
        iterations=6,
        decay_every=3,
        double_sigmoid=double_sigmoid,
    )
    target, g, d = TARGET.network("cpu"), LEARNT_PRIOR.generator("cpu"), LEARNT_PRIOR.discriminator("cpu")
    z = torch.randn((2, LATENT), generator=generator("generative", 0, 1))
    velocity = torch.zeros_like(z)
    for step in range(6):
        z.requires_grad_()
        x = g(z)
        seen = d(x).sigmoid() if double_sigmoid else d(x)
        loss = F.cross_entropy(target(x), torch.tensor([1, 1]), reduction="none")
        loss = loss + 0.15 * F.binary_cross_entropy_with_logits(seen, torch.ones(2), reduction="none")
        (slope,) = torch.autograd.grad(loss.sum() / 1000, z)
        velocity = 0.9 * velocity + slope + 5e-4 * z.detach()
        z = z.detach() - 10 * (0.8 if step >= 3 else 1) * velocity
    assert torch.allclose(tensors(attack, tmp_path)["latents"], z, atol=1e-5)


def test_vmi_is_sgd_on_its_objective(tmp_path: Path) -> None:
    n, steps = 4, 8
    attack = VMI(target=TARGET, prior=PRIOR, classes=(1,), samples=2, iterations=steps, batch=n, lam=0.5, lr=0.03)
    target, g = TARGET.network("cpu"), PRIOR.generator("cpu")
    q = Posterior(per_sample.normal("vmi means", 0, (1,), 1, 7, LATENT, device=CPU), 1e-3)
    sgd = torch.optim.SGD(q.parameters(), 0.03, momentum=0.9, weight_decay=5e-4)
    rng, expected = generator("vmi", 0, 1), []
    for step in range(steps):
        noise = torch.randn((1, n, LATENT), generator=rng)
        gumbel = -torch.empty(1, n, 7).exponential_(generator=rng).log()
        w = q.sample(noise, gumbel, q.factor(), 1.0)
        loss = F.cross_entropy(target(g(w[0])), torch.full((n,), 1))
        expected.append(loss.item())
        if step in (0, 5):
            loss = loss + 0.5 * (q.log_density(w, q.factor()) + 0.5 * (w**2).sum(2)).mean()
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    found = tensors(attack, tmp_path)
    assert found["log_loss"].tolist() == pytest.approx(expected, rel=1e-4)
    # The moved mixture itself: samples of the stage, drawn from it.
    rng = generator("vmi samples", 0, 1)
    noise = torch.randn((1, 2, LATENT), generator=rng)
    gumbel = -torch.empty(1, 2, 7).exponential_(generator=rng).log()
    assert torch.allclose(found["latents"], q.sample(noise, gumbel, q.factor(), 1.0)[0], atol=1e-4)


def test_gradients_are_each_samples_own() -> None:
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    places: list[slice] = []

    def loss(part: torch.Tensor, where: slice) -> torch.Tensor:
        places.append(where)
        return (part**2).sum(1)

    slope, losses = per_sample.gradients(loss, x, 3)
    assert torch.allclose(slope, 2 * x) and torch.allclose(losses, (x**2).sum(1))
    assert [(p.start, p.stop) for p in places] == [(0, 3), (3, 6), (6, 9)] and not x.requires_grad

"""Transfer of a StyleGAN2 towards images that a target is sure of: losses, gradient, pairing, errors."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_training_stylegan2 import tiny
from torch import Tensor
from toys import resumed, same, tensors

from mi_utils.attacks.plug_and_play import PlugAndPlay
from mi_utils.data import Faces
from mi_utils.errors import UserError
from mi_utils.models.folding import folded
from mi_utils.runtime import generator
from mi_utils.stage import Job, StageFailed
from mi_utils.training import entropy
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.insiders import InsiderStyleGAN2
from mi_utils.training.preconditioners import (
    Blurred,
    ConjugateGradients,
    Euclidean,
    Nystrom,
    PerceptualBasis,
    Plain,
    Preconditioner,
    Random,
    Scaled,
)
from mi_utils.training.stylegan2 import ContinuedStyleGAN2, TrainStyleGAN2
from mi_utils.training.transfer import Guidance, TransferStyleGAN2, surrogate

CPU = torch.device("cpu")
START = tiny()
AUXILIARY = Faces(identities=8, first=2000, per_identity=4)
TARGET = TrainClassifier(
    train=Faces(identities=3, per_identity=12), test=Faces(identities=3, per_identity=4, split="test"),
    width=4, iterations=20, batch=12, lr=0.05,
)  # fmt: skip
BASIS = PerceptualBasis(prior=START, k=8, images=2, rounds=1, chunk=16)
ARMS: dict[str, Preconditioner] = {
    "none": Plain(),
    "nystrom": Nystrom(basis=BASIS),
    "cg": ConjugateGradients(basis=BASIS, tolerance=0.1),
    "scale": Scaled(basis=BASIS),
    "blur": Blurred(),
    "random": Random(basis=BASIS),
    "euclid": Euclidean(),
}
every_arm = pytest.mark.parametrize("arm", ARMS)


def tuned(arm: str = "none", start: TrainStyleGAN2 = START, **changes: object) -> TransferStyleGAN2:
    fields = {"public": AUXILIARY, "target": TARGET, "steps": 4, "batch": 4, "bank": 3, "frames": 3, "log_every": 2}
    return TransferStyleGAN2.of(start, **fields | {"preconditioner": ARMS[arm]} | changes)


def nets(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that depend on what was learnt, not on what was only looked at."""
    return {name: value for name, value in found.items() if not name.startswith("traced")}


# --- losses ----------------------------------------------------------------------------------------------------


def test_entropy_losses_in_closed_form() -> None:
    flat, sure = torch.zeros(5), torch.tensor([200.0, 0, 0, 0, 0])
    half = torch.tensor([0.0, 0.0, -200, -200, -200])
    logits = torch.stack([flat, sure, half])
    y = torch.tensor([3, 0, 1])
    expected = {
        "min_ent": [math.log(5), 0, math.log(2)],
        "max_conf": [math.log(5), 0, math.log(2)],
        "class_ce": [math.log(5), 0, math.log(2)],
    }
    for kind, values in expected.items():
        found = entropy.adversarial_loss(kind, logits, y, 1.0)
        torch.testing.assert_close(found, torch.tensor(values), rtol=1e-6, atol=1e-6)


def test_entropy_and_confidence_of_a_skewed_prediction() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1]])
    found = entropy.adversarial_loss("min_ent", p.log(), torch.tensor([1]), 1.0)
    assert found.item() == pytest.approx(-(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1)))
    assert entropy.confidence_loss(p.log() + 5).item() == pytest.approx(-math.log(0.7), rel=1e-5)
    assert entropy.adversarial_loss("class_ce", p.log(), torch.tensor([1]), 1.0).item() == pytest.approx(-math.log(0.2))


def test_mutual_loss_is_least_for_sure_images_of_all_classes() -> None:
    sure = 200 * torch.eye(4)
    assert entropy.mutual_loss(sure, 1.0).mean().item() == pytest.approx(-math.log(4))
    assert entropy.mutual_loss(sure[:1].repeat(4, 1), 1.0).mean().item() == pytest.approx(0, abs=1e-6)
    assert entropy.mutual_loss(torch.zeros(4, 4), 1.0).mean().item() == pytest.approx(0, abs=1e-6)
    logits = torch.randn(6, 4, generator=generator("logits"))
    plain = entropy.adversarial_loss("min_ent", logits, torch.zeros(6).long(), 1.0)
    torch.testing.assert_close(entropy.mutual_loss(logits, 0.0), plain)
    torch.testing.assert_close(
        entropy.mutual_loss(logits, 0.5), plain - 0.5 * entropy.marginal_entropy(logits), rtol=1e-6, atol=1e-6
    )
    marginal = logits.softmax(1).mean(0)
    assert entropy.marginal_entropy(logits).item() == pytest.approx(float(-(marginal * marginal.log()).sum()))


def test_impossible_classes_have_a_gradient() -> None:
    logits = torch.tensor([[0.0, -1e4, -1e4]]).requires_grad_()
    for kind in ("min_ent", "mutual", "max_conf", "class_ce"):
        (slope,) = torch.autograd.grad(entropy.adversarial_loss(kind, logits, torch.tensor([0]), 1.0).sum(), logits)
        assert torch.isfinite(slope).all()


# --- the generator's step --------------------------------------------------------------------------------------


def test_surrogate_is_zero_with_the_projected_gradient() -> None:
    p = torch.randn(2, 3, 4, 4, generator=generator("p"))
    x = torch.randn(2, 3, 4, 4, generator=generator("x")).requires_grad_()
    value = surrogate(p, x)
    assert value.item() == 0 and torch.equal(torch.autograd.grad(value, x)[0], p)


@every_arm
def test_parameters_get_the_vjp_of_the_projected_gradient(arm: str) -> None:
    stage = tuned(arm, lambda_adv=0.7)
    START.result("cpu"), TARGET.result("cpu")
    guidance = Guidance(stage, CPU)
    g = START.generator("cpu").requires_grad_(True)
    z = torch.randn(4, 6, generator=generator("z"))
    x = g(z)
    loss = guidance.loss(x, 1)
    parameters = [p for n, p in g.named_parameters() if "noise" not in n]
    found = torch.autograd.grad(loss, parameters)
    free = g(z).detach().requires_grad_()
    said = folded(TARGET.network("cpu"))(free).softmax(1)
    (slope,) = torch.autograd.grad(-(said * said.log()).sum() / len(z), free)
    projected = ARMS[arm].ready(CPU)(free.detach(), slope)
    assert projected.shape == slope.shape and not projected.requires_grad
    expected = torch.autograd.grad(g(z), parameters, grad_outputs=0.7 * projected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=5e-3 * float(other.abs().max()))


def test_drawn_classes_are_pulled_to() -> None:
    guidance = Guidance(tuned(adversarial="class_ce"), CPU)
    x = START.generator("cpu")(torch.randn(4, 6, generator=generator("z")))
    _, g = guidance._gradient(x.clone())
    y = torch.randint(3, (4,), generator=generator("transfer labels", 0))
    x.requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(TARGET.network("cpu")(x), y), x)
    torch.testing.assert_close(g, slope, rtol=1e-3, atol=1e-6)


# --- the stage -------------------------------------------------------------------------------------------------


@every_arm
def test_without_weight_every_arm_is_plain_transfer(arm: str) -> None:
    expected = ContinuedStyleGAN2(**{n: getattr(tuned(), n) for n in ContinuedStyleGAN2.model_fields}).result("cpu")
    found = tuned(arm, lambda_adv=0.0).result("cpu").tensors
    assert same(nets(found), nets(tuned(lambda_adv=0.0).result("cpu").tensors))
    for name, value in expected.tensors.items():
        assert torch.equal(found[name], value), name


@every_arm
def test_with_weight_every_arm_is_its_own(arm: str) -> None:
    found, plain = (tuned(arm, lambda_adv=v).result("cpu").tensors for v in (30.0, 0.0))
    assert any(not torch.equal(found[n], v) for n, v in plain.items() if n.startswith("generator"))
    if arm != "none":
        other = tuned("none", lambda_adv=30.0).result("cpu").tensors
        assert any(not torch.equal(found[n], v) for n, v in other.items() if n.startswith("generator"))
        assert torch.equal(found["traced_gradient"][0], other["traced_gradient"][0])  # the same images at first


def test_what_is_kept_beside_the_nets() -> None:
    stage = tuned("nystrom", lambda_adv=1.0)
    found = stage.result("cpu").tensors
    assert found["frames_bank"].shape == (3, 3, 3, 32, 32) and found["frames_bank"].dtype == torch.uint8
    assert found["frames_steps"].tolist() == [0, 2, 4] and found["traced_steps"].tolist() == [0, 2]
    z = torch.randn(3, 6, generator=generator("transfer bank"))
    last = ((stage.generator("cpu")(z).clamp(-1, 1) + 1) * 127.5).round()
    assert (last - found["frames_bank"][-1].float()).abs().max() <= 2  # weights are kept in half precision
    assert (found["traced_projected"] < found["traced_gradient"]).all()
    assert (found["traced_entropy"] > 0).all() and (found["traced_entropy"] <= math.log(3)).all()
    assert (found["traced_confidence"] >= 1 / 3).all() and (found["traced_confidence"] < 1).all()
    assert found["log_loss_g"].shape == (4,) and (found["log_loss_g"] > 0).all()


def test_a_tuned_generator_makes_the_target_surer() -> None:
    plain, found = (
        tuned(lambda_adv=v, steps=40, lr=5e-3, log_every=39).result("cpu").tensors["traced_entropy"] for v in (0, 30.0)
    )
    assert found[0] == plain[0] and found[-1] < plain[-1] - 0.02


def test_an_interrupted_transfer_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = tuned("nystrom", adversarial="class_ce")
    expected = stage.result("cpu").tensors
    found, steps = resumed(stage, tmp_path, monkeypatch, 3)
    assert same(found, expected) and steps == [3]


@pytest.mark.parametrize("changes", [{"adversarial": "max_conf"}, {"adversarial": "mutual", "beta": 0.5}, {"seed": 1}])
def test_options_change_what_is_learnt(changes: dict) -> None:
    one, other = (tuned(lambda_adv=30.0, **c).result("cpu").tensors for c in ({}, changes))
    assert any(not torch.equal(one[n], v) for n, v in other.items() if n.startswith("generator"))


def test_a_tuned_pair_is_attacked_with_and_tuned_further() -> None:
    stage = tuned(lambda_adv=1.0)
    attack = PlugAndPlay(
        prior=stage, target=TARGET, classes=(1, 0), pool=6, candidates=3, samples=2, epochs=2, frames=2, draws=1
    )
    assert type(attack.prior) is TransferStyleGAN2
    assert attack.result("cpu").tensors["images"].shape == (6, 3, 32, 32)
    assert TransferStyleGAN2.of(stage, target=TARGET, public=AUXILIARY).sources() == (AUXILIARY, *stage.sources())


# --- the stronger attacker -------------------------------------------------------------------------------------

OTHERS = Faces(identities=8, first=2, per_identity=4, split="test")  # person 2 is private


def insider(**changes: object) -> InsiderStyleGAN2:
    stage = tuned(lambda_adv=1.0)
    fields = {name: getattr(stage, name) for name in type(stage).model_fields}
    return InsiderStyleGAN2(**fields | {"public": OTHERS} | changes)


def test_an_insider_learns_from_other_images_of_private_people_and_is_attacked_with() -> None:
    attack = PlugAndPlay(
        prior=insider(), target=TARGET, classes=(2,), pool=6, candidates=3, samples=2, epochs=2, frames=2, draws=1
    )
    assert attack.result("cpu").tensors["images"].shape == (3, 3, 32, 32)
    assert attack.prior.sources() == START.sources() and OTHERS in tuned(public=OTHERS).sources()
    # On images of nobody private it is the ordinary transfer.
    one, other = (nets(stage.result("cpu").tensors) for stage in (insider(public=AUXILIARY), tuned(lambda_adv=1.0)))
    assert same(one, other)


def test_an_insider_has_none_of_the_targets_own_images(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Faces(identities=8, first=2, per_identity=4)
    refused(insider(public=own), "public: expected other images of the private people, found 4 that", monkeypatch)
    large = OTHERS.model_copy(update={"size": 64})
    refused(insider(public=large), r"public: expected images \(3, 32, 32\) as the target takes", monkeypatch)


# --- what a user can get wrong ---------------------------------------------------------------------------------


def refused(stage: TransferStyleGAN2, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for upstream in stage.upstream():
        upstream.result("cpu")
    monkeypatch.setattr(Job, "steps", None)  # nothing long has begun
    with pytest.raises(UserError, match=words) as caught:
        stage.result("cpu")
    assert "\n" not in str(caught.value) and not stage.stored()


def test_private_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    private = Faces(identities=8, first=2, per_identity=4)
    refused(tuned(public=private), "public: expected other classes and images than the target's", monkeypatch)


def test_a_start_of_private_images_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    start = tiny(public=Faces(identities=8, first=1, per_identity=4))
    refused(tuned(start=start), "start: expected other classes and images than the target's", monkeypatch)


def test_images_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    large = Faces(identities=8, first=2000, per_identity=4, size=64)
    refused(tuned(public=large), r"public: expected images \(3, 32, 32\) as the target takes", monkeypatch)


def test_a_start_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    large = tiny(public=Faces(identities=8, first=1000, per_identity=4, size=64), base=4, steps=1)
    words = "public: expected images of 3 colours and 64 px for this `start`, found 3 and 32"
    refused(tuned(start=large), words, monkeypatch)


def test_a_basis_of_other_images_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    large = tiny(public=Faces(identities=8, first=1000, per_identity=4, size=64), base=4, steps=1)
    basis = BASIS.model_copy(update={"prior": large, "k": 1, "images": 1})
    refused(tuned(preconditioner=Nystrom(basis=basis)), r"preconditioner: expected a basis of images \(3, 32\)",
            monkeypatch)  # fmt: skip


def test_too_small_batches_and_unknown_options_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refused(tuned(adversarial="mutual", batch=2), "batch: expected at least 3, the target's classes", monkeypatch)
    with pytest.raises(UserError, match="preconditioner"):
        tuned(preconditioner={"kind": "adam"})
    with pytest.raises(UserError, match="adversarial"):
        tuned(adversarial="entropy")
    with pytest.raises(UserError, match="w_dim: expected 5 as in `start`, found 8"):
        tuned(w_dim=8)


def test_divergence_fails_the_stage_and_stores_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = [tuned(lr=1e30), tuned(steps=1)]
    with pytest.raises(StageFailed, match="NaN or infinite"):
        stages[0].result()
    monkeypatch.setattr(Plain, "ready", lambda self, device: lambda x, g: g * torch.nan)
    with pytest.raises(StageFailed, match="loss_g: 1 of 1 values are NaN"):
        stages[1].result()
    assert not any(stage.stored() for stage in stages)


def test_an_unsolved_image_fails_the_training(tmp_path: Path) -> None:
    stage = tuned(preconditioner=ConjugateGradients(basis=BASIS, tolerance=1e-4, most=2))
    with pytest.raises(StageFailed, match="conjugate gradients: expected a relative residual of 0.0001 within 2"):
        stage.result("cpu")
    kept = tuned(preconditioner=ConjugateGradients(basis=BASIS, tolerance=1e-4, most=2, fallback=True))
    assert tensors(kept, tmp_path)["traced_projected"].isfinite().all()


def test_a_recipe_names_its_preconditioner() -> None:
    assert "class: Nystrom" in tuned("nystrom").recipe()
    assert tuned(preconditioner={"kind": "blur", "sigma": 2.0}).preconditioner == Blurred(sigma=2.0)
    assert isinstance(tuned().start, TrainStyleGAN2)

"""Students of a target, and the statistics of its features: what model augmentation and the logit loss stand on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import interrupted, same, tensors

from mi_utils.data import LatinSheet, Noise, Subset, UciDigits
from mi_utils.data.augment import Augment, Flip
from mi_utils.errors import UserError
from mi_utils.runtime import generator
from mi_utils.stage import Job, StageFailed
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.statistics import FeatureStatistics
from mi_utils.training.student import HELD_OUT, TrainStudent, distillation_loss, soft_labels

DIGITS = {"size": 16, "channels": 1}
PUBLIC = Subset(source=UciDigits(split="all"), keep=(5, 6, 7, 8, 9), limit=400, **DIGITS)
TEACHER = TrainClassifier(
    train=Subset(source=UciDigits(), keep=(0, 1, 2, 3, 4), **DIGITS),
    test=Subset(source=UciDigits(split="test"), keep=(0, 1, 2, 3, 4), **DIGITS),
    width=4,
    iterations=60,
    batch=32,
    lr=0.05,
)
SHORT = TrainStudent(teacher=TEACHER, public=PUBLIC, width=4, iterations=6, batch=16)
STUDENT = SHORT.model_copy(update={"iterations": 150, "lr": 0.1, "batch": 32})


def parted(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(held out, trained on) of all public images."""
    order = torch.randperm(len(images), generator=generator("shuffled", "students' held-out images"))
    kept = torch.arange(len(images)) % HELD_OUT == 0
    return images[order[kept]], images[order[~kept]]


# ---------------------------------------------------------------- the loss

logit_pairs = st.lists(st.tuples(st.floats(-8, 8), st.floats(-8, 8)), min_size=2, max_size=5)


def of(pairs: list[tuple[float, float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Teacher's and student's logits (1, K) in float64."""
    teacher, student = torch.tensor(pairs, dtype=torch.float64).T
    return teacher[None], student[None].clone().requires_grad_(True)


@given(logit_pairs, st.floats(0.5, 4))
@settings(deadline=None, max_examples=50)
def test_the_loss_is_the_divergence_and_its_gradient_the_difference_of_softmaxes(
    pairs: list[tuple[float, float]], tau: float
) -> None:
    teacher, student = of(pairs)
    p, q = (np.exp(x.detach().numpy()[0] / tau) for x in (teacher, student))
    p, q = p / p.sum(), q / q.sum()
    loss = distillation_loss(student, soft_labels(teacher, tau), tau)
    assert loss.shape == (1,) and loss.item() == pytest.approx((p * np.log(p / q)).sum(), abs=1e-10)
    assert loss.item() > -1e-12
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert gradient[0].numpy() == pytest.approx((q - p) / tau, abs=1e-10)


def test_the_loss_is_zero_for_equal_answers_and_log_k_for_an_even_teacher_asked_one_hot() -> None:
    logits = torch.tensor([[1.0, -2.0, 0.5]])
    assert distillation_loss(logits + 3, soft_labels(logits, 2.0), 2.0).item() == pytest.approx(0, abs=1e-6)
    one_hot = torch.tensor([[0.0, 0.0, 1.0]])
    assert distillation_loss(torch.zeros(1, 3), one_hot, 1.0).item() == pytest.approx(np.log(3), abs=1e-6)


# ---------------------------------------------------------------- the student


def test_a_student_agrees_with_its_teacher_on_images_it_never_saw() -> None:
    facts = STUDENT.facts()
    assert facts["agreement"] > 0.7 > facts["constant_agreement"] + 0.1
    assert facts["divergence"] < 0.35
    curve = STUDENT.result("cpu").tensors["log_loss"]
    assert curve.shape == (150,) and curve[-20:].mean() < 0.4 * curve[:5].mean()


def test_the_facts_are_those_of_the_stored_network() -> None:
    facts, net, teacher = SHORT.facts(), SHORT.network("cpu"), TEACHER.network("cpu")
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    assert (facts["channels"], facts["size"], facts["outputs"]) == (1, 16, 5)
    assert facts["classes"] == ["0", "1", "2", "3", "4"]
    held_out, train = parted(PUBLIC.load().images)
    x = held_out.float() / 127.5 - 1
    asked, said = teacher(x), net(x)
    assert facts["agreement"] == (asked.argmax(1) == said.argmax(1)).double().mean().item()
    assert facts["constant_agreement"] == max((asked.argmax(1) == k).double().mean().item() for k in range(5))
    divergence = (asked.softmax(1) * (asked.log_softmax(1) - said.log_softmax(1))).sum(1).mean()
    assert facts["divergence"] == pytest.approx(divergence.item(), abs=1e-5)
    assert (facts["n_train"], facts["n_test"]) == (len(train), len(held_out)) == (360, 40)


def test_no_step_sees_a_held_out_image(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[torch.Tensor] = []
    real = TrainStudent._imitate
    monkeypatch.setattr(
        TrainStudent, "_imitate", lambda self, job, net, teacher, images: given.append(images) or real(
            self, job, net, teacher, images
        )
    )  # fmt: skip
    SHORT.model_copy(update={"iterations": 1}).result("cpu")
    assert len(given) == 1 and torch.equal(given[0], parted(PUBLIC.load().images)[1])


def test_a_student_imitates_a_teacher_with_a_reject_class() -> None:
    rejecting = TEACHER.model_copy(update={"reject": Noise(count=40, size=16), "iterations": 10})
    student = SHORT.model_copy(update={"teacher": rejecting})
    assert student.facts()["outputs"] == 6
    assert student.network("cpu")(torch.zeros(2, 1, 16, 16)).shape == (2, 6)


def test_asking_the_teacher_once_is_asking_it_at_every_step() -> None:
    images = PUBLIC.load().images
    teacher = TEACHER.network("cpu")
    index = torch.randint(len(images), (9,), generator=generator("rows"))
    fixed = SHORT._fixed_answers(teacher, images)
    asked = SHORT._answers(teacher, images[index].float() / 127.5 - 1)
    assert torch.allclose(fixed[index], asked, atol=1e-6) and not fixed.requires_grad
    augmented = SHORT.model_copy(update={"augmentation": Augment(steps=(Flip(horizontal=1),))})
    assert augmented._fixed_answers(teacher, images) is None


def test_the_teacher_answers_the_augmented_image_and_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    before = TEACHER.network("cpu").state_dict()
    asked: list[tuple[torch.Tensor, torch.Tensor]] = []
    real = TrainStudent._answers

    def spy(self: TrainStudent, teacher: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        assert not teacher.training and torch.is_grad_enabled()
        answers = real(self, teacher, x)
        asked.append((x, answers))
        assert not answers.requires_grad
        assert all(torch.equal(v, before[name]) for name, v in teacher.state_dict().items())
        return answers

    monkeypatch.setattr(TrainStudent, "_answers", spy)
    mirrored = SHORT.model_copy(update={"augmentation": Augment(steps=(Flip(horizontal=1),)), "iterations": 3})
    mirrored.result("cpu")
    assert len(asked) == 3
    public = {row.numpy().tobytes() for row in PUBLIC.load().images}
    for x, _ in asked:
        back = ((x.flip(3) + 1) * 127.5).round().to(torch.uint8).contiguous()
        assert all(row.numpy().tobytes() in public for row in back)


def test_random_labels_are_drawn_once_and_teach_nothing_of_the_teacher() -> None:
    control = STUDENT.model_copy(update={"labels": "random"})
    images, teacher = PUBLIC.load().images, TEACHER.network("cpu")
    answers = control._fixed_answers(teacher, images)
    assert torch.equal(answers, control._fixed_answers(teacher, images))
    assert torch.equal(answers.sum(1), torch.ones(400)) and set(answers.unique().tolist()) == {0.0, 1.0}
    assert answers.sum(0).min() > 50, "all classes are drawn"
    other = control.model_copy(update={"seed": 1})._fixed_answers(teacher, images)
    assert 0.1 < (other == answers).all(1).float().mean() < 0.3
    augmented = control.model_copy(update={"augmentation": Augment(steps=(Flip(),))})
    assert torch.equal(augmented._fixed_answers(teacher, images), answers)
    facts = control.facts()
    assert facts["agreement"] < STUDENT.facts()["agreement"] - 0.25 and facts["divergence"] > 0.5


def test_the_optimiser_is_plain_momentum_at_a_constant_rate(tmp_path: Path) -> None:
    """Two steps by hand: v = m v + (g + wd w); w = w - lr v."""
    two = SHORT.model_copy(update={"iterations": 2, "lr": 0.05, "weight_decay": 0.01, "temperature": 2.0})
    _, train = parted(PUBLIC.load().images)
    net, teacher = two._blank(TEACHER.facts()).to(memory_format=torch.channels_last), TEACHER.network("cpu")
    rng, velocity = generator("student", "cnn", 0), [torch.zeros_like(p) for p in net.parameters()]
    for _ in range(2):
        index = torch.randint(len(train), (16,), generator=rng)
        x = train[index].float() / 127.5 - 1
        p, log_q = (teacher(x) / 2).softmax(1), (net(x) / 2).log_softmax(1)
        loss = (p * (p.log() - log_q)).sum(1).mean()
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for w, v, g in zip(net.parameters(), velocity, gradients, strict=True):
                v.mul_(0.9).add_(g + 0.01 * w)
                w.sub_(0.05 * v)
    found = tensors(two, tmp_path)
    for name, value in net.named_parameters():
        assert torch.allclose(found[name], value, atol=1e-5), name


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    expected = SHORT.result("cpu").tensors
    torch.manual_seed(11)
    assert same(tensors(SHORT, tmp_path / "again"), expected)
    other = tensors(SHORT.model_copy(update={"seed": 1}), tmp_path / "other")
    assert not torch.equal(other["log_loss"], expected["log_loss"])


@pytest.mark.parametrize("labels", ["teacher", "random"])
def test_a_killed_training_resumes_to_the_same_bits(
    labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = SHORT.model_copy(update={"labels": labels, "augmentation": Augment(steps=(Flip(),))})
    expected = stage.result("cpu").tensors
    monkeypatch.setattr(TrainStudent, "checkpoint_seconds", 0.0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Job, "steps", interrupted(3, Job.steps))
        tensors(stage, tmp_path)
    assert list(tmp_path.glob("checkpoint*")) and same(tensors(stage, tmp_path), expected)


def test_a_diverged_student_is_not_stored() -> None:
    broken = SHORT.model_copy(update={"lr": 1e30})
    with pytest.raises(StageFailed, match="student loss.* NaN or infinite"):
        broken.result("cpu")
    assert not broken.stored()


# ---------------------------------------------------------------- the statistics

STATISTICS = FeatureStatistics(target=TEACHER, public=PUBLIC)


def test_the_statistics_are_those_of_the_penultimate_features() -> None:
    p = TEACHER.network("cpu").features(PUBLIC.load().float()).double().numpy()
    mean, std = STATISTICS.statistics("cpu")
    assert mean.shape == std.shape == (16,) and mean.dtype == std.dtype == torch.float32
    assert mean.numpy() == pytest.approx(p.mean(0), rel=1e-5, abs=1e-6)
    assert std.numpy() == pytest.approx(p.std(0, ddof=1), rel=1e-4, abs=1e-6)
    assert STATISTICS.result("cpu").meta["n_images"] == 400


def test_fewer_images_are_a_fixed_draw_of_the_public_ones() -> None:
    few = STATISTICS.model_copy(update={"count": 50})
    mean, _ = few.statistics("cpu")
    assert few.result("cpu").meta["n_images"] == 50
    rows = torch.randperm(400, generator=generator("shuffled", "feature statistics", 0))[:50]
    p = TEACHER.network("cpu").features(PUBLIC.load().float()[rows])
    assert torch.allclose(mean, p.mean(0), atol=1e-5)
    other, _ = few.model_copy(update={"seed": 1}).statistics("cpu")
    assert not torch.allclose(mean, other, atol=1e-5)


def test_the_key_knows_every_input() -> None:
    """The released cache is keyed by names alone and serves the features of an earlier target."""
    changes = (
        {"target": TEACHER.model_copy(update={"seed": 1})},
        {"public": PUBLIC.model_copy(update={"limit": 300})},
        {"count": 100},
        {"seed": 1},
    )
    keys = {STATISTICS.key} | {STATISTICS.model_copy(update=change).key for change in changes}
    assert len(keys) == 5


# ---------------------------------------------------------------- public images only


@pytest.mark.parametrize("make", [SHORT, STATISTICS], ids=["student", "statistics"])
@pytest.mark.parametrize(
    ("public", "said"),
    [
        (TEACHER.train, "^public: expected other classes .* found classes 0, 1, 2, 3, 4 of uci-digits in both"),
        (UciDigits(split="test", **DIGITS), "^public: expected other classes"),
        (LatinSheet(size=32), r"^public: expected images \(1, 16, 16\) as the target takes, found \(1, 32, 32\)"),
    ],
)
def test_private_or_unfitting_images_are_refused(make: TrainStudent, public: object, said: str) -> None:
    broken = make.model_copy(update={"public": public})
    with pytest.raises(UserError, match=said) as caught:
        broken.result("cpu")
    assert "\n" not in str(caught.value) and not broken.stored()


@pytest.mark.parametrize(("make", "least"), [(SHORT, 20), (STATISTICS, 2)], ids=["student", "statistics"])
def test_too_few_public_images_are_refused(make: TrainStudent, least: int) -> None:
    few = make.model_copy(update={"public": PUBLIC.model_copy(update={"limit": 1})})
    with pytest.raises(UserError, match=f"^public: expected at least {least} images, found 1"):
        few.result("cpu")

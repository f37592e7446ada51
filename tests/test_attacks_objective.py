"""Identity losses, their gradients and their optima against closed forms; model augmentation against a plain mean."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toys import POOL, TARGET

from mi_utils.attacks.objective import (
    LOSSES,
    IdentityLoss,
    Objective,
    cross_entropy,
    feature_penalty,
    logit_loss,
    max_margin_loss,
    poincare_loss,
)
from mi_utils.errors import UserError
from mi_utils.runtime import generator
from mi_utils.training.statistics import FeatureStatistics
from mi_utils.training.student import TrainStudent

D, K, N = 6, 4, 5
CPU = torch.device("cpu")
PUBLIC = POOL.source
STUDENT = TrainStudent(teacher=TARGET, public=PUBLIC, width=2, iterations=4)
STATISTICS = FeatureStatistics(target=TARGET, public=PUBLIC, count=20)
OTHER = TARGET.model_copy(update={"seed": 1})


def rand(*shape: int, word: str = "x") -> torch.Tensor:
    return torch.randn(*shape, generator=generator("objective tests", word), dtype=torch.float64)


LABELS = torch.tensor([0, 3, 1, 1, 2])


class Linear(nn.Module):
    """A classifier whose features are its images: what is left is the last layer of the specification."""

    def __init__(self, word: str, bias: float = 1.0):
        super().__init__()
        self.head = nn.Linear(D, K, dtype=torch.float64)
        self.head.weight.data, self.head.bias.data = rand(K, D, word=word), bias * rand(K, word=word + " bias")
        self.requires_grad_(False).eval()

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


MEAN, STD = rand(D, word="mean"), rand(D, word="std").abs() + 0.5


@pytest.fixture(autouse=True)
def linear_nets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages answer with linear nets and known statistics."""
    monkeypatch.setattr(type(TARGET), "network", lambda self, device: Linear("target"))
    monkeypatch.setattr(TrainStudent, "network", lambda self, device: Linear(f"student {self.seed}"))
    monkeypatch.setattr(FeatureStatistics, "statistics", lambda self, device: (MEAN, STD))


def students(count: int) -> tuple[TrainStudent, ...]:
    return tuple(STUDENT.model_copy(update={"seed": i}) for i in range(count))


def slope(objective: Objective, p: torch.Tensor, step: int = 0, seed: int = 0) -> torch.Tensor:
    p = p.clone().requires_grad_()
    loss = IdentityLoss(objective, TARGET, seed, CPU)(p, LABELS, step)
    assert loss.shape == (len(p),)
    return torch.autograd.grad(loss.sum(), p)[0]


# ---------------------------------------------------------------- each loss


@pytest.mark.parametrize("name", LOSSES)
def test_a_rows_loss_depends_on_that_row_alone(name: str) -> None:
    logits = rand(N, K)
    whole = LOSSES[name](logits, LABELS)
    assert whole.shape == (N,)
    assert torch.allclose(whole[2:3], LOSSES[name](logits[2:3], LABELS[2:3]))
    assert torch.autograd.gradcheck(lambda row: LOSSES[name](row, LABELS), logits.requires_grad_())


def test_losses_are_the_published_formulas() -> None:
    logits = rand(N, K)
    for row, y in enumerate(LABELS.tolist()):
        values = logits[row].tolist()
        margin = -(values[y] - max(v for k, v in enumerate(values) if k != y))
        length = sum(map(abs, values))
        u = [v / length for v in values]
        v = [(1 - 1e-4) * (k == y) for k in range(K)]
        apart = sum((a - b) ** 2 for a, b in zip(u, v, strict=True))
        inside = (1 - sum(a * a for a in u)) * (1 - sum(b * b for b in v))
        given = logits[row : row + 1], LABELS[row : row + 1]
        assert cross_entropy(*given).item() == pytest.approx(math.log(sum(map(math.exp, values))) - values[y])
        assert logit_loss(*given).item() == pytest.approx(-values[y])
        assert max_margin_loss(*given).item() == pytest.approx(margin)
        assert poincare_loss(*given).item() == pytest.approx(math.acosh(1 + 2 * apart / inside))


def test_poincare_is_finite_where_one_logit_is_everything() -> None:
    logits = torch.tensor([[0.0, 0, 0], [5.0, 0, 0], [5.0, 0, 0]], requires_grad=True)
    loss = poincare_loss(logits, torch.tensor([0, 0, 1]))
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(logits.grad).all()
    assert loss[1] < loss[2]


def test_the_margin_counts_the_best_other_class_even_below_zero() -> None:
    logits = torch.tensor([[3.0, -5.0, -7.0]])
    assert max_margin_loss(logits, torch.tensor([0])).item() == -8
    assert max_margin_loss(logits, torch.tensor([2])).item() == 10


# ---------------------------------------------------------------- gradients and optima in feature space


@pytest.mark.parametrize(("scale", "divisor"), [("mean", D), ("sum", 1)])
def test_the_logit_losss_gradient_is_its_closed_form(scale: str, divisor: int) -> None:
    p, lam, w = rand(N, D), 0.7, Linear("target").head.weight
    found = slope(Objective(loss="logit", statistics=STATISTICS, lam=lam, reg_scale=scale), p)
    assert torch.allclose(found, -w[LABELS] + 2 * lam / divisor * (p - MEAN))


def test_cross_entropys_gradient_is_its_closed_form_and_fades() -> None:
    p, net = rand(N, D), Linear("target")
    gap = F.one_hot(LABELS, K) - net(p).softmax(1)
    assert torch.allclose(slope(Objective(), p), -gap @ net.head.weight)
    # Features in which each class leads by 30: the model is sure of all rows.
    sure = 30 * torch.linalg.pinv(net.head.weight).T[LABELS]
    assert slope(Objective(), sure).abs().max() < 1e-9
    assert slope(Objective(loss="logit", lam=0), sure).abs().max() > 0.1


@pytest.mark.parametrize(("scale", "divisor"), [("mean", D), ("sum", 1)])
def test_the_optimum_lies_along_the_classs_weight_from_the_mean(scale: str, divisor: int) -> None:
    lam, w = 0.5, Linear("target").head.weight
    best = MEAN + divisor / (2 * lam) * w[LABELS]
    objective = Objective(loss="logit", statistics=STATISTICS, lam=lam, reg_scale=scale)
    assert torch.allclose(slope(objective, best), torch.zeros(N, D, dtype=torch.float64), atol=1e-12)
    loss = IdentityLoss(objective, TARGET, 0, CPU)
    for direction in rand(20, N, D, word="direction"):
        assert (loss(best + 0.1 * direction, LABELS, 0) > loss(best, LABELS, 0)).all()


def test_a_bias_does_not_turn_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    p, objective = rand(N, D), Objective(loss="logit", statistics=STATISTICS)
    with_bias = slope(objective, p)
    monkeypatch.setattr(type(TARGET), "network", lambda self, device: Linear("target", bias=0.0))
    assert torch.allclose(slope(objective, p), with_bias)


def test_the_two_scales_are_one_loss_at_lam_divided_by_the_dimension() -> None:
    p = rand(N, D)
    assert torch.allclose(feature_penalty(p, MEAN, "sum"), D * feature_penalty(p, MEAN, "mean"))
    given = {"loss": "logit", "statistics": STATISTICS}
    whole, mean = Objective(**given, lam=0.3, reg_scale="sum"), Objective(**given, lam=0.3 * D)
    assert torch.allclose(slope(whole, p), slope(mean, p))


# ---------------------------------------------------------------- p_reg


def test_a_sampled_anchor_has_the_means_gradient_on_average() -> None:
    p = rand(N, D)
    given = {"loss": "logit", "statistics": STATISTICS, "lam": D / 2}
    sampled = IdentityLoss(Objective(**given, p_reg="sample"), TARGET, 0, CPU)
    draws = torch.stack([sampled.p_reg(step) for step in range(4000)])
    # Five standard errors of 4,000 draws.
    assert ((draws.mean(0) - MEAN).abs() < 5 * STD / math.sqrt(4000)).all()
    assert torch.allclose(draws.std(0), STD, rtol=0.1)
    # The gradient is affine in the draw: at a draw it is the mean's, moved by what the draw moved.
    moved = slope(Objective(**given, p_reg="sample"), p, step=3) - slope(Objective(**given), p)
    assert torch.allclose(moved, (MEAN - draws[3]).expand(N, D))


def test_a_sampled_anchor_is_one_draw_per_step_whatever_the_chunk() -> None:
    loss = IdentityLoss(Objective(loss="logit", statistics=STATISTICS, p_reg="sample"), TARGET, 0, CPU)
    p = rand(N, D)
    parts = torch.cat([loss(p[:2], LABELS[:2], 7), loss(p[2:], LABELS[2:], 7)])
    assert torch.allclose(parts, loss(p, LABELS, 7))
    assert not torch.equal(loss.p_reg(7), loss.p_reg(8))
    other = IdentityLoss(loss.objective, TARGET, 1, CPU)
    assert not torch.equal(loss.p_reg(7), other.p_reg(7))


# ---------------------------------------------------------------- model augmentation


@pytest.mark.parametrize(("name", "count"), list(itertools.product(LOSSES, (0, 1, 3))))
def test_augmentation_is_the_mean_over_target_and_students(name: str, count: int) -> None:
    p = rand(N, D)
    models = [Linear("target"), *(Linear(f"student {i}") for i in range(count))]
    expected = sum(LOSSES[name](model(p), LABELS) for model in models) / (count + 1)
    found = IdentityLoss(Objective(loss=name, students=students(count), lam=0), TARGET, 0, CPU)(p, LABELS, 0)
    assert torch.allclose(found, expected)


def test_the_penalty_is_the_targets_alone_and_is_not_divided_by_the_number_of_models() -> None:
    p, given = rand(N, D), {"loss": "logit", "students": students(3)}
    with_penalty = IdentityLoss(Objective(**given, statistics=STATISTICS, lam=0.4), TARGET, 0, CPU)(p, LABELS, 0)
    without = IdentityLoss(Objective(**given, lam=0), TARGET, 0, CPU)(p, LABELS, 0)
    assert torch.allclose(with_penalty - without, 0.4 * (p - MEAN).square().mean(1))


# ---------------------------------------------------------------- what a user can get wrong


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"loss": "logit"},
            "statistics: the logit loss with lam > 0 needs FeatureStatistics of the target",
        ),
        ({"statistics": STATISTICS}, "statistics: the logit loss alone reads them, found loss 'ce'; leave them out"),
        ({"lam": -1.0}, "Objective.lam: .* greater than or equal to 0"),
        ({"loss": "nll"}, "Objective.loss: .*'poincare'"),
    ],
)
def test_wrong_objectives_name_themselves(fields: dict, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        Objective(**fields)
    assert "\n" not in str(caught.value)


def test_students_and_statistics_of_another_target_are_named() -> None:
    stranger = STUDENT.model_copy(update={"teacher": OTHER})
    with pytest.raises(UserError, match=r"^objective.students: expected students of .*\(number 2: .*seed=1"):
        Objective(students=(STUDENT, stranger)).check(TARGET)
    measured = STATISTICS.model_copy(update={"target": OTHER})
    with pytest.raises(UserError, match=r"^objective.statistics: expected features of .*another \(.*seed=1"):
        Objective(loss="logit", statistics=measured).check(TARGET)
    Objective(loss="logit", students=(STUDENT,), statistics=STATISTICS).check(TARGET)

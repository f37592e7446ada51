"""DMMIA's prototypes against closed forms and loops over numbers; the defects of the released code do not occur."""

import math

import pytest
import torch
from torch import Tensor

from mi_utils.attacks import memory
from mi_utils.attacks.memory import unit
from mi_utils.runtime import generator

K, N, C, D, M, RHO = 2, 3, 5, 4, 6, 2
Y = torch.tensor([3, 0])


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return unit(torch.randn(shape, generator=generator("memory", seed), dtype=torch.float64))


E, W, MEMORY = drawn(K, N, D), drawn(K, M, D, seed=1), drawn(K, C, D, seed=2)
FILLED = torch.tensor([[True, False, True, True, True], [True, True, False, False, True]])


# --- IMR -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_imr_is_minus_the_log_of_the_positives_share(tau: float) -> None:
    found = memory.imr_loss(E, W, RHO, tau)
    for k in range(K):
        for n in range(N):
            terms = [math.exp(float(E[k, n] @ W[k, m]) / tau) for m in range(M)]
            assert found[k, n].item() == pytest.approx(-math.log(sum(terms[:RHO]) / sum(terms)))


def test_imr_with_group_means_is_that_of_the_released_code() -> None:
    found = memory.imr_loss(E, W, RHO, 1.0, "mean")
    terms = (E @ W.mT).exp()
    positive, negative = terms[..., :RHO].mean(-1), terms[..., RHO:].mean(-1)
    torch.testing.assert_close(found, -(positive / (positive + negative)).log())
    half = memory.imr_loss(E, W, M // 2, 1.0, "mean")
    torch.testing.assert_close(half, memory.imr_loss(E, W, M // 2, 1.0, "sum"))  # the same where half are positive


def test_imr_gradients_are_the_closed_forms() -> None:
    tau = 0.3
    e, w = E.clone().requires_grad_(), W.clone().requires_grad_()
    by_e, by_w = torch.autograd.grad(memory.imr_loss(e, w, RHO, tau).sum(), (e, w))
    pi = (E @ W.mT / tau).softmax(-1)
    q = torch.zeros_like(pi)
    q[..., :RHO] = memory.positives(E, W, RHO, tau)
    torch.testing.assert_close(by_e, (pi - q) @ W / tau)
    torch.testing.assert_close(by_w, (pi - q).mT @ E / tau)
    torch.testing.assert_close(memory.imr_gradient(E, W, RHO, tau), (pi - q).mT @ E / tau / N)


def test_a_step_raises_the_positives_share_and_draws_positives_to_the_images() -> None:
    w = unit(W - 0.1 * memory.imr_gradient(E, W, RHO, 0.3))
    assert (memory.imr_loss(E, w, RHO, 0.3).mean(1) < memory.imr_loss(E, W, RHO, 0.3).mean(1)).all()
    near = [(E @ rows[:, :RHO].mT).mean() for rows in (W, w)]
    assert near[1] > near[0]


def test_at_temperature_one_many_positives_act_as_one() -> None:
    e, w = drawn(1, 40, 64), drawn(1, 64, 64, seed=3)
    shares = [memory.effective_positives(memory.positives(e, w, 32, tau)).item() for tau in (0.02, 0.1, 1.0)]
    sharpest = [memory.positives(e, w, 32, tau).amax(-1).mean().item() for tau in (0.02, 0.1, 1.0)]
    assert shares[2] > 31.9 and sharpest[2] < 1.5 / 32  # every image belongs to all of them alike
    assert sharpest[0] > 0.7 > sharpest[1] > 3 / 32


def test_effective_positives_counts_the_ones_in_use() -> None:
    q = torch.zeros(1, 4, 8)
    q[0, [0, 1, 2, 3], [0, 0, 5, 5]] = 1
    assert memory.effective_positives(q).item() == pytest.approx(2)


# --- IDR -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["sum", "mean"])
def test_idr_compares_the_own_row_with_the_filled_ones(group: str) -> None:
    found = memory.idr_loss(E, MEMORY, FILLED, Y, 0.2, group)
    for k in range(K):
        for n in range(N):
            terms = {c: math.exp(float(E[k, n] @ MEMORY[k, c]) / 0.2) for c in range(C) if FILLED[k, c]}
            own = terms.pop(int(Y[k]))
            rest = sum(terms.values()) / (len(terms) if group == "mean" else 1)
            assert found[k, n].item() == pytest.approx(-math.log(own / (own + rest)))


def test_idr_with_means_adds_the_log_of_the_others_to_the_own_logit() -> None:
    everyone = torch.ones_like(FILLED)
    found = memory.idr_loss(E, MEMORY, everyone, Y, 1.0, "mean")
    s = E @ MEMORY.mT
    own = s.gather(-1, Y[:, None, None].expand(-1, N, 1)).squeeze(-1)
    others = s.scatter(-1, Y[:, None, None].expand(-1, N, 1), -torch.inf).logsumexp(-1)
    torch.testing.assert_close(found, torch.nn.functional.softplus(others - own - math.log(C - 1)))


@pytest.mark.parametrize("filled", [[False] * 5, [True, False, True, True, True], [False, False, False, True, False]])
def test_idr_is_nothing_without_the_own_row_or_without_another(filled: list[bool]) -> None:
    mask = torch.tensor([filled, [True] * 5])
    y = torch.tensor([3 if filled != [True, False, True, True, True] else 1, 0])
    e = E.clone().requires_grad_()
    loss = memory.idr_loss(e, MEMORY, mask, y, 0.1)
    assert loss[0].tolist() == [0.0] * N and (loss[1] > 0).all()
    (slope,) = torch.autograd.grad(loss.sum(), e)
    assert slope[0].abs().sum() == 0 and torch.isfinite(slope).all() and slope[1].abs().sum() > 0


def test_idr_falls_along_its_gradient() -> None:
    e = E.clone().requires_grad_()
    (slope,) = torch.autograd.grad(memory.idr_loss(e, MEMORY, FILLED, Y, 0.2).sum(), e)
    assert (
        memory.idr_loss(E - 0.05 * slope, MEMORY, FILLED, Y, 0.2) < memory.idr_loss(E, MEMORY, FILLED, Y, 0.2)
    ).all()


# --- defects of the released code ----------------------------------------------------------------------------------


def test_an_images_losses_do_not_depend_on_the_other_images() -> None:
    order = torch.tensor([2, 0, 1])
    for loss in (
        lambda e: memory.imr_loss(e, W, RHO, 0.1),
        lambda e: memory.idr_loss(e, MEMORY, FILLED, Y, 0.1),
    ):
        torch.testing.assert_close(loss(E[:, order]), loss(E)[:, order])
        torch.testing.assert_close(loss(E[:, :1]), loss(E)[:, :1])


def test_every_class_has_prototypes_of_its_own() -> None:
    torch.testing.assert_close(memory.imr_loss(E, W, RHO, 0.1)[1:], memory.imr_loss(E[1:], W[1:], RHO, 0.1))


def test_memory_rows_stay_of_norm_one() -> None:
    said = torch.tensor([[3, 3, 1], [0, 2, 2]])
    m, _ = memory.remembered(MEMORY, FILLED, E, said, 0.7)
    torch.testing.assert_close(m.norm(dim=-1), torch.ones(K, C, dtype=torch.float64))


# --- the memory ------------------------------------------------------------------------------------------------


def test_memory_follows_the_mean_of_the_predicted_class() -> None:
    said = torch.tensor([[3, 3, 1], [0, 2, 2]])
    m, filled = memory.remembered(MEMORY, FILLED, E, said, 0.7)
    torch.testing.assert_close(m[0, 3], unit(0.7 * MEMORY[0, 3] + 0.3 * E[0, :2].mean(0)))
    torch.testing.assert_close(m[0, 1], unit(E[0, 2]))  # a first write copies
    torch.testing.assert_close(m[1, 2], unit(E[1, 1:].mean(0)))
    assert torch.equal(m[0, [0, 2, 4]], MEMORY[0, [0, 2, 4]])  # absent classes stay
    assert filled.tolist() == [[True, True, True, True, True], [True, True, True, False, True]]


def test_memory_has_no_graph() -> None:
    e = E.clone().requires_grad_()
    m, _ = memory.remembered(MEMORY, FILLED, e, torch.zeros(K, N, dtype=torch.long), 0.5)
    assert not m.requires_grad


@pytest.mark.parametrize("norm", [True, False])
def test_prototypes_start_at_random(norm: bool) -> None:
    w = memory.initial_prototypes((500, 8), norm, generator("w"), torch.device("cpu"))
    assert w.mean().abs() < 0.05
    if norm:
        torch.testing.assert_close(w.norm(dim=1), torch.ones(500))
    else:
        assert w.std().item() == pytest.approx(0.01, rel=0.05)


def test_spread_is_the_mean_cosine_with_the_others() -> None:
    found = memory.spread_loss(E)
    for n in range(N):
        others = [float(E[0, n] @ E[0, m]) for m in range(N) if m != n]
        assert found[0, n].item() == pytest.approx(sum(others) / len(others))

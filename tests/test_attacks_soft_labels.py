"""The attacker who knows how labels were smoothed: its loss's closed forms, and what its search goes to."""

import math

import pytest
import torch
from test_attacks_style import SMALL, TARGET

from mi_utils.attacks.objective import cross_entropy
from mi_utils.attacks.plug_and_play import PlugAndPlay
from mi_utils.attacks.soft_labels import SoftLabelSearch, soft_cross_entropy
from mi_utils.errors import UserError
from mi_utils.runtime import generator

Y = torch.tensor([0, 2, 3])


def logits() -> torch.Tensor:
    return torch.randn((3, 4), generator=generator("logits", 0), dtype=torch.float64)


@pytest.mark.parametrize("epsilon", [0.0, 0.2, 0.7])
def test_the_gradient_in_the_logits_is_what_is_said_less_what_was_taught(epsilon: float) -> None:
    said = logits().requires_grad_()
    taught = torch.full((3, 4), epsilon / 4, dtype=torch.float64)
    taught[range(3), Y] += 1 - epsilon
    losses = soft_cross_entropy(said, Y, epsilon)
    assert torch.allclose(losses, -(taught * said.log_softmax(1)).sum(1))
    (slope,) = torch.autograd.grad(losses.sum(), said)
    assert torch.allclose(slope, said.softmax(1) - taught)


def test_without_smoothing_it_is_the_cross_entropy() -> None:
    assert torch.allclose(soft_cross_entropy(logits(), Y, 0.0), cross_entropy(logits(), Y))


def test_it_is_least_where_the_target_says_what_it_was_taught() -> None:
    taught = torch.tensor([[0.85, 0.05, 0.05, 0.05]], dtype=torch.float64)
    least = soft_cross_entropy(taught.log(), torch.tensor([0]), 0.2)
    assert least.item() == pytest.approx(-(0.85 * math.log(0.85) + 0.15 * math.log(0.05)))
    sure = torch.tensor([[30.0, 0, 0, 0]], dtype=torch.float64)
    assert soft_cross_entropy(sure, torch.tensor([0]), 0.2) > least  # a surer target is a worse one


def test_with_epsilon_0_it_is_plug_and_play_with_cross_entropy() -> None:
    plain = PlugAndPlay(**SMALL, loss="ce").result("cpu").tensors
    found = SoftLabelSearch(**SMALL).result("cpu").tensors
    for name in ("images", "labels", "latents", "log_loss"):
        assert torch.equal(found[name], plain[name]), name


def test_it_stops_short_of_certainty() -> None:
    more = {"epochs": 30, "draws": 0}
    sure, soft = (SoftLabelSearch(**SMALL | more, epsilon=e).result("cpu").tensors for e in (0.0, 0.6))
    f = TARGET.network("cpu")

    def certainty(found: dict[str, torch.Tensor]) -> float:
        x = found["images"].float() / 127.5 - 1
        return float(f(x).softmax(1).gather(1, found["labels"][:, None]).mean())

    assert certainty(soft) < certainty(sure)


def test_another_loss_is_refused() -> None:
    with pytest.raises(UserError, match="SoftLabelSearch.loss: .*'ce'"):
        SoftLabelSearch(**SMALL, loss="poincare")

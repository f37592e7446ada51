"""DP-SGD: its step against a loop over images, the noise it adds, what a norm of one image sees, resumption."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_attacks_style import TARGET
from torch import nn
from toys import resumed, same

from mi_utils.data.augment import Augment
from mi_utils.data.images import to_float
from mi_utils.errors import UserError
from mi_utils.models.classifiers import build_classifier
from mi_utils.runtime import generator
from mi_utils.training import private
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.private import TrainPrivate, without_batch_statistics

PLAIN = {name: getattr(TARGET, name) for name in TrainClassifier.model_fields} | {"iterations": 6}
STAGE = TrainPrivate(**PLAIN, noise=0.5)


def net(architecture: str = "ir_small", width: int = 8) -> nn.Module:
    made = build_classifier(architecture, width=width, channels=3, size=32, classes=4, generator=generator("net", 0))
    return without_batch_statistics(made)


@pytest.mark.parametrize("architecture", ["cnn", "ir_small", "ir_deep", "mcnn"])
def test_no_image_changes_what_another_is_called(architecture: str) -> None:
    x = torch.randn((6, 3, 32, 32), generator=generator("x", 0))
    f = net(architecture).train()
    for module in f.modules():  # dropout draws anew in each call
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    together, alone = f(x), torch.cat([f(one[None]) for one in x])
    assert torch.allclose(together, alone, atol=1e-5)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in f.modules())


def clipped_sum(f: nn.Module, x: torch.Tensor, y: torch.Tensor, clip: float) -> list[torch.Tensor]:
    """The step's sum of clipped gradients, image by image."""
    total = [torch.zeros_like(p) for p in f.parameters()]
    for image, label in zip(x, y, strict=True):
        slopes = torch.autograd.grad(F.cross_entropy(f(image[None]), label[None]), list(f.parameters()))
        length = torch.sqrt(sum(g.square().sum() for g in slopes))
        for t, g in zip(total, slopes, strict=True):
            t += g * min(1.0, clip / float(length))
    return total


def stepped(noise: float, clip: float, f: nn.Module) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The gradient that one step of `TrainPrivate` hands to SGD, and the rows of its batch."""
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    data = TARGET.train.load()
    stage = STAGE.model_copy(update={"augmentation": Augment(), "clip": clip, "batch": 8})
    hooked = GradSampleModule(f, loss_reduction="sum")
    sgd = torch.optim.SGD(f.parameters(), 0.0)
    optimiser = DPOptimizer(sgd, noise_multiplier=noise, max_grad_norm=clip, expected_batch_size=8,
                            loss_reduction="mean", generator=generator("noise", 0))  # fmt: skip
    rows = (torch.rand(len(data), generator=generator("batch", 0)) < 8 / len(data)).nonzero().squeeze(1)
    with private._quiet():
        stage._step(hooked, optimiser, data, generator("batch", 0))
    return [p.grad.clone() for p in f.parameters()], rows


@pytest.mark.parametrize("clip", [0.5, 100.0])
def test_a_step_without_noise_is_the_mean_of_clipped_gradients(clip: float) -> None:
    data = TARGET.train.load()
    f = net("cnn").train()
    found, rows = stepped(0.0, clip, f)
    assert 1 < len(rows) < 20
    expected = clipped_sum(net("cnn").train(), to_float(data.images[rows]), data.labels[rows], clip)
    for g, e in zip(found, expected, strict=True):
        assert torch.allclose(g, e / 8, atol=1e-5)


def test_noise_has_the_standard_deviation_that_the_budget_counts() -> None:
    clean, _ = stepped(0.0, 0.5, net("cnn").train())
    noisy, _ = stepped(2.0, 0.5, net("cnn").train())
    noise = torch.cat([(n - c).flatten() for n, c in zip(noisy, clean, strict=True)])
    assert len(noise) > 1000
    assert float(noise.std()) == pytest.approx(2.0 * 0.5 / 8, rel=0.05)
    assert abs(float(noise.mean())) < 4 * 0.125 / math.sqrt(len(noise))


def test_an_empty_batch_is_a_step_of_noise() -> None:
    stage = STAGE.model_copy(update={"batch": 2})
    data = TARGET.train.load()
    seeds = (s for s in range(200) if not (torch.rand(80, generator=generator("empty", s)) < 2 / 80).any())
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    f = net("cnn").train()
    hooked, sgd = GradSampleModule(f, loss_reduction="sum"), torch.optim.SGD(f.parameters(), 0.0)
    optimiser = DPOptimizer(sgd, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=2,
                            loss_reduction="mean", generator=generator("noise", 0))  # fmt: skip
    assert len(data) == 80
    loss = stage._step(hooked, optimiser, data, generator("empty", next(seeds)))
    flat = torch.cat([p.grad.flatten() for p in f.parameters()])
    assert float(loss) == 0 and float(flat.std()) == pytest.approx(0.5, rel=0.05)


def test_more_noise_spends_less() -> None:
    data = TARGET.train.load()
    spent = [STAGE.model_copy(update={"noise": s}).budget(data) for s in (0.5, 1.0, 4.0)]
    assert spent[0] > spent[1] > spent[2] > 0
    # The whole set in one batch, once: a Gaussian mechanism, whose Renyi divergence at order a is a / (2 sigma^2).
    once = STAGE.model_copy(update={"noise": 4.0, "batch": 80, "iterations": 1}).budget(data)
    orders = torch.linspace(1.1, 60, 5000, dtype=torch.float64)
    bound = orders / 32 + math.log(80) / (orders - 1)
    assert once <= float(bound.min()) + 1e-6 and once > 0.5 * float(bound.min())


def test_it_trains_resumes_and_answers_as_it_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = STAGE.result("cpu")
    assert result.meta["epsilon"] > 0 and result.tensors["log_loss"].isfinite().all()
    f, test = STAGE.network("cpu"), STAGE.test.load()
    said = f(to_float(test.images)).argmax(1)
    assert float((said == test.labels).double().mean()) == pytest.approx(result.meta["test_accuracy"])
    again, steps = resumed(STAGE, tmp_path, monkeypatch, 4)
    assert same(again, result.tensors) and steps == [4, 5]


def test_a_reject_class_is_refused() -> None:
    with pytest.raises(UserError, match="reject: expected none with DP-SGD"):
        TrainPrivate(**PLAIN | {"reject": TARGET.train})

"""Stages so small that they are computed in about a second, shared by the tests of models, training and attacks."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mi_utils.attacks.bmi import BMI
from mi_utils.attacks.generative import GenerativeMI
from mi_utils.attacks.identity import Views
from mi_utils.attacks.patch_mi import Critic, PatchMI
from mi_utils.attacks.vmi import VMI
from mi_utils.data import HangulSheet, LatinSheet
from mi_utils.data.augment import GLYPH_VIEW
from mi_utils.data.pool import AuxiliaryPool
from mi_utils.stage import Job, Stage
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.gan import TrainDCGAN

SMALL = {"symbols": "digits", "channels": 1, "classes": (0, 1, 2)}
TARGET = TrainClassifier(
    train=LatinSheet(**SMALL, size=32, limit=60),
    test=LatinSheet(**SMALL, size=32, limit=20, split="test"),
    width=4,
    iterations=60,
    batch=24,
    lr=0.05,
)
POOL = AuxiliaryPool(source=HangulSheet(syllables=4, limit=40), count=64)
PRIOR = TrainDCGAN(auxiliary=POOL, n_gf=2, n_df=2, iterations=6, batch=8)
# Long enough that its images and its discriminator depend on the latent.
LEARNT_PRIOR = PRIOR.model_copy(update={"n_gf": 4, "n_df": 4, "iterations": 150, "batch": 16, "lr": 2e-3})
BLOCK = Views(count=2, transform=GLYPH_VIEW)
TWO = {"target": TARGET, "classes": (2, 0), "samples": 3}
SMALL_GAN = {"n_gf": 2, "n_df": 4, "batch": 4, "iterations": 4}

PATCH_MI = PatchMI(**TWO, **SMALL_GAN, auxiliary=POOL, views=BLOCK)
ALL_TERMS = {
    "critics": (Critic(patch=8, stride=4, padding=0), Critic(patch=32, stride=32, padding=0)),
    "d_reduce": "patch",
    "d_padding": "replicate",
    "views": BLOCK.model_copy(update={"combine": "logit"}),
    "n_codes": 2,
    "upsampling": "resize",
    "instance_noise": 0.1,
    "ramp": 2,
    "w_z": 1.0,
    "w_bn": 0.5,
    "average": 0.9,
}
ATTACKS: dict[str, Stage] = {
    "patch-mi": PATCH_MI,
    "patch-mi all terms": PATCH_MI.model_copy(update=ALL_TERMS),
    "patch-mi conditional": PATCH_MI.model_copy(update=ALL_TERMS | {"gan": "class_cond"}),
    "bmi": BMI(**TWO, iterations=6, views=BLOCK, milestones=(3,)),
    "generative": GenerativeMI(**TWO, prior=LEARNT_PRIOR, iterations=6, decay_every=2, views=BLOCK),
    "vmi": VMI(**TWO, prior=LEARNT_PRIOR, iterations=6, batch=4, components=3, views=BLOCK),
}


def tensors(stage: Stage, folder: Path) -> dict[str, torch.Tensor]:
    """What a stage computes, with its checkpoints in `folder`; its upstreams come from the session's store."""
    for upstream in stage.upstream():
        upstream.result("cpu")
    job = Job(stage, torch.device("cpu"))
    job._folder = folder
    return stage.compute(job).tensors


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two results agree to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def interrupted(stop: int, steps: Callable) -> Callable:
    """`Job.steps` that is interrupted before step `stop`."""

    def until(self: Job, total: int, *states: dict[str, object]) -> Iterator[int]:
        for step in steps(self, total, *states):
            if step == stop:
                raise KeyboardInterrupt
            yield step

    return until


def resumed(stage: Stage, folder: Path, patch: pytest.MonkeyPatch, stop: int) -> tuple[dict[str, torch.Tensor], list]:
    """What a stage computes that was interrupted before step `stop`, and the steps that it took then."""
    patch.setattr(type(stage), "checkpoint_seconds", 0.0)
    with patch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(Job, "steps", interrupted(stop, Job.steps))
        tensors(stage, folder)
    assert list(folder.glob("checkpoint*"))
    steps: list[int] = []
    original = Job.steps

    def watched(self: Job, total: int, *states: dict[str, object]) -> Iterator[int]:
        for step in original(self, total, *states):
            steps.append(step)
            yield step

    patch.setattr(Job, "steps", watched)
    return tensors(stage, folder), steps

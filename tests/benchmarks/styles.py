"""PPA: all classes and candidates in one batch, against class after class; what the memory costs a step."""

import torch

from mi_utils.attacks.dmmia import DMMIA
from mi_utils.attacks.plug_and_play import PlugAndPlay
from mi_utils.attacks.style_search import StyleSearch
from mi_utils.data import Faces
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.stylegan2 import TrainStyleGAN2
from tests.benchmarks.harness import Comparison, Way, benchmark
from tests.benchmarks.patch_mi import Clock

STEPS, CLASSES, CANDIDATES = 4, 10, 8


def prepared(size: int, device: torch.device, **fields: object) -> dict[str, object]:
    """Fields of a search with networks next to untrained, computed but for the attack."""
    people = {"identities": 20, "per_identity": 2, "size": size}
    target = TrainClassifier(
        train=Faces(**people), test=Faces(**people, split="test"), architecture="ir_deep", width=8, iterations=2
    )
    prior = TrainStyleGAN2(
        public=Faces(identities=20, first=1000, per_identity=2, size=size), base=512 // size, steps=1, batch=4
    )
    for stage in (target, prior):
        stage.result(device)
    shared = dict(prior=prior, target=target, classes=tuple(range(CLASSES)), pool=64, candidates=CANDIDATES, draws=0,
                  samples=CANDIDATES, epochs=STEPS + 1, frames=2)  # fmt: skip
    return shared | fields


def stepping(stages: list[StyleSearch], device: torch.device) -> Way:
    """The seconds of the stages' steps, after the first."""

    def seconds() -> float:
        clock = Clock(device)
        for stage in stages:
            stage.compute(clock)
        return clock.seconds

    return seconds


def by_class(size: int, device: torch.device, least: float) -> Comparison:
    """One class at a time against all."""
    fields = prepared(size, device)
    chunk = 64 if device.type == "cpu" else CLASSES * CANDIDATES
    single = [PlugAndPlay(**fields | {"classes": (y,)}) for y in range(CLASSES)]
    told = f"{CLASSES} classes × {CANDIDATES} candidates, {STEPS} steps, {size} px"
    return Comparison(
        stepping(single, device), stepping([PlugAndPlay(**fields, chunk=chunk)], device), told, least=least
    )


@benchmark("styles-batch", threads=2)
def styles_batch(device: torch.device) -> Comparison:
    """At 32 px on the CPU."""
    return by_class(32, device, 1.0)


@benchmark("styles-batch-device", device="cuda")
def styles_batch_device(device: torch.device) -> Comparison:
    """At 64 px."""
    return by_class(64, device, 5.0)


@benchmark("memory-step", threads=2)
def memory_step(device: torch.device) -> Comparison:
    """Tuning the mapping network without the two memories against with them: a ratio of 1 means that they are free."""
    fields = prepared(32, device) | {"candidates": 32, "samples": 32, "batch": 16, "n_w": 64, "rho": 32}
    plain = DMMIA(**fields, lam1=0.0, lam2=0.0)
    told = f"{CLASSES} classes × 32 candidates, 64 prototypes, {STEPS} epochs, 32 px; lam 0 against lam 1"
    return Comparison(stepping([plain], device), stepping([DMMIA(**fields)], device), told, least=0.91)

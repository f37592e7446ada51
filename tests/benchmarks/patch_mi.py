"""One GAN per class: all classes as channel groups of one network, against one class after another."""

import time
from collections.abc import Iterator

import torch

from mi_utils.attacks.identity import Views
from mi_utils.attacks.patch_mi import PatchMI
from mi_utils.data import HangulSheet, LatinSheet
from mi_utils.data.augment import GLYPH_VIEW
from mi_utils.data.pool import AuxiliaryPool
from mi_utils.stage import Job
from mi_utils.training.classifier import TrainClassifier
from tests.benchmarks.harness import Comparison, benchmark, wait

ITERATIONS = 5


class Clock(Job):
    """A job that saves nothing and knows the seconds of its steps, the first one left out."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, 0.0

    def steps(self, total: int, *states: dict[str, object]) -> Iterator[int]:
        yield 0
        wait(self.device)
        began = time.perf_counter()
        yield from range(1, total)
        wait(self.device)
        self.seconds += time.perf_counter() - began


@benchmark("patch-mi-all-classes")
def patch_mi_all_classes(device: torch.device) -> Comparison:
    """The same updates of the same ten GANs, at the laptop profile's width."""
    digits = {"symbols": "digits", "size": 32, "channels": 1, "copies": 2}
    target = TrainClassifier(
        train=LatinSheet(**digits), test=LatinSheet(split="test", **digits), width=16, iterations=1
    )
    attack = PatchMI(
        target=target,
        auxiliary=AuxiliaryPool(source=HangulSheet(syllables=20), count=256),
        classes=tuple(range(10)),
        n_gf=8,
        n_df=16,
        batch=16,
        iterations=ITERATIONS + 1,
        views=Views(count=2, transform=GLYPH_VIEW),
        samples=1,
    )
    target.result(device), attack.auxiliary.result(device)

    def seconds(stages: list[PatchMI]) -> float:
        clock = Clock(device)
        for stage in stages:
            stage.compute(clock)
        return clock.seconds

    single = [attack.model_copy(update={"classes": (y,)}) for y in attack.classes]
    size = f"10 classes, {ITERATIONS} iterations of batch 16 each, n_gf 8, n_df 16, 32 px, one view"
    return Comparison(lambda: seconds(single), lambda: seconds([attack]), size)

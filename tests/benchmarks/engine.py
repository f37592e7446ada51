"""What the engine costs: a stage that is stored already, and checkpoints and bookkeeping of one that trains."""

import pickle
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch

from mi_utils.data import Faces
from mi_utils.stage import Job, Stage
from mi_utils.training.stylegan2 import TrainStyleGAN2
from tests.benchmarks.harness import Comparison, benchmark, clocked

CACHED_MS, SHARE = 20.0, 1.0  # asked for: ms of a stored stage, per cent of a training stage's time
READS, STEPS = 30, 60
IN_LOOPS = ("_show", "_capture", "_save", "_restore")


def prior(steps: int, **fields: object) -> TrainStyleGAN2:
    """The laptop profile's generator of 32 px."""
    return TrainStyleGAN2(public=Faces(identities=20, first=1000, per_identity=4), steps=steps, **fields)


def anew(stage: Stage) -> Stage:
    """The same recipe as a new object, as in a new process: nothing in it has been asked for its key."""
    return pickle.loads(pickle.dumps(stage))


def milliseconds(ask: Callable[[Stage], object], stage: Stage) -> float:
    """Median of a question to a recipe that has not been asked before."""
    seconds = []
    for _ in range(READS):
        fresh = anew(stage)
        began = time.perf_counter()
        ask(fresh)
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds)


@benchmark("engine-cached", rounds=0)
def engine_cached(device: torch.device) -> Comparison:
    """A stored result: found by its recipe, read, every byte checked; against computing it."""
    small, large = prior(1, base=4, most=8), prior(1)
    small.result(device), large.result(device)
    mib = sum(t.numel() * t.element_size() for t in large.result(device).tensors.values()) / 2**20
    return Comparison(
        clocked(lambda: large.compute(Job(large, device)), device),
        clocked(lambda: anew(large).result(device), device),
        f"StyleGAN2 of 32 px after one step, {mib:.1f} MiB; one computed, one read",
        measures=lambda: {
            "ms_to_know_that_it_is_stored": milliseconds(Stage.stored, large),
            "ms_to_read_a_small_result": milliseconds(lambda stage: stage.result(device), small),
            "ms_to_read_the_large_result": milliseconds(lambda stage: stage.result(device), large),
        },
        most={"ms_to_know_that_it_is_stored": CACHED_MS, "ms_to_read_a_small_result": CACHED_MS},
    )


class Meter:
    """Seconds inside the engine while a stage is computed: all but `compute`, and in it the engine's own parts."""

    def __init__(self) -> None:
        self.whole = self.computing = self.in_loops = 0.0
        self.checkpoints = 0

    @contextmanager
    def adding(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, name, getattr(self, name) + time.perf_counter() - began)

    def wrapped(self, function: Callable, name: str) -> Callable:
        def timed(*args: object, **options: object) -> object:
            self.checkpoints += function is SAVE
            with self.adding(name):
                return function(*args, **options)

        return timed

    def run(self, stage: Stage, device: torch.device) -> float:
        """Compute and store; returns the seconds."""
        cls = type(stage)
        with ExitStack() as patches:
            for name in IN_LOOPS:
                patches.enter_context(patch.object(Job, name, self.wrapped(getattr(Job, name), "in_loops")))
            patches.enter_context(patch.object(cls, "compute", self.wrapped(cls.compute, "computing")))
            with self.adding("whole"):
                stage.ensure(device)
        return self.whole

    def percent(self) -> float:
        return 100 * (self.whole - self.computing + self.in_loops) / self.whole


SAVE = Job._save


class Unkept(Job):
    """A job that saves and tells nothing."""

    def steps(self, total: int, *states: dict[str, object]) -> Iterator[int]:
        yield from range(total)


@benchmark("engine-share", rounds=0)
def engine_share(device: torch.device) -> Comparison:
    """A training with the engine, checkpoints as often as in any run, against the same without one."""
    stage, meter = prior(STEPS), Meter()
    stage.public.load()
    prior(1).result(device)  # what is done once in a process is done
    return Comparison(
        clocked(lambda: stage.compute(Unkept(stage, device)), device),
        lambda: meter.run(stage, device),
        f"StyleGAN2 of 32 px, batch {stage.batch}, {STEPS} steps; without the engine, with it",
        measures=lambda: {"engine_percent": meter.percent(), "checkpoints": float(meter.checkpoints)},
        most={"engine_percent": SHARE},
    )

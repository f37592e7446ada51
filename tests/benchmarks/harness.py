"""Two ways to the same numbers, timed in turns: A B A B."""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Way = Callable[[], float]  # does the work once and returns its seconds


@dataclass(frozen=True)
class Comparison:
    """A benchmark made ready: the `plain` way, the `fast` way, and in words what both do."""

    plain: Way
    fast: Way
    size: str


BENCHMARKS: dict[str, Callable[[torch.device], Comparison]] = {}


def benchmark(name: str) -> Callable:
    """Registers a function that prepares a Comparison on a device."""

    def register(prepare: Callable[[torch.device], Comparison]) -> Callable[[torch.device], Comparison]:
        BENCHMARKS[name] = prepare
        return prepare

    return register


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clocked(work: Callable[[], object], device: torch.device) -> Way:
    """`work` as a Way: its wall-clock seconds."""

    def way() -> float:
        wait(device)
        began = time.perf_counter()
        work()
        wait(device)
        return time.perf_counter() - began

    return way


def peak_mib(device: torch.device) -> float:
    """MiB: most memory held so far, on the GPU by tensors, on the CPU by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def measured(prepare: Callable[[torch.device], Comparison], device: torch.device, rounds: int) -> dict:
    """Medians over `rounds` turns, after one turn that is not counted."""
    compared = prepare(device)
    turns = [(compared.plain(), compared.fast()) for _ in range(rounds + 1)][1:]
    plain, fast = (statistics.median(column) for column in zip(*turns, strict=True))
    return {
        "ratio": round(plain / fast, 2),
        "plain_seconds": round(plain, 4),
        "fast_seconds": round(fast, 4),
        "size": compared.size,
        "rounds": rounds,
        "peak_mib": round(peak_mib(device)),
    }

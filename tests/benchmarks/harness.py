"""Two ways to the same numbers, timed in turns: A B A B."""

import os
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch

from mi_utils.errors import UserError

Way = Callable[[], float]  # does the work once and returns its seconds


@dataclass(frozen=True)
class Comparison:
    """A benchmark made ready: the `plain` way, the `fast` way, and in words what both do.

    `least`: the ratio that is asked for.  `measures`: further figures, taken after the turns; the value of each
    may not exceed the one of the same name in `most`.
    """

    plain: Way
    fast: Way
    size: str
    least: float | None = None
    measures: Callable[[], dict[str, float]] = dict
    most: dict[str, float] | None = None


@dataclass(frozen=True)
class Benchmark:
    """`prepare` makes a Comparison on a device; `threads` of the CPU; `rounds` of turns at most."""

    prepare: Callable[[torch.device], Comparison]
    threads: int
    rounds: int | None
    device: str | None

    def unavailable(self, device: torch.device) -> str:
        """Why it cannot run on this device; empty where it can."""
        return "" if self.device in (None, device.type) else f"needs {self.device}, found {device.type}"


BENCHMARKS: dict[str, Benchmark] = {}


def benchmark(name: str, *, threads: int = 1, rounds: int | None = None, device: str | None = None) -> Callable:
    """Registers a function that prepares a Comparison on a device.

    `rounds` 0: one turn, and no earlier one that is not counted, for work that takes minutes.
    """

    def register(prepare: Callable[[torch.device], Comparison]) -> Callable[[torch.device], Comparison]:
        BENCHMARKS[name] = Benchmark(prepare, threads, rounds, device)
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


def sampled(work: Callable[[], object], device: torch.device, share: float) -> Way:
    """`work` done for this share of a whole that would take too long: its seconds divided by the share."""
    way = clocked(work, device)
    return lambda: way() / share


class Peak:
    """Most memory taken on top of what was held on entering, in MiB: of the GPU, or of the process.

    The process is looked at once in `every` seconds and on leaving; what comes and goes in between is not seen.
    """

    def __init__(self, device: torch.device, every: float = 0.005) -> None:
        self.device, self.every, self.mib = device, every, 0.0

    def _held(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return psutil.Process().memory_info().rss

    def _watch(self) -> None:
        while not self.done.wait(self.every):
            self.mib = max(self.mib, (self._held() - self.before) / 2**20)

    def __enter__(self) -> "Peak":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.before, self.done = self._held(), threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.done.set()
        self.thread.join()
        self.mib = max(self.mib, (self._held() - self.before) / 2**20)


def measured(bench: Benchmark, device: torch.device, rounds: int) -> dict:
    """Medians over the rounds after one turn that is not counted, and peak memory of each way."""
    torch.set_num_threads(min(bench.threads, os.cpu_count() or 1))
    rounds = rounds if bench.rounds is None else min(rounds, bench.rounds)
    compared = bench.prepare(device)
    peaks = {"plain": 0.0, "fast": 0.0}
    seconds: dict[str, list[float]] = {"plain": [], "fast": []}
    for _ in range(rounds + 1):
        for name, way in (("plain", compared.plain), ("fast", compared.fast)):
            with Peak(device) as peak:
                seconds[name].append(way())
            peaks[name] = max(peaks[name], peak.mib)
    plain, fast = (statistics.median(taken[1:] or taken) for taken in seconds.values())
    row = {
        "ratio": significant(plain / fast),
        "plain_seconds": significant(plain),
        "fast_seconds": significant(fast),
        "plain_peak_mib": round(peaks["plain"]),
        "fast_peak_mib": round(peaks["fast"]),
        "size": compared.size,
        "rounds": max(rounds, 1),
    }
    row["measures"] = {name: significant(value) for name, value in compared.measures().items()}
    row["missed"] = missed(row, compared)
    return row


def missed(row: dict, compared: Comparison) -> list[str]:
    """What was asked for and not reached, in words."""
    short = compared.least is not None and row["ratio"] < compared.least
    found = [f"ratio {row['ratio']} < {compared.least}"] if short else []
    figures = row["measures"] | {"fast_peak_mib": row["fast_peak_mib"], "fast_seconds": row["fast_seconds"]}
    for name, most in (compared.most or {}).items():
        if name not in figures:
            raise UserError(f"most: expected one of {', '.join(figures)}, found {name!r}")
        if figures[name] > most:
            found.append(f"{name} {figures[name]} > {most}")
    return found


def significant(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")

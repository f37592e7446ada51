"""The benchmark harness: ratios of medians, first turn not counted; unknown names are one line."""

import json
import mmap
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tests.benchmarks.harness import Benchmark, Comparison, Peak, clocked, measured, missed, sampled

ROOT = Path(__file__).parents[1]


CPU = torch.device("cpu")


def scripted(rounds: int | None = None) -> Benchmark:
    """Turns that say what they took."""
    plain, fast = iter([99.0, 4.0, 6.0, 50.0]), iter([99.0, 1.0, 2.0, 3.0])
    compared = Comparison(plain.__next__, fast.__next__, "x", least=3.5, measures=lambda: {"error": 2e-5})
    return Benchmark(lambda device: compared, threads=1, rounds=rounds, device=None)


def test_the_ratio_is_that_of_the_medians_after_the_first_turn() -> None:
    row = measured(scripted(), CPU, 3)
    assert (row["ratio"], row["plain_seconds"], row["fast_seconds"], row["rounds"]) == (3.0, 6.0, 2.0, 3)
    assert row["missed"] == ["ratio 3.0 < 3.5"] and row["measures"] == {"error": 2e-5} and json.dumps(row)


def test_work_of_minutes_is_done_once() -> None:
    row = measured(scripted(rounds=0), CPU, 5)
    assert (row["ratio"], row["rounds"]) == (1.0, 1)


def test_figures_above_what_is_asked_for_are_named() -> None:
    row = {"ratio": 9.0, "measures": {"error": 2e-5}, "fast_peak_mib": 10, "fast_seconds": 1.0}
    asked = Comparison(lambda: 0.0, lambda: 0.0, "x", least=5, most={"error": 1e-5, "fast_peak_mib": 10})
    assert missed(row, asked) == ["error 2e-05 > 1e-05"]


def test_a_sample_stands_for_the_whole() -> None:
    way = sampled(lambda: time.sleep(0.02), CPU, share=0.01)
    assert 2 <= way() < 20


def test_peak_memory_is_what_the_work_takes_on_top() -> None:
    held = torch.ones(2**24)  # 64 MiB that were there before
    with Peak(CPU) as peak:
        # A mapping of its own is new to the process, whatever earlier tests have left to the allocator.
        taken = torch.frombuffer(mmap.mmap(-1, 2**27), dtype=torch.uint8).fill_(1)
        wait_until(lambda: peak.mib > 100)
        del taken  # so that leaving finds nothing: it is the watching that has to see it
    assert 100 < peak.mib < 200 and len(held)


def wait_until(happened: Callable[[], bool], seconds: float = 30.0) -> None:
    """So long at the most; a busy machine may take a while to let another thread run."""
    end = time.monotonic() + seconds
    while not happened() and time.monotonic() < end:
        time.sleep(0.01)


def test_a_benchmark_for_another_device_says_so() -> None:
    assert Benchmark(lambda device: None, 1, None, "cuda").unavailable(CPU) == "needs cuda, found cpu"
    assert not Benchmark(lambda device: None, 1, None, None).unavailable(CPU)


def test_seconds_are_those_of_the_work() -> None:
    done = []
    assert 0 <= clocked(lambda: done.append(1), torch.device("cpu"))() < 1 and done == [1]


def test_an_unknown_benchmark_is_one_line() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "patchmi"], cwd=ROOT, capture_output=True, text=True
    )
    expected = "benchmark: expected some of augmentation"
    assert run.returncode == 1 and run.stderr.startswith(expected) and run.stderr.count("\n") == 1

"""The benchmark harness: ratios of medians, first turn not counted; unknown names are one line."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from benchmarks.harness import Comparison, clocked, measured

ROOT = Path(__file__).parents[1]


def test_the_ratio_is_that_of_the_medians_after_the_first_turn() -> None:
    plain, fast = iter([99.0, 4.0, 6.0, 50.0]), iter([99.0, 1.0, 2.0, 3.0])
    row = measured(lambda device: Comparison(plain.__next__, fast.__next__, "x"), torch.device("cpu"), 3)
    assert (row["ratio"], row["plain_seconds"], row["fast_seconds"], row["rounds"]) == (3.0, 6.0, 2.0, 3)
    assert row["peak_mib"] > 10 and json.dumps(row)


def test_seconds_are_those_of_the_work() -> None:
    done = []
    assert 0 <= clocked(lambda: done.append(1), torch.device("cpu"))() < 1 and done == [1]


def test_an_unknown_benchmark_is_one_line() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "patchmi"], cwd=ROOT, capture_output=True, text=True
    )
    expected = "benchmark: expected some of augmentation"
    assert run.returncode == 1 and run.stderr.startswith(expected) and run.stderr.count("\n") == 1

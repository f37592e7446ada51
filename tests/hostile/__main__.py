"""python -m tests.hostile [COUNT] [SEED]: COUNT mutated inputs (default 12,000), and what became of them.

An input must be read, or refused by a UserError; whatever else happens is printed, and the exit status is 1.
"""

import logging
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import torch

from mi_utils import origin, reproduce, studies
from mi_utils.errors import UserError
from mi_utils.stage import Config
from mi_utils.studies.plan import Plan
from tests.hostile import guard, inputs

ROOM = 3 << 30  # bytes of address space beyond what the libraries take
FREE = 1 << 30  # bytes that the code is told are free


def prepared(place: Path) -> None:
    """A store of its own, a toy paper, no kernels; everything imported before anything is watched."""
    os.chdir(place)
    os.environ |= {"MI_STORE": str(place / "store"), "MI_DATA": str(place / "data"), "MPLBACKEND": "agg"}
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    sys.setrecursionlimit(1000)
    sys.stdin = open(os.devnull)
    origin.state()  # asks git, once
    inputs.classes(), inputs.whole(), [inputs.whole_plan(s.__name__) for s in studies.PAPERS.values()]
    reproduce.execute = lambda paper, request: place
    studies.PAPERS["toy"] = SimpleNamespace(plan=lambda profile, **overrides: toy_plan(profile))
    reproduce.papers = lambda: ["toy"]


def toy_plan(profile: str) -> Plan:
    """One stage and no attack."""
    return Plan(paper="toy", profile=profile, settings=Config(), runs=(), extra=(inputs.Tiny(),))


def tried(count: int, seed: int, place: Path) -> int:
    """Print what became of `count` inputs; returns the exit status."""
    prepared(place)
    toy = {"toy": studies.PAPERS["toy"]}
    real = {name: study for name, study in studies.PAPERS.items() if name != "toy"}
    rng, watch = np.random.default_rng(seed), guard.Guard(place, Path(tempfile.gettempdir()) / "none")
    wrong: Counter[str] = Counter()
    spent: dict[str, float] = {}
    done, shares = 0, sum(share for _, share in inputs.KINDS.values())
    for kind, (make, share) in inputs.KINDS.items():
        began = time.perf_counter()
        studies.PAPERS = toy if kind in ("archives", "commands") else real
        number = -(-count * share // shares)
        for _ in range(number):
            call = make(rng, place / "work")
            if done == 0:
                before = guard.peak_bytes()
                free = psutil.virtual_memory()._replace(available=FREE)
                psutil.virtual_memory = lambda free=free: free
                guard.limit_memory(ROOM)
            problem = watch.attempt(call, (UserError, SystemExit))
            if problem:
                wrong[f"{kind}: {problem}"] += 1
            done += 1
        spent[kind] = time.perf_counter() - began
        print(f"{kind:28}{number:6} inputs {1000 * spent[kind] / number:8.1f} ms each", flush=True)
    for line, times in wrong.most_common(60):
        print(f"{times:5} x {line}")
    for line in [*watch.executed[:20], *watch.outside[:20], *guard.FIRED[:20]]:
        print(f"      {line}")
    executed = len(watch.executed) + len(guard.FIRED)
    print(f"largest memory {(guard.peak_bytes() - before) / 2**20:.0f} MiB above that of the libraries, seed {seed}")
    print(
        f"{done} mutated inputs, {sum(wrong.values())} uncaught tracebacks, {executed} executed, "
        f"{len(watch.outside)} outside"
    )
    return int(bool(wrong or executed or watch.outside))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        status = tried(int((sys.argv[1:] or ["12000"])[0]), int((sys.argv[2:] or ["0"])[0]), Path(folder).resolve())
        os.chdir("/")
    sys.exit(status)

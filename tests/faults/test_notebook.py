"""Ctrl-C in a notebook: a real kernel, its workers gone, and the cell run again goes on."""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager
from test_engine_faults import Walk, counted, living, wait_until

from mi_utils import store
from mi_utils.stage import run, status

HERE = Path(__file__).parent
SETUP = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from test_engine_faults import Walk
from mi_utils.stage import run
"""
CELL = "run([Walk(seed=i, pause=0.05, steps=60) for i in (5, 6)], workers=2, device='cpu'); print('done')"
STAGES = [Walk(seed=i, pause=0.05, steps=60) for i in (5, 6)]


class Kernel:
    """A Jupyter kernel of this interpreter, and what a notebook does with it."""

    def __init__(self) -> None:
        self.manager = KernelManager()
        self.manager._kernel_spec = KernelSpec(**get_kernel_dict(extra_arguments=["--log-level=50"]))
        self.manager.start_kernel(env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=240)

    def start(self, code: str) -> str:
        return self.client.execute(code)

    def end(self, asked: str) -> dict:
        """The reply to a cell: `status` ok or error, with the error's name."""
        while True:
            reply = self.client.get_shell_msg(timeout=240)
            if reply["parent_header"].get("msg_id") == asked:
                return reply["content"]

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.manager.provisioner.pid)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    monkeypatch.setenv("MI_STORE", str(tmp_path / "store"))
    store.root()
    started = Kernel()
    yield started
    started.client.stop_channels()
    started.manager.shutdown_kernel(now=True)
    started.manager.context.destroy(0)


def steps_taken() -> bool:
    return all((stage.folder / "checkpoint-0.pt").exists() for stage in STAGES)


@pytest.mark.filterwarnings("ignore")  # of the kernel's client: sockets that the interpreter closes
@pytest.mark.parametrize("workers", [2, 1])
def test_an_interrupted_cell_leaves_no_worker_and_goes_on(
    kills: int, workers: int, kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Counter
) -> None:
    assert kernel.end(kernel.start(SETUP))["status"] == "ok"
    cell = CELL.replace("workers=2", f"workers={workers}")
    asked = kernel.start(cell)
    begun: Callable[[], bool] = steps_taken if workers == 2 else lambda: (STAGES[0].folder / "checkpoint-0.pt").exists()
    wait_until(begun)
    # Python's own tracker of semaphores is a child too, and stays with the kernel.
    children = [p for p in kernel.process.children(recursive=True) if "resource_tracker" not in " ".join(p.cmdline())]
    assert len(children) == (workers if workers > 1 else 0)
    kernel.manager.interrupt_kernel()
    reply = kernel.end(asked)
    assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")
    assert not living(children)
    assert {row.state for row in status()} == {"interrupted"}
    taken = counted(store.root(), "steps")
    time.sleep(0.5)
    assert counted(store.root(), "steps") == taken < 120, "something still computes"
    assert kernel.end(kernel.start(cell))["status"] == "ok"
    tally["faults"] += 1
    assert counted(store.root(), "steps") <= 120 + 2, "more than the steps in flight were done twice"
    resumed = [stage.result("cpu").tensors["place"] for stage in STAGES]
    monkeypatch.setenv("MI_STORE", str(tmp_path / "second"))
    store.root(), run(STAGES, workers=1, device="cpu", progress=False)
    same = [torch.equal(s.result("cpu").tensors["place"], r) for s, r in zip(STAGES, resumed, strict=True)]
    tally["wrong"] += same.count(False)
    assert all(same)

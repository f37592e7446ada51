"""The engine when processes die, files rot, disks fill and two ask at once."""

import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import psutil
import pytest
import torch

from mi_utils import store
from mi_utils.errors import UserError
from mi_utils.schedule import Pool, Watch
from mi_utils.stage import Job, Output, Stage, StageFailed, run, status

HERE = Path(__file__).parent
# The interpreter runs this in a process of its own, where it may be killed.
PRELUDE = f"import sys; sys.path.insert(0, {str(HERE)!r}); from test_engine_faults import *; "


class Walk(Stage):
    """A random walk with a checkpoint at every step; its steps and its runs are counted in files."""

    checkpoint_seconds: ClassVar[float] = 0.0
    seed: int = 0
    steps: int = 40
    pause: float = 0.0

    def compute(self, job: Job) -> Output:
        stream, place = torch.Generator().manual_seed(self.seed), torch.zeros(8)
        with Path(os.environ["MI_STORE"], "tmp", "runs").open("a") as runs:
            runs.write(f"{self.seed}\n")
        for _ in job.steps(self.steps, {"stream": stream, "place": place}):
            place += torch.randn(8, generator=stream) + torch.rand(8)
            with Path(os.environ["MI_STORE"], "tmp", "steps").open("a") as steps:
                steps.write("1")
            time.sleep(self.pause)
        return Output({"place": place})


class Doomed(Stage):
    """Ends its own process, as the kernel does where memory runs out."""

    def compute(self, job: Job) -> Output:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still alive")


class Mistaken(Stage):
    """Finds the user's mistake after half a second."""

    def compute(self, job: Job) -> Output:
        time.sleep(0.5)
        raise UserError("limit: expected at most 5, found 9; lower it")


class Big(Stage):
    def compute(self, job: Job) -> Output:
        state = torch.zeros(1 << 20)
        for _ in job.steps(1, {"state": state}):
            state += 1
        return Output({"state": state})


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MI_STORE", str(tmp_path / "store"))
    return store.root()


@pytest.fixture
def python(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen]]:
    """Starts a script that has this module's names; none outlives its test."""
    started = []

    def start(code: str) -> subprocess.Popen:
        script = tmp_path / f"script{len(started)}.py"
        script.write_text(PRELUDE + code)
        started.append(subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


def counted(folder: Path, name: str) -> int:
    path = folder / "tmp" / name
    return len(path.read_text().replace("\n", "")) if path.exists() else 0


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    psutil.wait_procs(processes, timeout=60)
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def wait_until(true: Callable[[], bool], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def test_a_killed_run_leaves_no_process_and_resumes_to_the_same_bits(
    own_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: Callable
) -> None:
    stages = [Walk(seed=3, pause=0.05), Walk(seed=4, pause=0.05)]
    parent = python("run([Walk(seed=i, pause=0.05) for i in (3, 4)], workers=2, device='cpu')")
    wait_until(lambda: all((stage.folder / "checkpoint-0.pt").exists() for stage in stages))
    workers = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.communicate()
    assert not living(workers)
    done = counted(own_store, "steps")
    assert done < 80 and [row.state for row in status(stages)] == ["interrupted"] * 2
    resumed = [stage.result("cpu").tensors["place"] for stage in stages]
    assert counted(own_store, "steps") <= 82, "more than the steps in flight were done twice"
    monkeypatch.setenv("MI_STORE", str(tmp_path / "second"))
    for stage, place in zip(stages, resumed, strict=True):
        assert torch.equal(stage.result("cpu").tensors["place"], place)


def test_two_processes_compute_once(own_store: Path, python: Callable) -> None:
    stage = Walk(seed=4, pause=0.05)
    other = python("Walk(seed=4, pause=0.05).result('cpu')")
    wait_until(lambda: counted(own_store, "steps") >= 1)
    assert stage.result("cpu").tensors["place"].shape == (8,)
    assert other.communicate(timeout=120)[1] == "" and other.returncode == 0
    assert counted(own_store, "runs") == 1 and counted(own_store, "steps") == 40


@pytest.mark.parametrize("name", ["tensors.safetensors", "meta.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_result_is_reported_and_made_again(
    name: str, damage: str, own_store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Walk()
    expected = stage.result("cpu").tensors["place"]
    path = stage.folder / "output" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x80
    path.unlink() if damage == "gone" else path.write_bytes(data if damage == "flip" else data[:-1])
    with caplog.at_level(logging.WARNING, "mi_utils"):
        again = stage.result("cpu").tensors["place"]
    assert torch.equal(again, expected) and counted(own_store, "runs") == 2
    assert len(caplog.messages) == 1 and "damaged" in caplog.messages[0] and "\n" not in caplog.messages[0]
    stage.result("cpu")
    assert counted(own_store, "runs") == 2


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_checkpoint_starts_from_zero(damage: str, own_store: Path, caplog: pytest.LogCaptureFixture) -> None:
    stage = Walk(steps=5)
    job = Job(stage, torch.device("cpu"))
    state = {"stream": torch.Generator(), "place": torch.ones(8)}
    job._save(stage.folder / "checkpoint-0.pt", job._capture(3, state))
    path = stage.folder / "checkpoint-0.pt"
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes({"flip": data, "cut": data[:-1], "empty": b""}[damage])
    with caplog.at_level(logging.WARNING, "mi_utils"):
        stage.result("cpu")
    assert counted(own_store, "steps") == 5
    assert len(caplog.messages) == 1 and "starting from step 0" in caplog.messages[0]


def test_a_mistake_in_a_worker_arrives_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, later = Walk(seed=1, pause=0.05), Walk(seed=2)
    with pytest.raises(UserError, match="^limit: expected at most 5, found 9; lower it$"):
        run([Mistaken(), slow, later], workers=2, device="cpu", progress=False)
    states = [row.state for row in status([Mistaken(), slow, later])]
    assert states == ["failed", "stored", "missing"], "the running stage ends, no other begins"
    # One worker of two and this process come to the same bits.
    pooled = slow.result("cpu").tensors["place"]
    monkeypatch.setenv("MI_STORE", str(tmp_path / "second"))
    assert torch.equal(slow.result("cpu").tensors["place"], pooled)


def test_a_killed_worker_names_what_ran() -> None:
    with pytest.raises(StageFailed, match=r"worker process was killed.*Doomed .*run again") as caught:
        Pool(["cpu"], Watch(2, visible=False)).run([Doomed(), Walk(seed=9)])
    assert not Walk(seed=9).stored()
    assert "\n" not in str(caught.value)


SCRIPT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
class Typed(Walk):
    pass
run([Typed(seed=i, pause=0.1, steps=10000) for i in range(4)], workers=2, device="cpu", progress=False)
"""


def test_ctrl_c_ends_the_workers_and_keeps_checkpoints(own_store: Path, python: Callable) -> None:
    # A class of the calling script itself, and no `if __name__ == "__main__"` in it.
    parent = python(SCRIPT)
    wait_until(lambda: len(list(own_store.glob("*,*/*/checkpoint-0.pt"))) >= 2)
    workers = psutil.Process(parent.pid).children(recursive=True)
    parent.send_signal(signal.SIGINT)
    said = parent.communicate(timeout=120)[1]
    assert not living(workers)
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert {row.state for row in status()} == {"interrupted"}
    assert counted(own_store, "runs") == 2, "a pending stage was started"


# ---------------------------------------------------------------- disks


def test_a_full_disk_is_refused_before_computing(monkeypatch: pytest.MonkeyPatch, own_store: Path) -> None:
    usage = store.shutil.disk_usage(own_store)._replace(free=150 << 20)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: usage)
    for ask in (lambda: Walk().result("cpu"), lambda: run([Walk()], workers=1)):
        with pytest.raises(UserError, match="expected at least 200 MB free in .*, found 150 MB"):
            ask()
    assert counted(own_store, "runs") == 0


def test_a_store_that_cannot_be_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MI_STORE", str(tmp_path / "file" / "store"))
    with pytest.raises(UserError, match="cannot be written .*; set MI_STORE to a folder of your own"):
        Walk().result("cpu")


@pytest.mark.parametrize("interval", [0.0, 1e9])  # the checkpoint does not fit, or only the result
def test_a_disk_that_fills_leaves_nothing_half_written(
    interval: float, own_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Big, "checkpoint_seconds", interval, raising=False)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(UserError, match="no space left in .*MI_STORE"):
            Big().result("cpu")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not Big().stored() and not (Big().folder / "output").exists()
    assert not list(Big().folder.glob("checkpoint*")) and not list((own_store / "tmp").iterdir())
    assert torch.equal(Big().result("cpu").tensors["state"], torch.ones(1 << 20))

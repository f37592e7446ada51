"""Job arrays on a real Slurm: what is requeued, killed, refused, interrupted, and that the numbers stay the same."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from mi_utils import store
from mi_utils.errors import UserError
from mi_utils.job_arrays import listed
from mi_utils.schedule import Watch
from mi_utils.stage import Job, Output, Stage, StageFailed, run
from tests.cluster import slurm as machine

HERE = Path(__file__).parent


class Walk(Stage):
    """A random walk with a checkpoint at every step; each run writes the step that it begins with."""

    checkpoint_seconds: ClassVar[float] = 0.0
    seed: int = 0
    steps: int = 40
    pause: float = 0.0
    deaf: bool = False  # to the signal before the time limit

    def compute(self, job: Job) -> Output:
        if self.deaf:
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        stream, place = torch.Generator().manual_seed(self.seed), torch.zeros(8)
        begun = False
        for step in job.steps(self.steps, {"stream": stream, "place": place}):
            if not begun:
                note(self.folder.name, step)
                begun = True
            place += torch.randn(8, generator=stream) + torch.rand(8)
            time.sleep(self.pause)
        return Output({"place": place})


class Hold(Stage):
    """Stays until the file `go` is in the store."""

    seed: int = 0

    def compute(self, job: Job) -> Output:
        note(str(self.seed), 0)
        while not (store.root() / "tmp" / "go").exists():
            time.sleep(0.1)
        return Output()


class Doomed(Stage):
    """Ends its own process, as the kernel does where memory runs out."""

    before: Walk = Walk(seed=1)

    def compute(self, job: Job) -> Output:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still alive")


class Mistaken(Stage):
    """Finds the user's mistake."""

    def compute(self, job: Job) -> Output:
        raise UserError("limit: expected at most 5, found 9; lower it")


def note(name: str, step: int) -> None:
    with (store.root() / "tmp" / f"runs-{name}").open("a") as file:
        file.write(f"{step}\n")


def begun(name: str) -> list[int]:
    """First step of each run of a stage so far."""
    path = store.root() / "tmp" / f"runs-{name}"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MI_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parents[1])]))
    return store.root()


@pytest.fixture(autouse=True)
def own_jobs(slurm: None) -> Iterator[None]:
    """None outlives its test."""
    yield
    machine.emptied()


@pytest.fixture
def behind() -> Iterator[Callable]:
    """Starts `run` in a thread, so that the test can interfere."""
    with ThreadPoolExecutor(1) as pool:
        yield lambda *stages, **given: pool.submit(run, list(stages), device="cpu", progress=False, **given)


def wait_until(true: Callable[[], object], seconds: float = 1200) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def running() -> list[str]:
    return [job for job, (state, _) in (listed() or {}).items() if state == "RUNNING"]


def undisturbed(stage: Stage, folder: Path, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """What the stage computes in this process, in a store of its own."""
    with monkeypatch.context() as apart:
        apart.setenv("MI_STORE", str(folder))
        apart.setattr(time, "sleep", lambda seconds: None)
        return stage.result("cpu").tensors["place"]


@pytest.mark.parametrize("command", ["scancel --signal=USR2", "scontrol requeue"])
def test_a_preempted_job_goes_on_from_its_checkpoint(
    command: str, behind: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Walk(seed=3, steps=100, pause=0.2)
    ended = behind(stage, cluster="slurm")
    wait_until(lambda: (stage.folder / "checkpoint-0.pt").exists() and running())
    job = running()[0]
    subprocess.run([*command.split(), job], check=True)
    ended.result(1200)
    runs = begun(stage.folder.name)
    assert len(runs) == 2 and runs[0] == 0 < runs[1]
    assert "Restarts=1" in subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True).stdout
    assert torch.equal(stage.result().tensors["place"], undisturbed(stage, tmp_path / "other", monkeypatch))


def test_a_time_limit_ends_no_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One job hears the signal and is requeued, the other is ended and submitted again.  Slurm's unit is the minute, so
    # the limit is two of them, and it looks for jobs beyond it every half a minute.
    stages = [Walk(seed=5, steps=130, pause=1.0), Walk(seed=5, steps=200, pause=1.0, deaf=True)]
    run(stages, device="cpu", cluster={"engine": "slurm", "hours": 0.02, "grace": 40}, progress=False)
    for stage in stages:
        runs = begun(stage.folder.name)
        assert len(runs) >= 2 and runs == sorted(set(runs)), runs
        assert torch.equal(stage.result().tensors["place"], undisturbed(stage, tmp_path / "other", monkeypatch))


def test_a_job_that_meets_its_limit_too_often_is_named() -> None:
    with pytest.raises(StageFailed, match="Walk .* timed-out too many times|raise cluster.hours"):
        run(
            [Walk(seed=6, steps=600, pause=1.0)], device="cpu", progress=False,
            cluster={"engine": "slurm", "hours": 0.01, "grace": 20, "restarts": 0},
        )  # fmt: skip


def test_no_more_jobs_at_one_time_than_the_width(behind: Callable, own_store: Path) -> None:
    stages = [Hold(seed=seed) for seed in range(5)]
    ended = behind(*stages, cluster={"engine": "slurm", "width": 2})
    wait_until(lambda: sum(bool(begun(str(seed))) for seed in range(5)) == 2)
    waiting = [reason for state, reason in (listed() or {}).values() if state == "PENDING"]
    assert waiting == ["JobArrayTaskLimit"] * 3
    (own_store / "tmp" / "go").touch()
    ended.result(1200)
    assert all(stage.stored() for stage in stages)


def test_a_killed_job_is_reported_with_its_log() -> None:
    with pytest.raises(StageFailed, match=r"^Doomed .* ended without a result: FAILED \(killed\?\); see ") as caught:
        run([Doomed()], device="cpu", cluster="slurm", progress=False)
    log = Path(str(caught.value).rpartition("see ")[2])
    assert "task 0: Killed" in log.read_text()
    assert Doomed().before.stored(), "the level before was computed"


def test_a_users_mistake_arrives_as_one_line(capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(UserError, match="^limit: expected at most 5, found 9; lower it$"):
        run([Mistaken()], device="cpu", cluster="slurm", progress=False)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("field", "said"), [({"partition": "nowhere"}, "invalid partition"), ({"memory": "100TB"}, "Memory")]
)
def test_what_slurm_refuses_is_one_line(field: dict, said: str, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(UserError, match=f"^cluster: Slurm refused the jobs: .*{said}[^\n]*$"):
        run([Walk(), Walk(seed=1)], device="cpu", cluster={"engine": "slurm", **field}, progress=False)
    assert capfd.readouterr() == ("", "") and begun(Walk().folder.name) == []


def test_jobs_that_can_never_start_say_why_and_can_be_cancelled(
    behind: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    # Slurm takes more processors than any node has, and lets the job wait.
    ended = behind(Walk(), cluster={"engine": "slurm", "cpus": 99})
    wait_until(lambda: "cluster: 1 jobs wait in Slurm: PartitionConfig" in caplog.messages)
    subprocess.run(["scancel", "--name", "mi_utils"], check=True)
    with pytest.raises(StageFailed, match="^Walk .* ended without a result: CANCELLED"):
        ended.result(1200)


@pytest.mark.skipif(torch.cuda.is_available(), reason="its node must have no GPU")
def test_a_job_on_a_gpu_asks_for_one_and_must_find_it() -> None:
    with pytest.raises(UserError, match="^device: 'cuda' asks for a GPU, found 0"):
        run([Walk()], cluster={"engine": "slurm", "gpus": 1}, progress=False)
    jobs = subprocess.run(["scontrol", "show", "job"], capture_output=True, text=True, check=True).stdout.split("\n\n")
    assert "TresPerNode=gres:gpu:1" in max(filter(None, jobs), key=lambda text: int(re.search(r"JobId=(\d+)", text)[1]))


def test_an_interrupt_ends_the_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = [Walk(seed=seed, steps=6000, pause=0.1) for seed in (7, 8)]

    def interrupted(watch: Watch) -> None:
        if all((stage.folder / "checkpoint-0.pt").exists() for stage in stages):
            raise KeyboardInterrupt

    monkeypatch.setattr(Watch, "show", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(stages, device="cpu", cluster="slurm", progress=False)
    wait_until(lambda: not running())


def test_jobs_outlive_the_process_that_sent_them(tmp_path: Path, own_store: Path) -> None:
    code = "from test_slurm import *; run([Hold(seed=9)], device='cpu', cluster='slurm', progress=False)"
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    wait_until(lambda: begun("9"))
    parent.kill()
    parent.wait()
    (own_store / "tmp" / "go").touch()
    run([Hold(seed=9)], device="cpu", cluster="slurm", progress=False)
    assert Hold(seed=9).stored() and begun("9") == [0], "sent a second time"


def reproduced(folder: Path, *flags: str) -> tuple[bytes, dict[str, str]]:
    """scores.csv of a smoke reproduction in a store of its own, and the digest of every stage's tensors."""
    subprocess.run(
        [sys.executable, "-m", "mi_utils", "reproduce", "--paper", "patch_mi", "--profile", "smoke", "--device", "cpu",
         "--figures", folder / "figures", "--set", "{variants: 1}", *flags],
        env=os.environ | {"MI_STORE": str(folder / "store")}, cwd=HERE.parents[1], check=True,
    )  # fmt: skip
    manifests = map(json.loads, (path.read_bytes() for path in folder.glob("store/*/*/output/manifest.json")))
    digests = {found["key"]: found["files"]["tensors.safetensors"]["sha256"] for found in manifests}
    return (folder / "figures" / "smoke" / "patch_mi" / "scores.csv").read_bytes(), digests


def test_a_reproduction_is_equal_number_for_number(tmp_path: Path) -> None:
    here = reproduced(tmp_path / "here", "--workers", "2")
    there = reproduced(tmp_path / "there", "--cluster", "{engine: slurm, memory: 1500MB, width: 2}")
    assert len(here[1]) > 50 and here[0].count(b"\n") > 100
    assert here == there
    assert list((tmp_path / "there" / "store").glob("*/logs/*/*/*_submitted.pkl")), "no stage went through Slurm"

"""The cluster parameter: what it takes, refuses and says to exca; Slurm's states from a squeue of the test's own."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import pytest

from mi_utils import cluster, job_arrays, store
from mi_utils.cluster import Cluster, chosen
from mi_utils.errors import UserError
from mi_utils.job_arrays import Level, Slurm, listed
from mi_utils.stage import Job, Output, Stage, StageFailed

FULL = "{engine: slurm, partition: gpu, account: lab, qos: low, constraint: a100, gpus: 1, cpus: 4, memory: 32GB, \
hours: 12, width: 64, grace: 90, restarts: 5, setup: [module load cuda], options: {reservation: night}}"


class Given(Stage):
    seed: int = 0

    def compute(self, job: Job) -> Output:
        return Output(meta={"seed": self.seed})


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Programs of the test's own names first on the path; at first those that a machine with Slurm has."""
    monkeypatch.setenv("MI_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def program(name: str, script: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    for name in ("sbatch", "srun", "squeue", "scancel"):
        program(name, "exit 0")
    return program


# ---------------------------------------------------------------- the parameter


def test_a_word_a_mapping_and_its_text_are_one() -> None:
    assert chosen(None) is None
    assert chosen("slurm") == chosen({"engine": "slurm"}) == chosen("{engine: slurm}") == Cluster(engine="slurm")
    assert chosen("{engine: slurm, memory: 32GB}").memory == chosen({"engine": "slurm", "memory": 32}).memory == 32
    assert [chosen({"engine": "slurm", "memory": text}).memory for text in ("512MB", "1.5T", "8 GiB")] == [0.5, 1536, 8]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("cloud", "cluster: expected 'slurm' or 'local', found 'cloud'"),
        ("{engine: slurm", "cluster: expected slurm, local or a YAML mapping"),
        ("[slurm]", "cluster: expected slurm, local or a YAML mapping"),
        ("", "cluster: expected slurm, local or a YAML mapping"),
        ({"partition": "gpu"}, "cluster.engine: expected slurm or local, found nothing"),
        ({"engine": "slurm", "partion": "gpu"}, "cluster.partion: no such field; did you mean partition?"),
        ({"engine": "slurm", "zzz": 1}, "cluster.zzz: no such field; it has engine, partition"),
        ({"engine": "slurm", "gpus": 8}, "cluster.gpus: expected less than or equal to 1, found 8"),
        ({"engine": "slurm", "memory": "lots"}, "cluster.memory: expected a size such as 32GB or 800MB, found 'lots'"),
        ({"engine": "slurm", "hours": 0}, "cluster.hours: expected greater than 0, found 0"),
        ({"engine": "slurm", "width": 0}, "cluster.width: expected greater than or equal to 1, found 0"),
        ({"engine": "slurm", "hours": 0.01, "grace": 60}, "cluster.grace: expected fewer seconds than the 60 of hours"),
        ({"engine": "local", "partition": "gpu"}, "cluster.partition: read by engine slurm alone"),
        (3, "cluster: expected slurm, local or a YAML mapping"),
    ],
)
def test_a_mistake_is_one_line(value: object, said: str) -> None:
    with pytest.raises(UserError) as caught:
        chosen(value)
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


def test_slurm_is_asked_for_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="^cluster: expected Slurm's commands"):
        chosen("slurm")
    assert chosen("local").engine == "local"


def test_every_field_reaches_the_script_that_slurm_gets() -> None:
    asked = chosen(FULL)
    assert set(asked.model_dump(exclude_defaults=True)) == set(Cluster.model_fields), "a field that FULL leaves out"
    made = Given().entry("auto", **asked.fields("cuda")).infra.executor()
    made.update_parameters(slurm_array_parallelism=asked.room(None, 2))
    made._executor.parameters["map_count"] = 100
    script = made._executor._make_submission_file_text("compute", "0")
    flags = {line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")}
    assert flags >= {
        "partition=gpu", "account=lab", "qos=low", "constraint=a100", "gpus-per-node=1", "cpus-per-task=4",
        "mem=32GB", "time=720", "array=0-99%64", "signal=USR2@90", "requeue", "reservation=night",
    }  # fmt: skip
    assert "\nmodule load cuda\n" in script and "\nsrun " in script
    assert made._executor.max_num_timeout == 5


@pytest.mark.parametrize(
    ("fields", "asked", "device", "gpus"),
    [
        ({}, "auto", "auto", None),
        ({}, "cpu", "cpu", None),
        ({}, "cuda", "cuda", 1),
        ({"gpus": 1}, "auto", "cuda", 1),
        ({"gpus": 1}, "cuda", "cuda", 1),
    ],
)
def test_a_gpu_that_is_asked_for_must_be_found(fields: dict, asked: str, device: str, gpus: int | None) -> None:
    found = Cluster(engine="slurm", **fields)
    assert found.device(asked) == device and found.fields(device)["gpus_per_node"] == gpus


def test_a_gpu_and_the_cpu_do_not_go_together() -> None:
    with pytest.raises(UserError, match="^cluster.gpus: expected 0 with device cpu, found 1"):
        Cluster(engine="slurm", gpus=1).device("cpu")


def test_width_comes_from_the_field_then_from_workers() -> None:
    given = [("slurm", {}, None), ("slurm", {}, 8), ("slurm", {"width": 4}, 8), ("local", {}, None)]
    rooms = [Cluster(engine=engine, **width).room(workers, 2) for engine, width, workers in given]
    assert rooms == [64, 8, 4, 2]


# ---------------------------------------------------------------- Slurm's word


def test_states_of_every_job(here: Callable) -> None:
    here("squeue", "echo '7_0|RUNNING|None'; echo '7_[1-3]|PENDING|JobArrayTaskLimit'; echo '8|TIMEOUT|TimeLimit|x'")
    assert listed() == {
        "7_0": ("RUNNING", "None"), "7_[1-3]": ("PENDING", "JobArrayTaskLimit"), "8": ("TIMEOUT", "TimeLimit|x"),
    }  # fmt: skip
    here("squeue", "exit 1")
    assert listed() is None


class Sent:
    """A job that was submitted: its id and where its files lie."""

    def __init__(self, name: str, folder: Path) -> None:
        self.job_id = name
        self.paths = SimpleNamespace(result_pickle=folder / f"{name}.pkl", folder=folder, stderr=folder / "log.err")


@pytest.mark.parametrize("state", ["TIMEOUT", "CANCELLED", "FORGOTTEN"])
def test_the_end_of_a_job_is_believed_when_seen_twice(
    state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_arrays, "_SQUEUE_SECONDS", 0)
    said = iter(["RUNNING", state, "PENDING", state, None, state])

    def states() -> dict | None:
        now = next(said)
        return now and ({} if now == "FORGOTTEN" else {"7": (now, "None")})

    monkeypatch.setattr(job_arrays, "listed", states)
    engine, job = Slurm(), Sent("7", tmp_path)
    # A requeue passes through the state; a controller that does not answer changes nothing.
    assert [engine.ended([job]) for _ in range(5)] == [{}] * 5
    assert engine.ended([job]) == {"7": state}


def test_a_result_ends_a_job_at_once(tmp_path: Path) -> None:
    job = Sent("7", tmp_path)
    job.paths.result_pickle.touch()
    assert Slurm().ended([job]) == {"7": "COMPLETED"}


def test_why_jobs_wait_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    engine = Slurm()
    states = [("PENDING", "PartitionTimeLimit"), ("PENDING", "PartitionTimeLimit"), ("PENDING", "Priority")]
    engine._tell(states)
    engine._tell(states)
    assert [record.getMessage() for record in caplog.records] == ["cluster: 2 jobs wait in Slurm: PartitionTimeLimit"]


class Story:
    """An engine whose jobs end as told: each state in turn, a stored result after `COMPLETED`."""

    def __init__(self, folder: Path, *states: str) -> None:
        self.states, self.folder, self.dropped = list(states), folder, []

    def room(self, width: int, running: int) -> int:
        return width - running

    def ended(self, jobs: list[Sent]) -> dict[str, str]:
        return {job.job_id: self.states.pop(0) for job in jobs}

    def drop(self, jobs: list[Sent]) -> None:
        self.dropped += [job.job_id for job in jobs]


class Told(Level):
    """A level that submits nothing: its jobs are names."""

    def _start(self, stages: list[Stage]) -> None:
        for stage in stages:
            self.attempts[stage.key] += 1
            self.jobs[stage.key] = stage, Sent(f"{stage.seed}.{self.attempts[stage.key]}", self.engine.folder)

    def _collect(self, stage: Stage, job: Sent, state: str) -> None:
        if state == "COMPLETED":
            stage.result("cpu")
        super()._collect(stage, job, state)


def told(folder: Path, *states: str, stages: int = 1, **fields: int) -> Told:
    watch = SimpleNamespace(show=lambda: None, finish=lambda stage, done: None)
    level = Told("cpu", Cluster(engine="slurm", **fields), 9, Story(folder, *states), watch)
    level.given = [Given(seed=seed) for seed in range(stages)]
    return level


@pytest.mark.parametrize("state", ["TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL"])
def test_a_job_ended_from_outside_is_sent_again(state: str, tmp_path: Path) -> None:
    level = told(tmp_path, state, state, "COMPLETED", restarts=2)
    level.run(list(level.given))
    assert level.given[0].stored() and level.attempts[level.given[0].key] == 3


@pytest.mark.parametrize(
    ("states", "fields", "said"),
    [
        (["TIMEOUT"], {"restarts": 0}, "TIMEOUT; it met its time limit too often: raise cluster.hours"),
        (["TIMEOUT", "TIMEOUT"], {"restarts": 1}, "job 0.2 ended without a result: TIMEOUT"),
        (["CANCELLED"], {}, r"CANCELLED \(killed\?\); see .*log.err"),
        (["OUT_OF_MEMORY"], {}, "OUT_OF_MEMORY; ask for more .cluster.memory."),
    ],
)
def test_what_is_not_sent_again_is_explained(states: list, fields: dict, said: str, tmp_path: Path) -> None:
    level = told(tmp_path, *states, **fields)
    with pytest.raises(StageFailed, match=f"^Given .*{said}"):
        level.run(list(level.given))


def test_a_job_that_was_told_of_its_limit_while_it_started_is_sent_again(tmp_path: Path) -> None:
    (tmp_path / "log.err").write_text("srun: error: node7: task 0: User defined signal 2\n")
    level = told(tmp_path, "FAILED", "COMPLETED", restarts=1)
    level.run(list(level.given))
    assert level.given[0].stored()


def test_after_a_failure_what_waits_is_taken_back(tmp_path: Path) -> None:
    level = told(tmp_path, "FAILED", "CANCELLED", "COMPLETED", stages=3)
    with pytest.raises(StageFailed, match="^Given .*job 0.1 "):
        level.run(list(level.given))
    assert level.engine.dropped == ["1.1", "2.1"]
    assert [stage.stored() for stage in level.given] == [False, False, True], "a job that ran on was lost"


def test_a_stages_own_words_come_first(tmp_path: Path) -> None:
    stage = Given()
    store.write_atomically(stage.folder / "failure.json", b'{"kind": "UserError", "text": "limit: expected 5"}')
    with pytest.raises(UserError, match="^limit: expected 5$"):
        told(tmp_path, "COMPLETED_WITH_ERROR").run([stage])


@pytest.mark.parametrize(
    ("last", "kind", "said"),
    [
        ("mi_utils.errors.UserError: device: 'cuda' asks for a GPU", UserError, "^device: 'cuda' asks for a GPU$"),
        ("ImportError: no module named x", StageFailed, "^Given .*: ImportError: no module named x; see .*log.err$"),
    ],
)
def test_what_a_job_raised_before_its_stage_began(last: str, kind: type, said: str, tmp_path: Path) -> None:
    (tmp_path / "0.1.pkl").write_bytes(cloudpickle.dumps(("error", f"Traceback:\n  File x\n{last}\n")))
    with pytest.raises(kind, match=said):
        told(tmp_path, "FAILED").run([Given()])


def test_modules_of_the_engine_make_no_number() -> None:
    from mi_utils import code_digest

    assert {cluster.__name__, job_arrays.__name__} <= code_digest.PLUMBING

"""One level of the stage graph as a job array: submitted, watched, started again where it was ended from outside."""

import contextlib
import getpass
import io
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import cloudpickle
import exca
from submitit import Job
from submitit.core.utils import DelayedSubmission, UncompletedJobError

from mi_utils import job_file, store
from mi_utils.cluster import Cluster
from mi_utils.errors import UserError
from mi_utils.store import StageFailed

if TYPE_CHECKING:
    from mi_utils.stage import Stage

_FINAL = frozenset(
    "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED TIMEOUT FORGOTTEN".split()
)
_FROM_OUTSIDE = frozenset("BOOT_FAIL NODE_FAIL PREEMPTED TIMEOUT".split())
# Reasons to wait that pass by themselves; any other is worth a line.
_PATIENCE = frozenset("None Priority Resources JobArrayTaskLimit BeginTime Cleaning Prolog Dependency".split())
_ARRAY = 1000  # Slurm's own limit of an array's size is 1001
_SQUEUE_SECONDS = 5.0
_SECONDS = 0.5  # between looks at the result files


@dataclass(frozen=True)
class Restartable:
    """A job's function. submitit asks for `checkpoint` when the time limit is near, then puts the job back into
    the queue; what is kept of the computation lies in the store already."""

    infra: "Infra"

    def __call__(self) -> Any:
        return exca.TaskInfra._run_method(self.infra)

    def checkpoint(self) -> DelayedSubmission:
        return DelayedSubmission(self)


class Infra(exca.TaskInfra):
    """exca's task, whose jobs go back into the queue at their time limit, at most `restarts` times."""

    restarts: int = 0

    def executor(self) -> Any:
        made = super().executor()
        if made is not None:
            made._executor.max_num_timeout = self.restarts
        return made

    @property
    def _run_method(self) -> Restartable:
        return Restartable(self)


class Progress(Protocol):
    """What a level tells of itself (`mi_utils.schedule.Watch`)."""

    def start(self, stage: "Stage") -> None: ...
    def finish(self, stage: "Stage", done: bool) -> None: ...
    def show(self) -> None: ...


def run_level(level: Sequence["Stage"], device: str, cluster: Cluster, width: int, watch: Progress) -> None:
    """Compute stages whose upstreams are stored, each in a job; `width` of them at one time.

    Returns when every job has ended. The first failure is raised then; after it nothing new is started.
    """
    engine = Slurm() if cluster.engine == "slurm" else Local()
    Level(device, cluster, width, engine, watch).run(list(level))


class Level:
    """The jobs of one level. A job that runs since an earlier call is waited for, not submitted again."""

    def __init__(self, device: str, cluster: Cluster, width: int, engine: "Slurm | Local", watch: Progress) -> None:
        self.cluster, self.device, self.width = cluster, device, width
        self.engine, self.watch = engine, watch
        self.jobs: dict[str, tuple[Stage, Job]] = {}
        self.attempts: Counter[str] = Counter()
        self.failure: Exception | None = None

    def run(self, waiting: list["Stage"]) -> None:
        try:
            while self.jobs or (waiting and self.failure is None):
                room = self.engine.room(self.width, len(self.jobs)) if self.failure is None else 0
                if waiting[:room]:
                    self._start(waiting[:room])
                    del waiting[:room]
                ended = self.engine.ended([job for _, job in self.jobs.values()])
                for stage, job in [pair for pair in self.jobs.values() if pair[1].job_id in ended]:
                    self._collect(stage, job, ended[job.job_id])
                self.watch.show()
                time.sleep(_SECONDS)
        except BaseException:
            # Ctrl-C: checkpoints make it safe to end the jobs in the middle of a step.
            self.engine.cancel([job for _, job in self.jobs.values()])
            raise
        if self.failure is not None:
            raise self.failure

    def _start(self, stages: Sequence["Stage"]) -> None:
        """Submit those of the stages that have no living job."""
        fields = self.cluster.fields(self.device)
        entries = {stage.key: stage.entry(self.device, **fields) for stage in stages}
        for entry in entries.values():
            job_file.check(entry.infra.uid_folder())
        alive = self.engine.alive({key: entry.infra for key, entry in entries.items()})
        new = [stage for stage in stages if stage.key not in alive]
        if new:
            self._submit([entries[stage.key].infra for stage in new], [entries[stage.key] for stage in new], new)
        for stage in stages:
            self.attempts[stage.key] += 1
            self.jobs[stage.key] = stage, _sent(entries[stage.key].infra)
            if self.attempts[stage.key] == 1:
                self.watch.start(stage)

    def _submit(self, infras: list[Infra], entries: list[Any], stages: Sequence["Stage"]) -> None:
        for infra, stage in zip(infras, stages, strict=True):
            # exca would take a job that ended for a result, also where the result has been removed since.
            job_file.forget(infra.uid_folder())
            store.forget_failure(stage.folder)
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), infras[0].job_array(max_workers=self.width) as array:
                array.extend(entries)
        except UncompletedJobError as error:  # submitit's name for a command that fails
            raise UserError(f"cluster: Slurm refused the jobs: {_refusal(str(error))}") from error

    def _collect(self, stage: "Stage", job: Job, state: str) -> None:
        del self.jobs[stage.key]
        _look_again(stage, job)
        state = "TIMEOUT" if _told_while_starting(job) else state
        if not stage.stored() and self.failure is None:
            if state in _FROM_OUTSIDE and self.attempts[stage.key] <= self.cluster.restarts:
                store.log.warning("%s: its job ended by %s; it goes on in another", stage.title, state)
                self._start([stage])
                return
            self.failure = _failure(stage, job, state)
            self.engine.drop([job for _, job in self.jobs.values()])
        self.watch.finish(stage, done=stage.stored())


def _look_again(stage: "Stage", job: Job) -> None:
    """A network file system shows what another machine wrote once the folder has changed here."""
    for folder in (stage.folder, job.paths.folder):
        with contextlib.suppress(OSError):
            folder.chmod(folder.stat().st_mode)


def _told_while_starting(job: Job) -> bool:
    """Whether the signal before the time limit came before the job could listen, and so ended it: srun says it."""
    try:
        return "User defined signal 2" in job.paths.stderr.read_text(errors="replace").splitlines()[-1]
    except (OSError, IndexError):
        return False


def _failure(stage: "Stage", job: Job, state: str) -> Exception:
    """What a job that left no result has to say."""
    said = store.read_json(stage.folder / "failure.json", store.FAILURE)
    if said is not None:
        return UserError(said["text"]) if said["kind"] == "UserError" else StageFailed(said["text"])
    raised = _raised(job)
    if raised is not None:
        kind, text = raised
        return UserError(text) if kind == "UserError" else StageFailed(f"{stage.title}: {kind}: {text}; "
                                                                       f"see {job.paths.stderr}")  # fmt: skip
    remedy = {
        "OUT_OF_MEMORY": "; ask for more (cluster.memory), then run again",
        "TIMEOUT": "; it met its time limit too often: raise cluster.hours or cluster.restarts, then run again",
    }.get(state, " (killed?)")
    return StageFailed(f"{stage.title}: its job {job.job_id} ended without a result: {state}{remedy}; "
                       f"see {job.paths.stderr}")  # fmt: skip


def _raised(job: Job) -> tuple[str, str] | None:
    """Kind and text of what was raised outside the stage's own computation, such as for a GPU that is not there."""
    try:
        outcome, text = cloudpickle.loads(job.paths.result_pickle.read_bytes())
    except OSError:
        return None
    if outcome != "error":
        return None
    kind, _, said = text.strip().splitlines()[-1].partition(": ")
    return kind.rpartition(".")[2], said


def _refusal(text: str) -> str:
    """The first reason that sbatch gives."""
    lines = [line.removeprefix("sbatch: error: ") for line in text.splitlines() if line.strip()]
    return lines[0] if lines else "no reason given"


def listed() -> dict[str, tuple[str, str]] | None:
    """State and reason of every job of this user that Slurm remembers, by id; None while it does not answer."""
    command = ["squeue", f"--user={getpass.getuser()}", "--array", "--states=all", "--noheader", "--format=%i|%T|%r"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    rows = (line.strip().split("|", 2) for line in text.splitlines() if line.count("|") >= 2)
    return {job: (state, reason) for job, state, reason in rows}


class Slurm:
    """What Slurm says of jobs, by `squeue`: accounting (`sacct`), which submitit asks, is not everywhere."""

    def __init__(self) -> None:
        self._asked = -_SQUEUE_SECONDS
        self._over: dict[str, str] = {}
        self._told: set[str] = set()

    def room(self, width: int, running: int) -> int:
        """How many to submit at once: Slurm itself keeps to `width`."""
        return _ARRAY

    def alive(self, infras: dict[str, Infra]) -> set[str]:
        """Keys of the tasks whose job of an earlier call waits or runs."""
        before = {key: infra for key, infra in infras.items() if (infra.uid_folder() / "job.pkl").exists()}
        now = listed() if before else {}
        if now is None:
            raise UserError("cluster: expected squeue to say which jobs run, found no answer; try again later")
        return {key for key, infra in before.items() if now.get(_sent(infra).job_id, ("FORGOTTEN",))[0] not in _FINAL}

    def ended(self, jobs: Sequence[Job]) -> dict[str, str]:
        """State of each job that is over. A requeued job passes through such a state, and a result may come late:
        without a result file it must be seen twice."""
        found = {job.job_id: "COMPLETED" for job in jobs if job.paths.result_pickle.exists()}
        if time.monotonic() - self._asked < _SQUEUE_SECONDS:
            return found
        now = listed()
        self._asked = time.monotonic()
        if now is None:
            return found
        self._tell([now[job.job_id] for job in jobs if job.job_id in now])
        over = {job.job_id: now.get(job.job_id, ("FORGOTTEN",))[0] for job in jobs}
        over = {name: state for name, state in over.items() if state in _FINAL}
        twice = {name: state for name, state in over.items() if self._over.get(name) == state}
        self._over = over
        return twice | found

    def _tell(self, states: Sequence[tuple[str, str]]) -> None:
        """Say once why jobs wait, where that may last."""
        waiting = Counter(reason for state, reason in states if state == "PENDING")
        for reason in waiting.keys() - _PATIENCE - self._told:
            self._told.add(reason)
            store.log.warning("cluster: %d jobs wait in Slurm: %s", waiting[reason], reason)

    def drop(self, jobs: Sequence[Job]) -> None:
        """Take back what has not begun."""
        self.cancel(jobs, "--state=PENDING")

    def cancel(self, jobs: Sequence[Job], *flags: str) -> None:
        if jobs:
            subprocess.run(["scancel", *flags, *(job.job_id for job in jobs)], capture_output=True, check=False)


def _sent(infra: Infra) -> Job:
    """The job of a task that was submitted, read without asking `sacct` how it is, as `infra.job()` does."""
    return cloudpickle.loads((infra.uid_folder() / "job.pkl").read_bytes())


class Local:
    """Jobs as processes of this machine, which end with the process that started them."""

    def room(self, width: int, running: int) -> int:
        return width - running

    def alive(self, infras: dict[str, Infra]) -> set[str]:
        return {key for key, infra in infras.items() if infra.status() == "running"}

    def ended(self, jobs: Sequence[Job]) -> dict[str, str]:
        return {job.job_id: "ended" for job in jobs if job.done()}

    def drop(self, jobs: Sequence[Job]) -> None:
        """Nothing waits: `room` submits no more than can run."""

    def cancel(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            job.cancel()

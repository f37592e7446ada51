"""Run a set of stages: upstreams first, in this process, in a pool of processes, or as exca job arrays."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for
from typing import TYPE_CHECKING

import cloudpickle
from tqdm.auto import tqdm

from mi_utils import job_file, runtime, store
from mi_utils.errors import UserError
from mi_utils.store import StageFailed

if TYPE_CHECKING:
    from mi_utils.stage import Stage

# submitit's own limit is five minutes; results and checkpoints make any limit safe.
CLUSTER_FIELDS = {"timeout_min": 24 * 60, "cpus_per_task": 1}


def in_order(stages: Sequence["Stage"]) -> list["Stage"]:
    """The stages and all their upstreams, each key once, upstreams first, otherwise in the order given."""
    seen: dict[str, Stage] = {}

    def visit(stage: "Stage") -> None:
        if stage.key not in seen:
            for upstream in stage.upstream():
                visit(upstream)
            seen.setdefault(stage.key, stage)

    for stage in stages:
        visit(stage)
    return list(seen.values())


def levels(stages: Sequence["Stage"]) -> list[list["Stage"]]:
    """Stages (upstreams first) grouped so that each group needs only the groups before it."""
    depth: dict[str, int] = {}
    for stage in stages:
        depth[stage.key] = max((depth[u.key] + 1 for u in stage.upstream() if u.key in depth), default=0)
    return [[s for s in stages if depth[s.key] == d] for d in range(max(depth.values(), default=-1) + 1)]


def run(
    stages: Sequence["Stage"],
    *,
    device: str = "auto",
    cluster: str | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> None:
    """Compute everything missing among the stages and all their upstreams.

    cluster: None for this machine; "local" or "slurm" for exca job arrays, level by level.
    workers: processes on this machine (default: one a core on the CPU, one on a GPU); one computes here.
    Raises StageFailed (which stage, why) or UserError (what to mend); what is finished stays stored.
    """
    if cluster not in (None, "local", "slurm"):
        raise UserError(f"cluster: expected none, 'local' or 'slurm', found {cluster!r}")
    if workers is not None and workers < 1:
        raise UserError(f"workers: expected at least 1, found {workers}")
    todo = [stage for stage in in_order(stages) if not stage.stored()]
    if not todo:
        return
    # A cluster's nodes have devices of their own: the name is resolved there.
    chosen = device if cluster else str(runtime.device(device))
    store.check_writable()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = workers or (cores if chosen == "cpu" else 1)
    grouped = levels(todo)
    most = min(most, max(map(len, grouped)))
    with Watch(len(todo), progress) as watch:
        if cluster:
            for level in grouped:
                _run_level(level, chosen, cluster, watch)
        elif most == 1:
            _run_here(todo, chosen, watch)
        else:
            Pool(chosen, most, watch).run(todo)


class Watch:
    """One line for the whole run: stages done, the running ones with their step and remaining time.

    A bar in a terminal or a live notebook; elsewhere (papermill, log files) a printed line now and then.
    """

    def __init__(self, total: int, visible: bool) -> None:
        self.total, self.done, self.running = total, 0, []
        self.visible, self.began = visible, time.monotonic()
        self._printed = self.began
        live = sys.stderr.isatty() or "JPY_SESSION_NAME" in os.environ
        self.bar = tqdm(total=total, desc="stages", leave=False) if visible and live else None

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
        if self.visible:
            self._print(f"{self.done} of {self.total} missing stages computed in {self._elapsed():.0f} s")

    def _elapsed(self) -> float:
        return time.monotonic() - self.began

    def start(self, stage: "Stage") -> None:
        self.running.append(stage)
        self.show()

    def finish(self, stage: "Stage", done: bool) -> None:
        self.running.remove(stage)
        self.done += done
        if self.bar is not None:
            self.bar.update(int(done))
        self.show()

    def show(self) -> None:
        """Refresh the bar, or print a line where the last is 10 s (in a long run: a tenth of it) ago."""
        if self.bar is not None:
            self.bar.set_postfix_str(self._now())
        elif self.visible and time.monotonic() - self._printed > max(10.0, self._elapsed() / 10):
            self._print(f"{self.done}/{self.total} stages, {self._elapsed():.0f} s: {self._now()}")

    def _print(self, text: str) -> None:
        self._printed = time.monotonic()
        print(text, file=sys.stderr, flush=True)

    def _now(self) -> str:
        """What runs now, e.g. `Classifier seed=0 120/3000 eta 0:42`."""
        parts = []
        for stage in self.running[:3]:
            found = store.read_json(stage.folder / "progress.json", store.REACHED)
            parts.append(f"{type(stage).__name__} {stage.label[:24]} {_reached(found)}".strip())
        more = len(self.running) - len(parts)
        return " | ".join(parts) + (f" | +{more}" if more else "")


def _reached(found: dict | None) -> str:
    """`step/total eta m:ss` of a progress file."""
    if not found or not found["total"]:
        return ""
    text, made = f"{found['step']}/{found['total']}", found["step"] - found["first"]
    if made < 1:
        return text
    left = max(0.0, found["updated"] - found["loop"]) / made * (found["total"] - found["step"])
    return f"{text} eta {int(left // 60)}:{int(left % 60):02d}"


def _run_here(todo: Sequence["Stage"], device: str, watch: Watch) -> None:
    for stage in todo:
        watch.start(stage)
        stage.ensure(device, tick=watch.show)
        watch.finish(stage, done=True)


class Pool:
    """Stages in spawned processes, each as soon as its upstreams are stored. Results travel by the store."""

    def __init__(self, device: str, workers: int, watch: Watch) -> None:
        self.device, self.workers, self.watch = device, workers, watch
        self.running: dict[Future, Stage] = {}
        self.failure: Exception | None = None

    def run(self, todo: Sequence["Stage"]) -> None:
        others = set(multiprocessing.active_children())
        pool = ProcessPoolExecutor(self.workers, multiprocessing.get_context("spawn"), _begin_worker)
        try:
            self._loop(pool, list(todo))
        except BaseException:
            # Ctrl-C: checkpoints make it safe to end the workers in the middle of a step.
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        if self.failure is not None:
            raise self.failure

    def _loop(self, pool: ProcessPoolExecutor, waiting: list["Stage"]) -> None:
        while self.running or (waiting and self.failure is None):
            unfinished = {stage.key for stage in (*waiting, *self.running.values())}
            ready = [s for s in waiting if unfinished.isdisjoint(u.key for u in s.upstream())]
            for stage in ready[: self.workers - len(self.running)] if self.failure is None else []:
                waiting.remove(stage)
                self._submit(pool, stage)
            for future in wait(self.running, timeout=1, return_when=FIRST_COMPLETED).done:
                self._collect(future)
            self.watch.show()

    def _submit(self, pool: ProcessPoolExecutor, stage: "Stage") -> None:
        payload = cloudpickle.dumps(stage.entry(self.device))
        try:
            with _main_hidden():
                self.running[pool.submit(_compute, payload, self.device)] = stage
        except BrokenProcessPool:
            self.failure = self.failure or _killed([stage, *self.running.values()])
        else:
            self.watch.start(stage)

    def _collect(self, future: Future) -> None:
        """Take a finished future; the first failure is kept, and nothing new starts after it."""
        together = list(self.running.values())
        stage = self.running.pop(future)
        error = future.exception()
        self.watch.finish(stage, done=error is None)
        if isinstance(error, BrokenProcessPool):
            error = _killed(together)
        self.failure = self.failure or error


def _killed(stages: Sequence["Stage"]) -> StageFailed:
    names = "; ".join(stage.title for stage in stages)
    return StageFailed(
        f"a worker process was killed (out of memory?) while these ran: {names}; run again, with fewer "
        "workers if memory was short: it goes on from the last checkpoints"
    )


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Spawned workers need nothing of the calling script, so it is not run a second time in each of them."""
    main = vars(sys.modules["__main__"])
    kept = {name: main[name] for name in ("__spec__", "__file__") if name in main}
    main["__spec__"] = None
    main.pop("__file__", None)
    try:
        yield
    finally:
        main.update(kept)


def _begin_worker() -> None:
    """The parent decides what an interrupt means; a worker whose parent has died ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (wait_for([parent.sentinel]), os._exit(1)), daemon=True).start()


def _compute(payload: bytes, device: str) -> None:
    """In a worker: one stage, as the parent described it."""
    cloudpickle.loads(payload).opened().ensure(device)


def _run_level(level: Sequence["Stage"], device: str, cluster: str, watch: Watch) -> None:
    """One exca job array; returns when every job of it has ended."""
    gpu = {"gpus_per_node": 1} if device.startswith("cuda") else {}
    entries = [stage.entry(device, cluster=cluster, **CLUSTER_FIELDS, **gpu) for stage in level]
    for entry in entries:
        job_file.check(entry.infra.uid_folder())
        # exca would take a job that ended for a result, also where the result has been removed since.
        if entry.infra.status() != "running":
            entry.infra.clear_job()
    with entries[0].infra.job_array() as array:
        array.extend(entries)
    jobs = [entry.infra.job() for entry in entries]
    for stage in level:
        watch.start(stage)
    left = dict(zip(jobs, level, strict=True))
    try:
        while left:
            for job in [job for job in left if job.done()]:
                stage = left.pop(job)
                watch.finish(stage, done=stage.stored())
            watch.show()
            time.sleep(0.2)
    except BaseException:
        for job in left:
            job.cancel()
        raise
    for stage, job in zip(level, jobs, strict=True):
        if not stage.stored():
            raise _cluster_failure(stage, job)


def _cluster_failure(stage: "Stage", job: object) -> Exception:
    """What a job that left no result has to say."""
    said = store.read_json(stage.folder / "failure.json", store.FAILURE)
    if said is None:
        return StageFailed(f"{stage.title}: its job ended without a result (killed?); see {job.paths.stderr}")
    return UserError(said["text"]) if said["kind"] == "UserError" else StageFailed(said["text"])

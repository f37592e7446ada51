"""Run a set of stages: upstreams first, in this process, in a pool of processes, or as exca job arrays."""

import ctypes
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
import torch
from tqdm.auto import tqdm

from mi_utils import cluster as clusters
from mi_utils import job_arrays, runtime, store
from mi_utils.cluster import Cluster
from mi_utils.errors import UserError
from mi_utils.store import StageFailed

if TYPE_CHECKING:
    from mi_utils.stage import Stage


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
    cluster: str | dict | Cluster | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> None:
    """Compute everything missing among the stages and all their upstreams.

    cluster: None for this machine; "slurm", "local" or the fields of `Cluster` for job arrays, level by level.
    workers: processes on this machine (default: one a core on the CPU, one a GPU); one computes here.
    On a cluster: jobs at one time, where its `width` is not given.
    Raises StageFailed (which stage, why) or UserError (what to mend); what is finished stays stored.
    """
    asked = clusters.chosen(cluster)
    if workers is not None and workers < 1:
        raise UserError(f"workers: expected at least 1, found {workers}")
    # A cluster's nodes have devices of their own: the name is resolved there.
    places = [asked.device(device)] if asked else devices(device)
    todo = [stage for stage in in_order(stages) if not stage.stored()]
    if not todo:
        return
    store.check_writable()
    grouped = levels(todo)
    slots = shared_out(places, workers, max(map(len, grouped)))
    with Watch(len(todo), progress) as watch:
        if asked:
            for level in grouped:
                job_arrays.run_level(level, places[0], asked, asked.room(workers, _cores()), watch)
        elif len(slots) == 1:
            _run_here(todo, slots[0], watch)
        else:
            Pool(slots, watch).run(todo)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def devices(name: str) -> list[str]:
    """The devices that a name allows: every GPU of this machine for `cuda`, and for `auto` where there is one."""
    first = runtime.device(name)
    if first.type == "cpu" or ":" in name:
        return [str(first)]
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


def shared_out(places: Sequence[str], workers: int | None, most: int) -> list[str]:
    """The device of each worker: one worker a GPU, one a core on the CPU, or `workers` of them in turn; at most
    `most`. The first GPUs come first, so that no GPU gets its second worker before another has one."""
    count = workers or (_cores() if places[0] == "cpu" else len(places))
    return [places[index % len(places)] for index in range(min(count, most))]


def in_live_notebook() -> bool:
    """Whether a Jupyter server started this kernel for somebody who looks (papermill's kernels have no such name)."""
    return "JPY_SESSION_NAME" in os.environ


class Watch:
    """One line for the whole run: stages done, the running ones with their step and remaining time.

    A bar in a terminal or a live notebook; elsewhere (papermill, log files) a printed line now and then.
    """

    def __init__(self, total: int, visible: bool) -> None:
        self.total, self.done, self.running = total, 0, []
        self.visible, self.began = visible, time.monotonic()
        self._printed = self.began
        live = sys.stderr.isatty() or in_live_notebook()
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
    """Stages in spawned processes, each as soon as its upstreams are stored. Results travel by the store.

    A process for each of the devices, which it keeps: a GPU is held by no process but its own.
    """

    def __init__(self, devices: Sequence[str], watch: Watch) -> None:
        self.devices, self.watch = devices, watch
        self.running: dict[Future, Stage] = {}
        self.failure: Exception | None = None

    def run(self, todo: Sequence["Stage"]) -> None:
        others = set(multiprocessing.active_children())
        context = multiprocessing.get_context("spawn")
        left = context.SimpleQueue()
        for device in self.devices:
            left.put(device)
        pool = ProcessPoolExecutor(len(self.devices), context, _begin_worker, (left,))
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
        # Asked once: to know that nothing is needed for a shipped result takes a digest of its whole recipe.
        needs = {stage.key: {above.key for above in stage.upstream()} for stage in waiting}
        while self.running or (waiting and self.failure is None):
            unfinished = {stage.key for stage in (*waiting, *self.running.values())}
            ready = [stage for stage in waiting if unfinished.isdisjoint(needs[stage.key])]
            for stage in ready[: len(self.devices) - len(self.running)] if self.failure is None else []:
                waiting.remove(stage)
                self._submit(pool, stage)
            for future in wait(self.running, timeout=1, return_when=FIRST_COMPLETED).done:
                self._collect(future)
            self.watch.show()

    def _submit(self, pool: ProcessPoolExecutor, stage: "Stage") -> None:
        payload = cloudpickle.dumps(stage.entry())
        try:
            with _main_hidden():
                self.running[pool.submit(_compute, payload)] = stage
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


_OWN_DEVICE: list[str] = []  # of this worker process


def _begin_worker(left: multiprocessing.SimpleQueue) -> None:
    """Take a device that no other worker has. The parent decides what an interrupt means; a worker whose parent has
    died ends."""
    _OWN_DEVICE.append(left.get())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (wait_for([parent.sentinel]), os._exit(1)), daemon=True).start()


def _compute(payload: bytes) -> None:
    """In a worker: one stage, as the parent described it."""
    try:
        cloudpickle.loads(payload).opened().ensure(_OWN_DEVICE[0])
    finally:
        _give_back()


def _give_back() -> None:
    """Freed memory to the system: after stages of many sizes glibc would keep some 600 MB of it in every worker."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)

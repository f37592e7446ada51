"""A process that has imported everything and forks children to be killed: one costs tens of milliseconds.

Reads one JSON list of orders a line, carries them out at the same time, and answers with one JSON list of reports.
An order: {"stages": names, "store": folder, ...}; what may be asked of it besides is in `Order`.
"""

import gc
import io
import json
import logging
import multiprocessing
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path
from typing import TypedDict

import psutil
import torch

from mi_utils import schedule, store
from mi_utils.stage import Stage, run

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
OPERATIONS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "shutil.rmtree")


class Order(TypedDict, total=False):
    """What a child does and what happens to it; file operations are counted from 1.

    cpu: kill -9 after so many seconds of its processor time.  wall: the same of the clock; `worker` kills one of its
    worker processes in its stead.  operation: kill -9 just before this file operation in the store.  bytes: the kernel
    ends it within the first write beyond so many.  fill: before this operation the disk becomes full.
    """

    stages: list[str]
    store: str
    workers: int
    cpu: float
    wall: float
    worker: bool
    operation: int
    bytes: int
    fill: int
    ballast: str
    memory: int
    real: bool


class Report(TypedDict):
    """How a child ended: by a signal or not, what it raised, what it logged, how many file operations it did."""

    signal: int
    raised: str
    said: str
    logged: list[str]
    operations: int
    cpu: float
    orphans: int


def known(order: Order) -> dict[str, Stage]:
    import recipes

    return recipes.smallest() if order.get("real") else recipes.TOYS


class Counter:
    """An audit hook: sees every file operation of Python in the store before it happens."""

    def __init__(self, order: Order) -> None:
        self.order, self.count = order, 0

    def __call__(self, event: str, args: tuple) -> None:
        if event == "open":
            if not isinstance(args[2], int) or not args[2] & WRITING:
                return
        elif event not in OPERATIONS:
            return
        # What a deletion of a folder removes is named relative to it.
        if self.order["store"] in str(args[0]) or not str(args[0]).startswith("/"):
            self.count += 1
            if self.count == self.order.get("operation"):
                os.kill(os.getpid(), signal.SIGKILL)
            if self.count == self.order.get("fill"):
                fill(Path(self.order["ballast"]))


def fill(ballast: Path) -> None:
    """Write until the disk is full."""
    file = os.open(ballast, os.O_CREAT | os.O_WRONLY)
    for block in (1 << 16, 1 << 12, 1):
        try:
            while True:
                os.write(file, bytes(block))
        except OSError:
            continue
    os.close(file)


def child(order: Order, counter: Counter) -> dict:
    """In the child: compute, and say how it went."""
    os.environ["MI_STORE"] = order["store"]
    logged = io.StringIO()
    logging.basicConfig(stream=logged, format="%(message)s", level=logging.WARNING)
    torch.set_num_threads(1)
    Stage.checkpoint_seconds = 0.0
    store.MIN_FREE_BYTES = 0
    if "bytes" in order:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["bytes"],) * 2)
    if "memory" in order:
        taken = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (taken + order["memory"],) * 2)
    # Workers are forked as well, from this process that has everything.
    forking = multiprocessing.get_context("fork")
    schedule.multiprocessing.get_context = lambda _: forking
    stages = [known(order)[name] for name in order["stages"]]
    sys.addaudithook(counter)
    raised = said = ""
    try:
        run(stages, device="cpu", workers=order.get("workers", 1), progress=False)
    except Exception as error:
        raised, said = type(error).__name__, str(error)
    return {"raised": raised, "said": said, "logged": logged.getvalue().splitlines(), "operations": counter.count}


class Child:
    """One forked child, and the kill that it has coming."""

    def __init__(self, order: Order) -> None:
        self.order, self.orphans, self.text = order, [], b""
        self.read, write = os.pipe()
        self.began = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.read)
            os.setsid()
            text = json.dumps(child(order, Counter(order)))
            os.write(write, text.encode())
            os._exit(0)
        os.close(write)
        self.process = psutil.Process(self.pid)

    def watch(self) -> bool:
        """Kill where the moment has come; whether it goes on."""
        self.hurt()
        if select.select([self.read], [], [], 0)[0]:
            self.text += os.read(self.read, 1 << 16)
        pid, status, used = os.wait4(self.pid, os.WNOHANG)
        if pid == 0:
            return True
        self.signal, self.cpu = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        return False

    def hurt(self) -> None:
        order = self.order
        used = int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e9 if "cpu" in order else 0
        due = used > order.get("cpu", 1e9) or time.monotonic() - self.began > order.get("wall", 1e9)
        if not due:
            return
        self.orphans = self.process.children(recursive=True)
        victims = self.orphans[:1] if order.get("worker") else [self.process]
        for victim in victims:
            victim.kill()
            order.pop("wall", None), order.pop("cpu", None)

    def report(self) -> Report:
        """After its end; its workers are given a minute to end as well."""
        left = psutil.wait_procs(self.orphans, timeout=60)[1]
        while not left and (part := os.read(self.read, 1 << 16)):
            self.text += part
        os.close(self.read)
        told = json.loads(self.text) if self.text else {"raised": "", "said": "", "logged": [], "operations": 0}
        return Report(signal=max(0, -self.signal), cpu=self.cpu, orphans=len(left), **told)


def carried_out(orders: list[Order]) -> list[Report]:
    """All orders at the same time."""
    children = [Child(order) for order in orders]
    going = list(children)
    while going:
        going = [one for one in going if one.watch()]
        time.sleep(0.002)
    return [one.report() for one in children]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    answers = os.fdopen(os.dup(1), "w")
    known({"real": True})
    gc.freeze()  # so that a child's collections copy no page of what is shared
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(carried_out(json.loads(line))), file=answers, flush=True)

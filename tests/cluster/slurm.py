"""A real Slurm of one node on loopback for the tests: installed where that can be, started, stopped, removed."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from filelock import FileLock, Timeout

CONFIG = Path("/etc/slurm/slurm.conf")  # the default place: submitit clears SLURM_CONF before it submits
MARK = "# Written by the tests of mi_utils, which remove it."
TOOLS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "scancel", "scontrol")
PROCESSORS = 4  # as Slurm counts them, whatever the machine has


class Unavailable(Exception):
    """Why there can be no Slurm here, in one line."""


def settings(folder: Path) -> str:
    """slurm.conf: no accounting, no control groups; a requeued job starts again at once instead of in two minutes."""
    host = os.uname().nodename.split(".")[0]
    return f"""{MARK}
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=1000
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,sched_min_interval=100000,bf_interval=1
KillWait=5
ReturnToService=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={PROCESSORS} RealMemory=8000 Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES State=UP MaxTime=INFINITE
"""


def install() -> None:
    """Debian's packages, where they are missing and can be had."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if CONFIG.exists() and MARK not in CONFIG.read_text():
        raise Unavailable(f"{CONFIG} is this machine's own; the tests leave it alone")
    if os.geteuid() != 0:
        raise Unavailable("slurmctld and munged of the tests must be started by root")
    if all(map(shutil.which, TOOLS)):
        return
    if not shutil.which("apt-get"):
        raise Unavailable("Slurm is not installed, and there is no apt-get")
    quiet = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    for words in (["update"], ["install", "--yes", "--no-install-recommends", "slurm-wlm", "munge"]):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(["apt-get", "-q", *words], env=environment, timeout=600, **quiet)
    if done.returncode or not all(map(shutil.which, TOOLS)):
        said = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise Unavailable(f"slurm-wlm and munge cannot be installed: {said}")


def answered(*command: str) -> str | None:
    """What a command prints; None where it fails or hangs."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def wait_until(true: Callable[[], object], what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise Unavailable(f"{what} did not answer within {seconds:.0f} s")
        time.sleep(0.1)


@contextmanager
def daemon(*command: str) -> Iterator[None]:
    """A program that stays in the foreground, ended on leaving."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def munge(folder: Path) -> Iterator[None]:
    """The machine's own munged where one answers, else one of ours, as its own user and with its own key."""
    if answered("munge", "-n"):
        yield
        return
    place = Path("/run/munge")
    place.mkdir(exist_ok=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    for path in (place, key, folder):
        shutil.chown(path, "munge", "munge")
    files = [f"--key-file={key}", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed"]
    with daemon("runuser", "-u", "munge", "--", "munged", "--foreground", *files):
        wait_until(lambda: answered("munge", "-n"), "munged")
        yield


def emptied() -> None:
    """End every job, and wait for it: what Slurm leaves when it stops would run on."""
    answered("scancel", "--user=root")
    wait_until(lambda: answered("squeue", "--noheader") == "", "scancel")


@contextmanager
def running() -> Iterator[None]:
    """Slurm with partition `main`; Unavailable where it cannot be installed or started.

    One at a time on a machine. What a run that was killed left behind is ended first.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(Path(gettempdir(), "mi_utils-slurm.lock"), timeout=600))
        except Timeout:
            raise Unavailable("another run of these tests has it") from None
        install()
        if CONFIG.exists():
            answered("scontrol", "shutdown")
            wait_until(lambda: answered("sinfo") is None, "an earlier slurmctld")
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="slurm-")))
        folder.chmod(0o755)  # munged has a user of its own
        for name in ("munge", "state", "spool"):
            (folder / name).mkdir()
        stack.enter_context(munge(folder / "munge"))
        CONFIG.write_text(settings(folder))
        (CONFIG.parent / "gres.conf").write_text(f"{MARK}\nName=gpu File=/dev/null\n")
        stack.callback((CONFIG.parent / "gres.conf").unlink)
        stack.callback(CONFIG.unlink)
        stack.enter_context(daemon("slurmctld", "-D", "-c"))
        stack.enter_context(daemon("slurmd", "-D", "-c"))
        stack.callback(emptied)
        wait_until(lambda: (answered("sinfo", "-h", "-o", "%t") or "").strip() == "idle", "Slurm")
        yield

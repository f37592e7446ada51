"""Watches a process from inside: what it executes, where it writes, how much memory it takes, whether it ends."""

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

EXECUTES = frozenset(
    "os.system os.exec os.posix_spawn os.fork os.forkpty subprocess.Popen pty.spawn socket.connect "
    "urllib.Request pickle.find_class ctypes.dlopen".split()
)
WRITES = frozenset("os.mkdir os.rename os.remove os.rmdir os.symlink os.link os.truncate os.chmod".split())
SECONDS = 60  # of computing, after which an input counts as one that never ends
FIRED: list[str] = []


def fire(*words: object) -> None:
    """What the payloads of hostile files call: nothing may ever get here."""
    FIRED.append(repr(words)[:80])


class Hang(BaseException):
    """An input was not done with in SECONDS."""


class Guard:
    """`executed` and `outside` list what no input may do, while `armed`."""

    def __init__(self, *allowed: Path) -> None:
        self.allowed = tuple(os.path.realpath(path) for path in allowed)
        self.executed: list[str] = []
        self.outside: list[str] = []
        self.armed = False
        sys.addaudithook(self._hook)
        signal.signal(signal.SIGPROF, self._alarm)

    def _alarm(self, *_: object) -> None:
        raise Hang

    def _hook(self, event: str, arguments: tuple) -> None:
        if not self.armed:
            return
        if event in EXECUTES:
            self.executed.append(f"{event} {arguments!r}"[:200])
        elif event in WRITES or (event == "open" and _writing(arguments)):
            for path in arguments[:2] if event == "os.rename" else arguments[:1]:
                if isinstance(path, str | bytes | os.PathLike) and not self._inside(os.fsdecode(path)):
                    self.outside.append(f"{event} {os.fsdecode(path)}")

    def _inside(self, path: str) -> bool:
        found = os.path.realpath(path)
        return found == os.devnull or any(found == a or found.startswith(a + os.sep) for a in self.allowed)

    def attempt(self, call: Callable[[], object], allowed: tuple[type[BaseException], ...]) -> str:
        """What is wrong with how `call` ended; "" where it succeeded or was refused by an allowed exception."""
        sys.dont_write_bytecode = True
        self.armed = True
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            call()
        except allowed:
            return ""
        except BaseException as problem:
            return _told(problem)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self.armed = False
        return ""


def _writing(arguments: tuple) -> bool:
    """Whether an `open` creates or changes a file; (path, mode, flags)."""
    flags = arguments[2] if len(arguments) > 2 and isinstance(arguments[2], int) else 0
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _told(problem: BaseException) -> str:
    """Kind, text and innermost place."""
    place = problem.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else ""
    return f"{type(problem).__name__}: {str(problem)[:150]} at {where}"


def limit_memory(more: int) -> None:
    """No more than `more` bytes of address space beyond what is taken now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def peak_bytes() -> int:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

"""What made a result: code, libraries, time and memory.  Enters no key; host and user are not asked for."""

import platform
import subprocess
import threading
from functools import cache
from importlib import metadata
from pathlib import Path

import psutil
import torch

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = "figures"  # what a reproduction writes over while it runs, and no number is made of
PACKAGES = ("mi_utils", "numpy", "safetensors", "pydantic", "exca")


@cache
def state(root: Path = ROOT) -> tuple[str, bool]:
    """(short git commit, whether tracked files other than results differ from it), as first asked in this process.

    `("unknown", False)` outside a checkout.
    """
    if not (root / ".git").exists():
        return "unknown", False

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "-uno", "--", ".", f":(exclude){OUTPUT}")
        return git("rev-parse", "--short=12", "HEAD"), bool(changed)
    except (OSError, subprocess.SubprocessError):
        return "unknown", False


def commit() -> str:
    """The commit, `+` after it where files differ."""
    name, dirty = state()
    return name + "+" * dirty


@cache
def versions() -> dict[str, str]:
    """Of Python and of the libraries that a stored number can depend on; `absent` where one is not installed."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__), "cuda": torch.version.cuda or "none"}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


class Memory:
    """Context manager: `facts()` are the largest sizes in MB since it was entered.

    `peak_rss_mb` is of the whole process, libraries included, sampled at both ends and every 0.1 s, so that a shorter
    peak may be missed; `peak_cuda_mb`, on a GPU, is what torch's allocator held at most.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.bytes = device, 0
        self._process, self._stop = psutil.Process(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Memory":
        self._sample()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            self._sample()

    def _sample(self) -> None:
        self.bytes = max(self.bytes, self._process.memory_info().rss)

    def facts(self) -> dict[str, int]:
        """Whole megabytes (10^6 bytes)."""
        found = {"peak_rss_mb": self.bytes // 10**6}
        if self.device.type == "cuda":
            found["peak_cuda_mb"] = torch.cuda.max_memory_allocated(self.device) // 10**6
        return found

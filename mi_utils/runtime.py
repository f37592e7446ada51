"""Device, threads, precision and random streams: the only module that asks whether there is a GPU."""

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from mi_utils.errors import UserError


def device(name: str | torch.device = "auto") -> torch.device:
    """`auto` is the first GPU where there is one, else the CPU; a named device must exist (UserError)."""
    text = str(name)
    if text == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    kind, _, index = text.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()) or (kind == "cpu" and index):
        raise UserError(f"device: expected auto, cpu, cuda or cuda:<number>, found {text!r}")
    if kind == "cpu":
        return torch.device("cpu")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index or 0) >= found:
        raise UserError(f"device: {text!r} asks for a GPU, found {found} usable; use 'cpu' or 'auto'")
    return torch.device("cuda", int(index or 0))


def seed(*words: int | str) -> int:
    """A 63-bit seed from the SHA-256 of the words: the same on every machine and Python version."""
    if not words:
        raise UserError("generator: expected at least one word (an int or a string), found none")
    for word in words:
        if isinstance(word, bool) or not isinstance(word, int | str):
            raise UserError(f"generator: expected ints and strings as words, found {word!r}")
    digest = hashlib.sha256(json.dumps(words).encode("ascii")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*words: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """A random stream of its own for each sequence of words, e.g. `generator("latents", seed, class_id)`."""
    return torch.Generator(device).manual_seed(seed(*words))


def prepare(device: str | torch.device, threads: int = 1) -> None:
    """Thread count and precision of this process.

    One CPU thread per process, so that sums are added in the same order whatever the number of workers.
    Matrix products stay in full fp32, because squared distances by GEMM cancel; convolutions keep TF32.
    """
    torch.set_num_threads(threads)
    if torch.device(device).type == "cuda":
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.cudnn.conv.fp32_precision = "tf32"
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True


@contextmanager
def isolated(device: torch.device, *words: int | str, threads: int = 1) -> Iterator[None]:
    """`prepare` and a default random stream of the words' own, both put back on leaving.

    Our code draws from explicit generators; layers such as dropout draw from the default stream, which
    would otherwise depend on what the process computed before.
    """
    before = torch.get_num_threads()
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed(*words))
        prepare(device, threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@cache
def commit() -> str:
    """Short git commit of this code, `+` after it where files differ; `unknown` outside a checkout."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return "unknown"

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def device_name(device: torch.device) -> str:
    """What a table's caption says of the machine: the GPU's model name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def describe(name: str | torch.device = "auto") -> dict[str, str | int]:
    """Provenance of a number: device, library versions, commit."""
    chosen = device(name)
    return {
        "device": device_name(chosen),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "commit": commit(),
    }

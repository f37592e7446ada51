"""provenance.json: what code, libraries, machine and stages made a paper's numbers, without naming a host or
a user.
"""

import re
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any, Protocol

import torch

from mi_utils import origin, runtime
from mi_utils.errors import UserError

PACKAGES = tuple(
    "torch torchvision numpy scipy pandas pydantic exca stlpips-pytorch matplotlib seaborn papermill".split()
)
_ABSOLUTE = re.compile(r"(?:^|[\s'\"=(:])(?:/[\w.-]+/|~/|[A-Za-z]:\\)")


class Stored(Protocol):
    """What a stage's result tells of itself (`mi_utils.stage.Result`)."""

    key: str
    seconds: float
    device: str
    commit: str


def record(
    *,
    profile: str,
    seeds: Sequence[int],
    stages: Mapping[str, Stored],
    wall_seconds: float,
    device: str | torch.device = "auto",
) -> dict[str, Any]:
    """The record of one reproduction.  `stages`: readable name -> stored result; seconds are those of its
    computation.

    Host and user are not asked for; a path in a stage's name is a UserError.
    """
    commit, dirty = origin.state()
    entry = {
        **runtime.describe(device),
        "commit": commit,
        "dirty": dirty,
        "packages": versions(),
        "profile": profile,
        "seeds": list(seeds),
        "wall_seconds": round(wall_seconds, 1),
        "compute_seconds": round(sum(s.seconds for s in stages.values()), 1),
        "peak_memory_mb": peak_memory_mb(),
        "stages": [
            {
                "stage": name,
                "key": s.key,
                "seconds": round(s.seconds, 2),
                "device": s.device,
                "commit": s.commit,
            }
            for name, s in stages.items()
        ],
    }
    private(entry)
    return entry


def versions() -> dict[str, str]:
    """Version of each library that a number can depend on; "absent" where it is not installed."""
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    """Installed version of one package."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def peak_memory_mb() -> dict[str, int]:
    """Largest resident size of this process and of any worker it waited for, and of the GPU's allocator, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    who = {"process": resource.RUSAGE_SELF, "worker": resource.RUSAGE_CHILDREN}
    peak = {name: resource.getrusage(w).ru_maxrss * unit // 10**6 for name, w in who.items()}
    if torch.cuda.is_available():
        peak["gpu"] = torch.cuda.max_memory_allocated() // 10**6
    return peak


def private(entry: object) -> None:
    """Raises when some text in the record holds an absolute path, and with it perhaps a user's name."""
    for text in _texts(entry):
        if _ABSOLUTE.search(text):
            raise UserError(f"provenance: expected no absolute path, found one in {text!r}; rename the stage")


def _texts(entry: object) -> Iterator[str]:
    """Every string inside nested dictionaries and lists, keys included."""
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, Mapping):
        for key, value in entry.items():
            yield from _texts(key)
            yield from _texts(value)
    elif isinstance(entry, Sequence):
        for value in entry:
            yield from _texts(value)

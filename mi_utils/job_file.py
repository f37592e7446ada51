"""exca's record of a submitted job is a pickle: it is looked at here before exca may load it."""

import pickle
from pathlib import Path

from mi_utils import store

# Everything that the record of a job names; a record of anything else is not exca's, or one of a failure.
_NAMED = frozenset(
    {
        ("exca.task", "LocalJob"),
        ("pathlib", "PosixPath"),
        ("pathlib._local", "PosixPath"),  # Python 3.13's own name of it
        ("submitit.core.utils", "JobPaths"),
        ("submitit.local.local", "LocalJob"),
        ("submitit.slurm.slurm", "SlurmJob"),
    }
)
# What exca writes beside it, and holds against the next job of the same folder.
_RECORDS = ("job.pkl", "config.yaml", "uid.yaml", "full-uid.yaml", "submitit", "code")


class _Careful(pickle.Unpickler):
    """Loads jobs and paths; nothing else is imported or called."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _NAMED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def forget(folder: Path) -> None:
    """Remove exca's records in a stage's folder, without reading them."""
    for name in _RECORDS:
        store.discard(folder / name)


def check(folder: Path) -> None:
    """Remove exca's records where the job's is not a job: damaged, or something that would run code when loaded."""
    path = folder / "job.pkl"
    try:
        with path.open("rb") as file:
            job = _Careful(file).load()
        if not callable(getattr(job, "done", None)):
            raise pickle.UnpicklingError(f"it holds a {type(job).__name__}")
    except FileNotFoundError:
        return
    except Exception as problem:  # a damaged pickle can raise anything
        store.log.warning("%s is no record of a job (%s); removed, not loaded", path, str(problem).partition("\n")[0])
        forget(folder)

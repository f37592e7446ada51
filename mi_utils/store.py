"""The result store: safetensors published by one rename, checkpoints, locks, progress.

<store>/MI_STORE                    marks the folder as a store
<store>/<method>,<version>/<uid>/   one folder a stage (exca's): job.pkl, stage.json, recipe.yaml,
                                    progress.json, checkpoint-*.pt, failure.json, failure.log
                      .../output/   tensors.safetensors, meta.json, manifest.json: whole or not at all
<store>/locks, <store>/tmp          one lock a key; what is being written
"""

import errno
import hashlib
import io
import json
import logging
import os
import pickle
import shutil
import struct
import time
import traceback
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch import Tensor

from mi_utils.errors import UserError

log = logging.getLogger("mi_utils")
MARKER = "MI_STORE"
MIN_FREE_BYTES = 200 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FILES = ("tensors.safetensors", "meta.json")  # of a result, beside its manifest
# What torch raises for a file that is none of its own.
_FOREIGN = (pickle.UnpicklingError, struct.error, RuntimeError, ValueError, LookupError, ArithmeticError, TypeError)
_FOREIGN += (AttributeError, AssertionError, EOFError)
_CHECKPOINT_MAGIC = b"MI-CHECKPOINT-1\n"


class StageFailed(RuntimeError):
    """A stage did not reach its result: which one, why in one line, and where the traceback lies."""


class Corrupted(Exception):
    """A stored file is not the one that was written."""


def place() -> Path:
    """The store's place: `MI_STORE`, else `.store` beside the nearest pyproject.toml upwards, else here."""
    named = os.environ.get("MI_STORE")
    if named:
        return Path(named).expanduser().resolve()
    here = Path.cwd()
    projects = (folder for folder in (here, *here.parents) if (folder / "pyproject.toml").is_file())
    return next(projects, here) / ".store"


def root() -> Path:
    """The store's folder, made (0700) and marked where it is missing; UserError where that cannot be."""
    folder = place()
    with writing(folder):
        if (folder / MARKER).is_file():
            return folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Another process may be making the same store at this moment.
        if {path.name for path in folder.iterdir()} - {"locks", "tmp", MARKER}:
            raise UserError(
                f"MI_STORE: expected an empty folder or a result store, found other files in {folder}; "
                "name another folder"
            )
        for name in ("locks", "tmp"):
            (folder / name).mkdir(exist_ok=True)
        (folder / MARKER).write_text("Results of mi_utils; `python -m mi_utils clean` empties it.\n")
    return folder


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """A disk that refuses becomes one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise UserError(
                f"store: no space left in {folder}; free some (`python -m mi_utils clean`) or set MI_STORE "
                "to another disk, then run again: it goes on from the last checkpoint"
            ) from error
        raise UserError(
            f"store: {folder} cannot be written ({error.strerror}); set MI_STORE to a folder of your own"
        ) from error


def check_writable() -> None:
    """Refuse before the first long computation: the store must take a file and have room for results."""
    folder = root()
    probe = folder / "tmp" / f"probe-{uuid.uuid4().hex}"
    with writing(folder):
        probe.touch()
        probe.unlink()
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES:
        raise UserError(
            f"store: expected at least {MIN_FREE_BYTES >> 20} MB free in {folder}, found {free >> 20} MB; "
            "free some (`python -m mi_utils clean`) or set MI_STORE to another disk"
        )


def lock(key: str) -> FileLock:
    """One process at a time computes a key; the lock ends with its process, and may be nested."""
    return FileLock(root() / "locks" / f"{key}.lock", is_singleton=True)


def write_atomically(path: Path, data: bytes) -> None:
    """All of `data` under `path`, or nothing of it."""
    draft = root() / "tmp" / f"{os.getpid()}-{uuid.uuid4().hex}"
    with writing(path.parent):
        try:
            draft.write_bytes(data)
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def _entry(path: Path) -> dict[str, str | int]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def publish(folder: Path, tensors: Mapping[str, Tensor], meta: dict, facts: dict) -> dict:
    """Write a result apart, then rename it into place; returns its manifest (`facts`, shapes, digests)."""
    draft = root() / "tmp" / f"{os.getpid()}-{uuid.uuid4().hex}"
    with writing(folder):
        try:
            draft.mkdir()
            # Copies, because safetensors refuses tensors that share memory.
            save_file(
                {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()},
                draft / "tensors.safetensors",
            )
            (draft / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
            manifest = {
                **facts,
                "n": {name: list(t.shape) for name, t in tensors.items()},
                "files": {name: _entry(draft / name) for name in _FILES},
            }
            (draft / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            folder.mkdir(parents=True, exist_ok=True)
            draft.rename(folder / "output")
        except SafetensorError as error:
            # safetensors reports a full disk as text: "... (os error 28)".
            code = next((c for c in _FULL if f"os error {c}" in str(error)), errno.EIO)
            raise OSError(code, str(error)) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return manifest


def manifest(folder: Path) -> dict | None:
    """The manifest of a published result whose files have their full length; None where there is none."""
    try:
        found = json.loads((folder / "output" / "manifest.json").read_bytes())
        sizes = {name: (folder / "output" / name).stat().st_size for name in _FILES}
        whole = sizes == {name: file["bytes"] for name, file in found["files"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return found if whole else None


def load(folder: Path) -> tuple[dict[str, Tensor], dict, dict]:
    """(tensors, meta, manifest) of a published result, every byte checked; Corrupted where one differs."""
    output = folder / "output"
    try:
        found = json.loads((output / "manifest.json").read_bytes())
        data = {name: (output / name).read_bytes() for name in _FILES}
        for name, file in ((name, found["files"][name]) for name in _FILES):
            if hashlib.sha256(data[name]).hexdigest() != file["sha256"]:
                raise Corrupted(f"{name} has {len(data[name])} bytes of {file['bytes']} and another sha256")
        return load_tensors(data["tensors.safetensors"]), json.loads(data["meta.json"]), found
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise Corrupted(f"{type(error).__name__}: {error}") from error


def discard(path: Path) -> None:
    """Take a folder out of sight by one rename, then delete it."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        away = root() / "tmp" / f"{os.getpid()}-{uuid.uuid4().hex}"
        path.rename(away)
        shutil.rmtree(away)


def write_checkpoint(path: Path, payload: bytes) -> None:
    """A checkpoint preceded by its own SHA-256."""
    write_atomically(path, _CHECKPOINT_MAGIC + hashlib.sha256(payload).digest() + payload)


def read_checkpoint(path: Path) -> dict | None:
    """A checkpoint's content; None where there is none, and, with one line said, where it is damaged."""
    if not path.is_file():
        return None
    data = path.read_bytes()
    head = len(_CHECKPOINT_MAGIC) + 32
    payload = data[head:]
    whole = data[:head] == _CHECKPOINT_MAGIC + hashlib.sha256(payload).digest()
    found = _checkpoint(payload) if whole else None
    if found is None:
        log.warning("checkpoint of %s is damaged; starting from step 0", path.parent.name)
        path.unlink()
    return found


def _checkpoint(payload: bytes) -> dict | None:
    """A checkpoint's fields; None for bytes that are another program's, whatever their digest."""
    try:
        found = torch.load(io.BytesIO(payload), weights_only=True)
    except (*_FOREIGN, OSError, MemoryError):
        return None
    kinds = {"step": int, "seconds": float, "device": str, "streams": list, "state": dict}
    fits = isinstance(found, dict) and all(isinstance(found.get(name), kind) for name, kind in kinds.items())
    return found if fits else None


def forget_failure(folder: Path) -> None:
    """A new attempt begins: what an earlier one left to say goes."""
    for name in ("failure.json", "failure.log"):
        (folder / name).unlink(missing_ok=True)


def record_failure(folder: Path, kind: str, text: str) -> None:
    """One line for `status` and for the parent process; the traceback beside it."""
    write_atomically(folder / "failure.log", traceback.format_exc().encode())
    write_atomically(folder / "failure.json", json.dumps({"kind": kind, "text": text}).encode())


def alive(progress: dict) -> bool:
    """Whether the process that wrote this progress still runs; on another host, that of a day is believed."""
    if progress["host"] != os.uname().nodename:
        return time.time() - progress["updated"] < 86400
    try:
        return psutil.Process(progress["pid"]).create_time() < progress["started"] + 1
    except psutil.NoSuchProcess:
        return False


def read_json(path: Path) -> dict | None:
    """A small JSON file's content; None where it is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def size(path: Path) -> int:
    """Bytes of a file or a folder, links not followed."""
    if path.is_symlink() or path.is_file():
        return path.lstat().st_size
    return sum(p.lstat().st_size for p in path.rglob("*") if p.is_symlink() or p.is_file())

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
from typing import Any

import psutil
import torch
from filelock import FileLock, Timeout
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
# What readers of the small files need, with its type (times in s since 1970): who computes a stage, how far it is
# (`first` is the step that this run of the loop began with), why an attempt failed, which stage a folder is of.
RUNNING = {"started": float, "updated": float, "pid": int, "host": str}
REACHED = {"step": int, "total": int | None, "first": int, "loop": float, "updated": float}
FAILURE = {"kind": str, "text": str}
NAME = {"stage": str, "label": str, "key": str}


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
    except Timeout:  # of a lock: an OSError to Python, and none of the disk
        raise
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


class _Lock(FileLock):
    """A file lock whose disk refuses in one line."""

    def acquire(self, *args: Any, **options: Any) -> Any:
        with writing(Path(self.lock_file).parent):
            return super().acquire(*args, **options)


def lock(key: str) -> FileLock:
    """One process at a time computes a key; the lock ends with its process, and may be nested."""
    path = root() / "locks" / f"{key}.lock"
    _clear_way(path)
    return _Lock(path, is_singleton=True)


def _clear_way(path: Path) -> None:
    """Remove, and say so, what is no file where the store keeps one."""
    if path.is_symlink() or path.is_dir():
        log.warning("%s: expected a file, found a folder or a link; removed it", path)
        with writing(path.parent):
            discard(path)


def write_atomically(path: Path, data: bytes) -> None:
    """All of `data` under `path`, or nothing of it."""
    draft = root() / "tmp" / f"{os.getpid()}-{uuid.uuid4().hex}"
    _clear_way(path)
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
            manifest["sha256"] = _own_digest(manifest)
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


def _own_digest(manifest: dict) -> str:
    """SHA-256 of what a manifest says, itself left out."""
    said = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _read_manifest(folder: Path, key: str) -> dict:
    """The manifest as it was written; Corrupted where it is another stage's or was changed."""
    found = json.loads((folder / "output" / "manifest.json").read_bytes())
    if found["key"] != key:
        raise Corrupted(f"it is that of {found['stage']} {found['key']}")
    if found.get("sha256", _own_digest(found)) != _own_digest(found):  # none in stores of earlier versions
        raise Corrupted("manifest.json was changed")
    return found


def manifest(folder: Path, key: str) -> dict | None:
    """The manifest of this key's published result whose files have their full length; None where there is none."""
    try:
        found = _read_manifest(folder, key)
        sizes = {name: (folder / "output" / name).stat().st_size for name in _FILES}
        whole = sizes == {name: file["bytes"] for name, file in found["files"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, Corrupted):
        return None
    return found if whole else None


def load(folder: Path, key: str) -> tuple[dict[str, Tensor], dict, dict]:
    """(tensors, meta, manifest) of this key's published result, every byte checked; Corrupted where one differs."""
    output = folder / "output"
    try:
        found = _read_manifest(folder, key)
        data = {name: (output / name).read_bytes() for name in _FILES}
        for name, file in ((name, found["files"][name]) for name in _FILES):
            if hashlib.sha256(data[name]).hexdigest() != file["sha256"]:
                raise Corrupted(f"{name} has {len(data[name])} bytes of {file['bytes']} and another sha256")
        return load_tensors(data["tensors.safetensors"]), json.loads(data["meta.json"]), found
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise Corrupted(f"{type(error).__name__}: {error}") from error


def discard(path: Path) -> None:
    """Remove a file, a link or, out of sight by one rename and then deleted, a folder; nothing may be there."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
    else:
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
    kinds = {"key": str, "step": int, "seconds": float, "device": str, "streams": list, "state": dict}
    fits = isinstance(found, dict) and all(isinstance(found.get(name), kind) for name, kind in kinds.items())
    return found if fits else None


def forget_failure(folder: Path) -> None:
    """A new attempt begins: what an earlier one left to say goes."""
    for name in ("failure.json", "failure.log"):
        discard(folder / name)


def record_failure(folder: Path, kind: str, text: str) -> None:
    """One line for `status` and for the parent process; the traceback beside it.

    Where the disk refuses even that, the failure itself is still the one that is raised.
    """
    try:
        write_atomically(folder / "failure.log", traceback.format_exc().encode())
        write_atomically(folder / "failure.json", json.dumps({"kind": kind, "text": text}).encode())
    except UserError as problem:
        log.warning("the failure is not recorded: %s", problem)


def alive(progress: dict) -> bool:
    """Whether the process that wrote this progress still runs; on another host, that of a day is believed."""
    if progress["host"] != os.uname().nodename:
        return time.time() - progress["updated"] < 86400
    try:
        return psutil.Process(progress["pid"]).create_time() < progress["started"] + 1
    except psutil.NoSuchProcess:
        return False


def read_json(path: Path, fields: Mapping[str, Any] | None = None) -> dict | None:
    """A small JSON file's mapping with at least these fields; None where it is missing, damaged or something else."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    fits = isinstance(found, dict) and all(isinstance(found.get(n), kind) for n, kind in (fields or {}).items())
    return found if fits else None


def size(path: Path) -> int:
    """Bytes of a file or a folder, links not followed."""
    if path.is_symlink() or path.is_file():
        return path.lstat().st_size
    return sum(p.lstat().st_size for p in path.rglob("*") if p.is_symlink() or p.is_file())

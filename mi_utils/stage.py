"""Stage: one cached computation. Its key is its configuration, its upstreams' keys, its data and its source.

class Squares(Stage):
    n: int = 4
    def compute(self, job: Job) -> Output:
        total = torch.zeros(self.n)
        for i in job.steps(100, {"total": total}):      # progress, checkpoint, resume
            total += i * torch.arange(self.n)
        return Output(tensors={"total": total}, meta={"steps": 100})

Squares(n=3).result().tensors["total"]                  # computed once, then read from the store
"""

import copy
import hashlib
import io
import json
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import Enum
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, get_args

import pydantic
import torch
import yaml
from torch import Tensor

from mi_utils import code_digest, job_file, origin, runtime, store
from mi_utils.errors import UserError, one_line
from mi_utils.inventory import Row, clean, status
from mi_utils.job_arrays import Infra
from mi_utils.schedule import run
from mi_utils.store import StageFailed

__all__ = ["Config", "Job", "Output", "Result", "Row", "Stage", "StageFailed", "clean", "run", "status"]

# exca repeats a failure's whole traceback, which lies in failure.log already.
logging.getLogger("exca").setLevel(logging.ERROR)
# The same text in a quarter of the time, where PyYAML has libyaml (its wheels do).
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
HUGE_BITS = 10_000  # Python prints integers of up to 4300 digits, some 14,000 bits
# Ends of finished loops held in memory until the next checkpoint is due.
_MOST_WAITING_BYTES = 64 << 20
# Checkpoints take at most one part in so many of a loop's time, unless they would be this much rarer than asked for.
_LEAST_PARTS, _MOST_RARE = 300, 15


@dataclass
class Output:
    """What `compute` returns: named tensors, and JSON-able facts about them."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.tensors.items():
            if not isinstance(value, Tensor):
                raise TypeError(f"Output.tensors[{name!r}]: expected a Tensor, found {type(value).__name__}")
        for name, value in self.meta.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:
                raise TypeError(f"Output.meta[{name!r}]: expected JSON types ({error})") from error


@dataclass(frozen=True)
class Result:
    """What the store holds of a stage: tensors on the CPU, and what made them."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    seconds: float
    device: str
    commit: str
    key: str


class _Explained(type(pydantic.BaseModel)):
    """Construction of a config: what pydantic finds wrong becomes one line for the user."""

    def __call__(cls, *args: Any, **fields: Any) -> Any:
        for name, value in fields.items():
            if _holds_huge(value):
                raise UserError(f"{cls.__name__}.{one_line(name)[:80]}: expected integers of at most {HUGE_BITS} bits")
        try:
            return super().__call__(*args, **fields)
        except pydantic.ValidationError as error:
            raise UserError(_explained(cls, error)) from error


def _holds_huge(value: Any) -> bool:
    """Whether plain values hold an integer that Python refuses to print, so that no key can be made of it."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, int) and item.bit_length() > HUGE_BITS:
            return True
        waiting += item.values() if isinstance(item, dict) else item if isinstance(item, list | tuple) else ()
    return False


def _explained(cls: type[pydantic.BaseModel], error: pydantic.ValidationError) -> str:
    """`Class.field: what was expected, what was found`, for the first wrong field."""
    first = error.errors()[0]
    where = one_line(".".join([cls.__name__, *(str(part)[:80] for part in first["loc"])]))
    if first["type"] == "extra_forbidden":
        known = cls.model_fields if len(first["loc"]) == 1 else ()
        close = get_close_matches(str(first["loc"][-1]), known, 1)
        hint = f"; did you mean {close[0]}?" if close else f"; it has {', '.join(known)}" if known else ""
        return f"{where}: no such field{hint}"
    problem = first.get("ctx", {}).get("error")
    if isinstance(problem, UserError):  # it says itself what was found
        return f"{where}: {problem}"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}, found {_shown(first['input'])}"


def _shown(value: object) -> str:
    """What was found, as a message quotes it; an integer of thousands of digits cannot be printed."""
    try:
        return repr(str(value)[:80])
    except (ValueError, RecursionError):
        return f"{type(value).__name__} too large to print"


class Config(pydantic.BaseModel, metaclass=_Explained):
    """A frozen part of a recipe: an unknown field is an error, and so is a change after it was made."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")
    _defined: ClassVar[float] = 0.0

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls._defined = time.time()
        for name, info in cls.model_fields.items():
            kinds = (info.annotation, *get_args(info.annotation))
            if type(info.default) is int and float in kinds and int not in kinds:
                # Defaults are not validated: left to itself it would have another key than the same number given.
                raise TypeError(f"{cls.__name__}.{name}: write its default {info.default} as {info.default}.0")

    def model_copy(self, *, update: dict[str, Any] | None = None, deep: bool = False) -> "Config":
        """A new config with some fields replaced, checked like any other; nothing remembered is copied."""
        fields = {name: getattr(self, name) for name in type(self).model_fields} | dict(update or {})
        return type(self)(**(copy.deepcopy(fields) if deep else fields))

    def __getstate__(self) -> dict[str, Any]:
        """Fields alone travel to another process, which finds the key for itself."""
        state, names = super().__getstate__(), type(self).model_fields
        return state | {"__dict__": {name: v for name, v in state["__dict__"].items() if name in names}}

    def fingerprint(self) -> str | None:
        """What else the key depends on, such as the digest of a data file that is read; None for nothing."""
        return None

    def recipe(self) -> str:
        """The configuration as YAML, every field spelled out."""
        return self._recipe

    @cached_property
    def _recipe(self) -> str:
        return yaml.dump(_plain(self), Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=100)


def _plain(value: Any) -> Any:
    """A value as YAML types: a config is a mapping that begins with its class."""
    if isinstance(value, Config):
        fields = {name: _plain(getattr(value, name)) for name in type(value).model_fields}
        return {"class": type(value).__name__, **fields}
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, Enum):
        return _plain(value.value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _source(cls: type[Config]) -> str:
    """Digest of the source behind a class; UserError where the file is newer than what was loaded from it."""
    digest, edited = code_digest.of_class(cls)
    # A time that is still to come says that the clock was set back, not that the file was edited since.
    if cls._defined + 1 < edited <= time.time() + 1:
        raise UserError(
            f"{cls.__name__}: its source or a module it imports was edited after it was loaded; restart "
            "Python (in a notebook: the kernel), so that a result is never stored under newer code's key"
        )
    return digest


def _canonical(value: Any, owner: str) -> Any:
    """A field's value as JSON types that enter the key. A nested stage enters by its key."""
    if isinstance(value, Stage):
        return ["stage", value.key]
    if isinstance(value, Config):
        return _identity(value)
    if isinstance(value, Enum):
        return _canonical(value.value, owner)
    if isinstance(value, dict):
        return ["dict", sorted([str(k), _canonical(v, owner)] for k, v in value.items())]
    if isinstance(value, list | tuple):
        return [_canonical(item, owner) for item in value]
    if isinstance(value, set | frozenset):
        return ["set", *sorted((_canonical(item, owner) for item in value), key=json.dumps)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(
        f"{owner}: expected numbers, strings, configs or containers of them, found {type(value).__name__}; "
        "give the config a `fingerprint` for content that lies elsewhere"
    )


def _identity(config: Config) -> Any:
    """What a config says, computes with and reads. Where a file lies is left to the fingerprint."""
    cls = type(config)
    try:
        extra = config.fingerprint()
    except OSError as problem:
        raise UserError(f"{cls.__name__}: its data cannot be read ({one_line(problem)}); mend the path") from problem
    values = {name: getattr(config, name) for name in sorted(cls.model_fields)}
    if extra is not None:
        values = {name: value for name, value in values.items() if not isinstance(value, Path)}
    fields = {name: _canonical(value, f"{cls.__name__}.{name}") for name, value in values.items()}
    return {"class": cls.__qualname__, "fields": fields, "fingerprint": extra, "source": _source(cls)}


def _children(value: Any) -> Iterator["Stage"]:
    """Stages directly inside a value, looking through containers and plain configs."""
    if isinstance(value, Stage):
        yield value
    elif isinstance(value, Config):
        for name in type(value).model_fields:
            yield from _children(getattr(value, name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from _children(item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _children(item)


class Stage(Config):
    """One computation whose result is stored under its key. Subclasses give fields and `compute`."""

    checkpoint_seconds: ClassVar[float] = 20.0

    def compute(self, job: "Job") -> Output:
        """The computation itself; called only when no result is stored."""
        raise NotImplementedError(f"{type(self).__name__} has no compute method")

    @cached_property
    def key(self) -> str:
        """24 hex digits: the same for the same recipe, data and source, on any machine."""
        text = json.dumps(_identity(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    @cached_property
    def _upstream(self) -> tuple["Stage", ...]:
        found = (s for name in type(self).model_fields for s in _children(getattr(self, name)))
        return tuple({stage.key: stage for stage in found}.values())

    def upstream(self) -> tuple["Stage", ...]:
        """The stages that this one reads, each once, in the order of its fields."""
        return self._upstream

    @property
    def title(self) -> str:
        """Name in messages: class, description, key."""
        return f"{type(self).__name__} ({self.label}) {self.key}"

    def named(self) -> bytes:
        """stage.json: what `status` says of a folder in the store."""
        return json.dumps({"stage": type(self).__name__, "label": self.label, "key": self.key}).encode()

    @property
    def label(self) -> str:
        """Short description for people: the plain fields that are not at their default."""
        changed = {n: v for n, v in self._plain_fields().items() if v != type(self).model_fields[n].default}
        return " ".join(f"{name}={value}" for name, value in changed.items())[:80]

    def _plain_fields(self) -> dict[str, bool | int | float | str]:
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: v for name, v in fields.items() if isinstance(v, bool | int | float | str)}

    def entry(self, device: str = "auto", tick: Callable[[], None] | None = None, **infra: str | int) -> "Entry":
        """This stage as exca's task in the current store; `infra` are exca's cluster fields."""
        made = Entry(stage=type(self).__name__, key=self.key, infra={"folder": store.root(), **infra})
        made._stage, made._device, made._tick = self, device, tick
        made._root, made._typed = str(store.root()), code_digest.TYPED
        return made

    @property
    def folder(self) -> Path:
        """Where the store keeps this stage."""
        return _folder(store.root(), type(self).__name__, self.key)

    def stored(self) -> bool:
        """Whether a whole result is in the store; its content is checked when it is read."""
        return store.manifest(self.folder, self.key) is not None

    def result(self, device: str | torch.device = "auto") -> Result:
        """The stored result; computed first, upstreams before, where it is missing."""
        if not self.stored():
            self.ensure(device)
        try:
            return self._read()
        except store.Corrupted as problem:
            with store.lock(self.key):
                self._reject(problem)
                self.ensure(device)
                return self._read()

    def _reject(self, problem: store.Corrupted) -> None:
        """Say in one line that a stored result is damaged or another's, and remove it."""
        store.log.warning("%s: the stored result is damaged (%s); computing it again", self.title, problem)
        store.discard(self.folder / "output")

    def make_room(self) -> None:
        """Remove, and say so, what lies where the result will be; the lock must be held."""
        if self.folder.is_symlink() or self.folder.is_file():
            store.log.warning("%s: expected a folder, found a file or a link; removed it", self.folder)
            store.discard(self.folder)
        if os.path.lexists(self.folder / "output"):
            try:
                store.load(self.folder, self.key)
            except store.Corrupted as problem:
                self._reject(problem)

    def _read(self) -> Result:
        tensors, meta, manifest = store.load(self.folder, self.key)
        return Result(tensors, meta, manifest["seconds"], manifest["device"], manifest["commit"], self.key)

    def ensure(self, device: str | torch.device = "auto", tick: Callable[[], None] | None = None) -> None:
        """Compute what is missing of this stage and its upstreams, here; one process at a time for a key."""
        chosen = str(runtime.device(device))
        for stage in self.upstream():
            if not stage.stored():
                stage.ensure(chosen, tick)
        store.check_writable()
        with store.lock(self.key):
            if self.stored():
                return
            entry = self.entry(chosen, tick)
            with store.writing(self.folder):
                self.make_room()
                job_file.forget(self.folder)
                entry.manifest()


@cache
def _folder(root: Path, name: str, key: str) -> Path:
    """The folder exca gives a stage, asked once: exca takes a millisecond to say."""
    return Entry(stage=name, key=key, infra={"folder": root}).infra.uid_folder()


class Entry(pydantic.BaseModel):
    """What exca sees of a stage: its class name and key. Its value is the manifest, never a tensor.

    A flat model, so that exca's own key stays short and cheap however deep the recipe is nested.
    """

    model_config = pydantic.ConfigDict(extra="forbid")
    stage: str
    key: str
    infra: Infra = Infra(version="1", mode="retry")
    _stage: Any = pydantic.PrivateAttr(None)
    _device: str = pydantic.PrivateAttr("auto")
    _root: str = pydantic.PrivateAttr("")
    _typed: dict[str, Any] = pydantic.PrivateAttr(default_factory=dict)
    _sender: str = pydantic.PrivateAttr(code_digest.PROCESS)
    _tick: Any = pydantic.PrivateAttr(None)

    @infra.apply
    def manifest(self) -> dict[str, Any]:
        """Compute the stage and publish its result; returns the manifest."""
        stage = self.opened()
        with store.lock(self.key):
            published = store.manifest(stage.folder, self.key)
            if published:
                return published
            stage.make_room()
            return Job(stage, runtime.device(self._device), self._tick).run()

    def opened(self) -> Stage:
        """The stage, in whichever process this is; UserError where source or data are newer there."""
        if self._sender != code_digest.PROCESS:
            # Elsewhere the working directory, and with it the default store, may be another.
            os.environ["MI_STORE"] = self._root
            code_digest.GIVEN.update(self._typed)
        if self._stage.key != self.key:
            raise UserError(f"{self.stage}: its source or data was edited while the run went on; run again")
        return self._stage


class Job:
    """One run of a stage's `compute`: its device, and its loops with progress, checkpoint and resume."""

    def __init__(self, stage: Stage, device: torch.device, tick: Callable[[], None] | None = None) -> None:
        self.stage, self.device = stage, device
        self._folder, self._tick = stage.folder, tick
        self._began = self._saved_at = self._captured_at = time.monotonic()
        self._pause = stage.checkpoint_seconds
        self._shown_at = -math.inf
        self._started = self._loop_began = time.time()
        self._earlier = 0.0
        self._loops, self._looping, self._verified = 0, False, False
        self._waiting: dict[Path, bytes] = {}

    def run(self) -> dict[str, Any]:
        """Compute and publish; a failure leaves failure.json and failure.log, and becomes StageFailed."""
        store.forget_failure(self._folder)
        store.write_atomically(self._folder / "stage.json", self.stage.named())
        store.write_atomically(self._folder / "recipe.yaml", self.stage.recipe().encode())
        self._show(0, None)
        try:
            words = type(self.stage).__qualname__, str(self.stage._plain_fields())
            origin.state()  # before the long computation: files edited meanwhile are not those that were loaded
            with runtime.isolated(self.device, *words), origin.Memory(self.device) as memory:
                output = self.stage.compute(self)
            return self._publish(output, memory.facts())
        except UserError as error:
            store.record_failure(self._folder, "UserError", str(error))
            raise
        except Exception as error:
            cause = str(error) if isinstance(error, StageFailed) else f"{type(error).__name__}: {error}"
            text = f"{self.stage.title}: {cause.splitlines()[0]}; traceback in {self._folder / 'failure.log'}"
            store.record_failure(self._folder, "StageFailed", text)
            raise StageFailed(text) from error
        finally:
            store.discard(self._folder / "progress.json")

    def _publish(self, output: Output, memory: dict[str, int]) -> dict[str, Any]:
        facts = {
            "stage": type(self.stage).__name__,
            "key": self.stage.key,
            "seconds": round(self._seconds(), 3),
            "device": runtime.device_name(self.device),
            "commit": origin.commit(),
            "dirty": origin.state()[1],
            "code": code_digest.of_class(type(self.stage))[0],
            "versions": origin.versions(),
            **memory,
            "recipe": self.stage.recipe(),
        }
        manifest = store.publish(self._folder, output.tensors, output.meta, facts)
        for path in self._folder.glob("checkpoint-*.pt"):
            store.discard(path)
        return manifest

    def _seconds(self) -> float:
        """Seconds of computing, those before an interruption included."""
        return self._earlier + time.monotonic() - self._began

    def check_finite(self, name: str, tensor: Tensor) -> None:
        """StageFailed where a value is NaN or infinite: a diverged training is never stored."""
        bad = tensor.numel() - int(torch.isfinite(tensor).sum())
        if bad:
            raise StageFailed(f"{name}: {bad} of {tensor.numel()} values are NaN or infinite (diverged)")

    def steps(self, total: int, *states: dict[str, object]) -> Iterator[int]:
        """Step numbers from where the last checkpoint left off to `total - 1`.

        states: everything the loop changes, under names of which none occurs twice: modules, optimisers, schedulers,
        generators, tensors (restored in place), lists of numbers or tensors. A checkpoint is written every
        `checkpoint_seconds`, less often where writing takes long, so that after an interruption the loop goes on to
        the very numbers it would have reached. Loops may follow each other in one stage, not lie within each other.
        """
        if self._looping:
            raise RuntimeError(f"{type(self.stage).__name__}: job.steps lies inside job.steps; make it one")
        names = Counter(name for part in states for name in part)
        if twice := [name for name, count in names.items() if count > 1]:
            # Of two things under one name a checkpoint would keep one, and a resumed loop end elsewhere.
            raise RuntimeError(f"{type(self.stage).__name__}: job.steps is given {twice[0]!r} twice; rename one")
        state = {name: value for part in states for name, value in part.items()}
        path = self._folder / f"checkpoint-{self._loops}.pt"
        self._loops += 1
        first = self._restore(path, state)
        self._looping, self._loop_began = True, time.time()
        try:
            for step in range(first, total):
                self._show(step, total, first)
                yield step
                if time.monotonic() - self._saved_at >= self._pause:
                    self._save(path, self._capture(step + 1, state))
            if first < total:
                # A later loop's checkpoint is of use only together with the end of this one.
                self._waiting[path] = self._capture(total, state)
                if sum(map(len, self._waiting.values())) > _MOST_WAITING_BYTES:
                    self._save(path, self._waiting[path])
        finally:
            self._looping = False

    def _capture(self, step: int, state: dict[str, object]) -> bytes:
        """The loop's state, default random streams included, as bytes that execute nothing when loaded."""
        self._captured_at = time.monotonic()
        streams = [torch.get_rng_state()]
        if self.device.type == "cuda":
            streams.append(torch.cuda.get_rng_state(self.device))
        content = {
            "key": self.stage.key,
            "step": step,
            "seconds": self._seconds(),
            "device": self.device.type,
            "streams": streams,
            "state": {name: _captured(name, value) for name, value in state.items()},
        }
        buffer = io.BytesIO()
        with _without_crc32():
            torch.save(content, buffer)
        return buffer.getvalue()

    def _save(self, path: Path, payload: bytes) -> None:
        """Write a checkpoint, and before it the ends of the loops that led to it."""
        if not self._verified:
            torch.load(io.BytesIO(payload), weights_only=True)
            self._verified = True
        for earlier, content in {**self._waiting, path: payload}.items():
            store.write_checkpoint(earlier, content)
        self._waiting.clear()
        self._saved_at = time.monotonic()
        asked = self.stage.checkpoint_seconds
        self._pause = min(max(asked, _LEAST_PARTS * (self._saved_at - self._captured_at)), _MOST_RARE * asked)

    def _restore(self, path: Path, state: dict[str, object]) -> int:
        """Put a checkpoint's content in place; returns the step to go on with, 0 where there is none."""
        found = store.read_checkpoint(path)
        if found is None:
            return 0
        if found["key"] != self.stage.key:
            store.log.warning("%s: its checkpoint is another stage's; starting from step 0", self.stage.title)
            return 0
        if found["device"] != self.device.type:
            store.log.warning(
                "%s: its checkpoint is of a %s run; starting from step 0", self.stage.title, found["device"]
            )
            return 0
        for name, value in state.items():
            _put_back(value, found["state"][name], self.device)
        torch.set_rng_state(found["streams"][0])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(found["streams"][1], self.device)
        self._earlier = max(self._earlier, found["seconds"] - (time.monotonic() - self._began))
        return found["step"]

    def _show(self, step: int, total: int | None, first: int = 0) -> None:
        """Tell the store, at most once a second, how far this stage is."""
        now = time.monotonic()
        if now - self._shown_at < 1 and step != first:
            return
        self._shown_at = now
        content = {
            "step": step,
            "total": total,
            "first": first,
            "loop": self._loop_began,
            "started": self._started,
            "updated": time.time(),
            "pid": os.getpid(),
            "host": os.uname().nodename,
            "device": str(self.device),
        }
        store.write_atomically(self._folder / "progress.json", json.dumps(content).encode())
        if self._tick is not None:
            self._tick()


@contextmanager
def _without_crc32() -> Iterator[None]:
    """A checkpoint has a SHA-256 of its own; torch's CRC-32 of every tensor would take as long as the rest."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def _packed(name: str, item: object) -> object:
    """A list's item as types that execute nothing when loaded; a tensor remembers if it was on the GPU."""
    if isinstance(item, Tensor):
        return {"tensor": item.detach().cpu().clone(), "moved": item.device.type != "cpu"}
    if isinstance(item, list | tuple):
        return [_packed(name, part) for part in item]
    for kind in (bool, int, float, str):
        if isinstance(item, kind):
            return kind(item)
    raise UserError(
        f"job.steps: state {name!r}: expected numbers, strings or tensors in the list, found {type(item).__name__}"
    )


def _unpacked(item: object, device: torch.device) -> object:
    if isinstance(item, dict):
        return item["tensor"].to(device) if item["moved"] else item["tensor"]
    return [_unpacked(part, device) for part in item] if isinstance(item, list) else item


def _captured(name: str, value: object) -> object:
    """What a checkpoint keeps of one state value."""
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, list):
        return _packed(name, value)
    if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
        return value.state_dict()
    raise UserError(
        f"job.steps: state {name!r}: expected a module, optimiser, scheduler, torch.Generator, tensor or "
        f"list, found {type(value).__name__}"
    )


@torch.no_grad()
def _put_back(value: object, saved: object, device: torch.device) -> None:
    """Restore one state value in place."""
    if isinstance(value, torch.Generator):
        value.set_state(saved)
    elif isinstance(value, Tensor):
        value.copy_(saved)
    elif isinstance(value, list):
        value[:] = _unpacked(saved, device)
    else:
        value.load_state_dict(saved)

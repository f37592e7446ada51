"""Archives of stored results: a folder, or a zip without compression, that says the SHA-256 of every file in it.

index.json                                   what there is: `Index`
results/<Stage>-<key>/tensors.safetensors, meta.json, manifest.json    a result as the store holds it
results/<Stage>-<key>/recipe.yaml            the configuration behind it
results/<Stage>-<key>/images/<class>/<number>.png    an attack's reconstructions, to look at

Digests show that an archive is whole, not who made it: compare `Index.digest` with what the exporter was told.
Everything is checked before anything is used, and nothing in an archive is executed.
"""

import hashlib
import json
import os
import re
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import pydantic
from pydantic import Field, FiniteFloat
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.stage import Config

FORMAT = "mi_utils results 1"
INDEX = "index.json"
MOST_INDEX_BYTES = 128 << 20  # some 700,000 files
CHUNK_BYTES = 1 << 20
_MEMBER = re.compile(
    r"(?P<result>results/[A-Za-z_]\w*-[0-9a-f]{24})/"
    r"(?:tensors\.safetensors|(?:meta|manifest)\.json|recipe\.yaml|images/[0-9]{1,9}/[0-9]{1,9}\.png)",
    re.ASCII,
)
NEEDED = ("tensors.safetensors", "meta.json", "manifest.json", "recipe.yaml")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{24}$")]
ClassName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)]
Line = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f<>&]*$", max_length=300)]


class File(Config):
    """Size and content of one file."""

    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]


class Entry(Config):
    """One result: its stage's class and key, and the rows of the papers' tables that it is the attack of."""

    stage: ClassName
    key: Key
    rows: tuple[Line, ...] = ()

    @property
    def folder(self) -> str:
        """Where its files lie in the archive."""
        return f"results/{self.stage}-{self.key}"


class Index(Config):
    """index.json.  `digest` is that of everything else in it, and through `files` of the whole archive."""

    format: Literal["mi_utils results 1"] = FORMAT
    commit: Line
    papers: tuple[Line, ...]
    profile: Line
    results: tuple[Entry, ...]
    files: dict[str, File]
    digest: str = ""

    def sealed(self) -> "Index":
        """The same with its digest."""
        plain = self.model_dump(mode="json", exclude={"digest"})
        text = json.dumps(plain, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return self.model_copy(update={"digest": hashlib.sha256(text.encode()).hexdigest()})


class Manifest(Config):
    """What an archive's manifest must say; more is left as it is."""

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")
    stage: ClassName
    key: Key
    seconds: Annotated[FiniteFloat, Field(ge=0)]
    device: Line
    commit: Line
    n: dict[str, tuple[int, ...]]
    files: dict[Literal["tensors.safetensors", "meta.json"], File]


def parsed(data: bytes, name: str) -> Any:
    """JSON in which no name stands twice; UserError for anything else."""
    try:
        return json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError) as problem:
        said = str(problem) if isinstance(problem, ValueError) else "nested too deep"
        raise UserError(f"{name}: expected JSON, but it cannot be read ({said}); export it again") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _fields(data: bytes, name: str) -> dict[str, Any]:
    """A JSON object's fields, for a config."""
    found = parsed(data, name)
    if not isinstance(found, dict):
        raise UserError(f"{name}: expected a JSON object, found {type(found).__name__}; export it again")
    return found


class _Folder:
    """An archive's files in a folder: plain ones, reached without a link."""

    def __init__(self, path: Path) -> None:
        self.path, self.sizes = path, dict(self._listed(path, ""))

    def _listed(self, folder: Path, prefix: str, depth: int = 0) -> Iterator[tuple[str, int]]:
        if depth > 5:
            raise UserError(f"{folder}: an archive has no folder here; remove it")
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from self._listed(folder / entry.name, f"{prefix}{entry.name}/", depth + 1)
                elif entry.is_file(follow_symlinks=False):
                    yield prefix + entry.name, entry.stat(follow_symlinks=False).st_size
                else:
                    kind = "a link" if entry.is_symlink() else "no plain file"
                    raise UserError(f"{folder / entry.name}: expected plain files alone, found {kind}; remove it")

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        with os.fdopen(os.open(self.path / name, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
            yield file


class _Zip:
    """An archive's files in a zip.  Nothing is compressed, so that it cannot unpack to more than it is."""

    def __init__(self, path: Path) -> None:
        self.path, self._zip = path, zipfile.ZipFile(path)
        self.sizes: dict[str, int] = {}
        for part in self._zip.infolist():
            self._check(part)
            if not part.is_dir():
                self.sizes[part.filename] = part.file_size
        if sum(self.sizes.values()) > path.stat().st_size:
            raise UserError(f"{path}: its files would be larger than it is, so that they overlap; export it again")

    def _check(self, part: zipfile.ZipInfo) -> None:
        """UserError for a member that no export writes."""
        mode, wrong = part.external_attr >> 16, ""
        if part.filename in self.sizes:
            wrong = "the same name twice"
        elif stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            wrong = "a link or no plain file"
        elif part.flag_bits & 1:
            wrong = "an encrypted file"
        elif part.compress_type != zipfile.ZIP_STORED or part.compress_size != part.file_size:
            wrong = "a compressed file"
        if wrong:
            raise UserError(
                f"{self.path}: {part.filename[:100]!r}: expected plain files without compression, each once, found "
                f"{wrong}; unpack it and import the folder"
            )

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        with self._zip.open(name) as file:
            yield file


class Archive:
    """An archive that was opened: its index is checked, its files are by `check`.  UserError where one is wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._explained():
            if path.is_dir():
                self._files: _Folder | _Zip = _Folder(path)
            elif path.is_file():
                self._files = _Zip(path)
            else:
                raise UserError(f"{path}: expected a folder or zip that `export` has written, found none")
        self.index = self._read_index()
        self._check_names()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """A file that cannot be read becomes one clear line."""
        try:
            yield
        except (OSError, zipfile.BadZipFile, ValueError, LookupError, RuntimeError, EOFError) as problem:
            # LookupError: a member without a name.  RuntimeError: also a NotImplementedError, of a newer zip.
            if isinstance(problem, UserError):
                raise
            said = (str(problem) or type(problem).__name__).splitlines()[0]
            raise UserError(f"{self.path}: it cannot be read as an archive of results ({said})") from None

    def _read_index(self) -> Index:
        size = self._files.sizes.get(INDEX)
        if size is None or size > MOST_INDEX_BYTES:
            found = "none" if size is None else f"{size} bytes"
            raise UserError(f"{self.path}: expected {INDEX} of an archive of results, found {found}")
        with self._explained(), self._files.open(INDEX) as file:
            data = file.read(MOST_INDEX_BYTES)
        index = Index(**_fields(data, f"{self.path}/{INDEX}"))
        if index.sealed().digest != index.digest:
            raise UserError(f"{self.path}: {INDEX} has another digest than it says; it was altered, export it again")
        return index

    def _check_names(self) -> None:
        """UserError unless the files are those of the index, and each is one of its results'."""
        folders = [entry.folder for entry in self.index.results]
        if len(set(folders)) < len(folders):
            raise UserError(f"{self.path}: {INDEX} names a result twice; export it again")
        listed, there = set(self.index.files), set(self._files.sizes) - {INDEX}
        known = set(folders)
        strange = next((n for n in listed if not (m := _MEMBER.fullmatch(n)) or m["result"] not in known), None)
        if strange is not None:
            raise UserError(f"{self.path}: {INDEX} names {strange[:100]!r}, which is no file of an archive's results")
        needed = {f"{folder}/{name}" for folder in folders for name in NEEDED}
        for names, said in (((listed | needed) - there, "lacks"), ((needed - listed) | (there - listed), "also has")):
            if names:
                raise UserError(
                    f"{self.path}: it {said} {sorted(names)[0][:150]!r} ({len(names)} files in all); export it again"
                )

    def read(self, name: str) -> bytes:
        """One file's content, once its digest is right."""
        said = self.index.files[name]
        self._check_size(name, said)
        with self._explained(), self._files.open(name) as file:
            data = file.read(said.bytes + 1)
        self._compare(name, said, len(data), hashlib.sha256(data).hexdigest())
        return data

    def _check_size(self, name: str, said: File) -> None:
        if self._files.sizes[name] != said.bytes:
            self._compare(name, said, self._files.sizes[name], "")

    def _compare(self, name: str, said: File, size: int, digest: str) -> None:
        if (size, digest) != (said.bytes, said.sha256):
            raise UserError(
                f"{self.path}: {name} is not the file that was exported ({size} bytes of {said.bytes}, another "
                "SHA-256); export it again"
            )

    def check(self) -> None:
        """Every file against the index, and every result against its own manifest; UserError for the first wrong."""
        for name, said in self.index.files.items():
            self._check_size(name, said)
            digest, size = hashlib.sha256(), 0
            with self._explained(), self._files.open(name) as file:
                while part := file.read(min(CHUNK_BYTES, said.bytes + 1 - size)):
                    digest.update(part)
                    size += len(part)
            self._compare(name, said, size, digest.hexdigest())
        for entry in self.index.results:
            self.load(entry)

    def recipe(self, entry: Entry) -> str:
        """A result's configuration as YAML text."""
        return self.read(f"{entry.folder}/recipe.yaml").decode(errors="replace")

    def load(self, entry: Entry) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
        """(tensors, meta, manifest) of a result; UserError unless the three belong together."""
        name = f"{self.path}: {entry.folder}"
        manifest = _fields(self.read(f"{entry.folder}/manifest.json"), f"{name}/manifest.json")
        said = Manifest(**manifest)
        if (said.stage, said.key) != (entry.stage, entry.key):
            raise UserError(f"{name}: its manifest is that of {said.stage} {said.key}; export it again")
        for part in ("tensors.safetensors", "meta.json"):
            if said.files.get(part) != self.index.files[f"{entry.folder}/{part}"]:
                raise UserError(f"{name}/{part}: another file than its manifest says; export it again")
        try:
            tensors = load_tensors(self.read(f"{entry.folder}/tensors.safetensors"))
        except (SafetensorError, ValueError, KeyError, TypeError) as problem:
            if isinstance(problem, UserError):
                raise
            raise UserError(f"{name}: expected tensors ({str(problem).splitlines()[0]}); export it again") from None
        if {n: tuple(t.shape) for n, t in tensors.items()} != said.n:
            raise UserError(f"{name}: its tensors have other shapes than its manifest says; export it again")
        meta = _fields(self.read(f"{entry.folder}/meta.json"), f"{name}/meta.json")
        return tensors, meta, manifest

    @cached_property
    def entries(self) -> dict[tuple[str, str], Entry]:
        """Results by class and key."""
        return {(entry.stage, entry.key): entry for entry in self.index.results}

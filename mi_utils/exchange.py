"""Stored results from one machine to another: `export` writes an archive, `import` checks it and takes it in.

A result is put into the store only under a key that this code gives to the same recipe, so that none is ever served
for another; results of other code or settings stay in the archive, where `mi_utils.archive.Archive` reads them.
"""

import hashlib
import io
import os
import shutil
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mi_utils import origin, store
from mi_utils.archive import INDEX, Archive, Entry, File, Index
from mi_utils.errors import UserError
from mi_utils.schedule import in_order
from mi_utils.stage import Stage

STORED = ("tensors.safetensors", "meta.json", "manifest.json")


class Sink(Protocol):
    """Takes an archive's files one after another."""

    def __call__(self, name: str, data: bytes) -> None: ...


# ---------------------------------------------------------------- out


def export(papers: Sequence[str], profile: str, dest: Path, overrides: Mapping[str, Any] | None = None) -> Index:
    """Everything that is stored of these papers at `profile`, as a new folder, or a zip where `dest` ends in .zip.

    Returns the index.  The same results give the same digest.  UserError where nothing is stored or `dest` exists.
    """
    if dest.exists():
        raise UserError(f"dest: expected a new folder or .zip, found {dest} there; name another")
    stages, rows = planned(papers, profile, overrides or {})
    kept = [stage for stage in stages if stage.stored()]
    if not kept:
        raise UserError(
            f"export: expected stored results of {', '.join(papers)} at profile {profile}, found none of "
            f"{len(stages)}; run make reproduce PROFILE={profile}"
        )
    files: dict[str, File] = {}
    entries = sorted((_entry(stage, rows) for stage in kept), key=lambda entry: entry.folder)
    by_folder = {_entry(stage, rows).folder: stage for stage in kept}
    with _sink(dest) as put:

        def write(name: str, data: bytes) -> None:
            files[name] = File(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
            put(name, data)

        for entry in entries:
            _write_result(by_folder[entry.folder], entry, write)
        index = Index(
            commit=origin.commit(), papers=tuple(papers), profile=profile, results=tuple(entries), files=files
        ).sealed()
        put(INDEX, index.model_dump_json(indent=1).encode())
    return index


def planned(
    papers: Sequence[str], profile: str, overrides: Mapping[str, Any]
) -> tuple[list[Stage], dict[str, list[str]]]:
    """All stages of these papers, upstreams first, and for an attack's key the rows of the tables it makes."""
    from mi_utils import studies
    from mi_utils.studies.plan import suggestion

    stages: list[Stage] = []
    rows: dict[str, list[str]] = {}
    for paper in papers:
        if paper not in studies.PAPERS:
            raise UserError(f"paper: {suggestion(paper, studies.PAPERS)}")
        plan = studies.PAPERS[paper].plan(profile, **overrides)
        stages += plan.stages
        for run in plan.runs:
            name = f"{paper}: {run.attack} | {run.setting} | seed {run.seed}"
            rows.setdefault(run.stage.key, []).append("".join(c for c in name if c.isprintable() and c not in "<>&"))
    return in_order(stages), rows


def _entry(stage: Stage, rows: Mapping[str, list[str]]) -> Entry:
    return Entry(stage=type(stage).__name__, key=stage.key, rows=tuple(rows.get(stage.key, ())))


def _write_result(stage: Stage, entry: Entry, write: Sink) -> None:
    """One result's files, read from the store and checked; UserError where the store's are damaged."""
    try:
        tensors, _, _ = store.load(stage.folder, stage.key)
    except store.Corrupted as problem:
        raise UserError(f"{stage.title}: the stored result is damaged ({problem}); run the paper again") from None
    for name in STORED:
        write(f"{entry.folder}/{name}", (stage.folder / "output" / name).read_bytes())
    write(f"{entry.folder}/recipe.yaml", stage.recipe().encode())
    if entry.rows and {"images", "labels"} <= tensors.keys():
        for name, data in pictures(tensors["images"], tensors["labels"]):
            write(f"{entry.folder}/images/{name}", data)


def pictures(images: Tensor, labels: Tensor) -> Iterator[tuple[str, bytes]]:
    """`<class>/<number>.png` and its content, for images uint8 (N, 1 or 3, H, W) and labels (N,); none of others."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or len(labels) != len(images):
        return
    width = len(str(int(labels.max()))) if len(labels) else 1
    for number, (image, label) in enumerate(zip(images.numpy(), labels.tolist(), strict=True)):
        buffer = io.BytesIO()
        pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
        Image.fromarray(pixels).save(buffer, "png")
        yield f"{label:0{width}d}/{number:06d}.png", buffer.getvalue()


@contextmanager
def _sink(dest: Path) -> Iterator[Sink]:
    """Writes under a temporary name beside `dest`, which appears when all is written, or not at all."""
    draft = dest.with_name(f".{dest.name}.{os.getpid()}.part")
    with store.writing(dest.parent):
        dest.parent.mkdir(parents=True, exist_ok=True)
        try:
            if dest.suffix == ".zip":
                with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as file:
                    # A fixed date, so that equal results give equal bytes.
                    yield lambda name, data: file.writestr(zipfile.ZipInfo(name), data)
            else:
                yield lambda name, data: _write_file(draft / name, data)
            draft.rename(dest)
        finally:
            shutil.rmtree(draft) if draft.is_dir() else draft.unlink(missing_ok=True)


def _write_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


# ---------------------------------------------------------------- in


@dataclass(frozen=True)
class Taken:
    """What an import did: numbers of results put into the store, there already, and left in the archive."""

    added: int
    present: int
    left: int


def take_in(path: Path, *, digest: str | None = None, overrides: Mapping[str, Any] | None = None) -> Taken:
    """Check an archive whole, then put its results into the store; UserError, and nothing put there, where it is wrong.

    `digest`: what the exporter was told; `overrides`: settings that the results were made with.
    """
    archive = Archive(path)
    if digest is not None and digest != archive.index.digest:
        raise UserError(f"{path}: expected digest {digest}, found {archive.index.digest}; it is another archive")
    archive.check()
    stages, _ = planned(archive.index.papers, archive.index.profile, overrides or {})
    mine = [(stage, archive.entries.get((type(stage).__name__, stage.key))) for stage in stages]
    known = [(stage, e) for stage, e in mine if e is not None and archive.recipe(e) == stage.recipe()]
    absent = [(stage, entry) for stage, entry in known if not stage.stored()]
    added = _put(archive, absent)
    return Taken(added, len(known) - added, len(archive.index.results) - len(known))


def _put(archive: Archive, results: Sequence[tuple[Stage, Entry]]) -> int:
    """Copy all results beside their places, then rename each into its own; returns how many were new."""
    need = sum(archive.index.files[f"{entry.folder}/{name}"].bytes for _, entry in results for name in STORED)
    store.check_writable()
    free = shutil.disk_usage(store.root()).free
    if need + store.MIN_FREE_BYTES > free:
        raise UserError(
            f"store: expected {need >> 20} MB free in {store.root()}, found {free >> 20} MB; set MI_STORE to another "
            "disk"
        )
    draft = store.root() / "tmp" / f"import-{uuid.uuid4().hex}"
    with store.writing(store.root()):
        try:
            for _, entry in results:
                for name in STORED:
                    _write_file(draft / entry.key / name, archive.read(f"{entry.folder}/{name}"))
            return sum(_publish(stage, draft / entry.key) for stage, entry in results)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _publish(stage: Stage, draft: Path) -> bool:
    """Rename a copied result into its place; False where another process has computed it meanwhile."""
    with store.lock(stage.key):
        if stage.stored():
            return False
        store.discard(stage.folder / "output")
        store.forget_failure(stage.folder)
        store.write_atomically(stage.folder / "stage.json", stage.named())
        store.write_atomically(stage.folder / "recipe.yaml", stage.recipe().encode())
        draft.rename(stage.folder / "output")
    return True

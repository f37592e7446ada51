"""A user's image folder read by a list of files, and the lists of the face data sets that the papers use.

    write_splits(celeba_identities(), "celeba/splits")
    Listed(path="celeba/img_align_celeba", split="celeba/splits/train.txt", crop=108, size=64)

A list is plain text, one file a line, relative to the folder: `name label` for private images, `name` alone for
public ones (all of label 0).  Empty lines and lines that begin with # are skipped.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import torch
from pydantic import Field

from mi_utils.data import splits
from mi_utils.data.images import Catalogue, Folder, Source, data_root, decode_all, files_digest, natural
from mi_utils.errors import UserError

Row = tuple[str, int]  # file, relative to the folder; label


class Listed(Source):
    """The images of folder `path` that the list `split` names, with the labels it gives them.

    Both are absolute or relative to the data root.  `canvas`: px a side to which every image is brought first (its
    central square), so that `crop` counts on it; without it `crop` counts the file's own pixels.
    """

    kind: Literal["listed"] = "listed"
    path: Path
    split: Path
    canvas: Annotated[int, Field(ge=1, le=4096)] | None = None

    def rows(self) -> tuple[Row, ...]:
        """Files and labels in the order of the list; UserError for a line that is not as it should be."""
        path = data_root() / self.split
        if not path.is_file():
            raise UserError(
                f"split: expected a text file of image names, found none at {path}; a relative path starts at MI_DATA, "
                "and mi_utils.data.listed.write_splits makes such lists"
            )
        stat = path.stat()
        return _rows(path, stat.st_size, stat.st_mtime_ns)

    def files(self) -> list[Path]:
        """The listed files; UserError for those that the folder does not have."""
        root = data_root() / self.path
        if not root.is_dir():
            raise UserError(
                f"path: expected a folder of images, found none at {root}; a relative path is under MI_DATA"
            )
        files = [root / name for name, _ in self.rows()]
        missing = [file for file in files if not file.is_file()]
        if missing:
            raise UserError(
                f"split: expected the {len(files)} files of {self.split} in {root}, found {len(missing)} of them "
                f"missing, such as {missing[0].relative_to(root)}; unpack the images there or correct the list"
            )
        return files

    def fingerprint(self) -> str:
        """Digest of the list and of its files (large sets: names, sizes, dates)."""
        files = self.files()
        stamps = tuple((stat.st_size, stat.st_mtime_ns) for stat in map(Path.stat, files))
        text = repr(self.rows()) + _digest(tuple(files), stamps, data_root() / self.path)
        return hashlib.sha256(text.encode()).hexdigest()

    def open(self) -> Catalogue:
        """List the files; images are decoded later."""
        files, labels = self.files(), torch.tensor([label for _, label in self.rows()])
        view = self if self.canvas is None else self.model_copy(update={"size": self.canvas, "crop": None})
        return Catalogue(
            labels,
            tuple(str(i) for i in range(int(labels.max()) + 1)),
            f"{self.path.as_posix()} ({self.split.stem})",
            lambda index: decode_all([lambda i=i: (files[i], str(files[i])) for i in index.tolist()], view),
            cropped=self.canvas is None,
        )


@lru_cache(maxsize=16)
def _digest(files: tuple[Path, ...], stamps: tuple[tuple[int, int], ...], root: Path) -> str:
    """`files_digest`, once for files of these sizes and dates: many stages ask for the same key."""
    return files_digest(files, root)


@lru_cache(maxsize=16)
def _rows(path: Path, size: int, modified: int) -> tuple[Row, ...]:
    """The checked lines of a list; size and date are there so that an edited list is read again."""
    lines = [(n, line.strip()) for n, line in enumerate(_text(path).splitlines(), 1)]
    found = [(n, *_parsed(line)) for n, line in lines if line and line[0] != "#"]
    if not found:
        raise UserError(f"split: expected lines 'file label' in {path}, found none; write the list again")
    seen: dict[str, int] = {}
    for n, name, label in found:
        where = f"split: {path}, line {n}"
        if name[0] == "/" or ".." in name.split("/"):
            raise UserError(f"{where}: expected a file inside the folder `path`, found {name}; give a relative name")
        if name in seen:
            raise UserError(f"{where}: expected every file once, found {name} as in line {seen[name]}; remove one")
        if (label is None) != (found[0][2] is None):
            raise UserError(f"{where}: expected a label in every line or in none, found one of each; add or drop them")
        seen[name] = n
    labels = {label or 0 for _, _, label in found}
    gap = next(i for i in count() if i not in labels)
    if gap < len(labels):
        raise UserError(
            f"split: expected labels 0..{len(labels) - 1} in {path}, found no file of label {gap} and "
            f"{max(labels)} as the largest; number the classes from 0 without gaps"
        )
    return tuple((name, label or 0) for _, name, label in found)


def _parsed(line: str) -> tuple[str, int | None]:
    """File and label of one line; the name may hold spaces."""
    name, *label = line.rsplit(None, 1)
    if label and label[0].isdecimal():
        return PurePosixPath(name).as_posix(), int(label[0])
    return PurePosixPath(line).as_posix(), None


def _text(path: Path) -> str:
    """A text file's content."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as problem:
        raise UserError(f"{path}: expected text in UTF-8, but it cannot be read ({problem}); save it again") from None


# ---------------------------------------------------------------- lists of our own


def celeba_identities(path: Path | str = "celeba/identity_CelebA.txt") -> dict[str, str]:
    """CelebA's own table, file name -> identity number; `path` is absolute or relative to the data root."""
    table = data_root() / path
    if not table.is_file():
        raise UserError(f"{table}: expected CelebA's list of identities, found none; put it there or set MI_DATA")
    rows = [line.split() for line in _text(table).splitlines() if line.strip()]
    wrong = next((row for row in rows if len(row) != 2), None)
    if wrong or not rows:
        raise UserError(f"{table}: expected lines 'file identity', found {wrong or 'none'}; use the published file")
    return dict(rows)


def folder_identities(path: Path | str) -> dict[str, str]:
    """File -> identity of a folder with one subfolder per identity, as FaceScrub is laid out."""
    files, names = Folder(path=path).listing()
    return {f"{name}/{file.name}": name for name, found in zip(names, files, strict=True) for file in found}


def write_splits(
    identities: Mapping[str, str], out: Path | str, *, private: int = 1000, public: int = 30_000, seed: int = 0
) -> dict[str, Path]:
    """Lists `train.txt`, `test.txt` and `public.txt` in `out`, for papers whose own lists cannot be had.

    Private: the `private` identities with the most files (ties: the lower name), labelled 0.. in the order of their
    names; a tenth of each identity's files, rounded half up, is the test set.  Public: `public` files of all other
    identities, without labels.  Both drawn by `seed`.  On CelebA the defaults give 27-31 training images an identity,
    as the papers' own lists have.  Lists that are there already are never changed (UserError if they differ).
    """
    by_name: dict[str, list[str]] = {}
    for file in sorted(identities, key=natural):
        by_name.setdefault(identities[file], []).append(file)
    ranked = sorted(sorted(by_name, key=natural), key=lambda name: -len(by_name[name]))
    chosen = sorted(ranked[:private], key=natural)
    others = [file for name in sorted(ranked[private:], key=natural) for file in by_name[name]]
    _require(len(chosen), private, "private", "identities")
    _require(min((len(by_name[name]) for name in chosen), default=0), 2, "private", "files of every private identity")
    _require(len(others), public, "public", "files of other identities")
    lines: dict[str, list[str]] = {"train": [], "test": [], "public": []}
    for label, name in enumerate(chosen):
        train, test = _tenth(by_name[name], name, seed)
        lines["train"] += [f"{file} {label}" for file in train]
        lines["test"] += [f"{file} {label}" for file in test]
    order = splits.shuffled(len(others), "public files", seed)[:public]
    lines["public"] = [others[i] for i in sorted(order.tolist())]
    return {name: _write(data_root() / out / f"{name}.txt", rows) for name, rows in lines.items() if rows}


def _require(found: int, wanted: int, field: str, what: str) -> None:
    """UserError unless there are as many of something as wanted."""
    if not 0 <= wanted <= found:
        raise UserError(f"{field}: expected {wanted} {what}, found {found}; ask for what there is")


def _tenth(files: Sequence[str], name: str, seed: int) -> tuple[list[str], list[str]]:
    """(train, test) of one identity's files, each in their own order; at least one is held out."""
    held_out = max(1, math.floor(len(files) / 10 + 0.5))
    test = set(splits.shuffled(len(files), "test files", name, seed)[:held_out].tolist())
    return [f for i, f in enumerate(files) if i not in test], [files[i] for i in sorted(test)]


def _write(path: Path, lines: Sequence[str]) -> Path:
    """Write a list; UserError where another one lies there."""
    content = "".join(f"{line}\n" for line in lines)
    if path.exists() and _text(path) != content:
        raise UserError(f"{path}: expected no file or the same list, found another; remove it or choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(content, encoding="utf-8")
    return draft.replace(path)

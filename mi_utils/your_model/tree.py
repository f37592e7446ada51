"""The attacker's public images: every image file under a folder, whatever its subfolders mean."""

import warnings
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from PIL import Image, UnidentifiedImageError

from mi_utils.data.images import Catalogue, Source, decode_all, files_digest, natural
from mi_utils.errors import UserError


class ImageTree(Source):
    """All images under `path` (absolute), in the order of their names; files of other kinds are passed over."""

    kind: Literal["tree"] = "tree"
    path: Path

    def files(self) -> list[Path]:
        """The image files; UserError where there are none."""
        if not self.path.is_dir():
            raise UserError(f"auxiliary: expected a folder of images, found none at {self.path}; check the path")
        known = Image.registered_extensions()
        found = [p for p in self.path.rglob("*") if p.suffix.lower() in known and p.name[0] != "." and p.is_file()]
        if not found:
            raise UserError(
                f"auxiliary: expected image files in {self.path} or below, found none; put the attacker's public "
                "images there"
            )
        return sorted(found, key=lambda p: natural(p.relative_to(self.path).as_posix()))

    def fingerprint(self) -> str:
        """Digest of names and contents (large sets: names, sizes, dates)."""
        files = self.files()
        return _digest(tuple(files), tuple((p.stat().st_size, p.stat().st_mtime_ns) for p in files), self.path)

    def open(self) -> Catalogue:
        """List the files; all are of one class."""
        files = self.files()
        labels = torch.zeros(len(files), dtype=torch.int64)
        return Catalogue(
            labels,
            ("auxiliary",),
            self.path.name,
            lambda index: decode_all([lambda p=files[i]: (p, str(p)) for i in index.tolist()], self),
            cropped=True,
        )


@lru_cache(maxsize=4)
def _digest(files: tuple[Path, ...], stamps: tuple[tuple[int, int], ...], root: Path) -> str:
    """`files_digest`, once for files of these sizes and dates: many stages ask for the same key."""
    return files_digest(files, root)


def check_sizes(files: list[Path], field: str, resize: bool) -> tuple[int, int]:
    """The common (width, height) in px, of the first file where they differ; UserError for mixed sizes.

    Only headers are read.  `resize`: mixed sizes are meant, and the central square of each is taken.
    """
    first: tuple[int, int] | None = None
    for path in files:
        size = _size(path, field)
        first = first or size
        if size != first and not resize:
            raise UserError(
                f"{field}: expected images of one size, found {files[0].name} with {first[0]}×{first[1]} px and "
                f"{path.name} with {size[0]}×{size[1]} px; set resize: true to take the central square of each"
            )
    return first


def _size(path: Path, field: str) -> tuple[int, int]:
    """Width and height that a file declares."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{field}: {path} has far too many pixels (decompression bomb?); remove it") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        raise UserError(f"{field}: expected an image, {path} cannot be read as one; remove or replace it") from None

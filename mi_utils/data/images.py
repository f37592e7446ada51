"""Images in, tensors out: `ImageSet` is what the rest of the project sees, a `Source` is the recipe of one.

Every source decodes everything up front into one uint8 tensor (N, C, H, W), and fails with one line before
any training where a file is missing, broken or not what the recipe says.  Nothing is ever downloaded.
"""

import hashlib
import io
import json
import os
import pickle
import re
import string
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import psutil
import pyarrow
import pyarrow.parquet
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field
from torch import Tensor

from mi_utils import runtime
from mi_utils.data import splits
from mi_utils.errors import UserError
from mi_utils.stage import Config

SHIPPED = Path(__file__).resolve().parents[2] / "data"  # what comes with the project
DIGEST_LIMIT = 256 * 2**20  # bytes: a larger set of user files is fingerprinted by names, sizes and dates
CHUNK = 4096  # images converted at a time, so that no float copy of a whole set is made
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's "L"
IGNORED_FILES = frozenset({"thumbs.db", "desktop.ini"})


def data_root() -> Path:
    """Where the user's datasets lie: the folder `MI_DATA` names, else the project's `data/`."""
    return Path(os.environ.get("MI_DATA") or SHIPPED)


def to_float(images: UInt8[Tensor, "*n c h w"]) -> Float[Tensor, "*n c h w"]:
    """uint8 0..255 to float32 in [-1, 1]."""
    return images.float().div_(127.5).sub_(1)


def to_uint8(images: Float[Tensor, "*n c h w"]) -> UInt8[Tensor, "*n c h w"]:
    """Float in [-1, 1] to uint8 0..255: rounded, and clipped where it lies outside."""
    return images.detach().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)


def _chunked(images: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """uint8 result of a float computation, done on CHUNK images at a time."""
    parts = [change(part.float()).round_().clamp_(0, 255).to(torch.uint8) for part in images.split(CHUNK)]
    return torch.cat(parts) if parts else images


@dataclass(frozen=True)
class ImageSet:
    """Decoded images (N, C, H, W) uint8 with labels (N,) int64; `classes[label]` is the name of a label.

    A subset keeps the labels and the class names of the whole.  Loaded sets are shared: read only.
    """

    images: UInt8[Tensor, "n c h w"]
    labels: Int[Tensor, " n"]
    classes: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        shape, dtype = tuple(self.images.shape), self.images.dtype
        if dtype != torch.uint8 or len(shape) != 4 or shape[1] not in (1, 3):
            raise UserError(f"{self.name}: expected uint8 images (N, 1 or 3, H, W), found {dtype} {shape}")
        if self.labels.dtype != torch.int64 or self.labels.shape != shape[:1]:
            found = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise UserError(f"{self.name}: expected {shape[0]} int64 labels, found {found}")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            found = f"{int(self.labels.min())}..{int(self.labels.max())}"
            raise UserError(f"{self.name}: expected labels 0..{len(self.classes) - 1}, found {found}")

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set with its tensors on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def take(self, index: Int[Tensor, " m"] | Sequence[int] | slice) -> "ImageSet":
        """The images at these positions, in this order; a boolean mask (N,) works too."""
        index = torch.as_tensor(index, device=self.labels.device) if isinstance(index, list | tuple) else index
        return replace(self, images=self.images[index], labels=self.labels[index])

    def only_classes(self, ids: Iterable[int]) -> "ImageSet":
        """The images of these classes, labels and class names unchanged; UserError for an unknown id."""
        wanted = torch.tensor(checked_classes(ids, self.classes, self.name), device=self.labels.device)
        return self.take(torch.isin(self.labels, wanted))

    def of_class(self, class_id: int) -> "ImageSet":
        """The images of one class."""
        return self.only_classes((class_id,))

    def float(self) -> Float[Tensor, "n c h w"]:
        """All images as float32 in [-1, 1]."""
        return to_float(self.images)

    def sized(self, px: int) -> "ImageSet":
        """Resized to px × px, bilinear with antialiasing."""
        if tuple(self.images.shape[2:]) == (px, px):
            return self
        return replace(self, images=resized(self.images, px))

    def cropped(self, px: int) -> "ImageSet":
        """The central px × px; UserError where an image is smaller."""
        height, width = self.images.shape[2:]
        if min(height, width) < px:
            raise UserError(f"{self.name}: crop={px} is larger than the images ({width}×{height} px)")
        top, left = (height - px) // 2, (width - px) // 2
        return replace(self, images=self.images[:, :, top : top + px, left : left + px])

    def grey(self) -> "ImageSet":
        """One channel: luma of BT.601."""
        if self.images.shape[1] == 1:
            return self
        weight = torch.tensor(LUMA, device=self.images.device).view(1, 3, 1, 1)
        return replace(self, images=_chunked(self.images, lambda x: (x * weight).sum(1, keepdim=True)))

    def rgb(self) -> "ImageSet":
        """Three channels; grey images are repeated."""
        return self if self.images.shape[1] == 3 else replace(self, images=self.images.repeat(1, 3, 1, 1))


def resized(images: UInt8[Tensor, "n c h w"], px: int) -> UInt8[Tensor, "n c px px"]:
    """Bilinear with antialiasing; on a GPU through float, which may differ by one grey level."""
    if images.device.type == "cpu" and len(images):
        return F.interpolate(images, size=(px, px), mode="bilinear", antialias=True)
    return _chunked(images, lambda x: F.interpolate(x, size=(px, px), mode="bilinear", antialias=True))


def checked_classes(ids: Iterable[int], classes: Sequence[str], name: str) -> list[int]:
    """The ids as a list; UserError naming those that the set does not have."""
    wanted = list(ids)
    unknown = sorted({i for i in wanted if not 0 <= i < len(classes)})
    if unknown or not wanted:
        raise UserError(f"classes: {name} has class ids 0..{len(classes) - 1}, found {unknown or 'an empty list'}")
    return wanted


def require_per_class(images: ImageSet, n: int, classes: Iterable[int] | None = None) -> None:
    """UserError unless each of the `classes` (default: all of the set's) has at least n images."""
    counts = torch.bincount(images.labels.cpu(), minlength=len(images.classes)).tolist()
    wanted = range(len(counts)) if classes is None else checked_classes(classes, images.classes, images.name)
    short = [f"{images.classes[i]!r} has {counts[i]}" for i in wanted if counts[i] < n]
    if short:
        more = f" and {len(short) - 3} more classes" if len(short) > 3 else ""
        raise UserError(f"{images.name}: expected at least {n} images per class, found: {', '.join(short[:3])}{more}")


# ---------------------------------------------------------------- files


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key in which runs of digits count as numbers: 2 before 10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _mode(image: Image.Image, path: str) -> Literal["L", "RGB"]:
    """Grey or colour, by what the file holds; UserError for more than 8 bits a channel."""
    if image.mode in ("1", "L", "LA"):
        return "L"
    if image.mode in ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"):
        return "RGB"
    raise UserError(f"{path}: expected an 8-bit grey or colour image, found mode {image.mode}; convert the file")


def decode(file: Path | object, name: str, size: int | None, channels: int | None, crop: int | None) -> np.ndarray:
    """(C, H, W) uint8 of one image file (a path or a binary stream); UserError naming the file.

    Turned as its EXIF tag says.  `crop`: central square in pixels; with `size`, a central square is cut in
    any case, so that nothing is stretched; then bilinear with antialiasing.  `channels` None: as it is.
    """
    try:
        with Image.open(file) as opened:
            mode = _mode(opened, name) if channels is None else {1: "L", 3: "RGB"}[channels]
            image = ImageOps.exif_transpose(opened).convert(mode)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{name}: far too many pixels (decompression bomb?); remove or shrink the file") from None
    except UnidentifiedImageError:
        raise UserError(f"{name}: expected an image, found something else; remove the file") from None
    except (OSError, SyntaxError, ValueError, EOFError) as problem:
        if isinstance(problem, UserError):
            raise
        raise UserError(f"{name}: expected a whole image, but it cannot be read ({problem})") from None
    side = crop or (min(image.size) if size else None)
    if side is not None:
        if side > min(image.size):
            raise UserError(f"{name}: crop={side} is larger than the image ({image.width}×{image.height} px)")
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if size and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.array(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def decode_all(files: Sequence[Callable[[], tuple[object, str]]], source: "Source") -> UInt8[Tensor, "n c h w"]:
    """One tensor of all files; an entry opens a file and names it.  UserError for unlike sizes or kinds."""

    def one(opener: Callable[[], tuple[object, str]]) -> np.ndarray:
        file, name = opener()
        return decode(file, name, source.size, source.channels, source.crop)

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        first = one(files[0])
        require_memory(len(files), first.size, source)
        out = np.empty((len(files), *first.shape), np.uint8)
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            for row, pixels in enumerate(pool.map(one, files)):
                if pixels.shape != first.shape:
                    found, expected = _shape(pixels), f"{_shape(first)} as in {files[0]()[1]}"
                    raise UserError(f"{files[row]()[1]}: expected {expected}, found {found}; set `size` and `channels`")
                out[row] = pixels
    return torch.from_numpy(out)


def _shape(pixels: np.ndarray) -> str:
    """An image's shape in words."""
    return f"{pixels.shape[2]}×{pixels.shape[1]} px with {pixels.shape[0]} channel(s)"


def require_memory(count: int, bytes_each: int, source: "Source") -> None:
    """UserError where the decoded set would not fit in 80 % of the memory that is free now."""
    need, free = count * bytes_each, psutil.virtual_memory().available
    if need > 0.8 * free:
        raise UserError(
            f"{type(source).__name__}: {count} images of {bytes_each} bytes need {need / 2**30:.1f} GiB, "
            f"{free / 2**30:.1f} GiB are free; set `size`, `channels=1`, `classes` or `limit`"
        )


@lru_cache(maxsize=4096)
def _file_digest(path: Path, size: int, modified: int) -> str:
    """SHA-256 of a file; size and date are there so that an edited file is read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_digest(files: Sequence[Path], base: Path) -> str:
    """What a key knows of user files: contents, or (above DIGEST_LIMIT in all) names, sizes and dates.

    Names are relative to `base`, so that a key does not depend on where the data lie.
    """
    stats = [path.stat() for path in files]
    by_content = sum(stat.st_size for stat in stats) <= DIGEST_LIMIT
    rows = [
        [
            path.relative_to(base).as_posix(),
            _file_digest(path, stat.st_size, stat.st_mtime_ns) if by_content else [stat.st_size, stat.st_mtime_ns],
        ]
        for path, stat in zip(files, stats, strict=True)
    ]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


# ---------------------------------------------------------------- sources


@dataclass(frozen=True)
class Catalogue:
    """What a source offers before anything is chosen: labels (N,), and a way to get images by position."""

    labels: Int[Tensor, " n"]
    classes: tuple[str, ...]
    name: str
    read: Callable[[Int[Tensor, " m"]], UInt8[Tensor, "m c h w"]]
    cropped: bool = False  # whether `read` has already cut and resized


class Source(Config):
    """The recipe of an ImageSet.  Applied in this order: classes, limit, crop, size, channels."""

    size: Annotated[int, Field(ge=1, le=4096)] | None = None  # px a side; None: as they are
    channels: Literal[1, 3] | None = None  # None: as they are
    classes: tuple[int, ...] | None = None  # class ids to keep; labels stay as they are
    limit: Annotated[int, Field(ge=1)] | None = None  # images to keep, drawn at random by `seed`
    crop: Annotated[int, Field(ge=1)] | None = None  # px a side of a central square cut before resizing
    seed: int = 0

    def open(self) -> Catalogue:
        """Check that the data are there and list them."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to open its data")

    def load(self) -> ImageSet:
        """The images, decoded once per process; UserError where they are absent, broken or too large."""
        return _load(self, self.fingerprint(), data_root())


@lru_cache(maxsize=16)
def _load(source: Source, fingerprint: str | None, root: Path) -> ImageSet:
    """`Source.load`; the fingerprint and the root are there so that changed data are loaded again."""
    catalogue = source.open()
    index = torch.arange(len(catalogue.labels))
    if source.classes is not None:
        wanted = torch.tensor(checked_classes(source.classes, catalogue.classes, catalogue.name))
        index = index[torch.isin(catalogue.labels, wanted)]
    if not len(index):
        raise UserError(f"{catalogue.name}: expected at least one image, found none of classes {source.classes}")
    if source.limit is not None:
        index = index[splits.shuffled(len(index), "limit", source.seed)[: source.limit]]
    loaded = ImageSet(catalogue.read(index), catalogue.labels[index], catalogue.classes, catalogue.name)
    if source.crop is not None and not catalogue.cropped:
        loaded = loaded.cropped(source.crop)
    if source.size is not None:
        loaded = loaded.sized(source.size)
    if source.channels is not None:
        loaded = loaded.grey() if source.channels == 1 else loaded.rgb()
    return loaded


@dataclass(frozen=True)
class Known:
    """A torchvision dataset: its folder under the data root, and its files per split."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]


def _idx(prefix: str, test: str) -> dict[str, tuple[str, ...]]:
    """File names of an idx dataset."""
    names = ("images-idx3-ubyte", "labels-idx1-ubyte")
    return {
        "train": tuple(f"{prefix}train-{name}" for name in names),
        "test": tuple(f"{prefix}{test}-{name}" for name in names),
    }


CELEBA_FILES = ("identity_CelebA.txt", "list_eval_partition.txt", "list_attr_celeba.txt")
CELEBA_FILES += ("list_bbox_celeba.txt", "list_landmarks_align_celeba.txt")
KNOWN = {
    "MNIST": Known("MNIST/raw", **_idx("", "t10k")),
    "FashionMNIST": Known("FashionMNIST/raw", **_idx("", "t10k")),
    "EMNIST-letters": Known("EMNIST/raw", **_idx("emnist-letters-", "test")),
    "CIFAR10": Known(
        "cifar-10-batches-py",
        (*(f"data_batch_{i}" for i in range(1, 6)), "batches.meta"),
        ("test_batch", "batches.meta"),
    ),
    "CIFAR100": Known("cifar-100-python", ("train", "meta"), ("test", "meta")),
    "CelebA": Known("celeba", CELEBA_FILES, CELEBA_FILES),
}


class Torchvision(Source):
    """A dataset that torchvision reads, lying under the data root; never downloaded.

    EMNIST-letters: classes a..z (0..25); `orient_fix` undoes the transposition of the published files.
    CelebA: aligned images, one class per identity (label = identity number - 1).
    """

    kind: Literal["torchvision"] = "torchvision"
    name: str = "MNIST"
    split: Literal["train", "test", "all"] = "train"
    orient_fix: bool = True

    def files(self) -> list[Path]:
        """The dataset's files; UserError for an unknown name or a missing file."""
        if self.name not in KNOWN:
            close = get_close_matches(self.name.lower(), [known.lower() for known in KNOWN], 1, 0.5)
            meant = "".join(f"; did you mean {known}?" for known in KNOWN if known.lower() in close)
            raise UserError(f"name: expected one of {', '.join(KNOWN)}, found {self.name!r}{meant}")
        known = KNOWN[self.name]
        names = {"train": known.train, "test": known.test, "all": (*known.train, *known.test)}[self.split]
        paths = [data_root() / known.folder / name for name in dict.fromkeys(names)]
        for path in paths:
            if not path.is_file():
                raise UserError(
                    f"{self.name}: expected the unpacked file {known.folder}/{path.name} in {data_root()}, "
                    "found none; put the dataset there or set MI_DATA to the folder that holds it"
                )
        return paths

    def fingerprint(self) -> str:
        """Digest of the dataset's files (of CelebA: of its annotation files)."""
        return files_digest(self.files(), data_root())

    def open(self) -> Catalogue:
        """List the dataset; UserError where torchvision cannot read it."""
        self.files()
        name = f"{self.name} {self.split}"
        if self.name == "CelebA":
            return _celeba(self, name)
        parts = {"train": (True,), "test": (False,), "all": (True, False)}[self.split]
        read = [_torchvision(self.name, data_root(), train) for train in parts]
        images, labels = (torch.cat([part[i] for part in read]) for i in (0, 1))
        if self.name == "EMNIST-letters" and self.orient_fix:
            images = images.transpose(2, 3).contiguous()
        return Catalogue(labels, read[0][2], name, lambda index: images[index])


def _torchvision(name: str, root: Path, train: bool) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Images (N, C, H, W) uint8, labels (N,) and class names as torchvision reads them."""
    from torchvision import datasets

    options = {"split": "letters"} if name == "EMNIST-letters" else {}
    try:
        found = getattr(datasets, name.split("-")[0])(root, train=train, download=False, **options)
    except (
        RuntimeError,
        ValueError,
        AssertionError,
        OSError,
        EOFError,
        KeyError,
        pickle.UnpicklingError,
    ) as e:
        reason = str(e).split(" You can use")[0].splitlines()[0] if str(e) else type(e).__name__
        raise UserError(
            f"{name}: the files in {root / KNOWN[name].folder} cannot be read ({reason}); "
            "they look truncated or changed, unpack the dataset again"
        ) from None
    images, labels = torch.as_tensor(found.data), torch.as_tensor(found.targets, dtype=torch.int64)
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    if name == "EMNIST-letters":
        return images, labels - 1, tuple(string.ascii_lowercase)
    if name == "MNIST":
        return images, labels, tuple(string.digits)
    return images, labels, tuple(found.classes)


def _celeba(source: Torchvision, name: str) -> Catalogue:
    """CelebA through torchvision's reader of its annotation files; images are decoded later."""
    from torchvision import datasets

    try:
        found = datasets.CelebA(data_root(), split=source.split, target_type="identity", download=False)
    except (RuntimeError, ValueError, OSError) as problem:
        reason = str(problem).split(" You can use")[0]
        raise UserError(
            f"CelebA: {data_root() / 'celeba'} cannot be read ({reason}); expected "
            "img_align_celeba/*.jpg and the five .txt files as published"
        ) from None
    labels = found.identity.flatten().long() - 1
    paths = [data_root() / "celeba" / "img_align_celeba" / file for file in found.filename]
    classes = tuple(str(i + 1) for i in range(int(labels.max()) + 1))
    return Catalogue(
        labels,
        classes,
        name,
        lambda index: _decode_paths([paths[i] for i in index.tolist()], source),
        cropped=True,
    )


def _decode_paths(paths: Sequence[Path], source: Source) -> UInt8[Tensor, "n c h w"]:
    """One tensor of these image files."""
    return decode_all([lambda path=path: (path, str(path)) for path in paths], source)


class Folder(Source):
    """Image files in one subfolder per class; classes are sorted with numbers as numbers (2 before 10).

    `path` is absolute or relative to the data root.
    """

    kind: Literal["folder"] = "folder"
    path: Path

    def listing(self) -> tuple[list[list[Path]], list[str]]:
        """Files of every class, and the classes' names; UserError for a wrong layout."""
        root = data_root() / self.path
        layout = "expected one subfolder per class with image files in it"
        if not root.is_dir():
            raise UserError(f"path: {layout}, found no folder {root}; a relative path starts at MI_DATA")
        names = sorted((p.name for p in root.iterdir() if p.is_dir() and p.name[0] != "."), key=natural)
        if not names:
            raise UserError(f"path: {layout}, found no subfolder in {root}")
        files = [
            sorted(
                (p for p in (root / name).iterdir() if p.name[0] != "." and p.name.lower() not in IGNORED_FILES),
                key=lambda p: natural(p.name),
            )
            for name in names
        ]
        for name, found in zip(names, files, strict=True):
            if not found:
                raise UserError(f"path: {layout}, found nothing in {root / name}; fill or remove the folder")
            nested = next((p for p in found if p.is_dir()), None)
            if nested:
                raise UserError(f"path: {layout}, found a folder inside a class: {nested}")
        return files, names

    def fingerprint(self) -> str:
        """Digest of names and contents (large sets: names, sizes, dates)."""
        files, _ = self.listing()
        return files_digest([path for found in files for path in found], data_root() / self.path)

    def open(self) -> Catalogue:
        """List the files."""
        files, names = self.listing()
        labels = torch.repeat_interleave(torch.arange(len(names)), torch.tensor([len(found) for found in files]))
        paths = [path for found in files for path in found]
        return Catalogue(
            labels,
            tuple(names),
            self.path.name,
            lambda index: _decode_paths([paths[i] for i in index.tolist()], self),
            cropped=True,
        )


class Parquet(Source):
    """Hugging-Face-style Parquet files: an image column {bytes, path} and an integer label column.

    `path`: a pattern, absolute or relative to the data root, in which {split} stands for the split.
    Default: CIFAR-10 as the Hub has it.  Class names come from the files' own metadata where they have any.
    """

    kind: Literal["parquet"] = "parquet"
    path: Path = Path("cifar10/plain_text/{split}-*.parquet")
    split: str = "train"
    image: str = "img"  # column names
    label: str = "label"

    def files(self) -> list[Path]:
        """The matching files in the order of their names; UserError where there are none."""
        pattern = data_root() / str(self.path).replace("{split}", self.split)
        found = sorted(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))), key=lambda p: p.name)
        if not found:
            raise UserError(f"path: expected Parquet files {pattern}, found none; a relative path starts at MI_DATA")
        return found

    def fingerprint(self) -> str:
        """Digest of the files."""
        found = self.files()
        return files_digest(found, found[0].parent)

    def open(self) -> Catalogue:
        """Read the labels; images are decoded later."""
        files = self.files()
        tables = [self._column(file, self.label) for file in files]
        labels = torch.tensor([value for table in tables for value in table.to_pylist()])
        if labels.dtype != torch.int64:
            raise UserError(f"label: expected integers in column {self.label!r} of {files[0]}, found {labels.dtype}")
        classes = self._class_names(files[0]) or tuple(str(i) for i in range(int(labels.max()) + 1))
        folder = self.path.parent.name if self.path.is_absolute() else self.path.parent.as_posix()
        return Catalogue(
            labels, classes, f"{folder} {self.split}", lambda index: self._read(files, index), cropped=True
        )

    def _column(self, file: Path, column: str) -> pyarrow.ChunkedArray:
        """One column of one file; UserError where the file is broken or has no such column."""
        try:
            names = pyarrow.parquet.read_schema(file).names
            if column not in names:
                raise UserError(f"column {column!r}: {file} has {', '.join(names)}; set `image` and `label`")
            return pyarrow.parquet.read_table(file, columns=[column]).column(column)
        except (pyarrow.ArrowException, OSError) as problem:
            reason = str(problem).splitlines()[0]
            raise UserError(f"{file}: expected a whole Parquet file, but it cannot be read ({reason})") from None

    def _class_names(self, file: Path) -> tuple[str, ...]:
        """Names of the label column's classes in the Hub's metadata; empty where there are none."""
        metadata = pyarrow.parquet.read_schema(file).metadata or {}
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        return tuple(features.get(self.label, {}).get("names", ()))

    def _read(self, files: list[Path], index: Int[Tensor, " m"]) -> UInt8[Tensor, "m c h w"]:
        """Decode the chosen rows, counted over all files."""
        rows = pyarrow.chunked_array([chunk for file in files for chunk in self._column(file, self.image).chunks]).take(
            pyarrow.array(index.numpy())
        )
        stored = [(row or {}).get("bytes") for row in rows.to_pylist()]
        if None in stored:
            row = int(index[stored.index(None)])
            raise UserError(f"{files[0]}: row {row} of column {self.image!r} holds no image bytes")
        names = [f"{files[0].parent.name}/{self.split} row {i}" for i in index.tolist()]
        return decode_all(
            [lambda b=b, name=name: (io.BytesIO(b), name) for b, name in zip(stored, names, strict=True)],
            self,
        )


class UciDigits(Source):
    """UCI optical digits of scikit-learn: 1,797 images of 8×8 px; 1,347 train and 450 test, stratified."""

    kind: Literal["uci-digits"] = "uci-digits"
    split: Literal["train", "test", "all"] = "train"
    TEST: ClassVar[int] = 450

    def fingerprint(self) -> str:
        """Digest of the pixels and labels that scikit-learn ships."""
        images, labels = _uci_digits()
        return hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()

    def open(self) -> Catalogue:
        """Grey levels 0..16 as 0..255."""
        images, labels = _uci_digits()
        train, test = splits.stratified(labels, self.TEST, "uci-digits")
        index = {"train": train, "test": test, "all": torch.arange(len(labels))}[self.split]
        images = images[index]
        return Catalogue(labels[index], tuple(string.digits), f"UCI digits {self.split}", lambda chosen: images[chosen])


@cache
def _uci_digits() -> tuple[UInt8[Tensor, "n 1 8 8"], Int[Tensor, " n"]]:
    """All UCI digits as uint8 (1797, 1, 8, 8) and their labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.from_numpy(found.images).mul(255 / 16).round().to(torch.uint8)[:, None]
    return images, torch.from_numpy(found.target).long()


class Scenes(Source):
    """`count` square pieces of the two photographs that come with scikit-learn: natural images of one class.

    Each piece is `side` px of the 640×427 photograph, at a random place.  Photographs: CC BY 2.0.
    """

    kind: Literal["scenes"] = "scenes"
    count: Annotated[int, Field(ge=1)] = 2000
    side: Annotated[int, Field(ge=8, le=400)] = 64

    def open(self) -> Catalogue:
        """Cut the pieces."""
        photographs = _photographs()
        generator = runtime.generator("scenes", self.seed)
        which = torch.randint(len(photographs), (self.count,), generator=generator)
        height, width = photographs.shape[2:]
        span = torch.arange(self.side)
        top = torch.randint(height - self.side + 1, (self.count, 1), generator=generator) + span
        left = torch.randint(width - self.side + 1, (self.count, 1), generator=generator) + span
        images = photographs[which[:, None, None], :, top[:, :, None], left[:, None, :]].permute(0, 3, 1, 2)
        labels = torch.zeros(self.count, dtype=torch.int64)
        return Catalogue(labels, ("scene",), "photographs of scikit-learn", lambda index: images[index])


@cache
def _photographs() -> UInt8[Tensor, "2 3 427 640"]:
    """The temple and the flower, (2, 3, 427, 640)."""
    from sklearn.datasets import load_sample_images

    found = [torch.from_numpy(image.copy()) for image in load_sample_images().images]
    return torch.stack(found).permute(0, 3, 1, 2)


class Shuffled(Source):
    """Another source with its patches or its pixels shuffled within every image: same statistics, no shape.

    `patch`: px a side of a patch, must divide the images' sides; pixels are shuffled as patches of 1 px.
    """

    kind: Literal["shuffled"] = "shuffled"
    source: "AnySource"
    of: Literal["patches", "pixels"] = "patches"
    patch: Annotated[int, Field(ge=1)] = 8

    def fingerprint(self) -> str | None:
        """Of the source that is shuffled."""
        return self.source.fingerprint()

    def open(self) -> Catalogue:
        """Shuffle every image by a permutation of its own."""
        base = self.source.load()
        patch = 1 if self.of == "pixels" else self.patch
        height, width = base.images.shape[2:]
        if height % patch or width % patch:
            raise UserError(f"patch: expected a divisor of the image's sides ({width}×{height} px), found {patch}")
        generator = runtime.generator("shuffled source", self.seed)
        images = torch.cat([shuffled_patches(part, patch, generator) for part in base.images.split(CHUNK)])
        name = f"{base.name}, {self.of} shuffled"
        return Catalogue(base.labels, base.classes, name, lambda index: images[index])


def shuffled_patches(images: Tensor, patch: int, generator: torch.Generator) -> Tensor:
    """(N, C, H, W) with the patch × patch squares of each image in a random order of its own."""
    n, c, height, width = images.shape
    rows, columns = height // patch, width // patch
    cut = images.view(n, c, rows, patch, columns, patch).permute(0, 2, 4, 1, 3, 5)
    cut = cut.reshape(n, rows * columns, c * patch * patch)
    order = torch.rand(n, rows * columns, generator=generator).argsort(1)
    cut = cut.gather(1, order[:, :, None].expand_as(cut))
    return cut.view(n, rows, columns, c, patch, patch).permute(0, 3, 1, 4, 2, 5).reshape(n, c, height, width)


class Noise(Source):
    """Noise of one class: `white`, or `1/f` (amplitude over spatial frequency, as in photographs).

    Every image has mean 127.5 and standard deviation 50 before clipping to 0..255.
    """

    kind: Literal["noise"] = "noise"
    spectrum: Literal["white", "1/f"] = "white"
    count: Annotated[int, Field(ge=1)] = 1000
    size: Annotated[int, Field(ge=2, le=4096)] = 32
    channels: Literal[1, 3] = 1

    def open(self) -> Catalogue:
        """Draw the images."""
        generator = runtime.generator("noise", self.spectrum, self.seed)
        require_memory(self.count, 4 * self.channels * self.size**2, self)
        noise = torch.randn(self.count, self.channels, self.size, self.size, generator=generator)
        if self.spectrum == "1/f":
            noise = pink(noise)
        noise = (noise - noise.mean((1, 2, 3), keepdim=True)) / noise.std((1, 2, 3), keepdim=True)
        images = noise.mul_(50).add_(127.5).round_().clamp_(0, 255).to(torch.uint8)
        labels = torch.zeros(self.count, dtype=torch.int64)
        return Catalogue(labels, ("noise",), f"{self.spectrum} noise", lambda index: images[index])


def pink(noise: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """White noise filtered to amplitude 1/|f|, without its mean."""
    height, width = noise.shape[2:]
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])
    amplitude = torch.where(frequency > 0, 1 / frequency.clamp_min(1e-9), 0.0)
    return torch.fft.irfft2(torch.fft.rfft2(noise) * amplitude, s=(height, width))

"""Images as other programs save them: any usual layout and range of an array, to uint8 (N, C, H, W) once.

Nothing is executed (no pickles), and what a file declares is checked against its own size and the free memory
before anything is unpacked.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from mi_utils.data.images import CHUNK, to_uint8
from mi_utils.errors import UserError

KEYS = ("images", "labels", "seeds")
SLACK = 1e-4  # how far rounding may carry a value out of its range
LEAST_DARK = -0.5  # the darkest value of images in [-1, 1] lies below this; otherwise the range is in doubt


@dataclass(frozen=True)
class Arrays:
    """Images uint8 (N, C, H, W), int64 labels and seeds (N,) where there are any, and how the values were read."""

    images: UInt8[Tensor, "n c h w"]
    labels: Int[Tensor, " n"] | None
    seeds: Int[Tensor, " n"] | None
    took: str


def from_arrays(images: object, labels: object | None, name: str, seeds: object | None = None) -> Arrays:
    """Tensors or numpy arrays: images as `pixels` wants them, labels and seeds whole numbers (N,)."""
    read, took = pixels(images, name)
    ids = [
        None if x is None else numbers(x, len(read), f"{name}: {key}")
        for key, x in (("labels", labels), ("seeds", seeds))
    ]
    return Arrays(read, ids[0], ids[1], took)


def read_npz(path: Path) -> Arrays:
    """An npz with `images`, and `labels` and `seeds` where it has them; UserError where it is not safe to read."""
    sizes = declared(path)
    if "images" not in sizes:
        raise UserError(f"{path}: expected an array 'images', found {', '.join(sizes) or 'nothing'}; name it so")
    wanted = [key for key in KEYS if key in sizes]
    require_free(path, sum(sizes[key] for key in wanted))
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {key: file[key] for key in wanted}
    except (ValueError, OSError, zipfile.BadZipFile) as problem:
        raise _broken(path, problem) from None
    return from_arrays(found["images"], found.get("labels"), str(path), found.get("seeds"))


def declared(path: Path) -> dict[str, int]:
    """Array name -> bytes it unpacks to, read from the headers alone.

    UserError for a broken file, Python objects, or a header that promises other than the file holds (a zip bomb
    declares a small file and a huge array, or the reverse).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = [part for part in archive.infolist() if part.filename.endswith(".npy")]
            return {part.filename.removesuffix(".npy"): _bytes(path, archive, part) for part in parts}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as problem:
        if isinstance(problem, UserError):
            raise
        raise _broken(path, problem) from None


def _bytes(path: Path, archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> int:
    """Bytes of one member, once its header agrees with them."""
    with archive.open(part) as file:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in header:
            raise ValueError(f"format {version} of {part.filename}")
        shape, _, dtype = header[version](file)
        held = part.file_size - file.tell()
    if dtype.hasobject:
        raise UserError(f"{path}: {part.filename} holds Python objects, which are never loaded; save plain arrays")
    promised = dtype.itemsize * int(np.prod(shape, dtype=object))
    if promised != held:
        raise UserError(f"{path}: {part.filename} promises {promised} bytes and holds {held}; save the file again")
    return promised


def require_free(path: Path, need: int) -> None:
    """UserError where `need` bytes and their copy as uint8 would not fit in 80 % of the memory that is free now."""
    free = psutil.virtual_memory().available
    if 2 * need > 0.8 * free:
        raise UserError(
            f"{path}: unpacks to {need / 2**30:.1f} GiB, found {free / 2**30:.1f} GiB of memory free; "
            "save uint8 images, or fewer"
        )


def _broken(path: Path, problem: Exception) -> UserError:
    """A file that is not a whole npz."""
    reason = (str(problem) or type(problem).__name__).splitlines()[0]
    return UserError(f"{path}: expected a whole npz of plain arrays, but it cannot be read ({reason}); save it again")


def numbers(x: object, count: int, name: str) -> Int[Tensor, " n"]:
    """`x` as int64 (N,); UserError for another length or for anything but whole numbers."""
    ids = _tensor(x, name)
    if ids.ndim != 1 or len(ids) != count or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise UserError(
            f"{name}: expected {count} integers, found {ids.dtype} of shape {tuple(ids.shape)}; one an image"
        )
    return ids.cpu().long()


def pixels(x: object, name: str) -> tuple[UInt8[Tensor, "n c h w"], str]:
    """uint8 (N, C, H, W) of (N,H,W), (N,H,W,C) or (N,C,H,W) in uint8 or float; and the range it was taken for.

    Float images are [0, 1] where nothing is negative and [-1, 1] where something is below -.5; between the two the
    range is in doubt, and outside it is wrong (UserError).
    """
    found = _channels_first(_tensor(x, name), name)
    if len(found) == 0 or 0 in found.shape:
        raise UserError(f"{name}: expected at least 1 image, found shape {tuple(found.shape)}; check the file")
    if found.dtype == torch.uint8:
        return found.cpu().contiguous(), "uint8"
    if not found.is_floating_point():
        raise UserError(f"{name}: expected uint8 or float images, found {found.dtype}; convert 0..255 to uint8")
    parts = found.split(CHUNK)
    bad = sum(int((~torch.isfinite(part)).sum()) for part in parts)
    if bad:
        raise UserError(f"{name}: expected finite pixels, found {bad} NaN or infinite; drop those images")
    low, high = float(min(part.min() for part in parts)), float(max(part.max() for part in parts))
    signed = _signed(low, high, name)
    convert = to_uint8 if signed else lambda part: to_uint8(2 * part - 1)
    return torch.cat(
        [convert(part.float().cpu()) for part in parts]
    ), "float in [-1, 1]" if signed else "float in [0, 1]"


def _signed(low: float, high: float, name: str) -> bool:
    """True for [-1, 1], False for [0, 1]; UserError where the values tell neither."""
    found = f"found {low:.4g}..{high:.4g}"
    if low < -1 - SLACK or high > 1 + SLACK:
        raise UserError(
            f"{name}: expected float images in [0, 1] or [-1, 1], {found}; clip them, or save 0..255 as uint8"
        )
    if low == high or -SLACK > low > LEAST_DARK:
        raise UserError(f"{name}: float images may be in [0, 1] or [-1, 1], {found} tells neither; save uint8 images")
    return low < 0 and low <= LEAST_DARK


def _channels_first(x: Tensor, name: str) -> Tensor:
    """(N, C, H, W) with C of 1 or 3."""
    if x.ndim == 3:
        return x[:, None]
    if x.ndim == 4:
        first, last = x.shape[1] in (1, 3), x.shape[3] in (1, 3)
        if first and last:
            raise UserError(f"{name}: shape {tuple(x.shape)} may be (N,C,H,W) or (N,H,W,C); save it as (N,C,H,W) uint8")
        if first or last:
            return x if first else x.permute(0, 3, 1, 2)
    raise UserError(f"{name}: expected (N,H,W), (N,H,W,C) or (N,C,H,W) with 1 or 3 channels, found {tuple(x.shape)}")


def _tensor(x: object, name: str) -> Tensor:
    """A tensor of what a user passed; UserError for anything that is no array of numbers."""
    try:
        return x.detach() if isinstance(x, Tensor) else torch.as_tensor(np.require(x, requirements=["C", "W"]))
    except (TypeError, ValueError) as problem:
        raise UserError(f"{name}: expected an array of numbers, found {type(x).__name__} ({problem})") from None

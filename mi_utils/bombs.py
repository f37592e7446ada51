"""Files that would unpack to far more than they are, found before anything reads them.

torch and pyarrow unpack what a file declares; here it is compared with the file's size or with the free memory.
"""

import io
import pickletools
import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import psutil
import pyarrow.compute
import pyarrow.parquet

from mi_utils.errors import UserError

MOST_CLASSES = 1_000_000
BATCH_BYTES = 256 << 20
_ZIP = b"PK\x03\x04"


def check_free(need: int, name: str) -> None:
    """UserError where `need` bytes do not fit in 80 % of the memory that is free now."""
    free = psutil.virtual_memory().available
    if need > 0.8 * free:
        raise UserError(
            f"{name}: unpacks to {need / 2**30:.1f} GiB or more, found {free / 2**30:.1f} GiB of memory free; split it"
        )


def check_weights(path: Path) -> None:
    """UserError for a .pt, .pth or .pkl file that unpacks to more than it is; other files pass."""
    if path.suffix not in (".pt", ".pth", ".pkl") or not path.is_file():
        return
    with path.open("rb") as file:
        packed = file.read(4) == _ZIP
        file.seek(0)
        if packed:
            _check_zip(file, path)
        elif path.suffix == ".pkl":
            _check_pickle(file, path)


def _check_zip(file: BinaryIO, path: Path) -> None:
    """torch.save compresses nothing, so that members are never larger than the file."""
    try:
        with zipfile.ZipFile(file) as archive:
            total = sum(part.file_size for part in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # no whole zip: its reader says so
    size = file.seek(0, io.SEEK_END)
    if total > size:
        raise UserError(
            f"{path}: expected tensors as torch.save writes them, found a zip of {size} bytes that unpacks to {total}; "
            "save it again"
        )


def _check_pickle(file: BinaryIO, path: Path) -> None:
    """The memo has a place for each number up to the largest that is used; torch's storages may be zips inside."""
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > count + 1:
                raise UserError(f"{path}: its memo has number {argument} after {count} values; it was altered")
            if isinstance(argument, bytes | bytearray) and argument[:4] == _ZIP:
                _check_zip(io.BytesIO(argument), path)
    except UserError:
        raise
    except (ValueError, LookupError, ArithmeticError, MemoryError, OSError):
        return  # no whole pickle: its reader says so


def check_parquet(files: Sequence[Path], image: str, label: str, name: str) -> None:
    """UserError for what unpacks to more than the free memory, and for labels that are no class ids.

    A dictionary or run-length code makes a few bytes millions of rows, so that rows are counted batch by batch.
    """
    total = 0
    for path in files:
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                total += _check_rows(file, image, label, name, total)
        except (pyarrow.ArrowException, OSError):
            return  # no whole Parquet file: its reader says so


def _check_rows(file: pyarrow.parquet.ParquetFile, image: str, label: str, name: str, before: int) -> int:
    """Bytes that the two columns of one file unpack to."""
    if not {image, label} <= set(file.schema_arrow.names):
        return 0  # its reader names the columns
    check_free(before + 16 * file.metadata.num_rows, name)
    total = 0
    for batch in file.iter_batches(_batch(file), columns=[image, label]):
        total += batch.nbytes
        check_free(before + total, name)
        _check_labels(batch.column(label), name)
    return total


def _batch(file: pyarrow.parquet.ParquetFile) -> int:
    """Rows read at a time: one value is at most as large as its row group."""
    groups = [file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)]
    return max(1, min(64, BATCH_BYTES // max(1, *groups, 1)))


def _check_labels(labels: pyarrow.Array, name: str) -> None:
    if not pyarrow.types.is_integer(labels.type) or labels.null_count:
        raise UserError(f"{name}: expected an integer label in every row, found {labels.type} or none; mend the column")
    low, high = (pyarrow.compute.min_max(labels)[end].as_py() for end in ("min", "max"))
    if len(labels) and not 0 <= low <= high < MOST_CLASSES:
        raise UserError(
            f"{name}: expected labels 0..{MOST_CLASSES - 1}, found {low}..{high}; number the classes from 0"
        )


def check_plain(folder: Path, name: str) -> None:
    """UserError for anything in an image folder that is no file or folder: a device or pipe has no end."""
    for path in (*folder.iterdir(), *(p for sub in folder.iterdir() if sub.is_dir() for p in sub.iterdir())):
        try:
            mode = path.stat().st_mode
        except OSError as problem:
            raise UserError(f"{name}: {path} cannot be read ({problem.strerror}); remove it") from None
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise UserError(f"{name}: expected image files, found {path}, which is a device or pipe; remove it")

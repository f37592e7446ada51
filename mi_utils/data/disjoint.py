"""Whether an attacker's public images are other classes and other images than the target's private ones.

Decided by name wherever the recipes tell; images are loaded and compared only where two sets of a user's own files
might hold copies of each other.  What no recipe tells: the same person, or the same digit, in two data sets.
"""

import hashlib
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from mi_utils.data import (
    AnySource,
    Faces,
    Folder,
    HangulSheet,
    ImageSet,
    LatinSheet,
    Listed,
    Noise,
    Parquet,
    Shuffled,
    Subset,
    Torchvision,
)
from mi_utils.data.glyphs import LETTERS
from mi_utils.data.images import data_root
from mi_utils.errors import UserError

Ids = frozenset[int] | None  # None: all of them
BY_FILE = (Folder, Listed)
OF_THE_USER = (Torchvision, Folder, Parquet, Listed)


def check_disjoint(private: AnySource, public: AnySource, field: str) -> None:
    """UserError, naming `field`, where the two sources share a class, an identity, a file or an image.

    Sources of one data set may share no class, whatever their splits; of the user's own data sets no file and no
    decoded image may be in both.  A shuffled source counts as what it shuffles.
    """
    (one, its), (other, theirs) = unwrapped(private, None), unwrapped(public, None)
    shared = _shared(one, its, other, theirs)
    if shared is None and _may_be_copies(one, other):
        shared = _copies(private.load(), public.load())
    if shared:
        raise UserError(
            f"{field}: expected other classes and images than the target's private ones, found {shared} in both; "
            "take other classes, identities or files"
        )


def unwrapped(source: AnySource, ids: Ids) -> tuple[AnySource, Ids]:
    """The source under subsets and shuffles, and which of its labels are left of the labels `ids` of `source`."""
    if source.classes is not None:
        ids = frozenset(i for i in source.classes if ids is None or i in ids)
    if isinstance(source, Subset):
        return unwrapped(source.source, frozenset(c for i, c in enumerate(source.keep) if ids is None or i in ids))
    if isinstance(source, Shuffled):
        return unwrapped(source.source, ids)
    return source, ids


def _shared(one: AnySource, its: Ids, other: AnySource, theirs: Ids) -> str | None:
    """What two sources have in common by their recipes, in words; None for nothing."""
    if isinstance(one, BY_FILE) and isinstance(other, BY_FILE):
        common = _paths(one, its) & _paths(other, theirs)
        return f"{len(common)} files, such as {min(common).name}" if common else None
    if data_set(one) != data_set(other) or _parted(one, other):
        return None
    its, theirs = _numbers(one, its), _numbers(other, theirs)
    if its is None or theirs is None:
        rest = theirs if its is None else its
        return f"{'all classes' if rest is None else _listed(rest)} of {data_set(one)}" if rest != frozenset() else None
    common = its & theirs
    return f"{_listed(common)} of {data_set(one)}" if common else None


def _listed(ids: frozenset[int]) -> str:
    """The first few ids in words."""
    first = ", ".join(map(str, sorted(ids)[:5]))
    return f"class{'es' * (len(ids) > 1)} {first}{' …' * (len(ids) > 5)}"


def data_set(source: AnySource) -> str:
    """The data set that a source draws from: two sources with the same one number their classes alike."""
    if isinstance(source, Torchvision):
        return source.name
    if isinstance(source, Faces):
        return f"faces (factors {source.factors}, seed {source.seed})"
    if isinstance(source, Noise):
        return f"{source.spectrum} noise of {source.size} px (seed {source.seed})"
    if isinstance(source, Parquet | Folder | Listed):
        return str(data_root() / source.path)
    return source.kind


def _parted(one: AnySource, other: AnySource) -> bool:
    """CelebA's published splits are of different identities."""
    return (
        isinstance(one, Torchvision)
        and isinstance(other, Torchvision)
        and one.name == "CelebA"
        and {one.split, other.split} == {"train", "test"}
    )


def _numbers(source: AnySource, ids: Ids) -> Ids:
    """Labels of a source as class numbers of its data set, which symbols, syllables and identities select from."""
    if isinstance(source, Faces):
        return frozenset(source.first + i for i in (range(source.identities) if ids is None else ids))
    if isinstance(source, LatinSheet):
        count = {"letters": LETTERS, "digits": 10, "all": LETTERS + 10}[source.symbols]
        first = LETTERS if source.symbols == "digits" else 0
        return frozenset(first + i for i in (range(count) if ids is None else ids))
    if isinstance(source, HangulSheet):
        return frozenset(i for i in source.chosen() if ids is None or i in ids)
    return ids


def _paths(source: Folder | Listed, ids: Ids) -> frozenset[Path]:
    """The image files of these labels, by their place on the disk."""
    root = data_root() / source.path
    if isinstance(source, Listed):
        names = [name for name, label in source.rows() if ids is None or label in ids]
    else:
        files, _ = source.listing()
        names = [path.relative_to(root) for i, found in enumerate(files) if ids is None or i in ids for path in found]
    return frozenset(root.resolve() / name for name in names)


def _may_be_copies(one: AnySource, other: AnySource) -> bool:
    """Whether one set of files may hold images of the other: not two of torchvision's, nor two classes of one set."""
    if isinstance(one, Torchvision) and isinstance(other, Torchvision) or data_set(one) == data_set(other):
        return False
    return isinstance(one, OF_THE_USER) or isinstance(other, OF_THE_USER)


def _copies(one: ImageSet, other: ImageSet) -> str | None:
    """Identical images, or class names that say something (digits and numbers do not), in words; None for neither."""
    names = {c for c in _present(one) & _present(other) if not c.isdecimal()}
    if names:
        return f"class {min(names)!r}"
    copies = len(_digests(one.images) & _digests(other.images))
    return f"{copies} identical images" if copies else None


def _present(images: ImageSet) -> set[str]:
    """Names of the classes that have images."""
    return {images.classes[i] for i in images.labels.unique().tolist()}


def _digests(images: UInt8[Tensor, "n c h w"]) -> set[bytes]:
    """One digest of every image."""
    return {hashlib.blake2b(row, digest_size=16).digest() for row in images.flatten(1).numpy()}

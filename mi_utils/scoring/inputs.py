"""What `score` is given, read into tensors: folders, npz and Parquet files, recipes of data sets, tensors."""

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pydantic
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from mi_utils import bombs, plain_yaml
from mi_utils.data import AnySource, Folder, ImageSet, Parquet, Source
from mi_utils.data.arrays import Arrays, from_arrays, read_npz
from mi_utils.data.images import IGNORED_FILES, data_root, decode_all, natural
from mi_utils.errors import UserError, one_line, understood

LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")
KINDS = "a folder, an .npz or .parquet file, stored:<paper>/<attack>, a YAML mapping {kind: ...}, or (images, labels)"


@dataclass(frozen=True)
class Labelled:
    """Images uint8 (N, C, H, W) with class ids (N,), or without where none are needed.

    names: class id -> name, where the set gives its classes names.  typed: how the user named the set.  files: one
    name per image, where each has one.  took: what the pixel values were taken for.
    """

    images: UInt8[Tensor, "n c h w"]
    labels: Int[Tensor, " n"] | None
    names: dict[int, str] | None
    typed: str
    files: tuple[str, ...] | None = None
    took: str = "uint8"

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Int[Tensor, " m"]) -> "Labelled":
        """The images at these rows."""
        return replace(
            self,
            images=self.images[rows],
            labels=None if self.labels is None else self.labels[rows],
            files=None if self.files is None else tuple(self.files[i] for i in rows.tolist()),
        )


Given = str | Path | ImageSet | Labelled | tuple[object, object]


def read(given: Given, what: str, *, labelled: bool = True, size: int | None = None) -> list[Labelled]:
    """One set, or one a seed where an npz names several; UserError for anything that cannot be read.

    `what` names the argument in messages.  `size` is asked of files that are decoded here, as they may differ.
    """
    named = plain_yaml.shown(str(given)) if isinstance(given, str | Path) else f"a {type(given).__name__}"
    with understood(f"{what}: {named}", KINDS):
        found = _read(given, what, labelled, size)
    for part in found:
        if labelled and part.labels is None:
            raise UserError(f"{what}: expected `labels` beside the images of {part.typed}, found none; add class ids")
    return found


def _read(given: Given, what: str, labelled: bool, size: int | None) -> list[Labelled]:
    if isinstance(given, Labelled):
        return [given]
    if isinstance(given, ImageSet):
        return [of_set(given, given.name)]
    if isinstance(given, tuple) and len(given) == 2:
        arrays = from_arrays(*given, what)
        return _by_seed(arrays, f"tensors of {len(arrays.images)} images")
    if not isinstance(given, str | Path):
        raise UserError(f"{what}: expected {KINDS}, found {type(given).__name__}")
    text = str(given)
    if text.lstrip().startswith("{"):
        return [of_set(loaded(source(text, what), what), text)]
    path = Path(text).expanduser()
    if path.is_dir():
        return [_folder(path.absolute(), text, labelled, size)]
    if path.suffix == ".parquet":
        literal = Path(glob.escape(str(path.absolute()))) if path.is_file() else path.absolute()
        return [_parquet(literal, text, what, size)]
    if not path.is_file():
        raise UserError(f"{what}: expected {KINDS}, found no file or folder {text}")
    if path.suffix == ".npz":
        return _by_seed(read_npz(path), text)
    raise UserError(f"{what}: expected {KINDS}, found {text}; save it as .npz with `images` and `labels`")


def loaded(recipe: Source, what: str) -> ImageSet:
    """A data set of the project, once the files that it reads are no bombs."""
    for part in (recipe, *nested(recipe)):
        if isinstance(part, Folder) and (data_root() / part.path).is_dir():
            bombs.check_plain(data_root() / part.path, what)
        elif isinstance(part, Parquet):
            bombs.check_parquet(part.files(), part.image, part.label, what)
    return recipe.load()


def nested(recipe: Source) -> Iterator[Source]:
    """The sources inside a source."""
    for name in type(recipe).model_fields:
        if isinstance(inner := getattr(recipe, name), Source):
            yield inner
            yield from nested(inner)


def of_set(data: ImageSet, typed: str) -> Labelled:
    """A loaded data set."""
    return Labelled(data.images, data.labels, dict(enumerate(data.classes)), typed)


def source(text: str, what: str) -> AnySource:
    """A data set of the project, given as a YAML mapping such as {kind: torchvision, name: MNIST}."""
    fields = plain_yaml.load(text, what, "{kind: folder, path: x}")
    try:
        return pydantic.TypeAdapter(AnySource).validate_python(fields)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(one_line(f"{what}: {where}: {first['msg']}; found {plain_yaml.shown(text)}")) from None


def _by_seed(arrays: Arrays, typed: str) -> list[Labelled]:
    """One set for every seed that the arrays name, ascending."""
    whole = Labelled(arrays.images, arrays.labels, None, typed, took=arrays.took)
    if arrays.seeds is None:
        return [whole]
    rows = [(arrays.seeds == seed).nonzero().squeeze(1) for seed in arrays.seeds.unique()]
    return [whole.take(part) for part in rows]


def _folder(path: Path, typed: str, labelled: bool, size: int | None) -> Labelled:
    """One subfolder per class, or image files alone where no labels are needed."""
    bombs.check_plain(path, typed)
    recipe = Folder(path=path, size=size, channels=3)
    if not labelled and not any(part.is_dir() for part in path.iterdir()):
        files = [p for p in path.iterdir() if p.name[0] != "." and p.name.lower() not in IGNORED_FILES]
        files = sorted(files, key=lambda p: natural(p.name))
        if not files:
            raise UserError(f"{typed}: expected image files or one subfolder per class, found nothing")
        images = decode_all([lambda p=p: (p, str(p)) for p in files], recipe)
        return Labelled(images, None, None, typed, tuple(p.name for p in files))
    data = recipe.load()
    listing, names = recipe.listing()
    files = tuple(p.relative_to(path).as_posix() for part in listing for p in part)
    ids = class_ids(names, typed)
    labels = torch.tensor(ids)[data.labels]
    return Labelled(data.images, labels, dict(zip(ids, names, strict=True)), typed, files)


def class_ids(names: Sequence[str], typed: str) -> list[int]:
    """Ids of class folders: the numbers themselves where every name is one, else places in natural order."""
    if not all(name.isdecimal() for name in names):
        return list(range(len(names)))
    ids = [int(name) for name in names]
    twice = sorted({i for i in ids if ids.count(i) > 1}) if len(set(ids)) < len(ids) else []
    if twice:
        raise UserError(f"{typed}: expected one folder per class, found several for {twice}; merge or rename them")
    return ids


def _parquet(path: Path, typed: str, what: str, size: int | None) -> Labelled:
    """Rows of an image column {bytes, path} and an integer label column, whatever they are called."""
    first = Parquet(path=path).files()[0]
    try:
        schema = pyarrow.parquet.read_schema(first)
    except (pyarrow.ArrowException, OSError) as problem:
        raise UserError(f"{what}: {typed} cannot be read as Parquet ({str(problem).splitlines()[0]})") from None
    images = [f.name for f in schema if pyarrow.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    labels = [name for name in LABEL_COLUMNS if name in schema.names]
    if len(images) != 1 or not labels:
        raise UserError(
            f"{what}: expected one image column {{bytes, path}} and one of {', '.join(LABEL_COLUMNS)} in {typed}, "
            f"found {', '.join(schema.names)}; rename the columns"
        )
    recipe = Parquet(path=path, image=images[0], label=labels[0], size=size, channels=3)
    data = loaded(recipe, what)
    named = data.classes != tuple(str(i) for i in range(len(data.classes)))
    return Labelled(data.images, data.labels, dict(enumerate(data.classes)) if named else None, typed)

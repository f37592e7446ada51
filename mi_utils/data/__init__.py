"""Datasets as recipes: `AnySource` is every source that a configuration may name, told apart by `kind`."""

from typing import Annotated

from pydantic import Field

from mi_utils.data.faces import Faces
from mi_utils.data.glyphs import HangulSheet, LatinSheet
from mi_utils.data.images import (
    Folder,
    ImageSet,
    Noise,
    Parquet,
    Scenes,
    Shuffled,
    Source,
    Torchvision,
    UciDigits,
)
from mi_utils.data.listed import Listed
from mi_utils.data.subset import Subset

AnySource = Annotated[
    Torchvision
    | Folder
    | Listed
    | Parquet
    | UciDigits
    | HangulSheet
    | LatinSheet
    | Faces
    | Scenes
    | Shuffled
    | Subset
    | Noise,
    Field(discriminator="kind"),
]
Shuffled.model_rebuild(_types_namespace={"AnySource": AnySource})
Subset.model_rebuild(_types_namespace={"AnySource": AnySource})

__all__ = [
    "AnySource",
    "Faces",
    "Folder",
    "HangulSheet",
    "ImageSet",
    "LatinSheet",
    "Listed",
    "Noise",
    "Parquet",
    "Scenes",
    "Shuffled",
    "Source",
    "Subset",
    "Torchvision",
    "UciDigits",
]

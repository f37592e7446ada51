"""Datasets as recipes: `AnySource` is every source that a configuration may name, told apart by `kind`."""

from typing import Annotated

from pydantic import Field

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

AnySource = Annotated[
    Torchvision | Folder | Parquet | UciDigits | HangulSheet | LatinSheet | Scenes | Shuffled | Noise,
    Field(discriminator="kind"),
]
Shuffled.model_rebuild(_types_namespace={"AnySource": AnySource})

__all__ = [
    "AnySource",
    "Folder",
    "HangulSheet",
    "ImageSet",
    "LatinSheet",
    "Noise",
    "Parquet",
    "Scenes",
    "Shuffled",
    "Source",
    "Torchvision",
    "UciDigits",
]

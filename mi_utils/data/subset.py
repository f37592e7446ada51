"""Some classes of another source, renumbered from 0: the private and the public half of one data set."""

from typing import Annotated, Literal

import torch
from pydantic import Field

from mi_utils.data.images import Catalogue, Source
from mi_utils.errors import UserError


class Subset(Source):
    """The classes `keep` of another source as labels 0..len(keep)-1 in that order; class names stay as they are.

    `Source.classes` keeps the labels of the whole and leaves the others empty; here they are gone.
    """

    kind: Literal["subset"] = "subset"
    source: "AnySource"
    keep: Annotated[tuple[int, ...], Field(min_length=1)]  # class ids of `source`

    def fingerprint(self) -> str | None:
        """Of the source that is subset."""
        return self.source.fingerprint()

    def open(self) -> Catalogue:
        """List the images of the kept classes; UserError for a class that the source lacks or that is named twice."""
        base = self.source.load()
        wrong = sorted({i for i in self.keep if not 0 <= i < len(base.classes) or self.keep.count(i) > 1})
        if wrong:
            raise UserError(
                f"keep: expected class ids of {base.name} (0..{len(base.classes) - 1}), each once, found {wrong}; "
                "remove them"
            )
        number = torch.full((len(base.classes),), -1)
        number[list(self.keep)] = torch.arange(len(self.keep))
        labels = number[base.labels]
        rows = torch.nonzero(labels >= 0).flatten()
        names = tuple(base.classes[i] for i in self.keep)
        name = f"{base.name}, {len(self.keep)} of {len(base.classes)} classes"
        return Catalogue(labels[rows], names, name, lambda index: base.images[rows[index]])

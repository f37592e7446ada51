"""Procedural identities as a source: cartoon faces that belong to nobody.

Stand-ins for face data sets, with known true factors.  Identities are numbered globally, so that private and
public people are disjoint where their numbers are.
"""

from typing import Annotated, Literal

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from mi_utils.data.face_drawing import render
from mi_utils.data.face_factors import FACTORS, Factor, Mode, Prior, Split, Values, chance, identities, in_mode, views
from mi_utils.data.images import Catalogue, Source, require_memory

__all__ = ["FACTORS", "Factor", "Faces", "chance", "identities", "render"]


class Faces(Source):
    """`per_identity` views of each of the identities first .. first + identities - 1; label i is id first + i.

    `split`: other views of the same people.  `factors`: the prior that people and views are drawn from.
    `modes`: what changes from view to view within an identity (60 % as it is, 25 % and 15 % its other looks).
    """

    kind: Literal["faces"] = "faces"
    identities: Annotated[int, Field(ge=1, le=100_000)] = 20
    first: Annotated[int, Field(ge=0)] = 0
    per_identity: Annotated[int, Field(ge=1)] = 50
    split: Split = "train"
    size: Annotated[int, Field(ge=32, le=128)] = 32
    factors: Prior = "plain"
    modes: tuple[Mode, ...] = ()

    def drawn(self, rows: Int[Tensor, " n"]) -> tuple[Values, Values]:
        """The true factors and the nuisances of images by position, identity by identity."""
        ids, numbers = rows // self.per_identity + self.first, rows % self.per_identity
        seen = views(ids, self.split, numbers, self.factors, self.seed)
        people = identities(ids, self.factors, self.seed)
        return in_mode(people, ids, seen["mode"], self.modes, self.seed), seen

    def open(self) -> Catalogue:
        """List the views; nothing is drawn before it is read."""
        count = self.identities * self.per_identity
        require_memory(count, 3 * self.size**2, self)
        labels = torch.arange(self.identities).repeat_interleave(self.per_identity)
        classes = tuple(f"face {self.first + i:04d}" for i in range(self.identities))
        name = f"procedural faces{'' if self.factors == 'plain' else ' (shifted)'} {self.split}"
        return Catalogue(labels, classes, name, lambda rows: render(*self.drawn(rows), self.size))

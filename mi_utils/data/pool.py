"""The attacker's auxiliary images, transformed once and kept as one tensor on the device."""

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from pydantic import Field
from torch import Tensor

from mi_utils.data import AnySource
from mi_utils.data.augment import Augment, Flip, Pad, ResizedCrop, Rotate
from mi_utils.data.images import CHUNK, to_float, to_uint8
from mi_utils.errors import UserError
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Output, Stage


def glyph_pieces(size: int = 32, area: tuple[float, float] = (0.5, 0.5), rotation: float = 90.0) -> Augment:
    """The released auxiliary transform: square pad, rotation, crop of a fraction `area`, both flips.

    Source: specification, section 4.  Deviation: pads the shorter side (the released code pads the longer one).
    """
    return Augment(
        steps=(
            Pad(square=True),
            Rotate(degrees=rotation),
            ResizedCrop(size=size, area=area, aspect=(1, 1)),
            Flip(horizontal=0.5, vertical=0.5),
        )
    )


class AuxiliaryPool(Stage):
    """`count` transformed auxiliary images (count, C, S, S), uint8; labels are dropped.

    Each is a uniform draw from `source` put through `transform`.

    Deviation: the transform is drawn once per pool image, not at every iteration, so that all runs share the
    work; `count` is therefore larger than the number of auxiliary images.

    `native`: side in px of the images that the target was built for, where it resizes them itself (its
    preprocessing is part of the threat model).  The pool then goes through the same down- and up-sampling;
    without it the patches of upsampled 8 px digits and of sharp glyphs are told apart by blur alone.
    """

    source: AnySource
    count: Annotated[int, Field(ge=64)] = 16384
    transform: Augment = glyph_pieces()
    native: Annotated[int, Field(ge=2)] | None = None
    seed: int = 0

    def compute(self, job: Job) -> Output:
        """Draw, transform and store the pool."""
        rng = seeded("auxiliary pool", self.seed)
        images = self.source.load().images
        index = torch.randint(len(images), (self.count,), generator=rng)
        parts = [self._transformed(images[part].to(job.device), rng).cpu() for part in index.split(CHUNK)]
        if any(part.shape[2] != part.shape[3] for part in parts):
            raise UserError("transform: expected square images, add ResizedCrop or give the source a size")
        return Output({"images": torch.cat(parts)})

    def _transformed(self, images: UInt8[Tensor, "n c h w"], rng: torch.Generator) -> UInt8[Tensor, "n c s s"]:
        """The transform, then the target's own resampling."""
        x = self.transform(to_float(images), rng)
        if self.native is not None:
            size = x.shape[2:]
            x = F.interpolate(x, size=(self.native, self.native), mode="area")
            x = F.interpolate(x, size=size, mode="bilinear")
        return to_uint8(x)

    def images(self, device: torch.device | str) -> UInt8[Tensor, "n c s s"]:
        """The stored pool on `device`."""
        return self.result(device).tensors["images"].to(device)

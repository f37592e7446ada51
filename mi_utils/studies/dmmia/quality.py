"""How well a prior draws what it learnt: Fréchet distance beside that of real against real images."""

from typing import Annotated

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mi_utils.errors import UserError
from mi_utils.metrics import sets
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Output, Stage
from mi_utils.studies.evaluation import features
from mi_utils.studies.factors import FactorRegressor
from mi_utils.training.style_priors import StylePrior


class PriorQuality(Stage):
    """Rows of (images, metric, value) in `meta["rows"]`: two halves of public images, and samples against one half.

    In the penultimate features of the factor regressor, which has seen neither; images of another size are resized
    to its own.  `sheet_real`, `sheet_made`: 60 images of each, the first ones.
    """

    prior: StylePrior
    reader: FactorRegressor
    count: Annotated[int, Field(ge=8)] = 2000
    psi: tuple[float, ...] = (1.0,)  # truncations measured
    seed: int = 0

    def compute(self, job: Job) -> Output:
        """Draw, embed, compare."""
        real, other = self._public().to(job.device).split(self.count)
        made = {psi: self.prior.samples(self.count, seeded("prior quality z", self.seed), job.device, psi)
                for psi in self.psi}  # fmt: skip
        base = self._features(real)
        rows = [("public images", *row) for row in compared(base, self._features(other))]
        for psi, images in made.items():
            rows += [(f"samples, psi {psi:g}", *row) for row in compared(base, self._features(images))]
        sheets = {"sheet_real": real[:60], "sheet_made": made[self.psi[0]][:60]}
        return Output(sheets, {"rows": rows})

    def _public(self) -> UInt8[Tensor, "n c s s"]:
        """Public images for both halves; no more of them are decoded."""
        source, wanted = self.prior.public, 2 * self.count
        few = source.model_copy(update={"limit": min(wanted, source.limit or wanted)})
        images = few.load().images
        if len(images) < wanted:
            raise UserError(f"count: expected at most half of the {len(images)} public images, found {self.count}")
        return images

    def _features(self, images: UInt8[Tensor, "n c s s"]) -> Float[Tensor, "n d"]:
        size = self.reader.train.size
        if images.shape[2] != size:
            resized = F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True)
            images = resized.round().clamp(0, 255).to(torch.uint8)
        return features(self.reader.network(images.device), images)


def compared(real: Float[Tensor, "n d"], fake: Float[Tensor, "n d"]) -> list[tuple[str, float]]:
    """Fréchet and kernel distance, precision and recall of one set against real images."""
    found = sets.prdc(real, fake)
    return [
        ("FD", sets.frechet_distance(real, fake)),
        ("KD", sets.kernel_distance(real, fake)),
        ("precision", found["precision"]),
        ("recall", found["recall"]),
    ]

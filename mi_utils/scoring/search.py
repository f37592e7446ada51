"""Nearest neighbours under a perceptual network within a memory budget; embeddings are kept where they fit."""

from dataclasses import dataclass

from jaxtyping import Float, Int, UInt8
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.metrics import matching, perceptual
from mi_utils.metrics.ddcs import Scope
from mi_utils.metrics.matching import Nearest
from mi_utils.models.perceptual import Perceptual
from mi_utils.runtime import generator as seeded
from mi_utils.scoring.inputs import Labelled


@dataclass(frozen=True)
class Embedded:
    """Images with their embeddings, or without (None) where those would not fit the budget."""

    images: UInt8[Tensor, "n c h w"]
    labels: Int[Tensor, " n"] | None
    rows: Float[Tensor, "n d"] | None

    def take(self, index: Int[Tensor, " m"], labels: Int[Tensor, " m"] | None) -> "Embedded":
        """These images, with these labels."""
        rows = None if self.rows is None else self.rows[index.to(self.rows.device)]
        return Embedded(self.images[index], labels, rows)


LEAST = 18 * matching.IMAGES  # embeddings that a search wants room for at least, its copies included


@dataclass(frozen=True)
class Searcher:
    """Nearest neighbours under `net`, within `budget` bytes (None: `matching`'s own)."""

    net: Perceptual
    budget: int | None

    def check(self, height: int, width: int) -> None:
        """UserError where the budget is too small for a search among images of this size."""
        need = LEAST * self._bytes(height, width)
        if self.budget is not None and self.budget < need:
            raise UserError(
                f"budget: expected at least {need / 1e6:.0f} MB for {width}×{height} px images under {self.net.name}, "
                f"found {self.budget / 1e6:.0f} MB; give more, or a smaller --size"
            )

    def _bytes(self, height: int, width: int) -> int:
        """Of one embedding."""
        return 4 * self.net.length(height, width)

    def embedded(self, found: Labelled) -> Embedded:
        """Embedded once, where a quarter of the budget holds that; else again at every search."""
        row, limit = self._bytes(*found.images.shape[2:]), self.budget or matching.BUDGET
        fits = row * len(found) <= limit // 4 and row * LEAST <= limit // 2
        return Embedded(found.images, found.labels, perceptual.embed(found.images, self.net) if fits else None)

    def near(self, fake: Embedded, real: Embedded, scope: Scope) -> Nearest:
        """Both directions, over the whole set or inside each class."""
        labels = {"fake_labels": fake.labels, "real_labels": real.labels} if scope == "label" else {}
        if fake.rows is None or real.rows is None:
            return perceptual.nearest(fake.images, real.images, self.net, **labels, budget=self.budget)
        half = (self.budget or matching.BUDGET) // 2
        return matching.nearest(fake.rows, real.rows, matching.as_is, **labels, budget=half)

    def scale(self, real: Embedded) -> float:
        """s: median nearest distance between two halves of the private images."""
        rng = seeded("score halves", len(real.images))
        if real.rows is None:
            return matching.half_distance(real.images, rng, lambda x: perceptual.embed(x, self.net), budget=self.budget)
        return matching.half_distance(real.rows, rng, matching.as_is, budget=self.budget)

"""Images that a stored search or a prior holds besides its reconstructions, to be scored in the rows beside them."""

import torch
from jaxtyping import Int
from pydantic import SerializeAsAny
from torch import Tensor

from mi_utils.attacks.dmmia import DMMIA
from mi_utils.attacks.style_search import StyleSearch
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Output, Stage
from mi_utils.studies.references import Reference
from mi_utils.training.style_priors import StylePrior


class StyleSamples(Reference):
    """What a StyleGAN2 draws without being asked for a class, as truncated as a search's pool."""

    prior: StylePrior
    psi: float = 1.0

    def compute(self, job: Job) -> Output:
        """Samples of the latent's law."""
        labels = self.labels()
        images = self.prior.samples(len(labels), seeded("prior samples", self.seed), job.device, self.psi)
        return Output({"images": images.cpu(), "labels": labels})


class PoolOrder(Stage):
    """A search's reconstructions in the order of the pool's scores: without the last selection."""

    attack: SerializeAsAny[StyleSearch]

    @property
    def samples(self) -> int:
        """Images per class that are scored."""
        return self.attack.samples

    def compute(self, job: Job) -> Output:
        """Sorted by class-wise place."""
        found = self.attack.result(job.device).tensors
        order = by_place(found["place"], len(self.attack.classes))
        return Output({"images": found["images"][order], "labels": found["labels"][order]})


def by_place(place: Int[Tensor, " n"], classes: int) -> Int[Tensor, " n"]:
    """Rows of the first candidate of every class, then of the second, and so on."""
    column = torch.arange(len(place)) % classes
    return (place.cpu() * classes + column).argsort()


class FreshLatents(Stage):
    """Images of new latents under the tuned mapping networks of a search."""

    attack: SerializeAsAny[DMMIA]

    @property
    def samples(self) -> int:
        """Images per class."""
        return self.attack.fresh

    def compute(self, job: Job) -> Output:
        """As the search stored them."""
        found = self.attack.result(job.device).tensors
        return Output({"images": found["fresh_images"], "labels": found["fresh_labels"]})

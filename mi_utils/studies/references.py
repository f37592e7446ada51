"""Images that no attack made, as many per class as an attack's, to be scored in the rows beside it.

A measure that rises with the number of images alone (DDCS, coverage) says nothing without them; for every other
measure they are its floor and its ceiling.
"""

from typing import Annotated

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from mi_utils.data import AnySource
from mi_utils.data.pool import AuxiliaryPool
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Output, Stage
from mi_utils.studies.evaluation import first_per_class
from mi_utils.training.gan import TrainDCGAN
from mi_utils.training.priors import TrainGMI, TrainKEDMI


class Reference(Stage):
    """`samples` images of every class, drawn by the seed."""

    classes: tuple[int, ...]
    samples: Annotated[int, Field(ge=4)]  # per class
    seed: int = 0

    def labels(self) -> Int[Tensor, " n"]:
        """The classes in turn, for images that know nothing of the target."""
        return torch.tensor(self.classes).repeat(self.samples)


class PriorSamples(Reference):
    """What a generator of public images draws without being asked for a class."""

    prior: TrainDCGAN | TrainGMI | TrainKEDMI

    def compute(self, job: Job) -> Output:
        """Samples of the latent's law."""
        labels = self.labels()
        images = self.prior.samples(len(labels), seeded("prior samples", self.seed), job.device)
        return Output({"images": images.cpu(), "labels": labels})


class PublicImages(Reference):
    """The attacker's auxiliary images themselves."""

    pool: AuxiliaryPool

    def compute(self, job: Job) -> Output:
        """Drawn from the pool without replacement."""
        labels = self.labels()
        pool = self.pool.images("cpu")
        index = torch.randperm(len(pool), generator=seeded("public images", self.seed))[: len(labels)]
        return Output({"images": pool[index], "labels": labels})


class HeldOut(Reference):
    """Private test images with their labels: what nothing that generalises can beat."""

    source: AnySource

    def compute(self, job: Job) -> Output:
        """Drawn without replacement."""
        data = self.source.load().only_classes(self.classes)
        mixed = data.take(torch.randperm(len(data), generator=seeded("held-out images", self.seed)))
        images, labels = first_per_class(mixed.images, mixed.labels, self.samples)
        return Output({"images": images, "labels": labels})

"""How DDCS and the measures beside it answer to copies and to gaps among reconstructions."""

from typing import Annotated

import torch
from jaxtyping import Int, UInt8
from pydantic import Field, SerializeAsAny
from torch import Tensor

from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Output, Stage
from mi_utils.studies.ddcs_ngd.measures import Described, Judged, measured

SHOWN = 8  # images on the sheets


class Redundancy(Judged):
    """Rows of (arm, level, metric, value, images) in `meta["rows"]`.

    `exact copies`, `near copies`: every image is there `level` times, which leaves FD's moments as they are but for
    n - 1; `uneven copies`: only the first quarter of every class is.  `replaced`: of as many images as were made the
    share `level` are exact copies of the others of their class.  `modes dropped`, `labels dropped`: the share `level`
    is gone.  `sheet`, `sheet_near`: images, and a near copy of each.
    Source: specification ddcs_ngd, section 8, C5 and C6.
    """

    attack: SerializeAsAny[Stage]
    factors: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 5, 10, 20)
    shares: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = (0.0, 0.25, 0.5, 0.75)
    noise: Annotated[float, Field(ge=0)] = 4.0  # standard deviation of a near copy's pixels, of 255
    seed: int = 0

    def compute(self, job: Job) -> Output:
        """Networks run once over images and near copies; every arm reuses their rows."""
        images, labels = self.made(self.attack, job.device)
        copies = near_copies(images, max(self.factors) - 1, self.noise, seeded("near copies", self.seed))
        base = self.describe(images, labels, job.device)
        arms = {("exact copies", float(f)): base.take(torch.arange(len(labels)).repeat(f)) for f in self.factors}
        arms |= {("uneven copies", float(f)): base.take(uneven(labels, f)) for f in self.factors}
        if len(copies):
            both = base + self.describe(copies, labels.repeat(max(self.factors) - 1), job.device)
            arms |= {("near copies", float(f)): both.take(torch.arange(f * len(labels))) for f in self.factors}
        arms |= {("replaced", share): base.take(replaced(labels, share)) for share in self.shares}
        arms |= {
            ("modes dropped", 0.5): base.take(one_mode(base)),
            ("labels dropped", 0.5): base.take(half_of_labels(labels)),
        }
        real = self.real_features(labels, job.device)
        rows = [(*arm, metric, value, len(fake.labels)) for arm, fake in arms.items()
                for metric, value in measured(fake, real).items()]  # fmt: skip
        return Output({"sheet": images[:SHOWN], "sheet_near": copies[:SHOWN]}, {"rows": rows})


def near_copies(
    images: UInt8[Tensor, "n c s s"], count: int, noise: float, generator: torch.Generator
) -> UInt8[Tensor, "k*n c s s"]:
    """`count` copies of all images with Gaussian noise of standard deviation `noise`, every other copy mirrored."""
    copies = [images.flip(3) if copy % 2 else images for copy in range(count)]
    noised = [(x + noise * torch.randn(x.shape, generator=generator)).round().clamp(0, 255).byte() for x in copies]
    return torch.cat(noised) if noised else images[:0]


def uneven(labels: Int[Tensor, " n"], times: int) -> Int[Tensor, " k"]:
    """All rows, and those of the first quarter of every class (at least one) until they are there `times` times."""
    own = [(labels == c).nonzero().squeeze(1) for c in labels.unique()]
    repeated = torch.cat([rows[: max(1, len(rows) // 4)] for rows in own])
    return torch.cat([torch.arange(len(labels)), repeated.repeat(times - 1)])


def replaced(labels: Int[Tensor, " n"], share: float) -> Int[Tensor, " n"]:
    """Rows of n images, class by class: the first ones of a class (at least one), repeated in turn up to its size."""
    rows = []
    for c in labels.unique():
        own = (labels == c).nonzero().squeeze(1)
        kept = max(1, round((1 - share) * len(own)))
        rows.append(own[torch.arange(len(own)) % kept])
    return torch.cat(rows)


def one_mode(base: Described) -> Int[Tensor, " k"]:
    """Half of every class: the images on one side of the median along the leading axis of its features."""
    rows = []
    for c in base.labels.unique():
        own = (base.labels == c).nonzero().squeeze(1)
        centred = (base.features[own] - base.features[own].mean(0)).double()
        axis = torch.linalg.svd(centred, full_matrices=False).Vh[0]
        rows.append(own[(centred @ axis).argsort()[: len(own) // 2]])
    return torch.cat(rows)


def half_of_labels(labels: Int[Tensor, " n"]) -> Int[Tensor, " k"]:
    """Rows of the first half of the classes, rounded up."""
    classes = labels.unique()
    return torch.isin(labels, classes[: (len(classes) + 1) // 2]).nonzero().squeeze(1)

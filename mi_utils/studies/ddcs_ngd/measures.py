"""What DDCS and the measures beside it read of images, computed once per image: rows are then repeated or dropped."""

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int, UInt8
from pydantic import Field
from torch import Tensor

from mi_utils.data import AnySource
from mi_utils.data.images import ImageSet
from mi_utils.errors import UserError
from mi_utils.metrics import accuracy, matching, sets
from mi_utils.metrics.ddcs import ddcs
from mi_utils.metrics.perceptual import embed
from mi_utils.models import perceptual as nets
from mi_utils.stage import Stage
from mi_utils.studies.evaluation import (
    Panel,
    drawn_per_class,
    features,
    first_per_class,
    logits,
    private_features,
)

NET = "st-lpips-alex"  # as in Evaluation


class Measured(Stage):
    """Reads finished attacks and compares them with `perceptual` private images per class."""

    private: AnySource
    samples: Annotated[int, Field(ge=4)]  # reconstructions per class that are scored: the first ones
    perceptual: Annotated[int, Field(ge=1)]

    def made(self, attack: Stage, device: torch.device) -> tuple[UInt8[Tensor, "n c s s"], Int[Tensor, " n"]]:
        """The scored reconstructions and their labels, on the CPU."""
        found = attack.result(device).tensors
        return first_per_class(found["images"], found["labels"], self.samples)

    def drawn(self, labels: Int[Tensor, " n"]) -> ImageSet:
        """The private images of DDCS, of the attacked classes alone."""
        return drawn_per_class(self.private.load().only_classes(labels.unique().tolist()), self.perceptual)


def same_classes(labels: dict[str, Int[Tensor, " n"]]) -> None:
    """UserError where sets that are compared with one private set are not of the same classes."""
    classes = {name: found.unique().tolist() for name, found in labels.items()}
    first = next(iter(classes))
    for name, found in classes.items():
        if found != classes[first]:
            raise UserError(
                f"{name}: expected the classes of {first}, {classes[first]}, found {found}; attack the same"
            )


@dataclass(frozen=True)
class Embedded:
    """m private images in a perceptual network, less their mean: small norms round less.

    The rows may take most of a machine's memory (0.5 GB for 900 images under VGG), so there is one copy of them.
    """

    net: nets.Perceptual
    centre: Float[Tensor, " d"]
    rows: Float[Tensor, "m d"]

    @classmethod
    def of(cls, images: UInt8[Tensor, "m c s s"], net: nets.Perceptual) -> "Embedded":
        rows = embed(images, net)
        centre = rows.mean(0)
        return cls(net, centre, rows.sub_(centre))

    @torch.no_grad()
    def distances(self, images: UInt8[Tensor, "n c s s"]) -> Float[Tensor, "n m"]:
        """Squared distances of further images to these, on the CPU."""
        each = (embed(part, self.net).sub_(self.centre) for part in images.split(128))
        return torch.cat([matching.squared_distances(part, self.rows).cpu() for part in each])

    def among(self) -> Float[Tensor, "m m"]:
        """Squared distances among these, infinite from an image to itself, on the CPU."""
        return matching.squared_distances(self.rows, self.rows).fill_diagonal_(torch.inf).cpu()


def near(distance: Float[Tensor, "n m"], admitted: Bool[Tensor, "n m"] | None = None) -> matching.Nearest:
    """Both directions of nearest neighbours from all distances; only `admitted` pairs, where given."""
    q = distance if admitted is None else distance.masked_fill(~admitted, torch.inf)
    least_fake, of_fake = q.min(1)
    least_real, of_real = q.min(0)
    return matching.Nearest(of_fake, least_fake, of_real.masked_fill(least_real.isinf(), -1), least_real)


@dataclass(frozen=True)
class Described:
    """n images as the measures see them, on the CPU.

    distance (n, m): perceptual, to the private images of DDCS.  features (n, d): of the first evaluator.
    knn (n,): squared feature distance to the nearest private image of the class.  correct (n,): share in [0, 1] of
    the plain evaluators that name the label.
    """

    distance: Float[Tensor, "n m"]
    features: Float[Tensor, "n d"]
    knn: Float[Tensor, " n"]
    correct: Float[Tensor, " n"]
    labels: Int[Tensor, " n"]

    def take(self, rows: Int[Tensor, " k"]) -> "Described":
        """Some of the images, in the order of `rows`, repeated where a row is."""
        return Described(**{name: value[rows] for name, value in vars(self).items()})

    def __add__(self, other: "Described") -> "Described":
        """These images followed by others."""
        return Described(**{name: torch.cat([value, getattr(other, name)]) for name, value in vars(self).items()})


class Judged(Measured):
    """A `Measured` whose images are also judged by evaluators."""

    panel: Panel

    def real_features(self, labels: Int[Tensor, " n"], device: torch.device) -> Float[Tensor, "m d"]:
        """The first evaluator's features of all private images of the attacked classes, on the CPU."""
        stage = next(iter(self.panel.plain.values()))
        return private_features(stage, self.private, tuple(labels.unique().tolist()), str(device)).cpu()

    def describe(self, images: UInt8[Tensor, "n c s s"], labels: Int[Tensor, " n"], device: torch.device) -> Described:
        """Every network once over every image."""
        net = nets.load(NET).to(device)
        images = images.to(device)
        judges = {name: stage.network(device) for name, stage in self.panel.plain.items()}
        says = {name: logits(judge, images).cpu() for name, judge in judges.items()}
        fake = features(next(iter(judges.values())), images).cpu()
        private = self.private.load().only_classes(labels.unique().tolist())
        real = self.real_features(labels, device)
        found = matching.nearest(fake, real, fake_labels=labels, real_labels=private.labels.cpu())
        return Described(
            distance=Embedded.of(self.drawn(labels).images, net).distances(images),
            features=fake,
            knn=matching.knn_distance(found),
            correct=accuracy.vote(says, labels)["mean"],
            labels=labels,
        )


def measured(fake: Described, real: Float[Tensor, "m d"]) -> dict[str, float]:
    """DDCS, its coverage, FD and KD against private features, mean KNN distance and ensemble accuracy."""
    found = ddcs(near(fake.distance))
    return {
        "DDCS": found.ddcs,
        "coverage": found.coverage,
        "FD": sets.frechet_distance(real, fake.features),
        "KD": sets.kernel_distance(real, fake.features),
        "KNN distance": float(fake.knn.mean()),
        "accuracy": float(fake.correct.mean()),
    }

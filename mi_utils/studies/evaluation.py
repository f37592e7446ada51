"""Scores of one attack's reconstructions: evaluators, diversity, coverage, distances.  Shared by all papers."""

from collections.abc import Iterable
from dataclasses import fields
from functools import lru_cache
from typing import Annotated

import torch
from jaxtyping import Float, Int, UInt8
from pydantic import Field, SerializeAsAny, model_validator
from torch import Tensor, nn

from mi_utils.data import AnySource
from mi_utils.data.images import ImageSet, to_float
from mi_utils.errors import UserError
from mi_utils.metrics import accuracy, diversity, matching, perceptual, sets
from mi_utils.metrics.ddcs import Exposed, Options, ddcs, exposure
from mi_utils.models import perceptual as nets
from mi_utils.models.classifiers import Classifier
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Config, Job, Output, Stage
from mi_utils.training.classifier import TrainClassifier

Row = tuple[str, int | str, float, int]  # metric, class id or "all", value, number of images


class Panel(Config):
    """The evaluators, never seen by an attack: plain nets of different architectures, and one with a reject class.

    The first plain net is the paper's single evaluator; its penultimate features are the space of the set metrics.
    """

    plain: dict[str, TrainClassifier]
    reject: TrainClassifier

    def everyone(self) -> dict[str, TrainClassifier]:
        """All evaluators by name."""
        return {**self.plain, "reject": self.reject}


class Evaluation(Stage):
    """Every metric of one attack run, per class and pooled (class "all")."""

    attack: SerializeAsAny[Stage]
    target: TrainClassifier
    panel: Panel
    private: AnySource
    samples: Annotated[int, Field(ge=4)]  # reconstructions per class that are scored: the first ones
    perceptual: Annotated[int, Field(ge=0)] = 0  # private images per class of DDCS; 0 leaves DDCS out

    @model_validator(mode="after")
    def _others_judge(self) -> "Evaluation":
        for name, evaluator in self.panel.everyone().items():
            if evaluator == self.target:
                raise UserError(
                    f"panel: expected evaluators other than the target, found that {name!r} is the target itself "
                    f"({self.target.label}); give it another architecture, training or seed"
                )
        return self

    def compute(self, job: Job) -> Output:
        """Rows of (metric, class, value, n) in `meta["rows"]`, and the nearest neighbours of DDCS."""
        found = self.attack.result(job.device).tensors
        images, labels = first_per_class(found["images"], found["labels"], self.samples)
        classes = labels.unique().tolist()
        private = self.private.load().only_classes(classes).to(job.device)
        images, labels = images.to(job.device), labels.to(job.device)
        rows = [*self._judged(images, labels, classes, job.device)]
        rows += self._spread(images, labels, private, classes, job.device)
        if not self.perceptual:
            return Output(meta={"rows": rows})
        near, more = self._closeness(images, labels, private)
        return Output({f"nearest_{name}": x for name, x in vars(near).items()}, {"rows": rows + more})

    def exposed(self) -> tuple[ImageSet, list[Exposed]]:
        """The private images of DDCS, and how exposed each is, the most exposed first; read from the store."""
        result = self.result()
        classes = {c for metric, c, *_ in result.meta["rows"] if metric == "top1" and c != "all"}
        private = drawn_per_class(self.private.load().only_classes(sorted(classes)), self.perceptual)
        near = {f.name: result.tensors[f"nearest_{f.name}"] for f in fields(matching.Nearest)}
        return private, exposure(ddcs(matching.Nearest(**near)), private.labels)

    def _judged(self, images: Tensor, labels: Tensor, classes: list[int], device: torch.device) -> Iterable[Row]:
        """What target and evaluators say of every image."""
        says = {n: logits(s.network(device), images) for n, s in self.panel.everyone().items()}
        reject = says.pop("reject")
        target = logits(self.target.network(device), images)
        single = next(iter(says.values()))
        votes = accuracy.vote(says, labels, reject)
        named = torch.stack([said.argmax(1) for said in (*says.values(), reject)])
        per_image = {
            "vote": accuracy.plurality(named, labels),
            "top1": accuracy.top_k(single, labels),
            "confidence": accuracy.confidence(single, labels),
            "target": accuracy.top_k(target, labels),
            **{f"top1 {name}": accuracy.top_k(said, labels) for name, said in says.items()},
            **{f"ensemble {name}" if name == "mean" else name: v for name, v in votes.items()},
        }
        if single.shape[1] > 5:
            per_image["top5"] = accuracy.top_k(single, labels, 5)
        for metric, values in per_image.items():
            yield from by_class(metric, values.double(), labels, classes)
        yield "ensemble min", "all", accuracy.ensemble_min(accuracy.correct_by(says, labels)), len(labels)

    def _spread(
        self,
        images: UInt8[Tensor, "n c s s"],
        labels: Int[Tensor, " n"],
        private: ImageSet,
        classes: list[int],
        device: torch.device,
    ) -> list[Row]:
        """Diversity relative to real images, PRDC and Fréchet distance in the first evaluator's features."""
        stage = next(iter(self.panel.plain.values()))
        fake = features(stage.network(device), images)
        real = private_features(stage, self.private, tuple(classes), str(device))
        pixel = diversity.rho_pix(private.images, private.labels, images, labels, classes)
        spread = diversity.rho_feat(real, private.labels, fake, labels, classes)
        each, _ = sets.prdc_per_class(real, private.labels, fake, labels, classes)
        rows: list[Row] = [("rho_pix", c, v, self.samples) for c, v in pixel.items()]
        rows += [("rho_feat", c, v, self.samples) for c, v in spread.items()]
        rows += [(name, c, v, self.samples) for c, found in each.items() for name, v in found.items()]
        rows = [*rows, *pooled_means(rows, len(images))]
        near = matching.nearest(fake, real, fake_labels=labels, real_labels=private.labels)
        for name, values in (
            ("KNN distance", matching.knn_distance(near)),
            ("centroid distance", matching.centroid_distance(fake, labels, real, private.labels)),
        ):
            rows += by_class(name, values.to(labels.device), labels, classes)
        n = len(images)
        rows.append(("N_eff", "all", sets.effective_matches(near.real_of_fake), n))
        rows.append(("FD", "all", sets.frechet_distance(real, fake), n))
        rows.append(("KD", "all", sets.kernel_distance(real, fake), n))
        return rows

    def _closeness(self, images: Tensor, labels: Tensor, private: ImageSet) -> tuple[matching.Nearest, list[Row]]:
        """DDCS under ST-LPIPS over all pairs, and over those of equal label."""
        real = drawn_per_class(private, self.perceptual)
        rows = private_embedding(self.private, tuple(labels.unique().tolist()), self.perceptual, str(images.device))
        fake = embedded(images, str(images.device))
        n = len(images)
        near = matching.nearest(fake, rows, matching.as_is)
        every = ddcs(near)
        same = matching.nearest(fake, rows, matching.as_is, fake_labels=labels, real_labels=real.labels)
        return near, [
            ("DDCS", "all", every.ddcs, n),
            ("DDCS coverage", "all", every.coverage, n),
            ("DDCS label", "all", ddcs(same, Options(scope="label")).ddcs, n),
        ]


def first_per_class(
    images: UInt8[Tensor, "n c s s"], labels: Int[Tensor, " n"], count: int
) -> tuple[UInt8[Tensor, "m c s s"], Int[Tensor, " m"]]:
    """The first `count` images of every class, in stored order; UserError where there are fewer."""
    same = (labels[:, None] == labels.unique()).long()
    place = (same.cumsum(0) * same).sum(1)
    least = int(same.sum(0).min())
    if least < count:
        raise UserError(f"samples: expected at most {least} per class (as stored), found {count}")
    return images[place <= count], labels[place <= count]


def drawn_per_class(data: ImageSet, count: int) -> ImageSet:
    """`count` images of every class, a fixed draw; UserError where a class has fewer."""
    rng = seeded("private draw", len(data))
    order = torch.randperm(len(data), generator=rng)
    shuffled = data.take(order.to(data.labels.device))
    images, labels = first_per_class(shuffled.images, shuffled.labels, count)
    return ImageSet(images, labels, data.classes, data.name)


@lru_cache(maxsize=1)
def _perceptual(device: str) -> nets.Perceptual:
    return nets.load("st-lpips-alex").to(device)


def embedded(images: UInt8[Tensor, "n c s s"], device: str) -> Float[Tensor, "n d"]:
    """ST-LPIPS embeddings on `device`."""
    return perceptual.embed(images, _perceptual(device))


@lru_cache(maxsize=2)
def private_embedding(source: AnySource, classes: tuple[int, ...], count: int, device: str) -> Float[Tensor, "n d"]:
    """Embeddings of `drawn_per_class`, computed once per process: they are the same for every attack."""
    return embedded(drawn_per_class(source.load().only_classes(classes), count).images, device)


@lru_cache(maxsize=2)
def private_features(
    stage: TrainClassifier, source: AnySource, classes: tuple[int, ...], device: str
) -> Float[Tensor, "n d"]:
    """Penultimate features of all private images, computed once per process."""
    return features(stage.network(device), source.load().only_classes(classes).to(device).images)


@torch.no_grad()
def logits(net: nn.Module, images: UInt8[Tensor, "n c s s"]) -> Float[Tensor, "n k"]:
    """Logits of uint8 images."""
    return torch.cat([net(to_float(part)) for part in images.split(512)])


@torch.no_grad()
def features(net: Classifier, images: UInt8[Tensor, "n c s s"]) -> Float[Tensor, "n d"]:
    """Penultimate features of uint8 images."""
    return torch.cat([net.features(to_float(part)) for part in images.split(512)])


def by_class(metric: str, values: Float[Tensor, " n"], labels: Int[Tensor, " n"], classes: list[int]) -> list[Row]:
    """Mean per class, and over all images."""
    same = labels == torch.tensor(classes, device=labels.device)[:, None]
    counts = same.sum(1)
    means = (same * values).sum(1) / counts
    rows: list[Row] = [(metric, c, m, n) for c, m, n in zip(classes, means.tolist(), counts.tolist(), strict=True)]
    return [*rows, (metric, "all", values.mean().item(), len(values))]


def pooled_means(rows: list[Row], n: int) -> list[Row]:
    """For each metric the unweighted mean over its classes, as class "all"."""
    metrics = list(dict.fromkeys(row[0] for row in rows))
    by = {m: [value for name, _, value, _ in rows if name == m] for m in metrics}
    return [(m, "all", sum(values) / len(values), n) for m, values in by.items()]

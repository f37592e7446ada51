"""How DDCS of reconstructions of known quality moves when private classes overlap, or their images are more alike."""

from collections.abc import Iterator
from typing import Annotated

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor

from mi_utils.data import Faces
from mi_utils.data.face_drawing import render
from mi_utils.data.face_factors import FACTORS, NUISANCES, Values
from mi_utils.metrics.ddcs import ddcs
from mi_utils.models import perceptual as nets
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Output, Stage
from mi_utils.studies.ddcs_ngd.measures import NET, Embedded, near
from mi_utils.studies.ddcs_ngd.redundancy import near_copies

Share = Annotated[float, Field(ge=0, le=1)]
KEPT = ("mode", "noise", "noise_place")  # nuisances that likeness leaves alone: a person's look, and the pixels' own


class Sensitivity(Stage):
    """Rows of (overlap, spread, share, noise, DDCS, coverage) in `meta["rows"]`.

    The arms are sets of one quality in all variants: noisy copies of a share of the private images.  Variants: a part
    `overlap` of every class's images shows a person halfway to the next class's; nuisances keep `spread` of their
    range.
    Source: specification ddcs_ngd, section 5 (overlap, similarity) and section 8, NC2.
    """

    private: Faces
    classes: Annotated[tuple[int, ...], Field(min_length=2)]
    count: Annotated[int, Field(ge=4)] = 30  # private images per class
    overlaps: tuple[Share, ...] = (0.25, 0.5)
    spreads: tuple[Share, ...] = (0.5, 0.25)
    shares: tuple[Share, ...] = (0.25, 0.5)
    noises: tuple[Annotated[float, Field(ge=0)], ...] = (6.0, 16.0, 40.0)  # grey levels
    seed: int = 0

    def compute(self, job: Job) -> Output:
        """The private set as it is, then every overlap, then every spread."""
        net = nets.load(NET).to(job.device)
        variants = [(0.0, 1.0), *((o, 1.0) for o in self.overlaps), *((0.0, s) for s in self.spreads)]
        return Output(meta={"rows": [(*v, *row) for v in variants for row in self._arms(self.drawn(*v), net)]})

    def drawn(self, overlap: float, spread: float) -> UInt8[Tensor, "n 3 s s"]:
        """The private images of a variant, class by class."""
        first = torch.arange(self.count)
        own, other = (torch.cat([c * self.private.per_identity + first for c in order]) for order in self._next())
        people, seen = self.private.drawn(own)
        others, _ = self.private.drawn(other)
        part = first.repeat(len(self.classes)) < round(overlap * self.count)
        mixed = between(people, others, part, seeded("overlap", self.seed))
        return render(mixed, narrowed(seen, spread, self.private.factors), self.private.size)

    def _next(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The classes, and the one after each."""
        return self.classes, (*self.classes[1:], self.classes[0])

    def _arms(self, images: UInt8[Tensor, "n 3 s s"], net: nets.Perceptual) -> Iterator[tuple[float, ...]]:
        """(share, noise, DDCS, coverage) of every arm; the same rows and the same noise in all variants."""
        private = Embedded.of(images, net)
        order = torch.randperm(len(images), generator=seeded("sensitivity", self.seed))
        for share in self.shares:
            for noise in self.noises:
                rows = order[: round(share * len(images))]
                found = ddcs(near(private.distances(near_copies(images[rows], 1, noise, seeded("copies", self.seed)))))
                yield share, noise, found.ddcs, found.coverage


def between(people: Values, others: Values, part: Tensor, rng: torch.Generator) -> Values:
    """People, and where `part` says so people halfway to others: means of amounts, kinds of either at random."""
    found = {}
    for name, factor in FACTORS.items():
        one, other = people[name], others[name]
        coin = torch.rand(len(one), generator=rng) < 0.5
        half = torch.where(coin, one, other) if factor.kinds else (one + other) / 2
        found[name] = torch.where(part, half, one)
    return found


def narrowed(seen: Values, spread: float, factors: str) -> Values:
    """Views whose nuisances keep this part of their range, about its middle."""
    found = dict(seen)
    for name, ranges in NUISANCES.items():
        if name not in KEPT:
            middle = sum(ranges[factors == "shifted"]) / 2
            found[name] = middle + spread * (seen[name] - middle)
    return found


def orders(rows: list[tuple[float, ...]]) -> dict[tuple[float, float], tuple[Float[Tensor, " a"], Float[Tensor, " a"]]]:
    """(overlap, spread) -> DDCS of the arms as the private set is, and in this variant."""
    by_variant: dict[tuple[float, float], list[float]] = {}
    for overlap, spread, _, _, value, _ in rows:
        by_variant.setdefault((overlap, spread), []).append(value)
    base = torch.tensor(by_variant.pop((0.0, 1.0)), dtype=torch.float64)
    return {variant: (base, torch.tensor(v, dtype=torch.float64)) for variant, v in by_variant.items()}

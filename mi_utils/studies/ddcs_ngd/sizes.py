"""Coverage and DDCS against the number of reconstructions."""

from collections.abc import Iterator
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field, SerializeAsAny
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.metrics.ddcs import ddcs
from mi_utils.models import perceptual as nets
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Output, Stage
from mi_utils.studies.ddcs_ngd.measures import NET, Embedded, Measured, near, same_classes


class SizeCurve(Measured):
    """Rows of (set, size, metric, mean, standard deviation over draws) in `meta["rows"]`.

    Images are drawn without replacement, since a repeated one covers nothing; the sizes of one draw are nested.
    Source: specification ddcs_ngd, section 7, F-A, and section 8, NC3.
    """

    attacks: Annotated[dict[str, SerializeAsAny[Stage]], Field(min_length=1)]  # and references
    sizes: tuple[Annotated[int, Field(ge=1)], ...]
    draws: Annotated[int, Field(ge=2)] = 10
    seed: int = 0

    def compute(self, job: Job) -> Output:
        """Every set is embedded once."""
        made = {name: self.made(attack, job.device) for name, attack in self.attacks.items()}
        same_classes({name: labels for name, (_, labels) in made.items()})
        net = nets.load(NET).to(job.device)
        real = Embedded.of(self.drawn(next(iter(made.values()))[1]).images, net)
        rows = []
        for name, (images, _) in made.items():
            if len(images) < max(self.sizes):
                raise UserError(f"sizes: expected at most {len(images)} (images of {name}), found {max(self.sizes)}")
            distance = real.distances(images)
            found = torch.stack([self._draw(distance, draw) for draw in range(self.draws)])
            rows += [(name, *row) for row in self._rows(found)]
        return Output(meta={"rows": rows})

    def _draw(self, distance: Float[Tensor, "n m"], draw: int) -> Float[Tensor, "sizes 2"]:
        """DDCS and coverage of growing parts of one random order."""
        order = torch.randperm(len(distance), generator=seeded("sizes", self.seed, draw))
        found = [ddcs(near(distance[order[:size]])) for size in self.sizes]
        return torch.tensor([(f.ddcs, f.coverage) for f in found], dtype=torch.float64)

    def _rows(self, found: Float[Tensor, "draws sizes 2"]) -> Iterator[tuple[int, str, float, float]]:
        means, stds = found.mean(0).tolist(), found.std(0).tolist()
        for size, mean, std in zip(self.sizes, means, stds, strict=True):
            yield from zip((size, size), ("DDCS", "coverage"), mean, std, strict=True)

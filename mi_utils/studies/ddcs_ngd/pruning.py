"""Smaller sets of reconstructions: what the evaluator may remove at equal DDCS, and what the attacker may guess."""

from collections.abc import Iterator
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, SerializeAsAny
from torch import Tensor

from mi_utils.metrics.ddcs import Options, ddcs
from mi_utils.metrics.matching import Nearest
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Output, Stage
from mi_utils.studies.ddcs_ngd.measures import Described, Judged, measured, near
from mi_utils.studies.evaluation import features
from mi_utils.training.classifier import TrainClassifier


class Pruning(Judged):
    """Rows of (arm, metric, value, images) in `meta["rows"]`; `kept_<arm>`: rows of the scored images.

    `raw`: all.  `lemma`, `greedy`: chosen with the private images, at unchanged DDCS.  `medoids`: the share `kept` of
    every class, chosen in the target's features without any private image.  `random`, `random per class`: means over
    `draws` random subsets as large as greedy and as medoids.
    Source: specification ddcs_ngd, section 2.2, property 6, and section 8, OQ2.
    """

    attack: SerializeAsAny[Stage]
    target: TrainClassifier
    kept: Annotated[float, Field(gt=0, le=1)] = 0.5
    axes: Annotated[int, Field(ge=1)] = 256  # leading axes of the private features that greedy removal sees
    draws: Annotated[int, Field(ge=1)] = 10
    seed: int = 0

    def compute(self, job: Job) -> Output:
        """Networks run once over the raw set; every arm takes rows of it."""
        images, labels = self.made(self.attack, job.device)
        base, real = self.describe(images, labels, job.device), self.real_features(labels, job.device)
        seen = features(self.target.network(job.device), images.to(job.device)).cpu()
        lemma = sufficient(near(base.distance))
        kept = {
            "raw": torch.arange(len(labels)),
            "lemma": lemma,
            "greedy": greedy(base.features, real, lemma, self.axes),
            "medoids": medoids_per_class(seen, labels, self.kept),
        }
        rows = [(arm, *row) for arm, chosen in kept.items() for row in summary([base.take(chosen)], real)]
        rng, n = seeded("pruning controls", self.seed), len(labels)
        controls = {
            "random": [torch.randperm(n, generator=rng)[: len(kept["greedy"])] for _ in range(self.draws)],
            "random per class": [random_per_class(labels, self.kept, rng) for _ in range(self.draws)],
        }
        for arm, drawn in controls.items():
            rows += [(arm, *row) for row in summary([base.take(chosen) for chosen in drawn], real)]
        return Output({f"kept_{arm}": chosen for arm, chosen in kept.items()}, {"rows": rows})


def summary(drawn: list[Described], real: Float[Tensor, "m d"]) -> Iterator[tuple[str, float, int]]:
    """(metric, mean over sets of one size, that size)."""
    found = [measured(fake, real) for fake in drawn]
    for metric in found[0]:
        yield metric, sum(f[metric] for f in found) / len(found), len(drawn[0].labels)


def count(share: float, of: int) -> int:
    """How many images a share of a class is: at least one."""
    return max(1, round(share * of))


def random_per_class(labels: Int[Tensor, " n"], share: float, rng: torch.Generator) -> Int[Tensor, " k"]:
    """Rows of as many images of every class as it has medoids."""
    own = [(labels == c).nonzero().squeeze(1) for c in labels.unique()]
    return torch.cat([o[torch.randperm(len(o), generator=rng)[: count(share, len(o))]] for o in own])


def sufficient(found: Nearest) -> Int[Tensor, " k"]:
    """Per matched private image its nearest reconstruction and the closest one assigned to it: DDCS needs no other.

    Ascending, at most two per matched image.  Source: specification ddcs_ngd, section 2.2, property 6.
    """
    by_any, by_assigned = ddcs(found), ddcs(found, Options(dist="assigned"))
    return torch.cat([by_any.nearest[by_any.matched], by_assigned.nearest[by_any.matched]]).unique()


def greedy(
    fake: Float[Tensor, "n d"], real: Float[Tensor, "m d"], needed: Int[Tensor, " k"], axes: int
) -> Int[Tensor, " j"]:
    """Rows that remain when all but the needed ones are removed one by one, each time the one that lowers FD most.

    Of all sets on the way, from all rows to the needed ones, that of least FD, ascending.  FD is taken on the leading
    axes of the private features, and the choice of a row to first order (`linearised`).
    """
    x, deviation = reduced(fake.double(), real.double(), axes)
    there, free = torch.ones(len(x), dtype=torch.bool), torch.ones(len(x), dtype=torch.bool)
    free[needed] = False
    best, least = there.clone(), torch.inf
    while True:
        value, change = linearised(x, there, deviation)
        if value < least:
            best, least = there.clone(), value
        if not bool(free.any()) or int(there.sum()) <= 3:
            return best.nonzero().squeeze(1)
        gone = int(change.masked_fill(~free, torch.inf).argmin())
        there[gone] = free[gone] = False


def reduced(
    fake: Float[Tensor, "n d"], real: Float[Tensor, "m d"], axes: int
) -> tuple[Float[Tensor, "n a"], Float[Tensor, " a"]]:
    """Fakes on the leading principal axes of the reals, whose mean there is 0, and the reals' deviations on them."""
    centre = real.mean(0)
    _, scale, directions = torch.linalg.svd(real - centre, full_matrices=False)
    a = min(axes, len(scale))
    return (fake - centre) @ directions[:a].T, scale[:a] / (len(real) - 1) ** 0.5


def linearised(
    x: Float[Tensor, "n a"], there: Bool[Tensor, " n"], deviation: Float[Tensor, " a"]
) -> tuple[float, Float[Tensor, " n"]]:
    r"""FD of the k rows that are `there` to reals of mean 0, and about what it becomes without each of them.

    The reals' own trace, which never changes, is left out of both.  With mean $m$ and covariance $S$ of the rows,
    $v=x-m$, the mean without row $x$ is $m-v/(k-1)$ and the covariance $\alpha S-\beta vv^\top$,
    $\alpha=\frac{k-1}{k-2}$, $\beta=\frac{k}{(k-1)(k-2)}$.  With $M=RSR$, R the diagonal of `deviation`, to first
    order in $\beta$:
    $\mathrm{tr}(M')^{1/2}\approx\sqrt\alpha\,\mathrm{tr}M^{1/2}-\frac{\beta}{2\sqrt\alpha}v^\top RM^{-1/2}Rv$.
    """
    k = int(there.sum())
    mean = x[there].mean(0)
    v = x - mean
    covariance = v[there].T @ v[there] / (k - 1)
    values, vectors = torch.linalg.eigh(deviation[:, None] * covariance * deviation)
    roots = values.clamp(min=0).sqrt()
    inverse = torch.where(values > 1e-10 * values[-1], 1 / roots, 0.0)  # 0 where the rows span no such axis
    alpha, beta = (k - 1) / (k - 2), k / ((k - 1) * (k - 2))
    trace, length = covariance.trace(), v.square().sum(1)
    cross = alpha**0.5 * roots.sum() - beta / (2 * alpha**0.5) * ((v * deviation @ vectors).square() @ inverse)
    without = (mean - v / (k - 1)).square().sum(1) + alpha * trace - beta * length - 2 * cross
    return float(mean.square().sum() + trace - 2 * roots.sum()), without


def medoids_per_class(x: Float[Tensor, "n d"], labels: Int[Tensor, " n"], share: float) -> Int[Tensor, " k"]:
    """Rows of the medoids of every class, ascending."""
    own = [(labels == c).nonzero().squeeze(1) for c in labels.unique()]
    return torch.cat([o[medoids(torch.cdist(x[o], x[o]), count(share, len(o)))] for o in own]).sort().values


def medoids(distance: Float[Tensor, "n n"], k: int) -> Int[Tensor, " k"]:
    """k distinct rows of small total distance to the nearest of them: greedy start, then alternation to rest.

    Source: Kaufman & Rousseeuw 1990 (BUILD); Park & Jun 2009 (alternation).
    """
    least, chosen = torch.full((len(distance),), torch.inf, dtype=distance.dtype), []
    for _ in range(k):
        total = torch.minimum(distance, least).sum(1)
        total[chosen] = torch.inf
        chosen.append(int(total.argmin()))
        least = torch.minimum(least, distance[chosen[-1]])
    found = torch.tensor(chosen)
    while True:
        nearest = distance[found].argmin(0)
        nearest[found] = torch.arange(k)  # its own, where rows coincide
        groups = [(nearest == i).nonzero().squeeze(1) for i in range(k)]
        moved = torch.stack([rows[distance[rows][:, rows].sum(1).argmin()] for rows in groups])
        if distance[moved].amin(0).sum() >= distance[found].amin(0).sum():
            return found
        found = moved

"""Whether the same private images are matched by every seed of an attack, and can be named from some of the seeds."""

from itertools import combinations
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, SerializeAsAny
from torch import Tensor

from mi_utils.metrics.ddcs import ddcs
from mi_utils.metrics.intervals import ranks, spearman
from mi_utils.models import perceptual as nets
from mi_utils.stage import Job, Output, Stage
from mi_utils.studies.ddcs_ngd.measures import NET, Embedded, Measured, near, same_classes

Row = tuple[str, float, int]  # statistic, value, number of pairs, splits or seeds that it averages


class Stability(Measured):
    r"""Rows of (statistic, value, n) in `meta["rows"]`, and per seed and private image `score` $\mu_ig(d_i)$.

    Besides `score` (S, N) it stores `matched` (S, N) and the private images' `labels` (N,).
    Source: specification ddcs_ngd, section 6 (per-sample stability) and section 8, C10 and C16.
    """

    attacks: Annotated[tuple[SerializeAsAny[Stage], ...], Field(min_length=2)]  # seeds of one attack

    def compute(self, job: Job) -> Output:
        """DDCS of every seed against one private set."""
        made = [self.made(attack, job.device) for attack in self.attacks]
        same_classes({f"attacks[{seed}]": labels for seed, (_, labels) in enumerate(made)})
        private = self.drawn(made[0][1])
        net = nets.load(NET).to(job.device)
        real = Embedded.of(private.images, net)
        found = [ddcs(near(real.distances(images))) for images, _ in made]
        score, matched = torch.stack([f.score for f in found]), torch.stack([f.matched for f in found])
        labels = private.labels.cpu()
        rows = [*between_seeds(score, matched), *predicted(score, matched, labels)]
        return Output({"score": score, "matched": matched, "labels": labels}, {"rows": rows})


def between_seeds(score: Float[Tensor, "s n"], matched: Bool[Tensor, "s n"]) -> list[Row]:
    """Mean Spearman correlation of scores and Jaccard index of matched sets over pairs; coverage of all together.

    Who is matched does not depend on the other reconstructions, so what the union of all seeds matches is the union
    of what they match.
    """
    pairs = list(combinations(range(len(score)), 2))
    one, other = (torch.tensor(side) for side in zip(*pairs, strict=True))
    both, either = (matched[one] & matched[other]).sum(1), (matched[one] | matched[other]).sum(1)
    return [
        ("Spearman", float(spearman(score[one], score[other]).mean()), len(pairs)),
        ("Jaccard", float((both / either).mean()), len(pairs)),
        ("union coverage", float(matched.any(0).double().mean()), len(score)),
    ]


def predicted(score: Float[Tensor, "s n"], matched: Bool[Tensor, "s n"], labels: Int[Tensor, " n"]) -> list[Row]:
    """AUC of the mean score of half of the seeds (rounded down) as a sign of a match by another seed.

    Mean over all halves and over the seeds that are left; `AUC label mean` knows of an image its label's mean alone.
    """
    halves = list(combinations(range(len(score)), len(score) // 2))
    by_image, by_label = [], []
    for half in halves:
        left = [seed for seed in range(len(score)) if seed not in half]
        sign = score[list(half)].mean(0)
        by_image += [auc(sign, matched[seed]) for seed in left]
        by_label += [auc(label_mean(sign, labels), matched[seed]) for seed in left]
    return [
        ("AUC", sum(by_image) / len(by_image), len(halves)),
        ("AUC label mean", sum(by_label) / len(by_label), len(halves)),
    ]


def label_mean(value: Float[Tensor, " n"], labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """For every image the mean value of its label."""
    _, member = labels.unique(return_inverse=True)
    count = member.bincount()
    return (torch.zeros(len(count), dtype=value.dtype).index_add(0, member, value) / count)[member]


def auc(sign: Float[Tensor, " n"], true: Bool[Tensor, " n"]) -> float:
    """Share of (true, false) pairs that the sign puts in this order, ties half; 0.5 where there is no such pair."""
    positive = int(true.sum())
    negative = len(true) - positive
    if not positive or not negative:
        return 0.5
    return float(ranks(sign)[true].sum() - positive * (positive + 1) / 2) / (positive * negative)

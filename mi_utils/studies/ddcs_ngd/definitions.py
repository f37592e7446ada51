"""What the unknown parts of DDCS decide: the order of attacks under every definition."""

from collections.abc import Iterator
from itertools import product
from typing import Annotated, get_args

import torch
from jaxtyping import Float, Int
from pydantic import Field, SerializeAsAny
from scipy.stats import kendalltau
from torch import Tensor

from mi_utils.metrics.ddcs import Match, Options, Scope, Transform, ddcs
from mi_utils.models import perceptual as nets
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Output, Stage
from mi_utils.studies.ddcs_ngd.measures import NET, Embedded, Measured, near, same_classes

Values = dict[tuple[str, Options], dict[str, float]]  # network and definition: attack: DDCS


class Definitions(Measured):
    """Rows of (net, transform, match, score, scope, attack, DDCS, tau) in `meta["rows"]`.

    tau: Kendall's tau-b of this definition's order of the attacks to the default one's under the first network.
    Source: specification ddcs_ngd, section 7, T4.
    """

    attacks: Annotated[dict[str, SerializeAsAny[Stage]], Field(min_length=2)]
    nets: Annotated[tuple[str, ...], Field(min_length=1)] = (NET, "st-lpips-vgg")

    def compute(self, job: Job) -> Output:
        """Every attack is embedded once per network."""
        made = {name: self.made(attack, job.device) for name, attack in self.attacks.items()}
        same_classes({name: labels for name, (_, labels) in made.items()})
        private = self.drawn(next(iter(made.values()))[1])
        values: Values = {}
        for key in self.nets:
            net = nets.load(key).to(job.device)
            real = Embedded.of(private.images, net)
            found = {name: (real.distances(x), labels) for name, (x, labels) in made.items()}
            values |= {(key, option): value for option, value in defined(found, real.among(), private.labels)}
        return Output(meta={"rows": list(with_tau(values, (self.nets[0], Options())))})


def options(scale: float) -> list[Options]:
    """Every transform, match, score and scope; threshold and scale are both `scale`.

    Where all private images count, matching decides nothing: there it stays at its default.
    """
    kinds = [(match, "matched") for match in get_args(Match)] + [("assign", "all")]
    return [
        Options(
            transform=transform,
            scale=scale if transform == "recip1p_scaled" else None,
            match=match,
            threshold=scale if match == "threshold" else None,
            score=score,
            scope=scope,
        )
        for transform, (match, score), scope in product(get_args(Transform), kinds, get_args(Scope))
    ]


def defined(
    found: dict[str, tuple[Float[Tensor, "n m"], Int[Tensor, " n"]]],
    among: Float[Tensor, "m m"],
    real_labels: Int[Tensor, " m"],
) -> Iterator[tuple[Options, dict[str, float]]]:
    """DDCS of every set of (distances, labels) under every definition.

    `among`: squared distances of the private images, infinite to themselves.  The scale is the median nearest one
    between two halves of them; a k-NN ball is that among all private images, whatever the scope.
    """
    radius = among.kthvalue(Options().k, 1).values
    nearest = {}
    for name, (distance, labels) in found.items():
        equal = labels[:, None] == real_labels.cpu()
        nearest[name] = {"global": near(distance), "label": near(distance, equal)}
    order = torch.randperm(len(among), generator=seeded("private halves"))
    half = len(order) // 2
    for option in options(float(among[order[:half]][:, order[half:]].amin(1).median())):
        ball = radius if option.match == "knn_ball" else None
        yield option, {name: ddcs(by_scope[option.scope], option, ball).ddcs for name, by_scope in nearest.items()}


def with_tau(values: Values, default: tuple[str, Options]) -> Iterator[tuple]:
    """One row per network, definition and attack."""
    for (net, option), by_attack in values.items():
        tau = agreement(list(by_attack.values()), list(values[default].values()))
        for attack, value in by_attack.items():
            yield net, option.transform, option.match, option.score, option.scope, attack, value, tau


def agreement(one: list[float], other: list[float]) -> float:
    """Kendall's tau-b in [-1, 1]; 0 where either has all values equal, hence no order."""
    if len(set(one)) == 1 or len(set(other)) == 1:
        return 0.0
    return float(kendalltau(one, other).statistic)

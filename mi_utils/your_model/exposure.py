"""What the attacks' images amount to: for every attack the same measures, or the reason why one cannot be had."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor, nn

from mi_utils.audit import ranking
from mi_utils.audit.ranking import Pair
from mi_utils.metrics import accuracy, diversity
from mi_utils.models.perceptual import Perceptual
from mi_utils.scoring import attack, perception, spread
from mi_utils.scoring.align import Sets, align
from mi_utils.scoring.context import Context, Say
from mi_utils.scoring.inputs import Labelled
from mi_utils.scoring.judges import Judge, Judges
from mi_utils.scoring.request import LEAST_SIDE
from mi_utils.scoring.search import Searcher
from mi_utils.scoring.table import Row, frame, missing, over_classes, over_images
from mi_utils.training.classifier import TrainClassifier
from mi_utils.your_model.given import Given

GROUP = "attack"
NO_PRIVATE = "no private images given"
PAIRS = 6  # shown of each attack
UNASKED = ("accepted", "DDCS: public", "DDCS, distances scaled", "closeness, distances scaled", "nDDCS, distances")


@dataclass(frozen=True)
class Exposure:
    """One attack: its images by seed, its rows, and, with private images, those it came closest to.

    near: median distance from an image to its nearest private one, of the reconstructions and, at one number of
    images, of others; empty without private images.
    """

    name: str
    title: str
    seeds: tuple[Labelled, ...]
    rows: tuple[Row, ...]
    near: dict[str, float]
    listing: pd.DataFrame | None
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]

    def row(self, name: str) -> Row | None:
        """The row of this full or short name, where there is one with a value."""
        found = (r for r in self.rows if name in (r.metric, r.short) and r.value is not None)
        return next(found, None)

    def frame(self) -> pd.DataFrame:
        """The rows as a table, the attack first."""
        table = frame(self.rows)
        table.insert(0, "attack", self.title)
        return table


class Renumbered(nn.Module):
    """A classifier of some classes with its logits at those classes' places among all; the others get none."""

    def __init__(self, net: nn.Module, places: Sequence[int], classes: int) -> None:
        super().__init__()
        self.net, self.classes = net, classes
        self.register_buffer("places", torch.tensor(places), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        said = self.net(x)
        return said.new_full((len(said), self.classes), -1e4).index_copy(1, self.places, said)


def judges(given: Given, trained: dict[str, TrainClassifier], reason: str, device: torch.device) -> Judges:
    """The classifier itself, and the evaluators, where there are any; `reason`: why there are none."""
    names = given.settings.names
    target = Judge("target", given.network, len(names), given.recipe.reject)
    plain = []
    for name, stage in trained.items():
        places = _places(stage.facts()["classes"], names)
        net = Renumbered(stage.network(device), places, len(names)).to(device)
        plain.append(Judge(f"evaluator {name}", net, len(names), False))
    return Judges((target,), tuple(plain), (), no_evaluator=reason)


def _places(folders: Sequence[str], names: Sequence[str]) -> list[int]:
    """Outputs of the class folders, as `given` found them."""
    by_number = {str(int(name)): i for i, name in enumerate(names) if name.isdecimal()}
    by_name = {name: i for i, name in enumerate(names)}
    return [by_name[n] if n in by_name else by_number[str(int(n))] for n in folders]


def exposure(
    given: Given, name: str, title: str, seeds: Sequence[Labelled], nets: Judges, net: Perceptual,
    device: torch.device, say: Say,
) -> Exposure:  # fmt: skip
    """All measures of one attack."""
    if given.private is None:
        return Exposure(name, title, tuple(seeds), tuple(_alone(given, seeds, nets, device)), {}, None, (), ())
    context = Context(_aligned(given, seeds, net), net, device, "global", say)
    searcher = Searcher(net, None)
    part, found = perception.part(context, searcher)
    rows = [*attack.part(context, nets, None).rows, *part.rows, *spread.part(context, []).rows]
    best = ranking.ranked(found)
    return Exposure(
        name,
        title,
        context.sets.seeds,
        tuple(_in_our_words(r) for r in rows if r.metric not in UNASKED and not r.short.startswith(UNASKED)),
        _near(context, searcher),
        ranking.listing(context, best),
        ranking.pairs(context, best, PAIRS),
        context.sets.notes,
    )


def _in_our_words(row: Row) -> Row:
    """What stands for the attacker's prior here are the auxiliary images themselves."""
    words = {"reference prior": "reference auxiliary", "samples of the attacker's prior": "auxiliary images",
             "the prior alone": "the auxiliary images", "DDCS: prior": "DDCS: auxiliary"}  # fmt: skip
    said = {name: getattr(row, name) for name in ("metric", "what", "short")}
    for old, new in words.items():
        said = {name: text.replace(old, new) for name, text in said.items()}
    return replace(row, **said)


def _aligned(given: Given, seeds: Sequence[Labelled], net: Perceptual) -> Sets:
    """Reconstructions, private, held-out and auxiliary images in one size; auxiliary ones stand for the prior."""
    public = Labelled(given.auxiliary, None, None, "auxiliary images")
    others = {"prior": public} | ({"holdout": given.holdout} if given.holdout is not None else {})
    return align(seeds, given.private, others, given.side, max(net.least_side, LEAST_SIDE))


def _near(context: Context, searcher: Searcher) -> dict[str, float]:
    """Median distance to the nearest private image: reconstructions of the first seed, and as many others."""
    kept, sets = perception.same_size(context), context.sets
    real = searcher.embedded(sets.private)
    parts = {"reconstructions": (sets.seeds[0], kept["0"])}
    parts |= {name: (found, kept[name]) for name, found in sets.others.items()}
    found = {}
    for name, (images, rows) in parts.items():
        near = searcher.near(searcher.embedded(images.take(rows)), real, "global")
        found[{"prior": "auxiliary"}.get(name, name)] = float(near.q_fake.median())
    return found


def _alone(given: Given, seeds: Sequence[Labelled], nets: Judges, device: torch.device) -> list[Row]:
    """What can be measured without private images: the classifier's own opinion, and how much images vary."""
    (target,) = nets.targets
    said = [target.logits(seed.images, device) for seed in seeds]
    pairs = list(zip(said, (seed.labels for seed in seeds), strict=True))
    rows = [
        over_images(GROUP, "top-1 target", [accuracy.top_k(logits, y) for logits, y in pairs]),
        over_images(GROUP, "confidence target", [accuracy.confidence(logits, y) for logits, y in pairs]),
    ]
    each = [
        {c: diversity.pixel_spread(seed.images[seed.labels == c]) for c in seed.labels.unique().tolist()}
        for seed in seeds
    ]
    rows.append(over_classes("diversity", "pixel spread", each, "grey levels", "standard deviation inside a class"))
    absent = ("evaluators' accuracy", "coverage", "DDCS", "nDDCS", "rho_pix", "distance to the nearest private image")
    return [*rows, *(missing(GROUP, metric, NO_PRIVATE, metric) for metric in absent)]

"""What target and evaluators say of the reconstructions.  No image is left out for being a failure."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_utils.metrics import accuracy, matching
from mi_utils.scoring.context import Context, Part
from mi_utils.scoring.features import Space
from mi_utils.scoring.judges import Judge, Judges
from mi_utils.scoring.table import Row, class_means, missing, over_images, over_private

GROUP = "attack"
Logits = Sequence[Float[Tensor, "n k"]]  # one entry a seed


@dataclass(frozen=True)
class Said:
    """Logits of every seed's reconstructions, by net."""

    target: Logits
    plain: dict[str, Logits]
    rejecting: dict[str, Logits]


def part(context: Context, judges: Judges, space: Space | None) -> Part:
    """All rows of the group.  `space`: the first evaluator's features, where it has any."""
    found = Part()
    if judges.everyone():
        said = _said(context, judges)
        if judges.targets:
            _judged(context, found, "target", said.target)
        for name, logits in said.plain.items():
            _judged(context, found, name, logits)
        _ensemble(context, found, said)
        found.rows += _clean(context, judges)
    found.rows += [missing(GROUP, "target's accuracy", judges.no_target)] if judges.no_target else []
    found.rows += [missing(GROUP, "evaluators' accuracy", judges.no_evaluator)] if judges.no_evaluator else []
    if space is not None:
        _feature_distances(context, found, space)
    return found


def _said(context: Context, judges: Judges) -> Said:
    """Every net asked once about every image."""

    def asked(judge: Judge) -> Logits:
        context.say(f"asking {judge.name}")
        return [judge.logits(found.images, context.device) for found in context.sets.seeds]

    seeds = enumerate(context.sets.seeds) if judges.targets else ()
    return Said(
        [judges.target(i).logits(found.images, context.device) for i, found in seeds],
        {judge.name: asked(judge) for judge in judges.plain},
        {judge.name: asked(judge) for judge in judges.rejecting},
    )


def _judged(context: Context, found: Part, name: str, logits: Logits) -> None:
    """Top-1, top-5 and confidence of one net."""
    labels = context.sets.labels
    pairs = list(zip(logits, labels, strict=True))
    top1 = [accuracy.top_k(said, y) for said, y in pairs]
    found.rows.append(over_images(GROUP, f"top-1 {name}", top1))
    if logits[0].shape[1] > 5:
        found.rows.append(over_images(GROUP, f"top-5 {name}", [accuracy.top_k(said, y, 5) for said, y in pairs]))
    confidence = [accuracy.confidence(said, y) for said, y in pairs]
    found.rows.append(over_images(GROUP, f"confidence {name}", confidence))
    found.classes += class_means(f"top-1 {name}", top1, labels, context.classes)


def _ensemble(context: Context, found: Part, said: Said) -> None:
    """The evaluators together, and beside the target."""
    if not said.plain:
        return
    labels = context.sets.labels
    seeds = range(len(labels))
    nets = [{name: logits[i] for name, logits in said.plain.items()} for i in seeds]
    votes = [accuracy.vote(nets[i], labels[i]) for i in seeds]
    correct = [accuracy.correct_by(nets[i], labels[i]) for i in seeds]
    mean = [vote["mean"] for vote in votes]
    found.rows.append(over_images(GROUP, "ensemble mean", mean, what=f"{len(said.plain)} evaluators"))
    strictest = int(torch.cat(correct, 1).double().mean(1).argmin())
    about = f"the strictest: {list(said.plain)[strictest]}"
    found.rows.append(over_images(GROUP, "ensemble min", [c[strictest] for c in correct], what=about))
    found.rows.append(over_images(GROUP, "ensemble majority", [vote["majority"] for vote in votes]))
    accepted = _accepted(said, labels)
    agreed = [v["unanimous"] if a is None else v["unanimous"] & a for v, a in zip(votes, accepted, strict=True)]
    about = f"{len(said.plain) + len(said.rejecting)} nets"
    found.rows.append(over_images(GROUP, "ensemble unanimous", agreed, what=about))
    if said.rejecting:
        found.rows.append(over_images(GROUP, "accepted", accepted, what="nets with the answer 'none of these' say so"))
    else:
        found.rows.append(missing(GROUP, "accepted", "no evaluator with `reject: true` given"))
    if said.target:
        found.rows.append(_gap(said.target, labels, mean))
    found.classes += class_means("ensemble mean", mean, labels, context.classes)


def _gap(target: Logits, labels: Sequence[Tensor], mean: Sequence[Tensor]) -> Row:
    """How much better the reconstructions please the attacked net than nets that the attack never saw."""
    gap = [accuracy.top_k(logits, y).double() - m for logits, y, m in zip(target, labels, mean, strict=True)]
    return over_images(GROUP, "overfit gap", gap, what="target's top-1 minus the evaluators' mean")


def _accepted(said: Said, labels: Sequence[Tensor]) -> list[Bool[Tensor, " n"] | None]:
    """Whether all reject nets name the class; None where there are none."""
    if not said.rejecting:
        return [None] * len(labels)
    nets = list(said.rejecting.values())
    return [torch.stack([accuracy.top_k(net[i], y) for net in nets]).all(0) for i, y in enumerate(labels)]


def _clean(context: Context, judges: Judges) -> list[Row]:
    """Top-1 of every net on held-out private images: what its verdict on reconstructions is worth."""
    holdout = context.sets.others.get("holdout")
    if holdout is None:
        return []
    rows = []
    groups = {"target": judges.targets} if judges.targets else {}
    for name, nets in {**groups, **{j.name: (j,) for j in (*judges.plain, *judges.rejecting)}}.items():
        right = [accuracy.top_k(net.logits(holdout.images, context.device), holdout.labels) for net in nets]
        words = ("held-out", "net")
        rows.append(over_private(GROUP, f"clean top-1 {name}", torch.stack(right).double(), words=words))
    return rows


def _feature_distances(context: Context, found: Part, space: Space) -> None:
    """Distance to the class's mean private feature, and squared to its nearest private image."""
    private, labels = context.sets.private.labels, context.sets.labels
    real = space.real.cpu()
    fakes = [(fake.cpu(), y) for fake, y in zip(space.fakes, labels, strict=True)]
    centroid = [matching.centroid_distance(fake, y, real, private) for fake, y in fakes]
    near = [
        matching.knn_distance(matching.nearest(fake, real, fake_labels=y, real_labels=private)) for fake, y in fakes
    ]
    for metric, values, what in (
        ("feature distance to the centroid", centroid, "Euclidean, to the class's mean"),
        ("feature KNN distance", near, "squared, to the class's nearest private image"),
    ):
        name = f"{metric} [{space.name}]"
        found.rows.append(over_images(GROUP, name, values, "distance", what, metric))
        found.classes += class_means(name, values, labels, context.classes)

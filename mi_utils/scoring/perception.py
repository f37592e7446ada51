"""DDCS beside its references, KNN distance, and which private images are exposed: all under one perceptual distance.

Source of the definitions: specification of DDCS, sections 2.2 and 6.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.metrics import ddcs, intervals, matching, references
from mi_utils.metrics.matching import Nearest
from mi_utils.runtime import generator as seeded
from mi_utils.scoring.context import Context, Part
from mi_utils.scoring.search import Embedded, Searcher
from mi_utils.scoring.table import ClassRow, Row, class_means, missing, over_images, over_private

GROUP = "perceptual"
REFERENCES = {
    "prior": "samples of the attacker's prior",
    "public": "the attacker's public images",
    "holdout": "private images that the target has not seen",
}


@dataclass(frozen=True)
class Search:
    """Nearest neighbours of one seed: in the scope asked for, inside classes, and cut to the references' size."""

    near: Nearest
    in_class: Nearest
    cut: Nearest | None


@dataclass(frozen=True)
class Exposure:
    """Private images by how exposed they are, over the reconstructions of all seeds one after another."""

    ranked: list[ddcs.Exposed]
    matched_in: Int[Tensor, " n"]  # number of seeds


def part(context: Context, searcher: Searcher, transform: ddcs.Transform = "recip1p") -> tuple[Part, Exposure]:
    """All rows of the group, and the ranked list of private images.  `transform`: of DDCS, one without a scale."""
    context.say(f"embedding {len(context.sets.private):,} private images, {context.net.name}")
    real = searcher.embedded(context.sets.private)
    kept = same_size(context)
    searches = [_search(context, searcher, real, i, kept) for i in range(len(context.sets.seeds))]
    others = _reference_searches(context, searcher, real, kept)
    found = Part()
    plain = ddcs.Options(transform, scope=context.scope)
    for options in (plain, _scaled(searcher, real, context.scope)):
        if isinstance(options, Row):
            found.rows.append(options)
        else:
            found.rows += _rows(context, options, searches, others)
    found.rows += [*_stability(searches, plain), *_distances(context, searches)]
    found.classes += _class_rows(context, searches, plain)
    return found, exposure(context, searches, plain)


def same_size(context: Context) -> dict[str, Int[Tensor, " m"]]:
    """Rows of every set, cut to the size of the smallest; empty where there is no reference set."""
    others = {name: context.sets.others[name] for name in REFERENCES if name in context.sets.others}
    if not others:
        return {}
    everyone = {str(i): found for i, found in enumerate(context.sets.seeds)} | others
    # What travels as labels are the rows themselves, so that embeddings can be cut with them.
    whole = {name: (found.images, torch.arange(len(found))) for name, found in everyone.items()}
    return {name: rows for name, (_, rows) in references.same_size(whole, seeded("score size")).items()}


def _search(
    context: Context, searcher: Searcher, real: Embedded, i: int, kept: Mapping[str, Int[Tensor, " m"]]
) -> Search:
    """One seed; its embeddings are let go afterwards."""
    found = context.sets.seeds[i]
    context.say(f"nearest private images of {len(found):,} reconstructions, seed {i + 1} of {len(context.sets.seeds)}")
    fake = searcher.embedded(found)
    near = searcher.near(fake, real, context.scope)
    in_class = near if context.scope == "label" else searcher.near(fake, real, "label")
    if not kept:
        return Search(near, in_class, None)
    rows = kept[str(i)]
    cut = near if len(rows) == len(found) else searcher.near(fake.take(rows, found.labels[rows]), real, context.scope)
    return Search(near, in_class, cut)


def _reference_searches(
    context: Context, searcher: Searcher, real: Embedded, kept: Mapping[str, Int[Tensor, " m"]]
) -> dict[str, Nearest]:
    """The same for every reference set.

    Prior and public images belong to no private class: in label scope they are dealt the classes of the
    reconstructions at random, as an attacker without a target would.
    """
    found = {}
    for name in (name for name in REFERENCES if name in kept):
        context.say(f"nearest private images of the {name} set")
        rows, data = kept[name], context.sets.others[name]
        first = context.sets.seeds[0].labels[kept["0"]]
        dealt = first[torch.randperm(len(first), generator=seeded("score dealt", name))]
        cut = searcher.embedded(data.take(rows))
        found[name] = searcher.near(
            replace(cut, labels=dealt if cut.labels is None else cut.labels), real, context.scope
        )
    return found


def _scaled(searcher: Searcher, real: Embedded, scope: ddcs.Scope) -> ddcs.Options | Row:
    """DDCS that measures distance in units of s; a row that says why not where s cannot be had."""
    try:
        return ddcs.Options("recip1p_scaled", searcher.scale(real), scope=scope)
    except UserError as error:
        return missing(GROUP, "DDCS, distances scaled", str(error))


# ---------------------------------------------------------------- rows


def _scores(searches: list[Nearest], options: ddcs.Options) -> tuple[Float[Tensor, "s n"], Bool[Tensor, "s n"]]:
    """mu_i g(d_i) and mu_i of every seed."""
    found = [ddcs.ddcs(near, options) for near in searches]
    return torch.stack([f.score for f in found]), torch.stack([f.matched for f in found])


def _rows(context: Context, options: ddcs.Options, searches: list[Search], others: Mapping[str, Nearest]) -> list[Row]:
    """DDCS with its parts, its references and its normalised form under one transform."""
    name = options.name(context.net.name)
    short = "DDCS" if options.scale is None else "DDCS, distances scaled"
    score, matched = _scores([s.near for s in searches], options)
    rows = [over_private(GROUP, name, score, short=short)]
    if options.scale is None:
        rows.append(over_private(GROUP, f"coverage of {name}", matched.double(), short="coverage"))
    about = "closeness: mean g(d) over the matched"
    brief = "closeness" if options.scale is None else "closeness, distances scaled"
    closeness = _ratio(score, matched.double())
    rows.append(over_private(GROUP, f"closeness of {name}", closeness, what=about, short=brief))
    return rows + _reference_rows(name, short, options, searches, others)


def _reference_rows(
    name: str, short: str, options: ddcs.Options, searches: list[Search], others: Mapping[str, Nearest]
) -> list[Row]:
    """DDCS of every reference set at the reconstructions' number, and nDDCS."""
    rows, scores = [], {}
    if others:
        size = len(next(iter(others.values())).q_fake)
        scores = {label: _scores([near], options)[0] for label, near in others.items()}
        ours = _scores([s.cut for s in searches if s.cut], options)[0]
        if any(len(s.near.q_fake) > size for s in searches):
            words = f"at {size:,} images"
            rows.append(over_private(GROUP, f"{name}, {words}", ours, short=f"{short}, {words}"))
    for label, what in REFERENCES.items():
        metric, brief = f"{name}, reference {label}", f"{short}: {label}"
        if label in scores:
            rows.append(over_private(GROUP, metric, scores[label], what=f"{what}, {size:,} images", short=brief))
        elif options.scale is None:
            rows.append(missing(GROUP, metric, f"no --{label} given", brief))
    metric, brief = f"normalised {name}", f"n{short}"
    absent = [f"--{label}" for label in ("prior", "holdout") if label not in scores]
    if not absent:
        return [*rows, _normalised(metric, brief, ours, scores["prior"], scores["holdout"])]
    lacking = [missing(GROUP, metric, f"no {' and no '.join(absent)} given", brief)] if options.scale is None else []
    return rows + lacking


def _normalised(
    metric: str, brief: str, ours: Float[Tensor, "s n"], prior: Float[Tensor, "1 n"], holdout: Float[Tensor, "1 n"]
) -> Row:
    """nDDCS; the same private images are drawn for all three."""
    try:
        ddcs.normalised(float(ours.mean()), float(prior.mean()), float(holdout.mean()))
    except UserError as error:
        return missing(GROUP, metric, str(error), brief)
    about = "0 = the prior alone, 1 = held-out private images"
    return over_private(GROUP, metric, _ratio(ours - prior, holdout - prior), "ratio", about, brief)


def _ratio(a: Float[Tensor, "s n"], b: Float[Tensor, "_ n"]) -> Float[Tensor, "s n"]:
    r"""Values whose mean is $R=\bar a/\bar b$ and whose mean's spread is R's: $R+(a-Rb)/\bar b$ (delta method)."""
    ratio = a.mean() / b.mean()
    return ratio + (a - ratio * b) / b.mean()


def _stability(searches: list[Search], options: ddcs.Options) -> list[Row]:
    """Do the seeds expose the same private images?  Mean over pairs of seeds, nothing for one seed."""
    score, matched = _scores([s.near for s in searches], options)
    pairs = list(combinations(range(len(searches)), 2))
    if not pairs:
        return []
    ranks = [float(intervals.spearman(score[a], score[b])) for a, b in pairs]
    shared = [float((matched[a] & matched[b]).sum() / (matched[a] | matched[b]).sum()) for a, b in pairs]
    about = "mean over pairs of seeds; no interval"
    return [
        Row(GROUP, name, sum(v) / len(v), None, None, unit, score.shape[1], "private", len(score), f"{what}; {about}")
        for name, v, unit, what in (
            ("exposure, correlation of seeds", ranks, "correlation", "Spearman's, of the private images' scores"),
            ("matched images, overlap of seeds", shared, "share", "Jaccard index"),
        )
    ]


def _distances(context: Context, searches: list[Search]) -> list[Row]:
    """KNN distance and its inverse, inside classes, under the same network."""
    unit, name = "distance", context.net.name
    near = [s.in_class for s in searches]
    rows = [
        over_images(GROUP, f"KNN distance ({name})", [matching.knn_distance(n) for n in near], unit,
                    "to the nearest private image of the class")
    ]  # fmt: skip
    inverse = torch.stack([n.q_real for n in near])
    metric = f"inverse KNN distance ({name})"
    lost = sorted(set(context.sets.private.labels[torch.isinf(inverse).any(0)].tolist()))
    if lost:
        return [*rows, missing(GROUP, metric, f"some seed has no reconstruction of class {lost[0]}")]
    return [*rows, over_private(GROUP, metric, inverse, unit, "to the nearest reconstruction of the class")]


def _class_rows(context: Context, searches: list[Search], options: ddcs.Options) -> list[ClassRow]:
    """The same by class."""
    score, matched = _scores([s.near for s in searches], options)
    labels = [context.sets.private.labels] * len(searches)
    knn = [matching.knn_distance(s.in_class) for s in searches]
    name = options.name(context.net.name)
    return [
        *class_means(name, list(score), labels, context.classes),
        *class_means(f"coverage of {name}", list(matched), labels, context.classes),
        *class_means(f"KNN distance ({context.net.name})", knn, context.sets.labels, context.classes),
    ]


def exposure(context: Context, searches: list[Search], options: ddcs.Options) -> Exposure:
    """Matched by any seed, at the least distance over the seeds; the score is the mean over them."""
    found = [ddcs.ddcs(s.near, options) for s in searches]
    distance, seed = torch.stack([f.distance for f in found]).min(0)
    starts = torch.tensor([0, *(len(s.near.q_fake) for s in searches)]).cumsum(0)[:-1]
    which = torch.stack([f.nearest for f in found]).gather(0, seed[None])[0]
    matched = torch.stack([f.matched for f in found])
    merged = replace(
        found[0],
        matched=matched.any(0),
        distance=distance,
        nearest=torch.where(which < 0, -1, which + starts[seed]),
        score=torch.stack([f.score for f in found]).mean(0),
    )
    return Exposure(ddcs.exposure(merged, context.sets.private.labels), matched.sum(0))

"""Precision, recall, density, coverage, Fréchet and kernel distance in one feature space, pooled and by class."""

from collections.abc import Callable
from functools import cache, partial

import torch
from jaxtyping import Bool
from torch import Tensor

from mi_utils.metrics import sets
from mi_utils.scoring.context import Context, Part
from mi_utils.scoring.features import Space
from mi_utils.scoring.table import (
    Row,
    between_sets,
    class_values,
    missing,
    over_classes,
    over_images,
    over_private,
    without_groups,
)

K = 3
UNITS = {"precision": "share", "recall": "share", "density": "ratio", "coverage": "share"}


def group(name: str) -> str:
    """The table's section for a feature space."""
    return f"sets [{name}]"


def part(context: Context, space: Space) -> Part:
    """All rows of the space."""
    context.say(f"set metrics in {space.name}")
    found = Part()
    found.rows += _pooled_prdc(space)
    found.rows += [
        _distance(space, space.frechet, _frechet_from(space.real), _deficient(space)),
        _distance(space, space.kernel, partial(sets.kernel_distance, space.real), ""),
    ]
    _by_class(context, space, found)
    return found


def _pooled_prdc(space: Space) -> list[Row]:
    """The four over all classes together."""
    here, fewest = group(space.name), min(map(len, (space.real, *space.fakes)))
    names = {name: f"{name} (k={K})" for name in UNITS}
    if fewest <= K:
        return [missing(here, name, f"{fewest} image{'s' * (fewest != 1)}, {K + 1} needed") for name in names.values()]
    found = [sets.prdc_samples(space.real, fake, K) for fake in space.fakes]
    return [
        over_images(here, names["precision"], [f.precise for f in found]),
        over_private(here, names["recall"], torch.stack([f.recalled for f in found])),
        over_images(here, names["density"], [f.dense for f in found], UNITS["density"]),
        over_private(here, names["coverage"], torch.stack([f.covered for f in found])),
    ]


def _deficient(space: Space) -> str:
    """What a Fréchet distance from too few images has to say."""
    fewest, width = min(map(len, (space.real, *space.fakes))), space.real.shape[1]
    deficient = any(sets.rank_deficient(space.real, fake) for fake in space.fakes)
    return f"rank deficient: {fewest} images for {width} dimensions, biased upwards" if deficient else ""


def _frechet_from(real: Tensor) -> Callable[[Tensor], float]:
    """Fréchet distance of reconstructions from the private images, whose Gaussian is fitted once."""
    fitted = cache(lambda: sets.gaussian(real))
    return lambda fake: sets.frechet_between(fitted(), sets.gaussian(fake))


def _distance(space: Space, metric: str, distance: Callable[[Tensor], float], what: str) -> Row:
    """A distance from the private images of every seed, with its interval by leaving groups out."""
    n = sum(map(len, space.fakes))
    if min(map(len, (space.real, *space.fakes))) < 2:
        return missing(group(space.name), metric, "1 image, 2 needed")
    full = [distance(fake) for fake in space.fakes]
    left_out = [[distance(fake[rows]) for rows in without_groups(len(fake), 2, metric)] for fake in space.fakes]
    about = f"{len(space.real):,} private images"
    return between_sets(
        group(space.name), metric, full, left_out, n, "distance", "; ".join(filter(None, [about, what]))
    )


# ---------------------------------------------------------------- by class


def _by_class(context: Context, space: Space, found: Part) -> None:
    """Every metric inside every class, and its mean over the classes that have it."""
    counts = {c: sum(int((y == c).sum()) for y in context.sets.labels) for c in context.classes}
    here = group(space.name)
    prdc = [_per_class(context, space, i, K + 1, partial(sets.prdc, k=K)) for i in range(len(space.fakes))]
    reasons = {c: r for _, why in reversed(prdc) for c, r in why.items()}
    for name in UNITS:
        values = [{c: v[name] for c, v in per.items()} for per, _ in prdc]
        metric = f"{name} (k={K})"
        found.rows.append(_class_mean(here, metric, values, reasons, UNITS[name]))
        found.classes += class_values(f"{metric} [{space.name}]", values, reasons, counts)
    for metric, distance in ((space.frechet, sets.frechet_distance), (space.kernel, sets.kernel_distance)):
        each = [_per_class(context, space, i, 2, distance) for i in range(len(space.fakes))]
        reasons = {c: r for _, why in reversed(each) for c, r in why.items()}
        values = [per for per, _ in each]
        found.rows.append(_class_mean(here, metric, values, reasons, "distance"))
        found.classes += class_values(metric, values, reasons, counts)


def _class_mean(here: str, metric: str, values: list[dict[int, float]], reasons: dict[int, str], unit: str) -> Row:
    """Mean over classes; a seed without any such class leaves the row empty."""
    name = f"{metric}, class mean"
    if not all(values):
        return missing(here, name, next(iter(reasons.values())))
    left = f"{len(reasons)} classes left out: {next(iter(reasons.values()))}" if reasons else ""
    return over_classes(here, name, values, unit, left)


def _per_class(
    context: Context, space: Space, seed: int, least: int, metric: Callable[[Tensor, Tensor], object]
) -> tuple[dict, dict[int, str]]:
    """Class id -> value, and class id -> reason for those with fewer than `least` images."""
    values, reasons = {}, {}
    for c in context.classes:
        real, fake = of_class(context, seed, c)
        reasons |= too_few(c, real, fake, least)
        if c not in reasons:
            values[c] = metric(space.real[real.to(space.real.device)], space.fakes[seed][fake.to(space.real.device)])
    return values, reasons


def of_class(context: Context, seed: int, c: int) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " m"]]:
    """Which private images and which reconstructions of a seed are of class c."""
    return context.sets.private.labels == c, context.sets.labels[seed] == c


def too_few(c: int, real: Bool[Tensor, " n"], fake: Bool[Tensor, " m"], least: int) -> dict[int, str]:
    """{c: reason} where the class has fewer than `least` images on a side, else {}."""
    for count, what in ((int(fake.sum()), "reconstruction"), (int(real.sum()), "private image")):
        if count < least:
            return {c: f"class {c} has {count} {what}{'s' * (count != 1)}, {least} needed"}
    return {}

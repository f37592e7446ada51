"""Diversity: how much the reconstructions of a class vary beside its private images (1 = as much)."""

from collections.abc import Callable, Sequence

from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.metrics import diversity
from mi_utils.scoring.context import Context, Part
from mi_utils.scoring.features import Space
from mi_utils.scoring.sets import of_class, too_few
from mi_utils.scoring.table import class_values, missing, over_classes

GROUP = "diversity"


def part(context: Context, spaces: Sequence[Space]) -> Part:
    """rho_pix, and rho_feat in every space."""
    found = Part()
    pixels = [seed.images for seed in context.sets.seeds]
    _rows(context, found, "rho_pix", diversity.rho_pix, context.sets.private.images, pixels)
    for space in spaces:
        fakes = [fake.cpu() for fake in space.fakes]
        _rows(context, found, f"rho_feat [{space.name}]", diversity.rho_feat, space.real.cpu(), fakes)
    return found


def _rows(
    context: Context,
    found: Part,
    metric: str,
    rho: Callable[..., dict[int, float]],
    real: Tensor,
    fakes: Sequence[Tensor],
) -> None:
    """The ratio of every class, and its mean over classes."""
    each = [_per_class(context, i, rho, real, fake) for i, fake in enumerate(fakes)]
    values, reasons = [per for per, _ in each], {c: r for _, why in reversed(each) for c, r in why.items()}
    counts = {c: sum(int((y == c).sum()) for y in context.sets.labels) for c in context.classes}
    found.classes += class_values(metric, values, reasons, counts)
    if all(values):
        left = f"{len(reasons)} classes left out: {next(iter(reasons.values()))}" if reasons else ""
        found.rows.append(over_classes(GROUP, metric, values, "ratio", left))
    else:
        found.rows.append(missing(GROUP, metric, next(iter(reasons.values()))))


def _per_class(
    context: Context, seed: int, rho: Callable[..., dict[int, float]], real: Tensor, fake: Tensor
) -> tuple[dict[int, float], dict[int, str]]:
    """Class id -> ratio, or class id -> why there is none."""
    values, reasons = {}, {}
    for c in context.classes:
        r, f = of_class(context, seed, c)
        reasons |= too_few(c, r, f, 2)
        if c not in reasons:
            try:
                values |= rho(real[r], context.sets.private.labels[r], fake[f], context.sets.labels[seed][f], [c])
            except UserError as error:  # its private images do not vary at all
                reasons[c] = str(error)
    return values, reasons

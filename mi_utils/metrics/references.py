"""Sets of one size, for measures that rise with the number of images alone."""

from collections.abc import Mapping

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.metrics import checks

Labelled = tuple[UInt8[Tensor, "n c h w"], Int[Tensor, " n"]]


def same_size(sets: Mapping[str, Labelled], generator: torch.Generator) -> dict[str, Labelled]:
    """Every set cut to the size of the smallest: random rows without replacement, in their old order.

    Never with replacement: a repeated reconstruction covers nothing new and lowers coverage.  A set that has
    the least size already stays as it is.
    """
    if not sets:
        raise UserError("sets: expected at least 1 set of images, found 0; name the reconstructions")
    for name, (images, labels) in sets.items():
        checks.images(name, images)
        checks.labels(f"labels of {name}", labels, len(images))
    least = min(len(labels) for _, labels in sets.values())
    return {name: _drawn(images, labels, least, generator) for name, (images, labels) in sets.items()}


def _drawn(images: Tensor, labels: Tensor, count: int, generator: torch.Generator) -> Labelled:
    """`count` rows without replacement."""
    if len(labels) == count:
        return images, labels
    rows = torch.randperm(len(labels), generator=generator)[:count].sort().values.to(labels.device)
    return images[rows.to(images.device)], labels[rows]


def distinct(images: UInt8[Tensor, "n c h w"]) -> Int[Tensor, " m"]:
    """Rows of the first of every set of pixel-equal images, ascending.

    A private image that occurs twice can be matched once only, as ties go to the first; so private sets are
    thinned by this before coverage is counted.
    """
    checks.images("images", images)
    _, group = torch.unique(images.flatten(1), dim=0, return_inverse=True)
    first = torch.full((int(group.max()) + 1,), len(images), device=group.device)
    first.scatter_reduce_(0, group, torch.arange(len(images), device=group.device), "amin")
    return first.sort().values

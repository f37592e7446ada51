"""Spread of the reconstructions of a class over the spread of its real images: 1 = as varied as real."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.metrics import checks

ENTRIES = 2**23  # converted to float64 at a time; bounds memory, never changes a value


def pixel_spread(x: UInt8[Tensor, "n c h w"]) -> float:
    """Mean over pixels and channels of the standard deviation across images, in grey levels (0..255)."""
    columns = x.flatten(1).split(max(1, ENTRIES // len(x)), 1)
    return float(torch.cat([part.double().std(0) for part in columns]).mean())


def feature_spread(x: Float[Tensor, "n d"]) -> float:
    """Mean Euclidean distance over all pairs of different rows."""
    return float(torch.pdist(x.double()).mean())


def rho_pix(
    real: UInt8[Tensor, "n c h w"],
    real_labels: Int[Tensor, " n"],
    fake: UInt8[Tensor, "m c h w"],
    fake_labels: Int[Tensor, " m"],
    classes: Sequence[int],
) -> dict[int, float]:
    r"""$\rho_{pix}$ of each class: pixel spread of its fakes over that of its reals (0: collapsed)."""
    checks.images("real", real)
    checks.images("fake", fake)
    if real.shape[1:] != fake.shape[1:]:
        raise UserError(
            f"fake and real: expected one shape, found {tuple(fake.shape[1:])} and {tuple(real.shape[1:])}; "
            "resize and convert first"
        )
    rows = checks.class_pairs(real, real_labels, fake, fake_labels, classes, least=2)
    return {c: _ratio(pixel_spread(fake[f]), pixel_spread(real[r]), c) for c, (r, f) in rows.items()}


def rho_feat(
    real: Float[Tensor, "n d"],
    real_labels: Int[Tensor, " n"],
    fake: Float[Tensor, "m d"],
    fake_labels: Int[Tensor, " m"],
    classes: Sequence[int],
) -> dict[int, float]:
    r"""$\rho_{feat}$ of each class: mean pairwise feature distance of its fakes over that of its reals."""
    real, fake = checks.pair("real features", real, "fake features", fake)
    rows = checks.class_pairs(real, real_labels, fake, fake_labels, classes, least=2)
    return {c: _ratio(feature_spread(fake[f]), feature_spread(real[r]), c) for c, (r, f) in rows.items()}


def _ratio(fake: float, real: float, c: int) -> float:
    """fake / real, refused when the real images of the class do not vary at all."""
    if real == 0:
        raise UserError(f"real: expected varied images of class {c}, found identical ones; check the data file")
    return fake / real

"""What every measure demands of its inputs, said in one line when it is not met."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mi_utils.errors import UserError


def features(name: str, x: Tensor, least: int = 1) -> Tensor:
    """`x` as a float64 matrix (N, d), N >= `least`, d >= 1, every entry finite; else a UserError that names it.

    Floats of any width and integers are converted; booleans and complex numbers are no features.
    """
    if x.dtype == torch.bool or x.is_complex():
        raise UserError(f"{name}: expected real numbers, found {x.dtype}; convert them where their meaning is known")
    if x.ndim != 2 or x.shape[1] == 0:
        raise UserError(f"{name}: expected a feature matrix (N, d), found shape {tuple(x.shape)}; flatten each image")
    if len(x) < least:
        raise UserError(f"{name}: expected at least {least} rows, found {len(x)}; pass more images")
    finite(name, x)
    return x.double()


def pair(name_a: str, a: Tensor, name_b: str, b: Tensor, least: int = 1) -> tuple[Tensor, Tensor]:
    """Two float64 matrices of one width, each with `least` rows or more."""
    a, b = features(name_a, a, least), features(name_b, b, least)
    if a.shape[1] != b.shape[1]:
        raise UserError(
            f"{name_a} and {name_b}: expected the same feature width, found {a.shape[1]} and {b.shape[1]}; "
            "use one feature network for both"
        )
    return a, b


def finite(name: str, x: Tensor) -> None:
    """Raises when any entry is NaN or infinite: a failed measure must never become an empty cell."""
    bad = int((~torch.isfinite(x)).sum()) if x.is_floating_point() else 0
    if bad:
        raise UserError(f"{name}: expected finite numbers, found {bad} NaN or infinite entries; mend what made them")


def labels(name: str, ids: Tensor, count: int) -> Tensor:
    """`ids` as int64 (N,) with one class id for each of the `count` rows."""
    integers = not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
    if ids.ndim != 1 or len(ids) != count or not integers:
        raise UserError(
            f"{name}: expected {count} integer class ids, found {ids.dtype} of shape {tuple(ids.shape)}; "
            "pass one id per image"
        )
    return ids.long()


def images(name: str, x: Tensor) -> Tensor:
    """`x` unchanged when it is uint8 (N,C,H,W) with N >= 1 and C of 1 or 3."""
    if x.dtype != torch.uint8 or x.ndim != 4 or x.shape[1] not in (1, 3):
        raise UserError(
            f"{name}: expected uint8 (N,1,H,W) or (N,3,H,W), found {x.dtype} of shape {tuple(x.shape)}; "
            "convert at the boundary"
        )
    if len(x) == 0:
        raise UserError(f"{name}: expected at least 1 image, found 0; check the class filter")
    return x


def class_pairs(
    real: Tensor, real_labels: Tensor, fake: Tensor, fake_labels: Tensor, classes: Sequence[int], least: int = 1
) -> dict[int, tuple[Tensor, Tensor]]:
    """Class id -> (rows of reals, rows of fakes), at least `least` of each.  Class 0 is a class like any other."""
    if len(classes) == 0 or len(set(classes)) != len(classes):
        raise UserError(f"classes: expected distinct class ids, found {list(classes)}; list each class once")
    ids = {"real": labels("real_labels", real_labels, len(real)), "fake": labels("fake_labels", fake_labels, len(fake))}
    pairs = {int(c): tuple((x == int(c)).nonzero().squeeze(1) for x in ids.values()) for c in classes}
    for c, rows in pairs.items():
        for name, index in zip(ids, rows, strict=True):
            if len(index) < least:
                wanted = f"{least} image{'s' * (least > 1)} of class {c}"
                raise UserError(f"{name}: expected at least {wanted}, found {len(index)}; pass more")
    return pairs

"""The attacker's public images, checked against the target they are used with."""

import torch
from jaxtyping import UInt8
from torch import Tensor

from mi_utils.data import AnySource
from mi_utils.data.disjoint import check_disjoint
from mi_utils.errors import UserError
from mi_utils.training.classifier import TrainClassifier


def public_images(target: TrainClassifier, public: AnySource, device: torch.device | str) -> UInt8[Tensor, "n c s s"]:
    """The images of `public` on `device`, labels dropped.

    UserError where they share a class or an image with the target's private data, or are of another shape than the
    target takes.
    """
    for private in (target.train, target.test):
        check_disjoint(private, public, "public")
    images, facts = public.load().images, target.facts()
    expected = (facts["channels"], facts["size"], facts["size"])
    if tuple(images.shape[1:]) != expected:
        raise UserError(
            f"public: expected images {expected} as the target takes, found {tuple(images.shape[1:])}; "
            "set `size` and `channels`"
        )
    return images.to(device)


def require_images(images: UInt8[Tensor, "n c s s"], least: int) -> None:
    """UserError where there are fewer than `least` public images."""
    if len(images) < least:
        raise UserError(f"public: expected at least {least} images, found {len(images)}; give more of the source")

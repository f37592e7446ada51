"""Feature spaces of the set metrics, each under its own name."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.metrics.perceptual import to_rgb_float
from mi_utils.models import inception, perceptual
from mi_utils.models.perceptual import Perceptual
from mi_utils.scoring.context import Context
from mi_utils.scoring.judges import Judge, Judges

POOLED = "ST-LPIPS-alex pooled"
INCEPTION = "FID Inception"


@dataclass(frozen=True)
class Space:
    """Features of the private images (N, d) and of every seed's reconstructions (M_s, d).

    `frechet` and `kernel`: what the two distances are called in it; only Inception's are FID and KID.
    """

    name: str
    real: Float[Tensor, "n d"]
    fakes: tuple[Float[Tensor, "m d"], ...]

    @property
    def frechet(self) -> str:
        """Name of the Fréchet distance."""
        return "FID" if self.name == INCEPTION else f"FD({self.name})"

    @property
    def kernel(self) -> str:
        """Name of the kernel distance."""
        return "KID" if self.name == INCEPTION else f"KD({self.name})"


def pooled(context: Context) -> Space:
    """Spatial means of ST-LPIPS's feature maps: always there, as its weights come with a library."""
    own = context.net.key == "st-lpips-alex"
    net: Perceptual = context.net if own else perceptual.load("st-lpips-alex").to(context.device)
    return _space(context, POOLED, lambda x: _batched(net.pooled, x, context.device))


def judged(context: Context, judges: Judges) -> tuple[Space | None, str]:
    """The first evaluator's penultimate features, or None and why not."""
    if not judges.plain:
        return None, judges.no_evaluator
    judge: Judge = judges.plain[0]
    try:
        return _space(context, f"{judge.name} penultimate", lambda x: judge.features(x, context.device)), ""
    except UserError as error:
        return None, str(error)


def fid(context: Context) -> tuple[Space | None, str]:
    """Inception's features, or None and why not."""
    reason = inception.available()
    if reason:
        return None, reason
    net = inception.load().to(context.device)
    return _space(context, INCEPTION, lambda x: _batched(net, x, context.device)), ""


def _space(context: Context, name: str, features: Callable[[Tensor], Tensor]) -> Space:
    """The features of everything."""
    context.say(f"features: {name}")
    return Space(
        name,
        features(context.sets.private.images),
        tuple(features(found.images) for found in context.sets.seeds),
    )


@torch.no_grad()
def _batched(
    net: Callable[[Tensor], Tensor], images: UInt8[Tensor, "n c h w"], device: torch.device
) -> Float[Tensor, "n d"]:
    """Features of uint8 images on `device`, a few images at a time."""
    return torch.cat([net(to_rgb_float(part.to(device))).float() for part in images.split(64)])

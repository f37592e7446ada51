"""Targets and evaluators of the face experiments (Re-thinking MI, arXiv 2304.01669, specification 5).

Bodies for `build_classifier`: (channels, size, width) to a module and the length of its features; width 64 is
the paper's, narrow ones are for a laptop.
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mi_utils.errors import UserError

Body = tuple[nn.Module, int]


def _check_side(architecture: str, size: int, step: int) -> None:
    """UserError unless the image's side can be halved as often as the net does."""
    if size % step:
        raise UserError(
            f"size: {architecture} needs images whose side is a multiple of {step} px, found {size}; resize"
        )


def vgg16(channels: int, size: int, width: int) -> Body:
    """VGG16 with batch norm, then a batch norm without shift on the flattened map (2048 features at 64 px, w = 64).

    16,774,184 parameters at width 64, 64 px, C = 3, K = 1000.
    """
    _check_side("vgg16", size, 32)
    layers: list[nn.Module] = []
    inputs = channels
    for convolutions, outputs in ((2, width), (2, 2 * width), (3, 4 * width), (3, 8 * width), (3, 8 * width)):
        for _ in range(convolutions):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(True)]
            inputs = outputs
        layers.append(nn.MaxPool2d(2))
    dim = inputs * (size // 32) ** 2
    norm = nn.BatchNorm1d(dim)
    norm.register_parameter("bias", None)
    return nn.Sequential(*layers, nn.Flatten(), norm), dim


class _PReLU(nn.PReLU):
    """x where it is positive, a x elsewhere, a learnt per channel: the mean of relu(x) and x with weight a.

    In this form the gradient takes 2 ms for 100 maps of 8×32×32 on one CPU thread, against 5.5 ms of torch's own.
    """

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return torch.lerp(x.relu(), x, self.weight[:, None, None])


class _Unit(nn.Module):
    """Improved residual unit (ArcFace): BN, conv3, PReLU, conv3 with the stride, BN; nothing after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.main = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            _PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        if inputs == outputs:
            self.skip = nn.MaxPool2d(1, stride) if stride > 1 else nn.Identity()
        else:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + self.skip(x)


def _residual(units: tuple[int, ...], early: bool, channels: int, size: int, width: int) -> Body:
    """Stem w, stages of `units` at widths w, 2w, 4w, 8w, each halving the side; BN, dropout, linear to 8w, BN.

    `early`: the stem halves the side, and the first stage does not.
    """
    _check_side("ir50, ir152, ir_small and ir_deep", size, 16)
    layers = [nn.Conv2d(channels, width, 3, 1 + early, 1, bias=False), nn.BatchNorm2d(width), _PReLU(width)]
    inputs = width
    for stage, count in enumerate(units):
        outputs = width * 2**stage
        for unit in range(count):
            halves = unit == 0 and not (early and stage == 0)
            layers.append(_Unit(inputs, outputs, 1 + halves))
            inputs = outputs
    flat = inputs * (size // 16) ** 2
    output = [nn.BatchNorm2d(inputs), nn.Dropout(), nn.Flatten(), nn.Linear(flat, inputs), nn.BatchNorm1d(inputs)]
    return nn.Sequential(*layers, *output), inputs


ir50 = partial(_residual, (3, 4, 14, 3), False)  # FaceNet64 at 64 px
ir152 = partial(_residual, (3, 8, 36, 3), False)
# Relatives that a laptop can attack: in the first stage of the two above, at full side, most of the time is spent.
ir_small = partial(_residual, (1, 1, 2, 1), True)
ir_deep = partial(_residual, (2, 2, 4, 2), True)

r"""Perceptual distances of whole sets: LPIPS and its kin as squared Euclidean distances of embeddings.

LPIPS is a weighted sum of squared differences of unit-length feature maps, so
$q(x,y)=\lVert e(x)-e(y)\rVert^2$ with $e(x)=\mathrm{concat}_l\sqrt{w_l/(H_lW_l)}\,\hat x_l$ (weights $w\ge0$), and all
N x M distances cost N + M forward passes and one matrix product.  The networks are `mi_utils.models.perceptual`.
"""

from collections.abc import Iterator
from typing import Protocol

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from mi_utils.metrics import checks, matching
from mi_utils.metrics.precision import float32
from mi_utils.metrics.screening import Screen


class Net(Protocol):
    """A network that embeds images (n,3,h,w) in [-1,1]."""

    def __call__(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]: ...

    def buffers(self) -> Iterator[Tensor]: ...


def to_rgb_float(x: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n 3 h w"]:
    """uint8 grey or colour images to [-1,1], grey repeated over the three channels."""
    checks.images("images", x)
    return (x.float() / 127.5 - 1).expand(-1, 3, -1, -1)


@torch.no_grad()
def embed(x: UInt8[Tensor, "n c h w"], net: Net, batch: int = 64) -> Float[Tensor, "n d"]:
    """e(x) of uint8 images on the net's device, in float32 whatever a GPU would round to."""
    device = next(net.buffers()).device
    rows: Tensor | None = None
    with float32():
        for i, part in enumerate(x.split(batch)):
            found = net(to_rgb_float(part.to(device)))
            # Written where they stay: gathered afterwards, embeddings would take twice their memory for a moment.
            rows = found.new_empty(len(x), found.shape[1]) if rows is None else rows
            rows[i * batch : i * batch + len(part)] = found
    return rows


def distances(a: UInt8[Tensor, "n c h w"], b: UInt8[Tensor, "m c h w"], net: Net) -> Float[Tensor, "n m"]:
    """All values (n, m) of two sets that fit in memory together; for more images use `nearest`."""
    rows_a, rows_b = embed(a, net), embed(b, net)
    centre = rows_b.mean(0)
    return matching.squared_distances(rows_a - centre, rows_b - centre)


def nearest(
    fake: UInt8[Tensor, "m c h w"],
    real: UInt8[Tensor, "n c h w"],
    net: Net,
    *,
    fake_labels: Int[Tensor, " m"] | None = None,
    real_labels: Int[Tensor, " n"] | None = None,
    budget: int | None = None,
    screen: Screen = "auto",
) -> matching.Nearest:
    """Nearest neighbours both ways; the options are those of `matching.nearest`."""
    checks.images("fake", fake)
    checks.images("real", real)
    labels = {"fake_labels": fake_labels, "real_labels": real_labels}
    return matching.nearest(fake, real, lambda x: embed(x, net), **labels, budget=budget, screen=screen)

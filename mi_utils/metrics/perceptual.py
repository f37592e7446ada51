"""ST-LPIPS as a Euclidean embedding.

Shift-tolerant LPIPS (Ghildyal & Liu 2022) with its weights from the `stlpips-pytorch` wheel: no download.  It
is not LPIPS and never printed under that name.  Its value is a weighted sum of squared differences of
unit-length feature maps, so it is the squared Euclidean distance of one long vector per image: q(x, y) =
||e(x) - e(y)||^2,   e(x) = concat_l sqrt(w_l / (H_l W_l)) x_hat_l. All N x M distances then cost N + M
forward passes and one matrix product.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from mi_utils.errors import UserError
from mi_utils.metrics import checks, matching

LEAST_SIDE = 28  # smaller images run out of pixels before the last feature map


@contextmanager
def _unused_imports() -> Iterator[None]:
    """Stands in for `torchsummary` and `IPython` while the package is imported.

    It imports one name of each for printing and debugging only; `torchsummary` is often absent and IPython is
    slow. Modules that are loaded already are left alone, and the stand-ins are gone afterwards.
    """
    stand_ins = {"torchsummary": "summary", "IPython": "embed"}
    added = [name for name in stand_ins if name not in sys.modules]
    for name in added:
        module = ModuleType(name)
        setattr(module, stand_ins[name], None)
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in added:
            sys.modules.pop(name, None)


def package_net() -> nn.Module:
    """The package's own two-image distance net (AlexNet trunk), frozen, in eval mode, on the CPU."""
    importlib.import_module("torchvision")  # first: what it imports must not meet the stand-ins
    with _unused_imports():
        stlpips = importlib.import_module("stlpips_pytorch.stlpips")
    net = stlpips.LPIPS(net="alex", variant="shift_tolerant", verbose=False)
    return net.eval().requires_grad_(False)


class STLPIPS(nn.Module):
    """Maps images (n,3,h,w) in [-1,1], sides >= 28 px, to embeddings whose squared distance is ST-LPIPS."""

    name = "ST-LPIPS (AlexNet)"

    def __init__(self) -> None:
        super().__init__()
        net = package_net()
        self.scaling, self.trunk = net.scaling_layer, net.net
        heads = [head.model[-1].weight.detach().flatten() for head in net.lins]
        if any(bool((w < 0).any()) for w in heads):
            raise UserError("stlpips_pytorch: expected heads >= 0, found negative weights; reinstall the package")
        for layer, w in enumerate(heads):
            self.register_buffer(f"head{layer}", w.sqrt())

    def maps(self, x: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n c hl wl"]]:
        """Raw feature maps of the five layers, before normalisation."""
        return list(self.trunk(self.scaling(x)))

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """e(x).  d is 36,288 at 32 px and 158,144 at 64 px."""
        parts = []
        for layer, a in enumerate(self.maps(x)):
            unit = a / (a.square().sum(1, keepdim=True).sqrt() + 1e-10)  # the package's epsilon
            root = getattr(self, f"head{layer}") / (a.shape[2] * a.shape[3]) ** 0.5
            parts.append((unit * root[:, None, None]).flatten(1))
        return torch.cat(parts, dim=1)


def to_rgb_float(x: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n 3 h w"]:
    """uint8 grey or colour images to [-1,1], grey repeated over the three channels."""
    checks.images("images", x)
    if min(x.shape[2:]) < LEAST_SIDE:
        raise UserError(f"images: expected sides >= {LEAST_SIDE} px, found {tuple(x.shape[2:])}; resize to 32 px")
    return (x.float() / 127.5 - 1).expand(-1, 3, -1, -1)


def embed(x: UInt8[Tensor, "n c h w"], net: STLPIPS) -> Float[Tensor, "n d"]:
    """e(x) of one batch of uint8 images, on the net's device."""
    with torch.no_grad():
        return net(to_rgb_float(x.to(net.head0.device)))


def distances(a: UInt8[Tensor, "n c h w"], b: UInt8[Tensor, "m c h w"], net: STLPIPS, batch: int = 128) -> Tensor:
    """All ST-LPIPS values (n, m) of two sets that fit in memory together; for more images use `nearest`."""
    rows_a, rows_b = (torch.cat([embed(x, net) for x in images.split(batch)]) for images in (a, b))
    centre = rows_b.mean(0)
    return matching.squared_distances(rows_a - centre, rows_b - centre)


def nearest(
    fake: UInt8[Tensor, "m c h w"],
    real: UInt8[Tensor, "n c h w"],
    net: STLPIPS,
    *,
    fake_labels: Int[Tensor, " m"] | None = None,
    real_labels: Int[Tensor, " n"] | None = None,
    batch: int = 128,
    hold: int = 2048,
) -> matching.Nearest:
    """Nearest neighbours both ways under ST-LPIPS; memory: `hold` + `batch` embeddings (145 KB at 32 px)."""
    checks.images("fake", fake)
    checks.images("real", real)
    return matching.nearest(
        fake,
        real,
        lambda x: embed(x, net),
        fake_labels=fake_labels,
        real_labels=real_labels,
        batch=batch,
        hold=hold,
    )

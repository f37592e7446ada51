"""Classifiers that are attacked (targets) and that judge (evaluators).

Every classifier maps (N, C, S, S) images in [-1, 1] to (N, K) logits and offers `features`, the (N, d)
activations before its last linear layer, which the set metrics use.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import efficientnet
from torchvision.models.resnet import BasicBlock, ResNet

from mi_utils.errors import UserError
from mi_utils.models import face_nets

Architecture = Literal[
    "cnn",
    "vggish",
    "mlp",
    "resnet18",
    "dla",
    "cnn5",
    "separable",
    "mcnn",
    "vgg16",
    "ir50",
    "ir152",
    "ir_small",
    "ir_deep",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
]
ARCHITECTURES: tuple[str, ...] = get_args(Architecture)


class Classifier(nn.Module):
    """A feature extractor `body` followed by a linear `head`."""

    def __init__(self, body: nn.Module, dim: int, classes: int):
        super().__init__()
        self.body, self.head = body, nn.Linear(dim, classes)

    def features(self, x: Float[Tensor, "n c s s"]) -> Float[Tensor, "n d"]:
        """Penultimate activations, (N, d)."""
        return self.body(x)

    def forward(self, x: Float[Tensor, "n c s s"]) -> Float[Tensor, "n k"]:
        return self.head(self.body(x))


def _conv(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(True),
    ]


def _cnn(channels: int, size: int, width: int) -> tuple[nn.Module, int]:
    """Three stages of [conv3 stride 2, BN, ReLU, conv3, BN, ReLU], widths w, 2w, 4w, global average pool."""
    widths = [channels, width, 2 * width, 4 * width]
    layers = [m for i, o in zip(widths, widths[1:], strict=False) for m in (*_conv(i, o, 2), *_conv(o, o))]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), widths[-1]


def _cnn5(channels: int, size: int, width: int) -> tuple[nn.Module, int]:
    """Three stages of [conv5 stride 2, BN, ReLU], widths w, 2w, 4w, global average pool: a student."""
    widths = [channels, width, 2 * width, 4 * width]
    layers = [m for i, o in zip(widths, widths[1:], strict=False) for m in _conv(i, o, 2, kernel=5)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), widths[-1]


def _depthwise(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    """One 3x3 filter per channel, then a mixing of the channels in each pixel (MobileNet)."""
    return [
        *[nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False), nn.BatchNorm2d(inputs), nn.ReLU(True)],
        *_conv(inputs, outputs, kernel=1),
    ]


def _separable(channels: int, size: int, width: int) -> tuple[nn.Module, int]:
    """The stages of `cnn` in depthwise-separable convolutions, the first excepted: a student."""
    layers = [*_conv(channels, width, 2), *_depthwise(width, width)]
    for i in (width, 2 * width):
        layers += [*_depthwise(i, 2 * i, 2), *_depthwise(2 * i, 2 * i)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 4 * width


def _mcnn(channels: int, size: int, width: int) -> tuple[nn.Module, int]:
    """KEDMI's net for MNIST: conv7, conv5, conv5 at widths w, 2w, 4w; 1,029,765 parameters at C=1, K=5 (w = 64)."""
    if size < 32:
        raise UserError(f"size: mcnn needs images of at least 32 px, found {size}; pad or resize them")

    def stage(inputs: int, outputs: int, kernel: int, padding: int = 0) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, kernel, padding=padding)
        return [conv, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2, True)]

    layers = [*stage(channels, width, 7, 1), nn.MaxPool2d(2), *stage(width, 2 * width, 5), nn.MaxPool2d(2)]
    # At 32 px the last map is of one pixel, as in the source; a larger one is averaged.
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *stage(2 * width, 4 * width, 5), *pooled), 4 * width


def _efficientnet(variant: int, channels: int, size: int, width: int) -> tuple[nn.Module, int]:
    """torchvision's EfficientNet with fresh weights (the paper's students begin with ImageNet's)."""
    if width != 32:
        raise UserError(f"width: efficientnet_b{variant} is built at width 32, found {width}; use 32")
    net = getattr(efficientnet, f"efficientnet_b{variant}")()
    if channels != 3:
        net.features[0][0] = nn.Conv2d(channels, 32, 3, 2, 1, bias=False)
    dropout, head = net.classifier
    return nn.Sequential(net.features, net.avgpool, nn.Flatten(), dropout), head.in_features


def _vggish(channels: int, size: int, width: int) -> tuple[nn.Module, int]:
    """Convolutions with max-pooling and no global pool: it sees *where* strokes are, unlike `cnn`."""
    widths = [channels, width, 2 * width, 2 * width]
    layers = [m for i, o in zip(widths, widths[1:], strict=False) for m in (*_conv(i, o), nn.MaxPool2d(2))]
    flat = widths[-1] * (size // 8) ** 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, 8 * width), nn.ReLU(True)), 8 * width


def _mlp(channels: int, size: int, width: int) -> tuple[nn.Module, int]:
    """Pixel MLP, widths 2w and w (the specification's E3 has w = 256)."""
    return (
        nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * size * size, 2 * width),
            nn.BatchNorm1d(2 * width),
            nn.ReLU(True),
            nn.Linear(2 * width, width),
            nn.BatchNorm1d(width),
            nn.ReLU(True),
        ),
        width,
    )


def _resnet18(channels: int, size: int, width: int) -> tuple[nn.Module, int]:
    """ResNet-18 with a 3x3 stride-1 stem for 32 px images; 11,172,810 parameters at C=1, K=10 (w = 64)."""
    if width != 64:
        raise UserError(f"width: resnet18 is built at width 64, found {width}; use 64, or architecture 'cnn'")
    net = ResNet(BasicBlock, [2, 2, 2, 2])
    net.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
    net.maxpool, net.fc = nn.Identity(), nn.Identity()
    return net, 512


class _Root(nn.Module):
    """DLA aggregation node: 1x1 convolution over the concatenated children."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, *children: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(torch.cat(children, 1))))


class _Block(nn.Module):
    """Two 3x3 convolutions with a projected shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.main = nn.Sequential(*_conv(inputs, outputs, stride), *_conv(outputs, outputs)[:2])
        same = stride == 1 and inputs == outputs
        self.skip = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.main(x) + self.skip(x))


class _Tree(nn.Module):
    """Hierarchical deep aggregation of depth `level` (Yu et al., Deep Layer Aggregation, 2018)."""

    def __init__(self, inputs: int, outputs: int, level: int, stride: int):
        super().__init__()
        self.level = level
        if level == 1:
            self.left, self.right = _Block(inputs, outputs, stride), _Block(outputs, outputs, 1)
            self.root = _Root(2 * outputs, outputs)
            return
        self.root = _Root((level + 2) * outputs, outputs)
        self.first = _Block(inputs, outputs, stride)
        self.subtrees = nn.ModuleList(
            _Tree(inputs if i == level - 1 else outputs, outputs, i, stride if i == level - 1 else 1)
            for i in range(level - 1, 0, -1)
        )
        self.left, self.right = _Block(outputs, outputs, 1), _Block(outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = [self.first(x)] if self.level > 1 else []
        for subtree in self.subtrees if self.level > 1 else ():
            x = subtree(x)
            kept.append(x)
        left = self.left(x)
        return self.root(*kept, left, self.right(left))


def _dla(channels: int, size: int, width: int) -> tuple[nn.Module, int]:
    """DLA-34 with BasicBlocks, widths w, w, 2w, 4w, 8w, 16w, 32w (w = 16 as released)."""
    w = width
    return (
        nn.Sequential(
            *_conv(channels, w),
            *_conv(w, w),
            *_conv(w, 2 * w),
            _Tree(2 * w, 4 * w, 1, 1),
            _Tree(4 * w, 8 * w, 2, 2),
            _Tree(8 * w, 16 * w, 2, 2),
            _Tree(16 * w, 32 * w, 1, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ),
        32 * w,
    )


_BODIES: dict[str, Callable[[int, int, int], tuple[nn.Module, int]]] = {
    "cnn": _cnn,
    "vggish": _vggish,
    "mlp": _mlp,
    "resnet18": _resnet18,
    "dla": _dla,
    "cnn5": _cnn5,
    "separable": _separable,
    "mcnn": _mcnn,
    "vgg16": face_nets.vgg16,
    "ir50": face_nets.ir50,
    "ir152": face_nets.ir152,
    "ir_small": face_nets.ir_small,
    "ir_deep": face_nets.ir_deep,
    "efficientnet_b0": partial(_efficientnet, 0),
    "efficientnet_b1": partial(_efficientnet, 1),
    "efficientnet_b2": partial(_efficientnet, 2),
}


def build_classifier(
    architecture: Architecture,
    *,
    width: int,
    channels: int,
    size: int,
    classes: int,
    generator: torch.Generator,
) -> Classifier:
    """A freshly initialised classifier; its weights are a function of `generator` alone.

    The released scripts set their seed after the network is built, which leaves its weights unseeded.
    """
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body, dim = _BODIES[architecture](channels, size, width)
        return Classifier(body, dim, classes)

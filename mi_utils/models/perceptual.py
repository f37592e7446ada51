r"""LPIPS and shift-tolerant LPIPS as Euclidean embeddings, with weights that are on disk already.

Both compare unit-length feature maps of an ImageNet network by weighted squared differences (Zhang et al. 2018,
arXiv 1801.03924; Ghildyal & Liu 2022, arXiv 2207.13686), so that a value is the squared Euclidean distance of one
long vector per image:
$$q(x,y)=\lVert e(x)-e(y)\rVert^2,\quad e(x)=\mathrm{concat}_l\sqrt{w_l/(H_lW_l)}\,\hat a_l(x),\quad w\ge0.$$
ST-LPIPS is not LPIPS and is never printed under that name.  Its weights ship with `stlpips-pytorch`; of LPIPS the
`lpips` package ships the heads $w$ alone, and torchvision's file of the network must lie where `weights.find` looks.
The networks are torchvision's, built here, because the packages' constructors download or draw random weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import get_model

from mi_utils.errors import UserError
from mi_utils.models import weights

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of the input in [-1,1], both packages
EPSILON = 1e-10  # added to a feature vector's length, both packages


@dataclass(frozen=True)
class _Recipe:
    """What makes one of the networks."""

    name: str
    least_side: int
    trunk: str  # torchvision's name
    ends: tuple[int, ...]  # the compared maps are the outputs of these layers of `features`, counted from 1
    package: str
    heads: str  # file in the package
    file: str = ""  # torchvision's weights; "" where the package has them beside the heads

    @property
    def shift_tolerant(self) -> bool:
        """Whether it is ST-LPIPS."""
        return not self.file


_RECIPES = {
    "st-lpips-alex": _Recipe(
        "ST-LPIPS (AlexNet)", 21, "alexnet", (3, 7, 11, 13, 15), "stlpips_pytorch", "vST0.0/alex_shift_tolerant.pth"
    ),
    "st-lpips-vgg": _Recipe(
        "ST-LPIPS (VGG-16)", 18, "vgg16", (4, 10, 18, 26, 34), "stlpips_pytorch", "vST0.0/vgg_shift_tolerant.pth"
    ),
    "lpips-alex": _Recipe(
        "LPIPS (AlexNet)", 31, "alexnet", (2, 5, 8, 10, 12), "lpips", "v0.1/alex.pth", "alexnet-owt-7be5be79.pth"
    ),
    "lpips-vgg": _Recipe(
        "LPIPS (VGG-16)", 16, "vgg16", (4, 9, 16, 23, 30), "lpips", "v0.1/vgg.pth", "vgg16-397923af.pth"
    ),
    "lpips-squeeze": _Recipe(
        "LPIPS (SqueezeNet 1.1)",
        17,
        "squeezenet1_1",
        (2, 5, 8, 10, 11, 12, 13),
        "lpips",
        "v0.1/squeeze.pth",
        "squeezenet1_1-b8a52dc0.pth",
    ),
}
NETS: tuple[str, ...] = tuple(_RECIPES)


class Blur(nn.Module):
    """Halves a map after a [1 2 1] x [1 2 1] / 16 blur, edges mirrored by two pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        line = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("filt", torch.outer(line, line).repeat(channels, 1, 1, 1))

    def forward(self, a: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        return F.conv2d(F.pad(a, (2, 2, 2, 2), mode="reflect"), self.filt, stride=2, groups=a.shape[1])


def _shift_tolerant(layers: nn.Sequential) -> nn.Sequential:
    """torchvision's network with every step of two pixels or more replaced by a step of one and a blur."""
    changed: list[nn.Module] = []
    for layer in layers:
        channels = getattr(layer, "out_channels", None) or channels
        strided = isinstance(layer, nn.MaxPool2d) or (isinstance(layer, nn.Conv2d) and layer.stride != (1, 1))
        if strided:
            layer.stride = 1 if isinstance(layer, nn.MaxPool2d) else (1, 1)
        changed += [layer, Blur(channels)] if strided else [layer]
    return nn.Sequential(*changed)


class Perceptual(nn.Module):
    """Maps images (n,3,h,w) in [-1,1] to embeddings whose squared distance is the perceptual distance.

    `key` is its name in settings, `name` in tables; sides must be `least_side` px or more, where the last map still
    has a pixel.  LPIPS of AlexNet works from 31 px, but up to 46 px its last three maps are a single pixel: use 64 px.
    """

    def __init__(self, key: str, layers: nn.Sequential, heads: list[Float[Tensor, " c"]]) -> None:
        super().__init__()
        recipe = _RECIPES[key]
        self.key, self.name, self.least_side = key, recipe.name, recipe.least_side
        self.pieces = nn.ModuleList(layers[a:b] for a, b in pairwise((0, *recipe.ends)))
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None])
        for layer, w in enumerate(heads):
            self.register_buffer(f"root{layer}", w.sqrt())

    def maps(self, x: Float[Tensor, "n 3 h w"]) -> Iterator[Float[Tensor, "n h_l w_l c_l"]]:
        """Raw feature maps of the layers, before normalisation, channels last."""
        if min(x.shape[2:]) < self.least_side:
            side = self.least_side
            raise UserError(f"{self.key}: expected sides >= {side} px, found {tuple(x.shape[2:])}; resize the images")
        # Channels last: 1.3 to 1.8 times as fast on a CPU, and each feature vector lies in one piece.
        a = ((x - self.shift) / self.scale).contiguous(memory_format=torch.channels_last)
        for piece in self.pieces:
            a = piece(a)
            yield a.permute(0, 2, 3, 1)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        r"""e(x): per layer, position and channel $\sqrt{w_{lc}/(H_lW_l)}\,a_{lc}/(\lVert a_l\rVert_2+10^{-10})$."""
        parts = []
        for layer, a in enumerate(self.maps(x)):
            root = getattr(self, f"root{layer}") / (a.shape[1] * a.shape[2]) ** 0.5
            unit = a / (torch.linalg.vector_norm(a, dim=3, keepdim=True) + EPSILON)
            parts.append(unit.mul_(root).flatten(1))
        return torch.cat(parts, 1)

    def pooled(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        """Spatial means of the raw feature maps, layer after layer: a feature space for the set metrics."""
        return torch.cat([a.mean((1, 2)) for a in self.maps(x)], 1)

    def length(self, height: int, width: int | None = None) -> int:
        """d for images of this size (square where no width is given); nothing is computed."""
        state = {name: value.to("meta") for name, value in self.state_dict().items()}
        x = torch.empty(1, 3, height, width or height, device="meta")
        return torch.func.functional_call(self, state, x).shape[1]


def _recipe(key: str) -> _Recipe:
    """The recipe of a key; UserError for an unknown one."""
    if key not in _RECIPES:
        close = get_close_matches(key, NETS, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UserError(f"perceptual network: expected one of {', '.join(NETS)}, found {key!r}{hint}")
    return _RECIPES[key]


def available(key: str) -> str:
    """Why the network cannot be loaded; empty where it can."""
    file = _recipe(key).file
    return weights.missing(file) if file and weights.find(file) is None else ""


def load(key: str) -> Perceptual:
    """The network, frozen, in eval mode, on the CPU; UserError where weights are absent or not the right ones."""
    recipe = _recipe(key)
    if reason := available(key):
        raise UserError(f"{key}: {reason}; put torchvision's file into one of them, or use st-lpips-alex")
    shipped = Path(find_spec(recipe.package).origin).parent / "weights" / recipe.heads
    tensors = weights.read(shipped)
    heads = [tensors[f"lin{layer}.model.1.weight"].flatten() for layer in range(len(recipe.ends))]
    if any(bool((w < 0).any()) for w in heads):
        raise UserError(f"{key}: expected heads >= 0, found negative weights; reinstall {recipe.package}")
    net = Perceptual(key, _layers(recipe, shipped, tensors), heads)
    return net.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def _layers(recipe: _Recipe, shipped: Path, tensors: dict[str, Tensor]) -> nn.Sequential:
    """torchvision's layers, shift tolerant for ST-LPIPS, with their weights; `tensors` are those of `shipped`."""
    with torch.device("meta"):
        layers = get_model(recipe.trunk, weights=None).features
        layers = (_shift_tolerant(layers) if recipe.shift_tolerant else layers)[: recipe.ends[-1]]
    if recipe.shift_tolerant:
        path, found = shipped, {k.split(".", 2)[2]: v for k, v in tensors.items() if k.startswith("net.")}
    else:
        path = weights.find(recipe.file)
        read = weights.read(path)
        found = {k.removeprefix("features."): v for k, v in read.items() if k.startswith("features.")}
    weights.put(found, layers, path, recipe.trunk)
    return layers

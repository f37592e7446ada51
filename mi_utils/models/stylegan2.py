r"""StyleGAN2 (Karras et al., CVPR 2020, arXiv 1912.04958) with the layout and the parameter names of the official code.

Latents z (N, d_z) -> styles w (N, d_w) -> images (N, C, R, R), nominally in [-1, 1] and not clipped, R = 8, 16, ...
Every stored weight is N(0, 1) at first and scaled where it is used ("equalised" rates).  Source of the equations:
specification dmmia, 2.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mi_utils.errors import UserError

CLAMP = 256.0  # of activations and of colours
MAPPING_RATE = 0.01  # equalised rate of the mapping network
_EPSILON = 1e-8

Noise = Literal["const", "none"] | torch.Generator  # stored constants, nothing, or fresh draws


# ---------------------------------------------------------------- equations


def lrelu(x: Tensor, gain: float = 1.0) -> Tensor:
    r"""$\sqrt2\,\mathrm{lrelu}_{0.2}(x)$ times `gain`, held in ±256 times `gain`."""
    return (F.leaky_relu(x, 0.2) * (math.sqrt(2) * gain)).clamp(-CLAMP * gain, CLAMP * gain)


def fir(device: torch.device | None = None) -> Float[Tensor, "4 4"]:
    r"""$[1,3,3,1]\otimes[1,3,3,1]/64$, the low-pass filter of every change of size."""
    line = torch.tensor([1.0, 3.0, 3.0, 1.0], device=device) / 8
    return line[:, None] * line


def blurred(x: Float[Tensor, "n c h w"], f: Float[Tensor, "4 4"], pad: int, stride: int = 1) -> Tensor:
    """Each channel filtered by `f` after `pad` zeros on every side."""
    return F.conv2d(x, f.expand(x.shape[1], 1, 4, 4), stride=stride, padding=pad, groups=x.shape[1])


def doubled(x: Float[Tensor, "n c h w"], f: Float[Tensor, "4 4"]) -> Float[Tensor, "n c 2h 2w"]:
    """Twice the size: zeros between pixels, then `f` with gain 4."""
    return F.conv_transpose2d(x, 4 * f.expand(x.shape[1], 1, 4, 4), stride=2, padding=1, groups=x.shape[1])


def demodulation(kernel: Float[Tensor, "o i k k"], style: Float[Tensor, "n i"]) -> Float[Tensor, "n o"]:
    r"""$\delta_{no}=\big(\sum_i s_{ni}^2\sum_u K_{oiu}^2+10^{-8}\big)^{-1/2}$: one matrix product."""
    return (style.square() @ kernel.square().sum((2, 3)).T + _EPSILON).rsqrt()


def scaled_convolution(
    x: Float[Tensor, "n i h w"],
    kernel: Float[Tensor, "o i k k"],
    style: Float[Tensor, "n i"],
    demodulate: bool,
    up: bool,
) -> Float[Tensor, "n o h2 w2"]:
    r"""$\delta_{no}\sum_i K_{oi}*(s_{ni}x_{ni})$: activations are scaled before and after one ordinary convolution.

    `up`: a transposed one of stride 2 without padding, (2h + 1, 2w + 1); else one of equal size.  The official code's
    kernel for each row is the same function and slower on channels-last maps: benchmarks `modulated-*`.
    """
    x = x * style[:, :, None, None]
    if up:
        y = F.conv_transpose2d(x, kernel.transpose(0, 1), stride=2)
    else:
        y = F.conv2d(x, kernel, padding=kernel.shape[2] // 2)
    return y * demodulation(kernel, style)[:, :, None, None] if demodulate else y


def normalised(z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    r"""$\hat z=z(\frac1d\sum_jz_j^2+10^{-8})^{-1/2}$."""
    return z * (z.square().mean(1, keepdim=True) + _EPSILON).rsqrt()


def truncated(w: Float[Tensor, "*n d"], mean: Float[Tensor, " d"], psi: float) -> Float[Tensor, "*n d"]:
    r"""$\bar w+\psi(w-\bar w)$."""
    return mean.lerp(w, psi)


def minibatch_std(x: Float[Tensor, "n c h w"], group: int = 4) -> Float[Tensor, "n 1 h w"]:
    """How much the rows of a group of `group` differ, one number per group: standard deviation, mean over the map."""
    g = math.gcd(group, len(x))
    spread = (x.unflatten(0, (g, -1)).var(0, unbiased=False) + _EPSILON).sqrt().mean((1, 2, 3))
    return spread.repeat(g)[:, None, None, None].expand(-1, 1, *x.shape[2:])


# ---------------------------------------------------------------- layers


class Dense(nn.Module):
    r"""$\frac{\eta}{\sqrt{n_{in}}}Aa+\eta b$, with `active` followed by `lrelu`; stored A has std $1/\eta$."""

    def __init__(self, inputs: int, outputs: int, rate: float = 1.0, bias: float = 0.0, active: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs))
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.rate, self.active = rate, active

    def forward(self, a: Float[Tensor, "n i"]) -> Float[Tensor, "n o"]:
        y = F.linear(a, self.weight * (self.rate / math.sqrt(self.weight.shape[1])), self.bias * self.rate)
        return lrelu(y) if self.active else y


class MappingNetwork(nn.Module):
    """z to w; `w_avg` is the moving average of w, kept by the training."""

    def __init__(self, z_dim: int, w_dim: int, layers: int = 8):
        super().__init__()
        self.layers = layers
        for i in range(layers):
            setattr(self, f"fc{i}", Dense(z_dim if i == 0 else w_dim, w_dim, MAPPING_RATE, active=True))
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Float[Tensor, "n z"], psi: float = 1.0) -> Float[Tensor, "n w"]:
        w = normalised(z)
        for i in range(self.layers):
            w = getattr(self, f"fc{i}")(w)
        return w if psi == 1 else truncated(w, self.w_avg, psi)


class StyledConv(nn.Module):
    r"""$x'=\sqrt2\,\mathrm{lrelu}_{0.2}(y+\nu\xi+b)$ of a modulated 3×3 convolution y, with `up` to twice the size."""

    def __init__(self, inputs: int, outputs: int, w_dim: int, side: int, up: bool):
        super().__init__()
        self.affine = Dense(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.zeros(side, side))
        self.register_buffer("resample_filter", fir(), persistent=False)
        self.up = up

    def forward(self, x: Tensor, w: Float[Tensor, "n w"], noise: Noise, gain: float = 1.0) -> Tensor:
        y = scaled_convolution(x, self.weight, self.affine(w), True, self.up)
        if self.up:
            y = blurred(y, 4 * self.resample_filter, 1)
        return lrelu(y + self._noise(noise, len(y)) + self.bias[:, None, None], gain)

    def _noise(self, noise: Noise, n: int) -> Tensor | float:
        if noise == "none":
            return 0.0
        if noise == "const":
            return self.noise_strength * self.noise_const
        drawn = torch.randn((n, 1, *self.noise_const.shape), generator=noise, device=noise.device)
        return self.noise_strength * drawn.to(self.noise_const)


class ToRGB(nn.Module):
    r"""Colours: a modulated 1×1 convolution without demodulation, styles scaled by $1/\sqrt I$."""

    def __init__(self, inputs: int, colours: int, w_dim: int):
        super().__init__()
        self.affine = Dense(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.zeros(colours, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(colours))

    def forward(self, x: Tensor, w: Float[Tensor, "n w"]) -> Float[Tensor, "n c h w"]:
        style = self.affine(w) / math.sqrt(x.shape[1])
        return (scaled_convolution(x, self.weight, style, False, False) + self.bias[:, None, None]).clamp(-CLAMP, CLAMP)


class Conv(nn.Module):
    r"""$\frac1{\sqrt{Ik^2}}K*x$, with a bias and `lrelu` after it where it is `active`; `down` halves, `up` doubles."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, active: bool = True, resample: str = ""):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if active else None
        if resample:
            self.register_buffer("resample_filter", fir(), persistent=False)
        self.resample = resample

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        kernel = self.weight / math.sqrt(self.weight[0].numel())
        side = kernel.shape[2]
        if self.resample == "down":
            x = blurred(x, self.resample_filter, 1 + side // 2, stride=2 if side == 1 else 1)
            y = F.conv2d(x, kernel, stride=1 if side == 1 else 2)
        else:
            y = F.conv2d(x, kernel, padding=side // 2)
            y = doubled(y, self.resample_filter) if self.resample == "up" else y
        return y * gain if self.bias is None else lrelu(y + self.bias[:, None, None], gain)


# ---------------------------------------------------------------- generator


class SynthesisBlock(nn.Module):
    """One resolution: two convolutions (the first one doubles) and colours; at 4 px a learnt constant and one."""

    def __init__(self, inputs: int, outputs: int, w_dim: int, side: int, colours: int, residual: bool, last: bool):
        super().__init__()
        self.first = inputs == 0
        if self.first:
            self.const = nn.Parameter(torch.zeros(outputs, side, side))
        else:
            self.conv0 = StyledConv(inputs, outputs, w_dim, side, up=True)
            self.register_buffer("resample_filter", fir(), persistent=False)
            if residual:
                self.skip = Conv(inputs, outputs, 1, active=False, resample="up")
        self.conv1 = StyledConv(outputs, outputs, w_dim, side, up=False)
        if last or not residual:
            self.torgb = ToRGB(outputs, colours, w_dim)

    def forward(
        self, x: Tensor | None, image: Tensor | None, styles: list[Tensor], noise: Noise
    ) -> tuple[Tensor, Tensor | None]:
        """Maps and the image so far; `styles`: one w (N, d_w) for each convolution, then for the colours."""
        if self.first:
            x = self.conv1(self.const.expand(len(styles[0]), -1, -1, -1), styles[0], noise)
        elif hasattr(self, "skip"):
            through = self.skip(x, math.sqrt(0.5))
            x = self.conv1(self.conv0(x, styles[0], noise), styles[1], noise, math.sqrt(0.5)) + through
        else:
            x = self.conv1(self.conv0(x, styles[0], noise), styles[1], noise)
        if image is not None:
            image = doubled(image, self.resample_filter)
        if hasattr(self, "torgb"):
            colours = self.torgb(x, styles[-1])
            image = colours if image is None else image + colours
        return x, image


class Synthesis(nn.Module):
    """w to images.  `widths`: side -> channels, 4 to R px; "skip" adds up the colours of all sides, "residual" maps."""

    def __init__(
        self, widths: Mapping[int, int], w_dim: int, colours: int, outputs: Literal["skip", "residual"] = "skip"
    ):
        super().__init__()
        self.sides = tuple(widths)
        self.inputs = 2 * len(self.sides)  # n_ws
        before = 0
        for side, width in widths.items():
            last = side == self.sides[-1]
            block = SynthesisBlock(before, width, w_dim, side, colours, outputs == "residual", last)
            setattr(self, f"b{side}", block)
            before = width

    def forward(
        self, w: Float[Tensor, "n d"] | Float[Tensor, "n l d"], noise: Noise = "const"
    ) -> Float[Tensor, "n c r r"]:
        """Images of one w for all layers or of one each; a block's colours share w with the next one's first layer."""
        each = list(w.unbind(1)) if w.ndim == 3 else [w] * self.inputs
        if len(each) != self.inputs:
            raise ValueError(f"w: expected {self.inputs} styles for images of {self.sides[-1]} px, found {len(each)}")
        x = image = None
        start = 0
        for side in self.sides:
            convolutions = 1 if side == 4 else 2
            x, image = getattr(self, f"b{side}")(x, image, each[start : start + convolutions + 1], noise)
            start += convolutions
        return image


class Generator(nn.Module):
    """z to images: `mapping` and `synthesis`."""

    def __init__(
        self,
        widths: Mapping[int, int],
        z_dim: int,
        w_dim: int,
        colours: int = 3,
        layers: int = 8,
        outputs: str = "skip",
    ):
        super().__init__()
        self.mapping = MappingNetwork(z_dim, w_dim, layers)
        self.synthesis = Synthesis(widths, w_dim, colours, outputs)

    @property
    def size(self) -> int:
        """Side of the images in px."""
        return self.synthesis.sides[-1]

    @property
    def z_dim(self) -> int:
        """Length of a latent."""
        return self.mapping.fc0.weight.shape[1]

    def forward(self, z: Float[Tensor, "n z"], psi: float = 1.0, noise: Noise = "const") -> Float[Tensor, "n c r r"]:
        return self.synthesis(self.mapping(z, psi), noise)


# ---------------------------------------------------------------- discriminator


class DiscriminatorBlock(nn.Module):
    """Half the size: two convolutions beside a 1×1 one, sum over √2; the first block reads the image."""

    def __init__(self, inputs: int, outputs: int, colours: int):
        super().__init__()
        if colours:
            self.fromrgb = Conv(colours, inputs, 1)
        self.conv0 = Conv(inputs, inputs, 3)
        self.conv1 = Conv(inputs, outputs, 3, resample="down")
        self.skip = Conv(inputs, outputs, 1, active=False, resample="down")

    def forward(self, x: Tensor) -> Tensor:
        x = self.fromrgb(x) if hasattr(self, "fromrgb") else x
        half = math.sqrt(0.5)
        return self.skip(x, half) + self.conv1(self.conv0(x), half)


class Verdict(nn.Module):
    """4 px maps and their minibatch deviation to one logit."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = Conv(width + 1, width, 3)
        self.fc = Dense(16 * width, width, active=True)
        self.out = Dense(width, 1)

    def forward(self, x: Float[Tensor, "n c 4 4"]) -> Float[Tensor, " n"]:
        return self.out(self.fc(self.conv(torch.cat([x, minibatch_std(x)], 1)).flatten(1))).squeeze(1)


class Discriminator(nn.Module):
    """Images (N, C, R, R) in [-1, 1] to logits (N,), positive for real; `widths` as the generator's."""

    def __init__(self, widths: Mapping[int, int], colours: int = 3):
        super().__init__()
        self.sides = tuple(reversed(widths))
        for i, (side, below) in enumerate(zip(self.sides, self.sides[1:], strict=False)):
            setattr(self, f"b{side}", DiscriminatorBlock(widths[side], widths[below], 0 if i else colours))
        self.b4 = Verdict(widths[4])

    def forward(self, x: Float[Tensor, "n c r r"]) -> Float[Tensor, " n"]:
        for side in self.sides:
            x = getattr(self, f"b{side}")(x)
        return x


# ---------------------------------------------------------------- weights


def init_stylegan2(net: nn.Module, generator: torch.Generator) -> nn.Module:
    r"""Weights, the constant and noise maps from N(0, 1), divided by the layer's rate; biases stay; returns the net."""
    for module in net.modules():
        for name in ("weight", "const", "noise_const"):
            value = getattr(module, name, None)
            if isinstance(value, Tensor):
                value.data.normal_(generator=generator).div_(getattr(module, "rate", 1.0))
    return net


def widths(size: int, base: int, most: int) -> dict[int, int]:
    """Side -> channels: `base` at full size, twice as many at each half, `most` at the most."""
    if size < 8 or size & (size - 1):
        raise UserError(f"size: expected a power of two from 8 px on for StyleGAN2, found {size}; resize the images")
    sides = [2**i for i in range(2, size.bit_length())]
    return {side: min(most, base * size // side) for side in sides}

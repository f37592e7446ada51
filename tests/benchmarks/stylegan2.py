"""StyleGAN2's modulated convolution: a kernel for each row, as in the official code, against scaled activations."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mi_utils.models.stylegan2 import demodulation, scaled_convolution, widths
from tests.benchmarks.harness import Comparison, benchmark, clocked

BATCH = 32
MOST = 128  # channels
NETS = ((32, 16), (64, 16))  # size of the small priors' images, channels there
Layer = tuple[int, int, int, bool]  # channels in, channels out, side of the input, twice the size or not


def grouped_convolution(
    x: Float[Tensor, "n i h w"],
    kernel: Float[Tensor, "o i k k"],
    style: Float[Tensor, "n i"],
    demodulate: bool,
    up: bool,
) -> Float[Tensor, "n o h2 w2"]:
    r"""$\sum_i(\delta_{no}s_{ni}K_{oi})*x_{ni}$: a kernel for each row, all rows as groups of one convolution.

    `up`: a transposed one of stride 2 without padding, (2h + 1, 2w + 1).
    """
    own = kernel * style[:, None, :, None, None]
    if demodulate:
        own = own * demodulation(kernel, style)[:, :, None, None, None]
    rows = x.flatten(0, 1)[None]
    if up:
        y = F.conv_transpose2d(rows, own.transpose(1, 2).flatten(0, 1), stride=2, groups=len(x))
    else:
        y = F.conv2d(rows, own.flatten(0, 1), padding=kernel.shape[2] // 2, groups=len(x))
    return y[0].unflatten(0, (len(x), -1))


def layers(size: int, base: int) -> list[Layer]:
    """The styled convolutions of a generator of `size` px."""
    found, before = [], 0
    for side, width in widths(size, base, MOST).items():
        if before:
            found.append((before, width, side // 2, True))
        found.append((width, width, side, False))
        before = width
    return found


def compared(layer: Layer, device: torch.device) -> Comparison:
    """A step forwards and back: gradients of maps, kernel and style; channels last, as all nets are."""
    inputs, outputs, side, up = layer
    rng = torch.Generator().manual_seed(0)

    def maps(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng).to(device, memory_format=torch.channels_last)

    values = [maps(BATCH, inputs, side, side), maps(outputs, inputs, 3, 3)]
    values = [v.requires_grad_() for v in (*values, torch.randn((BATCH, inputs), generator=rng).to(device))]
    above = maps(BATCH, outputs, *[2 * side + 1 if up else side] * 2)

    def step(form: Callable[..., Tensor]) -> None:
        for _ in range(10):
            torch.autograd.grad(form(*values, True, up), values, above)

    plain, fast = (clocked(partial(step, form), device) for form in (grouped_convolution, scaled_convolution))
    size = f"{inputs} to {outputs} channels, {side} px{', doubled' * up}, batch {BATCH}; grouped form against scaled"
    return Comparison(plain, fast, size, least=0.91)


for _layer in dict.fromkeys(layer for net in NETS for layer in layers(*net)):
    _name = f"modulated-{_layer[0]}-{_layer[1]}-{_layer[2]}px{'-up' * _layer[3]}"
    benchmark(_name, threads=2)(partial(compared, _layer))

"""StyleGAN2's modulated convolution: the form that is used against the other one, at the sizes of the small priors."""

from functools import partial

import torch

from mi_utils.models.stylegan2 import FORMS, faster_form
from tests.benchmarks.harness import Comparison, benchmark, clocked

BATCH = 16
# (channels in, channels out, side of the input, twice the size or not) of generators of 32 and 64 px.
LAYERS = (
    (128, 128, 4, False),
    (128, 128, 4, True),
    (128, 128, 8, False),
    (128, 64, 8, True),
    (64, 64, 16, False),
    (64, 32, 16, True),
    (32, 32, 32, False),
    (64, 64, 32, False),
    (64, 32, 32, True),
    (32, 32, 64, False),
    (32, 16, 16, True),
    (16, 16, 32, False),
    (16, 8, 32, True),
    (8, 8, 64, False),
)


def compared(layer: tuple[int, int, int, bool], device: torch.device) -> Comparison:
    """A step forwards and back: gradients of maps, kernel and style."""
    inputs, outputs, side, up = layer
    rng = torch.Generator().manual_seed(0)
    shapes = ((BATCH, inputs, side, side), (outputs, inputs, 3, 3), (BATCH, inputs))
    values = [torch.randn(shape, generator=rng).to(device).requires_grad_() for shape in shapes]

    def step(form: str) -> None:
        for _ in range(10):
            torch.autograd.grad(FORMS[form](*values, True, up).sum(), values)

    used = faster_form(outputs, 2 * side if up else side, device)
    other = next(form for form in FORMS if form != used)
    size = f"{inputs} to {outputs} channels, {side} px{', doubled' * up}, batch {BATCH}; {other} form against {used}"
    return Comparison(clocked(partial(step, other), device), clocked(partial(step, used), device), size, least=0.91)


for _layer in LAYERS:
    _name = f"modulated-{_layer[0]}-{_layer[1]}-{_layer[2]}px{'-up' * _layer[3]}"
    benchmark(_name, threads=2)(partial(compared, _layer))

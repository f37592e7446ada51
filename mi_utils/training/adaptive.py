r"""Adaptive discriminator augmentation (Karras et al., NeurIPS 2020, arXiv 2006.06676) for few training images.

The discriminator sees real and generated images through the same random transformations, each used with probability
p, and p follows how much the discriminator overfits: $r_t=\mathbb E[\mathrm{sign}\,D(x)]$ above its target raises it.
Deviation: reflected borders and bilinear sampling without the wavelet filters; colours by contrast, brightness and
saturation.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

TARGET = 0.6  # of r_t
IMAGES = 500_000  # that p needs at least from 0 to 1
EVERY = 4  # steps between two changes of p


def overfitting(real: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    r"""$r_t=\mathbb E[\mathrm{sign}\,D(x)]$ of real images' logits: 0 undecided, 1 all of them known."""
    return real.sign().mean()


def adapted(p: Float[Tensor, ""], signs: Float[Tensor, ""], images: int) -> Float[Tensor, ""]:
    """p after `images` more images of which the mean sign was `signs`; in [0, 1]."""
    return (p + (signs - TARGET).sign() * images / IMAGES).clamp(0, 1)


def augmented(
    x: Float[Tensor, "n c s s"], p: Float[Tensor, ""] | float, rng: torch.Generator, flip: bool = True
) -> Float[Tensor, "n c s s"]:
    """Images seen through transformations that each image undergoes with probability p each; differentiable in x."""
    return _recoloured(_moved(x, p, rng, flip), p, rng)


def _chosen(n: int, p: Tensor | float, like: Tensor, rng: torch.Generator) -> Float[Tensor, " n"]:
    return (torch.rand(n, generator=rng, device=rng.device).to(like.device) < p).to(like)


def _moved(x: Tensor, p: Tensor | float, rng: torch.Generator, flip: bool) -> Tensor:
    """Mirror, quarter turn, scale, turn and shift, in one bilinear sampling."""
    n = len(x)

    def drawn(normal: bool = True) -> Tensor:
        make = torch.randn if normal else torch.rand
        return make(n, generator=rng, device=rng.device).to(x)

    mirror = 1 - 2 * _chosen(n, p, x, rng) * (drawn(False) < 0.5) * flip
    quarter = (drawn(False) * 4).floor() * _chosen(n, p, x, rng) * flip
    scale = torch.exp2(0.2 * drawn() * _chosen(n, p, x, rng))
    angle = torch.pi * (quarter / 2 + (2 * drawn(False) - 1) * _chosen(n, p, x, rng) * flip)
    shift = [0.25 * drawn() * _chosen(n, p, x, rng) for _ in range(2)]
    cos, sin = angle.cos() / scale, angle.sin() / scale
    rows = [torch.stack([mirror * cos, -mirror * sin, shift[0]], 1), torch.stack([sin, cos, shift[1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def _recoloured(x: Tensor, p: Tensor | float, rng: torch.Generator) -> Tensor:
    """Brightness, contrast and saturation."""
    n = len(x)

    def drawn() -> Tensor:
        noise = torch.randn(n, generator=rng, device=rng.device).to(x)
        return (noise * _chosen(n, p, x, rng))[:, None, None, None]

    x = x * torch.exp2(0.5 * drawn()) + 0.2 * drawn()
    grey = x.mean(1, keepdim=True)
    return grey + (x - grey) * torch.exp2(drawn())

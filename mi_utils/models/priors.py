"""Generator and discriminators of GMI and KEDMI (Re-thinking MI, arXiv 2304.01669; layer tables of the released code).

Images are (N, C, S, S) in [-1, 1] with S = 32 or 64; `width` is 64 in the paper.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mi_utils.errors import UserError
from mi_utils.models.patch_gan import init_weights

LATENT = 100


def _widths(size: int, width: int) -> list[int]:
    """Channels at sides size/2, ..., 4: w, 2w, 4w, and 8w at 64 px; UserError for another size."""
    if size not in (32, 64):
        raise UserError(f"size: expected images of 32 or 64 px for the priors of GMI and KEDMI, found {size}; resize")
    return [width * 2**i for i in range(3 if size == 32 else 4)]


class Generator(nn.Module):
    """Latents (N, 100) to images (N, C, S, S) in [-1, 1]; 5,142,083 parameters at width 64, 64 px, C = 3.

    The released net ends in a sigmoid, images in [0, 1]; 2 sigmoid(x) - 1 is the same image in our range.
    """

    def __init__(self, channels: int, size: int, width: int):
        super().__init__()
        widths = _widths(size, width)[::-1]
        self.stem = nn.Sequential(
            nn.Linear(LATENT, 16 * widths[0], bias=False), nn.BatchNorm1d(16 * widths[0]), nn.ReLU(True)
        )
        layers: list[nn.Module] = []
        for i, o in zip(widths, widths[1:], strict=False):
            layers += [nn.ConvTranspose2d(i, o, 5, 2, 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(True)]
        self.body = nn.Sequential(*layers, nn.ConvTranspose2d(width, channels, 5, 2, 2, 1))

    def forward(self, z: Float[Tensor, "n 100"]) -> Float[Tensor, "n c s s"]:
        return self.body(self.stem(z).unflatten(1, (-1, 4, 4))).sigmoid().mul(2).sub(1)


def _stage(inputs: int, outputs: int, kernel: int, normalised: bool = True) -> list[nn.Module]:
    norm = [nn.InstanceNorm2d(outputs, affine=True)] if normalised else []
    return [nn.Conv2d(inputs, outputs, kernel, 2, kernel // 2), *norm, nn.LeakyReLU(0.2, True)]


class Critic(nn.Module):
    """Images to Wasserstein scores (N,); 4,316,545 parameters at width 64, 64 px, C = 3."""

    def __init__(self, channels: int, size: int, width: int):
        super().__init__()
        widths = [channels, *_widths(size, width)]
        layers = [m for i, o in zip(widths, widths[1:], strict=False) for m in _stage(i, o, 5, i != channels)]
        self.body = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4), nn.Flatten(0))

    def forward(self, x: Float[Tensor, "n c s s"]) -> Float[Tensor, " n"]:
        return self.body(x)


class MinibatchDiscrimination(nn.Module):
    r"""$o_b(x_i)=\sum_{j\ne i}\exp(-\|t_{ib}-t_{jb}\|_1)$ with $t_i=f_i^\top T$: how like the other rows a row is.

    Features (N, d) to (N, B); T is (d, B, kernel), written by `init_prior`.
    """

    def __init__(self, features: int, outputs: int, kernel: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, outputs, kernel))

    def forward(self, f: Float[Tensor, "n d"]) -> Float[Tensor, "n b"]:
        t = (f @ self.weight.flatten(1)).unflatten(1, self.weight.shape[1:]).transpose(0, 1)
        # Each row is at distance 0 from itself: exp(0) = 1.
        return torch.cdist(t, t, p=1).neg().exp().sum(2).sub(1).T


class KnowledgeDiscriminator(nn.Module):
    """Images to (N, K) logits; 4,899,781 parameters at width 64, 32 px, C = 1, K = 5.

    Its logsumexp says how real an image is, its softmax what the target would say of it.
    """

    def __init__(self, channels: int, size: int, width: int, classes: int, mbd_outputs: int = 64, mbd_kernel: int = 50):
        super().__init__()
        widths = [channels, *_widths(size, width)[:3], 4 * width]
        kernels = (5, 5, 5, 3)
        layers = [m for i, o, k in zip(widths, widths[1:], kernels, strict=False) for m in _stage(i, o, k)]
        self.body = nn.Sequential(*layers, nn.Flatten())
        dim = 4 * width * (size // 16) ** 2
        self.mbd = MinibatchDiscrimination(dim, mbd_outputs, mbd_kernel)
        self.head = nn.Linear(dim + mbd_outputs, classes)

    def features(self, x: Float[Tensor, "n c s s"]) -> Float[Tensor, "n d"]:
        """f(x): activations before minibatch discrimination; a row's depend on that row alone."""
        return self.body(x)

    def classify(self, f: Float[Tensor, "n d"], coupled: bool = True) -> Float[Tensor, "n k"]:
        """Logits of features; `coupled` False: minibatch discrimination gives 0, as for a batch of one row."""
        closeness = self.mbd(f) if coupled else f.new_zeros(len(f), self.mbd.weight.shape[1])
        return self.head(torch.cat([f, closeness], 1))

    def forward(self, x: Float[Tensor, "n c s s"], coupled: bool = True) -> Float[Tensor, "n k"]:
        return self.classify(self.features(x), coupled)


def init_prior(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """As a DCGAN's (`init_weights`), and N(0, 1) for minibatch discrimination; returns the module."""
    for m in init_weights(module, generator).modules():
        if isinstance(m, MinibatchDiscrimination):
            m.weight.data.normal_(generator=generator)
    return module

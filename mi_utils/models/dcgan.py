"""The unconditional DCGAN that the generative and the variational baseline share (released code)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

LATENT = 128


class Generator(nn.Module):
    """Latents (N, 128) to images (N, C, 32, 32) in [-1, 1]; 3,674,369 parameters at n_gf = 64, C = 1."""

    def __init__(self, n_gf: int, channels: int):
        super().__init__()
        widths = [LATENT, 8 * n_gf, 4 * n_gf, 2 * n_gf]
        strides = [(4, 1, 0), (4, 2, 1), (4, 2, 1)]
        layers: list[nn.Module] = []
        for i, o, (k, s, p) in zip(widths, widths[1:], strides, strict=False):
            # Only the first layer has a bias, as released (the parameter count tells).
            layers += [nn.ConvTranspose2d(i, o, k, s, p, bias=s == 1), nn.BatchNorm2d(o), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1), nn.Tanh())

    def forward(self, z: Float[Tensor, "n 128"]) -> Float[Tensor, "n c h w"]:
        return self.body(z[:, :, None, None])


class Discriminator(nn.Module):
    """Images (N, C, 32, 32) to logits (N,); 661,249 parameters at n_df = 64, C = 1.

    The released network ends in a sigmoid; ours returns the logit and lets the loss decide
    (`double_sigmoid` of the generative baseline restores the released arithmetic).
    """

    def __init__(self, n_df: int, channels: int):
        super().__init__()
        d = n_df
        self.body = nn.Sequential(
            nn.Conv2d(channels, d, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2),
            nn.Conv2d(d, 2 * d, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * d),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * d, 4 * d, 4, 2, 1, bias=False),
            nn.BatchNorm2d(4 * d),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(64 * d, 1),
        )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        return self.body(x).squeeze(1)

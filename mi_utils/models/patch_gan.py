"""Patch-MI's generator, patch discriminator and code head (arXiv 2312.07040, released code's layer tables).

All three take `groups`: K networks of one shape laid side by side as channel groups, so that one GAN per
class costs one pass for all classes.  Group g owns the g-th block of channels and of every parameter's first
axis, and no value crosses groups (batch and instance normalisation are per channel), so that `stack_groups`
and `split_groups` convert exactly between K single networks and one grouped network.
Images of a grouped network are (B, K, C, S, S).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mi_utils.errors import UserError

LATENT = 100

Upsampling = Literal["transpose", "resize"]


def init_weights(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Conv and linear weights N(0, .02^2), batch-norm scale N(1, .02^2), embeddings N(0, 1); shifts 0.

    Deviation: biases start at 0 (the released code leaves torch's uniform draw, which is unseeded).
    """
    for m in module.modules():
        if isinstance(m, nn.modules.conv._ConvNd | nn.Linear):
            m.weight.data.normal_(0.0, 0.02, generator=generator)
            if m.bias is not None:
                m.bias.data.zero_()
        elif isinstance(m, nn.BatchNorm2d):
            m.weight.data.normal_(1.0, 0.02, generator=generator)
        elif isinstance(m, GroupedEmbedding):
            m.weight.data.normal_(0.0, 1.0, generator=generator)
    return module


def channels_last(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The same values with the channels of a pixel side by side in memory."""
    return x.contiguous(memory_format=torch.channels_last)


class GroupedEmbedding(nn.Module):
    """One lookup table of (n, 100) per group; index (B, K) to (B, K, 100)."""

    def __init__(self, n: int, groups: int):
        super().__init__()
        self.n, self.groups = n, groups
        self.weight = nn.Parameter(torch.empty(groups * n, LATENT))

    def forward(self, index: Int[Tensor, "b k"]) -> Float[Tensor, "b k 100"]:
        return self.weight[index + self.n * torch.arange(self.groups, device=index.device)]


class Generator(nn.Module):
    """G(z, c) or G(z, c, y): latents (B, K, 100), codes (B, K), labels (B, K) to (B, K, C, 32, 32) in [-1, 1].

    `codes` is n_d of the InfoGAN code.  `classes` > 0 makes it class-conditional: an embedding of the label is
    concatenated to z (ours; 4,262,669 parameters at n_gf = 64, C = 1, K = 10, against 3,444,069 without).
    `upsampling` "resize" replaces each transposed convolution after the first by nearest-neighbour resizing
    and a 3x3 convolution, which leaves no checkerboard for the target to exploit (ours, tuned setting).
    """

    def __init__(
        self,
        codes: int,
        n_gf: int,
        channels: int,
        groups: int = 1,
        classes: int = 0,
        upsampling: Upsampling = "transpose",
    ):
        super().__init__()
        self.groups, self.channels, self.upsampling = groups, channels, upsampling
        inputs, width = (2 if classes else 1) * LATENT, 8 * n_gf
        self.label = GroupedEmbedding(classes, groups) if classes else None
        self.code = GroupedEmbedding(codes, groups)
        self.code_plane = nn.ConvTranspose2d(LATENT * groups, groups, 4, groups=groups)
        self.latent = nn.ConvTranspose2d(inputs * groups, (width - 1) * groups, 4, groups=groups)
        self.activation = nn.LeakyReLU(0.2)
        self.body = nn.Sequential(
            *self._up(width, 4 * n_gf, bias=False),
            nn.BatchNorm2d(4 * n_gf * groups),
            nn.LeakyReLU(0.2),
            *self._up(4 * n_gf, 2 * n_gf, bias=False),
            nn.BatchNorm2d(2 * n_gf * groups),
            nn.LeakyReLU(0.2),
            *self._up(2 * n_gf, channels, bias=True),
            nn.Tanh(),
        )

    def _up(self, inputs: int, outputs: int, bias: bool) -> list[nn.Module]:
        i, o, g = inputs * self.groups, outputs * self.groups, self.groups
        if self.upsampling == "transpose":
            return [nn.ConvTranspose2d(i, o, 4, 2, 1, bias=bias, groups=g)]
        return [nn.Upsample(scale_factor=2), nn.Conv2d(i, o, 3, 1, 1, bias=bias, groups=g)]

    def forward(
        self, z: Float[Tensor, "b k 100"], code: Int[Tensor, "b k"], label: Int[Tensor, "b k"] | None = None
    ) -> Float[Tensor, "b k c h w"]:
        k = self.groups
        seed = z if label is None else torch.cat([z, self.label(label)], 2)
        main = self.activation(self.latent(seed.flatten(1)[:, :, None, None]))
        plane = self.code_plane(self.code(code).flatten(1)[:, :, None, None])
        joined = torch.cat([main.unflatten(1, (k, -1)), plane.unflatten(1, (k, 1))], 2)
        stem = joined.flatten(1, 2)
        # Grouped convolutions like channels-last (CPU: twice as fast here), transposed ones do not.
        stem = channels_last(stem) if self.upsampling == "resize" else stem
        return self.body(stem).unflatten(1, (k, self.channels))


class PatchDiscriminator(nn.Module):
    """D: images (B, K, C, S, S) to one logit per patch, (B, K, N); patches of side p, stride s, padding q.

    One convolution reads a patch, 1x1 convolutions score it, so N = (floor((S + 2q - p) / s) + 1)^2.
    `norm` "instance" (released) normalises over the patch grid and thereby lets every patch see all others;
    "none" is a pure patch critic.  Off-patch mode is p = s = S, q = 0: N = 1 and no normalisation.
    `padding_mode` "replicate" (tuned) hides no border; released is zero padding, which is mid-grey here.
    """

    def __init__(
        self,
        patch: int,
        stride: int,
        padding: int,
        n_df: int,
        channels: int,
        groups: int = 1,
        norm: Literal["instance", "none"] = "instance",
        padding_mode: Literal["zeros", "replicate"] = "zeros",
    ):
        super().__init__()
        self.groups = groups
        c, d = channels * groups, n_df * groups

        def normalised() -> nn.Module:
            return nn.InstanceNorm2d(d) if norm == "instance" else nn.Identity()

        self.body = nn.Sequential(
            nn.Conv2d(c, d, patch, stride, padding, groups=groups, padding_mode=padding_mode),
            nn.LeakyReLU(0.2),
            nn.Conv2d(d, d, 1, groups=groups),
            normalised(),
            nn.LeakyReLU(0.2),
            nn.Conv2d(d, d, 1, groups=groups),
            normalised(),
            nn.LeakyReLU(0.2),
            nn.Conv2d(d, groups, 1, groups=groups),
        )

    def forward(self, x: Float[Tensor, "b k c h w"]) -> Float[Tensor, "b k n"]:
        return self.body(channels_last(x.flatten(1, 2))).flatten(2)


class CodeHead(nn.Module):
    """Q: images (B, K, C, 32, 32) to (B, K, outputs): logits of the InfoGAN code, or an estimate of z."""

    def __init__(self, outputs: int, channels: int, groups: int = 1, width: int = 64):
        super().__init__()
        self.groups, g, w = groups, groups, width
        self.body = nn.Sequential(
            nn.Conv2d(channels * g, w * g, 3, 2, 1, groups=g),
            nn.LeakyReLU(0.2),
            nn.Conv2d(w * g, 2 * w * g, 3, 2, 1, groups=g),
            nn.BatchNorm2d(2 * w * g),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * w * g, 4 * w * g, 3, 2, 1, groups=g),
            nn.BatchNorm2d(4 * w * g),
            nn.LeakyReLU(0.2),
            # A linear layer on the 4x4 map, written as a convolution so that it can be grouped.
            nn.Conv2d(4 * w * g, outputs * g, 4, groups=g),
        )

    def forward(self, x: Float[Tensor, "b k c h w"]) -> Float[Tensor, "b k o"]:
        return self.body(channels_last(x.flatten(1, 2))).flatten(1).unflatten(1, (self.groups, -1))


def stack_groups(networks: Sequence[nn.Module], grouped: nn.Module) -> nn.Module:
    """Write K networks with groups=1 into one with groups=K; returns it."""
    states = [n.state_dict() for n in networks]
    joined = {name: torch.cat([s[name] for s in states]) if value.ndim else value for name, value in states[0].items()}
    grouped.load_state_dict(joined)
    return grouped


def split_groups(grouped: nn.Module, networks: Sequence[nn.Module]) -> Sequence[nn.Module]:
    """Write one network with groups=K into K with groups=1; returns them."""
    for name, value in grouped.state_dict().items():
        parts = value.chunk(len(networks)) if value.ndim else [value] * len(networks)
        for network, part in zip(networks, parts, strict=True):
            network.state_dict()[name].copy_(part)
    return networks


def patch_count(size: int, patch: int, stride: int, padding: int) -> int:
    """N of one discriminator on a size x size image."""
    if patch > size + 2 * padding:
        raise UserError(
            f"patch: at most {size + 2 * padding} px fit in a {size} px image padded by {padding}, "
            f"found {patch}; choose a smaller patch"
        )
    return ((size + 2 * padding - patch) // stride + 1) ** 2

"""A toy of two "patches" per image that shows, in seconds, what a patch critic allows and an image critic forbids."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mi_utils.attacks.patch_mi import adversarial_loss, discriminator_loss
from mi_utils.report.figures import Picture
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Output, Stage

SPREAD = 0.12


def corners(n: int, sign: int, rng: torch.Generator) -> Float[Tensor, "n 2"]:
    """Points near (a, sign·a), a = ±1: `sign` +1 is the auxiliary law, -1 the private one.

    Each coordinate alone (a "patch") has the same law in both; the points ("images") never meet.
    """
    a = torch.randint(2, (n, 1), generator=rng) * 2.0 - 1
    return torch.cat([a, sign * a], 1) + SPREAD * torch.randn(n, 2, generator=rng)


def target_logit(x: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
    """The toy classifier: positive on the private law, negative on the auxiliary one."""
    return -3 * x[:, 0] * x[:, 1]


def _mlp(inputs: int, outputs: int, rng: torch.Generator) -> nn.Module:
    layers = [nn.Linear(inputs, 32), nn.Linear(32, 32), nn.Linear(32, outputs)]
    for layer in layers:
        layer.weight.data.normal_(0, layer.in_features**-0.5, generator=rng)
        layer.bias.data.zero_()
    return nn.Sequential(layers[0], nn.LeakyReLU(0.2), layers[1], nn.LeakyReLU(0.2), layers[2])


def attack(patchwise: bool, steps: int = 600, batch: int = 256, w_a: float = 1.0) -> Float[Tensor, "n 2"]:
    """Generated points after a GAN on the auxiliary law steered by `target_logit`.

    `patchwise`: one critic per coordinate, as Patch-MI; otherwise one critic on whole points, as a usual GAN.
    """
    rng = seeded("toy", int(patchwise))
    net = _mlp(4, 2, rng)
    critics = nn.ModuleList(_mlp(1 if patchwise else 2, 1, rng) for _ in range(2 if patchwise else 1))
    g_adam = torch.optim.Adam(net.parameters(), 2e-3, betas=(0.5, 0.999))
    d_adam = torch.optim.Adam(critics.parameters(), 2e-3, betas=(0.5, 0.999))

    def scores(x: Tensor) -> Float[Tensor, "n patches"]:
        parts = x.split(1, 1) if patchwise else (x,)
        return torch.cat([critic(part) for critic, part in zip(critics, parts, strict=True)], 1)

    for _ in range(steps):
        x = net(torch.randn(batch, 4, generator=rng))
        loss = discriminator_loss(scores(corners(batch, 1, rng)), scores(x.detach()), 1.0, "patch").mean()
        d_adam.zero_grad()
        loss.backward()
        d_adam.step()
        identity = F.softplus(-target_logit(x))
        loss = (adversarial_loss(scores(x), "patch") + w_a * identity).mean()
        g_adam.zero_grad()
        loss.backward()
        g_adam.step()
    with torch.no_grad():
        return net(torch.randn(512, 4, generator=rng))


class ToyAttack(Stage):
    """`attack`, stored."""

    patchwise: bool

    def compute(self, job: Job) -> Output:
        """The generated points (512, 2)."""
        return Output({"points": attack(self.patchwise)})


def distance_to(x: Float[Tensor, "n 2"], sign: int) -> float:
    """Mean distance of points to the nearer corner of a law."""
    centres = torch.tensor([[1.0, sign], [-1.0, -sign]])
    return torch.cdist(x, centres).amin(1).mean().item()


def figure(found: dict[str, Float[Tensor, "n 2"]]) -> Picture:
    """Auxiliary and private laws with the points that each critic led to."""
    rng = seeded("toy figure")
    picture = Picture(figsize=(3.2 * len(found), 3.2), layout="constrained")
    for axes, (name, x) in zip(picture.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        for label, points, colour in (
            ("auxiliary", corners(300, 1, rng), "#bbbbbb"),
            ("private", corners(300, -1, rng), "#228833"),
            ("generated", x[:300], "#ee6677"),
        ):
            axes.scatter(*points.T.numpy(), s=5, color=colour, label=label, alpha=0.6)
        axes.set(title=name, xlabel="patch 1", ylabel="patch 2", xlim=(-2, 2), ylim=(-2, 2), aspect="equal")
    picture.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8, markerscale=2)
    return picture

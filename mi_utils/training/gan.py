"""Training of priors: generators of auxiliary images that an attack then searches, target unseen."""

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor, nn

from mi_utils.data.images import to_float, to_uint8
from mi_utils.data.pool import AuxiliaryPool
from mi_utils.errors import UserError
from mi_utils.models.dcgan import LATENT, Discriminator, Generator
from mi_utils.models.patch_gan import init_weights
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Output, Stage

SIDE = 32  # px: what the DCGAN's layers make and read


def soft_bce(logits: Float[Tensor, " n"], label: float) -> Float[Tensor, " n"]:
    r"""$-t\log\sigma(d)-(1-t)\log(1-\sigma(d))$ of each image's logit, with one label t for all."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label), reduction="none")


class TrainDCGAN(Stage):
    """The DCGAN on auxiliary images that the generative and the variational baseline share.

    Source: specification, 3 (Hangul: 50 epochs of 52,000 images, 20,000 iterations).  Deviations: initialised
    like Patch-MI's networks (the source is silent); the generator's step takes the same images as the
    discriminator's; the last iteration's weights are kept.
    """

    auxiliary: AuxiliaryPool
    n_gf: Annotated[int, Field(ge=1)] = 64
    n_df: Annotated[int, Field(ge=1)] = 64
    iterations: Annotated[int, Field(ge=1)] = 20_000
    batch: Annotated[int, Field(ge=2)] = 128
    lr: Annotated[float, Field(gt=0)] = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    tau: Annotated[float, Field(gt=0, le=1)] = 0.8  # label of auxiliary images; generated ones have 0
    seed: int = 0

    def compute(self, job: Job) -> Output:
        """Alternate one discriminator and one generator step."""
        pool = self.auxiliary.images(job.device)
        if tuple(pool.shape[2:]) != (SIDE, SIDE):
            found = f"{pool.shape[3]}×{pool.shape[2]}"
            raise UserError(f"auxiliary: expected {SIDE}×{SIDE} px images for the DCGAN, found {found} px")
        rng, weights = seeded("dcgan", self.seed, device=job.device), seeded("dcgan weights", self.seed)
        g = init_weights(Generator(self.n_gf, pool.shape[1]), weights).to(job.device)
        d = init_weights(Discriminator(self.n_df, pool.shape[1]), weights).to(job.device)
        g_adam = torch.optim.Adam(g.parameters(), self.lr, betas=self.betas, fused=True)
        d_adam = torch.optim.Adam(d.parameters(), self.lr, betas=self.betas, fused=True)
        loss_d: list[Tensor] = []
        loss_g: list[Tensor] = []
        state = {"g": g, "d": d, "g_adam": g_adam, "d_adam": d_adam, "rng": rng}
        for _ in job.steps(self.iterations, state, {"loss_d": loss_d, "loss_g": loss_g}):
            index = torch.randint(len(pool), (self.batch,), generator=rng, device=job.device)
            x = g(torch.randn((self.batch, LATENT), generator=rng, device=job.device))
            loss_d.append(self._train_discriminator(d, d_adam, to_float(pool[index]), x.detach()))
            loss_g.append(self._train_generator(d, g_adam, x))
        curves = {"log_loss_d": torch.stack(loss_d), "log_loss_g": torch.stack(loss_g)}
        for name, values in curves.items():
            job.check_finite(name, values)
        nets = nn.ModuleDict({"generator": g, "discriminator": d})
        return Output(nets.state_dict() | curves, {"channels": pool.shape[1], "size": SIDE})

    def _train_discriminator(
        self, d: Discriminator, adam: torch.optim.Adam, real: Tensor, fake: Tensor
    ) -> Float[Tensor, ""]:
        loss = (soft_bce(d(real), self.tau) + soft_bce(d(fake), 0.0)).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        return loss.detach()

    def _train_generator(self, d: Discriminator, adam: torch.optim.Adam, x: Tensor) -> Float[Tensor, ""]:
        """One step on -log sigma(D(x)) with the updated discriminator, which it leaves alone."""
        d.requires_grad_(False)
        loss = soft_bce(d(x), 1.0).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        d.requires_grad_(True)
        return loss.detach()

    def facts(self) -> dict:
        """Channels and side of the images, read from the store."""
        return self.result().meta

    def generator(self, device: torch.device | str) -> Generator:
        """The trained generator, frozen and in eval mode."""
        return self._frozen(Generator(self.n_gf, self.facts()["channels"]), "generator.", device)

    def samples(self, count: int, rng: torch.Generator, device: torch.device | str) -> UInt8[Tensor, "n c s s"]:
        """Images of `count` latents drawn from the law of training."""
        g = self.generator(device)
        z = torch.randn((count, LATENT), generator=rng, device=rng.device).to(device)
        with torch.no_grad():
            return torch.cat([to_uint8(g(part)) for part in z.split(512)])

    def discriminator(self, device: torch.device | str) -> Discriminator:
        """The trained discriminator, frozen and in eval mode."""
        return self._frozen(Discriminator(self.n_df, self.facts()["channels"]), "discriminator.", device)

    def _frozen(self, net: nn.Module, prefix: str, device: torch.device | str) -> nn.Module:
        stored = self.result(device).tensors
        net.load_state_dict({k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)})
        return net.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)

r"""Patch-MI (Jang, Lyu, Yang; arXiv 2312.07040): a GAN on auxiliary *patches*, steered by the target.

$$\min_\theta\ \tfrac1N\sum_i \mathrm{JS}\big(p_a(\rho_i x)\,\|\,q_\theta(\rho_i x)\big)
  + w_a\,\mathbb E\big[\ell_{id}(x,y)\big]$$

The attack reads the frozen target and unlabelled auxiliary images, nothing else.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from mi_utils.attacks.batch_statistics import BatchStatistics
from mi_utils.attacks.identity import Views, identity_loss
from mi_utils.data.images import to_float, to_uint8
from mi_utils.data.pool import AuxiliaryPool
from mi_utils.errors import UserError
from mi_utils.models.patch_gan import (
    LATENT,
    CodeHead,
    Generator,
    PatchDiscriminator,
    Upsampling,
    init_weights,
    patch_count,
)
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Config, Job, Output, Stage
from mi_utils.training.classifier import TrainClassifier

Reduce = Literal["mean", "patch"]
Weight = Annotated[float, Field(ge=0)]


# --- equations ---------------------------------------------------------------------------------------------


def critic_loss(d: Float[Tensor, "b n"], label: float, reduce: Reduce) -> Float[Tensor, " b"]:
    r"""Cross-entropy of an image's patch logits $d_i$ with a soft label $\tau$.

    "mean" (released): $-\tau\log\sigma(\bar d)-(1-\tau)\log(1-\sigma(\bar d))$ of the mean logit $\bar d$;
    "patch": the same of every $d_i$, averaged after the log (the per-patch decomposition read literally).
    Source: specification, 2.3.
    """
    if reduce == "mean":
        d = d.mean(1, keepdim=True)
    return F.binary_cross_entropy_with_logits(d, torch.full_like(d, label), reduction="none").mean(1)


def discriminator_loss(
    d_real: Float[Tensor, "b n"], d_fake: Float[Tensor, "b n"], tau: float, reduce: Reduce
) -> Float[Tensor, " b"]:
    r"""$\ell_D$: auxiliary patches towards the one-sided label $\tau=1-\mathrm{ls}$, generated ones towards 0."""
    return critic_loss(d_real, tau, reduce) + critic_loss(d_fake, 0.0, reduce)


def adversarial_loss(d_fake: Float[Tensor, "b n"], reduce: Reduce) -> Float[Tensor, " b"]:
    r"""$\ell_{adv}=-\log\sigma(d)$: the non-saturating generator loss."""
    return critic_loss(d_fake, 1.0, reduce)


def equilibrium(tau: float) -> tuple[float, float]:
    r"""($L_D$, $L_{adv}$) where $p_a=q_\theta$ and $\sigma(d^*)=\tau/2$: (1.001, 1.609) for $\tau=.4$."""
    d = torch.logit(torch.tensor([[tau / 2]], dtype=torch.float64))
    return discriminator_loss(d, d, tau, "mean").item(), adversarial_loss(d, "mean").item()


def identity_weight(step: int, w_a: float, start: float, ramp: int) -> float:
    """w_a at a step: from `start` linearly to `w_a` over `ramp` steps, then constant (ours; released: constant)."""
    return w_a if step >= ramp else start + (w_a - start) * step / ramp


def latent_regression(estimate: Float[Tensor, "b k z"], z: Float[Tensor, "b k z"]) -> Float[Tensor, " b"]:
    r"""$\lVert Q(x)-z\rVert^2/\dim z$: an image from which z can be read back varies with z (ours)."""
    return (estimate - z).square().mean((1, 2))


# --- algorithm ---------------------------------------------------------------------------------------------


class Critic(Config):
    """Patch geometry of one discriminator, in px."""

    patch: Annotated[int, Field(ge=1)] = 6
    stride: Annotated[int, Field(ge=1)] = 2
    padding: Annotated[int, Field(ge=0)] = 2


@dataclass
class Networks:
    """The trained parts; `average` is the moving average of the generator's weights (the same object if off)."""

    generator: Generator
    average: Generator
    critics: nn.ModuleList
    code: CodeHead | None
    latent: CodeHead | None
    curves: dict[str, list[Tensor]] = field(default_factory=dict)


class PatchMI(Stage):
    """Patch-MI.  Defaults are the released MNIST settings; fields under "ours" are off by default.

    Deviation: one GAN per class is trained for all classes at once, as channel groups of one network; each
    group's arithmetic is that of its own run.  The transformation block's draw is shared by the classes.
    """

    target: TrainClassifier
    auxiliary: AuxiliaryPool
    classes: tuple[int, ...]
    seed: int = 0
    gan: Literal["per_class", "class_cond"] = "per_class"
    critics: tuple[Critic, ...] = (Critic(),)
    d_reduce: Reduce = "mean"
    d_norm: Literal["instance", "none"] = "instance"
    n_gf: Annotated[int, Field(ge=1)] = 64
    n_df: Annotated[int, Field(ge=1)] = 256
    iterations: Annotated[int, Field(ge=1)] = 24_000
    batch: Annotated[int, Field(ge=2)] = 64  # images per class (per_class) or in all (class_cond)
    lr: Annotated[float, Field(gt=0)] = 1e-3
    w_a: Weight = 30.0  # identity
    tau: Annotated[float, Field(gt=0, le=1)] = 0.4  # label of auxiliary patches, 1 - ls
    views: Views = Views()
    n_codes: Annotated[int, Field(ge=1)] = 1  # InfoGAN codes n_d; 1 is off
    w_c: Weight = 0.3
    samples: Annotated[int, Field(ge=1)] = 1000  # reconstructions per class
    # ours
    upsampling: Upsampling = "transpose"
    d_padding: Literal["zeros", "replicate"] = "zeros"
    instance_noise: Weight = 0.0  # standard deviation of noise on the discriminator's inputs
    w_a_start: Weight = 0.0
    ramp: Annotated[int, Field(ge=0)] = 0  # steps from w_a_start to w_a
    w_z: Weight = 0.0  # latent regression
    w_bn: Weight = 0.0  # batch statistics of the target
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of the generator's moving average

    def compute(self, job: Job) -> Output:
        """Train the GANs against the target, then sample every class (specification, 2.5)."""
        target = self.target.network(job.device)
        pool = self.auxiliary.images(job.device)
        self._check(pool.shape[1:])
        rng = seeded("patch-mi", self.seed, device=job.device)
        nets = self._networks(pool.shape[1], job.device)
        params = [p for n in (nets.generator, nets.code, nets.latent) if n for p in n.parameters()]
        g_adam = torch.optim.Adam(params, self.lr, betas=(0.5, 0.999), fused=True)
        d_adam = torch.optim.Adam(nets.critics.parameters(), self.lr, betas=(0.5, 0.999), fused=True)
        state = self._state(nets) | {"g_adam": g_adam, "d_adam": d_adam, "rng": rng}
        with BatchStatistics(target if self.w_bn else nn.Identity()) as statistics:
            for step in job.steps(self.iterations, state):
                z, code, y = self._draw(rng, job.device)
                x = nets.generator(z, code, y if self.gan == "class_cond" else None)
                self._train_critics(nets, d_adam, pool, x.detach(), rng)
                self._train_generator(nets, g_adam, step, (x, z, code, y), target, statistics, rng)
        images, labels = self._sample(nets.average, job.device)
        curves = {f"log_{name}": torch.stack(values) for name, values in nets.curves.items()}
        for name, values in curves.items():
            job.check_finite(name, values)
        return Output({"images": images, "labels": labels} | curves)

    @property
    def groups(self) -> int:
        """K networks side by side: the number of classes, or 1 where one generator serves them all."""
        return len(self.classes) if self.gan == "per_class" else 1

    def _check(self, shape: tuple[int, ...]) -> None:
        """What fields and stored inputs must agree on; UserError before the first step."""
        facts = self.target.facts()
        expected, known = (facts["channels"], facts["size"], facts["size"]), len(facts["classes"])
        if tuple(shape) != expected:
            raise UserError(f"auxiliary: expected images {expected} as the target takes, found {tuple(shape)}")
        if not self.classes or not 0 <= min(self.classes) <= max(self.classes) < known:
            raise UserError(f"classes: expected ids in 0..{known - 1} (the target's), found {self.classes}")
        for critic in self.critics:
            patch_count(facts["size"], critic.patch, critic.stride, critic.padding)

    def _networks(self, channels: int, device: torch.device) -> Networks:
        """Fresh networks from a stream of the seed."""
        rng, k = seeded("patch-mi weights", self.seed), self.groups
        conditional = 0 if self.gan == "per_class" else len(self.classes)

        def made(net: nn.Module) -> nn.Module:
            return init_weights(net, rng).to(device)

        def generator() -> Generator:
            return Generator(self.n_codes, self.n_gf, channels, k, conditional, self.upsampling)

        net = made(generator())
        average = generator().to(device) if self.average else net
        average.load_state_dict(net.state_dict())
        critics = nn.ModuleList(made(self._critic(c, channels)) for c in self.critics)
        code = made(CodeHead(self.n_codes, channels, k, self.n_gf)) if self.n_codes > 1 else None
        latent = made(CodeHead(LATENT, channels, k, self.n_gf)) if self.w_z else None
        names = ("loss_d", "loss_adv", "loss_id")
        return Networks(net, average, critics, code, latent, {name: [] for name in names})

    def _critic(self, c: Critic, channels: int) -> PatchDiscriminator:
        # A single patch has no grid to normalise over.
        whole = patch_count(self.target.facts()["size"], c.patch, c.stride, c.padding) == 1
        norm = "none" if whole else self.d_norm
        return PatchDiscriminator(c.patch, c.stride, c.padding, self.n_df, channels, self.groups, norm, self.d_padding)

    def _state(self, nets: Networks) -> dict[str, object]:
        """What a checkpoint keeps of the networks."""
        parts = {"generator": nets.generator, "average": nets.average, "critics": nets.critics}
        parts |= {"code": nets.code} if nets.code else {}
        parts |= {"latent": nets.latent} if nets.latent else {}
        return parts | nets.curves

    def _draw(
        self, rng: torch.Generator, device: torch.device, n: int | None = None
    ) -> tuple[Float[Tensor, "b k 100"], Int[Tensor, "b k"], Int[Tensor, "b k"]]:
        """z ~ N(0, I), c uniform, and y: position in `classes` (fixed per group, or uniform)."""
        shape = (n or self.batch, self.groups)
        z = torch.randn((*shape, LATENT), generator=rng, device=device)
        code = torch.randint(self.n_codes, shape, generator=rng, device=device)
        if self.gan == "per_class":
            return z, code, torch.arange(self.groups, device=device).expand(shape)
        return z, code, torch.randint(len(self.classes), shape, generator=rng, device=device)

    def _noisy(self, x: Tensor, rng: torch.Generator) -> Tensor:
        if not self.instance_noise:
            return x
        return x + self.instance_noise * torch.randn(x.shape, generator=rng, device=x.device)

    def _train_critics(
        self, nets: Networks, adam: torch.optim.Adam, pool: Tensor, fake: Tensor, rng: torch.Generator
    ) -> None:
        """One step on L_D, averaged over the critics."""
        index = torch.randint(len(pool), fake.shape[:2], generator=rng, device=pool.device)
        real, fake = self._noisy(to_float(pool[index]), rng), self._noisy(fake, rng)
        losses = [
            discriminator_loss(d(real).flatten(0, 1), d(fake).flatten(0, 1), self.tau, self.d_reduce).mean()
            for d in nets.critics
        ]
        loss = torch.stack(losses).mean()
        adam.zero_grad()
        (loss * self.groups).backward()
        adam.step()
        nets.curves["loss_d"].append(loss.detach())

    def _train_generator(
        self,
        nets: Networks,
        adam: torch.optim.Adam,
        step: int,
        drawn: tuple[Tensor, Tensor, Tensor, Tensor],
        target: nn.Module,
        statistics: BatchStatistics,
        rng: torch.Generator,
    ) -> None:
        """One step on L_G with the updated critics, on the same images."""
        x, z, code, y = drawn
        flat = x.flatten(0, 1)
        label = torch.tensor(self.classes, device=x.device)[y].flatten()
        nets.critics.requires_grad_(False)
        scores = [d(self._noisy(x, rng)).flatten(0, 1) for d in nets.critics]
        adversarial = torch.stack([adversarial_loss(d, self.d_reduce).mean() for d in scores]).mean()
        identity = identity_loss(self.views.logits(target, flat, rng), label, self.views.combine).mean()
        loss = adversarial + identity_weight(step, self.w_a, self.w_a_start, self.ramp) * identity
        if self.w_bn:
            loss = loss + self.w_bn * statistics.loss()
        if nets.code is not None:
            loss = loss + self.w_c * self._code_loss(nets.code, flat, code, rng)
        if nets.latent is not None:
            loss = loss + self.w_z * latent_regression(nets.latent(x), z).mean()
        adam.zero_grad()
        (loss * self.groups).backward()
        adam.step()
        nets.critics.requires_grad_(True)
        self._follow(nets)
        nets.curves["loss_adv"].append(adversarial.detach())
        nets.curves["loss_id"].append(identity.detach())

    def _code_loss(self, head: CodeHead, flat: Tensor, code: Tensor, rng: torch.Generator) -> Tensor:
        r"""$\frac1V\sum_v CE(Q(A_vx), c)$."""
        b, k = code.shape
        x = [flat] + [self.views.transform(flat, rng) for _ in range(self.views.count - 1)]
        logits = torch.stack([head(v.unflatten(0, (b, k))).flatten(0, 1) for v in x])
        return identity_loss(logits, code.flatten(), "loss").mean()

    @torch.no_grad()
    def _follow(self, nets: Networks) -> None:
        """Moving average of the generator's weights; batch-norm statistics are taken as they are."""
        if nets.average is nets.generator:
            return
        for mean, now in zip(nets.average.parameters(), nets.generator.parameters(), strict=True):
            mean.lerp_(now, 1 - self.average)
        for mean, now in zip(nets.average.buffers(), nets.generator.buffers(), strict=True):
            mean.copy_(now)

    @torch.no_grad()
    def _sample(self, net: Generator, device: torch.device) -> tuple[Tensor, Tensor]:
        """`samples` images per class from fresh latents, generator in eval mode."""
        net.eval()
        rng = seeded("patch-mi samples", self.seed, device=device)
        count, k = self.samples * len(self.classes), self.groups
        rows = torch.arange(len(self.classes), device=device).repeat(self.samples).view(-1, k)
        z = torch.randn((count // k, k, LATENT), generator=rng, device=device)
        code = torch.randint(self.n_codes, (count // k, k), generator=rng, device=device)
        labelled = self.gan == "class_cond"
        parts = [
            to_uint8(net(*part[:2], part[2] if labelled else None).flatten(0, 1))
            for part in zip(z.split(256), code.split(256), rows.split(256), strict=True)
        ]
        labels = torch.tensor(self.classes, device=device)[rows].flatten()
        return torch.cat(parts), labels

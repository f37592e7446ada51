r"""Training of StyleGAN2 on public images, target unseen.  Source: specification dmmia, 2.1 (official code).

$$L_G=\mathrm{softplus}(-D(G(z))),\quad L_D=\mathrm{softplus}(D(G(z)))+\mathrm{softplus}(-D(x))
  +\tfrac\gamma2\lVert\nabla_xD(x)\rVert^2$$
"""

import copy
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from pydantic import Field, model_validator
from torch import Tensor, nn

from mi_utils.data import AnySource
from mi_utils.data.augment import blurred
from mi_utils.data.images import to_uint8
from mi_utils.errors import UserError
from mi_utils.models.stylegan2 import Discriminator, Generator, init_stylegan2, widths
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Output
from mi_utils.training import adaptive
from mi_utils.training.priors import descend, draw
from mi_utils.training.public import require_images
from mi_utils.training.shipped import Shippable

W_DECAY = 0.998  # of the moving average of w
RAMP = 0.05  # the generator's average reaches back over this share of the images seen so far
FADE = 0.4  # share of the training in which the blur fades


def generator_loss(fake: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    r"""$\mathrm{softplus}(-D(G(z)))=-\log\sigma(D(G(z)))$, the non-saturating loss."""
    return F.softplus(-fake)


def discriminator_loss(real: Float[Tensor, " n"], fake: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    r"""$\mathrm{softplus}(D(G(z)))+\mathrm{softplus}(-D(x))$ of each pair of logits."""
    return F.softplus(fake) + F.softplus(-real)


def r1_penalty(d: nn.Module, x: Float[Tensor, "n c s s"]) -> Float[Tensor, " n"]:
    r"""$\lVert\nabla_xD(x)\rVert^2$ at real images."""
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(d(x).sum(), x, create_graph=True)
    return slope.square().sum((1, 2, 3))


def average_decay(batch: int, seen: int, half_life: float) -> float:
    r"""$\beta=0.5^{B/\min(n_{ema},\,0.05\,n_{seen})}$, for the moving average of the generator's weights."""
    reach = min(half_life, RAMP * seen)
    return 0.5 ** (batch / reach) if reach > 0 else 0.0


def blur_left(blur: float, least: float, step: int, steps: int) -> float:
    r"""$\sigma_t=\max(\sigma_0(1-\frac t{0.4T}),\sigma_{least})$ px: structure before noise.  Source: StyleGAN3."""
    return max(blur * (1 - step / (FADE * steps)), least)


def lazy_adam(net: nn.Module, lr: float, betas: tuple[float, float], every: int) -> torch.optim.Adam:
    r"""Adam for a net with one more step after every `every`: rate and betas to the power $c=k/(k+1)$, lr times c."""
    c = every / (every + 1) if every else 1.0
    return torch.optim.Adam(net.parameters(), lr * c, betas=(betas[0] ** c, betas[1] ** c), eps=1e-8, fused=True)


def mixed(w: Float[Tensor, "n d"], other: Float[Tensor, "n d"], inputs: int, cut: int) -> Float[Tensor, "n inputs d"]:
    """Style mixing: w for the layers before `cut`, `other` from there on."""
    return torch.stack([w if i < cut else other for i in range(inputs)], 1)


@dataclass(frozen=True)
class View:
    """How the discriminator sees images at a step: blur in px, probability of augmentation, and the stream of both."""

    blur: float
    p: Float[Tensor, ""]
    rng: torch.Generator


class Beside:
    """What a training does beside the GAN's own steps: here nothing.  `state` is what a checkpoint keeps of it."""

    state: dict[str, object] = {}

    def loss(self, x: Float[Tensor, "n c s s"], step: int) -> Float[Tensor, ""] | float:
        """What else the generator's step minimises, of its images x as they are before any augmentation."""
        return 0.0

    def look(self, average: Generator, done: int) -> None:
        """Called before the first step and after each one, `done` of them so far."""

    def kept(self, job: Job) -> dict[str, Tensor]:
        """Tensors to store with the nets."""
        return {}


class TrainStyleGAN2(Shippable):
    """StyleGAN2 with R1, lazily, and a moving average of the generator's weights, which is what is kept.

    Deviations: no path-length regulariser; style mixing off by default (no use up to 64 px); weights are rounded to
    half precision at the end, so that both nets fit in one shipped file.
    """

    public: AnySource
    base: Annotated[int, Field(ge=1)] = 32  # channels at full size, twice as many at each half
    most: Annotated[int, Field(ge=1)] = 128  # channels at the most
    z_dim: Annotated[int, Field(ge=1)] = 128
    w_dim: Annotated[int, Field(ge=1)] = 128
    layers: Annotated[int, Field(ge=1)] = 8  # of the mapping network
    steps: Annotated[int, Field(ge=1)] = 2000
    batch: Annotated[int, Field(ge=2)] = 32
    lr: Annotated[float, Field(gt=0)] = 2e-3
    betas: tuple[float, float] = (0.0, 0.99)
    gamma: Annotated[float, Field(ge=0)] = 1.0  # weight of R1
    r1_every: Annotated[int, Field(ge=1)] = 16  # discriminator steps between two steps of R1
    mixing: Annotated[float, Field(ge=0, le=1)] = 0.0  # probability of style mixing in a batch
    flip: bool = True  # real images are mirrored at random; off where a mirror image is another thing
    noise: bool = True  # of the generator; off where pixel noise would take the place of fine structure
    blur: Annotated[float, Field(ge=0)] = 0.0  # px, of what the discriminator sees at first
    least_blur: Annotated[float, Field(ge=0)] = 0.0  # and to the end: hides the images' own pixel noise
    adaptive: bool = False  # adaptive discriminator augmentation, where the images are few
    seed: int = 0

    def learn(self, job: Job) -> Output:
        """One discriminator and one generator step in turn; tensors are both nets and their losses."""
        images = self.public.load().images.to(job.device)
        require_images(images, self.batch)
        channels, size = images.shape[1:3]
        g, d = self._begun(channels, size, job.device)
        average = copy.deepcopy(g).requires_grad_(False)
        g_adam, d_adam = lazy_adam(g, self.lr, self.betas, 0), lazy_adam(d, self.lr, self.betas, self.r1_every)
        rng = seeded("stylegan2", self.seed, device=job.device)
        p, signs = torch.zeros((), device=job.device), torch.zeros((), device=job.device)
        curves: dict[str, list[Tensor]] = {"log_loss_d": [], "log_loss_g": [], "log_p": []}
        nets = {"g": g, "d": d, "average": average, "g_adam": g_adam, "d_adam": d_adam}
        beside = self.beside(job.device)
        beside.look(average, 0)
        for step in job.steps(self.steps, nets, {"rng": rng, "p": p, "signs": signs}, curves, beside.state):
            real, view = self._real(images, rng), View(blur_left(self.blur, self.least_blur, step, self.steps), p, rng)
            curves["log_loss_d"].append(self._train_discriminator(g, d, d_adam, real, view, signs))
            if step % self.r1_every == 0:
                self._regularise(d, d_adam, self._seen(real, view))
            curves["log_loss_g"].append(self._train_generator(g, d, g_adam, view, beside, step))
            if self.adaptive and (step + 1) % adaptive.EVERY == 0:
                p.copy_(adaptive.adapted(p, signs / adaptive.EVERY, adaptive.EVERY * self.batch))
                signs.zero_()
            curves["log_p"].append(p.clone())
            self._follow(average, g, (step + 1) * self.batch)
            beside.look(average, step + 1)
        stacked = {name: torch.stack(values) for name, values in curves.items()}
        for name, values in stacked.items():
            job.check_finite(f"StyleGAN2 {name.removeprefix('log_')}", values)
        kept = nn.ModuleDict({"generator": average, "discriminator": d}).state_dict()
        more = stacked | beside.kept(job)
        return Output({n: v.half() for n, v in kept.items()} | more, {"channels": channels, "size": size})

    def beside(self, device: torch.device) -> Beside:
        """What this training does beside the GAN's own steps."""
        return Beside()

    # --- steps ---------------------------------------------------------------------------------------------

    def _real(self, images: Tensor, rng: torch.Generator) -> Float[Tensor, "n c s s"]:
        """A batch of public images."""
        _, x = draw(images, self.batch, rng)
        if not self.flip:
            return x
        mirrored = torch.rand(self.batch, generator=rng, device=rng.device) < 0.5
        return torch.where(mirrored[:, None, None, None], x.flip(3), x)

    def _seen(self, x: Tensor, view: View) -> Tensor:
        """Images as the discriminator sees them."""
        x = blurred(x, x.new_tensor([view.blur])) if view.blur else x
        return adaptive.augmented(x, view.p, view.rng, self.flip) if self.adaptive else x

    def _made(self, g: Generator, rng: torch.Generator, track: bool) -> Float[Tensor, "n c s s"]:
        """Generated images, with fresh noise where it has any; `track` moves the average of w."""

        def styles() -> Tensor:
            return g.mapping(torch.randn((self.batch, self.z_dim), generator=rng, device=rng.device))

        w = styles()
        if track:
            g.mapping.w_avg.lerp_(w.detach().mean(0), 1 - W_DECAY)
        if self.mixing and torch.rand((), generator=rng, device=rng.device) < self.mixing:
            cut = int(torch.randint(1, g.synthesis.inputs, (), generator=rng, device=rng.device))
            w = mixed(w, styles(), g.synthesis.inputs, cut)
        return g.synthesis(w, rng if self.noise else "none")

    def _train_discriminator(
        self, g: Generator, d: Discriminator, adam: torch.optim.Adam, real: Tensor, view: View, signs: Tensor
    ) -> Float[Tensor, ""]:
        """One step; `signs` gathers what p will follow."""
        with torch.no_grad():
            fake = self._made(g, view.rng, track=True)
        on_real, on_fake = d(self._seen(real, view)), d(self._seen(fake, view))
        signs.add_(adaptive.overfitting(on_real.detach()))
        return descend(adam, discriminator_loss(on_real, on_fake).mean())

    def _regularise(self, d: Discriminator, adam: torch.optim.Adam, real: Tensor) -> None:
        r"""One step on $\frac\gamma2\lVert\nabla_xD\rVert^2$, as strong as the steps that it stands for."""
        descend(adam, self.r1_every * self.gamma / 2 * r1_penalty(d, real).mean())

    def _train_generator(
        self, g: Generator, d: Discriminator, adam: torch.optim.Adam, view: View, beside: Beside, step: int
    ) -> Float[Tensor, ""]:
        d.requires_grad_(False)
        made = self._made(g, view.rng, track=False)
        fake, more = self._seen(made, view), beside.loss(made, step)
        loss = descend(adam, generator_loss(d(fake)).mean() + more)
        d.requires_grad_(True)
        return loss

    @torch.no_grad()
    def _follow(self, average: Generator, g: Generator, seen: int) -> None:
        """Weights by their moving average; the average of w as it is."""
        decay = average_decay(self.batch, seen, self._half_life())
        torch._foreach_lerp_(list(average.parameters()), list(g.parameters()), 1 - decay)
        for kept, now in zip(average.buffers(), g.buffers(), strict=True):
            kept.copy_(now)

    def _half_life(self) -> float:
        """Images after which a weight counts half in the average; the released default."""
        return 1000 * 10 * self.batch / 32

    # --- nets ----------------------------------------------------------------------------------------------

    def _begun(self, channels: int, size: int, device: torch.device) -> tuple[Generator, Discriminator]:
        """Both nets as the training finds them."""
        return tuple(self._fresh(make(channels, size), device) for make in (self._generator, self._discriminator))

    def sources(self) -> tuple[AnySource, ...]:
        """All images that the nets have learnt from."""
        return (self.public,)

    def _generator(self, channels: int, size: int) -> Generator:
        return Generator(widths(size, self.base, self.most), self.z_dim, self.w_dim, channels, self.layers)

    def _discriminator(self, channels: int, size: int) -> Discriminator:
        return Discriminator(widths(size, self.base, self.most), channels)

    def _fresh(self, net: nn.Module, device: torch.device) -> nn.Module:
        weights = seeded(f"stylegan2 {type(net).__name__}", self.seed)
        return init_stylegan2(net, weights).to(device, memory_format=torch.channels_last)

    def facts(self) -> dict:
        """Channels and side of the images, read from the store."""
        return self.result().meta

    def generator(self, device: torch.device | str) -> Generator:
        """The trained generator (moving average), frozen and in eval mode."""
        facts = self.facts()
        return self._frozen(self._generator(facts["channels"], facts["size"]), "generator.", device)

    def discriminator(self, device: torch.device | str) -> Discriminator:
        """The trained discriminator, frozen and in eval mode."""
        facts = self.facts()
        return self._frozen(self._discriminator(facts["channels"], facts["size"]), "discriminator.", device)

    def samples(
        self, count: int, rng: torch.Generator, device: torch.device | str, psi: float = 1.0
    ) -> UInt8[Tensor, "n c s s"]:
        """Images of `count` latents drawn from the law of training, with the stored noise."""
        g = self.generator(device)
        z = torch.randn((count, self.z_dim), generator=rng, device=rng.device).to(device)
        with torch.no_grad():
            return torch.cat([to_uint8(g(part, psi)) for part in z.split(512)])

    def _frozen(self, net: nn.Module, prefix: str, device: torch.device | str) -> nn.Module:
        stored = self.result(device).tensors
        net.load_state_dict({k.removeprefix(prefix): v.float() for k, v in stored.items() if k.startswith(prefix)})
        return net.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)


class ContinuedStyleGAN2(TrainStyleGAN2):
    """More training of a trained pair, on the same images or on others; the average begins with the pair's."""

    start: TrainStyleGAN2
    half_life: Annotated[float, Field(gt=0)] | None = None  # images, of the average; None: as in the first training

    @model_validator(mode="after")
    def _of_one_shape(self) -> "ContinuedStyleGAN2":
        for name in ("base", "most", "z_dim", "w_dim", "layers"):
            found, known = getattr(self, name), getattr(self.start, name)
            if found != known:
                raise UserError(f"{name}: expected {known} as in `start`, found {found}; its weights are taken over")
        return self

    def sources(self) -> tuple[AnySource, ...]:
        """Its own images and those of the start."""
        return (self.public, *self.start.sources())

    def _half_life(self) -> float:
        return self.half_life or super()._half_life()

    def _begun(self, channels: int, size: int, device: torch.device) -> tuple[Generator, Discriminator]:
        """The start's nets, free to change; UserError for images of another shape."""
        facts = self.start.facts()
        if (known := (facts["channels"], facts["size"])) != (channels, size):
            raise UserError(
                f"public: expected images of {known[0]} colours and {known[1]} px for this `start`, found {channels} "
                f"and {size} px"
            )
        return tuple(make(device).requires_grad_(True) for make in (self.start.generator, self.start.discriminator))

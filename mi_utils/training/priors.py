"""Training of the priors of GMI and KEDMI: a generator of public images, and the net that says how real they are.

Source of every loss: Re-thinking MI (arXiv 2304.01669), released code; specification, 2.7.
"""

from collections.abc import Callable
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mi_utils.data import AnySource
from mi_utils.data.images import to_float, to_uint8
from mi_utils.errors import UserError
from mi_utils.models.classifiers import Classifier
from mi_utils.models.priors import LATENT, Critic, Generator, KnowledgeDiscriminator, init_prior
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Output
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.public import public_images
from mi_utils.training.shipped import Shippable

# ---------------------------------------------------------------- GMI


def critic_loss(real: Float[Tensor, " n"], fake: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    r"""$D(G(z))-D(x)$ of each pair of scores: minus the estimated Wasserstein distance."""
    return fake - real


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Float[Tensor, "n c s s"],
    fake: Float[Tensor, "n c s s"],
    mix: Float[Tensor, " n"],
) -> Float[Tensor, " n"]:
    r"""$(\|\nabla_{\tilde x}D(\tilde x)\|_2-1)^2$ at $\tilde x=x+u(G(z)-x)$, u of each row in `mix`."""
    between = torch.lerp(real, fake, mix[:, None, None, None]).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square()


def generator_loss(fake: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    r"""$-D(G(z))$; also the prior loss of the GMI attack (2.3)."""
    return -fake


# ---------------------------------------------------------------- KEDMI


def realness(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    r"""$a(x)=\log\sum_k e^{D_k(x)}$: the logit of "is a public image"."""
    return logits.logsumexp(1)


def real_loss(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    r"""$\mathrm{softplus}(-a(x))=-\log\sigma(a(x))$; of generated images the prior loss of the KEDMI attack (2.3)."""
    return F.softplus(-realness(logits))


def fake_loss(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    r"""$\mathrm{softplus}(a(G(z)))=-\log(1-\sigma(a(G(z))))$."""
    return F.softplus(realness(logits))


def soft_label_loss(logits: Float[Tensor, "n k"], soft: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    r"""$-\sum_k\mathrm{softmax}(T(x))_k\log\mathrm{softmax}(D(x))_k$; `soft` is the target's softmax."""
    return -(soft * logits.log_softmax(1)).sum(1)


def feature_matching(fake: Float[Tensor, "n d"], real: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
    r"""$\frac1{d}\|\mathbb E f(G(z))-\mathbb E f(x'')\|_1$: of two batches, so it has no value per sample."""
    return (fake.mean(0) - real.mean(0)).abs().mean()


def entropy(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    r"""$H(\mathrm{softmax}\,D(x))$ in nats, 0 to log K."""
    logs = logits.log_softmax(1)
    return -(logs.exp() * logs).sum(1)


# ---------------------------------------------------------------- stages


def draw(images: UInt8[Tensor, "m c s s"], count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """`count` positions in a set of images, with replacement, and the images there in [-1, 1]."""
    index = torch.randint(len(images), (count,), generator=rng, device=images.device)
    return index, to_float(images[index]).contiguous(memory_format=torch.channels_last)


class _Prior(Shippable):
    """What the two priors have in common: public images, nets, schedule.

    Deviation: weights start as a DCGAN's (the source is silent), the last step's are kept, and batches are drawn
    with replacement instead of by epochs (56,160 discriminator steps are the paper's 120 epochs).
    """

    public: AnySource
    width: Annotated[int, Field(ge=1)] = 64  # channels before the generator's last layer
    d_width: Annotated[int, Field(ge=1)] = 64  # channels after the discriminator's first layer
    steps: Annotated[int, Field(ge=1)] = 56_160  # of the discriminator
    batch: Annotated[int, Field(ge=2)] = 64
    critic_steps: Annotated[int, Field(ge=1)] = 5  # discriminator steps before each generator step
    lr: Annotated[float, Field(gt=0)] = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0  # ours: decay of the moving average of the generator's weights
    seed: int = 0

    def _images(self) -> UInt8[Tensor, "m c s s"]:
        """The public images, on the CPU; UserError where no generator makes such, or has no step in the schedule."""
        images = self.public.load().images
        height, width = images.shape[2:]
        if height != width or width not in (32, 64):
            raise UserError(
                f"public: expected images of 32×32 or 64×64 px for a prior, found {width}×{height}; set its `size`"
            )
        if self.steps < self.critic_steps:
            raise UserError(
                f"steps: expected at least critic_steps={self.critic_steps}, so that the generator learns, "
                f"found {self.steps}"
            )
        return images

    def _fresh(self, net: nn.Module, device: torch.device) -> nn.Module:
        """The net with the weights that its class and the seed decide."""
        name = f"{type(self).__name__} {type(net).__name__}"
        return init_prior(net, seeded(name, self.seed)).to(device, memory_format=torch.channels_last)

    def _latents(self, rng: torch.Generator) -> Float[Tensor, "n 100"]:
        return torch.randn((self.batch, LATENT), generator=rng, device=rng.device)

    def _alternate(
        self,
        job: Job,
        nets: nn.ModuleDict,
        rng: torch.Generator,
        d_loss: Callable[[Tensor], Tensor],
        g_loss: Callable[[Tensor], Tensor],
    ) -> dict[str, Tensor]:
        """Discriminator steps on images made without a graph, a generator step after every `critic_steps` of them.

        `nets`: "generator" and one more; both losses take a batch of generated images.  Returns the losses; the
        generator is left with the average of its weights, where one is kept.
        """
        g, d = nets.values()
        g_adam, d_adam = (torch.optim.Adam(n.parameters(), self.lr, betas=self.betas, fused=True) for n in (g, d))
        curves: dict[str, list[Tensor]] = {"log_loss_d": [], "log_loss_g": []}
        average = AveragedModel(g, multi_avg_fn=get_ema_multi_avg_fn(self.average), use_buffers=True)
        state = {"g": g, "d": d, "g_adam": g_adam, "d_adam": d_adam, "average": average, "rng": rng}
        for step in job.steps(self.steps, state, curves):
            with torch.no_grad():
                fake = g(self._latents(rng))
            curves["log_loss_d"].append(descend(d_adam, d_loss(fake)))
            if (step + 1) % self.critic_steps == 0:
                d.requires_grad_(False)
                curves["log_loss_g"].append(descend(g_adam, g_loss(g(self._latents(rng)))))
                d.requires_grad_(True)
                average.update_parameters(g)
        g.load_state_dict(average.module.state_dict())
        stacked = {name: torch.stack(values) for name, values in curves.items()}
        for name, values in stacked.items():
            job.check_finite(name.removeprefix("log_"), values)
        return stacked

    def facts(self) -> dict:
        """Channels and side of the images, read from the store."""
        return self.result().meta

    def generator(self, device: torch.device | str) -> Generator:
        """The trained generator, frozen and in eval mode."""
        facts = self.facts()
        return self._frozen(Generator(facts["channels"], facts["size"], self.width), "generator.", device)

    def samples(self, count: int, rng: torch.Generator, device: torch.device | str) -> UInt8[Tensor, "n c s s"]:
        """Images of `count` latents drawn from the law of training."""
        g = self.generator(device)
        z = torch.randn((count, LATENT), generator=rng, device=rng.device).to(device)
        with torch.no_grad():
            return torch.cat([to_uint8(g(part)) for part in z.split(512)])

    def _frozen(self, net: nn.Module, prefix: str, device: torch.device | str) -> nn.Module:
        stored = self.result(device).tensors
        net.load_state_dict({k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)})
        return net.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)


def descend(adam: torch.optim.Adam, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """One step of the optimiser; returns the loss before it."""
    adam.zero_grad()
    loss.backward()
    adam.step()
    return loss.detach()


class TrainGMI(_Prior):
    """WGAN-GP on public images, target unseen: the prior of GMI and of VMI."""

    penalty: Annotated[float, Field(ge=0)] = 10.0

    def learn(self, job: Job) -> Output:
        """Train; tensors are the two nets and their losses."""
        images = self._images().to(job.device)
        channels, size = images.shape[1:3]
        g = self._fresh(Generator(channels, size, self.width), job.device)
        critic = self._fresh(Critic(channels, size, self.d_width), job.device)
        nets = nn.ModuleDict({"generator": g, "critic": critic})
        rng = seeded("gmi prior", self.seed, device=job.device)
        curves = self._alternate(
            job, nets, rng, lambda fake: self._critic_loss(critic, images, fake, rng),
            lambda fake: generator_loss(critic(fake)).mean(),
        )  # fmt: skip
        return Output(nets.state_dict() | curves, {"channels": channels, "size": size})

    def _critic_loss(self, critic: Critic, images: Tensor, fake: Tensor, rng: torch.Generator) -> Float[Tensor, ""]:
        """L_D of one batch of public images and one of generated ones."""
        _, real = draw(images, self.batch, rng)
        mix = torch.rand(self.batch, generator=rng, device=rng.device)
        distance = critic_loss(*critic(torch.cat([real, fake])).chunk(2))
        return (distance + self.penalty * gradient_penalty(critic, real, fake, mix)).mean()

    def critic(self, device: torch.device | str) -> Critic:
        """The trained critic, frozen and in eval mode."""
        facts = self.facts()
        return self._frozen(Critic(facts["channels"], facts["size"], self.d_width), "critic.", device)


@torch.no_grad()
def soft_labels(target: Classifier, images: UInt8[Tensor, "m c s s"]) -> Float[Tensor, "m k"]:
    """The target's softmax of every image; it stays as it is, so one pass serves the whole training.

    Deviation: the released training leaves the target in training mode, where soft labels depend on the batch
    and its running statistics drift.
    """
    assert not target.training, "soft labels are the target's in eval mode"
    return torch.cat([target(to_float(part)).softmax(1) for part in images.split(512)])


class TrainKEDMI(_Prior):
    """The inversion-specific GAN: its discriminator also learns what the target says of public images."""

    target: TrainClassifier
    mbd_outputs: Annotated[int, Field(ge=1)] = 64
    mbd_kernel: Annotated[int, Field(ge=1)] = 50
    entropy_weight: Annotated[float, Field(ge=0)] = 1e-4

    def learn(self, job: Job) -> Output:
        """Train; tensors are the two nets and their losses."""
        self._images()
        images = public_images(self.target, self.public, job.device)
        shape = tuple(images.shape[1:3])
        soft = soft_labels(self.target.network(job.device), images)
        meta = {"channels": shape[0], "size": shape[1], "classes": soft.shape[1]}
        g = self._fresh(Generator(*shape, self.width), job.device)
        d = self._fresh(self._discriminator(meta), job.device)
        nets = nn.ModuleDict({"generator": g, "discriminator": d})
        rng = seeded("kedmi prior", self.seed, device=job.device)
        curves = self._alternate(
            job, nets, rng, lambda fake: self._discriminator_loss(d, images, soft, fake, rng),
            lambda fake: self._generator_loss(d, images, fake, rng),
        )  # fmt: skip
        return Output(nets.state_dict() | curves, meta)

    def _discriminator(self, facts: dict) -> KnowledgeDiscriminator:
        return KnowledgeDiscriminator(
            facts["channels"], facts["size"], self.d_width, facts["classes"], self.mbd_outputs, self.mbd_kernel
        )

    def _discriminator_loss(
        self, d: KnowledgeDiscriminator, images: Tensor, soft: Tensor, fake: Tensor, rng: torch.Generator
    ) -> Float[Tensor, ""]:
        """L_D of two independent public batches, x and x', and one of generated images."""
        (labelled, x), (_, other) = (draw(images, self.batch, rng) for _ in range(2))
        # One pass for all three; rows meet in the minibatch discrimination alone, batch by batch.
        f = d.features(torch.cat([x, other, fake]))
        on_x, on_other, on_fake = (d.classify(part) for part in f.chunk(3))
        adversarial = (real_loss(on_other) + fake_loss(on_fake)).mean() / 2
        return soft_label_loss(on_x, soft[labelled]).mean() + adversarial

    def _generator_loss(
        self, d: KnowledgeDiscriminator, images: Tensor, fake: Tensor, rng: torch.Generator
    ) -> Float[Tensor, ""]:
        """L_G of generated images and a third public batch, x''; the entropy is summed over the batch."""
        with torch.no_grad():
            real = d.features(draw(images, self.batch, rng)[1])
        f = d.features(fake)
        return feature_matching(f, real) + self.entropy_weight * entropy(d.classify(f)).sum()

    def discriminator(self, device: torch.device | str) -> KnowledgeDiscriminator:
        """The trained discriminator, frozen and in eval mode."""
        return self._frozen(self._discriminator(self.facts()), "discriminator.", device)

r"""Fine-tuning of a trained StyleGAN2 on auxiliary images towards images that a frozen target is sure of.

$$\min_G\ \mathbb E_z[\mathrm{softplus}(-D(G(z)))]+\lambda_{adv}\langle p,G(z)\rangle,\quad
  p=P\Big(\frac{\partial}{\partial x}\frac1B\sum_bL_{adv}(x_b)\Big)\ \text{held fixed}$$
P preconditions the gradient of $L_{adv}$ alone; with the identity it is the plain sum of both losses, with
$\lambda_{adv}=0$ ordinary transfer learning.  Source: specification ddcs_ngd, 2.3 to 2.5.
"""

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mi_utils.data.disjoint import check_disjoint
from mi_utils.data.images import to_uint8
from mi_utils.errors import UserError
from mi_utils.models.folding import folded
from mi_utils.models.stylegan2 import Generator
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Output
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.entropy import AdversarialLoss, adversarial_loss
from mi_utils.training.natural_gradient import dots
from mi_utils.training.preconditioners import Plain, Preconditioner
from mi_utils.training.priors import entropy
from mi_utils.training.public import public_images
from mi_utils.training.stylegan2 import Beside, ContinuedStyleGAN2, TrainStyleGAN2

SHAPE = ("base", "most", "z_dim", "w_dim", "layers", "flip", "noise")  # what a tuned pair takes over


def surrogate(p: Float[Tensor, "n c s s"], x: Float[Tensor, "n c s s"]) -> Float[Tensor, ""]:
    r"""$\langle p,x\rangle$ less its value: 0, with the gradient p in x, so that a logged loss stays the GAN's own."""
    return (p.detach() * (x - x.detach())).sum()


class TransferStyleGAN2(ContinuedStyleGAN2):
    r"""A trained pair tuned on auxiliary images; runs of equal seed share batches, latents and noise.

    Beside both nets it stores `frames_bank` (F, n, C, S, S), uint8: the same `bank` latents after `frames_steps` steps,
    by the averaged generator; and of every `log_every`-th step, in nats and norms per image, `traced_entropy` H(p),
    `traced_confidence` max p, `traced_gradient` |g| and `traced_projected` |Pg|, at `traced_steps`.
    """

    target: TrainClassifier
    adversarial: AdversarialLoss = "min_ent"
    beta: Annotated[float, Field(ge=0)] = 1.0  # of `mutual`
    lambda_adv: Annotated[float, Field(ge=0)] = 0.1
    preconditioner: Preconditioner = Plain()
    lr: Annotated[float, Field(gt=0)] = 1e-3
    bank: Annotated[int, Field(ge=1)] = 64  # latents that are shown as they change
    frames: Annotated[int, Field(ge=2)] = 8  # times that they are, evenly spaced, before and after all steps included
    log_every: Annotated[int, Field(ge=1)] = 10

    @classmethod
    def of(cls, start: TrainStyleGAN2, **fields: object) -> "TransferStyleGAN2":
        """Tuning of `start`, whose shape, mirroring and noise are taken over."""
        return cls(start=start, **{name: getattr(start, name) for name in SHAPE} | fields)

    def learn(self, job: Job) -> Output:
        """Train, once target, images and start are known to fit."""
        public_images(self.target, self.public, "cpu")
        for source in self.start.sources():
            for private in (self.target.train, self.target.test):
                check_disjoint(private, source, "start")
        self._check_basis()
        classes = len(self.target.facts()["classes"])
        if self.adversarial == "mutual" and self.batch < classes:
            raise UserError(f"batch: expected at least {classes}, the target's classes, for the batch marginal of "
                            f"`mutual`, found {self.batch}")  # fmt: skip
        return super().learn(job)

    def _check_basis(self) -> None:
        """UserError where a stored basis is of images of another shape."""
        if (basis := getattr(self.preconditioner, "basis", None)) is None:
            return
        shapes = [(f["channels"], f["size"]) for f in (self.start.facts(), basis.facts())]
        if shapes[0] != shapes[1]:
            raise UserError(f"preconditioner: expected a basis of images {shapes[0]} (colours, px) as `start` makes, "
                            f"found {shapes[1]}; build it on `start`")  # fmt: skip

    def beside(self, device: torch.device) -> "Guidance":
        """The target's part in the generator's step, and what is looked at."""
        return Guidance(self, device)


class Guidance(Beside):
    """The target's gradient into the generator's images, what is logged of it, and the bank of images."""

    def __init__(self, stage: TransferStyleGAN2, device: torch.device):
        self.stage, self.f = stage, folded(stage.target.network(device))
        self.classes = len(stage.target.facts()["classes"])
        self.project = stage.preconditioner.ready(device)
        self.labels = seeded("transfer labels", stage.seed, device=device)
        self.z = torch.randn((stage.bank, stage.z_dim), generator=seeded("transfer bank")).to(device)
        self.shown = {round(i * stage.steps / (stage.frames - 1)) for i in range(stage.frames)}
        names = ("steps", "entropy", "confidence", "gradient", "projected")
        self.traced: dict[str, list[Tensor]] = {f"traced_{name}": [] for name in names}
        self.frames: dict[str, list[Tensor]] = {"frames_steps": [], "frames_bank": []}

    @property
    def state(self) -> dict[str, object]:
        return {"labels": self.labels} | self.traced | self.frames

    def loss(self, x: Float[Tensor, "n c s s"], step: int) -> Float[Tensor, ""] | float:
        r"""$\lambda_{adv}\langle p,x\rangle$, and at some steps the figures of this batch."""
        weight, logged = self.stage.lambda_adv, step % self.stage.log_every == 0
        if not (weight or logged):
            return 0.0
        logits, g = self._gradient(x.detach())
        p = self.project(x.detach(), g)
        if logged:
            self._note(step, logits, g, p)
        return weight * surrogate(p, x) if weight else 0.0

    def _gradient(self, x: Float[Tensor, "n c s s"]) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n c s s"]]:
        r"""The target's logits, and $g=\frac{\partial}{\partial x}\frac1B\sum_bL_{adv}$."""
        x = x.requires_grad_()
        logits = self.f(x)
        y = torch.randint(self.classes, (len(x),), generator=self.labels, device=x.device)
        losses = adversarial_loss(self.stage.adversarial, logits, y, self.stage.beta)
        return logits.detach(), torch.autograd.grad(losses.mean(), x)[0]

    def _note(self, step: int, logits: Tensor, g: Tensor, p: Tensor) -> None:
        norms = (dots(v, v).sqrt().mean() for v in (g, p))
        values = (torch.tensor(step), entropy(logits).mean(), logits.softmax(1).amax(1).mean(), *norms)
        for kept, value in zip(self.traced.values(), values, strict=True):
            kept.append(value)

    @torch.no_grad()
    def look(self, average: Generator, done: int) -> None:
        """Show the bank where it is due."""
        if done in self.shown:
            self.frames["frames_steps"].append(torch.tensor(done))
            self.frames["frames_bank"].append(torch.cat([to_uint8(average(z)) for z in self.z.split(64)]))

    def kept(self, job: Job) -> dict[str, Tensor]:
        """Everything noted, stacked; NaN fails the training."""
        found = {name: torch.stack(values) for name, values in (self.traced | self.frames).items()}
        for name in self.traced:
            job.check_finite(f"transfer {name}", found[name])
        return found

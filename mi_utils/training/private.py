r"""Training of a target with differential privacy (DP-SGD; Abadi et al., CCS 2016), as a control of defences.

$$\tilde g=\frac1B\Big(\sum_{i\in\mathcal B}\frac{g_i}{\max(1,\lVert g_i\rVert/C)}+\mathcal N(0,\sigma^2C^2I)\Big)$$
Clipping, noise and accounting are Opacus's.  Source: specification ddcs_ngd, 8 (OQ4).
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from mi_utils.data.images import ImageSet, to_float
from mi_utils.errors import UserError
from mi_utils.models.classifiers import Classifier
from mi_utils.stage import Job
from mi_utils.training.classifier import TrainClassifier

GROUP = 4  # channels that are normalised together


def without_batch_statistics(net: nn.Module) -> nn.Module:
    """The net, changed in place: every batch norm becomes a norm of one image, with fresh scale and shift.

    A batch norm reads other images, so no image's gradient could be told.  Maps are normalised in groups of
    `GROUP` channels, vectors as a whole.  Activations no longer overwrite their input, which Opacus's hooks read.
    """
    for name, child in net.named_children():
        if hasattr(child, "inplace"):
            child.inplace = False
        if isinstance(child, nn.BatchNorm2d):
            setattr(net, name, nn.GroupNorm(max(1, child.num_features // GROUP), child.num_features))
        elif isinstance(child, nn.BatchNorm1d):
            setattr(net, name, nn.GroupNorm(1, child.num_features))
        else:
            without_batch_statistics(child)
    return net


class TrainPrivate(TrainClassifier):
    r"""A `TrainClassifier` by DP-SGD: every image is in a batch with probability `batch`/N, independently.

    `noise` $\sigma$ and `clip` C as above.  `meta["epsilon"]` is the budget spent at $\delta=1/N$ by Opacus's RDP
    accountant, of one image (its augmented views count as it).  Deviation: batch norms give way to norms of one image.
    """

    noise: Annotated[float, Field(gt=0)] = 1.0
    clip: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _no_others(self) -> "TrainPrivate":
        if self.reject is not None:
            raise UserError(
                "reject: expected none with DP-SGD, whose budget counts training images alone; leave it out"
            )
        return self

    def fitted(self, net: Classifier, data: ImageSet, rng: torch.Generator, job: Job) -> Float[Tensor, " t"]:
        """Trains the network in place by private steps; returns the losses."""
        from opacus import GradSampleModule
        from opacus.optimizers import DPOptimizer

        sgd = torch.optim.SGD(net.parameters(), self.lr / 25, 0.9, weight_decay=self.weight_decay, nesterov=True)
        with _quiet():
            hooked = GradSampleModule(net, loss_reduction="sum")
        optimiser = DPOptimizer(sgd, noise_multiplier=self.noise, max_grad_norm=self.clip,
                                expected_batch_size=self.batch, loss_reduction="mean", generator=rng)  # fmt: skip
        schedule = torch.optim.lr_scheduler.OneCycleLR(sgd, self.lr, total_steps=self.iterations)
        losses: list[Tensor] = []
        state = {"net": net, "optimiser": sgd, "schedule": schedule, "rng": rng, "losses": losses}
        for _ in job.steps(self.iterations, state):
            losses.append(self._step(hooked, optimiser, data, rng))
            schedule.step()
        return torch.stack(losses)

    def _facts(self, net: Classifier, data: ImageSet, device: torch.device) -> dict:
        return super()._facts(net, data, device) | {"epsilon": self.budget(data)}

    def _step(self, hooked: nn.Module, optimiser: object, data: ImageSet, rng: torch.Generator) -> Tensor:
        """One private step; returns the batch's mean loss, before it."""
        chosen = torch.rand(len(data), generator=rng, device=rng.device) < self.batch / len(data)
        rows = chosen.nonzero().squeeze(1)
        optimiser.zero_grad()
        if len(rows) == 0:  # an empty batch still is a step of noise
            for parameter in hooked.parameters():
                parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
            loss = torch.zeros(())
        else:
            x = self.augmentation(to_float(data.images[rows]), rng)
            with _quiet():
                loss = F.cross_entropy(hooked(x), data.labels[rows], reduction="sum")
                loss.backward()
        optimiser.step()
        return loss.detach().cpu() / max(1, len(rows))

    def budget(self, data: ImageSet) -> float:
        r"""$\varepsilon$ at $\delta=1/N$; infinite where the accountant cannot bound it."""
        from opacus.accountants import RDPAccountant

        accountant = RDPAccountant()
        accountant.history = [(self.noise, min(1.0, self.batch / len(data)), self.iterations)]
        with _quiet():
            spent = float(accountant.get_epsilon(delta=1 / len(data)))
        return spent if math.isfinite(spent) else float("inf")

    def built(self, channels: int, size: int, outputs: int) -> Classifier:
        """The network with fresh weights, for images of `size` px; without batch norms."""
        return without_batch_statistics(super().built(channels, size, outputs))


@contextmanager
def _quiet() -> Iterator[None]:
    """Opacus warns of hooks on inputs without gradient and of its accountant's orders; neither asks for anything."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

r"""Training of a target that protects some of its training images by their vulnerability.

$$L=\mathrm{CE}+\gamma\,\frac1{|\mathcal V|}\sum_{i\in\mathcal V}\ell_i$$
Source: specification ddcs_ngd, 8 (OQ4).
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from mi_utils.data.images import ImageSet
from mi_utils.errors import UserError
from mi_utils.models.classifiers import Classifier
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job
from mi_utils.training.classifier import Batch, TrainClassifier, fit
from mi_utils.training.vulnerability import Vulnerability

CEILING = 0.7  # c of `cap`
Defence = Literal["cap", "negls", "smooth", "weight", "noise", "none"]


def penalty(
    kind: Literal["cap", "negls", "smooth"], logits: Float[Tensor, "n k"], y: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    r"""$\ell_i$: cap $\max(0,\log p_y-\log c)$; smooth $\log p_y-\frac1K\sum_k\log p_k$; negls its negative.

    $\mathrm{CE}+\varepsilon\,\ell$ of `smooth` is cross-entropy with $\varepsilon$ of label smoothing, and of `negls`
    with $-\varepsilon$.  Source: specification ddcs_ngd, 8 (OQ4).
    """
    log_p = F.log_softmax(logits, 1)
    own = log_p.gather(1, y[:, None]).squeeze(1)
    if kind == "cap":
        return (own - math.log(CEILING)).clamp(min=0)
    return own - log_p.mean(1) if kind == "smooth" else log_p.mean(1) - own


@dataclass(frozen=True)
class Protection:
    """Of every training image, and last of "none of these": its label, and how much of the defence it gets."""

    labels: Int[Tensor, " n"]
    amount: Float[Tensor, " n"]


class TrainDefended(TrainClassifier):
    r"""A `TrainClassifier` with a defence of some training images; batches and augmentation are the undefended one's.

    `cap`, `negls`, `smooth`: the penalty above, $\gamma$ = `strength`; a batch's share of $\mathcal V$ stands for the
    whole, scaled so that its expectation is the mean over $\mathcal V$.  `weight`: cross-entropy times $1-\alpha s_i$,
    $\alpha$ = `strength`.  `noise`: Gaussian noise of standard deviation `strength` on the images, in [-1, 1].  `none`:
    nothing, to the bit what `TrainClassifier` trains.

    `chosen`: the audit's most vulnerable images; as many audited images at random, with the same $s_i$ dealt to them;
    or all training images with their own (the global control: of `smooth` and `negls` ordinary label smoothing).
    """

    audit: Vulnerability
    defence: Defence
    strength: Annotated[float, Field(ge=0)] = 0.0
    chosen: Literal["vulnerable", "random", "all"] = "vulnerable"

    @model_validator(mode="after")
    def _fits(self) -> "TrainDefended":
        if self.audit.private != self.train:
            raise UserError("audit: expected one of the images in `train`, found another source; audit these images")
        if (self.defence == "none") != (self.strength == 0) or (self.defence == "weight" and self.strength > 1):
            wanted = {"none": "0", "weight": "a number in (0, 1]"}.get(self.defence, "a number above 0")
            raise UserError(f"strength: expected {wanted} with {self.defence!r}, found {self.strength}")
        return self

    def fitted(self, net: Classifier, data: ImageSet, rng: torch.Generator, job: Job) -> Float[Tensor, " t"]:
        """Trains the network in place on the loss with the defence; returns the losses."""
        others, protection, numbered = self.others(job.device), self.protection(data), _numbered(data)
        return fit(
            net, lambda: self._seen(*self._batch(numbered, others, rng), protection, rng), rng, job.steps,
            iterations=self.iterations, lr=self.lr, weight_decay=self.weight_decay,
            loss=lambda said, rows: self.loss(said, protection.labels[rows], protection.amount[rows]),
        )  # fmt: skip

    def protection(self, data: ImageSet) -> Protection:
        """What every image gets: of a penalty N/|V|, of `weight` its score, of `noise` 1; 0 where it is not chosen."""
        rows, scores = self._rows()
        values = {"weight": scores, "noise": torch.ones(len(rows))}
        amount = torch.zeros(len(data) + 1)
        amount[rows] = values.get(self.defence, torch.full((len(rows),), len(data) / len(rows)))
        labels = torch.cat([data.labels, data.labels.new_tensor([len(data.classes)])])
        return Protection(labels, amount.to(labels.device))

    def _rows(self) -> tuple[Int[Tensor, " v"], Float[Tensor, " v"]]:
        """The chosen images and the scores that count for them."""
        found = self.audit.result().tensors
        scores, vulnerable = found["scores"], found["vulnerable"]
        if self.chosen == "all":
            return torch.arange(len(scores)), scores
        if self.chosen == "vulnerable":
            return vulnerable, scores[vulnerable]
        audited = found["distances"][0].isfinite().nonzero().squeeze(1)
        order = torch.randperm(len(audited), generator=seeded("randomly defended images", self.seed))
        return audited[order[: len(vulnerable)]], scores[vulnerable]

    def _seen(self, x: Tensor, rows: Int[Tensor, " n"], protection: Protection, rng: torch.Generator) -> Batch:
        """The batch under the noise, if that is the defence."""
        if self.defence != "noise":
            return x, rows
        noise = torch.randn(x.shape, generator=rng, device=x.device)
        return x + self.strength * protection.amount[rows, None, None, None] * noise, rows

    def loss(
        self, logits: Float[Tensor, "n k"], y: Int[Tensor, " n"], amount: Float[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        """Of a batch, in which images of "none of these" come beside the `batch` training images."""
        if self.defence in ("none", "noise"):
            return F.cross_entropy(logits, y)
        if self.defence == "weight":
            return ((1 - self.strength * amount) * F.cross_entropy(logits, y, reduction="none")).mean()
        protected = (amount * penalty(self.defence, logits, y)).sum() / self.batch
        return F.cross_entropy(logits, y) + self.strength * protected


def _numbered(data: ImageSet) -> ImageSet:
    """The set with row numbers for labels, so that a batch tells which images it holds."""
    return replace(
        data, labels=torch.arange(len(data), device=data.labels.device), classes=tuple(map(str, range(len(data))))
    )

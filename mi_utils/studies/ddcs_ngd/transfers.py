"""What tuning does to a generator's images: distance to images of its kind, the target's certainty, noise."""

from typing import Annotated

import torch
from jaxtyping import Float, UInt8
from pydantic import Field, SerializeAsAny
from torch import Tensor

from mi_utils.data import AnySource
from mi_utils.data.images import to_float
from mi_utils.errors import UserError
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Output, Stage
from mi_utils.studies.dmmia.quality import compared
from mi_utils.studies.evaluation import features, logits
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.priors import entropy
from mi_utils.training.style_priors import StylePrior

CUT = 0.75  # share of the Nyquist frequency above which a pattern counts as noise


class TransferQuality(Stage):
    """Rows of (metric, value) in `meta["rows"]`; samples are of the same latents for every generator of one seed.

    FD, KD, precision, recall: to validation images, in the penultimate features of `reader`.  entropy, confidence: of
    the target's softmax, means; marginal entropy: of its mean.  artefacts: `noisiness` of samples less that of
    validation images.
    """

    prior: StylePrior
    target: TrainClassifier
    reader: SerializeAsAny[Stage]
    validation: AnySource
    count: Annotated[int, Field(ge=8)] = 1000
    seed: int = 0

    def compute(self, job: Job) -> Output:
        """Draw, embed, compare."""
        real = self._validation().to(job.device)
        made = self.prior.samples(self.count, seeded("transfer samples", self.seed), job.device)
        net, f = (stage.network(job.device) for stage in (self.reader, self.target))
        rows = [*compared(features(net, real), features(net, made))]
        said = logits(f, made)
        p = said.softmax(1)
        rows.append(("entropy", float(entropy(said).mean())))
        rows.append(("confidence", float(p.amax(1).mean())))
        rows.append(("marginal entropy", float(entropy(p.mean(0, keepdim=True).log()).mean())))
        rows.append(("artefacts", float(noisiness(made).log2().mean() - noisiness(real).log2().mean())))
        return Output({"sheet": made[:32].cpu()}, {"rows": rows})

    def _validation(self) -> UInt8[Tensor, "n c s s"]:
        """`count` validation images; fewer where the source has fewer."""
        images = self.validation.model_copy(update={"limit": self.count}).load().images
        if len(images) < 8:
            raise UserError(f"validation: expected at least 8 images, found {len(images)}; give more of the source")
        return images


def noisiness(images: UInt8[Tensor, "n c s s"]) -> Float[Tensor, " n"]:
    r"""Mean spectral energy of each image above 3/4 of the Nyquist frequency (either axis), of values in [-1, 1]."""
    x = to_float(images).double()
    energy = torch.fft.fft2(x, norm="ortho").abs().square().mean(1)
    side = x.shape[-1]
    above = torch.fft.fftfreq(side).abs() > CUT / 2
    high = above[:, None] | above
    return energy[:, high.to(energy.device)].mean(1).clamp(min=1e-12)

"""Mean and standard deviation of a target's penultimate features on public images, for the logit loss."""

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mi_utils.data import AnySource, splits
from mi_utils.data.images import to_float
from mi_utils.stage import Job, Output, Stage
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.public import public_images, require_images


class FeatureStatistics(Stage):
    r"""$\mu, s$: mean and standard deviation (n - 1) of $p_0(x)$ over at most `count` public images, drawn by `seed`.

    Source: specification, 2.2 (5,050 images).  Deviations: the released cache knows the data set and the model by
    name only, this key all inputs; the released code calls s a log-variance.
    """

    target: TrainClassifier
    public: AnySource
    count: Annotated[int, Field(ge=2)] = 5050
    seed: int = 0

    @torch.no_grad()
    def compute(self, job: Job) -> Output:
        """Features of the drawn images, then their moments in float64."""
        images = public_images(self.target, self.public, job.device)
        require_images(images, 2)
        rows = splits.shuffled(len(images), "feature statistics", self.seed)[: self.count]
        net = self.target.network(job.device)
        chosen = images[rows.to(job.device)]
        p = torch.cat([net.features(to_float(part)) for part in chosen.split(512)])
        job.check_finite("features of the target", p)
        std, mean = torch.std_mean(p.double(), 0)
        return Output({"mean": mean.float(), "std": std.float()}, {"n_images": len(chosen)})

    def statistics(self, device: torch.device | str) -> tuple[Float[Tensor, " d"], Float[Tensor, " d"]]:
        """(mean, std), each (d,) float32 on `device`."""
        stored = self.result(device).tensors
        return stored["mean"].to(device), stored["std"].to(device)

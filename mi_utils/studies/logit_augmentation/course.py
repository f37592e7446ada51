"""What happens on the way: overfitting of the attack to its target, and where the features end up.

Evaluators and private images are read here and never by an attack.
"""

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from pydantic import SerializeAsAny
from torch import Tensor

from mi_utils.data import AnySource
from mi_utils.data.images import to_uint8
from mi_utils.metrics import accuracy
from mi_utils.stage import Job, Output, Stage
from mi_utils.studies.evaluation import Panel, by_class, features, logits, private_features
from mi_utils.training.classifier import TrainClassifier


class Course(Stage):
    r"""Accuracy and cross-entropy of target and evaluators along an attack; features of its end.

    Tensors, over the attack's stored frames f: `steps` (F,), `target` and `evaluators` (F,) = accuracy $A_T$ and mean
    accuracy $\overline{A_E}$ of the plain evaluators, `ce_target`, `ce_evaluators` (F,) the mean cross-entropies.
    `meta["rows"]` as an Evaluation's: feature gap, cosine and norm of every class.  Source: specification, 6.
    """

    attack: SerializeAsAny[Stage]
    target: TrainClassifier
    panel: Panel
    private: AnySource
    public: AnySource

    def compute(self, job: Job) -> Output:
        """Every frame is drawn again from its latents."""
        stored = self.attack.result(job.device).tensors
        g = self.attack.prior.generator(job.device)
        labels = stored["labels"].to(job.device)
        nets = [self.target.network(job.device), *(s.network(job.device) for s in self.panel.plain.values())]
        curves = []
        for z in stored["frames_latents"].to(job.device):
            with torch.no_grad():
                images = to_uint8(g(z))
            curves.append([judged(logits(net, images), labels) for net in nets])
        values = torch.tensor(curves, dtype=torch.float64)  # frames, nets, (accuracy, cross-entropy)
        tensors = {
            "steps": stored["frames_steps"],
            "target": values[:, 0, 0],
            "evaluators": values[:, 1:, 0].mean(1),
            "ce_target": values[:, 0, 1],
            "ce_evaluators": values[:, 1:, 1].mean(1),
        }
        return Output(tensors, {"rows": self._ends(stored["images"].to(job.device), labels, job.device)})

    def _ends(self, images: Tensor, labels: Tensor, device: torch.device) -> list:
        """Feature gap, cosine and norm in the target's feature space."""
        net, classes = self.target.network(device), labels.unique().tolist()
        private = self.private.load().only_classes(classes)
        real = private_features(self.target, self.private, tuple(classes), str(device))
        centre = class_means(real, private.labels.to(device), labels)
        public = public_mean(self.target, self.public, str(device))
        found = feature_gap(features(net, images), centre, public)
        return [row for name, values in found.items() for row in by_class(name, values, labels, classes)]


@lru_cache(maxsize=2)
def public_mean(target: TrainClassifier, public: AnySource, device: str) -> Float[Tensor, " d"]:
    r"""$\mu$: the target's mean penultimate feature of all public images, computed once per process."""
    return features(target.network(device), public.load().images.to(device)).mean(0)


def judged(says: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> list[float]:
    """Accuracy and mean cross-entropy of one net."""
    loss = torch.nn.functional.cross_entropy(says, labels)
    return [accuracy.top_k(says, labels).double().mean().item(), loss.item()]


def class_means(
    real: Float[Tensor, "m d"], real_labels: Int[Tensor, " m"], labels: Int[Tensor, " n"]
) -> Float[Tensor, "n d"]:
    r"""$\bar p^{\,y}$ of each row's class y."""
    same = (labels.unique()[:, None] == real_labels).to(real)
    means = same @ real / same.sum(1, keepdim=True)
    return means[torch.searchsorted(labels.unique(), labels)]


def feature_gap(
    p: Float[Tensor, "n d"], centre: Float[Tensor, "n d"], public: Float[Tensor, " d"]
) -> dict[str, Float[Tensor, " n"]]:
    r"""How far the penultimate features p end from the private centre $\bar p^{\,y}$, seen from the public mean $\mu$.

    gap $\lVert p-\bar p^{\,y}\rVert/\lVert\bar p^{\,y}-\mu\rVert$, cosine of $p-\mu$ with $\bar p^{\,y}-\mu$, and the
    norm $\lVert p\rVert$.  Source: specification, 6.
    """
    reach = (centre - public).norm(dim=1)
    return {
        "feature gap": (p - centre).norm(dim=1) / reach,
        "feature cosine": torch.nn.functional.cosine_similarity(p - public, centre - public),
        "feature norm": p.norm(dim=1),
    }

"""What happens to all candidates of a search from epoch to epoch: accuracy, diversity, looks, distance to private.

Evaluators, the factor regressor and private images are read here and never by an attack.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int, UInt8
from pydantic import SerializeAsAny
from torch import Tensor
from torch.nn import functional as F

from mi_utils.attacks.style_search import StyleSearch, to_images
from mi_utils.data import AnySource
from mi_utils.data.face_factors import identities, in_mode
from mi_utils.data.faces import FACTORS, Faces
from mi_utils.data.images import ImageSet
from mi_utils.metrics import sets
from mi_utils.stage import Job, Output, Stage
from mi_utils.studies.evaluation import Panel, embedded, features, logits, private_features
from mi_utils.studies.factors import FactorRegressor

LOOKS = 3  # of an identity: itself and two others
PRESENT = 1 / 20  # share of a class's images from which a look counts as present
Rows = dict[str, Float[Tensor, " k"]]  # metric -> a value per class


class Timeline(Stage):
    """Metrics of the unselected candidates at the search's stored epochs.

    Tensors: `steps` (F,); per metric (F, K) by class: top1 (mean of the plain evaluators), recall (first evaluator's
    features), DIV-P (mean pairwise ST-LPIPS), DIV-F (one minus mean pairwise cosine); of procedural faces looks,
    look entropy, glasses, factor error as well; `FD <evaluator>` (F,) over all classes; and `private <metric>` (K,).
    """

    attack: SerializeAsAny[StyleSearch]
    panel: Panel
    private: AnySource
    reader: FactorRegressor | None = None

    def compute(self, job: Job) -> Output:
        """Every epoch's images are made again from their styles."""
        stored, device = self.attack.result(job.device).tensors, job.device
        decode, labels = self.attack.decoder(device), stored["labels"].to(device)
        classes = sorted(self.attack.classes)
        judge = Judge(self, classes, device)
        frames = [judge(to_images(decode, w.to(device)), labels) for w in stored["frames_latents"]]
        found = {name: torch.stack([frame[name] for frame in frames]) for name in frames[0]}
        return Output(found | judge.real() | {"steps": stored["frames_steps"]})


@dataclass
class Judge:
    """Measures a set of images beside the private ones."""

    stage: Timeline
    classes: list[int]
    device: torch.device

    def __post_init__(self) -> None:
        self.private: ImageSet = self.stage.private.load().only_classes(self.classes).to(self.device)
        self.nets = {name: net.network(self.device) for name, net in self.stage.panel.plain.items()}

    def __call__(self, images: UInt8[Tensor, "n c s s"], labels: Int[Tensor, " n"]) -> dict[str, Tensor]:
        """Values of one epoch."""
        said = [logits(net, images).argmax(1) == labels for net in self.nets.values()]
        found: dict[str, Tensor] = {"top1": self._mean(torch.stack(said).double().mean(0), labels)}
        for i, (name, net) in enumerate(list(self.nets.items())[:2]):
            fake, real = features(net, images), self._features(name)
            found[f"FD {name}"] = torch.tensor(sets.frechet_distance(real, fake), dtype=torch.float64)
            if i == 0:
                each, _ = sets.prdc_per_class(real, self.private.labels, fake, labels, self.classes)
                found["recall"] = torch.tensor([each[c]["recall"] for c in self.classes], dtype=torch.float64)
                found["DIV-F"] = by_class(F.normalize(fake), labels, self.classes) / 2
        return found | self._looks(images, labels) | self._spread(images, labels)

    def real(self) -> dict[str, Tensor]:
        """What the private images themselves show."""
        stage, first = self.stage, next(iter(self.nets))
        where = (stage.private, tuple(self.classes), str(self.device))
        found = dict(private_spread(*where))
        if stage.reader is not None:
            found |= private_looks(stage.reader, *where)
        found["DIV-F"] = by_class(F.normalize(self._features(first)), self.private.labels, self.classes) / 2
        return {f"private {name}": value for name, value in found.items()}

    def _features(self, name: str) -> Float[Tensor, "n d"]:
        net = self.stage.panel.plain[name]
        return private_features(net, self.stage.private, tuple(self.classes), str(self.device))

    def _spread(self, images: Tensor, labels: Tensor) -> Rows:
        return {"DIV-P": by_class(embedded(images, str(self.device)), labels, self.classes)}

    def _looks(self, images: Tensor, labels: Tensor) -> Rows:
        if self.stage.reader is None:
            return {}
        return looks(self.stage.reader, self.stage.private, images, labels, self.classes)

    def _mean(self, values: Float[Tensor, " n"], labels: Int[Tensor, " n"]) -> Float[Tensor, " k"]:
        return torch.stack([values[labels == c].mean() for c in self.classes])


@lru_cache(maxsize=2)
def private_spread(source: AnySource, classes: tuple[int, ...], device: str) -> Rows:
    """DIV-P of all private images, computed once per process: it is the same for every search."""
    data = source.load().only_classes(list(classes)).to(device)
    return {"DIV-P": by_class(embedded(data.images, device), data.labels, list(classes))}


@lru_cache(maxsize=2)
def private_looks(reader: FactorRegressor, source: Faces, classes: tuple[int, ...], device: str) -> Rows:
    """Looks of all private images, computed once per process."""
    data = source.load().only_classes(list(classes)).to(device)
    return looks(reader, source, data.images, data.labels, list(classes))


def by_class(rows: Float[Tensor, "n d"], labels: Int[Tensor, " n"], classes: list[int]) -> Float[Tensor, " k"]:
    r"""Mean of $\lVert e-e'\rVert^2$ over all pairs of one class: DIV-P of perceptual embeddings."""
    return torch.stack([torch.pdist(rows[labels == c].double()).square().mean() for c in classes]).cpu()


# --- looks of procedural identities --------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def known_looks(source: Faces) -> dict[str, Int[Tensor, "i looks"]]:
    """Kinds of the changing factors in every look of every identity of a source."""
    ids = torch.arange(source.identities).repeat_interleave(LOOKS) + source.first
    mode = torch.arange(LOOKS).repeat(source.identities)
    found = in_mode(identities(ids, source.factors, source.seed), ids, mode, source.modes, source.seed)
    return {name: found[name].view(-1, LOOKS) for name in source.modes}


def nearest_look(
    said: Mapping[str, Float[Tensor, "n kinds"]], kinds: Mapping[str, Int[Tensor, "n looks"]]
) -> Int[Tensor, " n"]:
    """The look whose kinds the regressor finds most likely together."""
    scores = [said[name].log_softmax(1).gather(1, kinds[name].to(said[name].device)) for name in kinds]
    return torch.stack(scores).sum(0).argmax(1)


def looks(
    reader: FactorRegressor, source: Faces, images: Tensor, labels: Int[Tensor, " n"], classes: list[int]
) -> Rows:
    r"""How many of its looks a class's images show and their entropy (nats), the share with glasses, factor error.

    Factor error: root mean square difference of the continuous factors from the true ones, in standard deviations.
    """
    said = {name: x.cpu() for name, x in reader.outputs(images).items()}
    labels = labels.cpu()
    look = nearest_look(said, {name: kinds[labels] for name, kinds in known_looks(source).items()})
    shares = torch.stack([F.one_hot(look[labels == c], LOOKS).double().mean(0) for c in classes])
    worn = said["glasses"].argmax(1) > 0
    true = identities(labels + source.first, source.factors, source.seed)
    plain = [name for name, factor in FACTORS.items() if not factor.kinds]
    squares = torch.stack([12 * (said[n].double() - true[n].double()).square() for n in plain]).mean(0)
    return {
        "looks": (shares >= PRESENT).double().sum(1),
        "look entropy": torch.special.entr(shares).sum(1),
        "glasses": torch.stack([worn[labels == c].double().mean() for c in classes]),
        "factor error": torch.stack([squares[labels == c].mean().sqrt() for c in classes]),
    }

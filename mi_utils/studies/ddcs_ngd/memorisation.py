"""How much a target knows of its training images beyond what it knows of others of the same classes."""

import torch
import torch.nn.functional as F

from mi_utils.data import AnySource
from mi_utils.models.classifiers import Classifier
from mi_utils.stage import Job, Output, Stage
from mi_utils.studies.evaluation import logits
from mi_utils.training.classifier import TrainClassifier


class Memorisation(Stage):
    """`meta`: accuracy (share) and cross-entropy (nats) on training and test images, and their gaps, both >= 0 where
    training images are known better."""

    target: TrainClassifier

    def compute(self, job: Job) -> Output:
        """All training images and all test images, once, as they are."""
        net = self.target.network(job.device)
        (seen, seen_loss), (new, new_loss) = (told(net, s, job.device) for s in (self.target.train, self.target.test))
        facts = {"train_accuracy": seen, "test_accuracy": new, "train_loss": seen_loss, "test_loss": new_loss}
        return Output(meta=facts | {"accuracy_gap": seen - new, "loss_gap": new_loss - seen_loss})


def told(net: Classifier, source: AnySource, device: torch.device) -> tuple[float, float]:
    """Accuracy and mean cross-entropy on a source's images."""
    data = source.load().to(device)
    said = logits(net, data.images).double()
    right = (said.argmax(1) == data.labels).double().mean()
    return float(right), float(F.cross_entropy(said, data.labels))

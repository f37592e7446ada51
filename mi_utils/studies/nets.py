"""Classifiers of the studies: how targets and evaluators are trained, and who sits on a panel."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from mi_utils.data import AnySource
from mi_utils.data.augment import Affine, Augment, Cutout, Elastic, Flip, GaussianNoise, Photometric
from mi_utils.models.classifiers import Architecture
from mi_utils.stage import Config
from mi_utils.studies.evaluation import Panel
from mi_utils.training.classifier import TrainClassifier

LIGHT = Augment(steps=(Affine(degrees=5, scale=(0.95, 1.05), translate=0.05),))
NONE = Augment()
FLIP = Augment(steps=(Flip(),))
# Evaluators share augmentation with no one: students see public images as they are, targets no elastic distortion.
STRONG = Augment(
    steps=(
        Affine(degrees=10, scale=(0.9, 1.1), shear=6, translate=0.08),
        Photometric(contrast=(0.7, 1.3)),
        Cutout(side=8),
        GaussianNoise(sigma=(0.0, 0.2)),
    )
)
STROKES = Augment(steps=(*STRONG.steps, Elastic(sigma=5, alpha=20)))
# Of face targets from random weights (the papers' begin with a face net's): after flips alone less of what a target
# knows of a thousand images carries over to other nets.
FACES = Augment(steps=(Flip(), *STRONG.steps))


class Net(Config):
    """A classifier's shape and how it is trained."""

    architecture: Architecture
    width: Annotated[int, Field(ge=1)]
    iterations: Annotated[int, Field(ge=1)]
    augmentation: Augment = Augment()
    batch: Annotated[int, Field(ge=2)] = 64
    lr: Annotated[float, Field(gt=0)] = 0.1


def net(architecture: Architecture, width: int, iterations: int, augmentation: Augment = NONE) -> Net:
    """A net in one line."""
    return Net(architecture=architecture, width=width, iterations=iterations, augmentation=augmentation)


def trained(recipe: Net, train: AnySource, test: AnySource, seed: int, **more: object) -> TrainClassifier:
    """A target or evaluator of this recipe."""
    fields = {name: getattr(recipe, name) for name in Net.model_fields}
    return TrainClassifier(train=train, test=test, seed=seed, **fields, **more)


def panel(evaluators: Mapping[str, Net], rejecting: Net, train: AnySource, test: AnySource, reject: AnySource) -> Panel:
    """Evaluators with seeds of their own; `reject`: "none of these" of the one with a reject class."""
    plain = {name: trained(one, train, test, 100 + i) for i, (name, one) in enumerate(evaluators.items())}
    return Panel(plain=plain, reject=trained(rejecting, train, test, 200, reject=reject))

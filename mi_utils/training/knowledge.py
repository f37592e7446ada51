"""Knowledge extraction score: a fresh classifier is trained on the reconstructions alone and tested on real images.

It reads between chance and what the same recipe reaches on as many private images.
"""

from typing import Annotated

import torch
from jaxtyping import Bool, Int, UInt8
from pydantic import Field
from torch import Tensor

from mi_utils.data.augment import Augment
from mi_utils.data.images import to_float
from mi_utils.errors import UserError
from mi_utils.models.classifiers import Architecture, Classifier, build_classifier
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Config
from mi_utils.training.classifier import Batch, TrainClassifier, fit

_USUAL = {name: field.default for name, field in TrainClassifier.model_fields.items()}


class Recipe(Config):
    """How the fresh classifier is trained; by default as a target is, without augmentation."""

    architecture: Architecture = _USUAL["architecture"]
    width: Annotated[int, Field(ge=1)] = _USUAL["width"]
    augmentation: Augment = _USUAL["augmentation"]
    iterations: Annotated[int, Field(ge=2)] = _USUAL["iterations"]
    batch: Annotated[int, Field(ge=2)] = _USUAL["batch"]
    lr: Annotated[float, Field(gt=0)] = _USUAL["lr"]
    weight_decay: float = _USUAL["weight_decay"]


def learnt(
    images: UInt8[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    test_images: UInt8[Tensor, "m c h w"],
    test_labels: Int[Tensor, " m"],
    recipe: Recipe,
    seed: int,
    device: torch.device | str = "cpu",
) -> Bool[Tensor, " m"]:
    """Which test images a classifier that saw `images` alone names rightly; its accuracy is the score.

    Class ids are any integers; the classes are those of both sets, so a class without training images can only be
    named by luck.  UserError for fewer than two classes, unlike shapes, or a training that diverged.
    """
    classes = torch.cat([labels, test_labels]).unique()
    _check(images, test_images, classes)
    rng = seeded("knowledge", recipe.architecture, seed, device=device)
    net = _fresh(recipe, images, len(classes), seed).to(device, memory_format=torch.channels_last)
    x, y = images.to(device), torch.searchsorted(classes, labels).to(device)

    def draw() -> Batch:
        index = torch.randint(len(x), (recipe.batch,), generator=rng, device=device)
        return recipe.augmentation(to_float(x[index]), rng), y[index]

    sizes = {"iterations": recipe.iterations, "lr": recipe.lr, "weight_decay": recipe.weight_decay}
    losses = fit(net, draw, rng, lambda total, state: range(total), **sizes)
    if not bool(torch.isfinite(losses).all()):
        raise UserError(f"training on {len(x)} images: expected finite losses, found NaN or infinite; lower its `lr`")
    return classes[_named(net.eval(), test_images, device)] == test_labels


def _fresh(recipe: Recipe, images: Tensor, classes: int, seed: int) -> Classifier:
    """A classifier that has learnt nothing yet."""
    return build_classifier(
        recipe.architecture,
        width=recipe.width,
        channels=images.shape[1],
        size=images.shape[2],
        classes=classes,
        generator=seeded("knowledge weights", recipe.architecture, seed),
    )


@torch.no_grad()
def _named(net: Classifier, images: Tensor, device: torch.device | str) -> Int[Tensor, " m"]:
    """The class, by its place, that the net says of every image."""
    return torch.cat([net(to_float(part.to(device))).argmax(1) for part in images.split(512)]).cpu()


def _check(images: Tensor, test_images: Tensor, classes: Tensor) -> None:
    """One shape, some images on both sides, and something to tell apart."""
    if len(images) == 0 or images.shape[1:] != test_images.shape[1:]:
        raise UserError(
            f"training images: expected some of shape {tuple(test_images.shape[1:])} as the test images have, "
            f"found {len(images)} of {tuple(images.shape[1:])}; resize and convert first"
        )
    if len(classes) < 2:
        raise UserError(f"classes: expected at least 2 to tell apart, found {len(classes)}; add another class")


def like(labels: Int[Tensor, " n"], wanted: Int[Tensor, " m"], generator: torch.Generator) -> Int[Tensor, " k"]:
    """Rows of `labels`, drawn without replacement, with as many of every class as `wanted` has, or all there are."""
    order = torch.randperm(len(labels), generator=generator)
    rows = [order[labels[order] == c][: int((wanted == c).sum())] for c in wanted.unique()]
    return torch.cat(rows).sort().values

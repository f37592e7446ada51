"""The owner's classifier attacked by Plug & Play, so that its training images can be compared with what comes out.

The attack is given the classifier, a generator and class ids, never a private image.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mi_utils.attacks import per_sample
from mi_utils.attacks.plug_and_play import PlugAndPlay
from mi_utils.attacks.style_search import Nets, to_images
from mi_utils.audit.priors import generator_of
from mi_utils.audit.request import SAMPLES, SEEDS, Request
from mi_utils.errors import UserError
from mi_utils.metrics import accuracy
from mi_utils.models.external import External, ExternalClassifier
from mi_utils.models.perceptual import Perceptual
from mi_utils.models.stylegan2 import truncated
from mi_utils.runtime import generator as seeded
from mi_utils.scoring import inputs, judges
from mi_utils.scoring.align import Sets
from mi_utils.scoring.inputs import Labelled
from mi_utils.scoring.judges import Judges
from mi_utils.scoring.request import gather
from mi_utils.stage import Config, StageFailed, run

PIXELS = 64 * 64 * 64  # of the images in memory at a time: some 0.6 GB for a generator of the usual width
SEARCH = {"loss": "ce", "pool": 2000, "psi": 0.7, "epochs": 30, "lr": 0.01}  # the DMMIA study's, README's best loss
NEUTRAL = {"draws": 0, "flip": False}  # all candidates count, and whether classes have mirror images is not known


class Logits(nn.Module):
    """A classifier of the user's as the search wants it: logits stand for features, which Plug & Play never reads."""

    def __init__(self, net: External) -> None:
        super().__init__()
        self.net, self.head = net, nn.Identity()

    def features(self, x: Float[Tensor, "n c s s"]) -> Float[Tensor, "n k"]:
        """What `head` turns into logits."""
        return self.net(x)

    def forward(self, x: Float[Tensor, "n c s s"]) -> Float[Tensor, "n k"]:
        return self.net(x)


class Attacked(Config):
    """A classifier from a file, shown images of `channels` and `size` px, which become what it reads."""

    classifier: ExternalClassifier
    channels: Literal[1, 3]
    size: int

    def facts(self) -> dict[str, Any]:
        """Shape of the images and names of the classes."""
        classes = [str(i) for i in range(self.classifier.classes)]
        return {"channels": self.channels, "size": self.size, "classes": classes}

    def network(self, device: torch.device | str) -> Logits:
        """The classifier, frozen and in eval mode."""
        return Logits(self.classifier.load(device)).eval()


class PlugAndPlayOnFile(PlugAndPlay):
    """Plug & Play on a classifier whose training images the recipe does not know, with a generator of any size."""

    target: Attacked

    def nets(self, device: torch.device) -> Nets:
        """Generator and target, once the classes are the target's."""
        per_sample.check(self.target, self.classes)
        return Nets(self.prior.generator(device), self.target.network(device))

    def unaimed(self, device: torch.device) -> UInt8[Tensor, "n c s s"]:
        """As many images of the generator as the attack makes, drawn like its pool: no classifier is asked."""
        g = self.prior.generator(device)
        rng = seeded("style reference", self.seed)
        z = torch.randn((len(self.classes) * self.samples, g.z_dim), generator=rng).to(device)
        with torch.no_grad():
            w = truncated(g.mapping(z), g.mapping.w_avg, self.psi)
        return to_images(self.decoder(device), w, self.chunk).cpu()


def attacked(
    request: Request, net: Perceptual, device: torch.device, check: Callable[[Sets], object]
) -> tuple[Sets, dict[str, Any]]:
    """The aligned sets with what the attack has made, and what is to be told of it.

    Everything given is read, and `check` is called, before the attack: the private images stand in for its results.
    """
    judge = judges.judges(request.classifier, [], None, device)
    private = inputs.read(request.private, "private", size=request.size)
    if len(private) > 1:
        raise UserError(f"private: expected one set, found {len(private)} seeds; leave `seeds` out of the npz")
    asked = request.scoring(private, private=private[0], prior=None)
    data = gather(asked, None, net.least_side)
    check(data)
    known = _fits(judge, data, device)
    stages = _stages(request, data)
    request.say(f"attacking {len(data.classes)} classes, {len(stages)} times")
    try:
        run(stages, device=str(device), workers=request.workers)
    except StageFailed as problem:
        raise UserError(f"attack: {problem}") from None
    typed = f"Plug & Play on {judge.targets[0].name.removeprefix('target ')}"
    seeds = [_made(stage, typed) for stage in stages]
    samples = Labelled(stages[0].unaimed(device), None, None, f"samples of {request.prior}")
    told = _told(request, typed, known, stages)
    return gather(replace(asked, reconstructions=seeds, prior=samples), None, net.least_side), told


def _fits(judge: Judges, data: Sets, device: torch.device) -> float:
    """Share of private images that the classifier names right; UserError where it is no classifier of these images."""
    judges.check(judge, list(data.classes), data.private.images, device)
    (target,) = judge.targets
    share = float(accuracy.top_k(target.logits(data.private.images, device), data.private.labels).double().mean())
    if share <= 1 / target.classes:
        raise UserError(
            f"{target.name}: expected the classifier of the private images, found {share:.1%} of them named right "
            f"(chance: {1 / target.classes:.1%}); check the order of its classes, mean and std"
        )
    return share


def _stages(request: Request, data: Sets) -> list[PlugAndPlayOnFile]:
    """One attack a seed, on every class that has private images; UserError where generator and images do not fit."""
    height, width = data.private.images.shape[2:]
    if height != width:
        raise UserError(
            f"size: expected square private images to attack for, found {width}×{height}; add "
            f"--size {min(height, width)}"
        )
    prior = generator_of(request)
    made = prior.facts()
    if request.centre is not None and not 8 <= request.centre <= made["size"]:
        raise UserError(f"centre: expected 8..{made['size']} px of the generator's images, found {request.centre}")
    recipe = judges.recipe_of(request.classifier)
    target = Attacked(classifier=recipe, channels=made["channels"], size=width)
    count = request.samples or SAMPLES
    settings = SEARCH | NEUTRAL | {"pool": max(SEARCH["pool"], count), "candidates": count, "samples": count}
    chunk = max(1, min(64, PIXELS // max(made["size"], width, recipe.size) ** 2))
    fields = {"prior": prior, "target": target, "classes": tuple(data.classes), "centre": request.centre}
    return [PlugAndPlayOnFile(**fields, **settings, chunk=chunk, seed=seed) for seed in range(request.seeds or SEEDS)]


def _made(stage: PlugAndPlayOnFile, typed: str) -> Labelled:
    """The images of one seed."""
    found = stage.result().tensors
    return Labelled(found["images"], found["labels"], None, f"{typed}, seed {stage.seed}")


def _told(request: Request, typed: str, known: float, stages: Sequence[PlugAndPlayOnFile]) -> dict[str, Any]:
    """The attack as JSON types; `known`: share of the private images that the classifier names right."""
    return {
        "name": typed,
        "prior": Path(str(request.prior)).name,
        "accuracy_on_private": known,
        "settings": SEARCH | NEUTRAL | {"samples": stages[0].samples, "centre": request.centre},
        "keys": [stage.key for stage in stages],
    }

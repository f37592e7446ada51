"""Every attack as stages of given lengths, and how long their steps take on this machine.

Settings are those that the studies' laptop profiles found to work; lengths are the budget's to choose.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from mi_utils.attacks.identity import Views
from mi_utils.attacks.objective import Objective
from mi_utils.attacks.patch_mi import Critic
from mi_utils.audit.attack import NEUTRAL, SEARCH
from mi_utils.data.augment import Affine, Augment, GaussianNoise, ResizedCrop
from mi_utils.data.images import Folder
from mi_utils.stage import Stage
from mi_utils.training.classifier import TrainClassifier
from mi_utils.your_model.budget import Candidate, Part
from mi_utils.your_model.given import Given
from mi_utils.your_model.stages import (
    GMIOnFile,
    GMIPrior,
    KEDMIOnFile,
    KEDMIPrior,
    PatchMIOnFile,
    PixelsOnFile,
    Pool,
    PPAOnFile,
)
from mi_utils.your_model.victim import Victim

Steps = Mapping[str, int]  # by part

# Random views that leave open whether a mirror image shows the same class.
BLOCK = Augment(
    steps=(Affine(degrees=15, scale=(0.8, 1.25), shear=10, translate=0.1), GaussianNoise(sigma=(0.0, 0.3))), fill=0.0
)
LOGIT = Objective(loss="logit", lam=0.0)
TRIAL = (6, 2)  # steps of the two runs that are timed; the longer one first, so that it bears the start
EVALUATORS = {"CNN 5x5": ("cnn5", 16), "MLP": ("mlp", 256)}  # unlike each other and unlike the usual targets
PATCH_SIDE = 32  # px of Patch-MI's generator


@dataclass(frozen=True)
class Length:
    """How many steps a part may have; `multiple`: what their number is divisible by."""

    least: int
    full: int
    multiple: int = 1


@dataclass(frozen=True)
class Recipe:
    """One attack: what it is, its parts in the order they run, and the stages of given lengths; the last attacks.

    side: px of its images.
    """

    title: str
    lengths: Mapping[str, Length]
    stages: Callable[[Steps, int], Mapping[str, Stage]]
    side: int


def victim(given: Given, side: int) -> Victim:
    """The classifier, shown images of `side` px."""
    return Victim(classifier=given.recipe, channels=given.settings.preprocessing.channels, size=side)


def _common(given: Given, side: int, seed: int) -> dict:
    """Fields that every attack has."""
    settings = given.settings
    return {
        "target": victim(given, side),
        "classes": settings.attacked,
        "seed": seed,
        "samples": settings.samples,
    }


def pixels(given: Given) -> Recipe:
    """Pixels under random transformations: no prior, no public image."""

    def stages(steps: Steps, seed: int) -> dict[str, Stage]:
        n = steps["search"]
        schedule = {"iterations": n, "milestones": (n // 2, 3 * n // 4), "chunk": 64}
        views = Views(count=2, transform=BLOCK)
        return {"search": PixelsOnFile(**_common(given, given.side, seed), **schedule, views=views)}

    return Recipe("pixels + transformations (BMI)", {"search": Length(60, 300)}, stages, given.side)


def kedmi(given: Given) -> Recipe:
    """The search of a distribution of latents for every class."""

    def stages(steps: Steps, seed: int) -> dict[str, Stage]:
        common = _common(given, given.side, seed)
        nets = {"width": 24, "d_width": 24, "mbd_outputs": 16, "mbd_kernel": 16, "average": 0.99}
        public = given.settings.tree(given.side)
        prior = KEDMIPrior(
            public=public, target=common["target"], steps=steps["prior"], lr=5e-4, critic_steps=1, **nets
        )
        search = {"iterations": steps["search"], "lr": 0.05, "clip": 2.0, "objective": LOGIT, "chunk": 64}
        return {"prior": prior, "search": KEDMIOnFile(**common, prior=prior, **search)}

    lengths = {"prior": Length(300, 2000), "search": Length(80, 300)}
    return Recipe("KEDMI, logit loss", lengths, stages, given.side)


def gmi(given: Given) -> Recipe:
    """The search of single latents."""

    def stages(steps: Steps, seed: int) -> dict[str, Stage]:
        nets = {"width": 24, "d_width": 24, "average": 0.99, "lr": 1e-3, "critic_steps": 1}
        prior = GMIPrior(public=given.settings.tree(given.side), steps=steps["prior"], **nets)
        search = {"iterations": steps["search"], "lr": 0.02, "objective": LOGIT, "chunk": 64}
        return {"prior": prior, "search": GMIOnFile(**_common(given, given.side, seed), prior=prior, **search)}

    lengths = {"prior": Length(400, 3000), "search": Length(60, 150)}
    return Recipe("GMI, logit loss", lengths, stages, given.side)


def patch_mi(given: Given) -> Recipe:
    """A GAN on patches of the auxiliary images, with the tuned settings of the study."""
    crops = Augment(steps=(ResizedCrop(size=PATCH_SIDE, area=(0.4, 1.0), aspect=(1, 1)),))

    def stages(steps: Steps, seed: int) -> dict[str, Stage]:
        pool = Pool(source=given.settings.tree(PATCH_SIDE), count=4096, transform=crops)
        common = _common(given, PATCH_SIDE, seed)
        norms = any(isinstance(m, torch.nn.BatchNorm2d) for m in given.network.modules())
        fields = {
            "gan": "class_cond",
            "critics": (Critic(patch=8, stride=2, padding=3), Critic(patch=16, stride=4, padding=6)),
            "d_reduce": "patch",
            "d_norm": "none",
            "d_padding": "replicate",
            "n_gf": 16,
            "n_df": 32,
            "batch": 32,
            "w_a": 0.3,
            "tau": 1.0,
            "views": Views(count=2, transform=BLOCK),
            "upsampling": "resize",
            "instance_noise": 0.05,
            "w_z": 1.0,
            "w_bn": 5.0 if norms else 0.0,
            "average": 0.98,
        }
        return {"search": PatchMIOnFile(**common, **fields, auxiliary=pool, iterations=steps["search"])}

    return Recipe("Patch-MI (tuned)", {"search": Length(100, 800)}, stages, PATCH_SIDE)


def ppa(given: Given) -> Recipe:
    """Plug & Play with the user's generator."""

    def stages(steps: Steps, seed: int) -> dict[str, Stage]:
        count = given.settings.samples
        fields = SEARCH | NEUTRAL | {"epochs": steps["search"], "candidates": count, "pool": 1000, "loss": "logit"}
        return {"search": PPAOnFile(**_common(given, given.side, seed), prior=given.prior, chunk=32, **fields)}

    return Recipe("Plug & Play (PPA), logit loss", {"search": Length(10, 40)}, stages, given.side)


RECIPES: dict[str, Callable[[Given], Recipe]] = {
    "pixels": pixels,
    "kedmi": kedmi,
    "gmi": gmi,
    "patch-mi": patch_mi,
    "ppa": ppa,
}


def evaluators(given: Given) -> Recipe:
    """Classifiers of this project trained on the private images and tested on the held-out ones: the judges."""
    train, test = (given.settings.folder(name, given.side) for name in ("private", "holdout"))

    def stages(steps: Steps, seed: int) -> dict[str, Stage]:
        return {name: _evaluator(train, test, name, steps[name], seed) for name in EVALUATORS}

    return Recipe("evaluators", dict.fromkeys(EVALUATORS, Length(150, 400)), stages, given.side)


def _evaluator(train: Folder, test: Folder, name: str, steps: int, seed: int) -> TrainClassifier:
    architecture, width = EVALUATORS[name]
    sizes = {"architecture": architecture, "width": width, "iterations": steps, "batch": 64, "lr": 0.05}
    return TrainClassifier(train=train, test=test, augmentation=BLOCK, seed=seed, **sizes)


def candidate(name: str, recipe: Recipe, seeds: tuple[int, ...], device: str) -> Candidate:
    """The attack with the measured seconds of its parts.  Timed runs are stored, so a second call measures nothing.

    A step takes what the longer run took more than the shorter, but no more than its own share of the longer one, so
    that a machine that was busy for a moment does not count for every step.
    A prior serves all seeds; what follows it runs once a seed.
    """
    long, short = ({part: n for part in recipe.lengths} for n in TRIAL)
    last = list(recipe.lengths)[-1]
    parts = []
    for part, length in recipe.lengths.items():
        slow, fast = (
            recipe.stages(long | {part: n}, seeds[0])[part].result(device).seconds for n in (long[part], short[part])
        )
        step = max(min((slow - fast) / (long[part] - short[part]), slow / long[part]), 1e-4)
        times = len(seeds) if part == last and name != "evaluators" else 1
        fixed = max(fast - step * short[part], 0.0)
        parts.append(Part(part, step, fixed, length.least, length.full, times, length.multiple))
    return Candidate(name, tuple(parts))

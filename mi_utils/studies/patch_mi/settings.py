"""Problems (whose classifier, which auxiliary images) and sizes of the Patch-MI study at each profile."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mi_utils.attacks.identity import Views
from mi_utils.attacks.patch_mi import Critic
from mi_utils.data import AnySource
from mi_utils.data.augment import (
    Affine,
    Augment,
    Crop,
    Cutout,
    Elastic,
    Flip,
    GaussianNoise,
    Pad,
    Photometric,
    ResizedCrop,
    Rotate,
)
from mi_utils.data.glyphs import HangulSheet, LatinSheet
from mi_utils.data.images import Folder, Parquet, Torchvision, UciDigits
from mi_utils.data.pool import glyph_pieces
from mi_utils.models.classifiers import Architecture
from mi_utils.stage import Config
from mi_utils.studies.plan import Seeds

Count = Annotated[int, Field(ge=1)]

HEAVY = Augment(
    steps=(
        Affine(degrees=15, scale=(0.86, 1.16), shear=10, translate=0.1),
        Elastic(sigma=5, alpha=30),
        Photometric(contrast=(0.6, 1.4)),
        Cutout(side=8),
        GaussianNoise(sigma=(0.0, 0.5)),
    )
)
CROP_FLIP = Augment(steps=(Pad(pixels=4), Crop(size=32), Flip()))


def handwriting_block(strength: float = 1.0, draw: Literal["batch", "sample"] = "batch") -> Augment:
    """The released MNIST/EMNIST block: rotation U(-20, 20) degrees on an expanded canvas, crop of .85-1."""
    steps = (
        Rotate(degrees=20 * strength, expand=True),
        ResizedCrop(size=32, area=(1 - 0.15 * strength, 1), aspect=(1 / (1 + 0.1 * strength), 1 + 0.1 * strength)),
    )
    return Augment(steps=steps, draw=draw)


# The released CIFAR-10 block; it pads with 0, which is mid-grey in [-1, 1].
CIFAR_BLOCK = Augment(
    steps=(Pad(pixels=4), Rotate(degrees=22.5), Rotate(degrees=22.5), Flip(), Crop(size=32)),
    fill=0.0,
    draw="batch",
)

# Transformation block of the tuned rows: per image, and strong enough that a texture does not survive it.
TUNED_BLOCK = Augment(
    steps=(
        Affine(degrees=15, scale=(0.8, 1.25), shear=10, translate=0.1),
        Elastic(sigma=5, alpha=30),
        GaussianNoise(sigma=(0.0, 0.3)),
    )
)


class Net(Config):
    """A classifier's shape and how it is trained."""

    architecture: Architecture
    width: Count
    augmentation: Augment
    iterations: Count
    batch: Annotated[int, Field(ge=2)] = 64


class Problem(Config):
    """A private set, the classifier on it, and the attacker's auxiliary images."""

    name: str
    train: AnySource
    test: AnySource
    holdout: AnySource | None = None  # private images for the reference row; None: the test images
    classes: tuple[int, ...]  # attacked
    auxiliary: AnySource
    auxiliary_name: str
    pieces: Augment  # auxiliary transform of the paper's settings
    tuned_pieces: Augment
    native: int | None = None  # side before the target's own upsampling
    views: Views
    target: Net
    evaluators: dict[str, Net]
    reject: Net
    critic: Critic = Critic()
    w_a: float = 30.0
    tau: float = 0.4
    gan: Literal["per_class", "class_cond"] = "per_class"


class Settings(Config):
    """Sizes of every part; `-y` overrides any field."""

    problems: tuple[Problem, ...]
    standing: str  # what the data are, for captions and verdicts
    seeds: Seeds
    samples: Count  # reconstructions per class that are made by Patch-MI and scored in every row
    perceptual: Annotated[int, Field(ge=0)]  # private images per class of DDCS
    pool: Count
    n_gf: Count  # per_class generators and critics
    n_df: Count
    iterations: Count
    batch: Count
    tuned_n_gf: Count
    tuned_n_df: Count
    tuned_iterations: Count
    tuned_batch: Count
    sweep_n_gf: Count
    sweep_n_df: Count
    sweep_iterations: Count
    sweep_batch: Count
    sweep_samples: Count
    sweep_seeds: Seeds
    variants: Count | None  # options tried per table, the first ones; None: all
    pair_seeds: Seeds
    active_iterations: Count  # of the sweeps in which the critic acts (`Bench.active`)
    dcgan_width: Count
    dcgan_iterations: Count
    dcgan_batch: Count
    bmi_iterations: Count
    generative_iterations: Count
    vmi_iterations: Count
    vmi_batch: Count
    similarity_iterations: Count
    similarity_patches: Count


def _small(architecture: Architecture, width: int, augmentation: Augment, iterations: int) -> Net:
    return Net(architecture=architecture, width=width, augmentation=augmentation, iterations=iterations)


def _narrow_panel(scale: float) -> dict[str, Net]:
    """E1 has the target's recipe at another width, as the paper's validator; all see strong augmentation."""
    return {
        "E1 CNN w20": _small("cnn", 20, HEAVY, int(400 * scale)),
        "E2 VGG-like": _small("vggish", 8, HEAVY, int(400 * scale)),
        "E3 MLP": _small("mlp", 256, HEAVY, int(800 * scale)),
        "E4 CNN w12": _small("cnn", 12, HEAVY, int(400 * scale)),
    }


def digits(scale: float = 1.0) -> Problem:
    """UCI digits (real, 8 px) attacked with rendered Hangul."""
    return Problem(
        name="UCI digits",
        train=UciDigits(size=32),
        test=UciDigits(split="test", size=32),
        classes=tuple(range(10)),
        auxiliary=HangulSheet(),
        auxiliary_name="rendered Hangul (SERI95 stand-in)",
        pieces=glyph_pieces(),
        tuned_pieces=glyph_pieces(area=(0.15, 0.5), rotation=180),
        native=8,
        views=Views(count=2, transform=handwriting_block()),
        target=_small("cnn", 16, HEAVY, int(500 * scale)),
        evaluators=_narrow_panel(scale),
        reject=_small("cnn", 16, HEAVY, int(450 * scale)),
    )


def letters(scale: float = 1.0) -> Problem:
    """Rendered Latin capitals, a-j attacked as in the released script."""
    train = LatinSheet(split="train", size=32, copies=6)
    return digits(scale).model_copy(
        update={
            "name": "Latin letters",
            "train": train,
            "test": LatinSheet(split="test", size=32),
            "holdout": LatinSheet(split="test", size=32, copies=6),
            "native": None,
            "gan": "class_cond",
        }
    )


def _laptop() -> Settings:
    return Settings(
        problems=(digits(), letters()),
        standing="stand-in data",
        seeds=3,
        samples=24,
        perceptual=50,
        pool=8192,
        n_gf=8,
        n_df=16,
        iterations=800,
        batch=8,
        tuned_n_gf=16,
        tuned_n_df=32,
        tuned_iterations=250,
        tuned_batch=64,
        sweep_n_gf=8,
        sweep_n_df=16,
        sweep_iterations=80,
        sweep_batch=48,
        sweep_samples=20,
        sweep_seeds=3,
        variants=None,
        pair_seeds=1,
        active_iterations=150,
        dcgan_width=16,
        dcgan_iterations=250,
        dcgan_batch=64,
        bmi_iterations=200,
        generative_iterations=80,
        vmi_iterations=150,
        vmi_batch=8,
        similarity_iterations=200,
        similarity_patches=4000,
    )


def _smoke() -> Settings:
    return _laptop().model_copy(
        update={
            "problems": tuple(p.model_copy(update={"classes": (0, 1, 2)}) for p in (digits(0.02), letters(0.02))),
            "standing": "smoke run: the numbers mean nothing",
            "seeds": 1,
            "samples": 8,
            "perceptual": 4,
            "pool": 256,
            "iterations": 2,
            "batch": 4,
            "n_gf": 2,
            "n_df": 4,
            "tuned_n_gf": 4,
            "tuned_n_df": 4,
            "tuned_iterations": 2,
            "tuned_batch": 8,
            "sweep_n_gf": 2,
            "sweep_n_df": 4,
            "sweep_iterations": 2,
            "active_iterations": 2,
            "sweep_batch": 6,
            "sweep_samples": 8,
            "sweep_seeds": 1,
            "variants": 2,
            "dcgan_width": 2,
            "dcgan_iterations": 2,
            "dcgan_batch": 16,
            "bmi_iterations": 2,
            "generative_iterations": 2,
            "vmi_iterations": 2,
            "vmi_batch": 4,
            "similarity_iterations": 5,
            "similarity_patches": 200,
        }
    )


def _full_panel(augmentation: Augment, iterations: int) -> dict[str, Net]:
    return {
        "E1 DLA": _small("dla", 16, augmentation, iterations),
        "E2 ResNet-18": _small("resnet18", 64, augmentation, iterations),
        "E3 MLP": _small("mlp", 256, augmentation, iterations),
        "E4 CNN w40": _small("cnn", 40, augmentation, iterations),
    }


def _mnist(auxiliary: AnySource, name: str, iterations: int) -> Problem:
    return digits().model_copy(
        update={
            "name": "MNIST",
            "train": Torchvision(name="MNIST", size=32),
            "test": Torchvision(name="MNIST", split="test", size=32),
            "auxiliary": auxiliary,
            "auxiliary_name": name,
            "native": None,
            "target": _small("resnet18", 64, HEAVY, iterations),
            "evaluators": _full_panel(HEAVY, iterations),
            "reject": _small("cnn", 40, HEAVY, iterations),
        }
    )


def _colour(
    name: str,
    train: AnySource,
    test: AnySource,
    classes: tuple[int, ...],
    auxiliary: AnySource,
    note: str,
    n: int,
) -> Problem:
    return Problem(
        name=name,
        train=train,
        test=test,
        classes=classes,
        auxiliary=auxiliary,
        auxiliary_name=note,
        pieces=Augment(),
        tuned_pieces=CROP_FLIP,
        views=Views(count=4, transform=CIFAR_BLOCK, combine="logit"),
        target=_small("resnet18", 64, CROP_FLIP, n),
        evaluators=_full_panel(CROP_FLIP, n),
        reject=_small("cnn", 40, CROP_FLIP, n),
        critic=Critic(patch=8, stride=4, padding=0),
        w_a=50.0,
        tau=0.3,
    )


def _gpu() -> Settings:
    private, held_out = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)
    cifar = _colour(
        "CIFAR-10, 5 classes",
        Parquet(classes=private, size=32),
        Parquet(split="test", classes=private, size=32),
        private,
        Parquet(classes=held_out, size=32),
        "CIFAR-10, the other 5 classes (stand-in for CIFAR-100)",
        8000,
    )
    return _laptop().model_copy(
        update={
            "problems": (_mnist(HangulSheet(), "rendered Hangul (SERI95 stand-in)", 4000), cifar),
            "standing": "MNIST and CIFAR-10 (re-coded) real, auxiliary data stand-ins",
            "samples": 200,
            "perceptual": 100,
            "pool": 200_000,
            "n_gf": 64,
            "n_df": 256,
            "iterations": 3000,
            "batch": 64,
            "tuned_n_gf": 64,
            "tuned_n_df": 128,
            "tuned_iterations": 6000,
            "tuned_batch": 256,
            "sweep_n_gf": 32,
            "sweep_n_df": 64,
            "sweep_iterations": 800,
            "active_iterations": 1500,
            "sweep_batch": 128,
            "sweep_samples": 100,
            "dcgan_width": 64,
            "dcgan_iterations": 8000,
            "dcgan_batch": 128,
            "generative_iterations": 1000,
            "vmi_iterations": 3100,
            "vmi_batch": 256,
            "similarity_iterations": 2000,
            "similarity_patches": 20_000,
        }
    )


def _paper() -> Settings:
    seri95 = Folder(path=Path("SERI95/test"), size=64, channels=1)
    kept = tuple(sorted(set(range(100)) - {13, 58, 81, 89, 41, 69, 30, 95, 1, 67, 73, 90}))
    mnist = _mnist(seri95, "SERI95 test part", 4700)
    emnist = mnist.model_copy(
        update={
            "name": "EMNIST letters",
            "train": Torchvision(name="EMNIST-letters", size=32),
            "test": Torchvision(name="EMNIST-letters", split="test", size=32),
            "critic": Critic(patch=8, stride=4, padding=0),
        }
    )
    cifar = _colour(
        "CIFAR-10",
        Torchvision(name="CIFAR10"),
        Torchvision(name="CIFAR10", split="test"),
        tuple(range(10)),
        Torchvision(name="CIFAR100", classes=kept),
        "CIFAR-100 without 12 classes",
        15_600,
    )
    return _gpu().model_copy(
        update={
            "problems": (mnist, emnist, cifar),
            "standing": "the paper's data",
            "seeds": 5,
            "sweep_seeds": 5,
            "samples": 1000,
            "iterations": 24_000,
            "sweep_iterations": 3000,
            "active_iterations": 3000,
        }
    )


MAKERS = {"smoke": _smoke, "laptop": _laptop, "gpu": _gpu, "paper": _paper}

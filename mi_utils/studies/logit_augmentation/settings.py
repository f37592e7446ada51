"""Problems (private classes, public images, classifiers) and sizes of the logit and augmentation study."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from mi_utils.data import AnySource, Faces, Listed, Parquet, Torchvision, UciDigits
from mi_utils.data.augment import Augment
from mi_utils.data.glyphs import LatinSheet
from mi_utils.stage import Config
from mi_utils.studies.nets import FACES, FLIP, LIGHT, STROKES, STRONG, Net, net
from mi_utils.studies.plan import Seeds, SomeSeeds

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]


class Split(Config):
    """Private classes of one seed, and the public images of the same kind that show none of them."""

    train: AnySource
    test: AnySource
    public: AnySource
    shifted: AnySource | None = None  # public images of another distribution
    classes: tuple[int, ...]


class Problem(Config):
    """One data set: its splits (seed s takes the s-th, in turn), targets, students and evaluators."""

    name: str
    splits: tuple[Split, ...]
    judged_train: AnySource  # what the evaluators learn; it may hold classes that are not attacked
    judged_test: AnySource
    reject: AnySource  # "none of these" of the reject-class evaluator
    public_name: str
    samples: Count  # reconstructions per class
    target: Net
    targets: dict[str, Net] = {}  # further architectures, attacked with GMI
    students: dict[str, Net]
    evaluators: dict[str, Net]
    rejecting: Net
    faces: bool = False  # whether the true factors of an identity are known
    g_width: Count
    d_width: Count
    gmi_steps: Count  # of the discriminator
    kedmi_steps: Count


class Search(Config):
    """How long and how fast one base attack searches."""

    iterations: Count
    lr: Rate
    weight: Rate = 100.0  # of the identity loss; the prior's has 1
    draws: Count = 1  # latents per class and step of a distribution
    clip: Rate | None = 1.0  # of a latent's coordinates; VMI has none


class Settings(Config):
    """Sizes of every part; `-y` overrides any field."""

    problems: tuple[Problem, ...]
    standing: str  # what the data are, for captions and verdicts
    seeds: Seeds
    seeds_targets: Seeds  # of the rows of further targets
    seeds_shift: SomeSeeds
    seeds_controls: SomeSeeds
    perceptual: Annotated[int, Field(ge=0)]  # private images per class of DDCS
    critic_steps: Count  # per step of the generator
    gan_batch: Annotated[int, Field(ge=2)]
    gmi_gan_lr: Rate
    kedmi_gan_lr: Rate
    average: Annotated[float, Field(ge=0, lt=1)]  # decay of the generator's moving average
    mbd_outputs: Count  # minibatch discrimination of KEDMI's discriminator
    mbd_kernel: Count
    n_reg: Count  # public images behind the regulariser
    lam: Annotated[float, Field(ge=0)]  # its weight; what counts is lam / d, and narrow targets have a small d
    gmi: Search
    kedmi: Search
    vmi: Search
    vmi_logit: Rate  # weight of VMI's logit loss: it has no bound, so it needs its own
    leak_identities: Count  # of the factor regressor
    leak_iterations: Count


def _narrow_students(scale: float) -> dict[str, Net]:
    """Three unlike nets from scratch (deviation: EfficientNets with ImageNet weights in the paper)."""
    n = int(350 * scale)
    found = {
        "CNN w12": net("cnn", 12, n),
        "separable w24": net("separable", 24, n),
        "VGG-like w8": net("vggish", 8, n),
    }
    return {name: net.model_copy(update={"lr": 0.05}) for name, net in found.items()}


def faces(scale: float = 1.0, identities: int = 20, size: int = 32) -> Problem:
    """Procedural identities; public ones have other ids, shifted ones another distribution of factors too."""
    private = dict(identities=identities, size=size)
    public = dict(identities=1000, first=1000, per_identity=4, size=size)
    split = Split(
        train=Faces(**private, per_identity=50),
        test=Faces(**private, per_identity=50, split="test"),
        public=Faces(**public),
        shifted=Faces(**public, factors="shifted"),
        classes=tuple(range(identities)),
    )
    n = int(500 * scale)
    return Problem(
        name="faces",
        splits=(split,),
        # Evaluators learn from more images of the private people than the target: a judge should know them better.
        judged_train=Faces(**private, per_identity=min(400, 8000 // identities)),
        judged_test=split.test,
        reject=Faces(identities=1000, first=5000, per_identity=2, size=size),
        public_name="other procedural identities",
        samples=5,
        target=net("ir_deep", 8, 2 * n, FACES),
        targets={
            "VGG16 (narrow)": net("vgg16", 8, 2 * n, FACES),
            "FaceNet64 (narrow)": net("ir_small", 8, 2 * n, FACES),
            "IR152 (narrow), flips alone": net("ir_deep", 8, n, FLIP),
        },
        students=_narrow_students(2 * scale),
        evaluators={
            "E1 IR": net("ir_small", 12, n, STROKES),
            "E2 CNN 5x5": net("cnn5", 16, 2 * n, STROKES),
            "E3 MLP": net("mlp", 256, 4 * n, STROKES),
            "E4 MCNN": net("mcnn", 12, 2 * n, STROKES),
        },
        rejecting=net("ir_small", 8, 2 * n, STROKES),
        faces=True,
        g_width=24,
        d_width=24,
        gmi_steps=int(4000 * scale),
        kedmi_steps=int(2000 * scale),
    )


SPLITS = ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9), (0, 2, 4, 6, 8))


def _halves(make: object, train: str, test: str, splits: tuple[tuple[int, ...], ...]) -> tuple[Split, ...]:
    """Ten classes cut into five private and five public ones, in several ways."""
    return tuple(
        Split(
            train=make(split=train, classes=private),
            test=make(split=test, classes=private),
            public=make(split=train, classes=tuple(c for c in range(10) if c not in private)),
            classes=private,
        )
        for private in splits
    )


def digits(scale: float = 1.0) -> Problem:
    """UCI digits (real, 8 px enlarged), five private and five public; evaluators know all ten."""

    def uci(**fields: object) -> UciDigits:
        return UciDigits(size=32, **fields)

    n = int(350 * scale)
    return Problem(
        name="UCI digits",
        splits=_halves(uci, "train", "test", SPLITS),
        judged_train=uci(split="train"),
        judged_test=uci(split="test"),
        reject=LatinSheet(symbols="letters", split="all", size=32, channels=1),
        public_name="the other five digits",
        samples=20,
        target=net("mcnn", 16, n, LIGHT),
        students=_narrow_students(scale),
        evaluators={
            "E1 IR": net("ir_small", 12, n, STROKES),
            "E2 CNN 5x5": net("cnn5", 16, n, STROKES),
            "E3 MLP": net("mlp", 192, n, STROKES),
            "E4 CNN": net("cnn", 20, n, STROKES),
        },
        rejecting=net("ir_small", 8, n, STROKES),
        g_width=16,
        d_width=16,
        gmi_steps=int(1200 * scale),
        kedmi_steps=int(1000 * scale),
    )


def _laptop() -> Settings:
    return Settings(
        problems=(faces(), digits()),
        standing="stand-in data",
        seeds=3,
        seeds_targets=1,
        seeds_shift=3,
        seeds_controls=3,
        perceptual=50,
        critic_steps=1,
        gan_batch=64,
        gmi_gan_lr=1e-3,
        kedmi_gan_lr=5e-4,
        average=0.99,
        mbd_outputs=16,
        mbd_kernel=16,
        n_reg=2000,
        lam=1.0,
        gmi=Search(iterations=150, lr=0.02),
        kedmi=Search(iterations=300, lr=0.05, clip=2.0),
        vmi=Search(iterations=300, lr=0.005, draws=4, clip=None),
        vmi_logit=0.5,
        leak_identities=20_000,
        leak_iterations=6000,
    )


def _smoke() -> Settings:
    tiny = Search(iterations=3, lr=0.02)
    problems = (faces(0.02, identities=4), digits(0.02))
    small = tuple(
        p.model_copy(update={"samples": 4, "splits": p.splits[:1], "gmi_steps": 4, "kedmi_steps": 4}) for p in problems
    )
    return _laptop().model_copy(
        update={
            "problems": small,
            "standing": "smoke run: the numbers mean nothing",
            "seeds": 1,
            "seeds_shift": 1,
            "seeds_controls": 1,
            "perceptual": 4,
            "n_reg": 200,
            "gmi": tiny,
            "kedmi": tiny,
            "vmi": tiny,
            "leak_identities": 30,
            "leak_iterations": 3,
        }
    )


def _full(architecture: str, width: int, iterations: int, augmentation: Augment = FLIP) -> Net:
    return net(architecture, width, iterations, augmentation).model_copy(update={"batch": 128})


def _wide(
    problem: Problem, name: str, target: Net, iterations: int, augmentation: Augment, **changes: object
) -> Problem:
    """A problem with nets of full width."""
    students = {n: net(a, w, iterations).model_copy(update={"lr": 0.02}) for n, a, w in FULL_STUDENTS}
    evaluators = {
        "E1 ResNet-18": _full("resnet18", 64, iterations, augmentation),
        "E2 CNN 5x5": _full("cnn5", 48, iterations, augmentation),
        "E3 MLP": _full("mlp", 512, iterations, augmentation),
        "E4 DLA": _full("dla", 16, iterations, augmentation),
    }
    update = dict(
        name=name,
        samples=20,
        target=target,
        students=students,
        evaluators=evaluators,
        rejecting=_full("cnn5", 40, iterations, augmentation),
        g_width=64,
        d_width=64,
        gmi_steps=15_000,
        kedmi_steps=15_000,
    )
    return problem.model_copy(update=update | changes)


FULL_STUDENTS = (
    ("EfficientNet-b0", "efficientnet_b0", 32),
    ("EfficientNet-b1", "efficientnet_b1", 32),
    ("EfficientNet-b2", "efficientnet_b2", 32),
)
SCRATCH = {
    "CNN w32": net("cnn", 32, 4000),
    "separable w64": net("separable", 64, 4000),
    "VGG-like w32": net("vggish", 32, 4000),
}


def _full_faces() -> Problem:
    base = faces(identities=100, size=64)
    target, *others = (_full(net, 64, 3000, FACES) for net in ("vgg16", "ir152", "ir50"))
    targets = dict(zip(("IR152", "FaceNet64"), others, strict=True))
    return _wide(base, "faces, 64 px", target, 3000, STROKES, samples=5, targets=targets)


def _mnist() -> Problem:
    def mnist(**fields: object) -> Torchvision:
        return Torchvision(name="MNIST", size=32, **fields)

    base = digits().model_copy(
        update={
            "splits": _halves(mnist, "train", "test", SPLITS),
            "judged_train": mnist(split="train"),
            "judged_test": mnist(split="test"),
        }
    )
    return _wide(base, "MNIST", _full("mcnn", 64, 3000, LIGHT), 3000, STROKES, students=SCRATCH)


def _cifar() -> Problem:
    def cifar(**fields: object) -> Parquet:
        return Parquet(size=32, **fields)

    base = digits().model_copy(
        update={
            "splits": _halves(cifar, "train", "test", SPLITS),
            "judged_train": cifar(split="train"),
            "judged_test": cifar(split="test"),
            "reject": Faces(identities=1000, first=5000, per_identity=4),
            "public_name": "the other five classes",
        }
    )
    return _wide(base, "CIFAR-10", _full("resnet18", 64, 6000), 6000, STRONG, students=SCRATCH)


def _gpu() -> Settings:
    return _laptop().model_copy(
        update={
            "problems": (_full_faces(), _mnist(), _cifar()),
            "standing": "procedural faces; MNIST and CIFAR-10 (re-coded) real",
            "critic_steps": 5,
            "gmi_gan_lr": 2e-4,
            "kedmi_gan_lr": 2e-4,
            "mbd_outputs": 64,
            "mbd_kernel": 50,
            "n_reg": 5050,
            "lam": 1.0,
            "gmi": Search(iterations=1200, lr=0.02),
            "kedmi": Search(iterations=1200, lr=0.02),
            "vmi": Search(iterations=1200, lr=0.005, draws=32, clip=None),
        }
    )


def _celeba() -> Problem:
    """CelebA, 1,000 identities private and 30,000 images of others public; FFHQ as the shifted set."""
    crop = dict(size=64, channels=3)
    celeba = dict(path=Path("celeba/img_align_celeba"), crop=108, **crop)
    split = Split(
        train=Listed(split=Path("celeba/private_train.txt"), **celeba),
        test=Listed(split=Path("celeba/private_test.txt"), **celeba),
        public=Listed(split=Path("celeba/public.txt"), **celeba),
        shifted=Listed(path=Path("ffhq/thumbnails128x128"), split=Path("ffhq/public.txt"), crop=88, **crop),
        classes=tuple(range(300)),
    )
    targets = {"IR152": _full("ir152", 64, 17_000), "FaceNet64": _full("ir50", 64, 21_000)}
    changes = dict(splits=(split,), judged_train=split.train, judged_test=split.test, reject=split.public)
    changes |= dict(
        public_name="CelebA, other identities",
        targets=targets,
        samples=5,
        faces=False,
        gmi_steps=56_160,
        kedmi_steps=56_160,
    )
    return _wide(faces(), "CelebA", _full("vgg16", 64, 21_000), 20_000, STRONG, **changes)


def _paper() -> Settings:
    return _gpu().model_copy(
        update={
            "problems": (_celeba(),),
            "standing": "the paper's data",
            "seeds": 5,
            "seeds_targets": 5,
            "seeds_shift": 5,
            "perceptual": 20,
            "gmi": Search(iterations=2400, lr=0.02),
            "kedmi": Search(iterations=2400, lr=0.02),
            "vmi": Search(iterations=4867, lr=0.02, draws=64, clip=None),
            "vmi_logit": 0.1,
        }
    )


MAKERS = {"smoke": _smoke, "laptop": _laptop, "gpu": _gpu, "paper": _paper}

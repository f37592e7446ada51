"""Problems (private classes, generators, auxiliary images) and sizes of the DDCS / NGD study."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from mi_utils.data import AnySource, Faces, Folder, Listed, UciDigits
from mi_utils.data.glyphs import LatinSheet
from mi_utils.stage import Config
from mi_utils.studies.dmmia.settings import MAKERS as SEARCHES
from mi_utils.studies.dmmia.settings import MODES, Baselines, Memory
from mi_utils.studies.dmmia.settings import Problem as Searched
from mi_utils.studies.dmmia.settings import faces as searched
from mi_utils.studies.nets import FACES, FLIP, LIGHT, STROKES, Net, net
from mi_utils.studies.plan import Seeds, SomeSeeds
from mi_utils.training.stylegan2 import TrainStyleGAN2

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]


class Problem(Searched):
    """One data set; `prior` is the generator that is tuned."""

    auxiliary: AnySource  # what it is tuned on
    validation: AnySource  # further images of that kind, of Fréchet distances
    channels: Count = 3
    draws: Annotated[int, Field(ge=0)] = 0  # no last selection: it would trade coverage for confidence


class Transfer(Config):
    """How the generator is tuned, and the metric behind the natural gradient."""

    steps: Count
    batch: Annotated[int, Field(ge=2)] = 32
    lr: Rate = 1e-3
    weight: Rate  # lambda of the entropy loss
    k: Count  # eigenvectors
    images: Count  # behind them
    eps_rel: Rate = 1e-3
    sigma: Rate = 1.0  # px, of the control that blurs


class Settings(Config):
    """Sizes of every part; `-y` overrides any field."""

    problems: tuple[Problem, ...]
    standing: str  # what the data are, for captions and verdicts
    psi: Rate
    transfer: Transfer
    memory: Memory
    baselines: Baselines | None
    students: dict[str, Net] = {}  # of LOMMA, which is GMI with the logit loss and these; none: no LOMMA
    seeds: Seeds
    probed_classes: Count  # attacked of defended targets, and of those that memorise more or less
    victims: dict[str, Net] = {}  # further architectures of targets, of the first problem
    weights: tuple[float, ...]  # of the frontier, seed 0
    lengths: tuple[int, ...]  # steps of further transfers with the natural gradient, seed 0
    cg_steps: Annotated[int, Field(ge=0)]  # of the transfers that compare `cg` with `nystrom`; 0: none
    factors: tuple[int, ...]  # times that reconstructions are repeated
    repeats: Annotated[int, Field(ge=2)]  # further seeds of one attack on one target
    projection_steps: Count
    seeds_defence: SomeSeeds
    smoothing: Rate  # gamma of the defences by smoothing
    private: Net  # what DP-SGD trains: its recipe suits no deep net
    noise: Rate  # sigma of DP-SGD
    clip: Rate  # C of DP-SGD
    fresh: Annotated[int, Field(ge=0)] = 0
    frames: Annotated[int, Field(ge=2)] = 2
    perceptual: Count  # private images per class of DDCS
    quality_images: Count  # of every kind behind a Fréchet distance
    reader_identities: Count
    reader_iterations: Count


STUDENTS = {"CNN": ("cnn", 12), "separable": ("separable", 24), "VGG-like": ("vggish", 8)}


def faces() -> Problem:
    """The DMMIA study's people, targets, evaluators and generator; auxiliary people are further ones."""
    base = searched()
    fields = {name: getattr(base, name) for name in type(base).model_fields}
    people = dict(modes=MODES, first=6000)
    changes = dict(
        auxiliary=Faces(identities=400, per_identity=5, **people),
        validation=Faces(identities=400, first=6400, per_identity=5, modes=MODES),
        candidates=48,
        samples=48,
        draws=0,
        epochs=20,
    )
    return Problem(**fields | changes)


def digits() -> Problem:
    """UCI digits: five private ones, a generator of the other five."""

    def uci(split: str, classes: tuple[int, ...] | None) -> UciDigits:
        return UciDigits(size=32, split=split, classes=classes)

    private, rest = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)
    prior = TrainStyleGAN2(
        public=uci("train", rest), base=16, gamma=0.05, steps=4500, noise=False, flip=False, adaptive=True, blur=2.0
    )
    changes = dict(
        name="UCI digits",
        train=uci("train", private),
        test=uci("test", private),
        classes=private,
        public_name="the other five digits",
        prior=prior,
        matched=None,
        shifted=None,
        further=None,
        judged_train=uci("train", None),
        judged_test=uci("test", None),
        reject=LatinSheet(symbols="letters", split="all", size=32, channels=1),
        target=net("mcnn", 16, 350, LIGHT),
        targets={},
        evaluators={
            "E1 IR": net("ir_small", 12, 350, STROKES),
            "E2 CNN 5x5": net("cnn5", 16, 350, STROKES),
            "E3 MLP": net("mlp", 192, 350, STROKES),
        },
        rejecting=net("ir_small", 8, 350, STROKES),
        faces=False,
        flip=False,
        auxiliary=uci("train", rest),
        validation=uci("test", rest),
        channels=1,
        pool=1000,
        candidates=40,
        samples=40,
    )
    return faces().model_copy(update=changes)


def _laptop() -> Settings:
    small = SEARCHES["laptop"]()
    return Settings(
        problems=(faces(), digits()),
        standing="stand-in data",
        psi=0.7,
        transfer=Transfer(steps=80, weight=10.0, k=256, images=16),
        memory=small.memory,
        baselines=small.baselines,
        students={n: net(a, w, 350).model_copy(update={"lr": 0.05}) for n, (a, w) in STUDENTS.items()},
        seeds=3,
        probed_classes=5,
        victims={"AlexNet-like": net("cnn5", 16, faces().target.iterations, FACES)},  # shallow, wide kernels
        weights=(1.0, 30.0),
        lengths=(40, 160),
        cg_steps=0,  # some hundred Hessian products an image and step
        factors=(1, 2, 5, 10, 20),
        repeats=3,
        projection_steps=12,
        seeds_defence=3,
        smoothing=0.02,
        private=net("cnn5", 16, 1500, FLIP).model_copy(update={"batch": 128}),
        noise=0.05,
        clip=10.0,
        perceptual=90,
        quality_images=1000,
        reader_identities=small.reader_identities,
        reader_iterations=small.reader_iterations,
    )


def _smoke() -> Settings:
    base, tiny = _laptop(), SEARCHES["smoke"]()
    (people,) = tiny.problems
    short = {"pool": 40, "candidates": 4, "samples": 4, "epochs": 2}
    same = ("train", "test", "classes", "prior", "judged_train", "judged_test", "target", "evaluators", "rejecting")
    small = faces().model_copy(
        update={name: getattr(people, name) for name in same}
        | short
        | {"auxiliary": Faces(identities=20, first=6000, per_identity=2, modes=MODES)}
        | {"validation": Faces(identities=20, first=6400, per_identity=2, modes=MODES)}
    )
    return base.model_copy(
        update={
            "problems": (small,),
            "standing": "smoke run: the numbers mean nothing",
            "transfer": base.transfer.model_copy(update={"steps": 3, "batch": 4, "k": 4, "images": 2}),
            "memory": tiny.memory,
            "baselines": tiny.baselines,
            "seeds": 1,
            "probed_classes": 2,
            "victims": {},
            "students": {},
            "weights": (0.3,),
            "lengths": (2,),
            "cg_steps": 2,
            "factors": (1, 2),
            "repeats": 2,
            "projection_steps": 2,
            "seeds_defence": 1,
            "private": net("cnn5", 4, 6, FLIP),
            "perceptual": 4,
            "quality_images": 40,
            "reader_identities": tiny.reader_identities,
            "reader_iterations": tiny.reader_iterations,
        }
    )


def _gpu() -> Settings:
    base, large = _laptop(), SEARCHES["gpu"]()
    people = large.problems[0]
    changes = dict(
        auxiliary=Faces(identities=6000, first=6000, per_identity=5, size=64, modes=MODES),
        validation=Faces(identities=2000, first=12_000, per_identity=5, size=64, modes=MODES),
        samples=people.candidates,
        draws=0,
    )
    wide = Problem(**{n: getattr(people, n) for n in type(people).model_fields} | changes)
    return base.model_copy(
        update={
            "problems": (wide, digits()),
            "standing": "procedural faces",
            "psi": large.psi,
            "memory": large.memory,
            "baselines": None,
            "students": {},
            "probed_classes": 50,
            "victims": {"AlexNet-like": net("cnn5", 64, 3000, FACES)},
            "transfer": base.transfer.model_copy(update={"steps": 5000, "images": 64}),
            "cg_steps": 20,
            "weights": (0.01, 0.03, 0.1, 0.3),
            "lengths": (1000, 2500, 10_000),
            "quality_images": 5000,
        }
    )


def _user(name: str, source: str, people: int) -> Problem:
    """A data set in the user's folder: `train` and `test` with a folder per class, at 256 px; the generator is ours."""

    def listed(split: str) -> Listed:
        return Listed(path=Path("ffhq/thumbnails256x256"), split=Path(f"ffhq/{split}.txt"), size=256, channels=3)

    train, test = (Folder(path=Path(source) / split, size=256, channels=3) for split in ("train", "test"))
    base = SEARCHES["gpu"]().problems[0]
    prior = TrainStyleGAN2(public=listed("public"), base=32, most=512, z_dim=512, w_dim=512, steps=200_000, gamma=1.0)
    changes = dict(
        name=name,
        train=train,
        test=test,
        classes=tuple(range(people)),
        public_name="FFHQ",
        prior=prior,
        shifted=None,
        judged_train=train,
        judged_test=test,
        reject=listed("reject"),
        auxiliary=listed("auxiliary"),
        validation=listed("validation"),
        faces=False,
        draws=0,
        samples=base.candidates,
    )
    return Problem(**{n: getattr(base, n) for n in type(base).model_fields} | changes)


def _paper() -> Settings:
    return _gpu().model_copy(
        update={
            "problems": (_user("UMDFaces", "umdfaces", 200), _user("Stanford Dogs", "stanford_dogs", 120)),
            "standing": "the paper's data",
            "seeds": 5,
            "transfer": _gpu().transfer.model_copy(update={"steps": 15_000}),
        }
    )


MAKERS = {"smoke": _smoke, "laptop": _laptop, "gpu": _gpu, "paper": _paper}

"""Problems (private classes, priors, classifiers) and sizes of the DMMIA study."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from mi_utils.data import AnySource, Faces, Folder, Listed, Parquet
from mi_utils.stage import Config
from mi_utils.studies.nets import FACES, FLIP, STROKES, STRONG, Net, net
from mi_utils.studies.plan import Seeds, SomeSeeds
from mi_utils.training.style_priors import FileStyleGAN2, StylePrior
from mi_utils.training.stylegan2 import ContinuedStyleGAN2, TrainStyleGAN2

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
MODES = ("glasses", "hat", "beard")


class Problem(Config):
    """One data set: private images, priors of public ones, targets and evaluators."""

    name: str
    train: AnySource
    test: AnySource
    classes: tuple[int, ...]  # attacked
    public_name: str
    prior: StylePrior
    matched: StylePrior | None = None  # trained as long as `shifted`, on the images of `prior`
    shifted: StylePrior | None = None  # of public images of another distribution
    further: StylePrior | None = None  # of another size: shown, not attacked with
    judged_train: AnySource  # what the evaluators learn
    judged_test: AnySource
    reject: AnySource  # "none of these" of the reject-class evaluator
    target: Net
    targets: dict[str, Net] = {}  # further architectures
    evaluators: dict[str, Net]
    rejecting: Net
    faces: bool = False  # whether the true factors of an identity are known
    flip: bool = True  # whether a mirror image shows the same class
    centre: Count | None = None  # px cropped from the generator's images
    pool: Count
    candidates: Count  # per class
    samples: Count  # kept of them
    epochs: Count
    lr: Rate
    draws: Count  # of the last selection


class Memory(Config):
    """DMMIA's own settings."""

    batch: Count
    n_w: Count
    rho: Count
    lam1: Annotated[float, Field(ge=0)] = 1.0
    lam2: Annotated[float, Field(ge=0)] = 1.0
    lam3: Rate = 1.0  # of the control with a plain diversity term
    tau: Rate = 0.1
    r: Annotated[float, Field(ge=0, le=1)] = 0.7
    lr: Rate  # of the mapping networks, before it is divided by the number of batches


class Baselines(Config):
    """GMI and KEDMI at the size of the study; iterations follow from equal compute."""

    width: Count
    gmi_steps: Count
    kedmi_steps: Count
    gmi_lr: Rate
    kedmi_lr: Rate
    gmi_weight: Rate = 100.0
    search_lr: Rate
    public: AnySource
    shifted: AnySource


class Settings(Config):
    """Sizes of every part; `-y` overrides any field.  Rates and truncation were chosen on identities 200 to 219."""

    problems: tuple[Problem, ...]
    standing: str  # what the data are, for captions and verdicts
    psi: Rate
    memory: Memory
    baselines: Baselines | None
    seeds: Seeds
    seeds_targets: SomeSeeds
    seeds_shift: SomeSeeds
    seeds_sweep: SomeSeeds  # of the options that a claim rests on; the others have seed 0 alone
    sweep_classes: Count  # attacked in the sweeps and with further targets
    n_w: tuple[int, ...]  # T4, `rho` in proportion
    rho: tuple[float, ...]  # share of positive prototypes
    r: tuple[float, ...]
    tau: tuple[float, ...]
    lam: tuple[float, ...]  # both weights
    fresh: Annotated[int, Field(ge=0)]  # images per class of new latents
    frames: Annotated[int, Field(ge=2)]
    perceptual: Annotated[int, Field(ge=0)]  # private images per class of DDCS
    quality_images: Count  # of every kind behind the priors' quality
    reader_identities: Count  # of the factor regressor
    reader_iterations: Count


def public(size: int = 32, factors: str = "plain", identities: int = 1000, views: int = 10) -> Faces:
    """Images of identities that are nobody's private ones."""
    return Faces(
        identities=identities, first=1000, per_identity=views, size=size, factors=factors, modes=MODES
    )  # fmt: skip


def _prior(images: Faces, steps: int) -> TrainStyleGAN2:
    """Narrow, and without noise inputs: they would imitate the faces' fine structure by speckles."""
    sharpness = {"noise": False, "blur": images.size / 16, "least_blur": 0.4}
    return TrainStyleGAN2(public=images, base=512 // images.size, gamma=0.1, steps=steps, **sharpness)


def _continued(start: TrainStyleGAN2, steps: int, **changes: object) -> ContinuedStyleGAN2:
    """More steps, a little sharper."""
    more = {"start": start, "steps": steps, "blur": 0.0, "least_blur": 0.3}
    return ContinuedStyleGAN2(**_fields(start) | more | changes)


def _long(start: TrainStyleGAN2, steps: int, **changes: object) -> ContinuedStyleGAN2:
    """More steps on four times as many people, with a long average and weak R1: chosen by FD to public images."""
    more = public(start.public.size, identities=4000)
    return _continued(start, steps, public=more, half_life=200_000, gamma=0.02, **changes)


def small_prior() -> ContinuedStyleGAN2:
    """The 32 px prior: 6,000 steps at the usual rate, then 6,000 and 8,500 at half of it."""
    return _long(_continued(_prior(public(), 6000), 6000, lr=1e-3), 8500, batch=64, lr=1e-3)


def large_prior() -> ContinuedStyleGAN2:
    """The 64 px prior: 4,000 steps of 64 images, then 6,000 of 32."""
    first = _prior(public(64, identities=4000), 4000).model_copy(update={"base": 16, "batch": 64, "gamma": 0.05})
    return _long(first, 6000, batch=32)


def _fields(prior: TrainStyleGAN2) -> dict[str, object]:
    return {name: getattr(prior, name) for name in TrainStyleGAN2.model_fields}


def faces(first: int = 0, identities: int = 20, scale: float = 1.0, attacked: int = 10) -> Problem:
    """Procedural identities whose glasses, hat and beard change from view to view.

    `first`: 0 are the people of the study; its settings were chosen on others.
    """
    people = dict(identities=identities, first=first, modes=MODES)
    test = Faces(**people, per_identity=50, split="test")
    n = int(500 * scale)
    return Problem(
        name="faces",
        train=Faces(**people, per_identity=90),
        test=test,
        classes=tuple(range(attacked)),
        public_name="other procedural identities",
        prior=small_prior(),
        matched=_prior(public(), 6000),
        shifted=_prior(public(factors="shifted"), 6000),
        further=large_prior(),
        # Evaluators learn from more images of the private people than the target: a judge should know them better.
        judged_train=Faces(**people, per_identity=min(400, 8000 // identities)),
        judged_test=test,
        reject=Faces(identities=1000, first=5000, per_identity=2, modes=MODES),
        target=net("ir_deep", 8, 3 * n, FACES),
        targets={
            "VGG16 (narrow)": net("vgg16", 8, 3 * n, FACES),
            "FaceNet64 (narrow)": net("ir_small", 8, 3 * n, FACES),
        },
        evaluators={
            "E1 IR": net("ir_small", 12, 4 * n, STROKES),
            "E2 CNN 5x5": net("cnn5", 20, 6 * n, STROKES),
            "E3 MCNN": net("mcnn", 12, 5 * n, STROKES),
        },
        rejecting=net("ir_small", 8, 4 * n, STROKES),
        faces=True,
        pool=2000,
        candidates=32,
        samples=8,  # a quarter of the candidates, as PPA keeps
        epochs=30,
        lr=0.01,
        draws=32,
    )


def _laptop() -> Settings:
    return Settings(
        problems=(faces(),),
        standing="stand-in data",
        psi=0.7,
        memory=Memory(batch=16, n_w=64, rho=32, lr=0.3),
        baselines=Baselines(
            width=24,
            gmi_steps=4000,
            kedmi_steps=2000,
            gmi_lr=1e-3,
            kedmi_lr=5e-4,
            search_lr=0.02,
            public=Faces(identities=1000, first=1000, per_identity=4),
            shifted=Faces(identities=1000, first=1000, per_identity=4, factors="shifted"),
        ),
        seeds=3,
        seeds_targets=3,
        seeds_shift=3,
        seeds_sweep=3,
        sweep_classes=5,
        n_w=(8,),
        rho=(0.125, 0.875),
        r=(0.0, 0.99),
        tau=(1.0,),
        lam=(0.1,),
        fresh=16,
        frames=7,
        perceptual=50,
        quality_images=2000,
        reader_identities=20_000,
        reader_iterations=6000,
    )


def _smoke() -> Settings:
    base = _laptop()
    small = faces(identities=4, scale=0.02, attacked=2)
    short = {"steps": 3, "batch": 4}

    def tiny(prior: TrainStyleGAN2, **changes: object) -> TrainStyleGAN2:
        """Three steps on few people: drawing all of them would take longer than the rest."""
        return prior.model_copy(update=short | {"public": prior.public.model_copy(update={"identities": 40})} | changes)

    priors = {n: tiny(getattr(small, n)) for n in ("matched", "shifted")}
    priors |= {"prior": tiny(small.prior.start, start=priors["matched"]), "further": tiny(small.further.start)}
    problem = small.model_copy(update=priors | {"pool": 40, "candidates": 6, "samples": 4, "epochs": 3, "draws": 2})
    return base.model_copy(
        update={
            "problems": (problem,),
            "standing": "smoke run: the numbers mean nothing",
            "memory": base.memory.model_copy(update={"batch": 3, "n_w": 8, "rho": 4}),
            "baselines": base.baselines.model_copy(update={"gmi_steps": 3, "kedmi_steps": 3}),
            "seeds": 1,
            "seeds_targets": 1,
            "seeds_shift": 1,
            "seeds_sweep": 1,
            "sweep_classes": 2,
            "n_w": (4,),
            "rho": (0.25,),
            "r": (0.0,),
            "lam": (),
            "fresh": 4,
            "frames": 3,
            "perceptual": 4,
            "quality_images": 40,
            "reader_identities": 30,
            "reader_iterations": 3,
        }
    )


def _full(architecture: str, width: int, iterations: int) -> Net:
    return net(architecture, width, iterations, FACES).model_copy(update={"batch": 128})


FULL = {"candidates": 200, "samples": 50, "epochs": 70, "lr": 0.005, "draws": 100}  # PPA's


def _wide_faces() -> Problem:
    """Full width and size: 100 identities at 64 px."""
    people = dict(identities=100, modes=MODES, size=64)
    test = Faces(**people, per_identity=30, split="test")
    priors = {
        n: TrainStyleGAN2(
            public=public(64, f, views=40), base=64, most=512, z_dim=512, w_dim=512, steps=25_000, gamma=0.2
        )
        for n, f in (("prior", "plain"), ("shifted", "shifted"))
    }
    changes = dict(
        name="faces, 64 px",
        train=Faces(**people, per_identity=90),
        test=test,
        classes=tuple(range(50)),
        further=None,
        matched=None,
        judged_train=Faces(**people, per_identity=400),
        judged_test=test,
        reject=Faces(identities=1000, first=5000, per_identity=4, modes=MODES, size=64),
        target=_full("ir152", 64, 3000),
        targets={"VGG16": _full("vgg16", 64, 3000), "FaceNet64": _full("ir50", 64, 3000)},
        evaluators={
            "E1 ResNet-18": _full("resnet18", 64, 4000),
            "E2 CNN 5x5": _full("cnn5", 48, 6000),
            "E3 DLA": _full("dla", 16, 4000),
        },
        rejecting=_full("cnn5", 40, 6000),
        pool=5000,
    )
    return faces().model_copy(update=changes | priors | FULL)


def _cifar() -> Problem:
    """CIFAR-10: five private classes, the generator's images are the other five."""

    def images(split: str, classes: tuple[int, ...]) -> AnySource:
        return Parquet(size=32, split=split, classes=classes)

    private, rest = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)
    strong = {"augmentation": STRONG, "batch": 128}
    evaluators = {"E1 ResNet-18": ("resnet18", 64), "E2 CNN 5x5": ("cnn5", 48), "E3 DLA": ("dla", 16)}
    changes = dict(
        name="CIFAR-10",
        train=images("train", private),
        test=images("test", private),
        classes=private,
        public_name="the other five classes",
        prior=TrainStyleGAN2(
            public=images("train", rest), base=64, most=256, z_dim=256, w_dim=256, steps=30_000, gamma=0.01
        ),
        shifted=None,
        further=None,
        matched=None,
        judged_train=images("train", private),
        judged_test=images("test", private),
        reject=images("train", rest),
        target=net("cnn", 48, 4000, FLIP).model_copy(update={"batch": 128}),
        targets={},
        evaluators={n: net(a, w, 8000).model_copy(update=strong) for n, (a, w) in evaluators.items()},
        rejecting=net("cnn5", 40, 8000).model_copy(update=strong),
        faces=False,
        pool=5000,
    )
    return faces().model_copy(update=changes | FULL)


def _gpu() -> Settings:
    base = _laptop()
    return base.model_copy(
        update={
            "problems": (_wide_faces(), _cifar()),
            "standing": "procedural faces; CIFAR-10 (re-coded) real",
            "psi": 0.5,
            "memory": base.memory.model_copy(update={"batch": 25, "n_w": 800, "rho": 400, "lr": 0.005}),
            "baselines": None,
            "n_w": (8, 64),
            "r": (0.0, 0.5, 0.9, 0.99),
            "lam": (0.01, 0.1),
            "fresh": 50,
        }
    )


def _generator(name: str) -> FileStyleGAN2:
    return FileStyleGAN2(path=Path("stylegan2") / f"{name}.pkl", size=1024 if "afhq" not in name else 512)


def _user(name: str, source: str, prior: str, shifted: str | None, people: int, **changes: object) -> Problem:
    """A data set in the user's folder: `train` and `test` with a folder per class, at 224 px."""
    train, test = (Folder(path=Path(source) / split, size=224, channels=3) for split in ("train", "test"))
    fields = dict(
        name=name,
        train=train,
        test=test,
        classes=tuple(range(people)),
        public_name=prior,
        prior=_generator(prior),
        shifted=_generator(shifted) if shifted else None,
        further=None,
        matched=None,
        judged_train=train,
        judged_test=test,
        reject=Listed(path=Path("ffhq/thumbnails128x128"), split=Path("ffhq/public.txt"), size=224, channels=3),
        target=_full("ir152", 64, 20_000),
        targets={"VGG16": _full("vgg16", 64, 20_000)},
        evaluators={
            "E1 ResNet-18": _full("resnet18", 64, 30_000),
            "E2 CNN 5x5": _full("cnn5", 64, 30_000),
            "E3 DLA": _full("dla", 16, 30_000),
        },
        rejecting=_full("cnn5", 48, 30_000),
        faces=False,
        centre=800,
        pool=5000,
    )
    return faces().model_copy(update=FULL | fields | changes)


def _paper() -> Settings:
    dogs = dict(epochs=100, lr=0.01, pool=2000, centre=None)
    return _gpu().model_copy(
        update={
            "problems": (
                _user("CelebA", "celeba_identities", "ffhq", "metfaces", 1000),
                _user("FaceScrub", "facescrub", "ffhq", "metfaces", 530, pool=2000, epochs=50),
                _user("Stanford Dogs", "stanford_dogs", "afhqdog", None, 120, **dogs | {"centre": 512}),
            ),
            "standing": "the paper's data",
            "seeds": 5,
            "seeds_targets": 3,
            "seeds_shift": 3,
            "seeds_sweep": 1,
            "sweep_classes": 50,
        }
    )


MAKERS = {"smoke": _smoke, "laptop": _laptop, "gpu": _gpu, "paper": _paper}

"""CONFIG.yaml: what the owner of a classifier says of it, checked before anything is computed."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, FiniteFloat, field_validator, model_validator

from mi_utils.data.images import Folder
from mi_utils.errors import UserError
from mi_utils.models.external import ExternalClassifier
from mi_utils.stage import Config
from mi_utils.your_model.exported import ExportedClassifier
from mi_utils.your_model.tree import ImageTree

Attack = Literal["pixels", "patch-mi", "gmi", "kedmi", "ppa"]
ATTACKS: tuple[Attack, ...] = ("pixels", "kedmi", "gmi", "patch-mi", "ppa")  # in the order in which the budget is spent
MOST_CLASSES = 20  # attacked where `attack_classes` does not say which


class Model(Config):
    """The classifier's file: `arch` and `weights`, or an exported `program` that is `trusted`."""

    arch: str | None = None
    weights: Path | None = None
    program: Path | None = None
    trusted: bool = False
    reject: bool = False  # one output more than classes, the last, means "none of these"

    @model_validator(mode="after")
    def _one_kind(self) -> "Model":
        given = [name for name in ("arch", "weights", "program") if getattr(self, name) is not None]
        if given not in (["arch", "weights"], ["program"]):
            raise UserError(
                f"expected arch and weights, or program alone, found {' and '.join(given) or 'none'}; name an "
                "architecture of torchvision or timm/<name> with its weights, or a .pt2 file"
            )
        return self


class Preprocessing(Config):
    """What the classifier reads: px a side, colours, mean and std on the [0, 1] scale (neither: it reads [-1, 1])."""

    size: Annotated[int, Field(ge=4, le=1024)]
    channels: Literal[1, 3] = 3
    mean: tuple[FiniteFloat, ...] | None = None
    std: tuple[FiniteFloat, ...] | None = None


class Settings(Config):
    """One audit.  Paths are relative to the file.

    classes: their names in the order of the outputs, or how many.  auxiliary: a folder of public images, in any
    subfolders.  private, holdout: one subfolder a class, with images that the classifier has learnt from, and has not.
    prior: for the attack ppa, faces-32, faces-64, faces-32-shifted or the file of a StyleGAN2.  minutes: of the whole
    audit.  samples: reconstructions a class and seed.  resize: images of mixed sizes are meant.
    """

    model: Model
    classes: tuple[str, ...] | Annotated[int, Field(ge=2)]
    preprocessing: Preprocessing
    auxiliary: Path
    private: Path | None = None
    holdout: Path | None = None
    prior: str | None = None
    minutes: Annotated[FiniteFloat, Field(gt=0)] = 15.0
    attacks: Annotated[tuple[Attack, ...], Field(min_length=1)] | None = None
    attack_classes: Annotated[tuple[str | int, ...], Field(min_length=1)] | None = None
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    samples: Annotated[int, Field(ge=2)] = 8
    resize: bool = False
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None

    @field_validator("classes", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return tuple(str(name) for name in value) if isinstance(value, list | tuple) else value

    @field_validator("classes")
    @classmethod
    def _different(cls, value: tuple[str, ...] | int) -> tuple[str, ...] | int:
        if not isinstance(value, int):
            twice = next((name for name in value if value.count(name) > 1), None)
            if twice is not None or len(value) < 2:
                raise ValueError("expected at least 2 different names" + (f" ({twice!r} is there twice)" * bool(twice)))
        return value

    @field_validator("seeds", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _together(self) -> "Settings":
        if self.holdout is not None and self.private is None:
            raise UserError("holdout: it is compared with private images, found none; give `private` too")
        if self.attacks is not None and "ppa" in self.attacks and self.prior is None:
            raise UserError("prior: the attack ppa searches a generator, found none; give `prior`")
        if len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds: expected each once, found {list(self.seeds)}")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all classes, in the order of the outputs."""
        return tuple(str(i) for i in range(self.classes)) if isinstance(self.classes, int) else self.classes

    @property
    def attacked(self) -> tuple[int, ...]:
        """Outputs of the attacked classes; UserError for a class that there is not."""
        if self.attack_classes is None:
            return tuple(range(min(len(self.names), MOST_CLASSES)))
        known = {name: i for i, name in enumerate(self.names)}
        strangers = [name for name in self.attack_classes if str(name) not in known]
        if strangers:
            raise UserError(
                f"attack_classes: expected names of `classes` ({', '.join(self.names[:5])}, ...), found "
                f"{', '.join(map(repr, strangers[:3]))}; correct them"
            )
        return tuple(sorted({known[str(name)] for name in self.attack_classes}))

    @property
    def wanted(self) -> tuple[Attack, ...]:
        """The attacks that may be run, in the order in which the budget is spent on them."""
        asked = self.attacks or tuple(a for a in ATTACKS if a != "ppa" or self.prior is not None)
        return tuple(a for a in ATTACKS if a in asked)

    def classifier(self) -> ExternalClassifier:
        """The recipe of the classifier."""
        fields = {**dict(self.preprocessing), "classes": len(self.names), "reject": self.model.reject}
        if self.model.program is not None:
            return ExportedClassifier(weights=self.model.program, trusted=self.model.trusted, **fields)
        return ExternalClassifier(arch=self.model.arch, weights=self.model.weights, **fields)

    def tree(self, side: int) -> ImageTree:
        """The auxiliary images at `side` px."""
        return ImageTree(path=self.auxiliary, size=side, channels=self.preprocessing.channels)

    def folder(self, field: Literal["private", "holdout"], side: int) -> Folder:
        """Private or held-out images at `side` px."""
        return Folder(path=getattr(self, field), size=side, channels=self.preprocessing.channels)


def read(path: Path | str) -> Settings:
    """The settings of a file, with absolute paths; UserError, in one line that names the file, for what is wrong."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"CONFIG: expected a YAML file, found none at {path}; see docs/your_model.md for its fields")
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        said = " ".join(str(problem).split())
        raise UserError(f"{path}: expected YAML, but it cannot be read ({said})") from None
    if not isinstance(fields, dict) or not all(isinstance(name, str) for name in fields):
        raise UserError(f"{path}: expected a YAML mapping of fields, found {type(fields).__name__}; see "
                        "docs/your_model.md")  # fmt: skip
    try:
        settings = Settings(**fields)
        return _absolute(settings, path.absolute().parent)
    except UserError as problem:
        raise UserError(f"{path.name}: {str(problem).replace('Settings.', '', 1)}") from None


def _absolute(settings: Settings, base: Path) -> Settings:
    """Every path from the folder of the file."""
    model = {n: base / p for n in ("weights", "program") if (p := getattr(settings.model, n)) is not None}
    sets = {n: base / p for n in ("auxiliary", "private", "holdout") if (p := getattr(settings, n)) is not None}
    prior = settings.prior
    if prior is not None and not prior.startswith("faces-"):
        prior = str(base / prior)
    return settings.model_copy(update={"model": settings.model.model_copy(update=model), "prior": prior, **sets})

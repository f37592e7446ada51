"""Everything that an audit is given, read and checked against each other before the first computation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from mi_utils.audit import priors
from mi_utils.audit.request import Request
from mi_utils.data.images import Folder, to_float
from mi_utils.errors import UserError
from mi_utils.models.external import External, ExternalClassifier
from mi_utils.scoring.inputs import Labelled
from mi_utils.training.style_priors import StylePrior
from mi_utils.your_model.config import Settings
from mi_utils.your_model.tree import check_sizes

LEAST_AUXILIARY = 64


@dataclass(frozen=True)
class Given:
    """The checked inputs.

    side: px at which attacks work and images are compared.  auxiliary (N, C, side, side).  private, holdout: with the
    classifier's own class ids.  told: what was done to the images.  named_right: share of the private images.
    """

    settings: Settings
    recipe: ExternalClassifier
    network: External
    side: int
    auxiliary: UInt8[Tensor, "n c s s"]
    private: Labelled | None
    holdout: Labelled | None
    prior: StylePrior | None
    told: tuple[str, ...]
    named_right: float | None


def working_side(size: int) -> int:
    """px a side at which attacks work: the GANs make images of 32 or 64 px, which the preprocessing resizes."""
    return 32 if size < 64 else 64


def check(settings: Settings, device: torch.device) -> Given:
    """Files, shapes and names; UserError in one line for the first that is wrong."""
    recipe, attacked = settings.classifier(), settings.attacked
    network = recipe.load(device)
    side = working_side(settings.preprocessing.size)
    told = _sizes(settings, side)
    auxiliary = settings.tree(side).load().images
    if len(auxiliary) < LEAST_AUXILIARY:
        raise UserError(
            f"auxiliary: expected at least {LEAST_AUXILIARY} images, found {len(auxiliary)} in {settings.auxiliary}; "
            "give more of them"
        )
    private = _labelled(settings, "private", side, attacked) if settings.private else None
    holdout = _labelled(settings, "holdout", side, attacked) if settings.holdout else None
    for name, found in (("private", private), ("holdout", holdout)):
        if found is not None:
            _check_apart(auxiliary, found, "auxiliary", name)
    if private is not None and holdout is not None:
        _check_apart(holdout.images, private, "holdout", "private")
    right = None if private is None else _named_right(network, private, settings, device)
    _check_finite(network, auxiliary[:16], device)
    prior = _prior(settings) if "ppa" in settings.wanted else None
    return Given(settings, recipe, network, side, auxiliary, private, holdout, prior, told, right)


def _sizes(settings: Settings, side: int) -> tuple[str, ...]:
    """What becomes of the files' sizes, in words; UserError for mixed ones that are not meant."""
    told = []
    for name in ("auxiliary", "private", "holdout"):
        path = getattr(settings, name)
        if path is None:
            continue
        files = settings.tree(side).files() if name == "auxiliary" else _files(settings.folder(name, side), name)
        width, height = check_sizes(files, name, settings.resize)
        if settings.resize or (width, height) != (side, side):
            told.append(f"{name}: {len(files):,} images, of each the central square at {side}×{side} px")
    size = settings.preprocessing.size
    if size != side:
        told.append(f"attacks work at {side}×{side} px, which the preprocessing resizes to {size}×{size} px")
    return tuple(told)


def _files(folder: Folder, name: str) -> list[Path]:
    """The files of a folder by class, its errors under the name of the field."""
    try:
        listing, _ = folder.listing()
    except UserError as problem:
        raise UserError(str(problem).replace("path:", f"{name}:", 1).replace("; a relative path starts at MI_DATA", "")
                        ) from None  # fmt: skip
    return [path for found in listing for path in found]


def _labelled(settings: Settings, name: str, side: int, attacked: Sequence[int]) -> Labelled:
    """The images of the attacked classes with the classifier's class ids; UserError for names it does not have."""
    folder = settings.folder(name, side)
    listing, found = folder.listing()
    ids = _ids(found, settings.names, name)
    loaded = folder.load()
    labels = torch.tensor(ids)[loaded.labels]
    lacking = [settings.names[c] for c in attacked if not bool((labels == c).any())]
    if lacking:
        raise UserError(
            f"{name}: expected images of every attacked class, found none of {', '.join(map(repr, lacking[:3]))}; add "
            "them or name others in attack_classes"
        )
    files = tuple(path.relative_to(folder.path).as_posix() for part in listing for path in part)
    whole = Labelled(loaded.images, labels, dict(enumerate(settings.names)), f"the {name} images", files)
    return whole.take(torch.isin(labels, torch.tensor(attacked)).nonzero().squeeze(1))


def _ids(found: Sequence[str], names: Sequence[str], field: str) -> list[int]:
    """Outputs of the class folders: by name, numbers with or without leading zeros."""
    known = {name: i for i, name in enumerate(names)}
    known |= {str(int(name)): i for name, i in known.items() if name.isdecimal()}
    plain = [str(int(name)) if name.isdecimal() and name not in known else name for name in found]
    strangers = [name for name, key in zip(found, plain, strict=True) if key not in known]
    if strangers:
        raise UserError(
            f"{field}: expected subfolders named as `classes` ({', '.join(names[:5])}{', ...' * (len(names) > 5)}), "
            f"found {len(strangers)} others: {', '.join(map(repr, strangers[:3]))}; rename them"
        )
    return [known[key] for key in plain]


def _check_apart(public: Tensor, found: Labelled, one: str, other: str) -> None:
    """UserError where an image is in both sets: the attacker would be given what it should find."""
    seen = {row.tobytes() for row in public.flatten(1).numpy()}
    twice = [i for i, row in enumerate(found.images.flatten(1).numpy()) if row.tobytes() in seen]
    if twice:
        raise UserError(
            f"{one}: expected none of the {other} images, found {len(twice)} of them, such as {found.files[twice[0]]}; "
            "remove them"
        )


@torch.no_grad()
def logits(network: External, images: UInt8[Tensor, "n c s s"], device: torch.device) -> Tensor:
    """What the classifier says (n, k), on the CPU."""
    return torch.cat([network(to_float(part.to(device))).float().cpu() for part in images.split(256)])


def _named_right(network: External, private: Labelled, settings: Settings, device: torch.device) -> float:
    """Share of private images that the classifier names right; UserError where that is no more than chance."""
    said: Int[Tensor, " n"] = logits(network, private.images, device).argmax(1)
    share = float((said == private.labels).double().mean())
    if share <= 1 / len(settings.names):
        raise UserError(
            f"private: expected the images that the classifier learnt from, found {share:.1%} of them named right "
            f"(chance: {1 / len(settings.names):.1%}); check the order of `classes`, mean, std and size"
        )
    return share


def _check_finite(network: External, images: Tensor, device: torch.device) -> None:
    """UserError where the classifier answers NaN."""
    if not bool(torch.isfinite(logits(network, images, device)).all()):
        raise UserError("model: expected finite logits of auxiliary images, found NaN or infinite; check the weights")


def _prior(settings: Settings) -> StylePrior:
    """The generator of the attack ppa."""
    prior = priors.generator_of(Request([], prior=settings.prior))
    channels = prior.facts()["channels"]
    if channels != settings.preprocessing.channels:
        raise UserError(
            f"prior: expected a generator of {settings.preprocessing.channels} colours as the classifier reads, found "
            f"{channels}; name another"
        )
    return prior

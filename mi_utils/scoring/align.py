"""One list of class ids, one size and one number of channels for everything that is compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from mi_utils.data.images import resized
from mi_utils.errors import UserError
from mi_utils.metrics import references
from mi_utils.scoring.inputs import Labelled

REAL = ("holdout", "test")  # other images of the private classes; the labels of prior and public ones are not read


@dataclass(frozen=True)
class Sets:
    """Everything that is scored, aligned.

    seeds: the reconstructions of every attack seed.  private: the private images of the attacked classes, each
    picture once; `rows` (N,) are their places in what was given.  others: holdout, prior, public and test, where
    given.  classes: id -> name of the attacked classes.  notes: what was done to the data, for people.
    """

    seeds: tuple[Labelled, ...]
    private: Labelled
    rows: Int[Tensor, " n"]
    others: Mapping[str, Labelled]
    classes: dict[int, str]
    notes: tuple[str, ...]

    @property
    def labels(self) -> list[Tensor]:
        """Class ids of every seed's reconstructions."""
        return [seed.labels for seed in self.seeds]


def align(
    seeds: Sequence[Labelled], private: Labelled, others: Mapping[str, Labelled], size: int | None, least_side: int
) -> Sets:
    """The sets made comparable.  UserError for classes without private images, mixed sizes, images too small."""
    known = names_of(private)
    seeds = [with_ids(found, known, strict=True) for found in seeds]
    _check_known(seeds, known, private)
    attacked = torch.cat([found.labels for found in seeds]).unique()
    others = {name: _attacked(name, found, known, attacked) for name, found in others.items()}
    rows = torch.isin(private.labels, attacked).nonzero().squeeze(1)
    notes = _notes([*seeds, private, *others.values()], known)
    if len(rows) < len(private):
        notes.append(f"{len(private) - len(rows)} private images of classes that are not attacked are left out")
    everyone, said = _uniform({"private": private.take(rows), **_numbered(seeds), **others}, size, least_side)
    kept = references.distinct(everyone["private"].images)
    if len(kept) < len(rows):
        notes.append(f"{len(rows) - len(kept)} private images are pixel-equal to an earlier one and left out")
        _check_kept(private.labels[rows[kept]], attacked)
    return Sets(
        seeds=tuple(everyone[name] for name in _numbered(seeds)),
        private=everyone["private"].take(kept),
        rows=rows[kept],
        others={name: everyone[name] for name in others},
        classes={c: known[c] for c in attacked.tolist()},
        notes=(*notes, *said),
    )


def _attacked(name: str, found: Labelled, known: Mapping[int, str], attacked: Int[Tensor, " k"]) -> Labelled:
    """Real images of the attacked classes; prior and public images whole, as their labels mean other classes."""
    if name not in REAL:
        return replace(found, labels=None)
    found = with_ids(found, known, strict=False)
    found = found.take(torch.isin(found.labels, attacked).nonzero().squeeze(1))
    if not len(found):
        raise UserError(f"{name}: expected images of the attacked classes, found none in {found.typed}; check its ids")
    return found


def _numbered(seeds: Sequence[Labelled]) -> dict[str, Labelled]:
    return {f"reconstructions, seed {i}": found for i, found in enumerate(seeds)}


def names_of(private: Labelled) -> dict[int, str]:
    """Class id -> name of every class that has private images."""
    return {c: (private.names or {}).get(c, str(c)) for c in private.labels.unique().tolist()}


def with_ids(found: Labelled, known: Mapping[int, str], *, strict: bool) -> Labelled:
    """The set with the private set's class ids: by name, else by the number that a name is; plain ids stay.

    Classes of other names are a UserError where `strict`, and otherwise dropped.
    """
    if found.names is None:
        return found
    by_name = {name: c for c, name in known.items()}
    own = {old: found.names[old] for old in found.labels.unique().tolist()}
    ids = {old: by_name.get(name, int(name) if name.isdecimal() else -1) for old, name in own.items()}
    strangers = [old for old, c in ids.items() if c < 0]
    if strict and strangers:
        shown = ", ".join(repr(own[c]) for c in strangers[:3])
        some = ", ".join(list(by_name)[:5]) + (", ..." if len(by_name) > 5 else "")
        raise UserError(
            f"{found.typed}: expected classes named as those of PRIVATE ({some}), found {len(strangers)} others: "
            f"{shown}; rename or remove them"
        )
    labels = torch.tensor([ids[c] for c in found.labels.tolist()], dtype=torch.int64)
    return replace(found, labels=labels).take((labels >= 0).nonzero().squeeze(1))


def _check_known(seeds: Sequence[Labelled], known: Mapping[int, str], private: Labelled) -> None:
    """UserError naming the classes that are reconstructed and have no private image."""
    labels = torch.cat([found.labels for found in seeds])
    missing = [c for c in labels.unique().tolist() if c not in known]
    if missing:
        shown = ", ".join(f"{c} ({int((labels == c).sum())} reconstructions)" for c in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(
            f"RECONSTRUCTIONS: expected classes of {private.typed}, found {len(missing)} of "
            f"{len(labels.unique())} without private images: {shown}{more}; add those images or drop those classes"
        )


def _check_kept(labels: Int[Tensor, " n"], attacked: Int[Tensor, " k"]) -> None:
    """UserError where a class has nothing but copies of other classes' images."""
    lost = attacked[~torch.isin(attacked, labels)].tolist()
    if lost:
        raise UserError(f"private: expected images of its own for class {lost[0]}, found copies of another's; mend it")


def _notes(sets: Sequence[Labelled], known: Mapping[int, str]) -> list[str]:
    """What was read as what."""
    took = {found.typed: found.took for found in sets if found.took != "uint8"}
    notes = [f"{typed}: pixels read as {range_}" for typed, range_ in took.items()]
    plain = any(found.names is None and found.labels is not None for found in sets)
    if plain and any(name != str(c) for c, name in known.items()):
        some = ", ".join(f"{c} = {name}" for c, name in list(known.items())[:3])
        notes.append(f"class ids without names count the private classes in order: {some}, ...")
    return notes


def _uniform(sets: Mapping[str, Labelled], size: int | None, least_side: int) -> tuple[dict[str, Labelled], list[str]]:
    """All sets in one size and one number of channels, and what had to be changed for it."""
    shapes = {name: tuple(found.images.shape[2:]) for name, found in sets.items()}
    _check_sizes(shapes, size, least_side)
    changed = [name for name, shape in shapes.items() if size is not None and shape != (size, size)]
    sized = {n: _square(found, size) if n in changed else found for n, found in sets.items()}
    notes = [f"resized to {size}×{size} px: {', '.join(changed)}"] if changed else []
    grey = [name for name, found in sized.items() if is_grey(found.images)]
    if len(grey) == len(sized):
        return {n: replace(f, images=f.images[:, :1].contiguous()) for n, f in sized.items()}, notes
    if grey:
        notes.append(f"grey, repeated over three channels: {', '.join(grey)}")
    return {n: replace(f, images=f.images.expand(-1, 3, -1, -1).contiguous()) for n, f in sized.items()}, notes


def _check_sizes(shapes: Mapping[str, tuple[int, int]], size: int | None, least_side: int) -> None:
    """UserError for mixed sizes where none was chosen, and for images too small for the perceptual networks."""
    height, width = shapes["private"]
    if size is None and len(set(shapes.values())) > 1:
        shown = ", ".join(f"{name} {w}×{h}" for name, (h, w) in shapes.items() if (h, w) != (height, width))
        raise UserError(
            f"size: expected private images' {width}×{height} px, found {shown}; add --size {min(height, width)}"
        )
    if (size or min(height, width)) < least_side:
        found = f"{size}×{size}" if size else f"{width}×{height}"
        raise UserError(
            f"size: the perceptual networks need {least_side} px a side, found {found}; add --size {least_side}"
        )


def _square(found: Labelled, size: int) -> Labelled:
    """The central square in size × size px, so that nothing is stretched."""
    height, width = found.images.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return replace(found, images=resized(found.images[:, :, top : top + side, left : left + side], size))


def is_grey(images: UInt8[Tensor, "n c h w"]) -> bool:
    """Whether colour says nothing: one channel, or equal ones in every pixel."""
    return images.shape[1] == 1 or bool((images[:, 1:] == images[:, :1]).all())

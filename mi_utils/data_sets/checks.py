"""`python -m mi_utils data check`: what of the real data sets lies where it should."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mi_utils.data.images import IGNORED_FILES, data_root
from mi_utils.data.listed import Listed
from mi_utils.data_sets.registry import DATA_SETS, DataSet, Need
from mi_utils.errors import UserError

SHOWN = 3  # missing things named, at most


@dataclass(frozen=True)
class Checked:
    """One data set and what it lacks, in words; nothing where it is complete."""

    data_set: DataSet
    lacks: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether everything is there."""
        return not self.lacks

    @property
    def absent(self) -> bool:
        """Whether nothing at all is there."""
        return len(self.lacks) == len(self.data_set.needs)


def checked(names: Sequence[str] = ()) -> list[Checked]:
    """The named data sets, all of them for none; UserError for an unknown name."""
    known = {one.name: one for one in DATA_SETS}
    strangers = [name for name in names if name not in known]
    if strangers:
        raise UserError(f"NAME: expected one of {', '.join(known)}, found {strangers[0]!r}")
    root = data_root()
    wanted = [known[name] for name in names] or DATA_SETS
    return [Checked(one, tuple(said for need in one.needs if (said := lack(need, root)))) for one in wanted]


def lack(need: Need, root: Path) -> str:
    """What is wrong with one need, "" where nothing is."""
    path = root / need.path
    match need.kind:
        case "file":
            if not path.is_file():
                return f"no file {need.path}"
            return "" if path.stat().st_size else f"{need.path} is empty"
        case "parquet":
            found = len(list(root.glob(need.path)))
            return "" if found >= need.least else f"no file {need.path}"
        case "images":
            return _too_few(need, len(_inside(path)), "files") if path.is_dir() else f"no folder {need.path}"
        case "classes":
            return _classes(need, path)
        case "list":
            return _listed(need, root)


def _inside(folder: Path) -> list[Path]:
    """What a folder holds, but for files that systems leave there."""
    return [p for p in folder.iterdir() if p.name[0] != "." and p.name.lower() not in IGNORED_FILES]


def _too_few(need: Need, found: int, what: str) -> str:
    return "" if found >= need.least else f"{need.path}: {found:,} of {need.least:,} {what}"


def _classes(need: Need, path: Path) -> str:
    """A folder of class folders."""
    if not path.is_dir():
        return f"no folder {need.path}"
    folders = [p for p in _inside(path) if p.is_dir()]
    empty = sorted(p.name for p in folders if not _inside(p))
    if empty:
        return f"{need.path}: {len(empty)} subfolders without images, such as {empty[0]}"
    return _too_few(need, len(folders), "class folders")


def _listed(need: Need, root: Path) -> str:
    """A list of files, read as the studies read it."""
    if not (root / need.path).is_file():
        return f"no list {need.path}"
    if not (root / need.of).is_dir():
        return f"{need.path}: its images' folder {need.of} is missing"
    try:
        Listed(path=Path(need.of), split=Path(need.path)).files()
    except UserError as problem:
        return str(problem).replace(f"{root}/", "")
    return ""


def text(found: Sequence[Checked]) -> str:
    """A few lines a data set."""
    lines = [f"data sets in {data_root()} (MI_DATA)", ""]
    for one in found:
        state = "complete" if one.complete else "not there" if one.absent else "incomplete"
        readers = ", ".join(f"{paper} at {profile}" for paper, profile in one.data_set.profiles)
        lines.append(f"{one.data_set.name:20}{state:12}{one.data_set.title}; read by {readers}")
        lines += [f"    missing: {said}" for said in one.lacks[:SHOWN]]
        lines += [f"    and {len(one.lacks) - SHOWN} more"] if len(one.lacks) > SHOWN else []
        if not one.complete:
            lines.append(f"    get it:  {one.data_set.source}")
            lines.append(f"    terms:   {one.data_set.licence}")
            lines += [f"    then:    {one.data_set.hint}"] if one.data_set.hint else []
    lines += ["", f"{sum(one.complete for one in found)} of {len(found)} complete; smoke and laptop need none of them"]
    return "\n".join(lines)

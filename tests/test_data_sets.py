"""The registry of real data sets: as the studies read them, as the page says, and checked file by file."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pydantic
import pytest

from mi_utils import __main__ as cli
from mi_utils import studies
from mi_utils.data import Folder, Listed, Parquet, Torchvision
from mi_utils.data.images import KNOWN
from mi_utils.data_sets import checks, page
from mi_utils.data_sets.registry import DATA_SETS, DataSet, Need
from mi_utils.errors import UserError
from mi_utils.training.style_priors import FileStyleGAN2

DOCS = Path(__file__).resolve().parents[1] / "docs"
NAMED = {one.name: one for one in DATA_SETS}


def configs(value: object) -> Iterator[pydantic.BaseModel]:
    """Every config inside a value."""
    if isinstance(value, pydantic.BaseModel):
        yield value
        value = [getattr(value, name) for name in type(value).model_fields]
    elif isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from configs(item)


def read_by(value: object) -> set[str]:
    """Everything under the data root that the sources of a study's settings read."""
    found = set()
    for config in configs(value):
        match config:
            case Torchvision():
                known = KNOWN[config.name]
                found |= {f"{known.folder}/{file}" for file in getattr(known, config.split)}
            case Listed():
                found |= {config.path.as_posix(), config.split.as_posix()}
            case Folder() | FileStyleGAN2():
                found.add(config.path.as_posix())
            case Parquet():
                found.add(config.path.as_posix().replace("{split}", config.split))
    return found


@pytest.mark.parametrize("profile", cli.PROFILES)
@pytest.mark.parametrize("paper", studies.PAPERS)
def test_the_registry_names_what_a_profile_reads_and_nothing_else(paper: str, profile: str) -> None:
    registered = {need.path for one in DATA_SETS if (paper, profile) in one.profiles for need in one.needs}
    assert registered == read_by(studies.PAPERS[paper].settings(profile))


def test_names_are_different_and_everything_is_said() -> None:
    assert len(NAMED) == len(DATA_SETS)
    for one in DATA_SETS:
        assert one.source and one.licence and one.needs and one.profiles


def test_the_page_is_the_registry() -> None:
    assert (DOCS / "data.md").read_text(encoding="utf-8") == page.page()


def lay_out(one: DataSet, root: Path) -> None:
    """A complete data set of the least size."""
    for need in one.needs:
        path = root / need.path.replace("*", "0")
        path.parent.mkdir(parents=True, exist_ok=True)
        match need.kind:
            case "file" | "parquet":
                path.write_bytes(b"x")
            case "images":
                path.mkdir(exist_ok=True)
                for i in range(need.least):
                    (path / f"{i}.jpg").write_bytes(b"x")
            case "classes":
                for i in range(need.least):
                    (path / f"{i}").mkdir(parents=True)
                    (path / f"{i}" / "0.jpg").write_bytes(b"x")
            case "list":
                path.write_text("0.jpg\n2.jpg\n")


def small(one: DataSet) -> DataSet:
    return replace(one, needs=tuple(replace(need, least=min(need.least, 3)) for need in one.needs))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MI_DATA", str(tmp_path))
    monkeypatch.setattr(checks, "DATA_SETS", tuple(map(small, DATA_SETS)))
    return tmp_path


def test_nothing_is_there_in_an_empty_folder(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert all(one.absent for one in checks.checked())
    assert cli.main(["data", "check"]) == 0
    said = capsys.readouterr().out
    for one in DATA_SETS:
        assert one.name in said and one.source in said and one.licence in said
    assert cli.main(["data", "check", "mnist"]) == 1


@pytest.mark.parametrize("name", NAMED)
def test_a_whole_data_set_is_complete_and_no_longer_so_when_anything_is_gone(name: str, root: Path) -> None:
    one = small(NAMED[name])
    lay_out(one, root)
    assert checks.checked([name])[0].complete
    assert cli.main(["data", "check", name]) == 0
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        kept = path.read_bytes()
        path.unlink()
        (found,) = checks.checked([name])
        # Of an image folder that no list names every file counts, so that each is missed.
        assert not found.complete, path
        assert any(part in " ".join(found.lacks) for part in (path.name, path.parent.name))
        path.write_bytes(kept)


def test_what_systems_leave_in_folders_is_no_image(root: Path) -> None:
    one = small(NAMED["stanford-dogs"])
    lay_out(one, root)
    (root / "stanford_dogs/train/0/0.jpg").rename(root / "stanford_dogs/train/0/.DS_Store")
    assert checks.checked(["stanford-dogs"])[0].lacks == (
        "stanford_dogs/train: 1 subfolders without images, such as 0",
    )


def test_an_unknown_name_is_one_line_that_names_the_known(root: Path) -> None:
    with pytest.raises(UserError, match="expected one of mnist, .*found 'mnits'"):
        checks.checked(["mnits"])


def test_an_empty_file_is_not_a_data_set(root: Path) -> None:
    (root / "x").write_bytes(b"")
    assert checks.lack(Need("x"), root) == "x is empty"

"""Results from one store to another: equal to the bit, and not at all where an archive was touched."""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mi_utils import exchange, store, studies
from mi_utils.__main__ import main
from mi_utils.archive import Archive, Index
from mi_utils.errors import UserError
from mi_utils.stage import Job, Output, Stage, run

COMPUTED: list[str] = []


class Weights(Stage):
    """An upstream of the attack."""

    seed: int = 0

    def compute(self, job: Job) -> Output:
        COMPUTED.append(self.key)
        stream = torch.Generator().manual_seed(self.seed)
        return Output({"w": torch.randn(5, generator=stream)}, {"loss": float("nan")})


class Attack(Stage):
    """Twelve images of three classes."""

    weights: Weights = Weights()
    channels: int = 3

    def compute(self, job: Job) -> Output:
        COMPUTED.append(self.key)
        images = torch.arange(12 * self.channels * 30).remainder(256).to(torch.uint8)
        return Output({"images": images.reshape(12, self.channels, 5, 6), "labels": torch.arange(12) % 3})


STAGES = Attack(), Attack(channels=1)


def plan(profile: str, **overrides: object) -> SimpleNamespace:
    stages = tuple(stage.model_copy(update=overrides) for stage in STAGES)
    runs = [SimpleNamespace(attack="A<b>", setting=f"s{s.channels}", seed=0, stage=s) for s in stages]
    return SimpleNamespace(stages=stages, runs=runs)


@pytest.fixture(autouse=True)
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MI_STORE", str(tmp_path / "one"))
    monkeypatch.setattr(studies, "PAPERS", {"toy": SimpleNamespace(plan=plan)})
    COMPUTED.clear()
    return tmp_path


@pytest.fixture
def elsewhere(toy: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Computes the toy paper, exports it, and goes to an empty store."""

    def go(name: str = "archive") -> Path:
        run(STAGES, device="cpu", workers=1, progress=False)
        assert main(["export", str(toy / name), "--paper", "toy"]) == 0
        monkeypatch.setenv("MI_STORE", str(toy / "two"))
        COMPUTED.clear()
        return toy / name

    return go


def results(folder: Path) -> list[Path]:
    return sorted(folder.glob("*,*/*/output"))


@pytest.mark.parametrize("name", ["archive", "archive.zip"])
def test_a_round_trip_computes_nothing_and_changes_no_bit(
    toy: Path, elsewhere: Callable, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = elsewhere(name)
    digest = capsys.readouterr().out.split("digest ")[1].strip()
    assert digest == Archive(path).index.digest
    assert main(["import", str(path), "--digest", digest]) == 0
    assert capsys.readouterr().out == "3 results taken in, 0 were here already\n"
    run(STAGES, device="cpu", workers=1, progress=False)
    found = [stage.result() for stage in STAGES]
    assert COMPUTED == [] and len(found[0].tensors) == 2
    for one, two in zip(results(toy / "one"), results(toy / "two"), strict=True):
        assert one.parent.name == two.parent.name
        for file in one.iterdir():
            assert file.read_bytes() == (two / file.name).read_bytes()
        for beside in ("stage.json", "recipe.yaml"):
            assert (one.parent / beside).read_bytes() == (two.parent / beside).read_bytes()
    assert not list((toy / "two" / "tmp").iterdir())

    assert main(["import", str(path)]) == 0
    assert capsys.readouterr().out == "0 results taken in, 3 were here already\n"


def test_an_archive_holds_recipes_and_pictures(elsewhere: Callable) -> None:
    archive = Archive(elsewhere())
    for stage in STAGES:
        entry = archive.entries["Attack", stage.key]
        assert entry.rows == (f"toy: Ab | s{stage.channels} | seed 0",)
        assert archive.recipe(entry) == stage.recipe()
        tensors, _, manifest = archive.load(entry)
        assert manifest["recipe"] == stage.recipe()
        picture = np.asarray(Image.open(archive.path / entry.folder / "images" / "1" / "000004.png"))
        assert np.array_equal(picture.reshape(5, 6, -1), tensors["images"][4].permute(1, 2, 0).numpy())
    for name, file in archive.index.files.items():
        assert hashlib.sha256((archive.path / name).read_bytes()).hexdigest() == file.sha256


def test_equal_results_give_an_equal_digest(toy: Path, elsewhere: Callable) -> None:
    path = elsewhere()
    exchange.take_in(path)
    assert exchange.export(["toy"], "laptop", toy / "again.zip").digest == Archive(path).index.digest


def test_results_of_other_settings_stay_in_the_archive(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Readable there; the store has none of them until their own settings are named."""
    made = plan("laptop", weights=Weights(seed=1)).stages
    run(made, device="cpu", workers=1, progress=False)
    path = toy / "archive"
    monkeypatch.setattr(exchange, "planned", lambda p, profile, o, real=exchange.planned: real(
        p, profile, {"weights": Weights(seed=o.get("seed", 0))}))  # fmt: skip
    exchange.export(["toy"], "laptop", path, {"seed": 1})
    monkeypatch.setenv("MI_STORE", str(toy / "two"))
    assert main(["import", str(path)]) == 0
    assert "3 of other code, data or settings than here stay in" in capsys.readouterr().out
    assert results(toy / "two") == []
    archive = Archive(path)
    assert all(archive.load(entry)[0] for entry in archive.index.results)
    assert main(["import", str(path), "--set", "{seed: 1}"]) == 0
    assert len(results(toy / "two")) == 3 and all(stage.stored() for stage in made)


def test_a_result_under_our_key_with_another_recipe_is_not_served(elsewhere: Callable, toy: Path) -> None:
    path = elsewhere()
    folder = next(path.glob("results/Weights-*"))
    (folder / "recipe.yaml").write_text("class: Weights\nseed: 7\n")
    reseal(path)
    assert exchange.take_in(path) == exchange.Taken(2, 0, 1)
    assert not Weights().stored()


# --- what is refused ---


def reseal(path: Path, **changed: object) -> None:
    """Write the index anew, as one would who alters an archive and knows how it is made."""
    index = json.loads((path / "index.json").read_text()) | changed
    index["files"] = {
        file.relative_to(path).as_posix(): {
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "bytes": file.stat().st_size,
        }
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "index.json"
    }
    (path / "index.json").write_text(Index(**index).sealed().model_dump_json())


def one(path: Path, name: str = "tensors.safetensors", which: str = "Attack") -> Path:
    return sorted(path.glob(f"results/{which}-*"))[0] / name


def flip(path: Path) -> None:
    data = bytearray(one(path).read_bytes())
    data[-3] ^= 1
    one(path).write_bytes(data)


def swap(path: Path) -> None:
    first, second = sorted(path.glob("results/Attack-*"))
    for name in ("tensors.safetensors", "meta.json", "manifest.json"):
        (first / name).rename(first / "aside")
        (second / name).rename(first / name)
        (first / "aside").rename(second / name)


def swap_and_reseal(path: Path) -> None:
    swap(path)
    reseal(path)


def other_tensors_and_reseal(path: Path) -> None:
    shutil.copy(one(path, which="Weights"), one(path))
    reseal(path)


def twice_in_index(path: Path) -> None:
    text = (path / "index.json").read_text()
    (path / "index.json").write_text(text.replace('"format":', '"format":"mi_utils results 1","format":', 1))


def deep(path: Path) -> None:
    (path / "index.json").write_text("[" * 200_000)


def deep_meta(path: Path) -> None:
    one(path, "meta.json").write_text("[" * 200_000)
    manifest = json.loads(one(path, "manifest.json").read_text())
    data = one(path, "meta.json").read_bytes()
    manifest["files"]["meta.json"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    one(path, "manifest.json").write_text(json.dumps(manifest))
    reseal(path)


def link(path: Path) -> None:
    target = path.parent / "secret"
    one(path, "recipe.yaml").rename(target)
    one(path, "recipe.yaml").symlink_to(target)


def linked_folder(path: Path) -> None:
    folder = sorted(path.glob("results/Attack-*"))[0]
    folder.rename(path.parent / "moved")
    folder.symlink_to(path.parent / "moved")


def outside(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        index = json.loads((path / "index.json").read_text())
        index["files"][name] = {"sha256": "0" * 64, "bytes": 0}
        (path / "index.json").write_text(Index(**index).sealed().model_dump_json())

    return change


TAMPERING: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (flip, "is not the file that was exported"),
    "a file cut short": (lambda path: one(path).write_bytes(one(path).read_bytes()[:-1]), "is not the file"),
    "a file grown": (lambda path: one(path).write_bytes(one(path).read_bytes() + b"x"), "is not the file"),
    "another picture": (lambda path: one(path, "images/0/000000.png").write_bytes(b"x"), "is not the file"),
    "a missing file": (lambda path: one(path).unlink(), "it lacks"),
    "a missing picture": (lambda path: one(path, "images/0/000000.png").unlink(), "it lacks"),
    "an extra file": (lambda path: (path / "results" / "run.py").write_text("1"), "it also has"),
    "no index": (lambda path: (path / "index.json").unlink(), "expected index.json"),
    "an index of nothing": (lambda path: (path / "index.json").write_text("{}"), "Index.commit"),
    "an index that is a list": (lambda path: (path / "index.json").write_text("[]"), "expected a JSON object"),
    "a name twice": (twice_in_index, "a name stands there twice"),
    "an edited index": (
        lambda path: (path / "index.json").write_text((path / "index.json").read_text().replace("laptop", "smoke")),
        "another digest",
    ),
    "a deep index": (deep, "cannot be read"),
    "a deep meta": (deep_meta, "cannot be read"),
    "files swapped": (swap, "is not the file"),
    "results swapped, index mended": (swap_and_reseal, "its manifest is that of"),
    "tensors of another, index mended": (other_tensors_and_reseal, "another file than its manifest says"),
    "a link": (link, "found a link"),
    "a linked folder": (linked_folder, "found a link"),
    "a name above": (outside("results/../../x"), "no file of an archive's results"),
    "an absolute name": (outside("/etc/passwd"), "no file of an archive's results"),
    "a result that is not listed": (outside(f"results/Attack-{'0' * 24}/meta.json"), "no file of an archive"),
    "an unknown paper": (lambda path: reseal(path, papers=["toi"]), "paper: expected one of toy"),
    "control characters": (lambda path: (path / "index.json").write_text(
        (path / "index.json").read_text().replace('"laptop"', '"\\u001b[2J"')), "Index.profile"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERING)
def test_a_touched_archive_is_refused_in_a_line_and_nothing_is_taken(
    toy: Path, elsewhere: Callable, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = elsewhere()
    change, said = TAMPERING[name]
    change(path)
    capsys.readouterr()
    assert main(["import", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and said in err
    assert results(toy / "two") == []
    assert {p.name for p in toy.iterdir()} <= {"archive", "moved", "one", "secret", "two"}


def test_another_archive_than_announced_is_refused(elsewhere: Callable) -> None:
    with pytest.raises(UserError, match="it is another archive"):
        exchange.take_in(elsewhere(), digest="0" * 64)


def zipped(path: Path, change: Callable[[zipfile.ZipFile, str, bytes], None]) -> Path:
    """The archive as a zip, each member written by `change`."""
    target = path.with_suffix(".zip")
    with zipfile.ZipFile(target, "w") as file:
        for member in sorted(path.rglob("*")):
            if member.is_file():
                change(file, member.relative_to(path).as_posix(), member.read_bytes())
    return target


def compressed(file: zipfile.ZipFile, name: str, data: bytes) -> None:
    file.writestr(name, data, zipfile.ZIP_DEFLATED)


def bomb(file: zipfile.ZipFile, name: str, data: bytes) -> None:
    file.writestr(name, bytes(1 << 26) if name.endswith("meta.json") else data, zipfile.ZIP_DEFLATED)


def linking(file: zipfile.ZipFile, name: str, data: bytes) -> None:
    part = zipfile.ZipInfo(name)
    part.external_attr = (0o120777 << 16) if name.endswith("meta.json") else 0
    file.writestr(part, data)


def climbing(file: zipfile.ZipFile, name: str, data: bytes) -> None:
    file.writestr(name, data)
    if name == "index.json":
        file.writestr("../outside.txt", b"x")


@pytest.mark.parametrize(
    ("change", "said"),
    [(compressed, "a compressed file"), (bomb, "a compressed file"), (linking, "a link"), (climbing, "it also has")],
)
def test_a_hostile_zip_is_refused(toy: Path, elsewhere: Callable, change: Callable, said: str) -> None:
    path = zipped(elsewhere(), change)
    with pytest.raises(UserError, match=said):
        exchange.take_in(path)
    assert results(toy / "two") == [] and not list(toy.rglob("outside.txt"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_a_name_twice_is_refused(elsewhere: Callable) -> None:
    path = zipped(elsewhere(), lambda file, name, data: [file.writestr(name, data) for _ in range(2)])
    with pytest.raises(UserError, match="the same name twice"):
        exchange.take_in(path)


@pytest.mark.parametrize("seed", range(40))
def test_a_zip_with_any_byte_changed_is_refused_or_whole(toy: Path, elsewhere: Callable, seed: int) -> None:
    """Names in a zip's own tables may change without effect; results never do."""
    path = elsewhere("archive.zip")
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    path.write_bytes(data)
    try:
        taken = exchange.take_in(path)
    except UserError:
        assert results(toy / "two") == []
    else:
        assert taken.added == 3
        for a, b in zip(results(toy / "one"), results(toy / "two"), strict=True):
            assert all(file.read_bytes() == (b / file.name).read_bytes() for file in a.iterdir())


def test_export_refuses_what_is_there_and_what_is_not_stored(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(toy / "archive"), "--paper", "toy"]) == 2
    assert "expected stored results of toy" in capsys.readouterr().err
    run(STAGES, device="cpu", workers=1, progress=False)
    (toy / "archive").mkdir()
    assert main(["export", str(toy / "archive"), "--paper", "toy"]) == 2
    assert "expected a new folder or .zip" in capsys.readouterr().err
    assert main(["export", "toy", "A", "--paper", "toy"]) == 2
    assert "found 2 names" in capsys.readouterr().err
    assert sorted(p.name for p in toy.iterdir()) == ["archive", "one"]


def test_a_damaged_store_is_not_exported(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(STAGES, device="cpu", workers=1, progress=False)
    path = STAGES[0].folder / "output" / "tensors.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        exchange.export(["toy"], "laptop", toy / "archive")
    assert [p.name for p in toy.iterdir()] == ["one"]
    assert store.manifest(STAGES[0].folder, STAGES[0].key) is not None

"""Whatever lies in the store instead of what was written: the next run ends with the same bits and says what it met."""

import io
import json
import logging
import os
import pickle
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from recipes import Trail

from mi_utils import job_file, store
from mi_utils.errors import UserError
from mi_utils.stage import Job, Stage, clean, run, status

STAGE, OTHER = Trail(seed=1), Trail(seed=2, steps=5)
RESULT = ("output", "output/tensors.safetensors", "output/meta.json", "output/manifest.json")
RECORDS = ("job.pkl", "config.yaml", "uid.yaml", "full-uid.yaml", "stage.json", "recipe.yaml")
STATE = ("checkpoint-0.pt", "checkpoint-1.pt", "progress.json", "failure.json", "failure.log")


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MI_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(Stage, "checkpoint_seconds", 0.0)
    return store.root()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MI_STORE", str(tmp_path_factory.mktemp("undisturbed") / "store"))
        return STAGE.result("cpu").tensors


def interrupt(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute as far as the second loop's second step; what a killed process would leave is left."""
    steps, discard = Job.steps, store.discard

    def until(self: Job, total: int, state: dict[str, object]):
        for step in steps(self, total, state):
            if self._loops == 2 and step == 1:
                raise KeyboardInterrupt
            yield step

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(Job, "steps", until)
        broken.setattr(store, "discard", lambda path: discard(path) if path.name != "progress.json" else None)
        stage.ensure("cpu")
    assert (stage.folder / "checkpoint-1.pt").is_file() and (stage.folder / "progress.json").is_file()


def flip(path: Path, _: Path) -> None:
    data = bytearray(path.read_bytes())
    chance = random.Random(path.name)
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def foreign(path: Path, other: Path) -> None:
    """What another stage has under this name."""
    remove(path)
    shutil.copytree(other, path) if other.is_dir() else shutil.copy(other, path)


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def replaced(make: Callable[[Path, Path], object]) -> Callable[[Path, Path], None]:
    def replace(path: Path, other: Path) -> None:
        remove(path)
        make(path, other)

    return replace


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "cut": lambda path, _: os.truncate(path, path.stat().st_size // 2),
    "flipped": flip,
    "empty": lambda path, _: path.write_bytes(b""),
    "noise": lambda path, _: path.write_bytes(random.Random(0).randbytes(500)),
    "of another version": lambda path, _: path.write_text('{"format": 2, "state": [1, "x"]}'),
    "a list": lambda path, _: path.write_text("[1]"),
    "foreign": foreign,
    "gone": lambda path, _: remove(path),
    "a folder": replaced(lambda path, _: (path / "in").mkdir(parents=True)),
    "a link to another": replaced(lambda path, other: path.symlink_to(other)),
    "a link to nothing": replaced(lambda path, _: path.symlink_to(path.parent / "nowhere")),
}
OF_FOLDERS = ("foreign", "gone", "a link to another", "a link to nothing")


def fits(name: str, damage: str) -> bool:
    return damage in OF_FOLDERS if name == "output" else True


def goes_on(expected: dict[str, torch.Tensor], caplog: pytest.LogCaptureFixture, tally: Counter) -> list[str]:
    """The next run's log; the result is the undisturbed one's, to the bit."""
    tally["faults"] += 1
    with caplog.at_level(logging.WARNING):
        states = [row.state for row in status([STAGE])]
        again = STAGE.result("cpu").tensors
    wrong = [name for name in expected if not torch.equal(again[name], expected[name])]
    tally["wrong"] += bool(wrong)
    assert not wrong and len(states) == 1 and status([STAGE])[0].state == "stored"
    assert not list(STAGE.folder.glob("checkpoint*")) and not (STAGE.folder / "progress.json").exists()
    assert all("\n" not in line for line in caplog.messages)
    return caplog.messages


CASES = [(name, damage) for name in RESULT for damage in DAMAGE if fits(name, damage)]


@pytest.mark.parametrize(("name", "damage"), CASES)
def test_a_result_that_is_not_ours_is_named_and_made_again(name, damage, expected, caplog, tally) -> None:
    STAGE.result("cpu"), OTHER.result("cpu")
    DAMAGE[damage](STAGE.folder / name, OTHER.folder / name)
    said = goes_on(expected, caplog, tally)
    vanished = name == "output" and damage == "gone"
    assert len(said) == (not vanished) and all("the stored result is damaged (" in line for line in said), said
    if (name, damage) == ("output", "foreign"):
        assert f"it is that of Trail {OTHER.key}" in said[0]
    assert OTHER.stored(), "what a link led to was removed"


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", RECORDS)
def test_a_record_that_is_not_ours_is_no_obstacle(name, damage, expected, caplog, tally) -> None:
    for stage in (STAGE, OTHER):
        stage.result("cpu")
    DAMAGE[damage](STAGE.folder / name, OTHER.folder / name)
    assert not goes_on(expected, caplog, tally), "a whole result needs no record"
    shutil.rmtree(STAGE.folder / "output")
    status(), goes_on(expected, caplog, tally)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", (*STATE, *RECORDS))
def test_an_interrupted_stage_goes_on(name, damage, expected, caplog, tally, monkeypatch) -> None:
    for stage in (STAGE, OTHER):
        interrupt(stage, monkeypatch)
        store.record_failure(stage.folder, "StageFailed", "said before")
        (stage.folder / "job.pkl").write_bytes(pickle.dumps(0)), (stage.folder / "config.yaml").write_text("a: 1")
        (stage.folder / "uid.yaml").write_text("a: 1"), (stage.folder / "full-uid.yaml").write_text("a: 1")
    DAMAGE[damage](STAGE.folder / name, OTHER.folder / name)
    status()
    said = goes_on(expected, caplog, tally)
    if name.startswith("checkpoint") and damage in ("cut", "flipped", "empty", "noise", "foreign"):
        assert len(said) == 1 and "starting from step 0" in said[0], said


def test_no_single_bit_of_a_result_can_change_unnoticed(own_store: Path, expected, tally) -> None:
    STAGE.result("cpu")
    files = sorted((STAGE.folder / "output").iterdir())
    whole, chance = store.load(STAGE.folder, STAGE.key), random.Random(0)
    for path in files:
        data = path.read_bytes()
        for place in chance.sample(range(8 * len(data)), min(200, 8 * len(data))):
            changed = bytearray(data)
            changed[place // 8] ^= 1 << place % 8
            path.write_bytes(changed)
            tally["faults"] += 1
            try:
                found = store.load(STAGE.folder, STAGE.key)
            except store.Corrupted:
                continue
            # The name of the manifest's own digest may change: then nothing that it says has.
            assert {n: v for n, v in found[2].items() if n in whole[2] and n != "sha256"} | {
                "sha256": whole[2]["sha256"]
            } == whole[2]
        path.write_bytes(data)


@pytest.mark.parametrize("damage", ["a folder", "a link to another", "a link to nothing", "noise"])
def test_a_lock_that_is_none_is_replaced(damage: str, own_store: Path, expected, caplog, tally) -> None:
    OTHER.result("cpu")
    locks = own_store / "locks"
    DAMAGE[damage](locks / f"{STAGE.key}.lock", locks / f"{OTHER.key}.lock")
    said = goes_on(expected, caplog, tally)
    assert len(said) == (damage != "noise") and all("expected a file, found a folder or a link" in s for s in said)


@pytest.mark.parametrize("damage", ["a link to another", "noise"])
def test_a_stages_folder_that_is_none_is_replaced(damage: str, expected, caplog, tally) -> None:
    OTHER.result("cpu"), STAGE.result("cpu")
    shutil.rmtree(STAGE.folder)
    DAMAGE[damage](STAGE.folder, OTHER.folder)
    said = goes_on(expected, caplog, tally)
    assert len(said) == 1 and "expected a folder, found a file or a link; removed it" in said[0]
    assert OTHER.stored()


def test_exca_is_given_no_pickle_that_runs_code(tmp_path: Path, expected, caplog, tally) -> None:
    STAGE.result("cpu")
    record, mark = STAGE.folder / "job.pkl", tmp_path / "mark"
    assert job_file.check(STAGE.folder) is None and record.is_file(), "a job's own record is removed"
    for content in (pickle.dumps(Bomb(mark)), pickle.dumps({"done": 1}), b"\x80\x05", b""):
        record.write_bytes(content)
        shutil.rmtree(STAGE.folder / "output")
        goes_on(expected, caplog, tally)
        record.write_bytes(content)
        caplog.clear()
        job_file.check(STAGE.folder)
        assert not record.exists() and len(caplog.messages) == 1 and "removed, not loaded" in caplog.messages[0]
        caplog.clear()
    assert not mark.exists()
    pickle.load(io.BytesIO(pickle.dumps(Bomb(mark))))
    assert mark.exists(), "the bomb is none"


def test_a_checkpoint_that_runs_code_is_refused(tmp_path: Path, expected, caplog, tally, monkeypatch) -> None:
    interrupt(STAGE, monkeypatch)
    for content in ({"key": STAGE.key, "state": Bomb(tmp_path / "mark")}, [1], {"step": 3}):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        store.write_checkpoint(STAGE.folder / "checkpoint-0.pt", buffer.getvalue())
        if STAGE.stored():
            shutil.rmtree(STAGE.folder / "output")
        said = goes_on(expected, caplog, tally)
        assert len(said) == 1 and "starting from step 0" in said[0]
        caplog.clear()
    assert not (tmp_path / "mark").exists()


# ---------------------------------------------------------------- clocks


@pytest.mark.parametrize("years", [-1, 1])
def test_a_clock_that_jumps_changes_nothing(years, expected, caplog, tally, monkeypatch) -> None:
    now, calls = store.time.time, [0]

    def jumping() -> float:
        calls[0] += 1
        return now() + (years * 31536000 if calls[0] % 3 else 0)

    with monkeypatch.context() as moved:
        moved.setattr(store.time, "time", jumping)
        interrupt(STAGE, monkeypatch)
        run([STAGE], device="cpu", workers=1)
    assert calls[0] > 10
    goes_on(expected, caplog, tally)
    clean([STAGE])
    assert STAGE.stored() and status()[0].state == "stored"


@pytest.mark.parametrize("years", [-30, 30])
def test_times_of_files_mean_nothing(years, own_store, expected, caplog, tally, monkeypatch) -> None:
    OTHER.result("cpu"), interrupt(STAGE, monkeypatch)
    before = (OTHER.folder / "output" / "manifest.json").read_bytes()
    for path in own_store.rglob("*"):
        os.utime(path, (path.stat().st_mtime + years * 31536000,) * 2)
    assert not goes_on(expected, caplog, tally)
    OTHER.result("cpu")
    assert (OTHER.folder / "output" / "manifest.json").read_bytes() == before, "computed twice"


def test_source_from_the_future_is_not_taken_for_an_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mi_utils import code_digest

    source = tmp_path / "lent.py"
    source.write_text("A = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    os.utime(source, (4e9, 4e9))
    written = source.stat().st_ctime
    assert code_digest.closure("lent")[1] == pytest.approx(written, abs=1e-3)  # archives unpack with any time
    key = Trail(seed=3).key
    year = store.time.time() - 31536000
    monkeypatch.setattr(store.time, "time", lambda: year)  # the clock was wrong when the project was unpacked
    monkeypatch.setattr(Trail, "_defined", year)
    assert Trail(seed=3).key == key


# ---------------------------------------------------------------- disks


def test_a_read_only_store_serves_and_refuses_in_one_line(disk, tally, monkeypatch, caplog) -> None:
    monkeypatch.setenv("MI_STORE", str(disk("size=4m") / "store"))
    monkeypatch.setattr(store, "MIN_FREE_BYTES", 0)
    before = STAGE.result("cpu").tensors
    interrupt(OTHER, monkeypatch)
    disk("remount,ro")
    assert all(torch.equal(STAGE.result("cpu").tensors[name], before[name]) for name in before)
    run([STAGE], device="cpu")
    assert [row.state for row in status([STAGE, OTHER])] == ["stored", "running"]  # by this very process
    refused = "store: .* cannot be written .Read-only file system.; set MI_STORE"
    for ask in (lambda: OTHER.result("cpu"), lambda: run([OTHER], workers=1), Trail(seed=4).ensure, clean):
        with pytest.raises(UserError, match=refused) as found:
            ask()
        assert "\n" not in str(found.value)
        tally["faults"] += 1
    disk("remount,rw")
    (STAGE.folder / "output" / "meta.json").write_text("{}")
    disk("remount,ro")
    with pytest.raises(UserError, match="Read-only file system"):
        STAGE.result("cpu")
    disk("remount,rw")
    assert all(torch.equal(STAGE.result("cpu").tensors[name], before[name]) for name in before)
    resumed = OTHER.result("cpu").tensors
    monkeypatch.setenv("MI_STORE", str(store.root().parent / "second"))
    assert all(torch.equal(OTHER.result("cpu").tensors[name], resumed[name]) for name in resumed)


def test_a_store_of_this_version_reads_one_of_an_earlier(own_store: Path) -> None:
    expected = STAGE.result("cpu").tensors
    path = STAGE.folder / "output" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    path.write_text(json.dumps(manifest))
    before = path.stat().st_mtime_ns
    assert torch.equal(STAGE.result("cpu").tensors["place"], expected["place"])
    assert path.stat().st_mtime_ns == before

"""What a stored result says of its making, and whose edits count."""

import json
import subprocess
import time
from pathlib import Path

import pytest
import torch

from mi_utils import code_digest, origin, store
from mi_utils.report import provenance
from mi_utils.stage import Job, Output, Stage


class Holds(Stage):
    """Keeps `megabytes` in memory until they are seen, and gives them back."""

    megabytes: int = 200

    def compute(self, job: Job) -> Output:
        block = torch.ones(self.megabytes, 1 << 20, dtype=torch.uint8)
        time.sleep(0.5)
        return Output({"first": block[:1, :1].clone()})


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with a module and a figure."""
    for name in ("module.py", "figures/f1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("one")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.parametrize(
    ("edited", "dirty"), [(None, False), ("figures/f1.png", False), ("module.py", True), ("new.txt", False)]
)
def test_what_a_reproduction_writes_over_makes_no_tree_dirty(repository: Path, edited: str | None, dirty: bool) -> None:
    if edited:
        (repository / edited).write_text("two")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, capture_output=True, text=True).stdout
    name, found = origin.state(repository)
    assert head.startswith(name) and len(name) >= 12
    assert found is dirty


def test_outside_a_checkout_the_commit_is_unknown(tmp_path: Path) -> None:
    assert origin.state(tmp_path) == ("unknown", False)


def test_a_record_says_dirty_for_edited_code_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for dirty in (True, False):
        monkeypatch.setattr(origin, "state", lambda dirty=dirty: ("abc", dirty))
        record = provenance.record(profile="smoke", seeds=[0], stages={}, wall_seconds=1, device="cpu")
        assert (record["commit"], record["dirty"]) == ("abc", dirty)


def test_a_manifest_says_what_made_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MI_STORE", str(tmp_path / "store"))
    before = origin.Memory(torch.device("cpu"))
    before._sample()
    stage = Holds()
    stage.ensure("cpu")
    made = store.manifest(stage.folder, stage.key)
    assert made["recipe"] == stage.recipe() and made["key"] == stage.key
    assert made["code"] == code_digest.of_class(Holds)[0]
    assert made["commit"] == origin.state()[0] + "+" * made["dirty"]
    assert made["versions"]["torch"] == torch.__version__
    assert made["versions"].keys() >= {"python", "numpy", "mi_utils"} and "absent" not in made["versions"].values()
    assert made["peak_rss_mb"] - before.facts()["peak_rss_mb"] > 190
    assert "peak_cuda_mb" not in made


def test_results_of_before_these_facts_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MI_STORE", str(tmp_path / "store"))
    stage = Holds(megabytes=1)
    stage.ensure("cpu")
    path = stage.folder / "output" / "manifest.json"
    old = ("stage", "key", "seconds", "device", "commit", "n", "files")
    path.write_text(json.dumps({name: json.loads(path.read_text())[name] for name in old}))
    assert stage.stored() and stage.result().tensors["first"].item() == 1

"""Results that ship: what a file serves, what a key knows of it, what is refused."""

import hashlib
import json

import pytest
import torch
import yaml

from mi_utils import studies
from mi_utils.errors import UserError
from mi_utils.stage import _plain
from mi_utils.training import shipped
from mi_utils.training.classifier import TrainClassifier
from tests.toys import TARGET


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "priors")
    return tmp_path / "priors"


def again(stage: TrainClassifier) -> TrainClassifier:
    """The same recipe as a new object, whose key is asked for anew."""
    return stage.model_copy(update={"seed": stage.seed})


def test_a_shipped_result_is_served_and_the_key_knows_the_file(folder, tmp_path, monkeypatch) -> None:
    plain = again(TARGET)
    trained = plain.result("cpu").tensors
    shipped.publish(plain)
    served = again(plain)
    assert served.key != plain.key
    monkeypatch.setenv("MI_STORE", str(tmp_path / "elsewhere"))
    found = served.result("cpu")
    assert found.meta["shipped"] and "log_loss" not in found.tensors
    assert all(torch.equal(found.tensors[name], trained[name]) for name in found.tensors)
    assert served.network("cpu")(torch.zeros(1, *plain_shape(found.meta))).shape == (1, found.meta["outputs"])


def plain_shape(meta: dict) -> tuple[int, int, int]:
    return meta["channels"], meta["size"], meta["size"]


def test_another_recipe_is_trained_and_retraining_knows_no_file(folder, monkeypatch) -> None:
    plain = again(TARGET)
    shipped.publish(plain)
    other = plain.model_copy(update={"seed": plain.seed + 1})
    assert shipped.find(other) is None and shipped.fingerprint(other) is None
    monkeypatch.setenv("MI_RETRAIN", "1")
    assert shipped.find(plain) is None and again(plain).key == plain.key


def test_a_file_that_is_not_the_indexed_one_is_refused_in_one_line(folder) -> None:
    plain = again(TARGET)
    path = shipped.publish(plain)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for damage in (lambda: None, path.unlink):
        damage()
        with pytest.raises(UserError, match="SHA-256.*retrain") as caught:
            shipped.find(plain)
        assert "\n" not in str(caught.value)


def test_a_file_that_is_too_large_is_not_written(folder, monkeypatch) -> None:
    monkeypatch.setattr(shipped, "LIMIT", 100)
    with pytest.raises(UserError, match="at most 100 bytes"):
        shipped.publish(again(TARGET))
    assert not folder.exists()


def test_what_no_study_asks_for_is_removed(folder) -> None:
    kept, dropped = TARGET, TARGET.model_copy(update={"seed": 77})
    names = [shipped.publish(stage).stem for stage in (kept, dropped)]
    assert shipped.keep_only([kept]) == [names[1]]
    assert [path.stem for path in folder.glob("*.safetensors")] == [names[0]]
    assert list(json.loads((folder / "index.json").read_text())) == [names[0]]
    assert shipped.keep_only([kept]) == []


def test_the_project_ships_exactly_what_its_studies_ask_for() -> None:
    wanted = {shipped.recipe_digest(s) for study in studies.PAPERS.values() for s in getattr(study, "shipped", list)()}
    index = json.loads((shipped.FOLDER / "index.json").read_text())
    files = {path.stem: path.read_bytes() for path in shipped.FOLDER.glob("*.safetensors")}
    assert set(index) == set(files) == wanted
    assert {name: hashlib.sha256(content).hexdigest() for name, content in files.items()} == {
        name: entry["sha256"] for name, entry in index.items()
    }
    assert max(map(len, files.values())) <= shipped.LIMIT


def test_a_recipes_text_is_the_same_with_and_without_libyaml() -> None:
    """Its digest names the shipped files."""
    stages = [stage for study in studies.PAPERS.values() for stage in getattr(study, "shipped", list)()]
    assert len(stages) > 50
    for stage in stages[::5]:
        text = yaml.dump(_plain(stage), Dumper=yaml.SafeDumper, sort_keys=False, allow_unicode=True, width=100)
        assert stage.recipe() == text

"""Files on disk: layout, whole writes, tables, provenance."""

import getpass
import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from mi_utils.errors import UserError
from mi_utils.metrics.intervals import Interval
from mi_utils.report import claims, figures, folder, provenance, scores, tables

CAPTION = tables.Caption(
    what="Main result",
    data="MNIST, auxiliary: rendered Hangul",
    stand_in="SERI95",
    evaluator="ensemble of 5",
    features="penultimate layer of E1",
    images="100 per class",
    seeds=[0, 1, 2],
    settings={"gan": "per_class", "w_a": 30},
)


def test_layout(tmp_path):
    out = folder.Folder("smoke", "patch_mi", root=tmp_path)
    out.scores(scores.rows("BMI", "mnist", 0, {"top-1": 0.5}, 10))
    claim = claims.Claim(id="P1", statement="s", source="abstract", kind="number")
    out.claims([claims.unjudged(claim, "smoke profile")])
    out.provenance({"profile": "smoke"})
    out.table("t1", pd.DataFrame({"a": ["0.10"]}), CAPTION)
    drawn = figures.effect_bars({"x": Interval(1, 0, 2, 3)}, label="points")
    assert out.figure("f1", drawn) is drawn
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert found == [
        "smoke/patch_mi/claims.json",
        "smoke/patch_mi/figures/f1.pdf",
        "smoke/patch_mi/figures/f1.png",
        "smoke/patch_mi/provenance.json",
        "smoke/patch_mi/scores.csv",
        "smoke/patch_mi/tables/t1.csv",
        "smoke/patch_mi/tables/t1.md",
    ]
    assert scores.read(out.path / "scores.csv")["value"].tolist() == [0.5]


@pytest.mark.parametrize("name", ["../up", "A", "", "a/b", ".hidden"])
def test_names_cannot_leave_the_folder(tmp_path, name):
    with pytest.raises(UserError, match="lower-case letters"):
        folder.Folder("smoke", name, root=tmp_path)
    with pytest.raises(UserError, match="table: expected"):
        folder.Folder("smoke", "p", root=tmp_path).table(name, pd.DataFrame({"a": [1]}), CAPTION)


def test_an_interrupted_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = folder.write(tmp_path / "a.txt", "old")

    def interrupted(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        folder.write(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_markdown_keeps_cells_as_they_are():
    index = pd.MultiIndex.from_tuples([("mnist", "BMI"), ("mnist", "VMI")], names=["data", "attack"])
    frame = pd.DataFrame({"top-1": ["0.10", "a|b"], "FD": ["not computed: no file", "1e3"]}, index=index)
    text = tables.markdown(frame, CAPTION)
    assert "0.10 " in text and "a\\|b" in text and "1e3" in text
    assert text.splitlines()[2].split("|")[1:3] == [" data   ", " attack   "]
    for word in ("SERI95", "ensemble of 5", "penultimate", "100 per class", "3 seeds (0, 1, 2)", "w_a = 30"):
        assert word in text.splitlines()[0]
    assert tables.csv(frame).splitlines() == [
        "data,attack,top-1,FD",
        "mnist,BMI,0.10,not computed: no file",
        "mnist,VMI,a|b,1e3",
    ]


def test_caption_of_real_data_and_one_seed():
    text = CAPTION.model_copy(update={"stand_in": None, "seeds": [4], "settings": {}}).text()
    assert "(the paper's data)" in text and "1 seed (4)" in text and "Settings" not in text
    with pytest.raises(ValueError, match="evaluator"):
        tables.Caption(what="x", data="d", stand_in=None, features="f", images="1", seeds=[0])


def stage(**changes: object) -> SimpleNamespace:
    fields = {"key": "PatchMI-0f3a", "seconds": 12.345, "device": "cpu", "commit": "abc123"}
    return SimpleNamespace(**(fields | changes))


def test_provenance_says_what_made_the_numbers_and_no_more():
    entry = provenance.record(
        profile="smoke",
        seeds=[0, 1],
        stages={"attack 0": stage(), "attack 1": stage()},
        wall_seconds=3.21,
        device="cpu",
    )
    assert entry["compute_seconds"] == 24.7 and entry["wall_seconds"] == 3.2 and entry["seeds"] == [0, 1]
    assert entry["stages"][0] == {
        "stage": "attack 0", "key": "PatchMI-0f3a", "seconds": 12.35, "device": "cpu", "commit": "abc123"
    }  # fmt: skip
    assert isinstance(entry["dirty"], bool) and "+" not in entry["commit"]
    assert entry["packages"]["torch"] and entry["peak_memory_mb"]["process"] > 50
    text = json.dumps(entry)
    hidden = [socket.gethostname(), str(Path.home()), os.getcwd()]
    assert not [word for word in hidden if len(word) > 1 and word in text]
    assert getpass.getuser() not in entry


def test_an_absent_package_is_said_to_be_absent(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package"))
    assert provenance.versions()["no-such-package"] == "absent"


@pytest.mark.parametrize("name", ["/mnt/someone/data", "from ~/data", "C:\\Users\\x", "images (/srv/faces/a.png)"])
def test_provenance_refuses_absolute_paths(name):
    with pytest.raises(UserError, match="no absolute path"):
        provenance.record(profile="smoke", seeds=[0], stages={name: stage()}, wall_seconds=1, device="cpu")


@pytest.mark.parametrize("name", ["target and/or prior", "data/glyphs", "1/f noise", "a / b"])
def test_provenance_admits_ordinary_slashes(name):
    provenance.private({"stages": [{"stage": name}]})

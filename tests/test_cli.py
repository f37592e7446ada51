"""The command line: what it refuses in one line, and a toy paper run through it from end to end."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

import mi_utils
from mi_utils import reproduce, studies
from mi_utils.__main__ import main
from mi_utils.errors import UserError
from mi_utils.export import write
from mi_utils.stage import Job, Output, Stage

PARAMETERS = """\
profile = "laptop"
device = "auto"
cluster = None
workers = None
overrides = {}
figures = "nowhere"
"""
BODY = """\
import os, sys
from pathlib import Path
from mi_utils.errors import UserError
if "stop" in overrides:
    raise UserError("stop: expected nothing, found a reason; remove it")
if "crash" in overrides:
    1 / 0
given = [profile, device, cluster, workers, overrides]
text = repr({"given": given, "python": sys.executable, "cwd": os.getcwd()})
(Path(figures) / profile / "toy" / "seen.txt").write_text(text)
"""


def plan(profile: str, **overrides: object) -> SimpleNamespace:
    """A study's plan: refuses what it does not know, as the real ones do."""
    reproduce.one_of(profile, ("smoke", "laptop"), "profile")
    for name in overrides:
        reproduce.one_of(name, ("seeds", "stop", "crash"), "overrides")
    return SimpleNamespace(stages=())


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with one paper, `toy`."""
    book = nbformat.v4.new_notebook()
    book.cells = [nbformat.v4.new_code_cell(PARAMETERS), nbformat.v4.new_code_cell(BODY)]
    book.cells[0].metadata.tags = ["parameters"]
    (tmp_path / "notebooks").mkdir()
    nbformat.write(book, tmp_path / "notebooks" / "toy.ipynb")
    monkeypatch.setattr(reproduce, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(reproduce, "FIGURES", tmp_path / "figures")
    monkeypatch.setattr(studies, "PAPERS", {"toy": SimpleNamespace(plan=plan)})
    return tmp_path


# --- refused before anything runs ---


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--paper", "toi"], "did you mean 'toy'?"),
        (["--profile", "laptpo"], "did you mean 'laptop'?"),
        (["--set", "{seed: 1}"], "did you mean 'seeds'?"),
        (["--set", "{seeds: "], "--set: expected a YAML mapping"),
        (["--set", "seeds"], "--set: expected a YAML mapping"),
        (["--set", "{1: 2}"], "--set: expected a YAML mapping"),
        (["--device", "gpu"], "device: expected auto, cpu, cuda"),
        (["--cluster", "cloud"], "cluster: expected 'slurm' or 'local', found 'cloud'"),
        (["--cluster", "{engine: local, widht: 2}"], "cluster.widht: no such field; did you mean width?"),
    ],
)
def test_a_mistake_is_one_line(
    toy: Path, arguments: list[str], wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert wanted in err
    assert not (toy / "figures").exists()


def test_a_name_unlike_any_other_gets_no_suggestion() -> None:
    with pytest.raises(UserError, match="expected one of a, b, found 'zzzzzz'$"):
        reproduce.one_of("zzzzzz", ("a", "b"), "profile")


def test_debug_lets_the_traceback_through(toy: Path) -> None:
    with pytest.raises(UserError, match="toi"):
        main(["--debug", "reproduce", "--paper", "toi"])


@pytest.mark.parametrize("workers", ["0", "-1", "two", "1.5"])
def test_workers_are_a_whole_number_above_zero(workers: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["reproduce", f"--workers={workers}"])
    assert caught.value.code == 2
    assert "expected a whole number above 0" in capsys.readouterr().err


def test_no_notebooks_is_a_clear_error(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toy / "notebooks" / "toy.ipynb").unlink()
    assert main(["reproduce"]) == 2
    assert "run from a clone" in capsys.readouterr().err


def test_later_overrides_win() -> None:
    assert reproduce.parse_overrides(["{a: 1, b: [2]}", "{a: 3}"]) == {"a": 3, "b": [2]}


def test_a_paper_named_twice_runs_once(toy: Path) -> None:
    assert reproduce.chosen(["toy", "toy"]) == ["toy"]
    assert reproduce.chosen(None) == ["toy"]


# --- a toy paper from end to end ---


def test_reproduce_runs_the_notebook_with_its_parameters(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this interpreter, although the user has registered another one as "python3"."""
    spec = toy / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/nonexistent/python"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(toy / "jupyter"))

    assert main(["reproduce", "--profile", "smoke", "--workers", "3", "--set", "{seeds: 2}"]) == 0

    results = toy / "figures" / "smoke" / "toy"
    seen = eval((results / "seen.txt").read_text())
    assert seen["given"] == ["smoke", "auto", None, 3, {"seeds": 2}]
    assert seen["python"] == sys.executable
    assert Path(seen["cwd"]) == toy / "notebooks"
    assert sorted(p.name for p in results.iterdir()) == ["seen.txt", "toy.ipynb"]
    assert str(toy) not in (results / "toy.ipynb").read_text()
    out = capsys.readouterr().out
    assert "toy: done in" in out
    assert float(out.split("peak memory ")[1].split(" GiB")[0]) > 0
    assert os.path.relpath(results) in out or str(results) in out
    page = (toy / "figures" / "smoke" / "index.html").read_text(encoding="utf-8")
    assert "report: " in out and "claims.json is missing" in page


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("stop", "error: toy: stop: expected nothing, found a reason; remove it"),
        ("crash", "error: toy: cell 3: ZeroDivisionError: division by zero"),
    ],
)
def test_a_failing_cell_is_told_in_a_line_and_its_notebook_kept(
    toy: Path, setting: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    results = toy / "figures" / "laptop" / "toy"
    assert main(["reproduce", "--set", f"{{{setting}: true}}"]) == 1
    err = capsys.readouterr().err.splitlines()
    assert err[0] == line
    assert len(err) == 2
    assert err[1].endswith("toy.failed.ipynb")
    assert [p.name for p in results.iterdir()] == ["toy.failed.ipynb"]

    assert main(["reproduce"]) == 0
    assert sorted(p.name for p in results.iterdir()) == ["seen.txt", "toy.ipynb"]


def test_peak_memory_sees_what_a_child_holds() -> None:
    with reproduce.PeakMemory() as nothing:
        pass
    hold = "import sys, time; b = bytearray(300 << 20); print(flush=True); time.sleep(4)"
    with reproduce.PeakMemory() as memory:
        subprocess.run([sys.executable, "-c", hold], check=True, stdout=subprocess.DEVNULL)
    assert memory.bytes - nothing.bytes > 290 << 20


# --- export ---


def test_export_writes_an_image_folder_and_an_npz(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = torch.arange(12 * 3 * 4 * 5).remainder(256).to(torch.uint8).reshape(12, 3, 4, 5)
    labels = torch.arange(12)
    asked = []

    def load(*arguments: object, **settings: object) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append((arguments, settings))
        return images, labels

    monkeypatch.setattr(mi_utils, "load_reconstructions", load)
    dest = tmp_path / "out"
    assert main(["export", "toy", "patch", str(dest), "--profile", "smoke", "--seed", "2"]) == 0
    assert asked == [(("toy", "patch"), {"profile": "smoke", "seed": 2})]
    assert "12 images" in capsys.readouterr().out

    assert sorted(p.name for p in dest.iterdir() if p.is_dir()) == [f"{i:02d}" for i in range(12)]
    read = np.asarray(Image.open(dest / "11" / "000011.png"))
    assert np.array_equal(read, images[11].permute(1, 2, 0).numpy())
    with np.load(dest / "reconstructions.npz") as kept:
        assert np.array_equal(kept["images"], images.numpy())
        assert np.array_equal(kept["labels"], labels.numpy())

    assert main(["export", "toy", "patch", str(dest)]) == 2
    assert "expected a new or empty folder" in capsys.readouterr().err


def test_grey_images_are_written_as_grey(tmp_path: Path) -> None:
    image = torch.tensor([[[[0, 128], [255, 7]]]], dtype=torch.uint8)
    write(image, torch.tensor([3]), tmp_path / "out")
    read = Image.open(tmp_path / "out" / "3" / "000000.png")
    assert read.mode == "L"
    assert np.array_equal(np.asarray(read), image[0, 0].numpy())


# --- status and clean ---


class Constant(Stage):
    """The cheapest stage there is."""

    value: int

    def compute(self, job: Job) -> Output:
        return Output(tensors={"value": torch.tensor(self.value)})


@pytest.fixture
def two_results(toy: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Constant, Constant]:
    """A store with two results; the paper `toy` needs the first. Two of its profiles cannot be planned."""
    monkeypatch.setenv("MI_STORE", str(toy / "store"))
    stages = Constant(value=1), Constant(value=2)
    for stage in stages:
        stage.ensure()

    def plan_first(profile: str) -> SimpleNamespace:
        reproduce.one_of(profile, ("smoke", "laptop"), "profile")
        return SimpleNamespace(stages=stages[:1])

    monkeypatch.setattr(studies, "PAPERS", {"toy": SimpleNamespace(plan=plan_first)})
    return stages


def test_status_lists_what_is_stored(two_results: tuple, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    for number, line in enumerate(lines[:2], 1):
        assert line.startswith("stored")
        assert line.endswith(f"Constant value={number}")
    assert lines[2].startswith("2 stages, ")


def test_clean_unused_keeps_what_is_needed(two_results: tuple, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clean", "--unused", "--yes"]) == 0
    assert [stage.stored() for stage in two_results] == [True, False]
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert [note.split()[6] for note in notes] == ["gpu", "paper"]


def test_clean_all_deletes_everything(two_results: tuple) -> None:
    assert main(["clean", "--all", "--yes"]) == 0
    assert [stage.stored() for stage in two_results] == [False, False]


@pytest.mark.parametrize(("answer", "kept"), [("y", False), ("n", True), ("", True)])
def test_clean_asks(two_results: tuple, answer: str, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda question: answer)
    assert main(["clean", "--all"]) == int(kept)
    assert two_results[0].stored() is kept


def test_clean_deletes_nothing_where_nobody_can_be_asked(
    two_results: tuple, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    assert main(["clean", "--all"]) == 2
    assert "add it" in capsys.readouterr().err
    assert two_results[0].stored()

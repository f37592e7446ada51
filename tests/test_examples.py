"""What a user copies: the script that makes the worked example, its audit, the notebook, and the page on attacks."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml

from mi_utils import reproduce, studies
from mi_utils.your_model import read

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "examples" / "train_small_classifier.py"
NOTEBOOK = ROOT / "notebooks" / "your_model.ipynb"
SMALL = ["--people", "2", "--images", "8", "--others", "40", "--steps", "40"]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script writes at a small size."""
    folder = tmp_path_factory.mktemp("example") / "mine"
    made = subprocess.run([sys.executable, SCRIPT, folder, *SMALL], capture_output=True, text=True, cwd=ROOT)
    assert made.returncode == 0, made.stderr
    assert re.search(r"held-out images named right: \d", made.stdout)
    return folder


def test_the_script_trains_without_the_project_s_networks() -> None:
    imported = re.findall(r"^(?:from|import) (mi_utils\S*)(?: import (.*))?$", SCRIPT.read_text(), re.MULTILINE)
    assert imported == [("mi_utils.data", "Faces")]


def test_both_config_files_read_and_load(example: Path) -> None:
    for name in ("CONFIG", "CONFIG-program"):
        settings = read(example / f"{name}.yaml")
        assert settings.names == ("Ada", "Ben")
        assert settings.classifier().load().outputs == 2


def test_the_notebook_is_no_paper() -> None:
    assert "your_model" not in reproduce.papers()
    assert sorted(studies.PAPERS) == reproduce.papers()


def test_the_notebook_runs_headless_on_the_example(example: Path, tmp_path: Path) -> None:
    fields = yaml.safe_load((example / "CONFIG.yaml").read_text())
    del fields["holdout"]
    config = example / "SMALL.yaml"
    config.write_text(yaml.safe_dump(fields | {"attacks": ["pixels"], "samples": 2, "minutes": 600}))
    given = {"config": str(config), "out": str(tmp_path / "out"), "device": "cpu", "workers": 1}
    book = papermill.execute_notebook(NOTEBOOK, tmp_path / "done.ipynb", given, cwd=NOTEBOOK.parent, progress_bar=False)
    kinds = {kind for cell in book.cells for out in cell.get("outputs", ()) for kind in out.get("data", ())}
    assert {"image/png", "text/html"} <= kinds
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["plan"][0]["run"]


def test_the_notebook_is_committed_without_outputs() -> None:
    code = [c for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.cell_type == "code"]
    assert [c.source for c in code if c.outputs or c.execution_count is not None] == []


def test_a_config_that_is_not_there_stops_the_notebook_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        papermill.execute_notebook(
            NOTEBOOK, tmp_path / "done.ipynb", {"config": "nowhere.yaml"}, cwd=NOTEBOOK.parent, progress_bar=False
        )
    assert caught.value.ename == "UserError"
    assert "found none at nowhere.yaml" in caught.value.evalue and "\n" not in caught.value.evalue


def test_the_attack_of_the_page_runs_and_is_scored_beside_the_baseline(tmp_path: Path) -> None:
    attack, scoring = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "add_an_attack.md").read_text(), re.DOTALL)
    body = attack[attack.index("def total_variation") :]
    assert 30 <= len([line for line in body.splitlines() if line.strip()]) <= 45
    (tmp_path / "smooth_pixels.py").write_text(attack)
    (tmp_path / "scored.py").write_text(scoring + CHECKS)
    done = subprocess.run([sys.executable, "scored.py"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"(.*): DDCS 0\.\d+ \[", done.stdout) == ["smooth pixels (ours)", "BMI, the baseline"]


# Run after the page's second block: the equation against a closed form, and what the weight is for.
CHECKS = """
import torch
from smooth_pixels import total_variation

ramp = torch.arange(4.0).expand(2, 1, 4, 4) * torch.tensor([1.0, -3.0])[:, None, None, None]
torch.testing.assert_close(total_variation(ramp), torch.tensor([1.0, 3.0]))
rough = SmoothPixels(target=target, classes=(0, 1, 2), weight=0.0).result().tensors["images"]
smooth = attacks["smooth pixels (ours)"].result().tensors["images"]
assert total_variation(smooth.float()).mean() < total_variation(rough.float()).mean() / 2
one = SmoothPixels(target=target, classes=(1,)).result().tensors["images"]
assert (one.float() - smooth[1::3].float()).abs().mean() < 1  # a class's result depends on no other class
"""

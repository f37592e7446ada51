"""The hooks of .pre-commit-config.yaml: each runs a locked tool, passes what is clean and stops what is not."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
REPOS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
HOOKS = {hook["id"]: hook for repo in REPOS for hook in repo["hooks"]}
CLEAN = "import os\n\nprint(os.name)\n"


def notebook(source: str, output: bool = False) -> str:
    """A notebook of one cell, as `nbformat` writes it."""
    cell = nbformat.v4.new_code_cell(source, id="0")  # nbstripout numbers cells
    if output:
        cell.outputs, cell.execution_count = [nbformat.v4.new_output("stream", text="said\n")], 3
    made = nbformat.v4.new_notebook(cells=[cell], metadata={"language_info": {"name": "python"}})
    return nbformat.writes(made) + "\n"


def run(name: str, path: Path) -> bool:
    """Whether a hook lets a file pass: exit status 0 and nothing changed, as pre-commit judges."""
    before = path.read_bytes()
    tool, *options = shlex.split(HOOKS[name]["entry"])
    place = Path(sys.executable).with_name(Path(tool).name)
    if not place.exists():
        pytest.skip(f"{place.name} is not installed beside this Python; make test installs it")
    shutil.copy(ROOT / "pyproject.toml", path.parent)
    found = subprocess.run([place, *options, str(path)], cwd=path.parent, capture_output=True, text=True, timeout=600)
    return found.returncode == 0 and path.read_bytes() == before


def test_hooks_fetch_nothing_and_use_the_locked_tools() -> None:
    assert {repo["repo"] for repo in REPOS} == {"local"}
    locked = (ROOT / "requirements.lock").read_text()
    for hook in HOOKS.values():
        place, tool = Path(shlex.split(hook["entry"])[0]).parts[:-1], Path(shlex.split(hook["entry"])[0]).name
        assert (hook["language"], place) == ("system", (".venv", "bin")) and f"\n{tool}==" in locked


@pytest.mark.parametrize(
    ("name", "file", "clean", "wrong"),
    [
        ("ruff", "a.py", CLEAN, "import os\n"),
        ("ruff", "a.ipynb", notebook("print(1)"), notebook("import os")),
        ("ruff-format", "a.py", CLEAN, "x  =  1\n"),
        ("ruff-format", "a.ipynb", notebook("x = 1"), notebook("x  =  1")),
        ("nbstripout", "a.ipynb", notebook("x = 1"), notebook("x = 1", output=True)),
    ],
)
def test_hook_passes_what_is_clean_and_stops_what_is_not(
    name: str, file: str, clean: str, wrong: str, tmp_path: Path
) -> None:
    path = tmp_path / file
    path.write_text(clean)
    assert run(name, path)
    path.write_text(wrong)
    assert not run(name, path)

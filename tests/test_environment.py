"""The lock, environment.yml and the committed files: complete, in agreement, bound to no machine."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.utils import canonicalize_name

from mi_utils import environment

ROOT = Path(__file__).resolve().parent.parent
LOCK = (ROOT / "requirements.lock").read_text()
DIRECT = environment.direct((ROOT / "pyproject.toml").read_text())


def committed() -> list[Path]:
    listing = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout: there are no committed files to look at")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


# --- the lock ---


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_lock_pins_every_direct_dependency(python: str) -> None:
    assert set(DIRECT) <= set(environment.locked(LOCK, python))


def test_lock_gives_each_python_one_version_of_a_package() -> None:
    text = "a==1 ; python_full_version < '3.12'\na==2 ; python_full_version >= '3.12'\nb-c==3 \\\n --hash=x\n"
    assert environment.locked(text, "3.11") == {"a": "1", "b-c": "3"}
    assert environment.locked(text, "3.13") == {"a": "2", "b-c": "3"}


def test_lock_has_a_hash_for_every_package_and_names_no_host() -> None:
    packages = re.split(r"^(?=[a-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    assert len(packages) > len(DIRECT)
    assert [p.splitlines()[0] for p in packages if "--hash=sha256:" not in p] == []
    assert re.findall(r"\S+://\S+|^--\S*(?:index|links)\S*.*", LOCK, flags=re.MULTILINE) == []


def test_environment_yml_is_the_one_made_from_the_lock() -> None:
    assert (ROOT / "environment.yml").read_text() == environment.render(), "run `make lock`"


def test_environment_yml_pins_the_locked_versions() -> None:
    """Read independently of the code that writes the file."""
    recipe = yaml.safe_load((ROOT / "environment.yml").read_text())
    (python,) = [d for d in recipe["dependencies"] if isinstance(d, str) and d.startswith("python=")]
    (listed,) = [d["pip"] for d in recipe["dependencies"] if isinstance(d, dict)]
    assert python == "python=3.11"
    assert listed[-1] == "--editable ."
    pins = dict(line.split("==") for line in listed[:-1])
    assert sorted(pins) == DIRECT
    for name, version in pins.items():
        line = re.search(rf"^{name}=={re.escape(version)}( ; .*)? \\$", LOCK, flags=re.MULTILINE)
        assert line, f"{name}=={version} is not in requirements.lock"
        assert ">= '3.12'" not in line[0], f"{line[0]} is not for Python 3.11"


# --- imports ---


def imports(path: Path) -> set[str]:
    """Dotted names of the modules, or members of modules, that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_imported_package_is_a_declared_dependency() -> None:
    owners = packages_distributions()
    files = [*(ROOT / "mi_utils").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    modules = {name.split(".")[0] for path in files for name in imports(path)}
    own = {path.stem for path in (ROOT / "tests").rglob("*.py")} | {"mi_utils", "tests"}
    foreign = modules - sys.stdlib_module_names - own
    undeclared = {m for m in foreign if not set(map(canonicalize_name, owners.get(m, []))) & set(DIRECT)}
    assert undeclared == set()


LAYERS = (
    ("errors", "runtime", "stage", "store", "code_digest", "schedule"),
    ("models", "data"),
    ("attacks", "training", "metrics", "report"),
    ("studies",),
    ("scoring",),
    ("audit",),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


@pytest.mark.parametrize("room", RANK)
def test_imports_point_down(room: str) -> None:
    """Studies import attacks and metrics, never the other way round; metrics never import attacks."""
    base = ROOT / "mi_utils" / room
    files = [path for path in (*base.rglob("*.py"), base.with_suffix(".py")) if path.exists()]
    used = {name for path in files for name in imports(path)}
    rooms = {name.split(".")[1] for name in used if name.startswith("mi_utils.")} & set(RANK)
    assert {other for other in rooms if RANK[other] > RANK[room]} == set()
    assert room != "metrics" or "attacks" not in rooms


# --- the committed files ---

# Written in pieces, so that this file does not contain what it looks for.
MACHINE = ["/wo" + "rk/", "/fa" + "rm/", "/ro" + "ot/", "/ho" + "me/", "/tmp/" + "bash", "/tmp/" + "ipy"]
REGISTRY = ["python" + "hosted", "pypi" + ".org", "registry." + "npm", "deb." + "debian", "repo." + "conda"]


def test_no_committed_file_names_a_machine_path_or_a_registry_host() -> None:
    pattern = re.compile("|".join(map(re.escape, MACHINE + REGISTRY)))
    hits = []
    for path in committed():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        hits += [f"{path.relative_to(ROOT)}: {match[0]}" for match in pattern.finditer(text)]
    assert hits == []


def test_no_committed_file_is_over_5_mb() -> None:
    assert [str(path.relative_to(ROOT)) for path in committed() if path.stat().st_size > 5_000_000] == []


def test_committed_notebooks_hold_no_outputs() -> None:
    for path in committed():
        if path.suffix == ".ipynb" and path.parent == ROOT / "notebooks":
            code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
            assert [c.source for c in code if c.outputs or c.execution_count is not None] == [], path.name

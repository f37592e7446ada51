"""environment.yml for conda users, written from requirements.lock: `python -m mi_utils.environment`."""

import re
import tomllib
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PYTHON = "3.11"

HEADER = f"""\
# Written by `make lock` from requirements.lock; do not edit.
#   conda env create -f environment.yml && conda activate mi_utils
#   python -m mi_utils reproduce
name: mi_utils
channels:
  - conda-forge
dependencies:
  - python={PYTHON}
  - pip
  - pip:
"""


def locked(text: str, python: str = PYTHON) -> dict[str, str]:
    """Name -> version of the lines of a lock whose marker holds on 64-bit Linux under `python` ("3.11")."""
    target = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    versions = {}
    for line in re.findall(r"^[A-Za-z0-9][^\\\n]*", text, flags=re.MULTILINE):
        pin, _, marker = line.partition(" ; ")
        if not marker or Marker(marker).evaluate(target):
            name, version = pin.strip().split("==")
            versions[canonicalize_name(name)] = version
    return versions


def direct(text: str) -> list[str]:
    """Names of the direct dependencies, tests included, in the text of a pyproject.toml."""
    project = tomllib.loads(text)["project"]
    required = project["dependencies"] + project["optional-dependencies"]["test"]
    return sorted(canonicalize_name(Requirement(r).name) for r in required)


def render(root: Path = ROOT) -> str:
    """The text of environment.yml that fits the pyproject.toml and requirements.lock in `root`."""
    versions = locked((root / "requirements.lock").read_text())
    pins = [f"{name}=={versions[name]}" for name in direct((root / "pyproject.toml").read_text())]
    return HEADER + "".join(f"      - {line}\n" for line in [*pins, "--editable ."])


if __name__ == "__main__":
    print(render(), end="")

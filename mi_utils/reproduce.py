"""Run the papers' notebooks headless; their results land in figures/<profile>/<paper>/."""

import difflib
import os
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import papermill
import psutil
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from mi_utils import plain_yaml
from mi_utils.errors import UserError, one_line

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
FIGURES = ROOT / "figures"
OTHERS = frozenset({"your_model"})  # notebooks that reproduce no paper


class OwnKernel(AsyncKernelManager):
    """A kernel of the interpreter that runs now, whatever kernels the user has registered as "python3"."""

    @property
    def kernel_spec(self) -> KernelSpec:
        # Critical messages only: an interrupted kernel would log its closing sockets.
        return KernelSpec(**get_kernel_dict(extra_arguments=["--log-level=50"]))


class PeakMemory:
    """Context manager: `bytes` is the largest resident memory seen of this process and all its children.

    Sampled every 2 s: a look at every page of some large processes takes a while.  On Linux a page that n processes
    share counts 1/n in each; elsewhere not at all.
    """

    def __enter__(self) -> "PeakMemory":
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        here = psutil.Process()
        while True:
            self.bytes = max(self.bytes, sum(map(_resident, [here, *here.children(recursive=True)])))
            if self._stop.wait(2):
                return


def _resident(process: psutil.Process) -> int:
    try:
        full = process.memory_full_info()
        return getattr(full, "pss", full.uss)
    except psutil.NoSuchProcess:  # it ended between the listing and the reading
        return 0


@dataclass(frozen=True)
class Request:
    """What a reproduction was asked for: the parameters of every notebook."""

    profile: str = "laptop"
    device: str = "auto"
    cluster: str | None = None  # a word or a YAML mapping
    workers: int | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    figures: Path = FIGURES

    def parameters(self) -> dict[str, Any]:
        """The papermill parameters; the output folder relative to notebooks/, so that no path of the machine
        is written into the executed notebook."""
        return {
            "profile": self.profile,
            "device": self.device,
            "cluster": self.cluster,
            "workers": self.workers,
            "overrides": self.overrides,
            "figures": os.path.relpath(self.figures, NOTEBOOKS),
        }


def one_of(value: str, allowed: Iterable[str], what: str) -> str:
    """`value` when it is allowed; else UserError with the nearest allowed name."""
    allowed = list(allowed)
    if value in allowed:
        return value
    near = difflib.get_close_matches(value, allowed, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UserError(f"{what}: expected one of {', '.join(allowed)}, found {value!r}{hint}")


def papers() -> list[str]:
    """Papers that have a notebook."""
    found = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb") if path.stem not in OTHERS)
    if not found:
        raise UserError(f"notebooks: expected <paper>.ipynb in {NOTEBOOKS}, found none; run from a clone")
    return found


def chosen(names: Sequence[str] | None) -> list[str]:
    """The named papers, each once; all of them for None."""
    known = papers()
    return [one_of(name, known, "paper") for name in dict.fromkeys(names or known)]


def parse_overrides(texts: Sequence[str]) -> dict[str, Any]:
    """One dict from YAML mappings such as '{seeds: 1}'; a later mapping wins."""
    overrides: dict[str, Any] = {}
    for text in texts:
        overrides |= plain_yaml.mapping(text, "--set", "'{seeds: 1}'")
    return overrides


def validate(names: Iterable[str], request: Request) -> None:
    """Raise UserError for an unknown device, cluster, profile or field before any kernel starts."""
    from mi_utils import cluster, runtime, studies

    runtime.device(request.device)
    asked = cluster.chosen(request.cluster)
    if asked:
        asked.device(request.device)
    for name in names:
        studies.PAPERS[name].plan(request.profile, **request.overrides)


def execute(paper: str, request: Request) -> Path:
    """Execute one notebook; returns the folder of its results.

    The executed notebook appears under its name only when complete; one that failed is kept as
    <paper>.failed.ipynb. Raises papermill.PapermillExecutionError when a cell fails.
    """
    folder = request.figures / request.profile / paper
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{paper}.{os.getpid()}.ipynb"
    failed = folder / f"{paper}.failed.ipynb"
    try:
        book = papermill.execute_notebook(
            NOTEBOOKS / f"{paper}.ipynb", part.absolute(), request.parameters(), cwd=NOTEBOOKS,
            kernel_name="python3", language="python", kernel_manager_class=OwnKernel,
            progress_bar=False, stderr_file=sys.stderr,  # the stages' progress, as it comes
        )  # fmt: skip
    except papermill.PapermillExecutionError:
        part.replace(failed)
        raise
    else:
        book.metadata.papermill.update(input_path=f"notebooks/{paper}.ipynb", output_path=f"{paper}.ipynb")
        nbformat.write(book, part)
        part.replace(folder / f"{paper}.ipynb")
        failed.unlink(missing_ok=True)
    finally:
        part.unlink(missing_ok=True)
    return folder


def reproduce(names: Sequence[str], request: Request) -> int:
    """Run the notebooks of the papers one after another; returns how many failed. Prints a line for each."""
    validate(names, request)
    failures = 0
    for name in names:
        print(f"{name}: profile {request.profile}, device {request.device}", flush=True)
        start = time.monotonic()
        try:
            with PeakMemory() as memory:
                folder = execute(name, request)
        except papermill.PapermillExecutionError as error:
            failures += 1
            folder = request.figures / request.profile / name
            print(f"error: {name}: {one_line(cause(error))}", file=sys.stderr)
            print(f"       see {shown(folder / f'{name}.failed.ipynb')}", file=sys.stderr)
        else:
            spent = f"{time.monotonic() - start:.0f} s, peak memory {memory.bytes / 2**30:.1f} GiB"
            print(f"{name}: done in {spent}; results in {shown(folder)}", flush=True)
    print(report(request.figures, request.profile), flush=True)
    return failures


def report(figures: Path, profile: str) -> str:
    """Build the page and the scorecard from what lies in figures/<profile>/; returns a line that says where."""
    from mi_utils import studies
    from mi_utils.report.build import build

    page = build(figures, profile, list(studies.PAPERS), NOTEBOOKS)
    return f"report: {shown(page)}, {page.stat().st_size / 1e6:.1f} MB; scorecard.md, .csv and .json beside it"


def cause(error: papermill.PapermillExecutionError) -> str:
    """One line for a failed cell: a UserError's own message, else the exception's name and message."""
    message = " ".join(str(error.evalue).split())
    return message if error.ename == "UserError" else f"cell {error.exec_count}: {error.ename}: {message}"


def shown(path: Path) -> str:
    """`path` as short as it can be from the working directory."""
    return min(str(path), os.path.relpath(path), key=len)

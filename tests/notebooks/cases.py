"""What holds of every paper's notebook, run by plain papermill at `smoke` in a store and a figures folder of its own.

A module a paper takes these tests in and names its `PAPER`, so that two papers run at one time.
"""

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import papermill
import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
PARAMETERS = {"profile", "device", "cluster", "workers", "overrides", "figures"}


class Place(NamedTuple):
    """Where one notebook's runs keep their results."""

    store: Path
    figures: Path


class Run(NamedTuple):
    place: Place
    results: Path


def run(name: str, place: Place, **parameters: Any) -> Run:
    """Plain papermill, as a user would call it from notebooks/."""
    given = {"profile": "smoke", "figures": str(place.figures), "workers": 1} | parameters
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MI_STORE", str(place.store))
        papermill.execute_notebook(
            NOTEBOOKS / f"{name}.ipynb", place.figures.parent / f"{name}.ipynb", given,
            cwd=NOTEBOOKS, progress_bar=False,
        )  # fmt: skip
    return Run(place, place.figures / given["profile"] / name)


def stored(place: Place) -> dict[str, int]:
    """Every file of the store and when it was written; lock files are touched by readers too."""
    files = (p for p in place.store.rglob("*") if p.is_file() and p.suffix != ".lock")
    return {str(p.relative_to(place.store)): p.stat().st_mtime_ns for p in files}


@pytest.fixture(scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return request.module.PAPER


@pytest.fixture(scope="module")
def place(name: str, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp(name)
    return Place(folder / "store", folder / "figures")


@pytest.fixture(scope="module")
def first(name: str, place: Place) -> Run:
    return run(name, place)


def test_source_has_no_outputs_and_takes_the_common_parameters(name: str) -> None:
    path = NOTEBOOKS / f"{name}.ipynb"
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [c.source for c in code if c.outputs or c.execution_count is not None] == []
    assert set(papermill.inspect_notebook(path)) >= PARAMETERS


def test_cold_run_writes_scores_claims_and_provenance(first: Run) -> None:
    with (first.results / "scores.csv").open() as file:
        assert len(list(csv.DictReader(file))) > 0
    assert json.loads((first.results / "claims.json").read_text())
    assert json.loads((first.results / "provenance.json").read_text())
    assert list(first.results.rglob("*.png"))


def test_second_run_trains_nothing(name: str, first: Run) -> None:
    before = stored(first.place)
    scores = (first.results / "scores.csv").read_bytes()
    second = run(name, first.place)
    assert before
    assert stored(first.place) == before
    assert (second.results / "scores.csv").read_bytes() == scores


@pytest.mark.parametrize("wrong", [{"profile": "laptpo"}, {"overrides": {"no_such_field": 1}}], ids=str)
def test_unknown_profile_or_field_stops_with_one_line(name: str, place: Place, wrong: dict[str, Any]) -> None:
    before = stored(place)
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        run(name, place, **wrong)
    assert caught.value.ename == "UserError"
    assert "\n" not in caught.value.evalue
    assert "laptpo" in caught.value.evalue or "no_such_field" in caught.value.evalue
    assert stored(place) == before

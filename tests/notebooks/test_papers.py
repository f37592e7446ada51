"""Every paper has a notebook, and every notebook of a paper its tests."""

from pathlib import Path

from mi_utils import studies
from mi_utils.reproduce import papers


def test_every_paper_has_its_notebook_and_its_tests() -> None:
    assert papers() == sorted(studies.PAPERS)
    assert "patch_mi" in papers()
    tests = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert tests - {"papers"} == set(papers())

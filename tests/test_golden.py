"""A dependency upgrade that changes numbers is noticed, and said so."""

import copy
import json

import pytest

from tests.golden import FILE, VALUES, computed, verdict, versions


@pytest.fixture(scope="module")
def recorded() -> dict:
    return json.loads(FILE.read_text(encoding="utf-8"))


def test_numbers_are_those_that_were_recorded(recorded: dict) -> None:
    assert set(recorded["values"]) == set(VALUES)
    said = verdict(recorded, versions(), computed())
    assert not said, said


def test_an_upgrade_that_changes_numbers_is_named(recorded: dict) -> None:
    values, newer = copy.deepcopy(recorded["values"]), recorded["versions"] | {"torch": "9.0"}
    assert verdict(recorded, newer, values) == "", "an upgrade by itself is no reason"
    values["convolution"][2] += 0.01
    said = verdict(recorded, newer, values)
    assert said.startswith(f"a dependency upgrade (torch {recorded['versions']['torch']} -> 9.0) changed numbers")
    assert "convolution by " in said and "DDCS" not in said and "python -m tests.golden" in said and "\n" not in said
    assert verdict(recorded, recorded["versions"], values).startswith("no dependency but the code or the machine")
    values["DDCS"] = values["DDCS"][:-1]
    assert "DDCS by inf" in verdict(recorded, newer, values)


def test_values_depend_on_what_they_name(recorded: dict) -> None:
    for values in recorded["values"].values():
        assert len(set(values)) >= 3 and max(map(abs, values)) > 1e-3

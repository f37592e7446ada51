"""The simulated schedule against closed forms, bounds, and the real graph of a paper."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_utils import reproduce, studies
from mi_utils.errors import UserError
from mi_utils.schedule import in_order
from mi_utils.simulate import graph_of, longest_below, makespan, measured, report

FORK = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}


@pytest.mark.parametrize("slots", [1, 3, 100])
@pytest.mark.parametrize("barrier", [False, True])
def test_a_chain_gains_nothing(slots: int, barrier: bool) -> None:
    chain = {str(i): (str(i - 1),) if i else () for i in range(6)}
    assert makespan(chain, {str(i): i + 1.0 for i in range(6)}, slots, barrier) == 21


@pytest.mark.parametrize(("jobs", "slots", "wanted"), [(12, 1, 24), (12, 4, 6), (13, 4, 8), (3, 8, 2), (0, 2, 0)])
def test_equal_independent_jobs_fill_the_slots(jobs: int, slots: int, wanted: float) -> None:
    assert makespan({str(i): () for i in range(jobs)}, {str(i): 2.0 for i in range(jobs)}, slots) == wanted


def test_the_longest_path_goes_first() -> None:
    # Three hours in a row beside three single ones: on two machines 3 hours, 4 where the chain begins last.
    graph = {"x": (), "y": (), "z": (), "a": (), "b": ("a",), "c": ("b",)}
    assert makespan(graph, dict.fromkeys(graph, 1.0), 2) == 3
    assert longest_below(graph, dict.fromkeys(graph, 1.0)) == {"x": 1, "y": 1, "z": 1, "a": 3, "b": 2, "c": 1}


def test_levels_wait_for_their_slowest() -> None:
    graph = {"a": (), "b": (), "below a": ("a",)}
    seconds = {"a": 1.0, "b": 5.0, "below a": 5.0}
    assert makespan(graph, seconds, 2) == 6
    assert makespan(graph, seconds, 2, barrier=True) == 10


def test_a_diamond() -> None:
    seconds = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    assert [makespan(FORK, seconds, slots) for slots in (1, 2, 9)] == [10, 8, 8]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.sets(st.integers(0, 7))), min_size=1, max_size=8), st.integers(1, 4))
def test_bounds_of_list_scheduling(jobs: list[tuple[int, set[int]]], slots: int) -> None:
    graph = {str(i): tuple(str(j) for j in needed if j < i) for i, (_, needed) in enumerate(jobs)}
    seconds = {str(i): float(length) for i, (length, _) in enumerate(jobs)}
    total, path = sum(seconds.values()), max(longest_below(graph, seconds).values())
    found = makespan(graph, seconds, slots)
    assert max(path, total / slots) <= found <= total / slots + (1 - 1 / slots) * path + 1e-9
    assert found <= makespan(graph, seconds, 1) == total
    assert makespan(graph, seconds, slots, barrier=True) >= max(path, total / slots) - 1e-9


def test_committed_seconds_stand_for_every_stage_of_a_profile() -> None:
    stages = in_order(list(studies.PAPERS["patch_mi"].plan("smoke").stages))
    estimate = measured(stages, reproduce.FIGURES / "laptop" / "patch_mi")
    assert sum(estimate.sources.values()) == len(stages) == len(estimate.seconds)
    assert all(value > 0 for value in estimate.seconds.values())
    graph = graph_of(stages)
    one, many = (makespan(graph, estimate.seconds, slots) for slots in (1, 8))
    assert one == pytest.approx(sum(estimate.seconds.values())) and one / 8 <= many < one


def test_a_report_says_what_it_rests_on(tmp_path: Path) -> None:
    figures = reproduce.FIGURES / "laptop" / "patch_mi"
    lines = report("patch_mi", "smoke", figures, [1, 4], 1, 2.0, 10.0).splitlines()
    assert lines[0].startswith("patch_mi, profile smoke: ") and lines[1].endswith(", x 2")
    assert [line.split()[0] for line in lines[2:]] == ["nodes", "1", "4"]
    with pytest.raises(UserError, match="expected .*provenance.json of a run"):
        report("patch_mi", "smoke", tmp_path, [1], 1, 1.0, 0.0)

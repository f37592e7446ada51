"""Several processes on one store, workers and parents that are killed, memory that ends, a disk that fills."""

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
import recipes
from fork_client import Forks
from forks import Order, Report
from test_kills import found, same

TRAILS = [name for name in recipes.TOYS if name.startswith("trail")]


@pytest.fixture(scope="module")
def undisturbed(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("undisturbed") / "store"
    (report,) = forks.ask(Order(stages=[*TRAILS, "short"], store=str(place)))
    assert (report["signal"], report["said"], report["logged"]) == (0, "", [])
    return place


def ended_well(
    place: Path, undisturbed: Path, reports: list[Report], patch: pytest.MonkeyPatch, tally: Counter,
    names: list[str] = TRAILS,
) -> None:  # fmt: skip
    """Everything is there, and to the bit as nothing had happened."""
    stages = [recipes.TOYS[name] for name in names]
    served = [found(stage, place, patch) for stage in stages]
    wrong = [s is not None and not same(s, found(t, undisturbed, patch)) for s, t in zip(served, stages, strict=True)]
    tally["lost"] += served.count(None)
    tally["wrong"] += sum(wrong)
    assert served.count(None) == 0 and not any(wrong)
    assert not [r for r in reports if r["signal"] or r["said"] or r["logged"] or r["orphans"]]


@pytest.mark.parametrize("processes", [2, 5])
def test_many_processes_on_one_store_with_kills_among_them(
    processes: int, forks: Forks, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Counter,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    place, chance = tmp_path / "store", random.Random(processes)
    for _ in range(2 * request.config.getoption("--kills", 1)):
        orders = [Order(stages=chance.sample(TRAILS, len(TRAILS)), store=str(place)) for _ in range(processes)]
        for order in orders[:-1]:
            order["operation"] = chance.randint(1, 150)
        reports = forks.ask(*orders)
        tally["kills"] += sum(r["signal"] > 0 for r in reports)
        # One of them is left alone: it ends with everything, whatever happens to the others.
        ended_well(place, undisturbed, [r for r in reports if not r["signal"]], monkeypatch, tally)
        shutil.rmtree(place)


@pytest.mark.parametrize("victim", ["parent", "worker"])
def test_a_killed_parent_or_worker_of_a_pool(
    victim: str, forks: Forks, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Counter,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    chance = random.Random(victim)
    for turn in range(2 * request.config.getoption("--kills", 1)):
        place = tmp_path / f"store{turn}"
        order = Order(stages=TRAILS, store=str(place), workers=2)
        while True:
            (report,) = forks.ask(order | {"wall": chance.uniform(0.0, 0.5), "worker": victim == "worker"})
            assert not report["orphans"], "a worker outlived its parent by a minute"
            if report["signal"] or report["said"]:
                break
            shutil.rmtree(place)
        tally["kills"] += 1
        tally["of workers"] += victim == "worker"
        if victim == "worker":
            assert (
                report["raised"] == "StageFailed" and "a worker process was killed (out of memory?)" in report["said"]
            )
            assert "\n" not in report["said"] and "it goes on from the last checkpoints" in report["said"]
        ended_well(place, undisturbed, forks.ask(order), monkeypatch, tally)


@pytest.mark.parametrize("workers", [1, 2])
def test_memory_that_ends_is_one_line_and_costs_no_other_result(
    workers: int, forks: Forks, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Counter
) -> None:
    place = tmp_path / "store"
    order = Order(stages=["trail 0", "hungry", "trail 1"], store=str(place), workers=workers)
    (report,) = forks.ask(order | {"memory": 512 << 20})
    tally["faults"] += 1
    assert report["raised"] == "StageFailed" and "\n" not in report["said"]
    assert "Hungry" in report["said"] and "memory" in report["said"], report["said"]
    reports = forks.ask(Order(stages=TRAILS, store=str(place)))
    ended_well(place, undisturbed, reports, monkeypatch, tally)


@pytest.mark.parametrize("name", ["short", "diverging"])
def test_a_disk_that_fills_at_any_write(
    name: str, disk, forks: Forks, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, tally: Counter,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """Before each file operation in turn: results, checkpoints, progress, what a failure leaves, locks, exca's."""
    mounted = disk("size=1m")
    place, ballast = mounted / "store", mounted / "ballast"
    order = Order(stages=[name], store=str(place), ballast=str(ballast))
    (plain,) = forks.ask(order)
    every = range(1, plain["operations"] + 1, max(1, 4 - request.config.getoption("--kills", 1)))
    for operation in every:
        shutil.rmtree(place, ignore_errors=True)
        (report,) = forks.ask(order | {"fill": operation})
        tally["faults"] += 1
        assert report["signal"] == 0 and "\n" not in report["said"], report
        full = "no space left in" in report["said"] and "set MI_STORE to another disk" in report["said"]
        assert full or report["said"] == plain["said"] or "diverged" in report["said"], (operation, report["said"])
        served = place.exists() and found(recipes.TOYS[name], place, monkeypatch)
        tally["half-written"] += bool(served) and not same(served, found(recipes.TOYS[name], undisturbed, monkeypatch))
        ballast.unlink(missing_ok=True)
        (again,) = forks.ask(order)
        assert (again["raised"], again["logged"]) == (plain["raised"], []), (operation, again)
        if name != "diverging":
            ended_well(place, undisturbed, [again], monkeypatch, tally, [name])
    assert not tally["half-written"]

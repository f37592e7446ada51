"""kill -9 at random moments of every stage, of the parent, of workers, and of several processes on one store."""

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
import recipes
import torch
from fork_client import Forks
from forks import Order, Report

from mi_utils import store
from mi_utils.schedule import in_order
from mi_utils.stage import Stage

KINDS = ("cpu", "operation", "bytes")
TRIES = 6  # of one kill: a moment drawn may lie after the end


@pytest.fixture(scope="module")
def undisturbed(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with every stage, computed by processes that nothing happened to."""
    place = tmp_path_factory.mktemp("undisturbed") / "store"
    (report,) = forks.ask(Order(stages=list(recipes.smallest()), store=str(place), workers=2, real=True))
    assert (report["signal"], report["said"], report["logged"]) == (0, "", [])
    return place


def found(stage: Stage, place: Path, patch: pytest.MonkeyPatch) -> tuple[dict[str, torch.Tensor], dict] | None:
    """What the store at this place would serve of a stage, every byte checked; None where it has nothing."""
    with patch.context() as here:
        here.setenv("MI_STORE", str(place))
        if not stage.stored():
            return None
        tensors, meta, _ = store.load(stage.folder, stage.key)
        return tensors, meta


def same(one: tuple[dict, dict] | None, other: tuple[dict, dict] | None) -> bool:
    if one is None or other is None:
        return one is other
    equal = one[0].keys() == other[0].keys() and all(
        torch.equal(one[0][n], other[0][n]) or _nan_alike(one[0][n], other[0][n]) for n in one[0]
    )
    return equal and repr(one[1]) == repr(other[1])


def _nan_alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.numpy().tobytes() == other.numpy().tobytes()


def moment(chance: random.Random, kind: str, plain: Report, size: int, earlier: int) -> dict[str, float | int]:
    """When a child dies, drawn anew at each try: of its processor time, its file operations, or a file's bytes."""
    if kind == "cpu":
        return {"cpu": chance.uniform(0, plain["cpu"]) / (1 + earlier)}
    if kind == "operation":
        return {"operation": chance.randint(1, plain["operations"])}
    return {"bytes": chance.randint(1, max(2, size >> earlier))}


def test_the_stages_are_all_that_the_studies_compute() -> None:
    from mi_utils import studies

    planned = {type(s).__name__ for p in studies.PAPERS.values() for s in in_order(p.plan("smoke").stages)}
    assert set(recipes.smallest()) == planned and len(planned) > 40


def test_every_stage_ends_with_the_same_bits_whenever_it_is_killed(
    kills: int, forks: Forks, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Counter
) -> None:
    place, wrong = tmp_path / "store", []
    shutil.copytree(undisturbed, place, symlinks=True)
    for name, stage in recipes.smallest().items():
        expected, chance = found(stage, undisturbed, monkeypatch), random.Random(name)
        with monkeypatch.context() as here:
            here.setenv("MI_STORE", str(place))
            folder = stage.folder
        size = max(file.stat().st_size for file in (folder / "output").iterdir())
        shutil.rmtree(folder)
        order = Order(stages=[name], store=str(place), real=True)
        (plain,) = forks.ask(order)
        shutil.rmtree(folder)
        kinds = [chance.choice(KINDS), *KINDS][:kills]
        for kind in kinds:
            for earlier in range(TRIES):
                (report,) = forks.ask(order | moment(chance, kind, plain, size, earlier))
                served = found(stage, place, monkeypatch)
                if served is not None and not same(served, expected):
                    tally["half-written"] += 1
                    wrong.append(f"{name}: served after a kill")
                if report["signal"]:
                    tally["kills"] += 1
                    tally["in a write"] += kind == "bytes"
                    break
                shutil.rmtree(folder)
        (report,) = forks.ask(order)
        served = found(stage, place, monkeypatch)
        if served is None or report["said"] or report["signal"]:
            tally["lost"] += 1
            wrong.append(f"{name}: {report['said'] or 'no result'}")
        elif not same(served, expected):
            tally["wrong"] += 1
            wrong.append(f"{name}: another result")
        wrong += [f"{name}: {line}" for line in report["logged"]]
    assert not wrong

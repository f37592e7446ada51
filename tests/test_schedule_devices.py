"""Several GPUs in one machine: which worker gets which, with a device count of the test's own."""

import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mi_utils import runtime, schedule
from mi_utils.errors import UserError
from mi_utils.schedule import Pool, Watch, devices, shared_out
from mi_utils.stage import Job, Output, Stage

FOUR = ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]


class Where(Stage):
    """Tells the device that it was given."""

    seed: int = 0

    def compute(self, job: Job) -> Output:
        return Output(meta={"device": str(job.device)})


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MI_STORE", str(tmp_path / "store"))


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


@pytest.mark.parametrize(("name", "wanted"), [("auto", FOUR), ("cuda", FOUR), ("cuda:2", ["cuda:2"]), ("cpu", ["cpu"])])
def test_a_name_allows_all_gpus_or_the_one_it_names(name: str, wanted: list[str], four: None) -> None:
    assert devices(name) == wanted


def test_a_gpu_that_is_not_there_is_refused(four: None) -> None:
    with pytest.raises(UserError, match="^device: 'cuda:4' asks for a GPU, found 4"):
        devices("cuda:4")


@pytest.mark.parametrize(
    ("places", "workers", "most", "wanted"),
    [
        (FOUR, None, 99, FOUR),
        (FOUR, None, 2, FOUR[:2]),
        (FOUR, 2, 99, FOUR[:2]),
        (FOUR, 6, 99, [*FOUR, *FOUR[:2]]),
        (FOUR, 6, 5, [*FOUR, FOUR[0]]),
        (["cuda:2"], None, 99, ["cuda:2"]),
        (["cpu"], 3, 99, ["cpu"] * 3),
        (["cpu"], None, 99, ["cpu"] * 5),
        (["cpu"], None, 1, ["cpu"]),
    ],
)
def test_workers_are_spread_over_the_devices(
    places: list[str], workers: int | None, most: int, wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "_cores", lambda: 5)
    assert shared_out(places, workers, most) == wanted


def test_a_run_on_several_gpus_gives_the_pool_one_worker_each(four: None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(Pool, "run", lambda self, todo: asked.append((self.devices, len(todo))))
    schedule.run([Where(seed=seed) for seed in range(9)], progress=False)
    assert asked == [(FOUR, 9)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="cuda:7 must not be there")
def test_a_worker_computes_on_the_device_it_was_given() -> None:
    with pytest.raises(UserError, match="^device: 'cuda:7' asks for a GPU, found 0"):
        Pool(["cuda:7", "cuda:7"], Watch(2, visible=False)).run([Where(seed=1), Where(seed=2)])
    Pool(["cpu", "cpu"], Watch(2, visible=False)).run([Where(seed=1), Where(seed=2)])
    assert Where(seed=1).result().meta["device"] == "cpu" and Where(seed=2).stored()


def test_no_two_workers_get_the_same_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "_OWN_DEVICE", [])
    monkeypatch.setattr(schedule.signal, "signal", lambda *given: None)
    monkeypatch.setattr(schedule.threading, "Thread", lambda **given: SimpleNamespace(start=lambda: None))
    monkeypatch.setattr(schedule.multiprocessing, "parent_process", lambda: None)
    left = multiprocessing.get_context("spawn").SimpleQueue()
    for place in FOUR:
        left.put(place)
    for _ in FOUR:
        schedule._begin_worker(left)
    assert schedule._OWN_DEVICE == FOUR and left.empty()


@pytest.mark.skipif(not torch.cuda.is_available() or torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_numbers_are_the_same_on_either_gpu() -> None:
    one, other = (runtime.generator("same", device=f"cuda:{index}") for index in range(2))
    drawn = [torch.randn(999, generator=g, device=g.device).cpu() for g in (one, other)]
    assert torch.equal(*drawn)

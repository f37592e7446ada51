"""Several GPUs in one machine: which worker gets which, with a device count of the test's own."""

import time
from pathlib import Path

import pytest
import torch

from mi_utils import runtime, schedule
from mi_utils.errors import UserError
from mi_utils.schedule import Pool, Watch, devices, shared_out
from mi_utils.stage import Job, Output, Stage

FOUR = ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]


class Where(Stage):
    """Tells the device that it was given, after long enough for every worker to have a stage."""

    seed: int = 0
    pause: float = 0.0

    def compute(self, job: Job) -> Output:
        time.sleep(self.pause)
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
def test_each_worker_keeps_the_device_it_was_given() -> None:
    # Both stages run at the same time; the one whose worker has the missing GPU says so, the other is stored.
    stages = [Where(seed=1, pause=30.0), Where(seed=2, pause=30.0)]
    with pytest.raises(UserError, match="^device: 'cuda:7' asks for a GPU, found 0"):
        Pool(["cpu", "cuda:7"], Watch(2, visible=False)).run(stages)
    stored = [stage for stage in stages if stage.stored()]
    assert [stage.result().meta["device"] for stage in stored] == ["cpu"]


@pytest.mark.skipif(not torch.cuda.is_available() or torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_numbers_are_the_same_on_either_gpu() -> None:
    one, other = (runtime.generator("same", device=f"cuda:{index}") for index in range(2))
    drawn = [torch.randn(999, generator=g, device=g.device).cpu() for g in (one, other)]
    assert torch.equal(*drawn)

"""What the fault tests compute: a toy, and one stage of every class of the four studies, in its smallest form."""

from collections.abc import Iterable
from functools import cache

import torch

from mi_utils import studies
from mi_utils.schedule import in_order
from mi_utils.stage import Config, Job, Output, Stage, StageFailed

# At most this much of each wherever it is a field: a stage takes well under a second, and still has several steps.
MOST = {"iterations": 5, "steps": 4, "batch": 16, "width": 8, "d_width": 8, "pool": 16}


def _smaller(value: object, known: dict[str, Stage]) -> object:
    """A field's value with every config in it made smaller; a stage that is read twice stays one."""
    if isinstance(value, Stage):
        if value.key not in known:
            known[value.key] = value.model_copy(update=_fields(value, known))
        return known[value.key]
    if isinstance(value, Config):
        return value.model_copy(update=_fields(value, known))
    if isinstance(value, tuple | list):
        return type(value)(_smaller(item, known) for item in value)
    return {k: _smaller(v, known) for k, v in value.items()} if isinstance(value, dict) else value


def _fields(config: Config, known: dict[str, Stage]) -> dict[str, object]:
    found = {name: _smaller(getattr(config, name), known) for name in type(config).model_fields}
    small = {name: min(found[name], most) for name, most in MOST.items() if isinstance(found.get(name), int)}
    return found | small


def _first_of_each(stages: Iterable[Stage]) -> dict[str, Stage]:
    """By class name, the stage that needs the fewest others."""
    least: dict[str, tuple[int, Stage]] = {}
    for stage in stages:
        need = len(in_order([stage]))
        if need < least.get(type(stage).__name__, (need + 1,))[0]:
            least[type(stage).__name__] = need, stage
    return {name: stage for name, (_, stage) in least.items()}


@cache
def smallest() -> dict[str, Stage]:
    """The stage of each class, by the class's name; upstreams come before what needs them."""
    planned = [stage for paper in studies.PAPERS.values() for stage in paper.plan("smoke").stages]
    known: dict[str, Stage] = {}
    return {name: _smaller(stage, known) for name, stage in _first_of_each(in_order(planned)).items()}


class Trail(Stage):
    """Two loops over a training of three numbers; with `diverges` it fails at its end, in the manner of a training."""

    seed: int = 0
    steps: int = 3
    diverges: bool = False

    def compute(self, job: Job) -> Output:
        stream, place = torch.Generator().manual_seed(self.seed), torch.zeros(3, requires_grad=True)
        adam, curve = torch.optim.Adam([place], lr=0.1), []
        state = {"stream": stream, "place": place, "adam": adam, "curve": curve}
        for _ in range(2):
            for _ in job.steps(self.steps, state):
                loss = (place - torch.randn(3, generator=stream) - torch.rand(3)).square().sum()
                adam.zero_grad()
                loss.backward()
                adam.step()
                curve.append(loss.item())
        if self.diverges:
            raise StageFailed("loss: 1 of 3 values are NaN or infinite (diverged)")
        return Output({"place": place, "curve": torch.tensor(curve)}, {"steps": self.steps})


class Hungry(Stage):
    """Takes a gigabyte."""

    def compute(self, job: Job) -> Output:
        return Output({"sum": torch.ones(1 << 28).sum()})


TOYS: dict[str, Stage] = {f"trail {seed}": Trail(seed=seed) for seed in range(6)}
TOYS |= {"short": Trail(steps=1), "diverging": Trail(steps=1, diverges=True), "hungry": Hungry()}

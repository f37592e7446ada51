"""Which attacks fit a time budget, and with how many steps: decided from measured seconds, with no clock of its own."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

SHARE = 0.75  # of the budget for attacks; the rest is for measuring, scoring and the report
HALVINGS = 24


@dataclass(frozen=True)
class Part:
    """A computation of `least`..`full` steps that runs `times` one after another (the seeds of an attack).

    step, fixed: measured seconds of a step, and of all else.  multiple: what the number of steps is divisible by.
    """

    name: str
    step: float
    fixed: float
    least: int
    full: int
    times: int = 1
    multiple: int = 1

    def steps(self, scale: float) -> int:
        """The number of steps at a scale in [0, 1]."""
        wanted = int(self.least + scale * (self.full - self.least))
        return max(self.multiple, wanted // self.multiple * self.multiple)

    def seconds(self, scale: float) -> float:
        """All runs of it."""
        return self.times * (self.fixed + self.step * self.steps(scale))


@dataclass(frozen=True)
class Candidate:
    """An attack as parts that follow each other: first what it learns, then the search."""

    name: str
    parts: tuple[Part, ...]

    def seconds(self, scale: float) -> float:
        """On one process."""
        return sum(part.seconds(scale) for part in self.parts)


@dataclass(frozen=True)
class Choice:
    """What became of a candidate: steps by part where it is run, and why."""

    name: str
    steps: dict[str, int] | None
    seconds: float
    why: str

    @property
    def chosen(self) -> bool:
        """Whether it is run."""
        return self.steps is not None


def makespan(candidates: Sequence[Candidate], scale: float, workers: int) -> float:
    """Seconds until all are done on `workers` processes, the longest started first."""
    busy = [0.0] * workers
    for seconds in sorted((c.seconds(scale) for c in candidates), reverse=True):
        heapq.heapreplace(busy, busy[0] + seconds)
    return max(busy)


def choose(candidates: Sequence[Candidate], budget: float, workers: int) -> list[Choice]:
    """In the order given, every candidate whose shortest schedule still fits; then all as long as the budget allows.

    budget: seconds of the whole audit, of which the attacks get SHARE.  All schedules are lengthened by one scale.
    """
    allowed = SHARE * budget
    kept: list[Candidate] = []
    for candidate in candidates:
        if makespan([*kept, candidate], 0.0, workers) <= allowed:
            kept.append(candidate)
    scale = _largest(kept, allowed, workers)
    return [_choice(candidate, candidate in kept, scale, allowed, workers, kept) for candidate in candidates]


def _largest(kept: Sequence[Candidate], allowed: float, workers: int) -> float:
    """The largest scale in [0, 1] that fits, by halving."""
    if makespan(kept, 1.0, workers) <= allowed:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if makespan(kept, middle, workers) <= allowed else (low, middle)
    return low


def _choice(
    candidate: Candidate, kept: bool, scale: float, allowed: float, workers: int, others: Sequence[Candidate]
) -> Choice:
    """A candidate's fate in words."""
    if kept:
        steps = {part.name: part.steps(scale) for part in candidate.parts}
        share = "its full schedule" if scale == 1 else f"{100 * scale:.0f} % of the way from its shortest to its full"
        said = ", ".join(f"{n:,} steps ({name})" for name, n in steps.items())
        return Choice(candidate.name, steps, candidate.seconds(scale), f"{said}: {share}")
    least, used = candidate.seconds(0.0), makespan(others, 0.0, workers) if others else 0.0
    return Choice(
        candidate.name,
        None,
        least,
        f"its shortest schedule takes {least:.0f} s, which does not fit the {allowed:.0f} s for attacks ({used:.0f} s "
        f"are taken at the least, on {workers} process{'es' * (workers > 1)}); give more minutes",
    )

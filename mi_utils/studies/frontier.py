"""Which attack is accurate, and which covers the private images: one point per attack of a setting."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mi_utils.report.figures import Picture, colour
from mi_utils.report.panels import panels
from mi_utils.studies.plan import Run
from mi_utils.studies.tables import HOLDOUT, PRIOR, PUBLIC

TINTS = {HOLDOUT: "holdout", PRIOR: "prior", PUBLIC: "public"}


@dataclass(frozen=True)
class Reached:
    """Mean evaluator accuracy and coverage of one run, shares in [0, 1]."""

    attack: str
    accuracy: float
    coverage: float


def points(runs: Iterable[Run]) -> list[Reached]:
    """Of stored evaluations, the least accurate first."""
    found = []
    for run in runs:
        values = {metric: value for metric, c, value, _ in run.evaluation.result().meta["rows"] if c == "all"}
        found.append(Reached(run.attack, values["ensemble mean"], values["coverage"]))
    return sorted(found, key=lambda p: (p.accuracy, p.coverage))


def best(found: Sequence[Reached]) -> list[Reached]:
    """The points that no other reaches in both and beats in one, from high coverage to high accuracy."""

    def beaten(p: Reached) -> bool:
        others = [q for q in found if (q.accuracy, q.coverage) != (p.accuracy, p.coverage)]
        return any(q.accuracy >= p.accuracy and q.coverage >= p.coverage for q in others)

    return sorted((p for p in found if not beaten(p)), key=lambda p: (p.accuracy, -p.coverage))


def picture(found: Sequence[Reached], chosen: str, title: str) -> Picture:
    """Accuracy and coverage in per cent; the chosen point is ringed, the best are joined."""
    with panels([title], 5.0, 3.2) as (figure, (axis,)):
        front = best(found)
        axis.plot([100 * p.accuracy for p in front], [100 * p.coverage for p in front], color="#bbbbbb", zorder=1)
        for p in found:
            x, y = 100 * p.accuracy, 100 * p.coverage
            axis.scatter(x, y, color=colour(TINTS.get(p.attack, p.attack)), s=36, label=p.attack, zorder=2)
            if p.attack == chosen:
                axis.scatter(x, y, s=190, facecolors="none", edgecolors="#222222", linewidths=1.6, zorder=3)
        axis.set(xlabel="mean accuracy of the evaluators (%)", ylabel="coverage of private images (%)")
        axis.margins(0.1)
    return figure

"""What the ledgers of several studies share: scores as matrices, intervals of means and of paired differences."""

from collections.abc import Mapping
from functools import cache
from typing import ClassVar

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from mi_utils.metrics.intervals import Interval, difference_interval, mean_interval
from mi_utils.report.claims import Claim, Judgement, unjudged
from mi_utils.report.scores import matrix
from mi_utils.runtime import generator as seeded
from mi_utils.studies.plan import Plan

ACCURACY = "ensemble mean"


class Ledger:
    """Judges every claim on a plan's complete scores, each by the method of its id in lower case.

    A claim about "the" attack is judged on the first problem.  `row`: the setting that is meant where none is named.
    """

    claims: ClassVar[Mapping[str, Claim]]
    row: ClassVar[str]

    def __init__(self, plan: Plan, scores: pd.DataFrame, stand_in: str):
        self.plan, self.scores = plan, scores
        self.names = [bench.name for bench in plan.notes["benches"]]
        self.first = self.names[0]
        self.stand_in = None if plan.profile == "paper" else stand_in
        self.values = cache(self._values)

    def judge(self) -> list[Judgement]:
        """One judgement per claim, in order; at `smoke` none is judged."""
        if self.plan.profile == "smoke":
            return [unjudged(c, "the smoke profile only checks that everything runs") for c in self.claims.values()]
        return [self.judged(name, claim) for name, claim in self.claims.items()]

    def judged(self, name: str, claim: Claim) -> Judgement:
        """The judgement of one claim."""
        return getattr(self, name.lower())(claim)

    def _values(
        self, attack: str, metric: str = ACCURACY, setting: str | None = None, name: str | None = None
    ) -> Float[Tensor, "s c"]:
        """Scores (seeds, classes) of one row, by default of the first problem."""
        return matrix(self.scores, attack, f"{name or self.first} | {setting or self.row}", metric)[0]

    def mean(self, values: Tensor, *words: str) -> Interval:
        """Interval of a mean (of paired differences, for an effect)."""
        return mean_interval(values, seeded("bootstrap", *words))

    def difference(self, a: Tensor, b: Tensor, *words: str) -> Interval:
        """Interval of a paired difference."""
        return difference_interval(a, b, seeded("bootstrap", *words))

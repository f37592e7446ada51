"""Claims of a paper and their verdicts, by a few rules that all papers share.

A rule takes a claim and intervals that were computed elsewhere (95 %, over seeds then classes).  Numbers can
be reproduced on the paper's own data alone: on stand-in data their verdict is at most "partly".  Orders,
signs and associations may hold on stand-in data; the reason then names it.  Fewer than 3 seeds never decide
anything.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Literal

import pandas as pd
import pydantic
from pydantic import FiniteFloat

from mi_utils.errors import UserError
from mi_utils.metrics.intervals import Interval

LEAST_SEEDS = 3
Verdict = Literal["reproduced", "partly", "not reproduced", "cannot be judged here"]
GRADES: tuple[Verdict, ...] = ("not reproduced", "partly", "reproduced")
Kind = Literal["number", "order", "sign", "interaction", "association", "trend", "existence", "equivalence"]


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Claim(_Model):
    """What is claimed and who says so.  `published`: the source's number, None where no source states one."""

    id: str
    statement: str
    source: str
    kind: Kind
    published: str | None = None


class Judgement(_Model):
    """A claim with our value, its interval, n (seeds or pairs), and the verdict with its reason."""

    id: str
    statement: str
    source: str
    published: str
    value: FiniteFloat | None
    interval: tuple[FiniteFloat, FiniteFloat] | None
    n: int | None
    verdict: Verdict
    reason: str


class Effect(_Model):
    """One comparison: the claim holds when `interval` lies beyond `margin` in `direction` (+1 above, -1 below).

    `partly`: a weaker bound that the interval must clear for a partial success; None = the point beyond
    `margin`.
    """

    interval: Interval
    direction: Literal[1, -1] = 1
    margin: FiniteFloat = 0.0
    partly: FiniteFloat | None = None

    def holds(self, bound: float) -> bool:
        """The whole interval lies beyond the bound."""
        return self.interval.low > bound if self.direction > 0 else self.interval.high < bound

    def fails(self) -> bool:
        """The whole interval lies on the wrong side of the margin."""
        return self.interval.high < self.margin if self.direction > 0 else self.interval.low > self.margin

    def grade(self) -> int:
        """2 = holds, 1 = holds in part, 0 = neither."""
        if self.holds(self.margin):
            return 2
        if self.partly is not None:
            return int(self.holds(self.partly))
        return int(self.direction * (self.interval.point - self.margin) > 0)


def number(
    claim: Claim,
    interval: Interval,
    target: float,
    *,
    tolerance: float,
    partly_above: float | None = None,
    stand_in: str | None = None,
) -> Judgement:
    """Reproduced: the published number lies in the interval or within `tolerance` of the point.

    Partly: the same on stand-in data, or else a point of at least `partly_above`.  All in one unit.
    """
    if interval.n < LEAST_SEEDS:
        return _too_few(claim, interval)
    hit = interval.low <= target <= interval.high or abs(interval.point - target) <= tolerance
    words = f"published {target:g}, here {_text(interval)}, tolerance {tolerance:g}"
    if hit and stand_in is None:
        return _judged(claim, interval, "reproduced", words)
    close = hit or (partly_above is not None and interval.point >= partly_above)
    return _judged(claim, interval, "partly" if close else "not reproduced", words + _on(stand_in))


def effects(
    claim: Claim,
    found: Mapping[str, Effect],
    *,
    opposed: Literal["partly", "not reproduced"] = "partly",
    stand_in: str | None = None,
) -> Judgement:
    """Order, sign, interaction and trend: reproduced when every effect holds, partly when some do, else not.

    `opposed`: the best verdict left when an effect's whole interval lies on the wrong side.  The first effect
    is the headline whose value is reported; the reason states all of them.
    """
    if not found:
        raise UserError(f"claim {claim.id}: expected at least 1 effect, found 0; use unjudged with a reason")
    headline = next(iter(found.values())).interval
    fewest = min((e.interval for e in found.values()), key=lambda interval: interval.n)
    if fewest.n < LEAST_SEEDS:
        return _too_few(claim, fewest)
    grades = [effect.grade() for effect in found.values()]
    if min(grades) == 2:
        verdict: Verdict = "reproduced"
    elif max(grades) == 0:
        verdict = "not reproduced"
    else:
        verdict = opposed if any(effect.fails() for effect in found.values()) else "partly"
    return _judged(claim, headline, verdict, "; ".join(map(_sentence, found, found.values())) + _on(stand_in))


def association(
    claim: Claim,
    interval: Interval,
    direction: Literal[1, -1],
    *,
    strength: float = 0.0,
    stand_in: str | None = None,
) -> Judgement:
    """Correlation or slope.  Reproduced: interval excludes 0 in `direction` and |point| >= `strength`.

    Partly: the interval excludes 0 but the point is weaker; without a `strength`, the right sign of the
    point.
    """
    if interval.n < LEAST_SEEDS:
        return _too_few(claim, interval, "pairs")
    effect = Effect(interval=interval, direction=direction)
    strong = direction * interval.point >= strength
    partly = effect.holds(0) if strength > 0 else effect.grade() > 0
    verdict: Verdict = "reproduced" if effect.holds(0) and strong else "partly" if partly else "not reproduced"
    wanted = f"{'>=' if direction > 0 else '<='} {direction * strength:g} asked" if strength else "sign asked"
    return _judged(claim, interval, verdict, f"{_text(interval)}, {wanted}" + _on(stand_in))


def existence(claim: Claim, by_seed: Mapping[int, bool], *, stand_in: str | None = None) -> Judgement:
    """Something occurs.  Reproduced: in every seed; partly: in some; not reproduced: in none."""
    n, hits = len(by_seed), sum(by_seed.values())
    if n < LEAST_SEEDS:
        return unjudged(claim, f"found {n} seeds, {LEAST_SEEDS} are needed")
    verdict: Verdict = "reproduced" if hits == n else "partly" if hits else "not reproduced"
    share = Interval(hits / n, hits / n, hits / n, n)
    judged = _judged(claim, share, verdict, f"seen in {hits} of {n} seeds" + _on(stand_in))
    return judged.model_copy(update={"interval": None})


def equivalence(
    claim: Claim,
    interval: Interval,
    margin: float,
    *,
    partly: float | None = None,
    stand_in: str | None = None,
) -> Judgement:
    """A difference that should be nil.  Reproduced: interval within ±margin; partly: within ±`partly`; else not."""
    if interval.n < LEAST_SEEDS:
        return _too_few(claim, interval)
    reach = max(abs(interval.low), abs(interval.high))
    inside = reach <= margin
    close = partly is not None and reach <= partly
    verdict: Verdict = "reproduced" if inside else "partly" if close else "not reproduced"
    return _judged(claim, interval, verdict, f"difference {_text(interval)}, margin ±{margin:g}" + _on(stand_in))


def signed(interval: Interval, direction: Literal[1, -1] = 1) -> Effect:
    """An effect that holds or does not: only an interval that excludes 0 counts, even for a part."""
    return Effect(interval=interval, direction=direction, partly=0.0)


def regraded(judged: Judgement, grade: int, words: str = "") -> Judgement:
    """The verdict where a claim has a rule of its own: 2 = reproduced, 1 = partly, 0 = not.  The unjudged stay so."""
    if judged.verdict == "cannot be judged here":
        return judged
    return judged.model_copy(
        update={"verdict": GRADES[grade], "reason": "; ".join(filter(None, [words, judged.reason]))}
    )


def unjudged(claim: Claim, reason: str) -> Judgement:
    """Cannot be judged here, and why (data absent, too few seeds, a profile that only checks plumbing)."""
    return _judged(claim, None, "cannot be judged here", reason)


def to_json(judgements: Sequence[Judgement]) -> str:
    """claims.json: a list of judgements, each claim once."""
    ids = [j.id for j in judgements]
    if len(set(ids)) < len(ids):
        raise UserError(f"claims: expected each id once, found {sorted({i for i in ids if ids.count(i) > 1})} twice")
    return json.dumps([j.model_dump() for j in judgements], indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def table(judgements: Sequence[Judgement]) -> pd.DataFrame:
    """The claims as rows: id, claim, source | published | ours | verdict, reason."""
    return pd.DataFrame(
        {
            "claim": j.statement,
            "source": j.source,
            "published": j.published,
            "ours": _ours(j),
            "verdict": j.verdict,
            "reason": j.reason,
        }
        for j in judgements
    ).set_axis(pd.Index([j.id for j in judgements], name="id"), axis=0)


def _ours(judgement: Judgement) -> str:
    """`value [low, high] (n)`, or a dash."""
    if judgement.value is None:
        return "–"
    if judgement.interval is None:
        return f"{judgement.value:.3g} (n={judgement.n})"
    low, high = judgement.interval
    return f"{judgement.value:.3g} [{low:.3g}, {high:.3g}] (n={judgement.n})"


def _judged(claim: Claim, interval: Interval | None, verdict: Verdict, reason: str) -> Judgement:
    """The claim's words with our numbers."""
    return Judgement(
        id=claim.id,
        statement=claim.statement,
        source=claim.source,
        published=claim.published or "not available",
        value=None if interval is None else interval.point,
        interval=None if interval is None else (interval.low, interval.high),
        n=None if interval is None else interval.n,
        verdict=verdict,
        reason=reason,
    )


def _too_few(claim: Claim, interval: Interval, what: str = "seeds") -> Judgement:
    """The value is kept, the verdict withheld."""
    reason = f"found {interval.n} {what}, {LEAST_SEEDS} are needed"
    return _judged(claim, interval, "cannot be judged here", reason)


def _sentence(name: str, effect: Effect) -> str:
    """One effect in words."""
    answer = {2: "holds", 1: "in part", 0: "does not hold"}[effect.grade()]
    sign = ">" if effect.direction > 0 else "<"
    return f"{name} {_text(effect.interval)}, {sign} {effect.margin:g} asked: {answer}"


def _text(interval: Interval) -> str:
    """`point [low, high]`."""
    return f"{interval.point:.3g} [{interval.low:.3g}, {interval.high:.3g}]"


def _on(stand_in: str | None) -> str:
    """The note that a verdict rests on other data than the paper's."""
    return "" if stand_in is None else f"; on stand-in data ({stand_in})"

"""Verdict rules on made-up intervals: each verdict is reached, and each cap holds."""

import json

import pytest

from mi_utils.errors import UserError
from mi_utils.metrics.intervals import Interval
from mi_utils.report import claims
from mi_utils.report.claims import Effect


def claim(kind: str = "order", published: str | None = None) -> claims.Claim:
    return claims.Claim(id="P1", statement="99.72 % top-1", source="abstract", kind=kind, published=published)


def interval(low: float, high: float, n: int = 3) -> Interval:
    return Interval((low + high) / 2, low, high, n)


@pytest.mark.parametrize(
    ("found", "stand_in", "verdict"),
    [
        (interval(99.5, 99.9), None, "reproduced"),
        (interval(99.0, 99.5), None, "reproduced"),  # outside the interval, within .5 of the point
        (interval(99.5, 99.9), "rendered Hangul", "partly"),  # a number on other data is never reproduced
        (interval(98.9, 99.15), "rendered Hangul", "partly"),  # point 99.03
        (interval(98.9, 99.15), None, "partly"),
        (interval(94, 95), "rendered Hangul", "not reproduced"),
        (interval(99.5, 99.9, n=2), None, "cannot be judged here"),
    ],
)
def test_number(found, stand_in, verdict):
    judged = claims.number(
        claim("number", "99.72 %"), found, 99.72, tolerance=0.5, partly_above=99.0, stand_in=stand_in
    )
    assert judged.verdict == verdict and judged.published == "99.72 %"
    assert judged.value == found.point and judged.interval == (found.low, found.high)
    assert ("rendered Hangul" in judged.reason) == (stand_in is not None and found.n >= 3)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ([Effect(interval=interval(1, 2))], "reproduced"),
        ([Effect(interval=interval(-1, 2))], "partly"),
        ([Effect(interval=interval(-2, 1))], "not reproduced"),
        ([Effect(interval=interval(1, 2)), Effect(interval=interval(-3, 1))], "partly"),
        ([Effect(interval=interval(-3, 1)), Effect(interval=interval(-3, -1))], "not reproduced"),
        ([Effect(interval=interval(1, 2)), Effect(interval=interval(-3, -1), direction=-1)], "reproduced"),
        ([Effect(interval=interval(1, 2), direction=-1)], "not reproduced"),
        ([Effect(interval=interval(5.1, 9), margin=5)], "reproduced"),
        ([Effect(interval=interval(3, 9), margin=5, partly=0)], "partly"),
        ([Effect(interval=interval(-1, 20), margin=5, partly=0)], "not reproduced"),
        ([Effect(interval=interval(0.3, 0.6), direction=-1, margin=0.5, partly=1)], "partly"),
        ([Effect(interval=interval(1, 2)), Effect(interval=interval(1, 2, n=2))], "cannot be judged here"),
    ],
)
def test_effects(found, verdict):
    judged = claims.effects(claim(), {f"e{i}": e for i, e in enumerate(found)})
    assert judged.verdict == verdict


def test_an_opposed_effect_can_forbid_partly():
    found = {"a": Effect(interval=interval(1, 2)), "b": Effect(interval=interval(-2, -1))}
    assert claims.effects(claim(), found).verdict == "partly"
    assert claims.effects(claim(), found, opposed="not reproduced").verdict == "not reproduced"
    found["b"] = Effect(interval=interval(-2, 1))
    assert claims.effects(claim(), found, opposed="not reproduced").verdict == "partly"


def test_orders_may_hold_on_stand_in_data_and_say_so():
    judged = claims.effects(claim(), {"gap": Effect(interval=interval(1, 2))}, stand_in="UCI digits")
    assert judged.verdict == "reproduced" and judged.reason.endswith("on stand-in data (UCI digits)")
    assert "gap 1.5 [1, 2], > 0 asked: holds" in judged.reason


@pytest.mark.parametrize(
    ("found", "strength", "verdict"),
    [
        (interval(-0.9, -0.5), 0.6, "reproduced"),
        (interval(-0.6, -0.1), 0.6, "partly"),
        (interval(-0.9, 0.1), 0.6, "not reproduced"),
        (interval(-0.9, 0.1), 0.0, "partly"),
        (interval(-0.2, -0.1), 0.0, "reproduced"),
        (interval(0.1, 0.2), 0.0, "not reproduced"),
        (interval(-0.9, -0.5, n=2), 0.6, "cannot be judged here"),
    ],
)
def test_association(found, strength, verdict):
    assert claims.association(claim("association"), found, -1, strength=strength).verdict == verdict


def test_existence_and_equivalence():
    verdicts = [
        claims.existence(claim("existence"), dict(enumerate(seen))).verdict
        for seen in ([True] * 3, [True, False, False], [False] * 3, [True] * 2)
    ]
    assert verdicts == ["reproduced", "partly", "not reproduced", "cannot be judged here"]
    verdicts = [
        claims.equivalence(claim("equivalence"), interval(*ends), 3, partly=6).verdict
        for ends in ((-1, 2), (-5, 1), (-1, 9))
    ]
    assert verdicts == ["reproduced", "partly", "not reproduced"]


def test_unjudged_json_and_table():
    judged = [
        claims.unjudged(claim(), "needs CelebA"),
        claims.existence(claim("existence"), {0: True, 1: True, 2: True}).model_copy(update={"id": "P2"}),
        claims.effects(claim(), {"d": Effect(interval=interval(1, 2))}).model_copy(update={"id": "P3"}),
    ]
    parsed = json.loads(claims.to_json(judged))
    assert [c["id"] for c in parsed] == ["P1", "P2", "P3"] and parsed[0]["value"] is None
    assert list(parsed[0]) == "id statement source published value interval n verdict reason".split()
    table = claims.table(judged)
    assert (
        table["ours"].tolist() == ["–", "1 (n=3)", "1.5 [1, 2] (n=3)"] and table["published"].iloc[0] == "not available"
    )
    with pytest.raises(UserError, match=r"each id once, found \['P1'\]"):
        claims.to_json([judged[0], judged[0]])
    with pytest.raises(UserError, match="claim P1: expected at least 1 effect"):
        claims.effects(claim(), {})


def test_a_nan_never_becomes_a_judgement():
    with pytest.raises(ValueError, match="finite"):
        claims.equivalence(claim(), Interval(float("nan"), 0, 0, 3), 3)

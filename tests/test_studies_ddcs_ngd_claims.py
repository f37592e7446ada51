"""How the claims of the DDCS / NGD study are judged: on planted scores, measures and frontiers."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from test_studies_ddcs_ngd import Values, scored

from mi_utils.report import scores as tidy
from mi_utils.report.claims import table
from mi_utils.studies import ddcs_ngd as study
from mi_utils.studies.ddcs_ngd import claims, grid, results, targets
from mi_utils.studies.ddcs_ngd.grid import DUAL, NGD, PPA
from mi_utils.studies.plan import Plan
from mi_utils.studies.tables import PRIOR
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.defence import TrainDefended


@pytest.fixture(scope="module")
def laptop() -> Plan:
    return study.plan("laptop")


def planted(plan: Plan, **measures: list[tuple]) -> Plan:
    """The plan with these rows as its measures'."""
    stages = {
        name: SimpleNamespace(result=lambda rows=rows: SimpleNamespace(meta={"rows": rows}))
        for name, rows in measures.items()
    }
    return replace(plan, notes=plan.notes | {"measures": stages})


def judge(plan: Plan, name: str, values: Values | None = None):
    return claims.Ledger(plan, scored(plan, values)).judged(name, claims.CLAIMS[name])


# --- scores ----------------------------------------------------------------------------------------------------

BEST = {("DDCS", NGD): 0.23, ("DDCS", DUAL): 0.23}
LESS = {("recall", "none"): 0.3, ("marginal entropy", "none"): 1.5}
CASES = [
    ("C3", {("FD", "nystrom"): 4.0}, "reproduced"),
    ("C3", {("FD", "nystrom"): 8.0}, "partly"),
    ("C3", {("FD", "nystrom", "faces"): 4.0, ("FD", "nystrom"): 12.0}, "partly"),
    ("C3", {("FD", "nystrom"): 12.0}, "not reproduced"),
    ("C4", {("artefacts", "nystrom"): 0.1}, "reproduced"),
    ("C4", {}, "not reproduced"),
    ("C4", {("artefacts", "nystrom"): 0.9}, "not reproduced"),
    ("C7", {("DDCS", DUAL): 0.21}, "reproduced"),
    ("C7", {("DDCS", DUAL): 0.21, ("DDCS", NGD): 0.22}, "partly"),
    ("C7", {("DDCS", NGD): 0.22}, "not reproduced"),
    ("C8", LESS, "reproduced"),
    ("C8", LESS | {("recall", "none"): 0.5}, "partly"),
    ("C8", {("recall", "vanilla"): 0.3}, "not reproduced"),
    ("C9", BEST, "reproduced"),
    ("C9", BEST | {("DDCS", DUAL): 0.205}, "partly"),
    ("C9", {("DDCS", PPA): 0.22}, "not reproduced"),
    ("C12", {("nDDCS", NGD, "faces"): 0.6, ("nDDCS", NGD): 0.4}, "reproduced"),
    ("C12", {("nDDCS", NGD, "faces"): 0.3, ("nDDCS", NGD): 0.4}, "partly"),
    ("C12", {("nDDCS", NGD): -0.3}, "not reproduced"),
    ("OQ3", {("nDDCS", NGD, "faces"): 0.6, ("nDDCS", NGD): 0.56}, "reproduced"),
    ("OQ3", {("nDDCS", NGD, "faces"): 0.6, ("nDDCS", NGD): 0.5}, "not reproduced"),
]  # fmt: skip
UNJUDGED = "cannot be judged here"


@pytest.mark.parametrize(("name", "values", "verdict"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_verdicts_follow_the_effects(laptop, name: str, values: Values, verdict: str) -> None:
    assert judge(laptop, name, values).verdict == verdict


def copies(near: float = 0.2, last: float = 0.1, fd: float = 20.0, half: tuple = (0.1, 0.5, 9.0)) -> list[tuple]:
    """Rows of `Redundancy`: DDCS of near copies, of the most replaced, FD of uneven copies, half of the labels."""
    rows = [(a, f, "DDCS", 0.2, 9) for a in ("exact copies", "uneven copies") for f in (1.0, 2.0)]
    rows += [("near copies", 1.0, "DDCS", 0.2, 9), ("near copies", 2.0, "DDCS", near, 9)]
    rows += [(a, f, "FD", 10.0, 9) for a in ("exact copies", "near copies") for f in (1.0, 2.0)]
    rows += [("uneven copies", 1.0, "FD", 10.0, 9), ("uneven copies", 2.0, "FD", fd, 9)]
    rows += [("exact copies", 1.0, "accuracy", 0.5, 9), ("exact copies", 1.0, "KNN distance", 9.0, 9)]
    rows += [("replaced", 0.0, "DDCS", 0.2, 9), ("replaced", 0.75, "DDCS", last, 9)]
    return rows + [
        ("labels dropped", 0.5, m, v, 4) for m, v in zip(("DDCS", "accuracy", "KNN distance"), half, strict=True)
    ]


def between(auc: float = 0.8, label: float = 0.6, union: float = 0.4) -> list[tuple]:
    return [("Jaccard", 0.5, 6), ("union coverage", union, 4), ("AUC", auc, 6), ("AUC label mean", label, 6)]


def gained(memory: float, fresh: float = 0.02) -> list[tuple]:
    split = [("share", w, 0.3, 9) for w in ("unmatched", "prior-limited", "search-limited")]
    gains = {"as many fresh seeds": fresh, "memory": memory, "pool in its own order": -0.5}
    return [*split, ("AUC", "all", 0.7, 9), *(("coverage gain", w, v, 9) for w, v in gains.items())]


def kept(greedy: float = 5.0, ddcs: float = 0.2, medoids: float = 0.2) -> list[tuple]:
    fd = {"raw": 10.0, "greedy": greedy, "random": 11.0, "medoids": 9.0, "random per class": 11.0}
    said = {"greedy": ddcs, "medoids": medoids}
    return [(a, m, v, 9) for a, x in fd.items() for m, v in (("FD", x), ("KD", x / 10), ("DDCS", said.get(a, 0.2)))]


def by_size(ngd: tuple[float, ...]) -> list[tuple]:
    """Prior samples have 0.1 at every size."""
    sets = {PRIOR: (0.1,) * 3, NGD: ngd}
    return [(n, s, "DDCS", v, 0.0) for n, vs in sets.items() for s, v in zip((10, 20, 40), vs, strict=True)]


MEASURED = [
    ("C5", "redundancy", copies(), "reproduced"),
    ("C5", "redundancy", copies(near=0.22), "partly"),
    ("C5", "redundancy", copies(fd=10.5), "partly"),
    ("C5", "redundancy", copies(last=0.2), "partly"),
    ("C5", "redundancy", copies() + [("exact copies", 5.0, "DDCS", 0.1, 9)], "not reproduced"),
    ("C6", "redundancy", copies(), "reproduced"),
    ("C6", "redundancy", copies(half=(0.1, 0.4, 9.0)), "partly"),
    ("C6", "redundancy", copies(half=(0.15, 0.5, 9.0)), "not reproduced"),
    ("C10", "stability", between(), "reproduced"),
    ("C10", "stability", between(union=0.6), "not reproduced"),
    ("C16", "stability", between(), "reproduced"),
    ("C16", "stability", between(auc=0.65), "partly"),
    ("C16", "stability", between(label=0.85), "not reproduced"),
    ("OQ1", "hardness", gained(0.03), "reproduced"),
    ("OQ1", "hardness", gained(0.01), "partly"),
    ("OQ1", "hardness", gained(0.0), "not reproduced"),
    ("OQ2", "pruning", kept(), "reproduced"),
    ("OQ2", "pruning", kept(medoids=0.19), "partly"),
    ("OQ2", "pruning", kept(greedy=10.5), "not reproduced"),
    ("OQ2", "pruning", kept(ddcs=0.19), "not reproduced"),
    ("NC3", "sizes", by_size((0.1, 0.2, 0.15)), "reproduced"),
    ("NC3", "sizes", by_size((0.1, 0.15, 0.2)), "not reproduced"),
]


@pytest.mark.parametrize(
    ("name", "measure", "rows", "verdict"), MEASURED, ids=[f"{c[0]}-{i}" for i, c in enumerate(MEASURED)]
)
def test_verdicts_follow_the_measures(laptop, name: str, measure: str, rows: list[tuple], verdict: str) -> None:
    judged = claims.Ledger(planted(laptop, **{measure: rows}), pd.DataFrame()).judged(name, claims.CLAIMS[name])
    assert judged.verdict == verdict and "stand-in data" in judged.reason


# --- the frontier ----------------------------------------------------------------------------------------------


def frontier(plan: Plan, slopes: dict[str, float], entropy: Callable[[str, float], float] | None = None):
    """A ledger on lines FD = 10 + slope (2 - H) of seed 0, where H = 2 - weight / 20 unless `entropy` says else."""
    frames = []
    for kind in grid.FRONTIER:
        for weight in (*plan.settings.weights, plan.settings.transfer.weight) + ((0.0,) if kind == "none" else ()):
            h = entropy(kind, weight) if entropy and weight else 2 - weight / 20
            where = (kind, weight, plan.settings.transfer.steps, 0)
            rows = [("entropy", h), ("FD", 10 + slopes.get(kind, 4.0) * (2 - h))]
            stage = SimpleNamespace(count=9, result=lambda rows=rows: SimpleNamespace(meta={"rows": rows}))
            frames.append(results.quality_rows("faces", where, stage))
    return claims.Ledger(plan, tidy.concat(frames))


def test_a_curve_is_linear_between_its_points() -> None:
    at = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    assert claims.interpolated([(0.0, 1.0), (1.0, 3.0), (3.0, 2.0)], at).tolist() == [1, 2, 3, 2.5, 2]


def test_gap_is_the_mean_distance_at_equal_entropy(laptop) -> None:
    found = frontier(laptop, {"nystrom": 2.0, "blur": 1.0})
    assert found._gap("none") == pytest.approx(-1.5) and found._gap("blur") == pytest.approx(0.75)
    shorter = frontier(laptop, {"nystrom": 2.0}, lambda k, w: 2 - w / (60 if k == "scale" else 20))
    assert shorter._gap("scale") == pytest.approx(-0.5)  # over entropies from 1.5 to 2 alone


@pytest.mark.parametrize(
    ("slopes", "verdict"),
    [
        ({"nystrom": 2.0}, "reproduced"),
        ({"nystrom": 2.0, "scale": 1.0}, "partly"),
        ({"nystrom": 5.0}, "not reproduced"),
        ({}, "not reproduced"),
    ],
)
def test_gain_of_ngd_is_judged_at_equal_entropy(laptop, slopes: dict, verdict: str) -> None:
    judged = frontier(laptop, slopes).nc1(claims.CLAIMS["NC1"])
    assert judged.verdict == verdict and judged.reason.count(";") >= 3


def test_frontiers_that_do_not_overlap_are_no_verdict(laptop) -> None:
    apart = frontier(laptop, {"nystrom": 2.0}, lambda k, w: 2 + w / 20 if k == "nystrom" else 2 - w / 20)
    judged = apart.nc1(claims.CLAIMS["NC1"])
    assert judged.verdict == UNJUDGED and "do not overlap" in judged.reason
    one = frontier(laptop, {"nystrom": 2.0}, lambda k, w: 2 + w / 20 if k == "blur" else 2 - w / 20)
    judged = one.nc1(claims.CLAIMS["NC1"])
    assert judged.verdict == "partly" and f"{results.LABELS['blur']}: do not overlap" in judged.reason


# --- what is not judged ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["C1", "C2"])
def test_published_numbers_are_judged_on_the_papers_data_alone(laptop, name: str) -> None:
    values = {("DDCS", NGD): 0.2252, ("DDCS coverage", NGD): 0.3384}
    assert judge(laptop, name, values).verdict == UNJUDGED
    assert judge(replace(laptop, profile="paper"), name, values).verdict == "reproduced"
    assert judge(replace(laptop, profile="paper"), name).verdict == "not reproduced"


@pytest.mark.parametrize("name", ["C13", "C15"])
def test_what_is_only_reported_is_not_judged(laptop, name: str) -> None:
    assert judge(laptop, name).verdict == UNJUDGED


@pytest.mark.parametrize("name", ["C12", "OQ3"])
def test_a_normalised_score_that_cannot_be_had_is_no_verdict(laptop, name: str) -> None:
    scores = scored(laptop)
    lost = (scores["metric"] == "nDDCS") & (scores["attack"] == NGD) & scores["setting"].str.startswith("UCI")
    scores.loc[lost, ["value", "reason"]] = float("nan"), "not computed: holdout below prior"
    judged = claims.Ledger(laptop, scores).judged(name, claims.CLAIMS[name])
    assert judged.verdict == UNJUDGED and "holdout below prior" in judged.reason


def found_by_half(ddcs: float, accuracy: float) -> Callable:
    """`by_half`: gaps of the insider beyond those that the halves have anyway."""

    def by_half(plan: Plan, scores: pd.DataFrame, name: str) -> torch.Tensor:
        inside = float(name == grid.INSIDE)
        first = torch.tensor([0.2, 0.8], dtype=torch.float64) + 0.01 * torch.arange(3)[:, None]
        return torch.stack([first, first + torch.tensor([0.05 + inside * ddcs, 0.1 + inside * accuracy])], 1)

    return by_half


@pytest.mark.parametrize(
    ("ddcs", "accuracy", "verdict"),
    [(0.04, 0.0, "reproduced"), (0.04, 0.1, "partly"), (-0.04, 0.0, "not reproduced")],
)
def test_people_seen_before_are_found_better_than_accuracy_tells(
    laptop, monkeypatch, ddcs: float, accuracy: float, verdict: str
) -> None:
    monkeypatch.setattr(claims, "by_half", found_by_half(ddcs, accuracy))
    judged = judge(laptop, "C14")
    assert judged.verdict == verdict and f"gap of accuracy {100 * accuracy:+.1f} points" in judged.reason


def told(gain: float = 0.1, fresh: float = 0.05, moved: float = 0.0, knowing: float = 0.0) -> Callable:
    """`outcome`: what the guided defence gains over that of random images and over none, and where the leak moves."""

    def outcome(plan: Plan, name: str, seed: int, row: str) -> targets.Outcome:
        rise = {grid.GUIDED: 0.1 + gain, grid.UNDEFENDED: 0.1 - fresh}.get(name, 0.1) + 0.001 * seed
        if row == grid.KNOWING and name == grid.GUIDED:
            rise -= knowing
        others = 0.2 + moved * (name == grid.GUIDED) + 0.001 * seed
        return targets.Outcome(torch.full((3 + seed,), rise, dtype=torch.float64), others)

    return outcome


DEFENDED = [
    (told(), "reproduced"),
    (told(moved=0.1), "partly"),  # the leak moves to the others
    (told(gain=0.0), "partly"),  # no better than random images, better than nothing
    (told(knowing=0.1), "partly"),  # not against one who knows the defence
    (told(knowing=0.2), "not reproduced"),
    (told(gain=-0.2), "not reproduced"),
]


@pytest.mark.parametrize(("outcome", "verdict"), DEFENDED)
def test_a_defence_is_judged_against_random_images_under_both_attackers(laptop, monkeypatch, outcome, verdict) -> None:
    monkeypatch.setattr(claims, "outcome", outcome)
    assert judge(laptop, "OQ4").verdict == verdict


def test_a_defence_that_costs_accuracy_is_no_defence_at_equal_accuracy(laptop, monkeypatch) -> None:
    monkeypatch.setattr(claims, "outcome", told())
    monkeypatch.setattr(TrainClassifier, "facts", lambda self: {"test_accuracy": 0.97})
    monkeypatch.setattr(TrainDefended, "facts", lambda self: {"test_accuracy": 0.95})
    found = judge(laptop, "OQ4")
    assert found.verdict == "partly" and "test accuracy falls by 2.0 points" in found.reason


def test_one_seed_judges_no_defence(laptop, monkeypatch) -> None:
    monkeypatch.setattr(claims, "outcome", told())
    one = replace(laptop, settings=laptop.settings.model_copy(update={"seeds_defence": 1}))
    assert judge(one, "OQ4").verdict == UNJUDGED


def memorised(plan: Plan, gaps: Sequence[float]) -> Plan:
    """The plan with a gap of each of its victims, a little more with each seed."""
    names = list(dict.fromkeys(name for name, _ in plan.notes["memorisation"]))
    facts = {
        (name, seed): SimpleNamespace(result=lambda gap=gap + 0.001 * seed: SimpleNamespace(meta={"loss_gap": gap}))
        for name, gap in zip(names, gaps, strict=True)
        for seed in range(3)
    }
    return replace(plan, notes=plan.notes | {"memorisation": facts})


GAPS = [
    ((0.1, 0.2, 0.3, 0.4, 0.5), "reproduced"),
    ((0.2, 0.1, 0.3, 0.4, 0.5), "partly"),  # the least gap has not the least coverage
    ((0.5, 0.4, 0.3, 0.2, 0.1), "not reproduced"),
]


@pytest.mark.parametrize(("gaps", "verdict"), GAPS)
def test_coverage_is_held_against_what_targets_memorise(laptop, gaps: Sequence[float], verdict: str) -> None:
    names = list(dict.fromkeys(name for name, _ in laptop.notes["memorisation"]))
    levels = {("DDCS coverage", n): 0.1 * (1 + i) for i, n in enumerate(names)}
    levels[("DDCS coverage", grid.PPA, "faces")] = 0.1  # the study's own target, first of all
    assert judge(memorised(laptop, gaps), "C11", levels).verdict == verdict


def test_smoke_judges_nothing() -> None:
    plan = study.plan("smoke")
    found = claims.Ledger(plan, scored(plan)).judge()
    assert {j.verdict for j in found} == {UNJUDGED} and len(table(found)) == len(claims.CLAIMS) == len(found)

"""The DMMIA study: what its runs share, what timelines measure, derived scores, how claims are judged, the toy."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from mi_utils.attacks.style_search import StyleSearch
from mi_utils.data.faces import Faces
from mi_utils.errors import UserError
from mi_utils.report import scores as tidy
from mi_utils.report.claims import table
from mi_utils.studies import dmmia as study
from mi_utils.studies.dmmia import claims, grid, results, timeline, toy
from mi_utils.studies.dmmia.images import by_place
from mi_utils.studies.dmmia.settings import MAKERS, MODES
from mi_utils.training.classifier import TrainClassifier

ACCURACY = {grid.PPA: 0.6, grid.FULL: 0.5}
CLASSES = range(5)
CLASS_METRICS = {
    "ensemble mean": 0.5, "unanimous": 0.3, "accepted": 0.4, "target": 0.98, "KNN distance": 9.0, "recall": 0.2,
    "coverage": 0.3, "rho_pix": 0.6, "DIV-P": 0.25, "DIV-F": 0.3, "looks": 2.0, "look entropy": 0.5, "glasses": 0.3,
    "factor error": 1.0, "recall forgotten": 0.1, "looks forgotten": 0.2, "glasses retention": 0.7,
}  # fmt: skip
POOLED = {"FD": 20.0, "FD second space": 15.0, "KD": 1.0, "drift": 0.4}


@pytest.fixture(scope="module")
def laptop():
    return study.plan("laptop")


@pytest.fixture(autouse=True)
def known_classifiers(monkeypatch) -> None:
    facts = {"test_accuracy": 0.97, "n_train": 100, "n_test": 50, "channels": 3, "size": 32}
    monkeypatch.setattr(TrainClassifier, "facts", lambda self: facts | {"classes": [f"face {i}" for i in range(20)]})


def scored(plan, values: dict[tuple[str, str], float] | None = None) -> pd.DataFrame:
    """Scores of every run; `values[metric, "attack | row"]` or `values[metric, attack]` instead of the usual."""
    cells = []
    for run in (*plan.runs, *plan.references):
        for metric, usual in (CLASS_METRICS | POOLED).items():
            row = f"{run.attack} | {run.setting.split(' | ')[-1]}"
            level = (values or {}).get((metric, row), (values or {}).get((metric, run.attack), usual))
            each = [] if metric in POOLED else [level + 0.002 * run.seed + 0.001 * c for c in CLASSES]
            cells += [(run.attack, run.setting, run.seed, str(c), metric, v, 5, "") for c, v in enumerate(each)]
            mean = sum(each) / len(each) if each else level + 0.01 * run.seed
            cells.append((run.attack, run.setting, run.seed, "all", metric, mean, 100, ""))
    return tidy.check(pd.DataFrame(cells, columns=tidy.COLUMNS))


def judge(plan, name: str, values: dict | None = None):
    return getattr(claims.Ledger(plan, scored(plan, values)), name.lower())(claims.CLAIMS[name])


# --- the plan --------------------------------------------------------------------------------------------------


def searches(plan) -> list[StyleSearch]:
    return [run.stage for run in plan.runs if isinstance(run.stage, StyleSearch) and run.setting.endswith("| T1")]


def test_searches_of_one_seed_start_from_one_pool_and_make_as_many_images(laptop) -> None:
    first = [s for s in searches(laptop) if s.target == laptop.notes["benches"][0].target(0)]
    assert len(first) == 11
    shared = ("prior", "pool", "candidates", "samples", "psi", "epochs", "seed", "classes", "frames", "flip", "search")
    for name in shared:
        assert len({str(getattr(s, name)) for s in first}) == 1, name
    costs = {tuple(s._cost().values()) for s in first if s.draws}
    assert len(costs) == 1


def test_older_attacks_make_no_fewer_images_than_ppa(laptop) -> None:
    made = {
        r.attack: r.stage for r in laptop.runs if r.setting.endswith("| T1") and r.attack in ("GMI", "KEDMI", "PPA")
    }
    ppa = made["PPA"]._cost()["generated"]
    for name in ("GMI", "KEDMI"):
        assert 0.98 * ppa <= results.older_cost(made[name])["generated"] <= 1.02 * ppa


@pytest.mark.parametrize("profile", ["smoke", "laptop"])
def test_no_attack_reaches_an_evaluator_or_the_regressor(profile: str) -> None:
    plan = study.plan(profile)

    def closure(stage) -> set:
        return {stage.key}.union(*map(closure, stage.upstream()))

    judges = {net.key for bench in plan.notes["benches"] for net in bench.panel.everyone().values()}
    judges |= {bench.reader.key for bench in plan.notes["benches"] if bench.reader}
    for run in plan.runs:
        if isinstance(run.stage, StyleSearch):
            assert not judges & closure(run.stage), run.attack


def test_every_profile_has_its_settings() -> None:
    assert set(MAKERS) == {"smoke", "laptop", "gpu", "paper"}
    names = [problem.name for problem in MAKERS["paper"]().problems]
    assert names == ["CelebA", "FaceScrub", "Stanford Dogs"]
    assert MAKERS["paper"]().problems[0].centre == 800


def test_unknown_settings_are_one_line() -> None:
    with pytest.raises(UserError, match="seedz: unknown field; .* did you mean 'seeds'"):
        study.plan("laptop", seedz=1)
    with pytest.raises(UserError, match="profile: expected one of smoke, laptop, gpu, paper"):
        study.plan("lptop")


def test_all_that_laptop_trains_but_attacks_is_shipped_or_can_be(laptop) -> None:
    kinds = {type(stage).__name__ for stage in study.shipped()}
    assert kinds == {
        "TrainStyleGAN2",
        "ContinuedStyleGAN2",
        "TrainClassifier",
        "FactorRegressor",
        "TrainGMI",
        "TrainKEDMI",
    }


# --- timelines -------------------------------------------------------------------------------------------------


def test_looks_are_the_kinds_that_the_renderer_draws() -> None:
    source = Faces(identities=3, first=40, per_identity=30, modes=MODES)
    true, seen = source.drawn(torch.arange(90))
    known = timeline.known_looks(source)
    labels = torch.arange(90) // 30
    for name in MODES:
        assert torch.equal(known[name][labels].gather(1, seen["mode"][:, None])[:, 0], true[name])


def test_nearest_look_is_the_one_whose_kinds_are_likeliest_together() -> None:
    said = {"glasses": torch.tensor([[3.0, 0, 0, 0]]).log_softmax(1), "hat": torch.tensor([[0.0, 1.0, 0.0]])}
    kinds = {"glasses": torch.tensor([[1, 0, 0]]), "hat": torch.tensor([[1, 0, 1]])}
    assert timeline.nearest_look(said, kinds).tolist() == [2]


def test_looks_of_a_class_are_counted_with_their_entropy_and_errors() -> None:
    source = Faces(identities=2, first=40, per_identity=20, modes=MODES)
    true, seen = source.drawn(torch.arange(40))

    class Perfect:
        def outputs(self, images: torch.Tensor) -> dict:
            return {
                n: torch.nn.functional.one_hot(v, len(timeline.FACTORS[n].kinds)) * 50.0
                if timeline.FACTORS[n].kinds
                else v + 1 / 12**0.5  # one standard deviation of a uniform factor
                for n, v in true.items()
            }

    labels = torch.arange(40) // 20
    found = timeline.looks(Perfect(), source, torch.zeros(40, 3, 32, 32), labels, [0, 1])
    for c in (0, 1):
        shares = torch.stack([(seen["mode"][labels == c] == k).double().mean() for k in range(3)])
        assert found["looks"][c] == (shares >= 0.05).sum()
        assert found["look entropy"][c].item() == pytest.approx(-(shares * shares.clamp_min(1e-9).log()).sum().item())
        assert found["glasses"][c] == (true["glasses"][labels == c] > 0).double().mean()
        assert found["factor error"][c].item() == pytest.approx(1, abs=1e-4)


def test_diversity_is_the_mean_squared_distance_of_a_class() -> None:
    rows = torch.tensor([[0.0, 0], [0, 2], [1, 1], [4, 4]])
    found = timeline.by_class(rows, torch.tensor([5, 5, 7, 7]), [5, 7])
    assert found.tolist() == pytest.approx([4, 18])


def test_candidates_can_be_put_back_into_the_pools_order() -> None:
    place = torch.tensor([[2, 0, 1], [1, 2, 0]]).T.flatten()  # two classes, three candidates
    order = by_place(place, 2)
    assert place[order].tolist() == [0, 0, 1, 1, 2, 2] and (order % 2).tolist() == [0, 1] * 3


def test_what_is_forgotten_is_the_best_epoch_minus_the_last(laptop) -> None:
    tensors = {
        "recall": torch.tensor([[0.1, 0.2], [0.5, 0.2], [0.3, 0.4]]), "glasses": torch.tensor([[0.2, 0.9]] * 3),
        "private glasses": torch.tensor([0.5, 0.9]), "FD E1 IR": torch.tensor([3.0, 2.0, 1.0]),
        "FD E2 CNN 5x5": torch.tensor([6.0, 5.0, 4.0]),
    }  # fmt: skip
    attack = SimpleNamespace(
        classes=(4, 2), candidates=8, result=lambda: SimpleNamespace(tensors={"log_drift": torch.tensor([0.1, 0.7])})
    )
    line = SimpleNamespace(
        attack=attack, panel=laptop.notes["benches"][0].panel, result=lambda: SimpleNamespace(tensors=tensors)
    )
    found = results.timeline_rows(("PPA", "faces | all candidates", 0), line).set_index(["metric", "class"])["value"]
    assert found["recall forgotten", "2"] == pytest.approx(0.2) and found["recall forgotten", "4"] == 0
    assert found["glasses retention", "2"] == pytest.approx(0.4)
    assert ("glasses retention", "4") not in found  # nine in ten private images have glasses
    assert found["FD second space", "all"] == 4 and found["drift", "all"] == pytest.approx(0.7)


def test_an_evaluator_worse_than_the_target_is_refused(laptop, monkeypatch) -> None:
    reach = {"cnn5": 0.9}

    def facts(self) -> dict:
        return {"test_accuracy": reach.get(self.architecture, 0.95), "n_test": 1000}

    monkeypatch.setattr(TrainClassifier, "facts", facts)
    with pytest.raises(
        UserError, match="as accurate as the target .0.950, 0.926 by chance., found E2 CNN 5x5 with 0.9"
    ):
        results.require_judges(laptop)
    reach["cnn5"] = 0.94  # a thousand images cannot tell that from .95
    results.require_judges(laptop)


# --- tables ----------------------------------------------------------------------------------------------------


def test_tables_have_a_row_per_arm_and_no_published_number(laptop) -> None:
    scores = scored(laptop)
    t1 = results.t1_main(laptop, scores)
    assert len(t1) == 11 + 2 + 3 and set(t1["top1, published"]) == {"not available"} if "top1" in t1 else True
    t3 = results.t3_ablation(laptop, scores)
    assert [name for name, _ in t3.index][:4] == [f"faces: IMR {i}, IDR {j}" for i, j in grid.ABLATION]
    t4 = results.t4_sweeps(laptop, scores)
    assert "as in T1" in t4.index.get_level_values(0) and "tau 1" in t4.index.get_level_values(0)
    differences = results.t1c_differences(laptop, scores)
    assert "DMMIA − PPA" in differences.index and len(differences) == 10


# --- claims ----------------------------------------------------------------------------------------------------

BETTER = {("ensemble mean", "DMMIA"): 0.6}
WORSE = {("ensemble mean", "DMMIA"): 0.4}
CASES = [
    ("D1", BETTER, "reproduced"),
    ("D1", {}, "not reproduced"),
    ("D1", WORSE, "not reproduced"),
    ("D2", {("DIV-P", "DMMIA"): 0.3, ("recall", "DMMIA"): 0.3}, "reproduced"),
    ("D2", {("DIV-P", "DMMIA"): 0.3, ("recall", "DMMIA"): 0.3} | WORSE, "partly"),
    ("D2", {("DIV-P", "DMMIA"): 0.3, ("recall", "DMMIA"): 0.1}, "partly"),
    ("D2", {("DIV-P", "DMMIA"): 0.2, ("recall", "DMMIA"): 0.1}, "not reproduced"),
    ("D3", {("FD", "DMMIA"): 10.0, ("FD second space", "DMMIA"): 8.0}, "reproduced"),
    ("D3", {("FD", "DMMIA"): 30.0, ("FD second space", "DMMIA"): 20.0}, "not reproduced"),
    ("D4", {("glasses retention", "DMMIA"): 0.9}, "reproduced"),
    ("D4", {("glasses retention", "DMMIA"): 0.6}, "not reproduced"),
    ("D5", {("recall forgotten", "DMMIA"): 0.05, ("looks forgotten", "DMMIA"): 0.1}, "reproduced"),
    ("D5", {("recall forgotten", "PPA"): -0.1, ("looks forgotten", "PPA"): -0.1}, "not reproduced"),
    ("D6", {(m, a): 5.0 for m in ("DIV-P", "recall", "looks") for a in ("DMMIA", "DMMIA, IMR alone")}, "reproduced"),
    ("D6", {(m, "DMMIA, IDR alone"): 5.0 for m in ("DIV-P", "recall", "looks")}, "not reproduced"),
    ("D7", {("ensemble mean", a): 0.7 for a in ("DMMIA", "DMMIA, IDR alone")}, "partly"),
    ("D9", BETTER, "reproduced"),
    ("D11", {}, "not reproduced"),
    ("D13", {}, "reproduced"),
    ("D13", {("ensemble mean", "DMMIA, as released"): 0.7}, "not reproduced"),
    ("D14", {("ensemble mean", "DMMIA"): 0.6, ("DIV-P", "DMMIA"): 0.3}, "reproduced"),
    ("P1", {("ensemble mean", "GMI | P1 shifted prior"): 0.1}, "reproduced"),
    ("P1", {("ensemble mean", "PPA | P1 shifted prior"): 0.1}, "not reproduced"),
    ("P2", {("ensemble mean", f"PPA | {s}"): 0.1 for s in (grid.NO_SEARCH, grid.NO_SELECTION)}, "reproduced"),
    ("P2", {("ensemble mean", f"PPA | {grid.NO_SEARCH}"): 0.1}, "partly"),
]


@pytest.mark.parametrize(
    ("name", "values", "verdict"), CASES, ids=[f"{n}-{v}-{i}" for i, (n, _, v) in enumerate(CASES)]
)
def test_verdicts_follow_the_effects(laptop, name: str, values: dict, verdict: str) -> None:
    assert judge(laptop, name, values).verdict == verdict


@pytest.mark.parametrize("name", ["D12", "D15"])
def test_what_is_only_reported_is_not_judged(laptop, name: str) -> None:
    judged = judge(laptop, name)
    assert judged.verdict == "cannot be judged here" and "report only" in judged.reason


def test_smoke_judges_nothing() -> None:
    plan = study.plan("smoke")
    found = claims.Ledger(plan, scored(plan)).judge()
    assert {j.verdict for j in found} == {"cannot be judged here"} and len(table(found)) == len(claims.CLAIMS)


# --- the toy ---------------------------------------------------------------------------------------------------


def test_points_moved_one_by_one_find_the_blobs_and_a_tuned_map_does_not() -> None:
    ends = {m: toy.ToyMemory(method=m).result("cpu").tensors["share"][-1].item() for m in ("PPA", "map CE")}
    starts = toy.ToyMemory(method="PPA").result("cpu").tensors["share"][0].item()
    assert ends["PPA"] > starts > ends["map CE"]


def test_a_blob_counts_by_the_points_that_the_classifier_owns() -> None:
    x = toy.blobs().repeat(10, 1)
    assert toy.occupied(x, torch.ones(40, dtype=torch.bool)) == 4 and toy.on_blobs(x) == 1
    own = torch.tensor([True, False, True, False]).repeat(10)
    assert toy.occupied(x, own) == 2

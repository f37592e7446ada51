"""The logit and augmentation study: derived scores, tables, how claims are judged, figures, the toy."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from mi_utils.errors import UserError
from mi_utils.report import scores as tidy
from mi_utils.report import tables as report
from mi_utils.studies import logit_augmentation as study
from mi_utils.studies import tables
from mi_utils.studies.logit_augmentation import claims, pictures, results, toy, views
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.student import TrainStudent

LEVEL = {"CE": 0.4, "+LOM": 0.5, "+MA": 0.6, "LOMMA": 0.7}  # ensemble accuracy unless a test says otherwise
CLASS = {
    "target": 0.98,
    "top1": 0.5,
    "rho_pix": 0.4,
    "coverage": 0.3,
    "KNN distance": 9.0,
    "accepted": 0.5,
    "unanimous": 0.2,
}
POOLED = {"FD": 40.0, "ensemble min": 0.1}


@pytest.fixture(scope="module")
def laptop():
    return study.plan("laptop")


@pytest.fixture(autouse=True)
def known_classifiers(monkeypatch) -> None:
    """What classifiers say of themselves without being trained."""
    facts = {"test_accuracy": 0.8, "n_train": 100, "n_test": 50, "channels": 1, "size": 32}
    facts |= {"classes": [f"face {i:04d}" for i in range(20)], "agreement": 0.7, "constant_agreement": 0.2}
    monkeypatch.setattr(TrainClassifier, "facts", lambda self: facts)
    monkeypatch.setattr(TrainStudent, "facts", lambda self: facts)


class FakePlan:
    """What tables, figures and the ledger read of a plan; courses and leaks are made up."""

    profile = "laptop"

    def __init__(self, plan, **notes: object) -> None:
        self.settings, self.runs, self.references = plan.settings, plan.runs, plan.references
        self.notes = plan.notes | {"courses": {}, "leaks": {}} | notes


def stored(meta: dict | None = None, **tensors: torch.Tensor) -> SimpleNamespace:
    return SimpleNamespace(result=lambda: SimpleNamespace(meta=meta or {}, tensors=tensors))


def course(target: list[float], evaluators: list[float], rows: list = ()) -> SimpleNamespace:
    told = {"target": torch.tensor(target).double(), "evaluators": torch.tensor(evaluators).double()}
    return stored({"rows": list(rows)}, steps=torch.arange(len(target)), **told)


def same_courses(plan, *args) -> dict:
    return {(r.attack, r.setting, r.seed): course(*args) for r in plan.runs if r.setting.endswith("| T1")}


def classes(plan, run) -> list[int]:
    bench = next(b for b in plan.notes["benches"] if run.setting.startswith(b.problem.name))
    return list(bench.split(run.seed).classes[:5])  # five of them keep the frames small


def full_courses(plan) -> dict:
    """Courses of all runs, with the features' ends of the classes that are scored."""
    return {
        (r.attack, r.setting, r.seed): course(
            [0.1, 0.9], [0.1, 0.5], [(m, c, 0.5, 5) for m in results.ENDS for c in classes(plan, r)]
        )
        for r in plan.runs
    }


def scored(plan, values: dict[str, dict[str, float]] | None = None, **pooled: float) -> pd.DataFrame:
    """Scores of every run and reference: of `values[metric][row]`, else the usual; seeds and classes differ a little.

    A row is named "attack | setting without the problem" or by its loss alone.
    """
    cells = []
    for run in (*plan.runs, *plan.references):
        loss = run.attack.split(" ")[-1]
        usual = CLASS | {"ensemble mean": LEVEL.get(loss, 0.3)}
        usual |= {f"top1 {name}": LEVEL.get(loss, 0.3) for name in run.evaluation.panel.plain}
        for metric, value in usual.items():
            found = (values or {}).get(metric, {})
            name = f"{run.attack} | {run.setting.split(' | ')[-1]}"
            level = found.get(name, found.get(loss, value))
            each = [level + 0.002 * run.seed + 0.001 * (c % 5) for c in classes(plan, run)]
            cells += [
                (run.attack, run.setting, run.seed, str(c), metric, v, 5, "")
                for c, v in [*zip(classes(plan, run), each, strict=True), ("all", sum(each) / len(each))]
            ]
        for metric, value in (POOLED | pooled).items():
            level = (values or {}).get(metric, {}).get(loss, value)
            cells.append((run.attack, run.setting, run.seed, "all", metric, level + 0.01 * run.seed, 100, ""))
    return tidy.check(pd.DataFrame(cells, columns=tidy.COLUMNS))


def judge(plan, name: str, values: dict | None = None, **notes: object):
    fake = FakePlan(plan, **notes)
    ledger = claims.Ledger(fake, results.complete(fake, scored(plan, values)))
    return getattr(ledger, name.lower())(claims.CLAIMS[name])


# --- derived scores ----------------------------------------------------------------------------------------


def test_classes_are_paired_by_their_place_where_seeds_attack_different_ones() -> None:
    frames = [
        tidy.rows("a", "d | T1", s, {"m": {c: float(c) for c in ids}}, 1) for s, ids in ((0, (0, 2)), (1, (9, 10)))
    ]
    frames.append(tidy.rows("a", "d | T1", 0, {"m": 1.0}, 2))
    with pytest.raises(UserError):
        tidy.matrix(tidy.concat(frames), "a", "d | T1", "m")
    ranked = tables.by_rank(tidy.concat(frames))
    assert tidy.matrix(ranked, "a", "d | T1", "m")[0].tolist() == [[0, 2], [9, 10]]
    assert (ranked["class"] == "all").sum() == 1


def test_places_follow_the_number_of_a_class_not_its_text() -> None:
    frame = tidy.rows("a", "d", 0, {"m": {10: 1.0, 9: 0.0, 2: -1.0}}, 1)
    assert tables.by_rank(frame)["class"].tolist() == ["2", "1", "0"]


def test_relative_gap_divides_by_what_each_net_reaches_on_real_images(laptop, monkeypatch) -> None:
    reach = {"ir_deep": 0.8, "ir_small": 0.5, "cnn5": 0.4, "mlp": 0.25, "mcnn": 1.0}
    monkeypatch.setattr(TrainClassifier, "facts", lambda self: {"test_accuracy": reach.get(self.architecture, 0.9)})
    values = {"target": 0.4, "top1 E1 IR": 0.1, "top1 E2 CNN 5x5": 0.1, "top1 E3 MLP": 0.1, "top1 E4 MCNN": 0.1}
    found = results.with_relative_gap(
        laptop, tidy.rows("GMI CE", "faces | T1", 0, {m: {3: v} for m, v in values.items()}, 5)
    )
    gap = found[found["metric"] == "relative gap"]["value"].item()
    assert gap == pytest.approx(0.5 - (0.2 + 0.25 + 0.4 + 0.1) / 4)


def test_relative_gap_of_a_net_that_recognises_nothing_has_a_reason(laptop, monkeypatch) -> None:
    monkeypatch.setattr(TrainClassifier, "facts", lambda self: {"test_accuracy": 0.0})
    found = tidy.check(results.with_relative_gap(laptop, scored(laptop).head(400)))
    assert found[found["metric"] == "relative gap"]["reason"].str.startswith("not computed: ").all()


# --- tables ------------------------------------------------------------------------------------------------


@pytest.fixture
def told(laptop):
    """A plan with courses and leaks, and its complete scores."""
    who = ("reconstruction", "private test images", "other identity", "public prior")
    leak = stored({"rows": [(f, w, 0.1 * i, 5) for f in ("skin", "hat") for i, w in enumerate(who)]})
    courses = same_courses(laptop, [0.1, 0.9], [0.1, 0.5])
    plan = FakePlan(laptop, courses=courses, leaks={key: leak for key in courses if key[1] == "faces | T1"})
    return plan, results.complete(plan, scored(laptop, DDCS=0.2))


def test_main_table_has_all_rows_and_no_published_cell(told) -> None:
    plan, scores = told
    table = results.t1_main(plan, scores)
    references = ["prior samples", "public images", "held-out private images"]
    attacks = [f"{base} {variant}" for base in ("GMI", "KEDMI", "VMI") for variant in LEVEL]
    assert list(table.index) == [(d, a) for d in ("faces", "UCI digits") for a in (*attacks, *references)]
    assert set(table["top1, published"]) == {"not available"}
    assert table.loc[("faces", "GMI LOMMA"), "ensemble mean"] == "70.4 ± 0.2 (n=3)"
    assert {"gap", "relative gap", "KNN distance", "FD", "rho_pix", "coverage", "DDCS", "nDDCS"} <= set(table.columns)


def test_differences_are_paired_over_unlike_classes(told) -> None:
    table = results.t1c_differences(*told)
    assert len(table) == 2 * 3 * 3
    assert table.loc[("UCI digits", "VMI", "+MA − CE"), "ensemble mean"] == "20.0 [20.0, 20.0] (n=3)"
    assert table.loc[("faces", "GMI", "LOMMA − CE"), "FD"] == "0.000 [0.000, 0.000] (n=3)"


def test_further_targets_stand_beside_the_first(told) -> None:
    index = results.t1_targets(*told).index
    assert list(dict.fromkeys(index.get_level_values(0))) == [
        "faces", "faces, VGG16 (narrow)", "faces, FaceNet64 (narrow)", "faces, IR152 (narrow), flips alone"
    ]  # fmt: skip
    assert set(index.get_level_values(1)) == {"GMI CE", "GMI LOMMA"}


def test_augmentation_rows_count_students_in_order(told) -> None:
    rows = [name for name, _ in results.t4_augmentation(*told).index]
    assert rows == ["no student", "1 student", "2 students", "3 students", "own architecture", "random labels"]


def test_objective_and_shift_tables_name_what_changed(told) -> None:
    rows = list(results.t5_objective(*told).index)
    assert rows[:2] == [("T1", "KEDMI CE"), ("T1: lam 1, p_reg mean", "KEDMI +LOM")]
    assert {("lam 0", "KEDMI +LOM"), ("lr x2", "KEDMI CE"), ("Poincaré", "KEDMI CE")} <= set(rows)
    assert list(results.t2_shift(*told).index) == [
        (f"{kind}", f"GMI {v}")
        for kind in ("public images as private", "shifted public images")
        for v in ("CE", "LOMMA")
    ]


def test_classifiers_students_and_priors_are_listed(told) -> None:
    plan, scores = told
    table = results.t6_classifiers(plan)
    assert table["classifier"].str.startswith("student").sum() == 2 * 3 * 3
    student = table[table["classifier"].str.startswith("student")].iloc[0]
    assert student["agreement with the target %"] == "70.0" and student["test accuracy %"] == "–"
    assert list(results.t6_priors(plan, scores).index)[0] == ("faces", "prior samples")


def test_factors_have_a_column_per_attack_and_baseline(told) -> None:
    plan, _ = told
    table = results.t9_factors(plan)
    assert (
        table.loc["hat", "GMI CE"] == "0.00 ± 0.00 (n=3)" and table.loc["skin", "public prior"] == "0.30 ± 0.00 (n=3)"
    )
    assert table.shape == (2, 12 + 3)
    assert list(table.columns)[-3:] == ["private test images", "other identity", "public prior"]


def test_every_caption_tells_the_deviations(told) -> None:
    plan, scores = told
    for text in (results.caption(plan, "T1").text(), results.caption(plan, "T5", "faces", 2).text()):
        for words in ("(2,400)", "(4,867)", "width 64", "from random weights", "ImageNet", "restarts", "latent clip"):
            assert words in text
    assert "over 2 seeds" in text and "UCI" not in text
    assert "70.4" in report.markdown(results.t1_main(plan, scores), results.caption(plan, "T1"))


def test_norm_table_finds_a_gain_that_follows_the_norm_of_the_weights(told, monkeypatch) -> None:
    plan, scores = told
    bench = plan.notes["benches"][1]
    scores = scores.copy()
    gained = (scores["setting"] == "UCI digits | T1") & (scores["attack"] == "GMI +LOM") & (scores["class"] != "all")
    scores.loc[gained, "value"] += 0.1 * tables.by_rank(scores)["class"][gained].astype(int)
    plan.notes = plan.notes | {"benches": [bench]}

    def network(self, device: str) -> SimpleNamespace:
        weight = (1.0 + torch.arange(10))[:, None] * torch.ones(10, 3)
        return SimpleNamespace(head=SimpleNamespace(weight=weight))

    monkeypatch.setattr(TrainClassifier, "network", network)
    words = results.norm_table(plan, scores).set_index("base")["rank correlation [95 %] (pairs)"]
    assert float(words["GMI"].split(" ")[0]) > 0.9 and words["GMI"].endswith("(n=15)")
    assert words["KEDMI"].startswith("not computed: ")


# --- claims ------------------------------------------------------------------------------------------------


def test_every_claim_has_a_judge_and_smoke_judges_none(laptop) -> None:
    assert [getattr(claims.Ledger, name.lower()) for name in claims.CLAIMS]
    assert list(claims.CLAIMS) == [f"L{i}" for i in range(1, 20)]
    smoke = study.plan("smoke")
    judged = claims.Ledger(smoke, pd.DataFrame(columns=tidy.COLUMNS)).judge()
    assert {j.verdict for j in judged} == {"cannot be judged here"} and len(judged) == 19


def test_claims_about_rows_that_a_profile_leaves_out_say_so(laptop) -> None:
    plan = FakePlan(laptop, courses=full_courses(laptop))
    plan.runs = tuple(run for run in plan.runs if run.setting.endswith("| T1"))
    judged = {j.id: j for j in claims.Ledger(plan, results.complete(plan, scored(plan))).judge()}
    assert all("in this profile" in judged[name].reason for name in claims.NEEDS)


def test_all_claims_are_judged_on_complete_scores(laptop) -> None:
    plan = FakePlan(laptop, courses=full_courses(laptop))
    judged = {j.id: j for j in claims.Ledger(plan, results.complete(plan, scored(laptop))).judge()}
    open_ = {name for name, j in judged.items() if j.verdict == "cannot be judged here"}
    assert open_ == {"L4", "L5", "L6", "L18", "L19"}
    assert all("stand-in data" in j.reason for name, j in judged.items() if name not in open_)


@pytest.mark.parametrize(
    ("gmi", "vmi", "verdict"), [(0.5, 0.5, "reproduced"), (0.4, 0.5, "partly"), (0.3, 0.5, "not reproduced")]
)
@pytest.mark.parametrize(("claim", "variant"), [("L1", "+LOM"), ("L2", "+MA")])
def test_gain_is_asked_of_every_base_and_none_may_lose(laptop, claim, variant, gmi, vmi, verdict) -> None:
    rows = {f"GMI {variant} | T1": gmi, f"VMI {variant} | T1": vmi}
    assert judge(laptop, claim, {"ensemble mean": rows}).verdict == verdict


@pytest.mark.parametrize(
    ("gmi", "kedmi", "verdict"), [(0.7, 0.7, "reproduced"), (0.5, 0.7, "reproduced"), (0.5, 0.5, "partly")]
)
def test_complementary_asks_two_attacks_and_the_better_of_the_two_changes(laptop, gmi, kedmi, verdict) -> None:
    rows = {"GMI LOMMA | T1": gmi, "KEDMI LOMMA | T1": kedmi, "VMI LOMMA | T1": 0.7}
    assert judge(laptop, "L3", {"ensemble mean": rows}).verdict == verdict
    found = judge(laptop, "L3", {"ensemble mean": {"LOMMA": 0.55}})
    assert found.verdict == "not reproduced" and "LOMMA − +MA" in found.reason


@pytest.mark.parametrize("name", ["L4", "L5", "L6"])
def test_numbers_on_celeba_need_celeba(laptop, name) -> None:
    found = judge(laptop, name)
    assert found.verdict == "cannot be judged here" and "CelebA" in found.reason


@pytest.mark.parametrize(
    ("name", "before", "after", "verdict"),
    [
        ("L4", 0.80, 0.918, "reproduced"),
        ("L4", 0.70, 0.918, "partly"),
        ("L4", 0.75, 0.868, "not reproduced"),
        ("L5", 0.81, 0.93, "reproduced"),
        ("L5", 0.70, 0.85, "partly"),
        ("L5", 0.90, 0.85, "not reproduced"),
        ("L6", 0.5, 0.9293, "reproduced"),
        ("L6", 0.5, 0.95, "partly"),
        ("L6", 0.5, 0.97, "not reproduced"),
    ],
)
def test_numbers_on_celeba(laptop, name, before, after, verdict) -> None:
    plan = FakePlan(laptop)
    rows = {"top1": {"CE": before - 0.004, "LOMMA": after - 0.004}}
    ledger = claims.Ledger(plan, scored(laptop, rows))
    ledger.scores = ledger.scores.assign(setting=ledger.scores["setting"].str.replace("faces |", "CelebA |"))
    ledger.first, ledger.stand_in = "CelebA", None
    assert getattr(ledger, name.lower())(claims.CLAIMS[name]).verdict == verdict


@pytest.mark.parametrize(
    ("gap", "cosine", "verdict"),
    [(0.4, 0.6, "reproduced"), (0.4, 0.5, "partly"), (0.6, 0.6, "partly"), (0.6, 0.4, "not reproduced")],
)
def test_features_must_come_nearer_and_point_better(laptop, gap, cosine, verdict) -> None:
    lom = {"feature gap": gap, "feature cosine": cosine}
    courses = {
        (r.attack, r.setting, r.seed): course(
            [0], [0], [(m, c, (v if "+LOM" in r.attack else 0.5) + 0.01 * c, 5) for m, v in lom.items() for c in (0, 1)]
        )
        for r in laptop.runs
        if r.setting == "faces | T1"
    }
    assert judge(laptop, "L7", courses=courses).verdict == verdict


@pytest.mark.parametrize(("target", "verdict"), [(0.9, "reproduced"), (0.3, "not reproduced")])
def test_overfitting_is_judged_with_and_without_reference_to_real_images(laptop, target, verdict) -> None:
    assert judge(laptop, "L8", {"target": {"CE": target}}).verdict == verdict


def test_overfitting_that_only_the_better_net_explains_is_partly_reproduced(laptop, monkeypatch) -> None:
    reach = {"ir_deep": 1.0}
    monkeypatch.setattr(TrainClassifier, "facts", lambda self: {"test_accuracy": reach.get(self.architecture, 0.7)})
    values = {"target": {"CE": 0.5}}
    assert judge(laptop, "L8", values).verdict == "partly"


def test_early_stopping_interpolates_between_frames() -> None:
    target, evaluators = torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.0, 0.4, 0.5])
    assert claims.stopped(target, evaluators, 0.75) == pytest.approx(0.45)
    assert claims.stopped(target, evaluators, 0.0) == 0
    assert claims.stopped(target, evaluators, 1.0) == pytest.approx(0.5)
    slow = torch.tensor([0.0, 0.25, 0.75]), torch.tensor([0.0, 0.25, 0.75])
    found = claims.matched_gap_difference([slow], [(target, evaluators)])
    assert found.tolist() == pytest.approx([0.45 - 0.75])  # the slower run decides where both are read


@pytest.mark.parametrize(
    ("augmented", "end", "verdict"),
    [([0.1, 0.6], 0.6, "reproduced"), ([0.1, 0.3], 0.6, "partly"), ([0.1, 0.3], 0.2, "not reproduced")],
)
def test_reduced_overfitting_is_judged_at_equal_target_accuracy_first(laptop, augmented, end, verdict) -> None:
    courses = same_courses(laptop, [0.1, 0.9], [0.1, 0.5])
    courses |= {k: course([0.1, 0.9], augmented) for k in courses if "+MA" in k[0]}
    found = judge(laptop, "L9", {"ensemble mean": {"+MA": end}}, courses=courses)
    assert found.verdict == verdict


@pytest.mark.parametrize(("shift", "verdict"), [(0.01, "reproduced"), (0.05, "partly"), (-0.1, "not reproduced")])
def test_anchors_are_equivalent_within_three_points(laptop, shift, verdict) -> None:
    rows = {"KEDMI +LOM | T5 p_reg sample": LEVEL["+LOM"] + shift}
    assert judge(laptop, "L10", {"ensemble mean": rows}).verdict == verdict


def test_step_size_control_takes_each_loss_at_its_best_rate(laptop) -> None:
    found = judge(laptop, "L11", {"ensemble mean": {"KEDMI CE | T5 lr x2": 0.6}})
    assert found.verdict == "not reproduced" and "CE at x2" in found.reason
    assert judge(laptop, "L11", {"ensemble mean": {"KEDMI +LOM | T5 lr x0.25": 0.9}}).verdict == "reproduced"


@pytest.mark.parametrize(
    ("norm", "fall", "verdict"), [(9, 0.1, "reproduced"), (9, -0.1, "partly"), (1, -0.1, "not reproduced")]
)
def test_regulariser_holds_the_norm_and_the_accuracy(laptop, norm, fall, verdict) -> None:
    courses = {
        (r.attack, r.setting, r.seed): course(
            [0], [0], [("feature norm", c, (norm if "lam 0" in r.setting else 5.0) + c, 5) for c in (0, 1)]
        )
        for r in laptop.runs
        if r.attack == "KEDMI +LOM" and r.setting in ("faces | T1", "faces | T5 lam 0")
    }
    rows = {"KEDMI +LOM | T5 lam 0": LEVEL["+LOM"] - fall}
    assert judge(laptop, "L12", {"ensemble mean": rows}, courses=courses).verdict == verdict


@pytest.mark.parametrize(
    ("own", "random", "verdict"), [(0.5, 0.5, "reproduced"), (0.7, 0.5, "partly"), (0.7, 0.7, "not reproduced")]
)
def test_students_must_beat_both_controls(laptop, own, random, verdict) -> None:
    rows = {"KEDMI +MA | T4 own architecture": own, "KEDMI +MA | T4 random labels": random}
    assert judge(laptop, "L13", {"ensemble mean": rows}).verdict == verdict


def test_shifted_public_images_report_the_drop(laptop) -> None:
    found = judge(laptop, "L14", {"ensemble mean": {"GMI LOMMA | T2 shift": 0.5}})
    assert found.verdict == "reproduced" and "GMI LOMMA falls from 0.704 to 0.504" in found.reason


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ({}, "reproduced"),
        ({"GMI LOMMA | T1": 0.4}, "partly"),
        ({"GMI LOMMA | T1": 0.4, "VMI LOMMA | T1": 0.4}, "not reproduced"),
    ],
)
def test_heterogeneity_counts_data_sets_and_targets_with_seeds_enough(laptop, rows, verdict) -> None:
    found = judge(laptop, "L15", {"ensemble mean": rows})
    assert found.verdict == verdict and found.reason.count("not counted") == 3


@pytest.mark.parametrize(
    ("knn", "fd", "verdict"), [(8, 30, "reproduced"), (8, 40, "partly"), (10, 50, "not reproduced")]
)
def test_quality_asks_both_distances(laptop, knn, fd, verdict) -> None:
    assert judge(laptop, "L16", {"KNN distance": {"LOMMA": knn}, "FD": {"LOMMA": fd}}).verdict == verdict


def test_cost_in_diversity_and_report_only(laptop) -> None:
    assert judge(laptop, "L17", {"rho_pix": {"LOMMA": 0.2}, "coverage": {"LOMMA": 0.1}}).verdict == "reproduced"
    assert judge(laptop, "L17").verdict == "not reproduced"
    assert judge(laptop, "L18").reason.count("[") == 4


# --- figures -----------------------------------------------------------------------------------------------


def test_figures_of_scores_and_courses_are_drawn(told) -> None:
    plan, scores = told
    drawn = [
        views.gain_bars(plan, scores),
        views.rate_effects(plan, scores),
        views.f4_overfitting(plan, "UCI digits"),
        views.f5_disagreement(plan, scores, "faces"),
        views.f6_classes(plan, scores, "UCI digits"),
        views.f7_sweeps(plan, scores),
        views.f9_factors(plan),
    ]
    assert all(figure.png.startswith(b"\x89PNG") for figure in drawn)


def test_courses_of_a_row_are_stacked_by_seed(told) -> None:
    plan, _ = told
    found = views.curves(plan, "GMI CE", "faces")
    assert found.target.shape == (3, 2) and found.steps.tolist() == [0, 1]
    assert isinstance(found, pictures.Curves)


def test_principal_axes_are_those_of_the_greatest_variance_and_have_a_fixed_sign() -> None:
    along = torch.linspace(-3, 3, 50)[:, None] * torch.tensor([[0.0, -1.0, 0.0]])
    points = 5 + along + 0.1 * torch.linspace(-1, 1, 50)[:, None].square() * torch.tensor([[0.0, 0.0, 1.0]])
    centre, axes = views.principal_axes(points)
    assert torch.allclose(axes[:, 0], torch.tensor([0.0, 1.0, 0.0]), atol=1e-4)
    assert torch.allclose(centre, points.mean(0))


def test_identities_of_every_kind_are_shown(laptop) -> None:
    assert views.f10_identities(laptop, 3).png.startswith(b"\x89PNG")


# --- toy ---------------------------------------------------------------------------------------------------


def test_toy_logit_loss_reaches_its_closed_form_and_cross_entropy_leaves_the_class() -> None:
    ends = {loss: toy.ToyFeatures(loss=loss).result("cpu").tensors["path"][-1] for loss in ("ce", "logit")}
    best = toy.minimiser(toy.WEIGHTS[0], toy.LAM)
    assert torch.allclose(ends["logit"], best.expand(30, 2), atol=5e-3)
    ce, logit = (toy.reached(ends[loss]) for loss in ("ce", "logit"))
    assert ce["confidence"] > logit["confidence"] and ce["distance"] > 3 * logit["distance"]
    assert logit["cosine"] > 0.999 > 0.95 > ce["cosine"]


def test_toy_minimiser_has_no_slope() -> None:
    best = toy.minimiser(toy.WEIGHTS[1], 0.7)[None].requires_grad_()
    (slope,) = torch.autograd.grad(toy.identity(best, 1, "logit", 0.7).sum(), best)
    assert slope.abs().max() < 1e-6


def test_the_papers_own_profile_can_be_written_down() -> None:
    assert [problem.name for problem in study.settings("paper").problems] == ["CelebA"]

"""The DDCS / NGD study: what its runs share, a generator's quality, tables and a figure."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from test_training_stylegan2 import tiny

from mi_utils.attacks.union import DualAttack
from mi_utils.data import Faces
from mi_utils.errors import UserError
from mi_utils.metrics import matching
from mi_utils.report import scores as tidy
from mi_utils.stage import Stage
from mi_utils.studies import ddcs_ngd as study
from mi_utils.studies.ddcs_ngd import grid, results, targets, transfers, views
from mi_utils.studies.ddcs_ngd.grid import ADV, BOTH, DUAL, NGD, PPA, VANILLA
from mi_utils.studies.ddcs_ngd.settings import MAKERS
from mi_utils.studies.plan import Plan
from mi_utils.studies.tables import HOLDOUT, PRIOR, PUBLIC
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.style_priors import StylePrior

CLASSES = range(5)
CLASS_METRICS = {"ensemble mean": 0.5, "accepted": 0.4, "target": 0.98, "KNN distance": 9.0}
POOLED = {"DDCS": 0.2, "DDCS coverage": 0.3, "nDDCS": 0.5, "FD": 20.0, "recall": 0.2, "coverage": 0.3}
QUALITY = {"FD": 10.0, "recall": 0.4, "entropy": 1.0, "marginal entropy": 2.0, "artefacts": 0.5}
Values = dict[tuple[str, ...], float]


@pytest.fixture(scope="module")
def laptop() -> Plan:
    return study.plan("laptop")


@pytest.fixture(autouse=True)
def known_classifiers(monkeypatch) -> None:
    facts = {"test_accuracy": 0.97, "n_train": 100, "n_test": 50, "channels": 3, "size": 32}
    monkeypatch.setattr(TrainClassifier, "facts", lambda self: facts | {"classes": [f"face {i}" for i in range(20)]})


def chosen(values: Values, usual: float, *names: str) -> float:
    """The value of the most names, (metric, row, problem), that has one."""
    return next((values[names[:k]] for k in range(len(names), 1, -1) if names[:k] in values), usual)


def quality(values: Values, problem: str, where: results.Where) -> SimpleNamespace:
    """What a stage `TransferQuality` holds; weight 0 is named `vanilla`."""
    kind, weight, _, seed = where
    name = "vanilla" if kind == "none" and weight == 0 else kind
    rows = [(m, chosen(values, usual, m, name, problem) + 0.01 * seed) for m, usual in QUALITY.items()]
    return SimpleNamespace(count=50, result=lambda: SimpleNamespace(meta={"rows": rows}))


def scored(plan: Plan, values: Values | None = None) -> pd.DataFrame:
    """Scores of every run and tuned generator; `values[metric, attack or kind]`, or with the problem's name."""
    cells, values = [], values or {}
    for run in (*plan.runs, *plan.references):
        problem = run.setting.split(" | ")[0]
        for metric, usual in (CLASS_METRICS | POOLED).items():
            level = chosen(values, usual, metric, run.attack, problem) + 0.002 * run.seed
            each = {str(c): level + 0.001 * c for c in CLASSES} if metric in CLASS_METRICS else {}
            each["all"] = level
            cells += [(run.attack, run.setting, run.seed, c, metric, v, 100, "") for c, v in each.items()]
    frames = [pd.DataFrame(cells, columns=tidy.COLUMNS)]
    for name, found in plan.notes["qualities"].items():
        frames += [results.quality_rows(name, where, quality(values, name, where)) for where in found]
    return tidy.concat(frames)


# --- the plan --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["smoke", "laptop", "gpu"])
def test_no_attack_reaches_a_judge_or_a_measure_of_private_images(profile: str) -> None:
    plan, seen = study.plan(profile), {}

    def closure(stage: Stage) -> dict[str, str]:
        if stage.key not in seen:
            own = {stage.key: type(stage).__name__}
            seen[stage.key] = {k: n for above in stage.upstream() for k, n in closure(above).items()} | own
        return seen[stage.key]

    judges = {net.key for bench in plan.notes["benches"] for net in bench.panel.everyone().values()}
    judges |= {bench.reader.key for bench in plan.notes["benches"] if bench.reader}
    kinds = {"FactorRegressor", "Evaluation", "Projection", "Hardness", "TransferQuality"}
    for run in (*plan.runs, *plan.references):
        found = closure(run.stage)
        assert not judges & set(found) and not kinds & set(found.values()), run.attack
        # A defence reads its own audit; where its target is shipped, that lies behind it.
        told = "| OQ4" in run.setting and run.attack in (grid.GUIDED, grid.CONTROL, grid.EVERYONE)
        assert told or "Vulnerability" not in found.values(), run.attack


def test_every_profile_has_its_settings() -> None:
    assert set(MAKERS) == {"smoke", "laptop", "gpu", "paper"}
    paper = MAKERS["paper"]()
    assert [problem.name for problem in paper.problems] == ["UMDFaces", "Stanford Dogs"]
    assert paper.seeds == 5 and paper.problems[0].train.size == 256


def test_unknown_settings_are_one_line() -> None:
    with pytest.raises(UserError, match="weightz: unknown field; .* did you mean 'weights'") as found:
        study.plan("laptop", weightz=(1.0,))
    assert "\n" not in str(found.value)
    with pytest.raises(UserError, match="profile: expected one of smoke, laptop, gpu, paper"):
        study.settings("lptop")


def test_searches_of_one_seed_differ_in_the_generator_alone(laptop) -> None:
    for bench in laptop.notes["benches"]:
        for seed in range(laptop.settings.seeds):
            arms = [bench.arms(seed)[name] for name in (PPA, VANILLA, ADV, NGD)]
            for name in type(arms[0]).model_fields:
                assert name in ("prior", "infra") or len({str(getattr(a, name)) for a in arms}) == 1, name
            assert len({a.prior.key for a in arms}) == 4 and arms[0].seed == seed
            assert arms[0].prior == bench.problem.prior


def test_transfers_of_one_seed_differ_in_preconditioner_weight_and_length_alone(laptop) -> None:
    for name, found in laptop.notes["qualities"].items():
        (bench,) = (b for b in laptop.notes["benches"] if b.name == name)
        for seed in range(laptop.settings.seeds):
            several = {w: q.prior for w, q in found.items() if w[3] == seed and w[0] != "start"}
            assert len({stage.key for stage in several.values()}) == len(several) >= 3
            for field in type(next(iter(several.values()))).model_fields:
                if field not in ("preconditioner", "lambda_adv", "steps", "infra"):
                    assert len({str(getattr(stage, field)) for stage in several.values()}) == 1, field
            for (_, weight, steps, _), stage in several.items():
                assert (stage.lambda_adv, stage.steps, stage.seed) == (weight, steps, seed)
                assert stage.public == bench.problem.auxiliary and stage.start == bench.problem.prior
        assert len({(q.target.seed, q.seed) for q in found.values()}) == laptop.settings.seeds


def test_all_kinds_of_transfer_are_made_of_faces_and_are_distinct(laptop) -> None:
    bench = laptop.notes["benches"][0]
    made = {kind: bench.preconditioner(kind) for kind in (*grid.KINDS, "cg")}
    assert [p.kind for p in made.values()] == ["none", "nystrom", "nystrom", "scale", "blur", "random", "cg"]
    assert made["nystrom"].norm != made["nystrom, l2"].norm == "l2"
    faces, t = laptop.notes["qualities"]["faces"], laptop.settings.transfer
    assert {(kind, t.weight, t.steps, 0) for kind in grid.KINDS} <= set(faces)
    assert {(k, w, t.steps, 0) for k in grid.FRONTIER for w in laptop.settings.weights} <= set(faces)
    with pytest.raises(ValueError, match="newton"):
        bench.preconditioner("newton")


def test_a_union_has_as_many_images_as_one_search_and_both_twice_as_many(laptop) -> None:
    for run in (r for r in (*laptop.runs, *laptop.references) if r.setting.endswith("| T1")):
        (bench,) = (b for b in laptop.notes["benches"] if run.setting.startswith(f"{b.name} |"))
        each = bench.problem.samples
        assert run.evaluation.samples == each * (2 if run.attack == BOTH else 1), run.attack
        if isinstance(run.stage, DualAttack):
            arms = bench.arms(run.seed)
            assert run.stage.attacks == (arms[VANILLA], arms[ADV if "entropy" in run.attack else NGD])
            assert run.stage.size == ("full" if run.attack == BOTH else "half")
            assert run.stage.attacks[0].candidates == each


def test_earlier_attacks_have_priors_of_the_problems_own_images(laptop) -> None:
    older = [run for run in laptop.runs if run.attack in ("GMI", "KEDMI")]
    assert {run.setting for run in older} == {"faces | T1"} and len(older) == laptop.settings.seeds + 1
    assert all(isinstance(run.stage.prior.public, Faces) for run in older)


# --- a generator's quality -------------------------------------------------------------------------------------


def image(pattern: torch.Tensor) -> torch.Tensor:
    """One grey image uint8 of values in [-1, 1]."""
    return ((pattern + 1) * 127.5).round().byte()[None, None]


def wave(k: int) -> torch.Tensor:
    """k periods across 32 columns."""
    return torch.cos(2 * math.pi * k * torch.arange(32) / 32 + 0.3).expand(32, 32)


def test_noisiness_of_patterns_is_their_energy_above_the_cut() -> None:
    line = torch.arange(32) % 2 * 2.0 - 1
    low = 25 * 25  # frequencies from -12 to 12, of 32, on both axes
    mean = 32 * 32 / (32 * 32 - low)
    found = transfers.noisiness(torch.cat([image(line[:, None] * line), image(torch.full((32, 32), 0.25))]))
    assert found[0].item() == pytest.approx(mean) and found[1] <= 1e-12
    # Rounding to 256 levels is white noise of variance (2 / 255)² / 12.
    assert transfers.noisiness(image(wave(4)))[0] < 2e-5 and transfers.noisiness(image(wave(12)))[0] < 2e-5
    assert transfers.noisiness(image(wave(13)))[0].item() == pytest.approx(mean / 2, rel=0.01)


def test_noisiness_does_not_tell_rows_from_columns() -> None:
    across = image(wave(14))
    assert torch.allclose(transfers.noisiness(across), transfers.noisiness(across.transpose(2, 3)), rtol=1e-3)


def test_quality_of_a_generator_and_its_latents(monkeypatch) -> None:
    monkeypatch.undo()
    drawn = []
    original = type(tiny()).samples
    monkeypatch.setattr(
        type(tiny()), "samples", lambda self, n, rng, *a: (drawn.append(rng.get_state()), original(self, n, rng, *a))[1]
    )
    people = Faces(identities=3, per_identity=12)
    target = TrainClassifier(
        train=people, test=Faces(identities=3, per_identity=4, split="test"), width=4, iterations=20, batch=12, lr=0.05
    )
    shared = dict(target=target, reader=target, validation=Faces(identities=6, first=3000, per_identity=4), count=12)
    priors: list[StylePrior] = [tiny(), tiny(), tiny(seed=1)]
    one, again, other = (
        transfers.TransferQuality(prior=prior, seed=seed, **shared).result("cpu")
        for prior, seed in zip(priors, (0, 1, 0), strict=True)
    )
    rows = dict(one.meta["rows"])
    assert set(results.TRANSFERS) <= set(rows) and one.tensors["sheet"].shape == (12, 3, 32, 32)
    assert 0 <= rows["entropy"] <= rows["marginal entropy"] + 1e-6 <= math.log(3) + 2e-6
    assert 1 / 3 <= rows["confidence"] <= 1 and math.isfinite(rows["artefacts"]) and rows["FD"] > 0
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(one.tensors["sheet"], again.tensors["sheet"])
    assert not torch.equal(one.tensors["sheet"], other.tensors["sheet"])
    few = transfers.TransferQuality(prior=tiny(), **shared | {"validation": Faces(identities=1, per_identity=4)})
    with pytest.raises(UserError, match="at least 8 images, found 4"):
        few._validation()


# --- tables ----------------------------------------------------------------------------------------------------


def test_every_tuned_generator_has_a_row_of_its_own(laptop) -> None:
    assert results.arm("start", 0.0, 0) == (results.LABELS["start"], "T2")
    assert results.arm("none", 0.0, 80) == ("without the target", "T2 lambda 0, 80 steps")
    assert results.arm("nystrom", 2.5, 80) == (results.LABELS["nystrom"], "T2 lambda 2.5, 80 steps")
    for found in laptop.notes["qualities"].values():
        assert len({results.arm(*where[:3]) + where[3:] for where in found}) == len(found)
    rows = results.quality_rows("faces", ("cg", 1.0, 20, 2), quality({("FD", "cg"): 3.0}, "faces", ("cg", 1.0, 20, 2)))
    first = rows.set_index("metric").loc["FD"]
    assert first["value"] == pytest.approx(3.02) and first["n"] == 50 and first["class"] == "all"
    assert (first["attack"], first["setting"], first["seed"]) == (results.LABELS["cg"],
                                                                  "faces | T2 lambda 1, 20 steps", 2)  # fmt: skip


def test_tables_have_a_row_per_arm_and_no_published_number(laptop) -> None:
    scores = scored(laptop, {("DDCS", NGD, "faces"): 0.25})
    t1 = results.t1_main(laptop, scores)
    common = {PPA, VANILLA, ADV, NGD, DUAL, grid.DUAL_ADV, PRIOR, PUBLIC, HOLDOUT}
    rows = {name: set(t1.xs(name, level="data").index) for name in ("faces", "UCI digits")}
    assert rows == {"faces": common | {"DMMIA", "GMI", grid.LOMMA, "KEDMI"}, "UCI digits": common}
    assert {i for i in t1.index if BOTH in i} == {(f"{name}, twice as many images", BOTH) for name in rows}
    assert not [c for c in t1.columns if "published" in c]
    t2 = results.t2_transfers(laptop, scores)
    assert len(t2) == len({(n, *results.arm(*w[:3])) for n, q in laptop.notes["qualities"].items() for w in q})
    wide = results.t1b_differences(laptop, scores).set_index(["data", "difference"])
    assert len(wide) == 2 * len(results.PAIRS)
    assert wide.loc[("faces", f"{NGD} − {ADV}"), "DDCS"] == "0.050 [0.050, 0.050] (n=3)"
    assert wide.loc[("UCI digits", f"{NGD} − {ADV}"), "DDCS"] == "0.000 [0.000, 0.000] (n=3)"


def test_a_difference_without_its_values_is_not_available(laptop) -> None:
    scores = scored(laptop)
    lost = (scores["metric"] == "nDDCS") & (scores["attack"] == VANILLA)
    scores.loc[lost, ["value", "reason"]] = float("nan"), "not computed: no reference"
    wide = results.t1b_differences(laptop, scores).set_index(["data", "difference"])
    assert wide.loc[("faces", f"{NGD} − {VANILLA}"), "nDDCS"] == tidy.NOT_AVAILABLE
    assert wide.loc[("faces", f"{NGD} − {ADV}"), "nDDCS"] != tidy.NOT_AVAILABLE


def test_an_outcome_is_the_vulnerable_images_rise_and_the_others_score(laptop, monkeypatch) -> None:
    n = len(laptop.notes["benches"][0].problem.train.load())
    order = torch.arange(n - 1, 4, -1)  # the first five are not scored
    known = {"vulnerable": torch.tensor([7, 2, 30]), "distances": torch.stack([torch.zeros(n), torch.ones(n)])}
    monkeypatch.setattr(targets, "audit", lambda *a: SimpleNamespace(result=lambda: SimpleNamespace(tensors=known)))
    monkeypatch.setattr(targets, "rows_drawn", lambda *a: order)
    matched = {7: 1, 30: 1, 9: 1}  # of all scored images these three are some reconstruction's nearest
    fakes = torch.tensor([int((order == row).nonzero()) for row in matched])
    now = {"q_real": order.float(), "fake_of_real": torch.zeros(len(order), dtype=torch.long)}
    now |= {"q_fake": torch.zeros(3), "real_of_fake": fakes}  # rows among the scored
    stored = SimpleNamespace(tensors={f"nearest_{name}": value for name, value in now.items()})
    run = SimpleNamespace(evaluation=SimpleNamespace(result=lambda: stored))
    monkeypatch.setattr(Plan, "find", lambda self, *where: run if where == ("a", "faces | OQ4", 1) else None)
    found = targets.outcome(laptop, "a", 1)
    assert found.rise.tolist() == [6.5, 29.5]
    assert found.others == pytest.approx((1 / (1 + 9)) / (len(order) - 2))


def test_insiders_show_the_second_half_of_the_private_people_in_as_many_images(laptop) -> None:
    bench = laptop.notes["benches"][0]
    first, second = grid.halves(bench)
    runs = {run.attack: run.stage for run in grid.insider_runs(bench) if run.seed == 0}
    inside, outside = (runs[name] for name in (grid.INSIDE, grid.OUTSIDE))
    assert inside.classes == outside.classes == (*first, *second) == tuple(range(5, 15))
    assert inside.model_copy(update={"prior": outside.prior}) == outside == bench.ppa(
        0, prior=bench.tuned(0, "nystrom"), classes=inside.classes
    )  # fmt: skip
    shown, p = inside.prior.public, bench.problem
    people = set(range(shown.first, shown.first + shown.identities))
    assert people & set(range(p.train.identities)) == set(range(10, 20)) and set(second) <= people
    assert (shown.split, p.train.split) == ("holdout", "train")
    assert shown.identities * shown.per_identity == p.auxiliary.identities * p.auxiliary.per_identity


def test_scores_by_half_are_means_over_the_halves_own_images_and_classes(laptop, monkeypatch) -> None:
    plan = replace(laptop, settings=laptop.settings.model_copy(update={"seeds": 1}))
    bench = plan.notes["benches"][0]
    whole, classes = bench.problem.train.load(), tuple(range(5, 15))
    labels = whole.labels[targets.rows_drawn(whole, classes, plan.settings.perceptual)]
    # Every image of the second half is some reconstruction's nearest, at distance 1; none of the first is.
    matched = (labels >= 10).nonzero().squeeze(1)
    near = matching.Nearest(
        matched, torch.ones(len(matched)), torch.zeros(len(labels), dtype=torch.long), torch.ones(len(labels))
    )
    monkeypatch.setattr(targets, "nearest", lambda *where: near)
    rows = [(grid.INSIDE, "faces | C14", 0, str(c), "ensemble mean", c / 20, 1, "") for c in classes]
    found = targets.by_half(plan, pd.DataFrame(rows, columns=tidy.COLUMNS), grid.INSIDE)
    assert found.tolist() == [[[0, pytest.approx(7 / 20)], [0.5, pytest.approx(12 / 20)]]]


def test_the_knowing_attacker_asks_for_what_each_defence_taught(laptop) -> None:
    bench = laptop.notes["benches"][0]
    asked = {n: grid.taught(grid.defended(bench, n, 0)) for n in grid.DEFENCES}
    gamma = laptop.settings.smoothing
    assert asked == pytest.approx({
        grid.UNDEFENDED: 0, grid.GUIDED: 10 * gamma, grid.CONTROL: 10 * gamma, grid.EVERYONE: gamma, grid.PRIVATE: 0,
    })  # fmt: skip
    runs = {r.attack: r.stage for r in grid.defence_runs(bench) if r.setting.endswith(grid.KNOWING)}
    assert {n: stage.epsilon for n, stage in runs.items()} == pytest.approx(asked)
    assert all(stage.target == grid.defended(bench, n, 2) for n, stage in runs.items())


def test_lomma_is_gmi_with_the_logit_loss_and_the_targets_own_students(laptop) -> None:
    bench = laptop.notes["benches"][0]
    plain, found = bench.older()["GMI"](0), bench.lomma(0)
    objective = found.objective
    assert objective.loss == "logit" and len(objective.students) == 3 and objective.statistics.target == plain.target
    assert found.model_copy(update={"objective": plain.objective}) == plain


def test_the_frontiers_common_start_is_labelled_once(laptop, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(views.figures, "scatter", lambda points, **words: seen.extend(points))
    views.fb_frontier(laptop, scored(laptop))
    assert len(seen) == len(grid.FRONTIER) * (2 + len(laptop.settings.weights))
    assert [p.label for p in seen].count("0") == 1

"""Tables and figures of the Patch-MI study, each a function of the plan and its scores."""

from collections.abc import Iterable

import pandas as pd
import torch

from mi_utils.attacks.patch_mi import equilibrium
from mi_utils.errors import UserError
from mi_utils.metrics.ddcs import Options, normalised
from mi_utils.metrics.intervals import Interval, difference_interval, difference_p, holm, mean_interval
from mi_utils.report import figures
from mi_utils.report import scores as tidy
from mi_utils.report.figures import Picture
from mi_utils.report.pairs import nearest_pairs
from mi_utils.report.scores import matrix, paired, paper_table, per_seed, percent
from mi_utils.report.tables import Caption
from mi_utils.runtime import generator as seeded
from mi_utils.studies.evaluation import drawn_per_class, first_per_class
from mi_utils.studies.patch_mi.claims import PATCH, pair_table
from mi_utils.studies.plan import Plan

VOTES = ("ensemble mean", "ensemble min", "vote", "majority", "unanimous", "accepted")
SHARES = ("top1", "top5", "confidence", *VOTES, "target")
MAIN = (*SHARES, "rho_pix", "rho_feat", "coverage", "DDCS")
CLOSENESS = (
    *("DDCS", "DDCS coverage", "nDDCS", "DDCS label", "KNN distance", "centroid distance"),
    *("precision", "recall", "density", "coverage", "N_eff", "FD", "KD"),
)
PRIOR, HOLDOUT = "prior samples", "held-out private images"
SHORT = (
    "top1",
    "ensemble mean",
    "unanimous",
    "accepted",
    "gap",
    "rho_pix",
    "rho_feat",
    "precision",
    "coverage",
)
FORMATS = dict.fromkeys((*SHARES, "gap"), percent)
PUBLISHED = {"top1": {("MNIST", PATCH): "99.72", ("EMNIST letters", PATCH): "99.68"}}


def with_gap(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores with the overfit gap (target minus mean evaluator accuracy) as one more metric."""
    keys = ["attack", "setting", "seed", "class"]
    wide = scores[scores["metric"].isin(("target", "ensemble mean"))].pivot(
        index=[*keys, "n"], columns="metric", values="value"
    )
    gap = (wide["target"] - wide["ensemble mean"]).rename("value").reset_index()
    return pd.concat([scores, gap.assign(metric="gap", reason="")], ignore_index=True)[scores.columns]


def with_normalised(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores with nDDCS: each DDCS of a setting that has both reference rows, between them, seed by seed."""
    frames = [scores]
    for (setting, seed), group in scores[scores["metric"] == "DDCS"].groupby(["setting", "seed"], sort=False):
        values, n = group.set_index("attack")["value"], int(group["n"].iloc[0])
        if not {PRIOR, HOLDOUT} <= set(values.index):
            continue
        for attack, value in values.items():
            try:
                found = normalised(value, values[PRIOR], values[HOLDOUT])
                frames.append(tidy.rows(attack, setting, seed, {"nDDCS": found}, n))
            except UserError as problem:
                frames.append(tidy.missing(attack, setting, seed, ["nDDCS"], str(problem)))
    return pd.concat(frames, ignore_index=True)


def caption(plan: Plan, what: str, images: str, problem: str | None = None, seeds: int | None = None) -> Caption:
    """What made a table's numbers."""
    benches = [b for b in plan.notes["benches"] if problem in (None, b.problem.name)]
    first = benches[0]
    names = ", ".join(first.panel.plain)
    return Caption(
        what=what,
        data="; ".join(f"{b.problem.name} attacked with {b.problem.auxiliary_name}" for b in benches),
        stand_in=None if plan.profile == "paper" else "MNIST/SERI95, EMNIST and CIFAR; " + plan.settings.standing,
        evaluator=f"top1/top5/confidence: {next(iter(first.panel.plain))} alone (the paper's protocol); ensemble: "
        f"{names}; vote: the class that most of all five name; majority: most of the four; accepted: "
        f"{first.problem.reject.architecture} with a reject class; unanimous: all of them",
        features=f"penultimate layer of {next(iter(first.panel.plain))} (all but rho_pix and DDCS); "
        f"{Options().name('ST-LPIPS (AlexNet)')} against {plan.settings.perceptual} private training images per "
        "class, DDCS label: the same among equal labels; nDDCS: 0 at prior samples, 1 at held-out private images",
        images=images,
        seeds=range(seeds or plan.settings.seeds),
        settings={
            "profile": plan.profile,
            "iterations of T1": plan.settings.iterations,
            "tuned": plan.settings.tuned_iterations,
            "sweeps": plan.settings.sweep_iterations,
            "active sweeps and pairs": plan.settings.active_iterations,
        },
    )


def _part(scores: pd.DataFrame, settings: Iterable[str]) -> pd.DataFrame:
    return pd.concat([scores[scores["setting"] == s] for s in settings], ignore_index=True)


def _table(
    scores: pd.DataFrame, settings: Iterable[str], metrics: tuple[str, ...], published: bool = False
) -> pd.DataFrame:
    """`mean ± std (n)` cells of these settings; what precedes " | " in a setting is the data set."""
    part = _part(scores, settings)
    known = [m for m in metrics if m in set(part["metric"])]
    return paper_table(part, known, formats=FORMATS, published=PUBLISHED if published else None)


def t1_main(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T1: every attack on every problem, beside the published top-1, and rows that no attack made."""
    return _compared(plan, scores, MAIN, published=True)


def t1b_closeness(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T1b: how near the same images come to the private ones, and how many of those they cover."""
    return _compared(plan, with_normalised(scores), CLOSENESS)


def _compared(plan: Plan, scores: pd.DataFrame, metrics: tuple[str, ...], published: bool = False) -> pd.DataFrame:
    """All rows of T1."""
    problems = [b.problem.name for b in plan.notes["benches"]]
    found = _table(scores, [f"{p} | T1" for p in problems], metrics, published)
    return found.rename(index=lambda s: s.replace(" | T1", ""), level="data")


def _rows(plan: Plan, prefixes: tuple[str, ...]) -> list[str]:
    """Settings of the first problem whose name begins with one of these, in the plan's order."""
    first = plan.notes["benches"][0].problem.name
    names = dict.fromkeys(run.setting for run in plan.runs)
    return [n for p in prefixes for n in names if n.startswith(f"{first} | {p}")]


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """The setting alone as row name: data set and attack are in the caption."""
    return table.rename(index=lambda s: s.split(" | ")[-1], level="data").rename_axis(index=["setting", "attack"])


def t2_ablation(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T2: {patch, off_patch} x {transformation block, none}."""
    settings = _rows(plan, ("base", "T4 none", "T3 off_patch"))
    return _named(_table(with_gap(scores), settings, (*SHORT, "FD")))


def t3_options(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T3: one option at a time around the base of the sweeps, patch sizes included."""
    return _named(_table(with_gap(scores), _rows(plan, ("base", "T3", "active")), (*SHORT, "N_eff", "FD")))


def t4_transformation(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T4: the transformation block taken apart, with Holm-corrected p of each effect on ensemble accuracy."""
    rows = _rows(plan, ("T4", "base"))
    table = _named(_table(with_gap(scores), rows, ("ensemble mean", "unanimous", "gap", "rho_pix")))
    effects = [s for s in rows if s != rows[0]]
    p = [_effect_p(scores, s, rows[0]) for s in effects]
    table["Holm p of the effect"] = ["–", *(f"{v:.3g}" for v in holm(p))] if p else "–"
    return table


def _effect_p(scores: pd.DataFrame, setting: str, none: str) -> float:
    pair = paired(scores, (PATCH, setting), (PATCH, none), "ensemble mean")
    return difference_p(*pair, seeded("bootstrap", setting))


def t5_pairs(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T5: measured divergence of each auxiliary/target pair, and what the attack reached with it."""
    found = pair_table(plan, scores).sort_values(["target", "JS_6"], ignore_index=True)
    return found.map(lambda v: f"{v:.3f}" if isinstance(v, float) else v)


def t6_classifiers(plan: Plan) -> pd.DataFrame:
    """T6: clean test accuracy of every target and evaluator."""
    rows = []
    for bench in plan.notes["benches"]:
        judged = {f"target, seed {s}": bench.target(s) for s in range(plan.settings.seeds)}
        for name, stage in (judged | bench.panel.everyone()).items():
            facts = stage.facts()
            rows.append(
                {
                    "data": bench.problem.name,
                    "classifier": name,
                    "architecture": f"{stage.architecture}, width {stage.width}",
                    "test accuracy %": percent(facts["test_accuracy"]),
                    "n train": facts["n_train"],
                    "n test": facts["n_test"],
                    "published": "not available" if name != "target, seed 0" else "99.44 (MNIST, released README)",
                }
            )
    return pd.DataFrame(rows)


def t7_targets(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T7 (ours): the attacked classifier trained without augmentation, beside the usual one."""
    first = plan.notes["benches"][0].problem.name
    usual = [f"{first} | base", f"{first} | T1"]
    chosen = with_gap(scores)
    chosen = chosen[chosen["attack"].isin((PATCH, f"{PATCH} (tuned)"))]
    return _named(_table(chosen, [*_rows(plan, ("T7",)), *usual], (*SHORT, "FD")))


# --- figures -----------------------------------------------------------------------------------------------


def f1_grid(plan: Plan, problem: str, attack: str | None, count: int = 10) -> Picture:
    """F1: the first `count` images per class of seed 0, not selected; `attack` None shows private images."""
    bench = next(b for b in plan.notes["benches"] if b.problem.name == problem)
    names = {c: bench.target(0).facts()["classes"][c] for c in bench.problem.classes}
    count = min(count, plan.settings.samples)
    if attack is None:
        data = drawn_per_class(bench.problem.train.load().only_classes(names), count)
        images, labels = data.images, data.labels
    else:
        images, labels = first_per_class(*plan.reconstructions(attack, f"{problem} | T1"), count)
    rows = figures.first_of_class(images, labels, names, count)
    return figures.image_grid(rows, first=count, title=f"{problem}: {attack or 'private images'}")


def f1_auxiliary(plan: Plan, problem: str, count: int = 10) -> Picture:
    """F1, auxiliary rows: what each attack's critic is shown."""
    bench = next(b for b in plan.notes["benches"] if b.problem.name == problem)
    pools = {"paper's pieces": bench.pool(), "tuned pieces": bench.pool(bench.problem.tuned_pieces)}
    rows = {name: pool.images("cpu")[:count] for name, pool in pools.items()}
    return figures.image_grid(rows, first=count, title=f"Auxiliary: {bench.problem.auxiliary_name}")


def f2_curves(plan: Plan) -> Picture:
    """F2: losses of the paper's settings over iterations, with the equilibrium of specification 2.3."""
    first = plan.notes["benches"][0].problem
    stages = [r.stage for r in plan.runs if (r.attack, r.setting) == (PATCH, f"{first.name} | T1")]
    found = [s.result().tensors for s in stages]
    l_d, l_adv = equilibrium(first.tau)
    names = {"loss_d": "$L_D$", "loss_adv": "$L_{adv}$", "loss_id": "$L_{id}$"}
    steps = torch.arange(1, stages[0].iterations + 1)
    series = {label: (steps, torch.stack([f[f"log_{key}"] for f in found])) for key, label in names.items()}
    references = {"$L_D$ at $p_a=q$": l_d, "$L_{adv}$ at $p_a=q$": l_adv}
    return figures.curves(series, x_label="iteration", y_label="loss", references=references, log_y=True)


def f3_similarity(plan: Plan, scores: pd.DataFrame) -> Picture:
    """F3: patch divergence against unanimous accuracy, a point per auxiliary/target pair."""
    pairs = pair_table(plan, scores)
    points = [
        figures.Point(attack=r["target"], label=r["auxiliary"], x=r["JS_6"], y=100 * r["unanimous"])
        for _, r in pairs.iterrows()
    ]
    return figures.scatter(points, x_label="JS$_6$ of patches (nats)", y_label="unanimous accuracy (%)")


def f4_tradeoff(plan: Plan, scores: pd.DataFrame, metric: str = "coverage") -> Picture:
    """F4: accuracy against coverage (or precision) of every attack of T1 and of the w_a sweep."""
    first = plan.notes["benches"][0].problem.name
    rows = [(run.attack, run.setting) for run in plan.runs if run.setting == f"{first} | T1"]
    rows += [(PATCH, s) for s in _rows(plan, ("base", "T3 w_a"))]
    points = []
    for attack, setting in dict.fromkeys(rows):
        tuned = setting.endswith("T1")
        points.append(
            figures.Point(
                attack=attack if tuned else "Patch-MI (sweep)",
                label=attack if tuned else setting.split(" | ")[-1].replace("T3 ", "").replace("base", "w_a 30"),
                x=_interval(scores, attack, setting, "ensemble mean", 100),
                y=_interval(scores, attack, setting, metric),
            )
        )
    return figures.scatter(points, x_label="ensemble accuracy (%)", y_label=metric)


def f7_nearest(plan: Plan, problem: str, attack: str) -> Picture:
    """F7: the most and the least exposed private images beside their nearest reconstruction, seed 0."""
    run = plan.find(attack, f"{problem} | T1")
    private, ranked = run.evaluation.exposed()
    found = run.stage.result().tensors
    images, labels = first_per_class(found["images"], found["labels"], run.evaluation.samples)
    names = dict(enumerate(private.classes))
    title = f"{problem}, {attack}; ST-LPIPS (AlexNet) distance d"
    return nearest_pairs(private.images, images, labels, ranked, names, title)


def _interval(scores: pd.DataFrame, attack: str, setting: str, metric: str, scale: float = 1.0) -> Interval:
    values = scale * matrix(scores, attack, setting, metric)[0]
    return mean_interval(values, seeded("bootstrap", attack, setting, metric))


def f5_disagreement(plan: Plan, scores: pd.DataFrame, problem: str) -> Picture:
    """F5: accuracy of every attack under the target and each evaluator."""
    bench = next(b for b in plan.notes["benches"] if b.problem.name == problem)
    columns = {"target": "target", **{f"top1 {n}": n for n in bench.panel.plain}, "accepted": "reject class"}
    seeds = per_seed(scores[scores["setting"] == f"{problem} | T1"])
    table = seeds.pivot_table(index="attack", columns="metric", values="value", sort=False)[list(columns)]
    order = list(dict.fromkeys(run.attack for run in plan.runs if run.setting == f"{problem} | T1"))
    return figures.heat_map(
        100 * table.loc[order].rename(columns=columns), label="accuracy (%)", digits=1, low=0, high=100
    )


def f6_transformations(plan: Plan, scores: pd.DataFrame) -> Picture:
    """T4 as bars: paired effect of each block on the mean evaluator accuracy, against none."""
    none, *others = _rows(plan, ("T4", "base"))
    effects = {}
    for setting in others:
        pair = paired(scores, (PATCH, setting), (PATCH, none), "ensemble mean")
        name = setting.split(" | ")[-1].replace("T4 ", "").replace("base", "released block")
        effects[name] = difference_interval(*pair, seeded("bootstrap", setting))
    return figures.effect_bars(effects, label="change of ensemble accuracy against no block")

"""Tables and figures of the Patch-MI study, each a function of the plan and its scores."""

from collections.abc import Iterable

import pandas as pd
import torch

from mi_utils.attacks.patch_mi import equilibrium
from mi_utils.metrics.intervals import difference_interval, difference_p, holm
from mi_utils.report import figures
from mi_utils.report.figures import Picture
from mi_utils.report.scores import paired
from mi_utils.report.tables import Caption
from mi_utils.runtime import generator as seeded
from mi_utils.studies import tables
from mi_utils.studies.evaluation import drawn_per_class, first_per_class
from mi_utils.studies.patch_mi.claims import PATCH, pair_table
from mi_utils.studies.plan import Plan
from mi_utils.studies.tables import named, with_gap, with_normalised

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
PUBLISHED = {"top1": {("MNIST", PATCH): "99.72", ("EMNIST letters", PATCH): "99.68"}}


def caption(plan: Plan, what: str, images: str, problem: str | None = None, seeds: int | None = None) -> Caption:
    """What made a table's numbers."""
    benches = [b for b in plan.notes["benches"] if problem in (None, b.problem.name)]
    first = benches[0]
    return Caption(
        what=what,
        data="; ".join(f"{b.problem.name} attacked with {b.problem.auxiliary_name}" for b in benches),
        stand_in=None if plan.profile == "paper" else "MNIST/SERI95, EMNIST and CIFAR; " + plan.settings.standing,
        evaluator=tables.evaluator_words(first.panel),
        features=tables.feature_words(first.panel, plan.settings.perceptual),
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


def _table(
    scores: pd.DataFrame, settings: Iterable[str], metrics: tuple[str, ...], published: bool = False
) -> pd.DataFrame:
    """`mean ± std (n)` cells of these settings; what precedes " | " in a setting is the data set."""
    return tables.table(tables.part(scores, settings), metrics, PUBLISHED if published else None)


def t1_main(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T1: every attack on every problem, beside the published top-1, and rows that no attack made."""
    return _compared(plan, scores, tables.MAIN, published=True)


def t1b_closeness(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T1b: how near the same images come to the private ones, and how many of those they cover."""
    return _compared(plan, with_normalised(scores), tables.CLOSENESS)


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


def t2_ablation(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T2: {patch, off_patch} x {transformation block, none}."""
    settings = _rows(plan, ("base", "T4 none", "T3 off_patch"))
    return named(_table(with_gap(scores), settings, (*SHORT, "FD")))


def t3_options(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T3: one option at a time around the base of the sweeps, patch sizes included."""
    return named(_table(with_gap(scores), _rows(plan, ("base", "T3", "active")), (*SHORT, "N_eff", "FD")))


def t4_transformation(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T4: the transformation block taken apart, with Holm-corrected p of each effect on ensemble accuracy."""
    rows = _rows(plan, ("T4", "base"))
    table = named(_table(with_gap(scores), rows, ("ensemble mean", "unanimous", "gap", "rho_pix")))
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
            published = "not available" if name != "target, seed 0" else "99.44 (MNIST, released README)"
            rows.append(tables.classifier_row(bench.problem.name, name, stage) | {"published": published})
    return pd.DataFrame(rows)


def t7_targets(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T7 (ours): the attacked classifier trained without augmentation, beside the usual one."""
    first = plan.notes["benches"][0].problem.name
    usual = [f"{first} | base", f"{first} | T1"]
    chosen = with_gap(scores)
    chosen = chosen[chosen["attack"].isin((PATCH, f"{PATCH} (tuned)"))]
    return named(_table(chosen, [*_rows(plan, ("T7",)), *usual], (*SHORT, "FD")))


# --- figures -----------------------------------------------------------------------------------------------

f5_disagreement, f7_nearest = tables.disagreement, tables.nearest


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
    return tables.class_grid(images, labels, names, count, f"{problem}: {attack or 'private images'}")


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
                x=tables.interval(scores, attack, setting, "ensemble mean", 100),
                y=tables.interval(scores, attack, setting, metric),
            )
        )
    return figures.scatter(points, x_label="ensemble accuracy (%)", y_label=metric)


def f6_transformations(plan: Plan, scores: pd.DataFrame) -> Picture:
    """T4 as bars: paired effect of each block on the mean evaluator accuracy, against none."""
    none, *others = _rows(plan, ("T4", "base"))
    effects = {}
    for setting in others:
        pair = paired(scores, (PATCH, setting), (PATCH, none), "ensemble mean")
        name = setting.split(" | ")[-1].replace("T4 ", "").replace("base", "released block")
        effects[name] = difference_interval(*pair, seeded("bootstrap", setting))
    return figures.effect_bars(effects, label="change of ensemble accuracy against no block")

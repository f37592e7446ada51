"""Tables of the logit and augmentation study, each a function of the plan and its `complete` scores."""

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.metrics.intervals import Interval, difference_interval, spearman_interval
from mi_utils.report import scores as tidy
from mi_utils.report.scores import NOT_AVAILABLE, NOT_COMPUTED, paired, percent
from mi_utils.report.tables import Caption
from mi_utils.runtime import generator as seeded
from mi_utils.studies import factor_tables, tables
from mi_utils.studies.logit_augmentation.grid import BASES, MAIN, SHIFT, VARIANTS, Bench
from mi_utils.studies.logit_augmentation.settings import Search
from mi_utils.studies.plan import Plan
from mi_utils.studies.tables import by_rank, classifier_row, part, picked

RELEASED = {"GMI": "2,400", "KEDMI": "2,400", "VMI": "4,867"}  # iterations
COLUMNS = (
    *tables.SHARES,
    *("gap", "relative gap", "KNN distance", "FD", "rho_pix", "rho_feat", "coverage", "DDCS", "nDDCS"),
)
GAINS = (
    *("top1", "ensemble mean", "unanimous", "accepted", "target", "gap"),
    "KNN distance",
    "FD",
    "rho_pix",
    "coverage",
)
ENDS = ("feature gap", "feature cosine", "feature norm")
SHORT = ("top1", "ensemble mean", "unanimous", "accepted", "target", "gap", "rho_pix", "coverage", *ENDS)
FORMATS = tables.FORMATS | {"relative gap": percent}
t9_factors = factor_tables.table
FACTORS = (0.5, 1.0, 2.0)  # of the learning rate, in every seed
LAMBDAS = (0.0, 0.1, 1.0, 10.0)

# --- scores ------------------------------------------------------------------------------------------------


def complete(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """Scores with everything that tables and claims derive from them and from the courses."""
    found = with_relative_gap(plan, tables.with_normalised(tables.with_gap(scores)))
    return pd.concat([found, course_rows(plan)], ignore_index=True)


def with_relative_gap(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    r"""Scores with the overfit gap of accuracies relative to each net's own on private test images.

    $A_T/\mathrm{acc}_T-\overline{A_E/\mathrm{acc}_E}$ over the plain evaluators.  Source: specification, 6.
    """
    keys, frames = ["attack", "setting", "seed", "class", "n"], [scores]
    for bench in (*plan.notes["benches"], *plan.notes["others"]):
        judges = {f"top1 {name}": clean_accuracy(stage) for name, stage in bench.panel.plain.items()}
        here = scores[scores["setting"].str.startswith(f"{bench.name} | ")]
        for seed, group in here.groupby("seed", sort=False):
            known = pd.Series({"target": clean_accuracy(bench.target(int(seed))), **judges})
            wide = group[group["metric"].isin(known.index)].pivot(index=keys, columns="metric", values="value")
            share = wide / known[known > 0]
            gap = share["target"] - share.drop(columns="target").mean(axis=1, skipna=False)
            frame = gap.rename("value").reset_index().assign(metric="relative gap", reason="")
            frame.loc[frame["value"].isna(), "reason"] = f"{NOT_COMPUTED}a net recognises no private test image"
            frames.append(frame[scores.columns])
    return pd.concat(frames, ignore_index=True)


def clean_accuracy(stage: object) -> float:
    """Of a stored classifier, on private test images."""
    return float(stage.facts()["test_accuracy"])


def course_rows(plan: Plan) -> pd.DataFrame:
    """Where the features of every run that has a course end: gap, cosine and norm."""
    cells = [
        (*name, str(c), metric, float(value), n, "")
        for name, course in plan.notes["courses"].items()
        for metric, c, value, n in course.result().meta["rows"]
    ]
    return pd.DataFrame(cells, columns=tidy.COLUMNS).astype({"seed": int, "value": float, "n": int})


# --- captions ----------------------------------------------------------------------------------------------


def caption(plan: Plan, what: str, problem: str | None = None, seeds: int | None = None, images: str = "") -> Caption:
    """What made a table's numbers, with every deviation from the paper's sizes."""
    benches = [b for b in plan.notes["benches"] if problem in (None, b.problem.name)]
    s, panels = plan.settings, {b.problem.name: b.panel for b in benches}
    judge = next(iter(panels.values()))
    judges = {tables.evaluator_words(panel): name for name, panel in panels.items()}
    several = len(judges) > 1
    return Caption(
        what=what,
        data="; ".join(f"{b.problem.name}, public images: {b.problem.public_name}" for b in benches),
        stand_in=None if plan.profile == "paper" else f"CelebA and FFHQ; {s.standing}",
        evaluator="; ".join(f"{name}: {words}" if several else words for words, name in judges.items()),
        features=f"{tables.feature_words(judge, s.perceptual)}; feature gap, cosine and norm: the target's",
        images=images or "per class " + ", ".join(f"{b.problem.samples} ({b.problem.name})" for b in benches),
        seeds=range(seeds or s.seeds),
        settings={"profile": plan.profile} | deviations(plan, benches),
    )


def deviations(plan: Plan, benches: list[Bench]) -> dict[str, str]:
    """Sizes that made the numbers, the paper's (released code's) in brackets."""
    s, p = plan.settings, benches[0].problem
    searches: dict[str, Search] = {base: getattr(s, base.lower()) for base in BASES}
    steps = " and ".join(f"{b.problem.gmi_steps:,}/{b.problem.kedmi_steps:,}" for b in benches)
    widths = "; ".join(f"{b.problem.target.architecture}, width {b.problem.target.width}" for b in benches)
    return {
        "iterations": ", ".join(f"{b} {x.iterations} ({RELEASED[b]})" for b, x in searches.items()),
        "learning rate": ", ".join(f"{b} {x.lr:g} (0.02)" for b, x in searches.items()),
        "restarts or draws per class": f"{', '.join(str(b.problem.samples) for b in benches)} (5)",
        "latent clip": ", ".join(f"{b} {x.clip or 'none'}" for b, x in searches.items()) + " (1, VMI none)",
        "priors": f"width {'/'.join(str(b.problem.g_width) for b in benches)} (64), {steps} discriminator steps of "
        f"GMI/KEDMI (56,160), {s.critic_steps} per generator step (5)",
        "target": f"{widths}, from random weights, augmented by {'/'.join(_steps(b) for b in benches)} (vgg16, ir152, "
        "ir50, width 64, 64 px, the last two from a face net's weights, flips alone)",
        "students": f"{', '.join(p.students)}, from random weights (EfficientNet-b0, b1, b2 with ImageNet weights)",
    }


def _steps(bench: Bench) -> str:
    """The kinds of the target's augmentation."""
    return " ".join(step.kind for step in bench.problem.target.augmentation.steps)


# --- tables ------------------------------------------------------------------------------------------------


def t1_main(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T1: base attacks and losses, with rows that no attack made.  No published cell can be placed (section 7)."""
    return _of_t1(scores, [b.name for b in plan.notes["benches"]], COLUMNS)


def t1b_closeness(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T1b: how near the same images come to the private ones, and how many of those they cover."""
    return _of_t1(scores, [b.name for b in plan.notes["benches"]], (*tables.CLOSENESS, *ENDS), published=False)


def t1_targets(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T1, further targets: GMI with and without both changes."""
    first = plan.notes["benches"][0].name
    chosen = scores[scores["attack"].isin(("GMI CE", "GMI LOMMA"))]
    return _of_t1(chosen, [first, *(b.name for b in plan.notes["others"])], COLUMNS)


def _of_t1(scores: pd.DataFrame, names: list[str], metrics: tuple[str, ...], published: bool = True) -> pd.DataFrame:
    settings = [f"{name} | {MAIN}" for name in names]
    found = tables.table(part(scores, settings), metrics, {"top1": {}} if published else None, FORMATS)
    return found.rename(index=lambda s: s.replace(f" | {MAIN}", ""), level="data")


def gains(plan: Plan, scores: pd.DataFrame, metric: str) -> dict[tuple[str, str, str], Interval]:
    """(data, base, variant) -> paired difference to the base with cross-entropy, over seeds and classes."""
    ranked = by_rank(scores[scores["metric"] == metric])
    found = {}
    for name in (b.name for b in plan.notes["benches"]):
        for base in BASES:
            for variant in VARIANTS[1:]:
                rows = ((f"{base} {v}", f"{name} | {MAIN}") for v in (variant, "CE"))
                rng = seeded("bootstrap", name, base, variant, metric)
                found[name, base, variant] = difference_interval(*paired(ranked, *rows, metric), rng)
    return found


def t1c_differences(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T1c: paired differences to cross-entropy, `point [95 % interval] (n)`; shares in percentage points."""
    cells = {m: {row: _written(i, m) for row, i in gains(plan, scores, m).items()} for m in GAINS}
    found = pd.DataFrame(cells)
    return found.rename(index=lambda v: f"{v} − CE", level=2).rename_axis(index=["data", "base", "difference"])


def _written(found: Interval, metric: str) -> str:
    scale, digits = (100, 1) if metric in FORMATS else (1, 3)
    point, low, high = (f"{scale * v:.{digits}f}" for v in (found.point, found.low, found.high))
    return f"{point} [{low}, {high}] (n={found.n})"


def t2_shift(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T2: the same attacks with public images of the private kind and of a shifted one."""
    name = plan.notes["benches"][0].name
    rows = {
        (f"{base} {variant}", f"{name} | {setting}"): said
        for base in shifted_bases(plan)
        for setting, said in ((MAIN, "public images as private"), (SHIFT, "shifted public images"))
        for variant in ("CE", "LOMMA")
    }
    return _rows(scores, rows, (*SHORT, "KNN distance", "FD"))


def shifted_bases(plan: Plan) -> list[str]:
    """Base attacks that were run with shifted public images."""
    tried = {run.attack.split(" ")[0] for run in plan.runs if run.setting.endswith(f" | {SHIFT}")}
    return [base for base in BASES if base in tried]


def t4_augmentation(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T4: how many students, of which architecture, and students that know nothing of the target."""
    bench = plan.notes["benches"][0]
    own = f"{len(bench.problem.students)} students"
    main = f"{bench.name} | {MAIN}"
    rows = {("KEDMI CE", main): "no student"}
    rows |= {("KEDMI +MA", s): s.split("T4 ")[-1] for s in _settings(plan, "T4") if "student" in s}
    rows |= {("KEDMI +MA", main): own}
    rows |= {("KEDMI +MA", s): s.split("T4 ")[-1] for s in _settings(plan, "T4")}
    return _rows(scores, rows, SHORT)


def t5_objective(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T5: the regulariser, the step size, the clip, other identity losses."""
    main = f"{plan.notes['benches'][0].name} | {MAIN}"
    usual = {("KEDMI CE", main): "T1", ("KEDMI +LOM", main): f"T1: lam {plan.settings.lam:g}, p_reg mean"}
    asked = [(r.attack, r.setting) for s in _settings(plan, "T5") for r in plan.runs if r.setting == s]
    return _rows(scores, usual | {pair: pair[1].split("T5 ")[-1] for pair in asked}, SHORT)


def _settings(plan: Plan, prefix: str) -> list[str]:
    """Settings of the first problem that begin so, in the plan's order."""
    start = f"{plan.notes['benches'][0].name} | {prefix}"
    return list(dict.fromkeys(run.setting for run in plan.runs if run.setting.startswith(start)))


def _rows(scores: pd.DataFrame, rows: dict[tuple[str, str], str], metrics: tuple[str, ...]) -> pd.DataFrame:
    found = tables.table(picked(scores, rows), metrics, formats=FORMATS)
    return found.rename_axis(index=["setting", "attack"])


def t6_classifiers(plan: Plan) -> pd.DataFrame:
    """T6: clean test accuracy of targets and evaluators; agreement of students with their target on public images."""
    rows = []
    for bench in plan.notes["benches"]:
        seeds = range(plan.settings.seeds)
        judged = {f"target, seed {s}": bench.target(s) for s in seeds} | bench.panel.everyone()
        rows += [classifier_row(bench.name, name, stage) for name, stage in judged.items()]
        rows += [_student_row(bench, seed, i) for seed in seeds for i in range(len(bench.problem.students))]
    for bench in plan.notes["others"]:
        seeds = range(plan.settings.seeds_targets)
        rows += [classifier_row(bench.name, f"target, seed {s}", bench.target(s)) for s in seeds]
    return pd.DataFrame(rows).fillna("–").assign(published=NOT_AVAILABLE)


def _student_row(bench: Bench, seed: int, place: int) -> dict[str, object]:
    stage = bench.students(seed)[place]
    facts = stage.facts()
    return {
        "data": bench.name,
        "classifier": f"student {list(bench.problem.students)[place]}, seed {seed}",
        "architecture": f"{stage.architecture}, width {stage.width}",
        "n train": facts["n_train"],
        "n test": facts["n_test"],
        "agreement with the target %": percent(facts["agreement"]),
        "best constant answer %": percent(facts["constant_agreement"]),
    }


def t6_priors(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T6, priors: samples of the generator against private images, between public and held-out private images."""
    rows = {
        (name, f"{bench.name} | {MAIN}"): f"{bench.name} "
        for bench in plan.notes["benches"]
        for name in (tables.PRIOR, tables.PUBLIC, tables.HOLDOUT)
    }
    found = tables.table(picked(scores, rows), ("FD", "KD", "precision", "recall", "coverage", "rho_pix"))
    return found.rename(index=str.strip, level="data").rename_axis(index=["data", "images"])


# --- is the gain explained by the weights' norm, or by the step? ------------------------------------------


def norm_table(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    r"""Rank correlation of a class's gain in ensemble accuracy, LOM - CE, with $\lVert w_y\rVert$, by base.

    Both are taken as differences to their mean over a seed's classes: targets of different seeds do not mix.
    """
    rows = []
    for bench in plan.notes["benches"]:
        norms = weight_norms(plan, bench)
        for base in BASES:
            gain = class_gains(scores, bench.name, base)
            x, y = (v - v.mean(1, keepdim=True) for v in (norms, gain))
            try:
                words = _written(spearman_interval(x.flatten(), y.flatten(), seeded("norms", bench.name, base)), "")
            except UserError as problem:
                words = f"{NOT_COMPUTED}{problem}"
            spread = (norms.std(1) / norms.mean(1)).mean()
            rows.append({
                "data": bench.name, "base": base, "rank correlation [95 %] (pairs)": words,
                "std of ‖w_y‖ over its mean": f"{spread:.3f}", "std of the gain (points)": f"{100 * y.std():.1f}",
            })  # fmt: skip
    return pd.DataFrame(rows)


def weight_norms(plan: Plan, bench: Bench) -> Float[Tensor, "s c"]:
    r"""$\lVert w_{0,y}\rVert$ of the attacked classes, in the order of their ids."""
    rows = []
    for seed in range(plan.settings.seeds):
        head = bench.target(seed).network("cpu").head
        rows.append(head.weight.norm(dim=1)[sorted(bench.split(seed).classes)])
    return torch.stack(rows).double()


def class_gains(scores: pd.DataFrame, name: str, base: str) -> Float[Tensor, "s c"]:
    """Ensemble accuracy with LOM minus with CE, in the order of the class ids."""
    tall = scores[(scores["setting"] == f"{name} | {MAIN}") & (scores["metric"] == "ensemble mean")]
    tall = tall[tall["class"] != tidy.POOLED]
    ranked = by_rank(tall).astype({"class": int})
    one, other = (
        ranked[ranked["attack"] == f"{base} {v}"].pivot(index="seed", columns="class", values="value")
        for v in ("+LOM", "CE")
    )
    return torch.tensor((one - other).to_numpy(), dtype=torch.float64)


def rate_rows(plan: Plan, variant: str) -> dict[float, tuple[str, str]]:
    """Factor of the learning rate -> (attack, setting) of KEDMI with that loss."""
    name = plan.notes["benches"][0].name
    return {f: (f"KEDMI {variant}", f"{name} | {MAIN if f == 1 else f'T5 lr x{f:g}'}") for f in FACTORS}

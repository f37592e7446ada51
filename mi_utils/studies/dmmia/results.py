"""Tables of the DMMIA study, each a function of the plan and its `complete` scores."""

from collections.abc import Iterable
from operator import itemgetter

import pandas as pd
import torch
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.metrics.intervals import Interval, difference_interval
from mi_utils.report import scores as tidy
from mi_utils.report.scores import NOT_AVAILABLE, paired, percent
from mi_utils.report.tables import Caption
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Stage
from mi_utils.studies import tables
from mi_utils.studies.dmmia.grid import ABLATION, ALL, FRESH, FULL, MAIN, MATCHED, PPA, SHIFT, sweeps
from mi_utils.studies.plan import Plan
from mi_utils.studies.tables import classifier_row, part, picked

SELECTED = (
    *tables.SHARES, "gap", "KNN distance", "FD", "KD", "precision", "recall", "density", "coverage", "DDCS", "nDDCS",
    "rho_pix", "rho_feat",
)  # fmt: skip
# Of all candidates: what a selection would hide.
SPREAD = ("DIV-P", "DIV-F", "looks", "look entropy", "glasses", "glasses retention", "factor error")
FORGOTTEN = ("recall forgotten", "looks forgotten", "glasses forgotten")
UNSELECTED = (
    "ensemble mean", "unanimous", "accepted", "target", "KNN distance", "FD", "FD second space", "recall", "coverage",
    *SPREAD, *FORGOTTEN, "drift", "effective positives",
)  # fmt: skip
DIFFERENCES = (
    "ensemble mean", "unanimous", "accepted", "KNN distance", "FD", "FD second space", "recall", "coverage", "rho_pix",
    "DIV-P", "looks", "glasses retention", "factor error",
)  # fmt: skip
RETAINED = (0.15, 0.85)  # private share of glasses of the identities whose retention is judged
FORMATS = tables.FORMATS | dict.fromkeys(("glasses",), percent)
PAPER = {"candidates": 200, "kept": 50, "epochs": 70, "pool": 5000, "prototypes": 800}

# --- scores ------------------------------------------------------------------------------------------------


def complete(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """Scores with everything that tables and claims derive from them and from the timelines."""
    require_judges(plan)
    found = tables.with_normalised(tables.with_gap(scores))
    frames = [timeline_rows(name, line) for name, line in plan.notes["timelines"].items()]
    return pd.concat([found, *frames], ignore_index=True)


def require_judges(plan: Plan) -> None:
    """UserError where an evaluator knows private test images less well than the best target, beyond chance.

    Chance: two standard errors of the difference of two shares of the test images, by their common share.  At `smoke`
    nothing is trained long enough to ask.
    """
    if plan.profile == "smoke":
        return
    for bench in plan.notes["benches"]:
        best = max((bench.target(seed).facts() for seed in range(plan.settings.seeds)), key=itemgetter("test_accuracy"))
        share = best["test_accuracy"]
        for name, judge in bench.panel.plain.items():
            found = judge.facts()["test_accuracy"]
            common = (share + found) / 2
            least = share - 2 * (2 * common * (1 - common) / best["n_test"]) ** 0.5
            if found < least:
                raise UserError(
                    f"{bench.name}: expected judges as accurate as the target ({share:.3f}, {least:.3f} by chance), "
                    f"found {name} with {found:.3f}; train it longer or on more images"
                )


def timeline_rows(name: tuple[str, str, int], line: Stage) -> pd.DataFrame:
    """Last epoch, and what was lost since the best one, of one search: by class, and their mean."""
    tensors = line.result().tensors
    classes, n = sorted(line.attack.classes), line.attack.candidates
    attack = line.attack.result()
    ends = {m: tensors[m][-1] for m in SPREAD if m in tensors}
    for metric in ("recall", "looks", "glasses"):
        if metric in tensors:
            ends[f"{metric} forgotten"] = tensors[metric].amax(0) - tensors[metric][-1]
    found: list[tuple] = []
    for metric, values in ends.items():
        found += [(str(c), metric, v, n) for c, v in zip(classes, values.tolist(), strict=True)]
        found.append((tidy.POOLED, metric, values.mean().item(), n * len(classes)))
    found += [(str(c), "glasses retention", v, n) for c, v in retention(tensors, classes).items()]
    pooled = {"drift": attack.tensors["log_drift"][-1]}
    if "log_effective_positives" in attack.tensors:
        pooled["effective positives"] = attack.tensors["log_effective_positives"][-1]
    pooled["FD second space"] = tensors[f"FD {list(line.panel.plain)[1]}"][-1]
    found += [(tidy.POOLED, m, float(v), n * len(classes)) for m, v in pooled.items()]
    rows = [(*name, c, metric, value, count, "") for c, metric, value, count in found]
    return pd.DataFrame(rows, columns=tidy.COLUMNS)


def retention(tensors: dict[str, Tensor], classes: list[int]) -> dict[int, float]:
    """Share of images with glasses over the private share, of the classes whose private share is in `RETAINED`."""
    if "glasses" not in tensors:
        return {}
    real = tensors["private glasses"]
    low, high = RETAINED
    return {
        c: float(made / share)
        for c, made, share in zip(classes, tensors["glasses"][-1], real, strict=True)
        if low <= share <= high
    }


# --- captions ----------------------------------------------------------------------------------------------


def caption(plan: Plan, what: str, seeds: int | None = None, images: str = "") -> Caption:
    """What made a table's numbers, with every deviation from the paper's sizes."""
    benches, s = plan.notes["benches"], plan.settings
    judge = benches[0].panel
    return Caption(
        what=what,
        data="; ".join(f"{b.problem.name}, generator of {b.problem.public_name}" for b in benches),
        stand_in=None if plan.profile == "paper" else f"CelebA, FaceScrub, Stanford Dogs; {s.standing}",
        evaluator=tables.evaluator_words(judge),
        features=f"{tables.feature_words(judge, s.perceptual)}; FD second space: {list(judge.plain)[1]}; DIV-P: mean "
        "pairwise ST-LPIPS (AlexNet) within a class; looks, glasses, factor error: read by a regressor",
        images=images or _selected(plan),
        seeds=range(seeds or s.seeds),
        settings={"profile": plan.profile} | sizes(plan),
    )


def _selected(plan: Plan) -> str:
    return ", ".join(f"{b.problem.samples} of {b.problem.candidates} per class" for b in plan.notes["benches"])


def unselected(plan: Plan) -> str:
    """N of the tables of all candidates."""
    return ", ".join(f"all {b.problem.candidates} candidates per class" for b in plan.notes["benches"])


def sizes(plan: Plan) -> dict[str, str]:
    """Sizes that made the numbers, PPA's (released code of DMMIA) in brackets."""
    s, p = plan.settings, plan.notes["benches"][0].problem
    m = s.memory
    return {
        "pool": f"{p.pool} ({PAPER['pool']})",
        "candidates": f"{p.candidates} ({PAPER['candidates']})",
        "kept": f"{p.samples} ({PAPER['kept']})",
        "epochs": f"{p.epochs} ({PAPER['epochs']})",
        "psi": f"{s.psi:g} (0.5)",
        "learning rate": f"{p.lr:g} (0.005), mapping network {m.lr:g} over batches",
        "prototypes": f"{m.n_w}, {m.rho} positive ({PAPER['prototypes']}, 400)",
        "lambda": f"{m.lam1:g}, {m.lam2:g} (1, 1)",
        "tau": f"{m.tau:g} (1)",
        "r": f"{m.r:g} (0.7)",
        "target": f"{p.target.architecture}, width {p.target.width} (ResNeSt-101)",
    }


# --- tables ------------------------------------------------------------------------------------------------


def t1_main(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T1: selected images of every arm, with rows that no attack made.  No published cell has a source."""
    settings = [f"{b.name} | {MAIN}" for b in plan.notes["benches"]]
    found = tables.table(part(scores, settings), SELECTED, {"top1": {}}, FORMATS)
    return found.rename(index=lambda s: s.replace(f" | {MAIN}", ""), level="data")


def t1b_unselected(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T1b: all candidates of every search, and images of new latents by the tuned networks."""
    settings = [f"{b.name} | {row}" for b in plan.notes["benches"] for row in (ALL, FRESH)]
    known = [s for s in settings if (scores["setting"] == s).any()]
    return tables.named(tables.table(part(scores, known), UNSELECTED, formats=FORMATS))


def t1c_differences(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T1c: paired differences DMMIA minus every other search, all candidates: `point [95 %] (n)`; shares in points."""
    cells: dict[str, dict[str, str]] = {}
    name = plan.notes["benches"][0].name
    for attack in plan.notes["benches"][0].arms():
        if attack != FULL:
            cells[f"{FULL} − {attack}"] = {
                metric: _written(found, metric)
                for metric in DIFFERENCES
                if (found := difference(scores, (FULL, attack), f"{name} | {ALL}", metric)) is not None
            }
    return pd.DataFrame.from_dict(cells, orient="index").rename_axis("difference")


def difference(scores: pd.DataFrame, pair: tuple[str, str], setting: str, metric: str) -> Interval | None:
    """Paired difference of two attacks over seeds and classes; None where the metric was not measured."""
    if not ((scores["metric"] == metric) & (scores["setting"] == setting)).any():
        return None
    one, other = ((attack, setting) for attack in pair)
    return difference_interval(*paired(scores, one, other, metric), seeded("bootstrap", *pair, metric))


def _written(found: Interval, metric: str) -> str:
    scale, digits = (100, 1) if metric in FORMATS else (1, 3)
    point, low, high = (f"{scale * v:.{digits}f}" for v in (found.point, found.low, found.high))
    return f"{point} [{low}, {high}] (n={found.n})"


def t2_targets(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T2: PPA and DMMIA against further architectures."""
    first, others = plan.notes["benches"][0], plan.notes["others"]
    kinds = {MAIN: "selected", ALL: "all"}
    rows = {
        (attack, f"{bench.name} | {setting}"): f"{bench.name}, {said}"
        for bench in (first, *others)
        for setting, said in kinds.items()
        for attack in (PPA, FULL)
    }
    metrics = (
        "ensemble mean",
        "unanimous",
        "accepted",
        "target",
        "KNN distance",
        "FD",
        "recall",
        "coverage",
        "DIV-P",
        "looks",
    )
    return tables.table(picked(scores, rows), metrics, formats=FORMATS)


def t3_ablation(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T3: IMR and IDR on and off, all candidates; the released form moves styles."""
    rows = {}
    for bench in plan.notes["benches"]:
        setting = f"{bench.name} | {ALL}"
        rows |= {(name, setting): f"{bench.name}: IMR {i}, IDR {j}" for (i, j), name in ABLATION.items()}
        rows |= {("PPA, CE", setting): f"{bench.name}: IMR 0, IDR 0, styles",
                 ("DMMIA, released form", setting): f"{bench.name}: IMR 1, IDR 1, styles"}  # fmt: skip
    return tables.table(picked(scores, rows), UNSELECTED, formats=FORMATS)


def t4_sweeps(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T4: one option of DMMIA changed at a time, all candidates of the first classes."""
    name = plan.notes["benches"][0].name
    rows = {(FULL, f"{name} | T4 {row}"): row for row in sweeps(plan.settings)}
    return tables.table(picked(scores, rows), UNSELECTED, formats=FORMATS).rename_axis(index=["option", "attack"])


def t5_cost(plan: Plan) -> pd.DataFrame:
    """T5: what an arm costs: images made and shown to the target, per class, and seconds of its stage."""
    rows = []
    for bench in plan.notes["benches"]:
        seconds: dict[str, Tensor] = {}
        for attack in (*bench.arms(), *bench.older()):
            runs = [r for r in plan.runs if (r.attack, r.setting) == (attack, f"{bench.name} | {MAIN}")]
            results = [run.stage.result() for run in runs]
            seconds[attack] = torch.tensor([result.seconds for result in results])
            made = results[0].meta.get("cost") or older_cost(runs[0].stage)
            spread = f" ± {seconds[attack].std():.1f}" if len(runs) > 1 else ""
            rows.append({
                "data": bench.name, "attack": attack, "images made per class": made["generated"],
                "shown to the target": made["shown"], "of them with a gradient": made["gradients"],
                "seconds": f"{seconds[attack].mean():.1f}{spread} (n={len(runs)})",
                "over PPA": f"{seconds[attack].mean() / seconds[PPA].mean():.2f}",
            })  # fmt: skip
    return pd.DataFrame(rows)


def older_cost(stage: Stage) -> dict[str, int]:
    """Per class, of GMI and KEDMI: every image made is shown, all but the last ones with a gradient."""
    search = stage.iterations * getattr(stage, "draws", stage.samples)
    return {"generated": search + stage.samples, "shown": search + stage.samples, "gradients": search}


def t6_classifiers(plan: Plan) -> pd.DataFrame:
    """T6: clean test accuracy of targets and evaluators."""
    rows = []
    for bench in plan.notes["benches"]:
        judged = {f"target, seed {s}": bench.target(s) for s in range(plan.settings.seeds)}
        rows += [classifier_row(bench.name, name, stage) for name, stage in (judged | bench.panel.everyone()).items()]
    for bench in plan.notes["others"]:
        seeds = range(plan.settings.seeds_targets)
        rows += [classifier_row(bench.name, f"target, seed {s}", bench.target(s)) for s in seeds]
    found = pd.DataFrame(rows)
    published = {"CelebA": "93.28 (Inception-v3, PPA table 4, with its HD crop)"}
    return found.assign(published=found["data"].map(published).fillna(NOT_AVAILABLE))


def t6_priors(plan: Plan) -> pd.DataFrame:
    """T6, priors: samples against public images, and public images against each other, 2,000 of each."""
    rows = []
    for name, stage in plan.notes["qualities"].items():
        found = pd.DataFrame(stage.result().meta["rows"], columns=["images", "metric", "value"])
        wide = found.pivot_table(index="images", columns="metric", values="value", sort=False)
        for images, values in wide.iterrows():
            rows.append(
                {"prior": name, "images": images, "N": stage.count} | {m: f"{v:.3f}" for m, v in values.items()}
            )
    return pd.DataFrame(rows)


def t7_deviations(plan: Plan) -> pd.DataFrame:
    """T7: where this differs from the paper or the released code, and why."""
    return pd.DataFrame(DEVIATIONS, columns=["what", "paper or released code", "here", "why"])


DEVIATIONS = (
    ("likelihoods of IMR and IDR", "not public; released: a ratio descended with the wrong sign", "softmax, -log p",
     "the only form consistent with the grouping in the code that raises p"),
    ("prototypes", "released: never receive a gradient", "SGD 0.1, momentum 0.9 on mean L_imr", "\"learned\" (paper)"),
    ("temperature", "none (1)", "0.1", "at 1 all positives act as one (T4, D8)"),
    ("memory at first", "empty", "mean pool features by predicted class", "an empty one gives IDR no gradient"),
    ("memory's key", "predicted (paper), target (released)", "predicted", "T4 has the other"),
    ("rows' norm", "released: normalised over the wrong axis", "1", "free rows grow without end"),
    ("losses", "released: summed over the batch before dividing", "per image", "an image's loss is its own"),
    ("variable", "mapping network (paper), styles (released)", "mapping network, one copy per class",
     "a shared network would have to memorise which latent is whose"),
    ("steps of the mapping network", "unknown", "Adam (0, 0.99), rate over the number of batches",
     "styles then travel about as far as PPA's"),
    ("bank", "drawn anew in every epoch?", "fixed", "the last selection needs fixed candidates"),
    ("pool", "truncates the first 8 inputs alone", "truncates all", "the scored image is the one that is started from"),
    ("Poincaré loss", "inf at one-hot logits", "1 − ‖u‖² at least 1e-6", "no NaN"),
    ("centre crop", "800 of 1024 px", "none at 32 px", "target and generator have the same frame"),
)  # fmt: skip


def shift_table(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """P1: PPA and GMI with the matched and with the shifted prior; both of PPA's are trained as long."""
    name = plan.notes["benches"][0].name
    rows = {
        (PPA, f"{name} | {MATCHED}"): "matched prior",
        (PPA, f"{name} | {SHIFT}"): "shifted prior",
        ("GMI", f"{name} | {MAIN}"): "matched prior",
        ("GMI", f"{name} | {SHIFT}"): "shifted prior",
    }
    return tables.table(picked(scores, rows), SELECTED, formats=FORMATS)


def selection_table(plan: Plan, scores: pd.DataFrame, settings: Iterable[str]) -> pd.DataFrame:
    """P2: PPA with and without its two selections."""
    name = plan.notes["benches"][0].name
    rows = {(PPA, f"{name} | {s}"): s for s in settings}
    return tables.table(picked(scores, rows), SELECTED, formats=FORMATS)

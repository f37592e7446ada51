"""Tables of the DDCS / NGD study, each a function of the plan and its `complete` scores."""

from collections.abc import Sequence

import pandas as pd

from mi_utils.report import scores as tidy
from mi_utils.report.scores import POOLED
from mi_utils.report.tables import Caption
from mi_utils.studies import tables
from mi_utils.studies.ddcs_ngd.grid import ADV, DUAL, MAIN, NGD, PPA, TWICE, VANILLA
from mi_utils.studies.ddcs_ngd.transfers import TransferQuality
from mi_utils.studies.dmmia.results import difference, require_judges
from mi_utils.studies.plan import Plan
from mi_utils.studies.tables import classifier_row, part

ATTACKS = (
    "DDCS", "DDCS coverage", "nDDCS", "DDCS label", "KNN distance", "ensemble mean", "unanimous", "accepted", "target",
    "FD", "KD", "precision", "recall", "density", "coverage", "rho_pix", "rho_feat",
)  # fmt: skip
DIFFERENCES = ("DDCS", "DDCS coverage", "nDDCS", "KNN distance", "ensemble mean", "FD", "recall", "coverage")
TRANSFERS = ("FD", "KD", "precision", "recall", "entropy", "confidence", "marginal entropy", "artefacts")
LABELS = {
    "start": "the generator before tuning",
    "vanilla": "without the target",
    "none": "entropy loss",
    "nystrom": "entropy loss, NGD (one mean Hessian)",
    "nystrom, l2": "entropy loss, NGD as long as the plain gradient",
    "cg": "entropy loss, NGD (each image's Hessian)",
    "scale": "entropy loss, shortened as by NGD",
    "blur": "entropy loss, blurred gradient",
    "random": "entropy loss, random directions held back",
}
Where = tuple[str, float, int, int]  # preconditioner, weight, steps, seed

# --- scores ------------------------------------------------------------------------------------------------


def complete(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """Scores with derived metrics, and the quality of every tuned generator as rows of its own."""
    require_judges(plan)
    found = tables.with_normalised(tables.with_gap(scores))
    frames = [
        quality_rows(name, where, stage)
        for name, qualities in plan.notes["qualities"].items()
        for where, stage in qualities.items()
    ]
    return pd.concat([found, *frames], ignore_index=True)


def arm(kind: str, weight: float, steps: int) -> tuple[str, str]:
    """Row name and setting of a tuned generator."""
    if kind == "start":
        return LABELS["start"], "T2"
    return LABELS["vanilla" if weight == 0 else kind], f"T2 lambda {weight:g}, {steps} steps"


def quality_rows(problem: str, where: Where, stage: TransferQuality) -> pd.DataFrame:
    """One generator's quality as scores."""
    *what, seed = where
    name, setting = arm(*what)
    rows = [
        (name, f"{problem} | {setting}", seed, POOLED, metric, value, stage.count, "")
        for metric, value in stage.result().meta["rows"]
    ]
    return pd.DataFrame(rows, columns=tidy.COLUMNS)


# --- captions ----------------------------------------------------------------------------------------------


def caption(plan: Plan, what: str, seeds: int | None = None, images: str = "") -> Caption:
    """What made a table's numbers, with every deviation from the paper's sizes."""
    benches, s = plan.notes["benches"], plan.settings
    judge = benches[0].panel
    return Caption(
        what=what,
        data="; ".join(f"{b.problem.name}, generator of {b.problem.public_name}" for b in benches),
        stand_in=None if plan.profile == "paper" else f"UMDFaces, Stanford Dogs; {s.standing}",
        evaluator=tables.evaluator_words(judge),
        features=tables.feature_words(judge, s.perceptual),
        images=images or ", ".join(f"{b.problem.samples} per class, none left out" for b in benches),
        seeds=range(seeds or s.seeds),
        settings={"profile": plan.profile} | sizes(plan),
    )


def few(plan: Plan, what: str, classes: Sequence[int], seeds: int | None = None) -> Caption:
    """The caption of a table whose attacks take only these classes of the first problem."""
    each = plan.notes["benches"][0].problem.samples
    found = caption(plan, what, seeds, f"{each} per class, none left out, of {len(classes)} classes")
    return found.model_copy(update={"settings": found.settings | counts(plan, len(classes))})


def of_copies(plan: Plan, what: str) -> Caption:
    """The caption of NC2, in which nothing is attacked."""
    stage = plan.notes["measures"]["sensitivity"]
    count = stage.count * len(stage.classes)
    found = caption(plan, what, 1, f"{count} private images in every variant, and noisy copies of a share of them")
    return found.model_copy(update={"settings": {"profile": plan.profile}})


def sizes(plan: Plan) -> dict[str, str]:
    """Sizes that made the numbers, the paper's (or Plug & Play's) in brackets."""
    s, p = plan.settings, plan.notes["benches"][0].problem
    t = s.transfer
    return counts(plan, len(p.classes)) | {
        "transfer": f"{t.steps} steps of {t.batch} (10 to 20 epochs of 30,000)",
        "lambda": f"{t.weight:g} (unknown)",
        "basis": f"{t.k} eigenvectors of {t.images} images, damping {t.eps_rel:g} of the largest (unknown)",
        "pool": f"{p.pool} (5000)",
        "epochs": f"{p.epochs} (70)",
        "psi": f"{s.psi:g} (0.5)",
        "target": f"{p.target.architecture}, width {p.target.width} (AlexNet and others)",
    }


def counts(plan: Plan, classes: int) -> dict[str, str]:
    """Numbers of images where so many classes are attacked."""
    p = plan.notes["benches"][0].problem
    return {
        "private images": f"{plan.settings.perceptual * classes} (UMDFaces, number unknown)",
        "reconstructions": f"{p.samples * classes} (unknown)",
    }


# --- tables ------------------------------------------------------------------------------------------------


def t1_main(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T1: every attack with as many images, beside rows that no attack made; `dual, all of both` has twice as many."""
    published = {
        "DDCS": {("UMDFaces", NGD): "22.52 (best method)"},
        "DDCS coverage": {("UMDFaces", NGD): "33.84 (best method)"},
    }
    settings = [f"{b.name} | {row}" for b in plan.notes["benches"] for row in (MAIN, TWICE)]
    found = tables.table(part(scores, settings), ATTACKS, published if plan.profile == "paper" else None)
    return found.rename(index=lambda s: s.replace(f" | {MAIN}", ""), level="data")


def _cell(scores: pd.DataFrame, pair: tuple[str, str], setting: str, metric: str) -> str:
    """Difference paired by seed and class; n/a where one of both could not be had."""
    here = scores[(scores["setting"] == setting) & (scores["metric"] == metric) & scores["attack"].isin(pair)]
    if here.empty or here["value"].isna().any():
        return tidy.NOT_AVAILABLE
    i = difference(scores, pair, setting, metric)
    return f"{i.point:.3f} [{i.low:.3f}, {i.high:.3f}] (n={i.n})"


PAIRS = ((VANILLA, PPA), (ADV, VANILLA), (NGD, VANILLA), (NGD, ADV), (NGD, PPA), (DUAL, VANILLA), (DUAL, NGD))


def t1b_differences(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T1b: paired differences between generators, mean and 95 % interval over seeds (then classes)."""
    rows = []
    for bench in plan.notes["benches"]:
        setting = f"{bench.name} | {MAIN}"
        for one, other in PAIRS:
            found = {m: _cell(scores, (one, other), setting, m) for m in DIFFERENCES}
            rows.append({"data": bench.name, "difference": f"{one} − {other}"} | found)
    return pd.DataFrame(rows)


def t2_transfers(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """T2: tuned generators against validation images; published: FID 33.73 without and 10.98 with NGD."""
    found = scores[scores["setting"].str.contains(" | T2", regex=False)]
    return tables.table(found, TRANSFERS)


def t6_classifiers(plan: Plan) -> pd.DataFrame:
    """T6: accuracy on private test images, and on the training images that they may have memorised."""
    rows = []
    for bench in plan.notes["benches"]:
        named = {f"target, seed {s}": bench.target(s) for s in range(plan.settings.seeds)} | bench.panel.everyone()
        rows += [classifier_row(bench.name, name, stage) for name, stage in named.items()]
    return pd.DataFrame(rows)


def t7_basis(plan: Plan) -> pd.DataFrame:
    """T7: what the precomputed Hessians hold."""
    rows = []
    for bench in plan.notes["benches"]:
        facts, stage = bench.basis.facts(), bench.basis
        rows.append({
            "data": bench.name, "metric": facts["net"], "images": stage.images, "eigenvectors": stage.k,
            "captured share of the trace": f"{facts['captured']:.3f}", "damping asked": f"{stage.eps_rel:g}",
            "damping": f"{facts['effective']:.2g}", "seconds": round(stage.result().seconds),
        })  # fmt: skip
    return pd.DataFrame(rows)


def t7_deviations() -> pd.DataFrame:
    """T7: where this differs from the paper, and why."""
    return pd.DataFrame(DEVIATIONS, columns=["what", "paper", "here", "why"])


DEVIATIONS = (
    ("DDCS", "\"reciprocal\" of the LPIPS distance, formula not public", "mean of matched 1/(1 + d)",
     "bounded, and fits the published pair 22.52 / 33.84"),
    ("distance", "LPIPS", "ST-LPIPS (AlexNet)", "LPIPS' network is not on disk, and fails below 64 px"),
    ("squared distance", "H of d²", "H of d² with d = √LPIPS", "LPIPS is squared already: its square has no curvature"),
    ("L_adv", "formula not public", "entropy of the target's softmax", "\"derived from the confidences\""),
    ("damping", "unknown", "1e-3 of the largest eigenvalue, or the smallest one kept", "nothing is known below it"),
    ("generator", "StyleGAN2 at 256 px", "StyleGAN2 at 32 px, narrow", "two cores"),
    ("auxiliary images", "30,000", "2,000 of 400 people; 672 digits", "two cores"),
    ("selection", "unknown", "none: all candidates count", "selection trades coverage for confidence"),
)  # fmt: skip


def measured(plan: Plan, name: str) -> pd.DataFrame:
    """Rows of one of the study's measures, as its stage wrote them."""
    return pd.DataFrame(plan.notes["measures"][name].result().meta["rows"])


def stored_table(plan: Plan, name: str) -> pd.DataFrame:
    """Rows of `hardness` or `stability`, in their order."""
    found = measured(plan, name)
    columns = {4: ["measure", "of", "value", "n"], 3: ["measure", "value", "n"]}[found.shape[1]]
    found = found.set_axis(columns, axis=1)
    return found.assign(value=found["value"].map("{:.3f}".format))


def redundancy(plan: Plan) -> pd.DataFrame:
    """F7: measures of one attack's images with copies of them, and with parts of them gone."""
    return _wide(measured(plan, "redundancy").set_axis(["arm", "level", "metric", "value", "images"], axis=1))


def nc2_sensitivity(plan: Plan) -> pd.DataFrame:
    """NC2: DDCS of noisy copies of a share of the private images, by what was done to these; `noise` in grey levels."""
    columns = ["overlap of classes", "range of nuisances", "share copied", "noise", "DDCS", "coverage"]
    found = measured(plan, "sensitivity").set_axis(columns, axis=1)
    found["copies"] = found["share copied"].map("{:g} of them".format) + found["noise"].map(", noise {:g}".format)
    wide = found.pivot_table(index=columns[:2], columns="copies", values="DDCS", sort=False)
    return wide.map("{:.3f}".format).reset_index()


def pruning(plan: Plan) -> pd.DataFrame:
    """OQ2: the same measures of parts of one attack's images."""
    return _wide(measured(plan, "pruning").set_axis(["arm", "metric", "value", "images"], axis=1))


def _wide(found: pd.DataFrame) -> pd.DataFrame:
    """One row an arm, level and number of images, one column a metric."""
    index = [name for name in ("arm", "level", "images") if name in found]
    wide = found.pivot_table(index=index, columns="metric", values="value", sort=False)
    return wide.map("{:.4f}".format).reset_index()


def t4_definitions(plan: Plan) -> pd.DataFrame:
    """T4: per definition the attacks' mean DDCS, and Kendall's tau of their order to the default definition's."""
    columns = ["network", "transform", "match", "score", "scope", "attack", "DDCS", "tau"]
    found = measured(plan, "definitions").set_axis(columns, axis=1)
    keys = columns[:5]
    each = found.groupby(keys, sort=False).agg(mean=("DDCS", "mean"), tau=("tau", "first")).reset_index()
    return each.rename(columns={"mean": "mean DDCS"}).assign(
        **{"mean DDCS": each["mean"].map("{:.3f}".format), "tau": each["tau"].map("{:.2f}".format)}
    )

"""What the tables and figures of several studies share: derived metrics, chosen rows, words of a caption."""

import re
from collections.abc import Iterable, Mapping

import pandas as pd
from jaxtyping import Int, UInt8
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.metrics.ddcs import Options, normalised
from mi_utils.metrics.intervals import Interval, mean_interval
from mi_utils.report import figures
from mi_utils.report import scores as tidy
from mi_utils.report.figures import Picture
from mi_utils.report.pairs import nearest_pairs
from mi_utils.report.scores import POOLED, matrix, paper_table, per_seed, percent
from mi_utils.runtime import generator as seeded
from mi_utils.studies.evaluation import Panel, first_per_class
from mi_utils.studies.plan import Plan
from mi_utils.training.classifier import TrainClassifier

VOTES = ("ensemble mean", "ensemble min", "vote", "majority", "unanimous", "accepted")
SHARES = ("top1", "top5", "confidence", *VOTES, "target")
MAIN = (*SHARES, "rho_pix", "rho_feat", "coverage", "DDCS")
CLOSENESS = (
    *("DDCS", "DDCS coverage", "nDDCS", "DDCS label", "KNN distance", "centroid distance"),
    *("precision", "recall", "density", "coverage", "N_eff", "FD", "KD"),
)
PRIOR, PUBLIC, HOLDOUT = "prior samples", "public images", "held-out private images"
FORMATS = dict.fromkeys((*SHARES, "gap"), percent)

# --- metrics derived from others ---------------------------------------------------------------------------


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


def by_rank(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores whose classes are named by their place (0, 1, ...) among those of their attack, setting and seed.

    Seeds that attack different classes can then share one matrix: a place is what varies inside a seed.
    """
    single = scores["class"] != POOLED
    ids = scores.loc[single, "class"].astype(int)
    groups = [scores.loc[single, name] for name in ("attack", "setting", "seed")]
    places = ids.groupby(groups).rank(method="dense").astype(int) - 1
    return scores.assign(**{"class": places.astype(str).reindex(scores.index, fill_value=POOLED)})


# --- rows and cells ----------------------------------------------------------------------------------------


def part(scores: pd.DataFrame, settings: Iterable[str]) -> pd.DataFrame:
    """The rows of these settings, in this order."""
    return pd.concat([scores[scores["setting"] == s] for s in settings], ignore_index=True)


def picked(scores: pd.DataFrame, rows: Mapping[tuple[str, str], str]) -> pd.DataFrame:
    """The rows of these (attack, setting) pairs, in this order, with the name given to each as setting."""
    found = [
        scores[(scores["attack"] == attack) & (scores["setting"] == setting)].assign(setting=name)
        for (attack, setting), name in rows.items()
    ]
    return pd.concat(found, ignore_index=True)


def table(
    scores: pd.DataFrame,
    metrics: Iterable[str],
    published: Mapping[str, Mapping[tuple[str, str], str]] | None = None,
    formats: Mapping = FORMATS,
) -> pd.DataFrame:
    """`mean ± std (n)` cells of those of the metrics that some row has."""
    known = set(scores["metric"])
    return paper_table(scores, [m for m in metrics if m in known], formats=formats, published=published)


def named(found: pd.DataFrame) -> pd.DataFrame:
    """The setting alone as row name: data set and attack are in the caption."""
    return found.rename(index=lambda s: s.split(" | ")[-1], level="data").rename_axis(index=["setting", "attack"])


def interval(scores: pd.DataFrame, attack: str, setting: str, metric: str, scale: float = 1.0) -> Interval:
    """Mean and 95 % interval of one row."""
    values = scale * matrix(scores, attack, setting, metric)[0]
    return mean_interval(values, seeded("bootstrap", attack, setting, metric))


def classifier_row(data: str, name: str, stage: TrainClassifier) -> dict[str, object]:
    """A line of the table of classifiers."""
    facts = stage.facts()
    return {
        "data": data,
        "classifier": name,
        "architecture": f"{stage.architecture}, width {stage.width}",
        "test accuracy %": percent(facts["test_accuracy"]),
        "n train": facts["n_train"],
        "n test": facts["n_test"],
    }


# --- words -------------------------------------------------------------------------------------------------


def evaluator_words(panel: Panel) -> str:
    """Who judges, and what each share of a table asks."""
    few, all_ = (("one", "two", "three", "four", "five", "six")[len(panel.plain) + i] for i in (-1, 0))
    return (
        f"top1/top5/confidence: {next(iter(panel.plain))} alone (the paper's protocol); ensemble: "
        f"{', '.join(panel.plain)}; vote: the class that most of all {all_} name; majority: most of the {few}; "
        f"accepted: {panel.reject.architecture} with a reject class; unanimous: all of them"
    )


def feature_words(panel: Panel, perceptual: int) -> str:
    """In which space the distances of a table are taken; `perceptual` private images per class behind DDCS."""
    return (
        f"penultimate layer of {next(iter(panel.plain))} (all but rho_pix and DDCS); "
        f"{Options().name('ST-LPIPS (AlexNet)')} against {perceptual} private training images per "
        "class, DDCS label: the same among equal labels; nDDCS: 0 at prior samples, 1 at held-out private images"
    )


def file_name(*words: str) -> str:
    """Words as a file name of the results folder: lower case, everything else an underscore."""
    return re.sub(r"[^a-z0-9]+", "_", " ".join(words).lower()).strip("_")


# --- figures -----------------------------------------------------------------------------------------------


def class_grid(
    images: UInt8[Tensor, "n c h w"], labels: Int[Tensor, " n"], names: Mapping[int, str], count: int, title: str
) -> Picture:
    """The first `count` images of every class, not selected."""
    return figures.image_grid(figures.first_of_class(images, labels, names, count), first=count, title=title)


def disagreement(plan: Plan, scores: pd.DataFrame, problem: str) -> Picture:
    """Accuracy of every attack of T1 under the target and each evaluator."""
    bench = next(b for b in plan.notes["benches"] if b.problem.name == problem)
    columns = {"target": "target", **{f"top1 {n}": n for n in bench.panel.plain}, "accepted": "reject class"}
    seeds = per_seed(scores[scores["setting"] == f"{problem} | T1"])
    found = seeds.pivot_table(index="attack", columns="metric", values="value", sort=False)[list(columns)]
    order = list(dict.fromkeys(run.attack for run in plan.runs if run.setting == f"{problem} | T1"))
    return figures.heat_map(
        100 * found.loc[order].rename(columns=columns), label="accuracy (%)", digits=1, low=0, high=100
    )


def nearest(plan: Plan, problem: str, attack: str) -> Picture:
    """The most and the least exposed private images beside their nearest reconstruction, seed 0."""
    run = plan.find(attack, f"{problem} | T1")
    private, ranked = run.evaluation.exposed()
    found = run.stage.result().tensors
    images, labels = first_per_class(found["images"], found["labels"], run.evaluation.samples)
    names = dict(enumerate(private.classes))
    title = f"{problem}, {attack}; ST-LPIPS (AlexNet) distance d"
    return nearest_pairs(private.images, images, labels, ranked, names, title)

"""Figures of the logit and augmentation study, each a function of the plan and its `complete` scores."""

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from mi_utils.metrics.intervals import Interval, difference_interval
from mi_utils.report import figures
from mi_utils.report import scores as tidy
from mi_utils.report.figures import Picture
from mi_utils.report.scores import paired
from mi_utils.runtime import generator as seeded
from mi_utils.studies import factor_tables, tables
from mi_utils.studies.evaluation import drawn_per_class, features, first_per_class
from mi_utils.studies.logit_augmentation import pictures
from mi_utils.studies.logit_augmentation.grid import BASES, MAIN, VARIANTS, Bench
from mi_utils.studies.logit_augmentation.results import FACTORS, LAMBDAS, gains, rate_rows
from mi_utils.studies.plan import Plan, Run
from mi_utils.studies.tables import by_rank

MODES = ("glasses", "hat", "beard")


def gain_bars(plan: Plan, scores: pd.DataFrame, metric: str = "ensemble mean") -> Picture:
    """T1c as bars."""
    found = gains(plan, scores, metric)
    effects = {f"{name}, {base}: {variant} − CE": i for (name, base, variant), i in found.items()}
    return figures.effect_bars(effects, label=f"{metric}, difference to CE")


def rate_effects(plan: Plan, scores: pd.DataFrame) -> Picture:
    """LOM minus CE in ensemble accuracy, at the same factor of the learning rate and each at its best one."""
    ranked, effects = by_rank(scores), {}
    rates = {variant: rate_rows(plan, variant) for variant in ("+LOM", "CE")}
    pairs = {f"rate x{f:g}": (rates["+LOM"][f], rates["CE"][f]) for f in FACTORS}
    means = {
        row: tables.interval(ranked, *row, "ensemble mean").point for rows in rates.values() for row in rows.values()
    }
    pairs["each at its best rate"] = tuple(max(rows.values(), key=means.get) for rows in rates.values())
    for said, pair in pairs.items():
        effects[said] = difference_interval(*paired(ranked, *pair, "ensemble mean"), seeded("bootstrap", said))
    return figures.effect_bars(effects, label="ensemble accuracy, +LOM minus CE (KEDMI)")


def f1_banner(plan: Plan, scores: pd.DataFrame, problem: str, count: int = 13) -> Picture:
    """F1: private images of the first classes over the first reconstruction of each, with ensemble accuracy."""
    bench = _bench(plan, problem)
    names = _names(bench, count)
    rows = {"private": _private(bench, 1, names)}
    for base in BASES:
        attack = f"{base} LOMMA"
        values = scores[(scores["attack"] == attack) & (scores["setting"] == f"{problem} | {MAIN}")]
        mean = tidy.per_seed(values[values["metric"] == "ensemble mean"])["value"].mean()
        rows[f"{attack} ({100 * mean:.1f} %)"] = _first(plan, attack, problem, 1, names)
    return figures.image_grid(rows, columns=list(names.values()), first=count, cell=0.5, title=f"{problem} ($A_E$)")


def f3_features(plan: Plan, problem: str, base: str = "GMI", count: int = 3) -> Picture:
    """F3: where private images of three classes, their CE and LOM reconstructions and $\\mu$ lie, seed 0.

    Axes: principal components of the private features of these classes.
    """
    bench = _bench(plan, problem)
    names = _names(bench, count)
    net, private = bench.target(0).network("cpu"), bench.split(0).train.load().only_classes(list(names))
    found = {"private": (features(net, private.images), private.labels)}
    for variant in ("CE", "+LOM"):
        images, labels = plan.reconstructions(f"{base} {variant}", f"{problem} | {MAIN}")
        own = torch.isin(labels, torch.tensor(list(names)))
        found[variant] = (features(net, images[own]), labels[own])
    centre, axes = principal_axes(found["private"][0])
    public = (bench.statistics(0).statistics("cpu")[0] - centre) @ axes
    clouds = {kind: ((p - centre) @ axes, labels) for kind, (p, labels) in found.items()}
    return pictures.feature_map(clouds, names, public, f"{problem}, {base}: features of the target")


def principal_axes(p: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d 2"]]:
    """Mean and the two directions of greatest variance, each signed so that its largest part is positive."""
    centre = p.mean(0)
    axes = torch.linalg.svd(p - centre, full_matrices=False).Vh[:2]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    return centre, (axes * largest.sign()).T


def f4_overfitting(plan: Plan, problem: str) -> Picture:
    """F4: accuracy of target and evaluators along the attack, cross-entropy against model augmentation."""
    found = {base: {v: curves(plan, f"{base} {v}", problem) for v in ("CE", "+MA")} for base in BASES}
    return pictures.overfitting(found, problem)


def curves(plan: Plan, attack: str, problem: str) -> pictures.Curves:
    """The courses of all seeds of one row of T1."""
    known = plan.notes["courses"].items()
    stored = [c.result().tensors for (a, s, _), c in known if (a, s) == (attack, f"{problem} | {MAIN}")]
    target, evaluators = (torch.stack([t[name] for t in stored]) for name in ("target", "evaluators"))
    return pictures.Curves(stored[0]["steps"], target, evaluators)


def along(plan: Plan, run: Run) -> dict[str, tuple[Tensor, Tensor]]:
    """Accuracy (%) of target and evaluators over one run's steps; nothing where no course was stored."""
    course = plan.notes["courses"].get((run.attack, run.setting, run.seed))
    if course is None or not course.stored():
        return {}
    found = course.result().tensors
    return {name: (found["steps"], 100 * found[name]) for name in ("target", "evaluators")}


def f5_grid(plan: Plan, problem: str, base: str, columns: int = 20) -> Picture:
    """F5: the first reconstructions of the first classes, not selected, seed 0: a row per loss, and private images."""
    bench = _bench(plan, problem)
    names = _names(bench, columns)
    each = min(columns // len(names), bench.problem.samples)
    rows = {variant: _first(plan, f"{base} {variant}", problem, each, names) for variant in VARIANTS}
    rows["private"] = _private(bench, each, names)
    heads = [name for name in names.values() for _ in range(each)]
    return figures.image_grid(rows, columns=heads, first=len(heads), title=f"{problem}, {base}, seed 0")


def f6_classes(plan: Plan, scores: pd.DataFrame, problem: str) -> Picture:
    """F6: ensemble accuracy of every attack by class, mean over the seeds that attack it."""
    bench = _bench(plan, problem)
    chosen = scores[(scores["setting"] == f"{problem} | {MAIN}") & (scores["metric"] == "ensemble mean")]
    order = [f"{base} {variant}" for base in BASES for variant in VARIANTS]
    chosen = chosen[(chosen["class"] != tidy.POOLED) & chosen["attack"].isin(order)].astype({"class": int})
    wide = chosen.pivot_table(index="attack", columns="class", values="value").loc[order]
    names = {c: _short(bench.target(0).facts()["classes"][c]) for c in wide.columns}
    return figures.heat_map(100 * wide.rename(columns=names), label="ensemble accuracy (%)", digits=0, low=0, high=100)


def f7_sweeps(plan: Plan, scores: pd.DataFrame) -> Picture:
    r"""F7: ensemble accuracy over $\lambda$ and over the learning rate, KEDMI."""
    ranked, name = by_rank(scores), plan.notes["benches"][0].name
    lam = {f"{v:g}": ("KEDMI +LOM", f"{name} | {MAIN if v == plan.settings.lam else f'T5 lam {v:g}'}") for v in LAMBDAS}
    rates = {v: {f"x{f:g}": row for f, row in rate_rows(plan, v).items()} for v in ("CE", "+LOM")}

    def found(rows: dict[str, tuple[str, str]]) -> dict[str, Interval]:
        return {said: tables.interval(ranked, *row, "ensemble mean", 100) for said, row in rows.items()}

    panels = {"λ (+LOM)": {"+LOM": found(lam)}, "learning rate": {v: found(rows) for v, rows in rates.items()}}
    return pictures.sweep(panels, "ensemble accuracy (%)")


f5_disagreement, f8_nearest, f9_factors = tables.disagreement, tables.nearest, factor_tables.figure


def f10_identities(plan: Plan, count: int = 10) -> Picture:
    """F10: first views of private, public and shifted identities; views of one identity, without and with modes."""
    split = plan.notes["benches"][0].split(0)
    people = {"identities": count, "per_identity": 1}
    person = {"identities": 1, "per_identity": count}
    sources = {
        "private": split.train.model_copy(update=people),
        "public": split.public.model_copy(update=people),
        "public, shifted": split.shifted.model_copy(update=people),
        "one private identity": split.train.model_copy(update=person),
        f"... with {', '.join(MODES)}": split.train.model_copy(update=person | {"modes": MODES}),
    }
    rows = {name: source.load().images for name, source in sources.items()}
    return figures.image_grid(rows, first=count, cell=0.6, title="Procedural identities, the first of each kind")


def _bench(plan: Plan, problem: str) -> Bench:
    return next(b for b in plan.notes["benches"] if b.name == problem)


def _names(bench: Bench, count: int) -> dict[int, str]:
    """The first attacked classes of seed 0 and how a column is headed."""
    known = bench.target(0).facts()["classes"]
    return {c: _short(known[c]) for c in bench.split(0).classes[:count]}


def _short(name: str) -> str:
    """`face 0007` -> `0007`: what fits over a column."""
    return name.split(" ")[-1]


def _private(bench: Bench, each: int, names: dict[int, str]) -> Tensor:
    """`each` private images of every class, class by class."""
    data = drawn_per_class(bench.split(0).train.load().only_classes(list(names)), each)
    return _by_class(data.images, data.labels, names)


def _first(plan: Plan, attack: str, problem: str, each: int, names: dict[int, str]) -> Tensor:
    """The first `each` reconstructions of every class, class by class."""
    return _by_class(*first_per_class(*plan.reconstructions(attack, f"{problem} | {MAIN}"), each), names)


def _by_class(images: Tensor, labels: Tensor, names: dict[int, str]) -> Tensor:
    return torch.cat([images[labels == c] for c in names])

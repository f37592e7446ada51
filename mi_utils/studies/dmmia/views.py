"""Figures of the DMMIA study, each a function of the plan (and its `complete` scores)."""

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from mi_utils.attacks import memory
from mi_utils.attacks.memory import unit
from mi_utils.attacks.style_search import StyleSearch, to_images
from mi_utils.data.images import to_float
from mi_utils.report import figures
from mi_utils.report.figures import PALETTE, Picture, colour
from mi_utils.report.panels import panels
from mi_utils.runtime import generator as seeded
from mi_utils.studies.dmmia.grid import ABLATION, ALL, FULL, MAIN, PPA, Bench
from mi_utils.studies.dmmia.images import by_place
from mi_utils.studies.dmmia.results import difference
from mi_utils.studies.evaluation import drawn_per_class, features
from mi_utils.studies.plan import Plan, Run
from mi_utils.studies.tables import disagreement

LINES = (PPA, *ABLATION.values())
PROTOTYPES = {"positive prototypes": ("*", PALETTE[2]), "negative prototypes": ("x", "#aaaaaa")}  # marker, colour
CURVES = {"evaluators, all candidates": "top1", "recall of private images": "recall"}
f8_disagreement = disagreement


def f1_timeline(plan: Plan, problem: str, count: int = 2, seed: int = 0) -> Picture:
    """F1, the paper's figure 1: the same candidates at the first, a middle and the last epoch, then private images.

    The title has FD (first evaluator) and DIV-P of all candidates of all classes at these epochs, measured here.
    """
    bench = _bench(plan, problem)
    classes = bench.problem.classes[:2]
    rows, heads, said = {}, [], [f"{problem}, seed {seed}"]
    for attack in (PPA, FULL):
        stage, line = _stage(plan, attack, problem, seed), _timeline(plan, attack, problem, seed)
        steps, distance = line["steps"].tolist(), line[f"FD {next(iter(bench.panel.plain))}"]
        shown = [0, min(range(1, len(steps)), key=lambda i: abs(steps[i] - steps[-1] / 7)), len(steps) - 1]
        words = [f"FD {distance[i]:.1f} DIV {line['DIV-P'][i].mean():.3f}" for i in shown]
        said.append(f"{attack}: {' → '.join(words)}")
        frames = [_candidates(stage, i, classes, count) for i in shown]
        rows[attack] = torch.cat([*frames, _private(bench, classes, count)])
        heads = [f"epoch {steps[i]}" for i in shown]
    blank = [""] * (len(classes) * count - 1)
    columns = [h for head in (*heads, "private") for h in [head, *blank]]
    return figures.image_grid(rows, columns=columns, first=len(columns), cell=0.5, title="\n".join(said))


def _candidates(stage: StyleSearch, frame: int, classes: Sequence[int], count: int) -> Tensor:
    """Images of the first candidates (by the pool's score) of these classes at a stored epoch, class by class."""
    stored = stage.result().tensors
    order = by_place(stored["place"], len(stage.classes))
    labels, w = stored["labels"][order], stored["frames_latents"][frame][order]
    picked = torch.cat([w[labels == c][:count] for c in classes])
    return to_images(stage.decoder("cpu"), picked)


def f2_forgetting(plan: Plan, problem: str) -> Picture:
    """F2: recall, looks, glasses and DIV-P of all candidates from epoch to epoch, mean over classes and seeds."""
    names = {
        "recall": "recall",
        "DIV-P": "DIV-P",
        "looks": "looks of 3",
        "glasses": "glasses (share)",
        "top1": "accuracy",
    }
    lines = {attack: _timelines(plan, attack, problem) for attack in LINES}
    known = [m for m in names if m in lines[PPA][0]]
    with panels([names[m] for m in known], 2.3, 2.5) as (picture, axes):
        for axis, metric in zip(axes, known, strict=True):
            for attack, found in lines.items():
                seeds = torch.stack([line[metric].double().mean(1) for line in found])
                axis.plot(found[0]["steps"], seeds.mean(0), color=colour(attack), label=attack)
                if len(seeds) > 1:
                    low, high = seeds.amin(0), seeds.amax(0)
                    axis.fill_between(found[0]["steps"], low, high, color=colour(attack), alpha=0.15, linewidth=0)
            if f"private {metric}" in found[0]:
                level = float(found[0][f"private {metric}"].double().mean())
                axis.axhline(level, color=colour("private"), linestyle=":", label="private images")
            axis.set(xlabel="epoch")
    return picture


def f3_features(plan: Plan, problem: str, label: int, seed: int = 0) -> Picture:
    """F3: one class in the first evaluator's features, and unit features of the target with DMMIA's prototypes.

    Axes: principal components of the private images' features.
    """
    bench = _bench(plan, problem)
    private = bench.problem.train.load().only_classes([label]).images
    judge = next(iter(bench.panel.plain.values())).network("cpu")
    target = bench.target(seed).network("cpu")
    stages = {attack: _stage(plan, attack, problem, seed) for attack in (PPA, FULL)}
    images = {"private": private} | {attack: _of_class(stage, label) for attack, stage in stages.items()}
    judged = {name: features(judge, x) for name, x in images.items()}
    units = {name: unit(features(target, x)) for name, x in images.items()}
    place = stages[FULL].classes.index(label)
    rows = stages[FULL].result().tensors["frames_prototypes"][-1, place]
    units |= {"positive prototypes": rows[: stages[FULL].rho], "negative prototypes": rows[stages[FULL].rho :]}
    name = f"class {label}: "
    with panels([name + "evaluator's features", name + "target's unit features"], 3.6, 3.3, -1) as (picture, axes):
        for axis, clouds in zip(axes, (judged, units), strict=True):
            for kind, points in _projected(clouds).items():
                marker, tint = PROTOTYPES.get(kind, ("o", colour(kind)))
                axis.scatter(*points.T, s=14, marker=marker, color=tint, alpha=0.6, label=kind)
    return picture


def _projected(clouds: dict[str, Float[Tensor, "n d"]]) -> dict[str, Float[Tensor, "n 2"]]:
    """Points on the two principal axes of the first cloud."""
    first = next(iter(clouds.values()))
    centre = first.mean(0)
    axes = torch.linalg.svd(first - centre, full_matrices=False).Vh[:2].T
    return {name: (x - centre) @ axes for name, x in clouds.items()}


def f4_grid(plan: Plan, problem: str, classes: int = 8, each: int = 3, seed: int = 0) -> Picture:
    """F4: candidates drawn at random, not the best, of the first classes: a row per attack, private images first."""
    bench = _bench(plan, problem)
    labels = bench.problem.classes[:classes]
    rows = {"private": _private(bench, labels, each)}
    for attack in ("MIRROR-like", PPA, "PPA, CE", *ABLATION.values()):
        rows[attack] = _drawn(_stage(plan, attack, problem, seed), labels, each)
    for attack in bench.older():
        rows[attack] = _drawn(plan.find(attack, f"{problem} | {MAIN}", seed).stage, labels, each)
    heads = [h for c in labels for h in [str(c)] + [""] * (each - 1)]
    return figures.image_grid(rows, columns=heads, first=len(heads), cell=0.42, title=f"{problem}, random, seed {seed}")


def f4_selected(plan: Plan, problem: str, classes: int = 8, each: int = 3, seed: int = 0) -> Picture:
    """F4, selected: the best of each class by the last selection, PPA and DMMIA, under private images."""
    bench = _bench(plan, problem)
    labels = bench.problem.classes[:classes]
    rows = {"private": _private(bench, labels, each)}
    for attack in (PPA, FULL):
        stage = _stage(plan, attack, problem, seed)
        rows[attack] = torch.cat([_of_class(stage, c)[:each] for c in labels])
    heads = [h for c in labels for h in [str(c)] + [""] * (each - 1)]
    return figures.image_grid(rows, columns=heads, first=len(heads), cell=0.42, title=f"{problem}, best, seed {seed}")


def f6_prototypes(plan: Plan, problem: str, label: int, seed: int = 0) -> Picture:
    """F6: which positive prototype each candidate belongs to (q), at the first, an early and the last epoch."""
    stage = _stage(plan, FULL, problem, seed)
    stored, target = stage.result().tensors, _bench(plan, problem).target(seed).network("cpu")
    own, place = stored["labels"] == label, stage.classes.index(label)
    steps = stored["frames_steps"].tolist()
    shown = sorted({0, 1, len(steps) - 1})
    with panels([f"class {label}, epoch {steps[i]}" for i in shown], 2.6, 2.6) as (picture, axes):
        for axis, i in zip(axes, shown, strict=True):
            images = to_images(stage.decoder("cpu"), stored["frames_latents"][i][own])
            with torch.no_grad():
                e = unit(target.features(to_float(images)))
            q = memory.positives(e[None], stored["frames_prototypes"][i, place][None], stage.rho, stage.tau)[0]
            drawn = axis.imshow(q, aspect="auto", cmap="viridis", vmin=0)
            axis.grid(False)
            effective = float(memory.effective_positives(q[None]))
            axis.set(xlabel=f"positive prototype ({effective:.1f} of {stage.rho} in use)", ylabel="candidate")
            picture.colorbar(drawn, ax=axis, shrink=0.8)
    return picture


def f7_sheet(plan: Plan, prior: str, columns: int = 15) -> Picture:
    """F7: the prior's samples, not truncated and not selected, under images that it learnt from."""
    found = plan.notes["qualities"][prior].result().tensors
    rows = {}
    for name, key in (("public images", "sheet_real"), ("samples", "sheet_made")):
        for i, part in enumerate(found[key].split(columns)):
            rows[f"{name} {i + 1}"] = part
    return figures.image_grid(rows, first=columns, cell=0.5, title=prior)


def along(plan: Plan, run: Run) -> dict[str, tuple[Tensor, Tensor]]:
    """Evaluators' accuracy and recall (%) of all candidates at the stored epochs; nothing where none was measured."""
    problem = run.setting.split(" | ")[0]
    line = plan.notes["timelines"].get((run.attack, f"{problem} | {ALL}", run.seed))
    if line is None or not run.setting.endswith(MAIN) or not line.stored():
        return {}
    found = line.result().tensors
    return {name: (found["steps"], 100 * found[key].mean(1)) for name, key in CURVES.items()}


def effect_bars(plan: Plan, scores: pd.DataFrame, problem: str) -> Picture:
    """T1c as bars: DMMIA minus PPA, all candidates."""
    setting = f"{problem} | {ALL}"
    metrics = ("ensemble mean", "accepted", "recall", "coverage", "DIV-P", "looks", "glasses retention")
    found = {m: difference(scores, (FULL, PPA), setting, m) for m in metrics}
    return figures.effect_bars({m: i for m, i in found.items() if i}, label="DMMIA − PPA, all candidates")


def _bench(plan: Plan, problem: str) -> Bench:
    return next(b for b in plan.notes["benches"] if b.name == problem)


def _stage(plan: Plan, attack: str, problem: str, seed: int) -> StyleSearch:
    return plan.find(attack, f"{problem} | {MAIN}", seed).stage


def _timeline(plan: Plan, attack: str, problem: str, seed: int) -> dict[str, Tensor]:
    return plan.notes["timelines"][attack, f"{problem} | {ALL}", seed].result().tensors


def _timelines(plan: Plan, attack: str, problem: str) -> list[dict[str, Tensor]]:
    return [_timeline(plan, attack, problem, seed) for seed in range(plan.settings.seeds)]


def _of_class(stage: StyleSearch, label: int) -> Tensor:
    """All stored images of a class, the best first."""
    stored = stage.result().tensors
    return stored["images"][stored["labels"] == label]


def _drawn(stage: StyleSearch, labels: Sequence[int], each: int) -> Tensor:
    """Images of each class drawn at random from all that are stored."""
    found = [_of_class(stage, c) for c in labels]
    rng = seeded("figure 4")
    return torch.cat([x[torch.randperm(len(x), generator=rng)[:each]] for x in found])


def _private(bench: Bench, labels: Sequence[int], each: int) -> Tensor:
    data = drawn_per_class(bench.problem.train.load().only_classes(list(labels)), each)
    return torch.cat([data.images[data.labels == c] for c in labels])

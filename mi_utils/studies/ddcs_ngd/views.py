"""Figures of the DDCS / NGD study, each a function of the plan (and its `complete` scores)."""

import pandas as pd
import torch
from torch import Tensor

from mi_utils.report import figures
from mi_utils.report.figures import Picture, Point
from mi_utils.report.panels import panels
from mi_utils.report.scores import matrix
from mi_utils.runtime import generator as seeded
from mi_utils.studies.ddcs_ngd.grid import ADV, FRONTIER, MAIN, NGD, PPA, VANILLA, Bench
from mi_utils.studies.ddcs_ngd.results import LABELS, arm, measured
from mi_utils.studies.evaluation import drawn_per_class
from mi_utils.studies.plan import Plan
from mi_utils.studies.tables import HOLDOUT, PRIOR, PUBLIC, nearest
from mi_utils.training.natural_gradient import held_back
from mi_utils.training.transfer import TransferStyleGAN2

f5_exposed = nearest
TINTS = {ADV: "adv", HOLDOUT: "private", PRIOR: "prior", PUBLIC: "public"}
SHORT = {"none": "plain", "nystrom": "NGD", "scale": "shortened", "blur": "blurred", "random": "random basis"}


def _bench(plan: Plan, problem: str) -> Bench:
    return next(b for b in plan.notes["benches"] if b.name == problem)


def f4_transfers(plan: Plan, problem: str, scores: pd.DataFrame, seed: int = 0) -> Picture:
    """F4, the paper's figure 4: one bank of latents under the generator before and after each transfer, with FD."""
    bench, rows = _bench(plan, problem), {}
    arms = {"vanilla": ("none", 0.0), "none": ("none", None), "nystrom": ("nystrom", None)}
    for key, (kind, weight) in arms.items():
        frames = bench.tuned(seed, kind, weight).result().tensors["frames_bank"]
        if not rows:
            rows[LABELS["start"]] = frames[0][:16]
        t = plan.settings.transfer
        name, setting = arm(kind, t.weight if weight is None else weight, t.steps)
        distance = matrix(scores, name, f"{problem} | {setting}", "FD")[0][seed].item()
        rows[f"{LABELS[key]}: FD {distance:.3f}"] = frames[-1][:16]
    return figures.image_grid(rows, first=16, cell=0.5, title=f"{problem}, seed {seed}, the same 16 latents")


def films(plan: Plan) -> dict[tuple[str, str, int], TransferStyleGAN2]:
    """(data, how it was tuned, seed) -> every tuned generator of the study that has a bank of frames."""
    return {
        (problem, ", ".join(arm(*where)).replace("T2 ", ""), seed): stage.prior
        for problem, found in plan.notes["qualities"].items()
        for (*where, seed), stage in found.items()
        if where[0] != "start"
    }


def f4_attacks(plan: Plan, problem: str, classes: int = 8, each: int = 3, seed: int = 0) -> Picture:
    """Reconstructions of the first classes drawn at random, not the best; private images first."""
    bench = _bench(plan, problem)
    labels = bench.problem.classes[:classes]
    data = drawn_per_class(bench.problem.train.load().only_classes(list(labels)), each)
    rows = {"private": torch.cat([data.images[data.labels == c] for c in labels])}
    for attack in (PPA, VANILLA, ADV, NGD, *bench.older()):
        found = plan.find(attack, f"{problem} | {MAIN}", seed).stage.result().tensors
        rows[attack] = torch.cat([_some(found["images"][found["labels"] == c], each) for c in labels])
    heads = [h for c in labels for h in [str(c)] + [""] * (each - 1)]
    return figures.image_grid(rows, columns=heads, first=len(heads), cell=0.42, title=f"{problem}, random, seed {seed}")


def _some(x: Tensor, count: int) -> Tensor:
    return x[torch.randperm(len(x), generator=seeded("figure 4"))[:count]]


def fb_frontier(plan: Plan, scores: pd.DataFrame) -> Picture:
    """F-B: Fréchet distance against the target's mean entropy over the weights, a line per preconditioner, seed 0."""
    s, problem = plan.settings, plan.notes["benches"][0].name
    points = []
    for kind in FRONTIER:
        for weight in sorted((0.0, *s.weights, s.transfer.weight)):
            name, setting = arm("none" if weight == 0 else kind, weight, s.transfer.steps)
            x, y = (matrix(scores, name, f"{problem} | {setting}", m)[0][0].item() for m in ("entropy", "FD"))
            common = weight == 0 and kind != FRONTIER[0]  # all lines start there
            points.append(Point("" if common else f"{weight:g}", SHORT[kind], x, y))
    return figures.scatter(
        points, x_label="mean entropy of the target (nats)", y_label="FD to validation images", connect=True,
        title=f"{problem}: weights of the entropy loss",
    )  # fmt: skip


def fc_basis(plan: Plan, problem: str, count: int = 8) -> Picture:
    """F-C: the largest eigenvectors of the mean Hessian, a gradient of the entropy loss and what NGD leaves of it."""
    bench = _bench(plan, problem)
    stored, facts = bench.basis.result().tensors, bench.basis.facts()
    shape = (facts["channels"], facts["size"], facts["size"])
    g = bench.problem.prior.generator("cpu")
    with torch.no_grad():
        x = g(torch.randn((count, g.z_dim), generator=seeded("figure c")))
    x = x.requires_grad_()
    said = bench.target(0).network("cpu")(x).log_softmax(1)
    (slope,) = torch.autograd.grad(-(said.exp() * said).sum(), x)
    left = held_back(slope, stored["vectors"], stored["values"], facts["epsilon"])
    rows = {
        "eigenvectors": _signed(stored["vectors"].T[:count].reshape(-1, *shape)),
        "samples": ((x.detach().clamp(-1, 1) + 1) * 127.5).byte(),
        "gradient": _signed(slope),
        "what NGD leaves": _signed(left),
    }
    return figures.image_grid(rows, first=count, cell=0.7, title=f"{problem}; each signed image at its own scale")


def _signed(x: Tensor) -> Tensor:
    """Grey for 0, each image at its own largest value."""
    most = x.detach().flatten(1).abs().amax(1).clamp(min=1e-12).view(-1, 1, 1, 1)
    return ((x.detach() / most + 1) * 127.5).byte()


def fa_sizes(plan: Plan) -> Picture:
    """F-A: coverage and DDCS against the number of reconstructions, with rows that no attack made."""
    found = measured(plan, "sizes").set_axis(["set", "size", "metric", "mean", "std"], axis=1)
    with panels(["coverage", "DDCS"], 3.0, 3.0) as (picture, axes):
        for axis in axes:
            for name, rows in found[found["metric"] == axis.get_title()].groupby("set", sort=False):
                x, y, e = (torch.tensor(rows[c].to_numpy()) for c in ("size", "mean", "std"))
                tint = figures.colour(TINTS.get(name, name))
                axis.plot(x, 100 * y, color=tint, label=name)
                axis.fill_between(x, 100 * (y - 2 * e), 100 * (y + 2 * e), color=tint, alpha=0.15)
            sizes = sorted(found["size"].unique())
            axis.set(xlabel="reconstructions", ylabel="%", xscale="log")
            axis.set_xticks(sizes, [f"{size}" for size in sizes], rotation=45)
            axis.minorticks_off()
    return picture


def f7_redundancy(plan: Plan) -> Picture:
    """F7: measures of one attack's images against copies of them, relative to those without copies."""
    found = measured(plan, "redundancy").set_axis(["arm", "level", "metric", "value", "n"], axis=1)
    arms = [a for a in found["arm"].unique() if "dropped" not in a]
    with panels(arms, 2.4, 2.6) as (picture, axes):
        for axis in axes:
            here = found[found["arm"] == axis.get_title()]
            for metric in ("DDCS", "FD", "KNN distance", "accuracy"):
                rows = here[here["metric"] == metric]
                y = rows["value"].to_numpy()
                axis.plot(rows["level"], y / y[0], marker="o", markersize=3, color=figures.colour(metric), label=metric)
            axis.set(xlabel="share replaced" if axis.get_title() == "replaced" else "times there")
        axes[0].set(ylabel="relative to no copies")
    return picture


def f11_hard(plan: Plan, count: int = 8) -> Picture:
    """F11: private images that no attack matched: the hardest for the prior, the nearest its own projection comes."""
    stages = plan.notes["measures"]
    hard, near = stages["hardness"].result().tensors, stages["projection"].result().tensors
    far, wide = near["distance"], stages["projection, w+"].result().tensors
    order = far.masked_fill(hard["matched"].any(0), -1).argsort(descending=True)[:count]
    bench = plan.notes["benches"][0]
    data = drawn_per_class(bench.problem.train.load().only_classes(bench.problem.classes), plan.settings.perceptual)
    rows = {
        "private, unmatched": data.images[order],
        "nearest in w": near["images"][order],
        "nearest in w+": wide["images"][order],
    }
    heads = [f"{far[i]:.2f} / {wide['distance'][i]:.2f}" for i in order.tolist()]
    return figures.image_grid(rows, columns=heads, first=count, cell=0.75, title="distance in w / in w+")

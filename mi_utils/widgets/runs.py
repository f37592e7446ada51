"""The views that every paper shares, over the runs of a plan."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_utils import runtime
from mi_utils.data.images import to_uint8
from mi_utils.errors import UserError
from mi_utils.report import figures
from mi_utils.report.figures import Picture
from mi_utils.stage import Stage
from mi_utils.studies import frontier as frontiers
from mi_utils.studies.evaluation import first_per_class
from mi_utils.studies.plan import Plan, Run
from mi_utils.widgets.controls import ALL, RunControls, choice, offer, player, slider
from mi_utils.widgets.pictures import marked_curves
from mi_utils.widgets.view import View

Curves = dict[str, tuple[Int[Tensor, " t"], Float[Tensor, " t"]]]  # name -> steps, values
Film = tuple[str, str, int]  # data, how the generator was tuned, seed


def stored(plan: Plan, stage: Stage) -> dict[str, Tensor]:
    """Tensors of a stage that must be there: a view never computes one."""
    if not stage.stored():
        raise UserError(
            f"{plan.paper}, {type(stage).__name__}: expected a stored result at profile {plan.profile}, found none; "
            f"run make reproduce PAPER={plan.paper} PROFILE={plan.profile}"
        )
    return stage.result().tensors


def reconstructions(plan: Plan, count: int = 10) -> View:
    """Grids of stored reconstructions, chosen by setting, attack, seed and class."""
    named = RunControls(plan.runs)
    label = slider("class", [ALL])

    def adapt() -> None:
        labels = stored(plan, named.adapt().stage)["labels"]
        offer(label, [ALL, *labels.unique().tolist()])

    def draw(setting: str, attack: str, seed: int, label: int | str) -> Picture:
        images, labels = plan.reconstructions(attack, setting, seed)
        title = f"{attack}, {setting}, seed {seed}"
        if label == ALL:
            rows = figures.first_of_class(images, labels, {int(c): str(int(c)) for c in labels.unique()}, count)
            return figures.image_grid(rows, first=count, title=title)
        own = images[labels == label][: 3 * count].split(count)
        rows = {f"{i * count} …": part for i, part in enumerate(own)}
        return figures.image_grid(rows, first=count, cell=0.8, title=f"{title}, class {label}")

    return View(draw, {**named.widgets, "label": label}, adapt)


def replay(plan: Plan, along: Callable[[Run], Curves] | None = None, count: int = 8, device: str = "auto") -> View:
    """An inversion step by step: the latents that its run stored on the way, drawn again by its prior's generator.

    For attacks that store `frames_latents` and `frames_steps`.  `along` gives curves over the steps to mark the
    chosen one in.  Without a browser: all stored steps of the first class below each other.
    """
    named, chosen = RunControls([run for run in plan.runs if hasattr(run.stage, "frames")]), runtime.device(device)
    label, place = slider("class", [0]), slider("step", [("0", 0)])
    play, fit = player(place)

    def adapt() -> None:
        found = stored(plan, named.adapt().stage)
        steps = [(str(step), i) for i, step in enumerate(found["frames_steps"].tolist())]
        offer(label, found["labels"].unique().tolist())
        offer(place, steps)
        fit()

    def film(run: Run, label: int, places: list[int]) -> dict[str, Tensor]:
        found = stored(plan, run.stage)
        own = (found["labels"] == label).nonzero().flatten()[:count]
        # A search of styles says itself how they become images.
        decode = getattr(run.stage, "decoder", run.stage.prior.generator)(chosen)
        with torch.no_grad():
            frames = {i: decode(found["frames_latents"][i, own].to(chosen)) for i in places}
        return {f"step {int(found['frames_steps'][i])}": to_uint8(x).cpu() for i, x in frames.items()}

    def draw(setting: str, attack: str, seed: int, label: int, place: int) -> list[Picture]:
        run = plan.find(attack, setting, seed)
        title = f"{attack}, {setting}, seed {seed}, class {label}"
        shown = [figures.image_grid(film(run, label, [place]), first=count, cell=0.8, title=title)]
        curves = along(run) if along else {}
        if curves:
            step = int(stored(plan, run.stage)["frames_steps"][place])
            shown.append(marked_curves(curves, step, "step of the attack", "accuracy (%), all classes"))
        return shown

    def still() -> Picture:
        run = plan.find(named.attack.value, named.setting.value, named.seed.value)
        title = f"{run.attack}, {run.setting}, seed {run.seed}, class {label.value}"
        places = list(range(len(place.options)))
        return figures.image_grid(film(run, label.value, places), first=count, cell=0.6, title=title)

    return View(draw, {**named.widgets, "label": label, "place": place}, adapt, still, [play])


def tuning(plan: Plan, films: Mapping[Film, Stage], count: int = 16) -> View:
    """A generator that changes: the same latents after each stored step of its tuning.

    `films`: stages with `frames_bank` (F, n, C, S, S) uint8 and `frames_steps` (F,).
    """
    data = choice("data", list(dict.fromkeys(film[0] for film in films)))
    kind = choice("tuned", list(dict.fromkeys(film[1] for film in films)))
    seed, place = slider("seed", [0]), slider("step", [("", -1)])
    play, fit = player(place)

    def adapt() -> None:
        offer(kind, list(dict.fromkeys(film[1] for film in films if film[0] == data.value)))
        offer(seed, sorted(film[2] for film in films if film[:2] == (data.value, kind.value)))
        steps = stored(plan, films[data.value, kind.value, seed.value])["frames_steps"].tolist()
        offer(place, [(str(step), i) for i, step in enumerate(steps)], value=len(steps) - 1)
        fit()

    def draw(data: str, kind: str, seed: int, place: int) -> Picture:
        found = stored(plan, films[data, kind, seed])
        rows = {
            f"step {int(found['frames_steps'][i])}": found["frames_bank"][i, :count] for i in dict.fromkeys((0, place))
        }
        return figures.image_grid(rows, first=count, cell=0.55, title=f"{data}, {kind}, seed {seed}, the same latents")

    def still() -> Picture:
        return draw(data.value, kind.value, seed.value, len(place.options) - 1)

    return View(draw, {"data": data, "kind": kind, "seed": seed, "place": place}, adapt, still, [play])


def _pairs(run: Run) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Scored images and labels of a run, and of each the nearest private image, its label and the distance."""
    private, _ = run.evaluation.exposed()
    near = run.evaluation.result().tensors
    found = run.stage.result().tensors
    images, labels = first_per_class(found["images"], found["labels"], run.evaluation.samples)
    nearest = near["nearest_real_of_fake"]
    return images, labels, private.images[nearest], private.labels[nearest], near["nearest_q_fake"]


def nearest_private(plan: Plan, count: int = 8) -> View:
    """Reconstructions of a class above the private image that is nearest to each, with its class and ST-LPIPS.

    Private images are shown: an auditor's view, no attack sees them.
    """
    named = RunControls([run for run in plan.runs if run.evaluation.perceptual])
    label, order = slider("class", [ALL]), choice("order", ["closest first", "as stored"])

    def adapt() -> None:
        run = named.adapt()
        stored(plan, run.evaluation)
        offer(label, [ALL, *stored(plan, run.stage)["labels"].unique().tolist()])

    def draw(setting: str, attack: str, seed: int, label: int | str, order: str) -> Picture:
        run = plan.find(attack, setting, seed)
        images, labels, private, private_labels, distance = _pairs(run)
        own = torch.arange(len(labels)) if label == ALL else (labels == label).nonzero().flatten()
        if order == "closest first":
            own = own[distance[own].argsort()]
        own = own[:count]
        heads = [
            f"{c} → {p}\n{d:.3f}"
            for c, p, d in zip(labels[own].tolist(), private_labels[own].tolist(), distance[own].tolist(), strict=True)
        ]
        rows = {"reconstruction": images[own], "nearest private": private[own]}
        title = f"{attack}, {setting}, seed {seed}: class → class of the nearest, ST-LPIPS (AlexNet)\n"
        return figures.image_grid(rows, columns=heads, first=count, cell=0.8, title=title)

    return View(draw, {**named.widgets, "label": label, "order": order}, adapt)


def frontier(plan: Plan, count: int = 10, classes: int = 4) -> View:
    """Accuracy against coverage of all attacks of a setting; the slider walks over the points and shows their images.

    From the least to the most accurate point; a line joins those that no other point beats in both.
    """
    known = [run for run in (*plan.runs, *plan.references) if run.evaluation.stored()]
    attacks = {s: {run.attack for run in known if run.setting == s} for s in dict.fromkeys(r.setting for r in known)}
    several = [s for s, names in attacks.items() if len(names) > 1]
    setting, seed, attack = choice("setting", several), slider("seed", [0]), slider("point", [""])

    def adapt() -> None:
        offer(seed, sorted({run.seed for run in known if run.setting == setting.value}))
        here = [run for run in known if (run.setting, run.seed) == (setting.value, seed.value)]
        points = frontiers.points(here)
        best = next(p.attack for p in reversed(points) if p.attack in {run.attack for run in plan.runs})
        offer(attack, [p.attack for p in points], value=best)

    def draw(setting: str, seed: int, attack: str) -> list[Picture]:
        here = {run.attack: run for run in known if (run.setting, run.seed) == (setting, seed)}
        title = f"{setting}, seed {seed}"
        images, labels = (stored(plan, here[attack].stage)[name] for name in ("images", "labels"))
        rows = figures.first_of_class(images, labels, {int(c): str(int(c)) for c in labels.unique()[:classes]}, count)
        return [
            frontiers.picture(frontiers.points(here.values()), attack, title),
            figures.image_grid(rows, first=count, cell=0.5, title=f"{attack}, {title}, first images, not selected"),
        ]

    return View(draw, {"setting": setting, "seed": seed, "attack": attack}, adapt)

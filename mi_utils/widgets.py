"""Views over stored results for JupyterLab.  A view computes nothing: it reads the store and draws."""

from collections.abc import Callable, Sequence

import ipywidgets
import torch

from mi_utils.data.images import to_uint8
from mi_utils.report import figures
from mi_utils.report.figures import Picture
from mi_utils.studies.plan import Plan, Run


def reconstructions(plan: Plan, count: int = 10) -> ipywidgets.Widget:
    """Grids of stored reconstructions, chosen by setting, attack and seed."""

    def draw(setting: str, attack: str, seed: int) -> Picture:
        images, labels = plan.reconstructions(attack, setting, seed)
        rows = figures.first_of_class(images, labels, {int(c): str(int(c)) for c in labels.unique()}, count)
        return figures.image_grid(rows, first=count, title=f"{attack}, {setting}, seed {seed}")

    return view(draw, **run_controls(plan.runs))


def replay(plan: Plan, count: int = 10, device: str = "cpu") -> ipywidgets.Widget:
    """An inversion step by step: the latents that its run stored on the way, drawn again by its prior's generator.

    For attacks that store `frames_latents` and `frames_steps`; chosen by setting, attack, seed and class.
    """
    runs = [run for run in plan.runs if hasattr(run.stage, "frames")]
    place = ipywidgets.SelectionSlider(options=[("0", 0)], description="step")
    label = ipywidgets.Dropdown(description="class")

    def draw(setting: str, attack: str, seed: int, label: int, place: int) -> Picture:
        stage = plan.find(attack, setting, seed).stage
        stored = stage.result().tensors
        own = (stored["labels"] == label).nonzero().flatten()[:count]
        # A search of styles says itself how they become images.
        decode = getattr(stage, "decoder", stage.prior.generator)(device)
        with torch.no_grad():
            images = to_uint8(decode(stored["frames_latents"][place, own].to(device)))
        title = f"{attack}, {setting}, seed {seed}, class {label}, step {int(stored['frames_steps'][place])}"
        return figures.image_grid({str(label): images}, first=count, cell=0.8, title=title)

    def offer_frames(setting: str, attack: str, seed: int) -> None:
        stored = plan.find(attack, setting, seed).stage.result().tensors
        label.value = None  # nothing is drawn while steps and classes are of two runs
        offer(place, [(str(step), i) for i, step in enumerate(stored["frames_steps"].tolist())])
        offer(label, stored["labels"].unique().tolist())

    return view(draw, **run_controls(runs, offer_frames), label=label, place=place)


def run_controls(
    runs: Sequence[Run], then: Callable[[str, str, int], None] | None = None
) -> dict[str, ipywidgets.Dropdown]:
    """Dropdowns that name one of the runs, each offering what there is; `then` hears of every run they name."""
    settings = list(dict.fromkeys(run.setting for run in runs))
    setting = ipywidgets.Dropdown(options=settings, description="setting")
    attack = ipywidgets.Dropdown(description="attack")
    seed = ipywidgets.Dropdown(description="seed")

    def tell(*_: object) -> None:
        if then and seed.value is not None:
            then(setting.value, attack.value, seed.value)

    def offer_seeds(*_: object) -> None:
        wanted = (attack.value, setting.value)
        offer(seed, sorted({r.seed for r in runs if (r.attack, r.setting) == wanted}))
        tell()  # the same seed is another run now

    def offer_attacks(*_: object) -> None:
        offer(attack, list(dict.fromkeys(r.attack for r in runs if r.setting == setting.value)))
        offer_seeds()  # the same attack may have other seeds here

    setting.observe(offer_attacks, "value")
    attack.observe(offer_seeds, "value")
    seed.observe(tell, "value")
    offer_attacks()
    return {"setting": setting, "attack": attack, "seed": seed}


def offer(control: ipywidgets.Dropdown | ipywidgets.SelectionSlider, options: list) -> None:
    """New options, plain or (text, value), with the first one chosen (a dropdown may choose none of its own accord)."""
    control.options = options
    control.index = 0 if options else None


def view(draw: Callable[..., Picture], **controls: ipywidgets.Widget) -> ipywidgets.Widget:
    """Controls above the figure that `draw` makes of their values, drawn anew at every change."""
    picture = ipywidgets.Image(format="png")

    def show(*_: object) -> None:
        values = {name: control.value for name, control in controls.items()}
        if None not in values.values():
            picture.value = draw(**values).png

    for control in controls.values():
        control.observe(show, "value")
    show()
    return ipywidgets.VBox([ipywidgets.HBox(list(controls.values())), picture])

"""Views over stored results for JupyterLab.  A view computes nothing: it reads the store and draws."""

from collections.abc import Callable

import ipywidgets

from mi_utils.report import figures
from mi_utils.report.figures import Picture
from mi_utils.studies.plan import Plan


def reconstructions(plan: Plan, count: int = 10) -> ipywidgets.Widget:
    """Grids of stored reconstructions, chosen by setting, attack and seed."""
    settings = list(dict.fromkeys(run.setting for run in plan.runs))

    def draw(setting: str, attack: str, seed: int) -> Picture:
        images, labels = plan.reconstructions(attack, setting, seed)
        rows = figures.first_of_class(images, labels, {int(c): str(int(c)) for c in labels.unique()}, count)
        return figures.image_grid(rows, first=count, title=f"{attack}, {setting}, seed {seed}")

    setting = ipywidgets.Dropdown(options=settings, description="setting")
    attack = ipywidgets.Dropdown(description="attack")
    seed = ipywidgets.Dropdown(description="seed")

    def offer_seeds(*_: object) -> None:
        wanted = (attack.value, setting.value)
        offer(seed, sorted({r.seed for r in plan.runs if (r.attack, r.setting) == wanted}))

    def offer_attacks(*_: object) -> None:
        offer(attack, list(dict.fromkeys(r.attack for r in plan.runs if r.setting == setting.value)))
        offer_seeds()  # the same attack may have other seeds here

    setting.observe(offer_attacks, "value")
    attack.observe(offer_seeds, "value")
    offer_attacks()
    return view(draw, setting=setting, attack=attack, seed=seed)


def offer(control: ipywidgets.Dropdown, options: list) -> None:
    """New options with the first one chosen (a dropdown may choose none of its own accord)."""
    control.options = options
    control.value = options[0] if options else None


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

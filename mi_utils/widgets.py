"""Views over stored results for JupyterLab.  A view computes nothing: it reads the store and draws."""

from collections.abc import Callable

import ipywidgets
from IPython.display import Image
from matplotlib.figure import Figure

from mi_utils.report import figures
from mi_utils.report.figures import Picture
from mi_utils.studies.evaluation import first_per_class
from mi_utils.studies.plan import Plan


def reconstructions(plan: Plan, count: int = 10) -> ipywidgets.Widget:
    """Grids of stored reconstructions, chosen by setting, attack and seed."""
    settings = list(dict.fromkeys(run.setting for run in plan.runs))

    def draw(setting: str, attack: str, seed: int) -> Figure:
        images, labels = first_per_class(*plan.reconstructions(attack, setting, seed), count)
        rows = figures.first_of_class(images, labels, {int(c): str(int(c)) for c in labels.unique()}, count)
        return figures.image_grid(rows, first=count, title=f"{attack}, {setting}, seed {seed}")

    setting = ipywidgets.Dropdown(options=settings, description="setting")
    attack = ipywidgets.Dropdown(description="attack")
    seed = ipywidgets.Dropdown(description="seed")

    def offer_attacks(*_: object) -> None:
        attack.options = list(dict.fromkeys(r.attack for r in plan.runs if r.setting == setting.value))

    def offer_seeds(*_: object) -> None:
        wanted = (attack.value, setting.value)
        seed.options = sorted({r.seed for r in plan.runs if (r.attack, r.setting) == wanted})

    setting.observe(offer_attacks, "value")
    attack.observe(offer_seeds, "value")
    offer_attacks()
    offer_seeds()
    return view(draw, setting=setting, attack=attack, seed=seed)


def view(draw: Callable[..., Figure], **controls: ipywidgets.Widget) -> ipywidgets.Widget:
    """Controls above the figure that `draw` makes of their values."""

    def show(**values: object) -> Image | None:
        if any(value is None for value in values.values()):
            return None
        figure = draw(**values)
        return Image(figure._repr_png_()) if isinstance(figure, Picture) else figure

    output = ipywidgets.interactive_output(lambda **v: _display(show(**v)), controls)
    return ipywidgets.VBox([ipywidgets.HBox(list(controls.values())), output])


def _display(picture: Image | None) -> None:
    from IPython.display import display

    if picture is not None:
        display(picture)

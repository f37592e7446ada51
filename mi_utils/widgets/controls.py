"""Dropdowns and sliders, and those that name one run of a plan."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import ipywidgets

from mi_utils.errors import UserError
from mi_utils.studies.plan import Run

Control = ipywidgets.Dropdown | ipywidgets.SelectionSlider
_WORDS = {"description_width": "initial"}
ALL = "all"


def choice(name: str, options: Sequence[Any], value: Any = None) -> ipywidgets.Dropdown:
    """A dropdown; the first option, or `value`, is chosen."""
    return ipywidgets.Dropdown(options=options, value=_chosen(options, value), description=name, style=_WORDS)


def slider(name: str, options: Sequence[Any], value: Any = None) -> ipywidgets.SelectionSlider:
    """A slider over options, plain or (text, value); the picture follows when it is let go."""
    return ipywidgets.SelectionSlider(
        options=options, value=_chosen(options, value), description=name, continuous_update=False, style=_WORDS
    )


def _chosen(options: Sequence[Any], value: Any) -> Any:
    if not options:
        raise UserError("view: expected at least 1 stored result that it can show, found 0; run another profile")
    return _values(options)[0] if value is None else value


def _values(options: Sequence[Any]) -> list[Any]:
    return [option[1] if isinstance(option, tuple) else option for option in options]


def offer(control: Control, options: Sequence[Any], value: Any = None) -> None:
    """New options; what was chosen stays chosen where it still exists, otherwise `value` or the first is."""
    if tuple(control.options) == tuple(options):
        return
    kept, values = control.value, _values(options)
    control.options = options
    control.index = values.index(kept if kept in values else value if value in values else values[0])


class RunControls:
    """Setting, attack and seed of one run, each offering what there is; settings with most attacks first."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = list(runs)
        settings = _distinct(run.setting for run in self.runs)
        settings.sort(key=lambda s: -len({run.attack for run in self.runs if run.setting == s}))
        here = [run for run in self.runs if run.setting in settings[:1]]
        self.setting = choice("setting", settings)
        self.attack = choice("attack", _distinct(run.attack for run in here))
        self.seed = slider("seed", sorted({run.seed for run in here if run.attack == here[0].attack}))

    @property
    def widgets(self) -> dict[str, Control]:
        """By the names that a drawing function takes."""
        return {"setting": self.setting, "attack": self.attack, "seed": self.seed}

    def adapt(self) -> Run:
        """Attacks of the setting, then seeds of the attack; returns the run that is named now."""
        here = [run for run in self.runs if run.setting == self.setting.value]
        offer(self.attack, _distinct(run.attack for run in here))
        own = {run.seed: run for run in here if run.attack == self.attack.value}
        offer(self.seed, sorted(own))
        return own[self.seed.value]


def player(steps: ipywidgets.SelectionSlider) -> tuple[ipywidgets.Play, Callable[[], None]]:
    """A play button that moves a slider on, and what to call when the slider has other options."""
    play = ipywidgets.Play(interval=700, description="replay")

    def fit() -> None:
        play.max = len(steps.options) - 1

    def move(change: dict) -> None:
        steps.index = min(change["new"], len(steps.options) - 1)

    def follow(change: dict) -> None:
        play.value = change["new"]

    play.observe(move, "value")
    steps.observe(follow, "index")
    fit()
    return play, fit


def _distinct(values: Any) -> list[Hashable]:
    """Each once, in order."""
    return list(dict.fromkeys(values))

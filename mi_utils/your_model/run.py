"""`audited`: from a CONFIG.yaml to the report.  Everything that takes long is a stage, so that it can go on."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mi_utils import runtime
from mi_utils.data.images import resized
from mi_utils.errors import UserError
from mi_utils.models import perceptual
from mi_utils.scoring.context import Say
from mi_utils.scoring.inputs import Labelled
from mi_utils.scoring.run import made_by
from mi_utils.stage import Stage, StageFailed, run
from mi_utils.your_model import given as inputs
from mi_utils.your_model.budget import Choice, choose
from mi_utils.your_model.conclusions import conclusions
from mi_utils.your_model.config import Settings, read
from mi_utils.your_model.exposure import Exposure, exposure, judges
from mi_utils.your_model.given import Given
from mi_utils.your_model.recipes import RECIPES, Recipe, candidate, evaluators
from mi_utils.your_model.writing import Report, check_free

EVALUATORS = "evaluators"
NET = "st-lpips-alex"


@dataclass(frozen=True)
class Plan:
    """What is run: recipes and the budget's choices, by name, attacks and (where there are any) evaluators."""

    recipes: Mapping[str, Recipe]
    choices: Mapping[str, Choice]

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of the attacks that are run."""
        return tuple(name for name, choice in self.choices.items() if choice.chosen and name != EVALUATORS)

    def stages(self, name: str, seeds: Sequence[int]) -> list[Stage]:
        """The attack's stages, one a seed; of the evaluators, every one."""
        recipe, steps = self.recipes[name], self.choices[name].steps
        if name == EVALUATORS:
            return list(recipe.stages(steps, seeds[0]).values())
        return [list(recipe.stages(steps, seed).values())[-1] for seed in seeds]


def audited(
    config: Path | str | Settings,
    out: Path | str | None = None,
    *,
    device: str = "auto",
    workers: int | None = None,
    say: Say = lambda line: None,
) -> Report:
    """The whole audit; written to the new folder `out` where one is named.

    Everything given is checked before anything is computed (UserError).  workers: processes, by default one a core.
    """
    began = time.monotonic()
    settings = config if isinstance(config, Settings) else read(config)
    if out is not None:
        check_free(Path(out))
    chosen = runtime.device(device)
    say("checking the classifier, the images and the names")
    given = inputs.check(settings, chosen)
    say("timing a few steps of every attack")
    plan = planned(given, str(chosen), workers)
    compute(given, plan, str(chosen), workers, say)
    found, judged = scored(given, plan, chosen, say)
    report = _report(given, plan, found, judged, chosen, time.monotonic() - began)
    if out is not None:
        report.write(out)
    return report


def planned(given: Given, device: str, workers: int | None) -> Plan:
    """Which attacks fit the budget, and how long each is; UserError where one that was asked for does not fit."""
    settings = given.settings
    recipes = {name: RECIPES[name](given) for name in settings.wanted}
    if given.holdout is not None:
        first, *rest = recipes.items()
        recipes = dict([first, (EVALUATORS, evaluators(given)), *rest])
    measured = [candidate(name, recipe, settings.seeds, device) for name, recipe in recipes.items()]
    choices = choose(measured, 60 * settings.minutes, processes(device, workers))
    left_out = [c for c in choices if not c.chosen and (settings.attacks is not None or c.name == settings.wanted[0])]
    if left_out:
        raise UserError(f"minutes: {left_out[0].name} is asked for, but {left_out[0].why}")
    return Plan(recipes, {choice.name: choice for choice in choices})


def processes(device: str, workers: int | None) -> int:
    """How many stages are computed at a time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return workers or (cores if device == "cpu" else 1)


def compute(given: Given, plan: Plan, device: str, workers: int | None, say: Say) -> None:
    """Run what is missing of the plan."""
    names = [name for name, choice in plan.choices.items() if choice.chosen]
    say(f"running {', '.join(names)}")
    try:
        run([s for name in names for s in plan.stages(name, given.settings.seeds)], device=device, workers=workers)
    except StageFailed as problem:
        raise UserError(f"attack: {problem}") from None


def scored(given: Given, plan: Plan, device: torch.device, say: Say) -> tuple[list[Exposure], dict[str, float]]:
    """The exposure by every attack, and the evaluators' accuracy on held-out images by name."""
    has = EVALUATORS in plan.choices and plan.choices[EVALUATORS].chosen
    trained = plan.recipes[EVALUATORS].stages(plan.choices[EVALUATORS].steps, given.settings.seeds[0]) if has else {}
    nets = judges(given, trained, "" if has else _no_evaluator(given), device)
    net = perceptual.load(NET).to(device) if given.private is not None else None
    found = []
    with runtime.isolated(device, "audit", threads=torch.get_num_threads()):
        for name in plan.attacks:
            say(f"measuring {name}")
            title = plan.recipes[name].title
            found.append(exposure(given, name, title, images(given, plan, name), nets, net, device, say))
    return found, {name: stage.facts()["test_accuracy"] for name, stage in trained.items()}


def images(given: Given, plan: Plan, name: str) -> list[Labelled]:
    """The reconstructions of one attack by seed."""
    made = []
    for seed, stage in zip(given.settings.seeds, plan.stages(name, given.settings.seeds), strict=True):
        result = stage.result().tensors
        made.append(Labelled(result["images"], result["labels"], None, f"{plan.recipes[name].title}, seed {seed}"))
    return _sized(made, given.side)


def _sized(made: list[Labelled], side: int) -> list[Labelled]:
    """All images at the working size: Patch-MI has its own."""
    return [m if m.images.shape[-1] == side else replace(m, images=resized(m.images, side)) for m in made]


def _no_evaluator(given: Given) -> str:
    """Why there are none."""
    if given.private is None:
        return "no private images given to train an evaluator on"
    return "no holdout given to test an evaluator on" if given.holdout is None else "they did not fit the time budget"


def _report(
    given: Given, plan: Plan, found: list[Exposure], judged: dict[str, float], device: torch.device, seconds: float
) -> Report:
    """Everything that a reader is told."""
    settings = given.settings
    has = {"private": given.private is not None, "holdout": given.holdout is not None, "judged": bool(judged)}
    said = conclusions(found, len(settings.names), **has)
    record = {
        "model": {"name": given.recipe.arch, "file": given.recipe.weights.name},
        "classes": {str(c): settings.names[c] for c in settings.attacked},
        "outputs": len(settings.names),
        "side": given.side,
        "images": {
            "auxiliary": len(given.auxiliary),
            "private": None if given.private is None else len(given.private),
            "holdout": None if given.holdout is None else len(given.holdout),
        },
        "named_right": given.named_right,
        "evaluators": judged,
        "minutes": settings.minutes,
        "seeds": list(settings.seeds),
        "samples": settings.samples,
        "plan": [
            {"name": c.name, "title": plan.recipes[c.name].title, "run": c.chosen, "seconds": round(c.seconds, 1),
             "why": c.why}
            for c in plan.choices.values()
        ],
        "left_out": _left_out(settings),
        "keys": {name: [stage.key for stage in plan.stages(name, settings.seeds)] for name in plan.attacks},
        "provenance": made_by(device, seconds),
    }  # fmt: skip
    return Report(tuple(found), said, given.private, record, (*given.told, *_notes(settings)))


def _left_out(settings: Settings) -> list[str]:
    """Attacks that were never candidates, and why."""
    return [
        f"{name}: " + ("no prior given" if name == "ppa" and settings.attacks is None else "not among `attacks`")
        for name in RECIPES
        if name not in settings.wanted
    ]


def _notes(settings: Settings) -> list[str]:
    """What was decided for the user."""
    total, attacked = len(settings.names), len(settings.attacked)
    return [f"{attacked} of {total} classes were attacked; name others in attack_classes"] if attacked < total else []

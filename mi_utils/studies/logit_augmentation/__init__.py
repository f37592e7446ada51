"""The study of logit loss and model augmentation (Re-thinking MI): runs, tables, figures and claims."""

from typing import Any

from mi_utils.data.disjoint import check_disjoint
from mi_utils.studies.logit_augmentation import grid
from mi_utils.studies.logit_augmentation.settings import MAKERS, Settings
from mi_utils.studies.plan import Plan, settings_for
from mi_utils.training.shipped import Shippable, recipe_digest

TITLE = "Re-thinking model inversion: logit loss and model augmentation (arXiv 2304.01669)"


def settings(profile: str, **overrides: Any) -> Settings:
    """The sizes of a profile, some of them overridden; UserError for an unknown profile or field."""
    return settings_for(profile, MAKERS, overrides)


def plan(profile: str, **overrides: Any) -> Plan:
    """All runs of a profile.  Shift, further targets and controls are done on the first problem."""
    chosen = settings(profile, **overrides)
    benches = [grid.Bench(problem, chosen) for problem in chosen.problems]
    for bench in benches:
        for split in bench.problem.splits:
            for public in filter(None, (split.public, split.shifted)):
                check_disjoint(split.train, public, "public")
    first = benches[0]
    main = {bench.name: list(grid.main_runs(bench)) for bench in benches}
    others = [grid.Bench(first.problem, chosen, net) for net in first.problem.targets]
    shifted = grid.Bench(first.problem, chosen, shifted=True)
    runs = [run for found in main.values() for run in found]
    runs += [run for bench in others for run in grid.target_runs(bench)]
    runs += grid.shift_runs(shifted)
    controls = list(grid.control_runs(first))
    runs += controls
    courses = {run_name(run): bench.course(run) for bench in benches for run in main[bench.name]}
    courses |= {run_name(run): first.course(run) for run in controls if "T5" in run.setting}
    leaks = grid.leaks(first, main[first.name]) if first.problem.faces else {}
    notes = {"benches": benches, "others": others, "shifted": shifted, "courses": courses, "leaks": leaks}
    references = tuple(run for bench in benches for run in grid.references(bench))
    return Plan(
        "logit_augmentation", profile, chosen, tuple(runs), references, (*courses.values(), *leaks.values()), notes
    )


def shipped() -> list[Shippable]:
    """What comes trained with the project: targets, evaluators, priors and factor regressor of `laptop`."""
    made = plan("laptop")
    benches, seeds = made.notes["benches"], range(made.settings.seeds)
    stages: list[Shippable] = [leak.regressor for leak in made.notes["leaks"].values()]
    for bench in benches:
        # A net of linear layers is too large for a file and trained in half a minute.
        stages += [net for net in bench.panel.everyone().values() if net.architecture != "mlp"]
        stages += [make(seed) for seed in seeds for make in (bench.gmi_prior, bench.target, bench.kedmi_prior)]
    stages += [made.notes["shifted"].gmi_prior(seed) for seed in seeds]
    stages += [bench.target(seed) for bench in made.notes["others"] for seed in range(made.settings.seeds_targets)]
    return list({recipe_digest(stage): stage for stage in stages}.values())


def run_name(run: grid.Run) -> tuple[str, str, int]:
    """What tells a run from the others."""
    return run.attack, run.setting, run.seed

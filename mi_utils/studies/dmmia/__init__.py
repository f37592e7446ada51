"""The study of DMMIA and Plug & Play on StyleGAN2 priors: runs, tables, figures and claims."""

from typing import Any

from mi_utils.data.disjoint import check_disjoint
from mi_utils.errors import UserError
from mi_utils.studies.dmmia import grid
from mi_utils.studies.dmmia.settings import MAKERS, Settings
from mi_utils.studies.plan import Plan, settings_for
from mi_utils.training.shipped import Shippable, recipe_digest

TITLE = "DMMIA: model inversion via dynamic memory learning (arXiv 2309.00013), and Plug & Play Attacks"


def settings(profile: str, **overrides: Any) -> Settings:
    """The sizes of a profile, some of them overridden; UserError for an unknown profile or field."""
    return settings_for(profile, MAKERS, overrides)


def plan(profile: str, **overrides: Any) -> Plan:
    """All runs of a profile.  Further targets, shift, sweeps and selection are done on the first problem."""
    chosen = settings(profile, **overrides)
    if not chosen.problems:
        raise UserError("problems: expected one or more problems to attack, found none; name one")
    benches = [grid.Bench(problem, chosen) for problem in chosen.problems]
    for bench in benches:
        for prior in filter(None, (bench.problem.prior, bench.problem.matched, bench.problem.shifted)):
            for public in prior.sources():
                check_disjoint(bench.problem.train, public, "prior")
    first = benches[0]
    main = {bench.name: list(grid.main_runs(bench)) for bench in benches}
    others = [grid.Bench(first.problem, chosen, net) for net in first.problem.targets]
    further = {bench.name: list(grid.target_runs(bench)) for bench in others}
    sweeps = list(grid.sweep_runs(first))
    runs = [run for found in (*main.values(), *further.values()) for run in found]
    runs += [*grid.shift_runs(first), *grid.selection_runs(first), *sweeps]
    timelines = {name: line for bench in benches for name, line in grid.timelines(bench, main[bench.name]).items()}
    timelines |= {name: line for bench in others for name, line in grid.timelines(bench, further[bench.name]).items()}
    timelines |= grid.timelines(first, sweeps)
    references = tuple(run for bench in benches for run in grid.references(bench))
    qualities, leaks = grid.qualities(first), grid.leaks(first)
    notes = {"benches": benches, "others": others, "timelines": timelines, "qualities": qualities, "leaks": leaks}
    extra = (*timelines.values(), *qualities.values(), *leaks.values())
    return Plan("dmmia", profile, chosen, tuple(runs), references, extra, notes)


def shipped() -> list[Shippable]:
    """What comes trained with the project: priors, targets, evaluators and factor regressor of `laptop`."""
    made = plan("laptop")
    stages: list[Shippable] = []
    for bench in made.notes["benches"]:
        p = bench.problem
        stages += [prior for prior in (p.matched, p.prior, p.shifted, p.further) if prior]
        stages += [bench.reader, *bench.panel.everyone().values()]
        stages += [bench.target(seed) for seed in range(made.settings.seeds)]
    stages += [bench.target(seed) for bench in made.notes["others"] for seed in range(made.settings.seeds_targets)]
    older = {run.stage for run in made.runs if run.attack in ("GMI", "KEDMI")}
    stages += [stage.prior for stage in older]
    return list({recipe_digest(stage): stage for stage in stages}.values())

"""The study of DDCS and of generators tuned by natural gradient: runs, tables, figures and claims."""

from typing import Any

from mi_utils.studies.ddcs_ngd import grid
from mi_utils.studies.ddcs_ngd.settings import MAKERS, Settings
from mi_utils.studies.plan import Plan, settings_for
from mi_utils.training.shipped import Shippable, recipe_digest

TITLE = "DDCS and NGD: sample-level evaluation and generative framework (arXiv 2502.19070)"


def settings(profile: str, **overrides: Any) -> Settings:
    """The sizes of a profile, some of them overridden; UserError for an unknown profile or field."""
    return settings_for(profile, MAKERS, overrides)


def plan(profile: str, **overrides: Any) -> Plan:
    """All runs of a profile.  Sample-level measures and further options are those of the first problem."""
    chosen = settings(profile, **overrides)
    benches = [grid.Bench(problem, chosen) for problem in chosen.problems]
    runs = [run for bench in benches for run in (*grid.main_runs(bench), *grid.older_runs(bench))]
    for further in (grid.again_runs, grid.insider_runs, grid.victim_runs, grid.defence_runs):
        runs += further(benches[0])
    references = [run for bench in benches for run in grid.references(bench)]
    references += grid.victim_references(benches[0])
    qualities = {bench.name: grid.qualities(bench) for bench in benches}
    measures, memorisation = grid.measures(benches[0]), grid.memorisation(benches[0])
    audits = [grid.audit(benches[0], seed) for seed in range(chosen.seeds_defence)]
    quality = (stage for found in qualities.values() for stage in found.values())
    extra = (*quality, *measures.values(), *memorisation.values(), *audits)
    notes = {"benches": benches, "qualities": qualities, "measures": measures, "memorisation": memorisation}
    return Plan("ddcs_ngd", profile, chosen, tuple(runs), tuple(references), extra, notes)


def shipped() -> list[Shippable]:
    """What comes trained with the project: generators and their eigenvectors, targets, evaluators, factor regressor."""
    made = plan("laptop")
    stages: list[Shippable] = []
    for bench in made.notes["benches"]:
        stages += [bench.problem.prior, bench.basis, *bench.panel.everyone().values()]
        stages += [bench.reader] if bench.reader else []
        stages += [bench.target(seed) for seed in range(made.settings.seeds)]
    first = made.notes["benches"][0]
    stages += [grid.defended(first, n, seed) for n in grid.DEFENCES for seed in range(made.settings.seeds_defence)]
    stages += [make(seed) for make in grid.victims(first).values() for seed in range(made.settings.seeds)]
    older = {run.stage for run in made.runs if run.attack in ("GMI", "KEDMI")}
    stages += [stage.prior for stage in older]
    return list({recipe_digest(stage): stage for stage in stages}.values())

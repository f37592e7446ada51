"""The Patch-MI study: what is run at each profile, and the paper's tables, figures and claims."""

from typing import Any

from mi_utils.studies.patch_mi import grid
from mi_utils.studies.patch_mi.settings import MAKERS, Settings
from mi_utils.studies.plan import Plan, settings_for

TITLE = "Patch-MI (arXiv 2312.07040)"


def settings(profile: str, **overrides: Any) -> Settings:
    """The sizes of a profile, some of them overridden; UserError for an unknown profile or field."""
    return settings_for(profile, MAKERS, overrides)


def plan(profile: str, **overrides: Any) -> Plan:
    """All runs of a profile.  Sweeps and pairs are done on the first problem, pairs on the second too."""
    chosen = settings(profile, **overrides)
    benches = [grid.Bench(problem, chosen) for problem in chosen.problems]
    first = benches[0]
    runs = [run for i, bench in enumerate(benches) for run in grid.main_runs(bench, augmented=i == 0)]
    runs += grid.target_runs(first)
    runs += grid.sweep_runs(first)
    runs += grid.pair_runs(first)
    runs += grid.dissimilar_runs(first)
    runs += [run for bench in benches[1:2] for run in grid.pair_runs(bench)]
    similarity = {bench.problem.name: grid.similarities(bench) for bench in benches[:2]}
    repeats = [grid.similarity(first, first.problem.auxiliary, seed) for seed in range(chosen.seeds)]
    extra = (*(stage for found in similarity.values() for stage in found.values()), *repeats)
    notes = {"benches": benches, "similarity": similarity, "repeats": repeats}
    references = tuple(run for bench in benches for run in grid.references(bench))
    return Plan("patch_mi", profile, chosen, tuple(runs), references, extra, notes)

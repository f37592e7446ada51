"""Targets trained with defences, and targets that memorise more or less: what attacks find of each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from mi_utils.metrics import matching
from mi_utils.metrics.ddcs import ddcs
from mi_utils.report.scores import matrix
from mi_utils.studies import tables
from mi_utils.studies.ddcs_ngd import grid
from mi_utils.studies.ddcs_ngd.grid import (
    DEFENCES,
    INSIDE,
    INSIDERS,
    KNOWING,
    OUTSIDE,
    REPEATED,
    VICTIMS,
    audit,
    defended,
)
from mi_utils.studies.ddcs_ngd.projection import rows_drawn
from mi_utils.studies.plan import Plan
from mi_utils.studies.tables import PRIOR, part


@dataclass(frozen=True)
class Outcome:
    """What an attack on a target with a defence finds: of the audit's most vulnerable images, and of the others.

    `rise` (V,): by how much the distance to the nearest reconstruction has risen since the audit, whose distance is
    the mean over its attacks.  `others`: DDCS of the private images that are not among them.
    """

    rise: Float[Tensor, " v"]
    others: float


def outcome(plan: Plan, name: str, seed: int, row: str = REPEATED) -> Outcome:
    """Of one of `DEFENCES` under the attacker of `row`."""
    bench = plan.notes["benches"][0]
    known = audit(bench, seed).result().tensors
    near = nearest(plan, name, row, seed)
    whole = bench.problem.train.load()
    rows = rows_drawn(whole, grid.probed(bench), plan.settings.perceptual)
    now, scores = (torch.full((len(whole),), torch.nan, dtype=torch.float64) for _ in range(2))
    now[rows], scores[rows] = near.q_real.double().cpu(), ddcs(near).score.double().cpu()
    change = (now - known["distances"].double().mean(0))[known["vulnerable"]]
    scores[known["vulnerable"]] = torch.nan
    return Outcome(change[change.isfinite()], float(scores.nanmean()))


def nearest(plan: Plan, name: str, row: str, seed: int) -> matching.Nearest:
    """What the evaluation of a run keeps of who is nearest to whom."""
    found = plan.find(name, f"{plan.notes['benches'][0].name} | {row}", seed).evaluation.result().tensors
    return matching.Nearest(**{f.name: found[f"nearest_{f.name}"] for f in fields(matching.Nearest)})


def by_half(plan: Plan, scores: pd.DataFrame, name: str) -> Float[Tensor, "s 2 2"]:
    """C14: (DDCS, accuracy in [0, 1]) of people that the auxiliary set of INSIDE lacks, and of those it shows."""
    bench = plan.notes["benches"][0]
    parts, classes = grid.halves(bench), sum(grid.halves(bench), ())
    whole = bench.problem.train.load()
    labels = whole.labels[rows_drawn(whole, classes, plan.settings.perceptual)].cpu()
    found = [ddcs(nearest(plan, name, INSIDERS, s)).score.double().cpu() for s in range(plan.settings.seeds)]
    said, _, columns = matrix(scores, name, f"{bench.name} | {INSIDERS}", "ensemble mean")
    return torch.stack([
        torch.stack([torch.stack([f[torch.isin(labels, torch.tensor(part))].mean() for f in found]),
                     said[:, [columns.index(str(c)) for c in part]].mean(1)], 1)
        for part in parts
    ], 1)  # fmt: skip


def insiders(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """C14: what the attack finds of private people by whether the auxiliary set shows them."""
    rows = []
    for name in (OUTSIDE, INSIDE):
        found = 100 * by_half(plan, scores, name)
        for half, people in enumerate(("the first half", "the second half")):
            one, accuracy = (_spread(found[:, half, i].tolist()) for i in range(2))
            shown = "other images" if (name, half) == (INSIDE, 1) else "no images"
            rows.append({"attack": name, "people attacked": f"{people} ({shown} of them in the auxiliary set)",
                         "DDCS %": one, "evaluators, mean %": accuracy})  # fmt: skip
    return pd.DataFrame(rows)


def defences(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """OQ4: what each defence costs, and what attacks with a fresh pool find of the targets trained with it."""
    bench, seeds = plan.notes["benches"][0], range(plan.settings.seeds_defence)
    rows = {f"{bench.name} | {row}": row for row in (REPEATED, KNOWING)}
    found = tables.table(part(scores, list(rows)), ("target", "ensemble mean", "DDCS", "DDCS coverage", "nDDCS", "FD"))
    where = [dict(zip(found.index.names, index, strict=True)) for index in found.index]
    facts = {n: [defended(bench, n, s).facts() for s in seeds] for n in DEFENCES}
    told = {(n, setting): [outcome(plan, n, s, row) for s in seeds] for n in DEFENCES for setting, row in rows.items()}
    here = [told[at["attack"], at["data"]] for at in where]
    return found.assign(**{
        "target's test accuracy %": [_spread([100 * f["test_accuracy"] for f in facts[at["attack"]]]) for at in where],
        "rise of d, vulnerable": [_spread([float(o.rise.mean()) for o in each], "+.4f") for each in here],
        "DDCS of the others": [_spread([o.others for o in each], ".3f") for each in here],
        "privacy budget": [f"{facts[at['attack']][0].get('epsilon', math.inf):.3g}" for at in where],
    })  # fmt: skip


def victims(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """C11: targets by what they memorise, and what Plug & Play on the untuned generator finds of each."""
    bench = plan.notes["benches"][0]
    facts, rows = plan.notes["memorisation"], []
    for name in grid.victims(bench):
        each = [facts[name, seed].result().meta for seed in range(plan.settings.seeds)]
        found = {m: 100 * covered(plan, scores, name, m) for m in ("DDCS coverage", "ensemble mean")}
        beyond = found["DDCS coverage"] - 100 * prior_coverage(plan, scores)
        rows.append({
            "target": name,
            "training accuracy %": _spread([100 * f["train_accuracy"] for f in each]),
            "test accuracy %": _spread([100 * f["test_accuracy"] for f in each]),
            "gap of cross-entropy": _spread([f["loss_gap"] for f in each], ".3f"),
            "evaluators, mean %": _spread(found["ensemble mean"].tolist()),
            "coverage %": _spread(found["DDCS coverage"].tolist()),
            "coverage less that of as many prior samples": _spread(beyond.tolist(), "+.1f"),
        })  # fmt: skip
    return pd.DataFrame(rows)


def covered(plan: Plan, scores: pd.DataFrame, victim: str, metric: str = "DDCS coverage") -> Float[Tensor, " s"]:
    """A score of Plug & Play against one of the victims, or of prior samples, by seed."""
    return matrix(scores, victim, f"{plan.notes['benches'][0].name} | {VICTIMS}", metric)[0].mean(1)


def prior_coverage(plan: Plan, scores: pd.DataFrame) -> Float[Tensor, " s"]:
    """Coverage of as many samples of the untuned generator, by seed."""
    return covered(plan, scores, PRIOR)


def _spread(values: Sequence[float], form: str = ".1f") -> str:
    """Mean ± standard deviation; of one value the value."""
    x = torch.tensor(values, dtype=torch.float64)
    return f"{float(x.mean()):{form}}" + (f" ± {float(x.std()):{form.lstrip('+')}}" if len(x) > 1 else "")

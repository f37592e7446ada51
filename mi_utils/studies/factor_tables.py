"""What leaks of a procedural identity, over the runs that a plan's notes name under "leaks"."""

import pandas as pd

from mi_utils.report import figures
from mi_utils.report.figures import Picture
from mi_utils.studies.plan import Plan


def scores(plan: Plan) -> pd.DataFrame:
    """One row per attack, seed, factor and whose images: accuracy, or one minus the share of the guess's error."""
    cells = [
        (*name, factor, who, score, n)
        for name, stage in plan.notes["leaks"].items()
        for factor, who, score, n in stage.result().meta["rows"]
    ]
    return pd.DataFrame(cells, columns=["attack", "setting", "seed", "factor", "whose", "score", "n"])


def means(plan: Plan) -> pd.DataFrame:
    """Means by row, factor and seed: a row per attack, then the baselines, which hardly differ by attack."""
    found = scores(plan)
    own = found["whose"] == "reconstruction"
    row = found["attack"].where(own, found["whose"])
    found = found.assign(row=row, own=own).sort_values("own", ascending=False, kind="stable")
    return found.groupby(["row", "factor", "seed"], sort=False)["score"].mean().reset_index()


def table(plan: Plan) -> pd.DataFrame:
    """A row per factor, a column per attack and baseline, `mean ± std (n)` over seeds."""
    seeds = means(plan).groupby(["factor", "row"], sort=False)["score"].agg(["mean", "std", "count"])
    cells = [
        f"{m:.2f}" + (f" ± {s:.2f}" if n > 1 else "") + f" (n={n})"
        for m, s, n in seeds.itertuples(index=False, name=None)
    ]
    return seeds.assign(cell=cells)["cell"].unstack()[list(dict.fromkeys(means(plan)["row"]))]


def figure(plan: Plan) -> Picture:
    """How well the true factors of an identity are read from reconstructions, beside the baselines."""
    found = means(plan)
    wide = found.pivot_table(index="factor", columns="row", values="score", sort=False).clip(lower=-1)
    label = "accuracy, or 1 − error / error of a guess (at least −1)"
    return figures.heat_map(wide[list(dict.fromkeys(found["row"]))], label=label, low=0, high=1)

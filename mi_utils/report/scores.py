"""The tidy table of scores: one row per attack, setting, seed, class and metric.

Columns: attack, setting (what it was run on), seed, class ("all" = pooled over classes, else the class id as
text), metric, value, n (images behind the value), reason ("" or "not computed: ...", exactly where value is
missing).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from mi_utils.errors import UserError

KEYS = ["attack", "setting", "seed", "class", "metric"]
COLUMNS = [*KEYS, "value", "n", "reason"]
POOLED = "all"
NOT_AVAILABLE = "not available"  # a published number that no source states
NOT_COMPUTED = "not computed: "


def rows(
    attack: str, setting: str, seed: int, values: Mapping[str, float | Mapping[int, float]], n: int
) -> pd.DataFrame:
    """Scores of one run: metric -> pooled value, or metric -> {class id: value}.  `n` images stand behind each."""
    cells = [
        (attack, setting, seed, str(name), metric, float(number), n, "")
        for metric, value in values.items()
        for name, number in (value.items() if isinstance(value, Mapping) else [(POOLED, value)])
    ]
    return check(pd.DataFrame(cells, columns=COLUMNS))


def missing(attack: str, setting: str, seed: int, metrics: Sequence[str], reason: str) -> pd.DataFrame:
    """Cells that could not be computed, with the reason that their table cell will print."""
    text = reason if reason.startswith(NOT_COMPUTED) else NOT_COMPUTED + reason
    cells = [(attack, setting, seed, POOLED, metric, float("nan"), 0, text) for metric in metrics]
    return check(pd.DataFrame(cells, columns=COLUMNS))


def concat(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table of all frames, in their order; a cell that appears twice is an error."""
    if not frames:
        raise UserError("scores: expected at least 1 frame, found 0; score a run first")
    return check(pd.concat(frames, ignore_index=True))


def read(path: Path) -> pd.DataFrame:
    """scores.csv as it was written."""
    if not path.is_file():
        raise UserError(f"{path.name}: expected a scores table, found no such file; run the reproduction first")
    text = dict.fromkeys(["attack", "setting", "class", "metric", "reason"], str)
    empty = {"value": [""]}  # an attack called "NA" stays a name
    return check(pd.read_csv(path, dtype=text, keep_default_na=False, na_values=empty))


def check(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame itself when it is a scores table; a UserError that says what is wrong otherwise."""
    if list(frame.columns) != COLUMNS:
        raise UserError(f"scores: expected columns {COLUMNS}, found {list(frame.columns)}; use scores.rows")
    twice = frame[frame.duplicated(KEYS)]
    if len(twice):
        raise UserError(f"scores: expected each cell once, found {_where(twice)} twice; drop one")
    unexplained = frame[(frame["value"].isna() | frame["value"].abs().eq(float("inf"))) & (frame["reason"] == "")]
    if len(unexplained):
        raise UserError(
            f"scores: expected a value or a reason, found neither at {_where(unexplained)}; use scores.missing"
        )
    return frame


def _where(frame: pd.DataFrame) -> str:
    """The first row's cell in words."""
    return ", ".join(f"{key} {frame.iloc[0][key]}" for key in KEYS)


def matrix(
    frame: pd.DataFrame, attack: str, setting: str, metric: str
) -> tuple[Float[Tensor, "s c"], list[int], list[str]]:
    """Values (seeds, classes) with the seeds and the class names; pooled scores alone give one column "all".

    UserError when a cell is missing: an interval over an incomplete table would compare unlike things.
    """
    part = frame[(frame["attack"] == attack) & (frame["setting"] == setting) & (frame["metric"] == metric)]
    if part.empty:
        raise UserError(f"scores: expected {metric} of {attack} on {setting}, found no such row; score it first")
    by_class = part[part["class"] != POOLED]
    wide = (part if by_class.empty else by_class).pivot(index="seed", columns="class", values="value")
    if wide.isna().any(axis=None):
        seed, name = wide.stack()[lambda v: v.isna()].index[0]
        raise UserError(
            f"scores: {metric} of {attack} on {setting}: expected a value for seed {seed}, class {name}, "
            "found none; score that run again"
        )
    return (
        torch.tensor(wide.to_numpy(), dtype=torch.float64),
        [int(s) for s in wide.index],
        list(wide.columns),
    )


def paired(
    frame: pd.DataFrame, a: tuple[str, str], b: tuple[str, str], metric: str
) -> tuple[Float[Tensor, "s c"], Float[Tensor, "s c"]]:
    """Values of two (attack, setting) pairs over the same seeds and classes, for paired differences."""
    (x, *names_x), (y, *names_y) = matrix(frame, *a, metric), matrix(frame, *b, metric)
    if names_x != names_y:
        raise UserError(
            f"scores: {metric}: expected equal seeds and classes for {a} and {b}, "
            f"found {names_x} and {names_y}; run the missing ones"
        )
    return x, y


def per_seed(frame: pd.DataFrame) -> pd.DataFrame:
    """One value per attack, setting, metric and seed: the pooled one where there is one, else the class mean."""
    keys = ["attack", "setting", "metric", "seed"]
    pooled = frame[frame["class"] == POOLED].set_index(keys)[["value", "reason"]]
    classes = frame[frame["class"] != POOLED].groupby(keys, sort=False)
    means = classes.agg(
        value=("value", lambda v: v.mean(skipna=False)),
        reason=("reason", lambda r: next(filter(None, r), "")),
    )
    return pd.concat([pooled, means[~means.index.isin(pooled.index)]]).reset_index()


def paper_table(
    frame: pd.DataFrame,
    metrics: Sequence[str],
    *,
    formats: Mapping[str, Callable[[float], str]] | None = None,
    published: Mapping[str, Mapping[tuple[str, str], str]] | None = None,
) -> pd.DataFrame:
    """Text cells `mean ± std (n)` over seeds: a row per (setting, attack) in order of appearance, a column
    per metric.

    std is over seeds (n - 1).  A cell without a value holds its reason.  Every metric named in `published`
    gets a column "<metric>, published" whose cells are `published[metric][(setting, attack)]` or "not
    available".
    """
    seeds = per_seed(check(frame))
    table = {}
    for setting, attack in dict.fromkeys(zip(frame["setting"], frame["attack"], strict=True)):
        run = seeds[(seeds["setting"] == setting) & (seeds["attack"] == attack)]
        cells = {}
        for metric in metrics:
            cells[metric] = _cell(run[run["metric"] == metric], (formats or {}).get(metric, "{:.3f}".format))
            if published is not None and metric in published:
                cells[f"{metric}, published"] = published[metric].get((setting, attack), NOT_AVAILABLE)
        table[setting, attack] = cells
    result = pd.DataFrame.from_dict(table, orient="index")
    result.index = pd.MultiIndex.from_tuples(list(table), names=["data", "attack"])
    return result


def percent(value: float) -> str:
    """A share as a percentage with one decimal: .9972 -> 99.7 (the unit belongs into the column's name)."""
    return f"{100 * value:.1f}"


def _cell(values: pd.DataFrame, number: Callable[[float], str]) -> str:
    """`mean ± std (n)` of the seeds that have a value, and the reason where some or all have none."""
    if values.empty:
        return NOT_COMPUTED + "not part of this run"
    found = values["value"].dropna()
    reason = next(filter(None, values["reason"]), "")
    if found.empty:
        return reason
    spread = f" ± {number(found.std(ddof=1))}" if len(found) > 1 else ""
    count = f"n={len(found)}" + (f" of {len(values)}, {reason}" if reason else "")
    return f"{number(found.mean())}{spread} ({count})"

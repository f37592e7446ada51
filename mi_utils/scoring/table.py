"""Rows of the score table: a value with its interval, what it is a mean over, or why there is none."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_utils.metrics import intervals
from mi_utils.metrics.intervals import Interval
from mi_utils.report.scores import NOT_COMPUTED
from mi_utils.runtime import generator as seeded

GROUPS = 10  # reconstructions left out, a group at a time, for the interval of a distance between sets
COLUMNS = ["group", "metric", "value", "low", "high", "unit", "n", "of", "seeds", "what", "reason"]
CLASS_COLUMNS = ["class", "name", "metric", "value", "n", "seeds", "reason"]


@dataclass(frozen=True)
class Row:
    """One number of the table.

    value with its 95 % interval low..high (None where there is none, and `what` or `reason` then says why).  unit:
    "share" in [0, 1], or a word.  n: how many `of` something are behind the value; of reconstructions, those of all
    `seeds`.  what: how value and interval were made.  short: the metric as a narrow screen shows it.
    """

    group: str
    metric: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    n: int = 0
    of: str = ""
    seeds: int = 0
    what: str = ""
    reason: str = ""
    short: str = ""


@dataclass(frozen=True)
class ClassRow:
    """One number of one class: the mean over the seeds that have it."""

    label: int
    metric: str
    value: float | None
    n: int
    seeds: int
    reason: str = ""


def missing(group: str, metric: str, reason: str, short: str = "") -> Row:
    """A row that says why it is empty."""
    return Row(group, metric, reason=NOT_COMPUTED + reason.removeprefix(NOT_COMPUTED), short=short)


def over_images(
    group: str, metric: str, values: Sequence[Tensor], unit: str = "share", what: str = "", short: str = ""
) -> Row:
    """Mean over the reconstructions of all seeds; (n_s,) values a seed."""
    found = intervals.nested_interval([v.double().cpu() for v in values], seeded("score", metric))
    n = sum(map(len, values))
    made = f"mean over reconstructions, bootstrap over {_count(len(values), 'seed')} and images"
    return _row(group, metric, found, unit, n, "images", _said(what, made), short)


def over_private(
    group: str,
    metric: str,
    matrix: Float[Tensor, "s n"],
    unit: str = "share",
    what: str = "",
    short: str = "",
    words: tuple[str, str] = ("private", "seed"),
) -> Row:
    """Mean over private images; one row of `matrix` a seed.  Reconstructions are never drawn again.

    `words`: what images the columns are and what the rows are, where they are others.
    """
    found = intervals.crossed_interval(matrix.double().cpu(), seeded("score", metric))
    made = f"mean over {words[0]} images, bootstrap over {_count(len(matrix), words[1])} and {words[0]} images"
    return _row(group, metric, found, unit, matrix.shape[1], words[0], _said(what, made), short)


def over_classes(group: str, metric: str, values: Sequence[Mapping[int, float]], unit: str, what: str = "") -> Row:
    """Unweighted mean over classes; class id -> value of every seed."""
    drawn = [torch.tensor(list(found.values()), dtype=torch.float64) for found in values]
    found = intervals.nested_interval(drawn, seeded("score", metric))
    classes = len({c for per in values for c in per})
    made = f"unweighted mean over classes, bootstrap over {_count(len(values), 'seed')} and classes"
    return _row(group, metric, found, unit, classes, "classes", _said(what, made))


def between_sets(
    group: str,
    metric: str,
    full: Sequence[float],
    left_out: Sequence[Sequence[float]],
    n: int,
    unit: str,
    what: str = "",
) -> Row:
    """A distance between two sets: one value a seed, and its values without each group of reconstructions.

    Where a set is too small to leave some out, there is no interval and `what` says so.
    """
    if not all(left_out):
        value, said = sum(full) / len(full), "no interval: too few reconstructions to leave some out"
        return Row(group, metric, value, None, None, unit, n, "images", len(full), _said(what, said))
    found = intervals.jackknife_interval(full, left_out, seeded("score", metric))
    made = f"jackknife over {len(left_out[0])} groups of reconstructions and {_count(len(full), 'seed')}"
    return _row(group, metric, found, unit, n, "images", _said(what, made))


def _row(group: str, metric: str, found: Interval, unit: str, n: int, of: str, what: str, short: str = "") -> Row:
    return Row(group, metric, found.point, found.low, found.high, unit, n, of, found.n, what, "", short)


def without_groups(count: int, least: int, metric: str) -> list[Int[Tensor, " k"]]:
    """Rows that stay when each of GROUPS random groups is left out; none where fewer than `least` would stay."""
    groups = min(GROUPS, count)
    if groups < 2 or count - -(-count // groups) < least:
        return []
    order = torch.randperm(count, generator=seeded("score groups", metric, count))
    member = torch.arange(count) % groups
    return [order[member != g].sort().values for g in range(groups)]


def class_means(
    metric: str, values: Sequence[Tensor], labels: Sequence[Tensor], classes: Sequence[int]
) -> list[ClassRow]:
    """Mean of per-image values inside each class, averaged over the seeds that have images of it."""
    rows = []
    for c in classes:
        parts = [v[y == c].double() for v, y in zip(values, labels, strict=True) if bool((y == c).any())]
        mean = sum(float(part.mean()) for part in parts) / len(parts)
        rows.append(ClassRow(c, metric, mean, sum(map(len, parts)), len(parts)))
    return rows


def class_values(
    metric: str,
    values: Sequence[Mapping[int, float]],
    reasons: Mapping[int, str],
    counts: Mapping[int, int],
) -> list[ClassRow]:
    """Values that are computed a class at a time; a class that is in none of the seeds has its reason."""
    rows = []
    for c, n in counts.items():
        found = [per[c] for per in values if c in per]
        mean = sum(found) / len(found) if found else None
        rows.append(ClassRow(c, metric, mean, n, len(found), "" if found else NOT_COMPUTED + reasons[c]))
    return rows


def _said(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _count(n: int, word: str) -> str:
    return f"{n} {word}{'s' * (n != 1)}"


# ---------------------------------------------------------------- text


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """The tidy table; an empty value has its reason."""
    return pd.DataFrame([asdict(row) for row in rows])[COLUMNS]


def class_frame(rows: Sequence[ClassRow], names: Mapping[int, str]) -> pd.DataFrame:
    """The tidy table of classes."""
    cells = [(r.label, names[r.label], r.metric, r.value, r.n, r.seeds, r.reason) for r in rows]
    return pd.DataFrame(cells, columns=CLASS_COLUMNS)


def number(value: float, unit: str) -> str:
    """A share as a percentage with one decimal, anything else with four digits."""
    return f"{100 * value:.1f} %" if unit == "share" else f"{value:.4g}"


def cells(row: Row) -> tuple[str, str, str]:
    """Value, interval and n of a row as text."""
    if row.value is None:
        return "not computed", "", ""
    low_high = "" if row.low is None else f"[{number(row.low, row.unit)}, {number(row.high, row.unit)}]"
    interval = re.sub(r" %(?=,)", "", low_high)  # the unit once
    count = f"{row.n:,} {row.of}" if row.n else ""
    return number(row.value, row.unit), interval, count + (f" / {row.seeds}" if row.seeds > 1 else "")


def markdown(rows: Sequence[Row], notes: Sequence[str]) -> str:
    """The whole table as Markdown, a section a group, with what made every number beside it."""
    parts = []
    for group in dict.fromkeys(row.group for row in rows):
        own = [(row.metric, *cells(row), row.reason or row.what) for row in rows if row.group == group]
        columns = ["metric", "value", "95 % interval", "n / seeds", "what"]
        text = pd.DataFrame(own, columns=columns).map(lambda cell: cell.replace("|", "\\|"))
        parts.append(f"## {group}\n\n{text.to_markdown(index=False, disable_numparse=True)}\n")
    said = "\n".join(f"- {note}" for note in notes)
    return "\n".join([*parts, f"## notes\n\n{said}\n"] if notes else parts)

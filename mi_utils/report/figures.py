"""Figures with one look and one colour per attack.  Each function returns a Figure of its own; pyplot is not
used.

So nothing depends on, or changes, a notebook's plotting state, and nothing stays open.  Saved files hold no
date and no version: the same numbers give the same bytes.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.metrics.intervals import Interval

DPI = 160
STYLE = sns.axes_style("ticks") | {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "font.family": ["DejaVu Sans"],
    "pdf.fonttype": 42,
    "savefig.facecolor": "white",
}
# Where a label may stand, in points from its marker, nearest first.
OFFSETS = [(dx, dy) for r in (5, 12, 20, 30, 42) for dx in (r, -r) for dy in (0.6 * r, -0.6 * r)]
PALETTE = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bb5500", "#117766", "#7755aa")
COLOURS = {
    "private": "#222222",
    "real": "#222222",
    "auxiliary": "#777777",
    "public": "#777777",
    "prior": "#aaaaaa",
    "holdout": "#555555",
    "target": "#222222",
    # the Patch-MI study
    "bmi": "#ccbb44",
    "genmi": "#66ccee",
    "vmi": "#aa3377",
    "patch-mi": "#4477aa",
    "off_patch": "#ee6677",
    # base attacks and losses of the logit study
    "gmi": "#66ccee",
    "kedmi": "#228833",
    "ce": "#bbbbbb",
    "lom": "#ee6677",
    "ma": "#228833",
    "lomma": "#4477aa",
    # latent attacks
    "ppa": "#ccbb44",
    "dmmia": "#4477aa",
    "map ce": "#777777",
    "dmmia, imr alone": "#228833",
    "dmmia, idr alone": "#aa3377",
    "vanilla": "#66ccee",
    "adv": "#ee6677",
    "ngd": "#228833",
    "dual": "#4477aa",
}


class Picture(Figure):
    """A figure that a notebook shows by itself when it is the last value of a cell, always in this style."""

    def draw(self, renderer: RendererBase) -> None:
        """Drawn under the style it was laid out with: ticks and offsets are made only now."""
        with mpl.rc_context(STYLE):
            super().draw(renderer)

    @cached_property
    def png(self) -> bytes:
        """The finished figure as PNG, drawn once for the file and for the notebook: read it last."""
        content = io.BytesIO()
        save(self, content, "png")
        return content.getvalue()

    def _repr_png_(self) -> bytes:
        return self.png


@dataclass(frozen=True)
class Point:
    """One marker of a scatter plot, with bars where a coordinate is an interval."""

    label: str
    attack: str
    x: Interval | float
    y: Interval | float


def colour(attack: str) -> str:
    """Hex colour of an attack, the same in every figure.

    `Patch-MI +aug` or `Patch-MI (w=8)` is a lighter shade of `Patch-MI`.  Unknown names get a palette colour
    that depends on the name alone.
    """
    key = attack.strip().lower()
    base = key.replace("(", "+").replace(" ", "+").partition("+")[0] or key
    plain = COLOURS.get(base, PALETTE[_digest(base) % len(PALETTE)])
    if key == base or key in COLOURS:
        return COLOURS.get(key, plain)
    white = 0.3 + 0.1 * (_digest(key) % 4)
    return to_hex([white + (1 - white) * part for part in to_rgb(plain)])


def save(figure: Figure, target: BinaryIO, suffix: Literal["png", "pdf"]) -> None:
    """Writes the figure without date, software name or version."""
    silent = {"png": ["Software"], "pdf": ["CreationDate", "Creator", "Producer"]}[suffix]
    with mpl.rc_context(STYLE):
        figure.savefig(target, format=suffix, dpi=DPI, metadata=dict.fromkeys(silent))


@contextmanager
def _canvas(width: float, height: float) -> Iterator[tuple[Picture, Axes]]:
    """A figure (inches) with one pair of axes, drawn on under the project's style, its layout settled at the end."""
    with mpl.rc_context(STYLE):
        figure = Picture(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots()
        _settle(figure)


def _settle(figure: Figure) -> None:
    """Fixes the layout, which otherwise moves a little at every drawing: saved and shown pictures are equal."""
    for _ in range(2):  # the second pass knows the tick labels that the first one made
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


def first_of_class(
    images: UInt8[Tensor, "n c h w"], labels: Int[Tensor, " n"], classes: Mapping[int, str], n: int = 10
) -> dict[str, UInt8[Tensor, "_ c h w"]]:
    """Rows of a grid: the first n images of each class in stored order, never selected.  `classes`: id -> row
    label.
    """
    return {label: images[labels == c][:n] for c, label in classes.items()}


def image_grid(
    rows: Mapping[str, UInt8[Tensor, "n c h w"]],
    *,
    columns: Sequence[str] | None = None,
    first: int = 10,
    cell: float = 0.4,
    title: str | None = None,
) -> Picture:
    """Labelled rows of images, grey or colour, the first `first` of each; a short row ends in white.

    All images share one size; `cell` is the printed side of one image in inches.
    """
    sizes = {tuple(x.shape[2:]) for x in rows.values()}
    if not rows or len(sizes) != 1 or any(x.dtype != torch.uint8 or x.ndim != 4 for x in rows.values()):
        raise UserError(
            f"image_grid: expected rows of uint8 (N,C,H,W) of one size, found sizes {sorted(sizes)}; resize"
        )
    count = min(first, max(len(x) for x in rows.values()))
    if count == 0:
        raise UserError("image_grid: expected at least 1 image, found 0 in every row; check the class filter")
    sheet, pitch = _sheet([_rgb(x[:count]) for x in rows.values()], count)
    longest = max(map(len, rows))
    with _canvas(0.5 + 0.075 * longest + cell * count, 0.15 + cell * len(rows) + 0.3 * bool(columns or title)) as (
        figure,
        axes,
    ):
        axes.imshow(sheet, interpolation="none")
        axes.grid(False)
        axes.spines[:].set_visible(False)
        middle = pitch[0] / 2
        axes.set_yticks([middle + i * pitch[0] for i in range(len(rows))], list(rows))
        middle = pitch[1] / 2
        axes.set_xticks([middle + i * pitch[1] for i in range(count)] if columns else [], (columns or [])[:count])
        axes.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
        axes.set_title(title or "")
    return figure


def _rgb(x: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n 3 h w"]:
    """Grey repeated over three channels."""
    return x.cpu().expand(-1, 3, -1, -1)


def _sheet(rows: Sequence[UInt8[Tensor, "n 3 h w"]], count: int) -> tuple[np.ndarray, tuple[float, float]]:
    """One picture (H, W, 3) of all rows with white gaps, magnified so that pixels stay sharp; and its cell
    pitch.
    """
    h, w = rows[0].shape[2:]
    scale = max(1, 64 // max(h, w))
    gap = max(2, scale * h // 16)
    padded = [torch.cat([x, x.new_full((count - len(x), 3, h, w), 255)]) for x in rows]
    large = torch.stack(padded).repeat_interleave(scale, 3).repeat_interleave(scale, 4)  # (rows, count, 3, H, W)
    framed = torch.nn.functional.pad(large, (0, gap, 0, gap), value=255)
    r, c, _, height, width = framed.shape
    sheet = framed.permute(0, 3, 1, 4, 2).reshape(r * height, c * width, 3)
    return sheet[:-gap, :-gap].numpy(), (height, width)


def curves(
    series: Mapping[str, tuple[Float[Tensor, " t"], Float[Tensor, "s t"]]],
    *,
    x_label: str,
    y_label: str,
    references: Mapping[str, float] | None = None,
    log_y: bool = False,
    title: str | None = None,
) -> Picture:
    """Name -> (x (T,), values (S seeds, T)): the mean over seeds, a band from the least to the greatest seed.

    `references`: dashed horizontal lines with their names (an equilibrium, chance, a published value).
    """
    with _canvas(5.2, 3.1) as (figure, axes):
        for name, (x, y) in series.items():
            if y.ndim != 2 or y.shape[1:] != x.shape:
                raise UserError(
                    f"curves: {name}: expected x (T,) and values (seeds, T), "
                    f"found {tuple(x.shape)} and {tuple(y.shape)}"
                )
            axes.plot(x, y.mean(0), color=colour(name), label=f"{name} (n={len(y)})", linewidth=1.6)
            if len(y) > 1:
                axes.fill_between(x, y.amin(0), y.amax(0), color=colour(name), alpha=0.2, linewidth=0)
        styles = ("--", ":", "-.")
        for i, (name, level) in enumerate((references or {}).items()):
            axes.axhline(level, color="#444444", linestyle=styles[i % 3], linewidth=1, label=name)
        axes.set(xlabel=x_label, ylabel=y_label, yscale="log" if log_y else "linear", title=title or "")
        axes.margins(x=0.01)
        _legend_beside(figure, axes)
    return figure


def scatter(
    points: Sequence[Point], *, x_label: str, y_label: str, connect: bool = False, title: str | None = None
) -> Picture:
    """Markers with 95 % bars and their labels; `connect` joins the points of an attack in the order given."""
    if not points:
        raise UserError("scatter: expected at least 1 point, found 0; score a run first")
    with _canvas(5.2, 3.6) as (figure, axes):
        for attack in dict.fromkeys(p.attack for p in points):
            own = [p for p in points if p.attack == attack]
            (x, x_bars), (y, y_bars) = _bars([p.x for p in own]), _bars([p.y for p in own])
            line = "-" if connect else "none"
            axes.errorbar(
                x, y, y_bars, x_bars, fmt="o", linestyle=line, color=colour(attack), label=attack,
                markersize=5, linewidth=1, elinewidth=0.9, capsize=2, alpha=0.9,
            )  # fmt: skip
        axes.set(xlabel=x_label, ylabel=y_label, title=title or "")
        axes.margins(0.12)
        _legend_beside(figure, axes)
        _place_labels(figure, axes, points)
    return figure


def heat_map(
    frame: pd.DataFrame, *, label: str, digits: int = 2, low: float | None = None, high: float | None = None
) -> Picture:
    """Numbers in coloured cells, rows and columns named by the frame; a missing cell is grey with a dash."""
    rows, columns = frame.shape
    numbers = frame.astype(float)
    texts = numbers.map(lambda v: "–" if np.isnan(v) else f"{v:.{digits}f}")
    with _canvas(1.9 + 0.62 * columns, 1.0 + 0.36 * rows) as (figure, axes):
        axes.set_facecolor("#dddddd")
        sns.heatmap(
            numbers, ax=axes, annot=texts, fmt="", cmap="viridis", vmin=low, vmax=high, linewidths=0.8,
            annot_kws={"size": 8}, cbar_kws={"label": label},
        )  # fmt: skip
        for row, column in zip(*np.nonzero(numbers.isna().to_numpy()), strict=True):  # masked cells get no text
            axes.text(column + 0.5, row + 0.5, "–", ha="center", va="center", size=8)
        axes.grid(False)
        axes.tick_params(length=0)
        axes.set(xlabel=frame.columns.name or "", ylabel=frame.index.name or "")
        axes.set_xticks(axes.get_xticks(), axes.get_xticklabels(), rotation=30, ha="right", rotation_mode="anchor")
        axes.set_yticks(axes.get_yticks(), axes.get_yticklabels(), rotation=0)
    return figure


def effect_bars(effects: Mapping[str, Interval], *, label: str, title: str | None = None) -> Picture:
    """Paired effects with 95 % intervals, top to bottom; colour says whether the interval excludes 0."""
    if not effects:
        raise UserError("effect_bars: expected at least 1 effect, found 0; compute a paired difference first")
    points, bars = _bars(list(effects.values()))
    place = np.arange(len(effects))
    kinds = {"above 0": PALETTE[0], "below 0": PALETTE[1], "0 inside": "#aaaaaa"}
    found = [_kind(e) for e in effects.values()]
    with _canvas(6.4, 0.9 + 0.34 * len(effects)) as (figure, axes):
        for kind in (k for k in kinds if k in found):
            own = [i for i, k in enumerate(found) if k == kind]
            axes.barh(place[own], points[own], color=kinds[kind], height=0.62, label=f"95 % interval {kind}")
        axes.errorbar(points, place, xerr=bars, fmt="none", ecolor="#222222", elinewidth=1, capsize=3)
        axes.axvline(0, color="#222222", linewidth=0.8)
        axes.set_yticks(place, [f"{name} (n={e.n})" for name, e in effects.items()])
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.set(xlabel=label, title=title or "")
        _legend_beside(figure, axes)
    return figure


def _kind(effect: Interval) -> str:
    """Where 0 lies."""
    return "above 0" if effect.low > 0 else "below 0" if effect.high < 0 else "0 inside"


def _digest(text: str) -> int:
    """A number that depends on the text alone, on every machine (Python's own hash differs by process)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _middle(value: Interval | float) -> float:
    """Point of an interval, or the number itself."""
    return value.point if isinstance(value, Interval) else float(value)


def _ends(value: Interval | float) -> tuple[float, float]:
    """Lower and upper end of an interval, or the number twice."""
    return (value.low, value.high) if isinstance(value, Interval) else (float(value), float(value))


def _bars(values: Sequence[Interval | float]) -> tuple[np.ndarray, np.ndarray]:
    """Points (n,) and the reach of their bars below and above (2, n); a percentile interval may miss its point."""
    points = np.array([_middle(v) for v in values])
    ends = np.array([_ends(v) for v in values]).T
    return points, np.maximum([points - ends[0], ends[1] - points], 0)


def _legend_beside(figure: Figure, axes: Axes) -> None:
    """A legend outside the axes, where it cannot cover data."""
    handles, names = axes.get_legend_handles_labels()
    if len(names) > 1:
        figure.legend(handles, names, loc="outside right upper")


def _place_labels(figure: Figure, axes: Axes, points: Sequence[Point]) -> None:
    """Writes each label at the nearest offset that covers least."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    _settle(figure)
    frame, marks = axes.get_window_extent(), [box for p in points for box in _cross(axes, p)]
    written: list[Bbox] = []
    for point in points:
        note = _note(axes, point)
        boxes = [_moved(note, offset).get_tightbbox(renderer) for offset in OFFSETS]
        costs = [_cost(box, frame, written, marks) for box in boxes]
        best = costs.index(min(costs))
        _moved(note, OFFSETS[best])
        written.append(boxes[best])
        if abs(OFFSETS[best][0]) > 10:
            thin = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
            axes.annotate("", note.xy, OFFSETS[best], textcoords="offset points", arrowprops=thin)


def _cost(box: Bbox, frame: Bbox, written: Sequence[Bbox], marks: Sequence[Bbox]) -> int:
    """How bad a place for a label is: other labels and the edge weigh most, then markers and bars."""
    outside = box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1
    return 100 * (outside + box.count_overlaps(written)) + box.count_overlaps(marks)


def _cross(axes: Axes, point: Point) -> list[Bbox]:
    """What a point covers on the canvas, in pixels: its marker and its two bars."""
    x, y = _middle(point.x), _middle(point.y)
    (low_x, high_x), (low_y, high_y) = _ends(point.x), _ends(point.y)
    ends = [(low_x, y), (high_x, y), (x, low_y), (x, high_y)]
    left, right, bottom, top = axes.transData.transform(ends)
    return [
        Bbox([[left[0] - 6, left[1] - 3], [right[0] + 6, right[1] + 3]]),
        Bbox([[bottom[0] - 3, bottom[1] - 6], [top[0] + 3, top[1] + 6]]),
    ]


def _note(axes: Axes, point: Point) -> Annotation:
    """The point's label, yet to be moved to its place."""
    centre = (_middle(point.x), _middle(point.y))
    return axes.annotate(point.label, centre, OFFSETS[0], textcoords="offset points", size=7)


def _moved(note: Annotation, offset: tuple[float, float]) -> Annotation:
    """The label at `offset` points from its marker, growing away from it."""
    note.set_position(offset)
    note.set_ha("left" if offset[0] > 0 else "right")
    note.set_va("bottom" if offset[1] > 0 else "top")
    return note

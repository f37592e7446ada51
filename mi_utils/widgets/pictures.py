"""Figures that only views show."""

from collections.abc import Mapping

from torch import Tensor

from mi_utils.report.figures import Picture, colour
from mi_utils.report.panels import panels


def marked_curves(curves: Mapping[str, tuple[Tensor, Tensor]], at: float, x_label: str, y_label: str) -> Picture:
    """Name -> (x (T,), values (T,)), with a vertical line at `at`."""
    with panels([""], 5.0, 2.2) as (figure, (axis,)):
        for name, (x, y) in curves.items():
            axis.plot(x, y, color=colour(name), marker="o", markersize=3, linewidth=1.4, label=name)
        axis.axvline(at, color="#222222", linewidth=1)
        axis.set(xlabel=x_label, ylabel=y_label)
    return figure

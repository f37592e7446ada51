"""Panels side by side, in the project's style."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib as mpl
from matplotlib.axes import Axes

from mi_utils.report.figures import STYLE, Picture


@contextmanager
def panels(titles: Sequence[str], width: float, height: float, legend: int = 0) -> Iterator[tuple[Picture, list[Axes]]]:
    """A figure of panels side by side (inches each), its layout settled at the end; one panel's legend beside."""
    with mpl.rc_context(STYLE):
        figure = Picture(figsize=(width * len(titles) + 1.2, height), layout="constrained")
        axes = list(figure.subplots(1, len(titles), squeeze=False)[0])
        for axis, title in zip(axes, titles, strict=True):
            axis.set_title(title)
        yield figure, axes
        figure.legend(*axes[legend].get_legend_handles_labels(), loc="outside right upper")
        for _ in range(2):  # the second pass knows the sizes that the first one made
            figure.draw_without_rendering()
        figure.set_layout_engine("none")

"""Figures that only this study draws: feature maps, overfitting curves, sweeps."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from mi_utils.metrics.intervals import Interval
from mi_utils.report.figures import PALETTE, Picture, colour
from mi_utils.report.panels import panels

MARKS = {"private": ("o", 9, 0.25), "CE": ("X", 34, 0.9), "+LOM": ("^", 34, 0.9)}  # marker, size, opacity


@dataclass(frozen=True)
class Curves:
    """Accuracy along an attack: steps (F,), of the target and of the mean evaluator (seeds, F)."""

    steps: Int[Tensor, " f"]
    target: Float[Tensor, "s f"]
    evaluators: Float[Tensor, "s f"]


def feature_map(
    clouds: Mapping[str, tuple[Float[Tensor, "n 2"], Int[Tensor, " n"]]],
    names: Mapping[int, str],
    public: Float[Tensor, " 2"],
    title: str,
) -> Picture:
    """Plane of features: marker by kind ("private", "CE", "+LOM"), colour by class; the public mean is a black star."""
    with panels([title], 4.2, 3.9) as (figure, (axes,)):
        for kind, (points, labels) in clouds.items():
            marker, size, opacity = MARKS[kind]
            for place, c in enumerate(names):
                own = points[labels == c]
                axes.scatter(*own.T, s=size, marker=marker, color=PALETTE[place], alpha=opacity, linewidths=0)
            axes.scatter([], [], s=30, marker=marker, color="#666666", label=kind)
        axes.scatter(*public[:, None], s=90, marker="*", color="#000000", label="public mean $\\mu$", zorder=5)
        for place, name in enumerate(names.values()):
            axes.scatter([], [], s=30, marker="s", color=PALETTE[place], label=name)
        axes.set(xlabel="1st principal component", ylabel="2nd principal component")
    return figure


def overfitting(found: Mapping[str, Mapping[str, Curves]], title: str) -> Picture:
    """Panel -> variant -> means over seeds: the target's accuracy solid, the evaluators' dashed, the gap shaded."""
    with panels([f"{title}: {name}" for name in found], 2.7, 2.8) as (figure, axes):
        for axis, variants in zip(axes, found.values(), strict=True):
            for name, curves in variants.items():
                high, low = (100 * y.mean(0) for y in (curves.target, curves.evaluators))
                n = f"(n={len(curves.target)})"
                axis.plot(curves.steps, high, color=colour(name), label=f"{name}, target {n}")
                axis.plot(curves.steps, low, color=colour(name), linestyle="--", label=f"{name}, evaluators {n}")
                axis.fill_between(curves.steps, low, high, color=colour(name), alpha=0.15, linewidth=0)
            axis.set(xlabel="iteration", ylim=(0, 102))
        axes[0].set_ylabel("accuracy (%)")
    return figure


def sweep(found: Mapping[str, Mapping[str, Mapping[str, Interval]]], y_label: str) -> Picture:
    """Panel -> variant -> value of the option -> accuracy: points with 95 % bars, options evenly spaced."""
    with panels(list(found), 2.9, 2.8) as (figure, axes):
        shown: set[str] = set()
        for axis, variants in zip(axes, found.values(), strict=True):
            for name, points in variants.items():
                middle = [p.point for p in points.values()]
                below = [max(p.point - p.low, 0) for p in points.values()]
                above = [max(p.high - p.point, 0) for p in points.values()]
                place = range(len(points))
                axis.errorbar(place, middle, (below, above), fmt="o-", color=colour(name), capsize=3, markersize=4)
                if name not in shown:  # one legend for all panels
                    axes[0].plot([], [], "o-", color=colour(name), label=name)
                shown.add(name)
                # Points of one panel may rest on unlike numbers of seeds.
                axis.set_xticks(place, [f"{option}\n(n={p.n})" for option, p in points.items()])
        axes[0].set_ylabel(y_label)
    return figure

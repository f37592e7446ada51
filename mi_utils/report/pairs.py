"""Private images beside the reconstruction nearest to them: the most and the least exposed."""

from collections.abc import Sequence

import matplotlib as mpl
from jaxtyping import Int, UInt8
from matplotlib.figure import SubFigure
from torch import Tensor

from mi_utils.metrics.ddcs import Exposed
from mi_utils.report.figures import STYLE, Picture

PAIRS = 10  # columns


def nearest_pairs(
    private: UInt8[Tensor, "n c h w"],
    reconstructions: UInt8[Tensor, "m c h w"],
    labels: Int[Tensor, " m"],
    ranked: Sequence[Exposed],
    names: dict[int, str],
    distance: str,
) -> Picture:
    """Two blocks of two rows: private images over their nearest reconstruction, each with its class.

    `ranked`: the most exposed first; `distance` names the distance.  Never selected otherwise.
    """
    pairs = [entry for entry in ranked if entry.reconstruction >= 0]
    count = min(PAIRS, len(pairs))
    blocks = {"most exposed": pairs[:count], "least exposed": pairs[::-1][:count]}
    with mpl.rc_context(STYLE):
        figure = Picture(figsize=(0.9 + 0.7 * count, 4.4), layout="constrained")
        figure.suptitle(f"private images and their nearest reconstructions, {distance}", size=8)
        for part, (title, entries) in zip(figure.subfigures(2, 1), blocks.items(), strict=True):
            said = [names[int(labels[entry.reconstruction])] for entry in entries]
            _block(part, title, entries, private, reconstructions, [names[e.label] for e in entries], said)
        for _ in range(2):  # the second pass knows the sizes that the first one made
            figure.draw_without_rendering()
        figure.set_layout_engine("none")
    return figure


def _block(
    part: SubFigure,
    title: str,
    entries: Sequence[Exposed],
    private: Tensor,
    fakes: Tensor,
    above_names: Sequence[str],
    below_names: Sequence[str],
) -> None:
    """One block: a column an image."""
    axes = part.subplots(2, len(entries), squeeze=False)
    for column, entry in enumerate(entries):
        above, below = axes[:, column]
        for axis, image in ((above, private[entry.private]), (below, fakes[entry.reconstruction])):
            axis.imshow(_shown(image), interpolation="none", vmin=0, vmax=255)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            axis.grid(False)
        above.set_title(above_names[column][:10], size=7, pad=2)
        below.set_xlabel(f"{below_names[column][:10]}\nd = {entry.distance:.3g}", size=7, labelpad=2)
    axes[0, 0].set_ylabel("private", size=7)
    axes[1, 0].set_ylabel("nearest", size=7)
    part.suptitle(title, size=8)


def _shown(image: UInt8[Tensor, "c h w"]) -> UInt8[Tensor, "h w 3"]:
    """As matplotlib wants it, grey repeated."""
    return image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()

r"""Private images by vulnerability $s_i=\mathrm{mean}_{seeds}\,\mu_i\,g(d_i)$.

Source: specification of DDCS, sections 2.2 and 8 (OQ4).  It is the matched score of `metrics.ddcs`: whether an image
is matched depends on all other private images of the set.
"""

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import UInt8
from torch import Tensor

from mi_utils.scoring import exposed
from mi_utils.scoring.context import Context
from mi_utils.scoring.perception import Exposure


@dataclass(frozen=True)
class Pair:
    """A private image (C, H, W) and the reconstruction nearest to it, both as they were compared."""

    private: UInt8[Tensor, "c h w"]
    best: UInt8[Tensor, "c h w"]


def ranked(found: Exposure) -> Exposure:
    """Greater vulnerability first; of equal ones the smaller distance, then the earlier row."""
    order = sorted(found.ranked, key=lambda entry: (-entry.score, entry.distance, entry.private))
    return Exposure(order, found.matched_in)


def listing(context: Context, found: Exposure) -> pd.DataFrame:
    """One row a private image in the order of `found`: the columns of `score`'s exposed.csv, and two more.

    vulnerability: s_i, in [0, 1].  matched_in: seeds that match it.  distance: the least d_i of all seeds, that of
    row `reconstruction` of seed place `seed`, whose class is `reconstruction_class`.
    """
    table = exposed.frame(context, found).rename(columns={"score": "vulnerability"})
    labels = torch.cat(context.sets.labels)
    classes = [int(labels[entry.reconstruction]) for entry in found.ranked]
    table.insert(table.columns.get_loc("reconstruction") + 1, "reconstruction_class", classes)
    names = [context.sets.classes[c] for c in classes]
    table.insert(table.columns.get_loc("reconstruction_class") + 1, "reconstruction_name", names)
    return table


def pairs(context: Context, found: Exposure, count: int) -> tuple[Pair, ...]:
    """The first `count` private images beside their best reconstructions."""
    fakes = torch.cat([seed.images for seed in context.sets.seeds])
    real = context.sets.private.images
    return tuple(Pair(real[entry.private], fakes[entry.reconstruction]) for entry in found.ranked[:count])

"""The list of private images by how exposed they are, and its picture."""

import pandas as pd
import torch

from mi_utils.report.figures import Picture
from mi_utils.report.pairs import nearest_pairs
from mi_utils.scoring.context import Context
from mi_utils.scoring.perception import Exposure


def frame(context: Context, found: Exposure) -> pd.DataFrame:
    """One row a private image, the most exposed first.

    private: its row in what was given; matched_in: seeds in which it is matched; distance: least over the seeds, to
    row `reconstruction` of seed place `seed`; score: mean over the seeds.  Files are named where there are any.
    """
    private, seeds = context.sets.private, context.sets.seeds
    ends = torch.tensor([len(seed) for seed in seeds]).cumsum(0)
    rows = []
    for rank, entry in enumerate(found.ranked, 1):
        place = int(torch.searchsorted(ends, entry.reconstruction, right=True)) if entry.reconstruction >= 0 else None
        row = None if place is None else entry.reconstruction - int(ends[place]) + len(seeds[place])
        rows.append(
            {
                "rank": rank,
                "private": int(context.sets.rows[entry.private]),
                "file": private.files[entry.private] if private.files else "",
                "class": entry.label,
                "name": context.sets.classes[entry.label],
                "matched_in": int(found.matched_in[entry.private]),
                "distance": entry.distance,
                "score": entry.score,
                "seed": place,
                "reconstruction": row,
                "reconstruction_file": seeds[place].files[row] if row is not None and seeds[place].files else "",
            }
        )
    return pd.DataFrame(rows).astype({"seed": "Int64", "reconstruction": "Int64"})


def picture(context: Context, found: Exposure) -> Picture:
    """The most and the least exposed private images beside the reconstructions nearest to them."""
    fakes = torch.cat([seed.images for seed in context.sets.seeds])
    labels = torch.cat(context.sets.labels)
    title = f"{context.net.name} distance d"
    return nearest_pairs(context.sets.private.images, fakes, labels, found.ranked, context.sets.classes, title)

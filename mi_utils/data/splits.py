"""Fixed random subsets: the same on every machine, drawn from named streams."""

import torch
from jaxtyping import Int
from torch import Tensor

from mi_utils import runtime
from mi_utils.errors import UserError


def shuffled(count: int, *words: int | str) -> Int[Tensor, " n"]:
    """A permutation of 0..count-1 drawn from the stream that `words` name."""
    return torch.randperm(count, generator=runtime.generator("shuffled", *words))


def stratified(labels: Int[Tensor, " n"], test: int, *words: int | str) -> tuple[Int[Tensor, " a"], Int[Tensor, " b"]]:
    """Ascending indices (train, test) with exactly `test` images held out, each class in proportion.

    Whole shares are rounded down, and what is left goes to the classes with the largest remainders.
    """
    if not 0 < test < len(labels):
        raise UserError(f"test: expected between 1 and {len(labels) - 1} held-out images, found {test}")
    counts = torch.bincount(labels)
    share = counts.double() * test / len(labels)
    take = share.floor().long()
    remainder = torch.argsort(share - take, descending=True, stable=True)
    take[remainder[: test - int(take.sum())]] += 1
    order = shuffled(len(labels), *words)
    # Rank of every image within its class, in the shuffled order.
    by_class = order[torch.argsort(labels[order], stable=True)]
    start = torch.cumsum(counts, 0) - counts
    rank = torch.empty_like(by_class)
    rank[by_class] = torch.arange(len(labels)) - start[labels[by_class]]
    held_out = rank < take[labels]
    return torch.nonzero(~held_out).flatten(), torch.nonzero(held_out).flatten()

"""Nearest neighbours between two image sets in any embedding, as matrix products over tiles."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.metrics import checks

Embed = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Nearest:
    """Who is nearest to whom, with *squared* Euclidean distances of the embedding (LPIPS's own value).

    real_of_fake (M,) int64 and its distance q_fake (M,); fake_of_real (N,) int64 and q_real (N,).  A real
    image that no fake may match (label scope) has q_real = inf and fake_of_real = -1.
    """

    real_of_fake: Int[Tensor, " m"]
    q_fake: Float[Tensor, " m"]
    fake_of_real: Int[Tensor, " n"]
    q_real: Float[Tensor, " n"]


def squared_distances(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """|a|^2 + |b|^2 - 2ab, clamped at 0 (equal rows come out at about +-5e-7 in float32)."""
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp_(min=0)


def flat(x: Tensor) -> Float[Tensor, "n d"]:
    """The trivial embedding: features or pixels as float64 rows."""
    return x.flatten(1).double()


@torch.no_grad()
def nearest(
    fake: Tensor,
    real: Tensor,
    embed: Embed = flat,
    *,
    fake_labels: Int[Tensor, " m"] | None = None,
    real_labels: Int[Tensor, " n"] | None = None,
    batch: int = 128,
    hold: int = 2048,
) -> Nearest:
    """Both directions of nearest neighbours; ties go to the lowest index.

    `hold` embedded reals stay in memory while fakes stream past in batches; fakes are embedded once per block
    of `hold` reals.  Labels, when given, admit only pairs of equal label.  Neither size changes the result
    beyond rounding.
    """
    _check(fake, real, fake_labels, real_labels)
    centre = embed(real[:batch]).mean(0)  # a common shift leaves distances alone and shrinks the norms' rounding
    running = _Running(len(fake), len(real), centre)
    for start in range(0, len(real), hold):
        held = torch.cat([embed(x) for x in real[start : start + hold].split(batch)]) - centre
        checks.finite("embedded real images", held)
        for first, x in zip(range(0, len(fake), batch), fake.split(batch), strict=True):
            moved = embed(x) - centre
            checks.finite("embedded fakes", moved)
            q = squared_distances(moved, held)
            if fake_labels is not None and real_labels is not None:
                other = fake_labels[first : first + batch, None] != real_labels[start : start + hold]
                q.masked_fill_(other.to(q.device), torch.inf)
            running.update(q, first, start)
    return running.result()


class _Running:
    """Running minima of both directions over tiles of the distance matrix."""

    def __init__(self, fakes: int, reals: int, like: Tensor) -> None:
        self.q_fake, self.q_real = (like.new_full((n,), torch.inf) for n in (fakes, reals))
        self.real_of_fake, self.fake_of_real = (
            torch.full((n,), -1, dtype=torch.int64, device=like.device) for n in (fakes, reals)
        )

    def update(self, q: Float[Tensor, "b t"], first: int, start: int) -> None:
        """Takes the tile whose corner is fake `first`, real `start`.  Strict `<` keeps the earlier index on a
        tie.
        """
        fakes, reals = slice(first, first + q.shape[0]), slice(start, start + q.shape[1])
        _keep_smaller(self.q_fake[fakes], self.real_of_fake[fakes], q, start)
        _keep_smaller(self.q_real[reals], self.fake_of_real[reals], q.T, first)

    def result(self) -> Nearest:
        """The minima, on the CPU."""
        fields = (self.real_of_fake, self.q_fake, self.fake_of_real, self.q_real)
        return Nearest(*(x.cpu() for x in fields))


def _keep_smaller(best: Tensor, index: Tensor, q: Float[Tensor, "r c"], offset: int) -> None:
    """Lowers `best` (r,) and its `index` (r,), views written in place, by the row minima of `q`."""
    column = q.argmin(1)
    value = q.gather(1, column[:, None]).squeeze(1)
    lower = value < best
    best[lower], index[lower] = value[lower], column[lower] + offset


def _check(fake: Tensor, real: Tensor, fake_labels: Tensor | None, real_labels: Tensor | None) -> None:
    """Sets that can be compared: none empty, one shape, labels for both or neither and shared."""
    for name, x in (("fake", fake), ("real", real)):
        if x.ndim < 2 or len(x) == 0:
            raise UserError(
                f"{name}: expected at least 1 image or feature row, found shape {tuple(x.shape)}; pass more"
            )
    if fake.shape[1:] != real.shape[1:]:
        raise UserError(
            f"fake and real: expected one shape, found {tuple(fake.shape[1:])} and "
            f"{tuple(real.shape[1:])}; resize first"
        )
    if (fake_labels is None) != (real_labels is None):
        raise UserError("fake_labels and real_labels: expected both or neither, found one; pass the other")
    if fake_labels is not None and real_labels is not None:
        checks.labels("fake_labels", fake_labels, len(fake))
        checks.labels("real_labels", real_labels, len(real))
        strangers = sorted(set(fake_labels.tolist()) - set(real_labels.tolist()))
        if strangers:
            raise UserError(f"fake_labels: expected classes of the real set, found {strangers}; drop those fakes")

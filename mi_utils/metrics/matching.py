"""Nearest neighbours between two image sets in any embedding, over tiles that keep to a memory budget.

The winners of every tile come from one matrix product (`screening`); only close pairs and those that a coarse
product cannot tell apart are computed again as differences, so equal rows are exactly 0 apart.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.metrics import checks
from mi_utils.metrics.screening import FULL, Precision, Rows, Screen, pairs, precision

Embed = Callable[[Tensor], Tensor]

BUDGET = 2 * 10**9  # bytes that `nearest` may hold on a CPU unless told otherwise
IMAGES = 16  # embedded at a time, at most: a network's activations stay small beside the rows held


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

    def swapped(self) -> "Nearest":
        """The same with fakes and reals in each other's place."""
        return Nearest(self.fake_of_real, self.q_real, self.real_of_fake, self.q_fake)


def squared_distances(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """|a|^2 + |b|^2 - 2ab, clamped at 0 (equal rows come out at about +-5e-7 in float32)."""
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp_(min=0)


def flat(x: Tensor) -> Float[Tensor, "n d"]:
    """The trivial embedding: features or pixels as float64 rows."""
    return x.flatten(1).double()


def as_is(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """For rows that are embedded already."""
    return x


@torch.no_grad()
def nearest(
    fake: Tensor,
    real: Tensor,
    embed: Embed = flat,
    *,
    fake_labels: Int[Tensor, " m"] | None = None,
    real_labels: Int[Tensor, " n"] | None = None,
    budget: int | None = None,
    screen: Screen = "auto",
) -> Nearest:
    """Both directions of nearest neighbours; ties go to the lowest index.

    Labels, when given, admit only pairs of equal label.  `budget`: bytes that embeddings and tiles may take,
    by default 2 GB on a CPU and half of what is free on a GPU; a smaller one embeds one side more often.
    `screen`: precision of the matrix product, `full` being the embedding's own; auto: full on a CPU, bf16
    on a GPU for float32 rows.  None of them changes the result.
    """
    _check(fake, real, fake_labels, real_labels)
    if fake_labels is None or real_labels is None:
        return _nearest(fake, real, embed, budget, screen)
    parts = {int(c): (fake_labels == c, real_labels == c) for c in fake_labels.unique()}
    found = {c: _nearest(fake[f], real[r], embed, budget, screen) for c, (f, r) in parts.items()}
    like = next(iter(found.values()))
    merged = _unmatched(len(fake), len(real), like.q_fake.dtype)
    for c, near in found.items():
        fakes, reals = (mask.nonzero().squeeze(1).cpu() for mask in parts[c])
        merged.q_fake[fakes], merged.q_real[reals] = near.q_fake, near.q_real
        merged.real_of_fake[fakes], merged.fake_of_real[reals] = reals[near.real_of_fake], fakes[near.fake_of_real]
    return merged


def knn_distance(near: Nearest) -> Float[Tensor, " m"]:
    """Squared distance of every reconstruction to its nearest private image (of its class, in label scope).

    The field's KNN distance is its mean.  It is blind to coverage: M copies of one image may score best.
    Source: the metric code of Plug & Play Attacks (Struppek et al. 2022).
    """
    return near.q_fake


def centroid_distance(
    fake: Float[Tensor, "m d"], fake_labels: Int[Tensor, " m"], real: Float[Tensor, "n d"], real_labels: Tensor
) -> Float[Tensor, " m"]:
    """Euclidean distance of every reconstruction to the mean private feature of its class: "feature distance".

    Source: GMI (Zhang et al. 2020), section 4.2.
    """
    _check(fake, real, fake_labels, real_labels)
    fake, real = checks.pair("fake features", fake, "real features", real)
    classes, member = real_labels.unique(return_inverse=True)
    total = real.new_zeros(len(classes), real.shape[1]).index_add_(0, member, real)
    means = total / member.bincount(minlength=len(classes))[:, None]
    return (fake - means[torch.searchsorted(classes, fake_labels)]).norm(dim=1)


@torch.no_grad()
def kth_nearest(x: Tensor, k: int, embed: Embed = flat, *, budget: int | None = None) -> Float[Tensor, " n"]:
    """Squared distance of every image to its k-th nearest *other* image of the set.  UserError for N <= k."""
    _check(x, x, None, None)
    if not 1 <= k < len(x):
        raise UserError(f"k: expected 1 <= k < {len(x)} (the number of images), found {k}; pass more images")
    space = _space(x, embed, budget)
    plan = tiles(len(x), len(x), space.row, space.budget)
    kept_rows, moving_rows = space.empty(plan.held), space.empty(plan.streamed)
    found = []
    for start in range(0, len(x), plan.held):
        kept = FULL.rows(space.rows(("real", x), slice(start, start + plan.held), kept_rows))
        least = space.centre.new_full((len(kept.norms), k), torch.inf)
        for first in range(0, len(x), plan.streamed):
            part = slice(first, first + plan.streamed)
            q = FULL.product(kept, FULL.rows(space.rows(("real", x), part, moving_rows)))
            own, other = (torch.arange(n, device=q.device) for n in q.shape)
            q[own[:, None] + start == other + first] = torch.inf  # itself
            least = torch.cat([least, q], 1).topk(k, largest=False).values
        found.append(least.amax(1).clamp_(min=0))
    return torch.cat(found).cpu()


@torch.no_grad()
def half_distance(x: Tensor, generator: torch.Generator, embed: Embed = flat, *, budget: int | None = None) -> float:
    """Median squared distance from one random half of a set to the nearest image of the other half."""
    if len(x) < 2:
        raise UserError(f"private images: expected at least 2 to halve them, found {len(x)}; pass more")
    order = torch.randperm(len(x), generator=generator).to(x.device)
    near = nearest(x[order[: len(x) // 2]], x[order[len(x) // 2 :]], embed, budget=budget)
    return float(near.q_fake.median())


# ---------------------------------------------------------------- tiles


@dataclass(frozen=True)
class Tiles:
    """Rows of the held side and of the streamed side that are in memory together."""

    held: int
    streamed: int


def at_once(row: float, budget: int) -> int:
    """Images to embed in one pass: what a network needs for them is counted as eight times their embeddings."""
    return max(1, min(IMAGES, int(budget / 64 / row)))


def tiles(held: int, streamed: int, row: float, budget: int) -> Tiles:
    """The fewest blocks of held rows within `budget` bytes; `row`: bytes that one embedding takes.

    A sixteenth of the budget is left for the rows that are compared again; a distance of a tile counts as 16
    bytes with its temporaries.  UserError where not even a few rows fit.
    """
    few = at_once(row, budget)
    free = budget * 15 // 16 - 8 * few * row
    stream = min(streamed, 512, max(few, int(min(free / 8 / row, (max(free, 0) / 64) ** 0.5))))
    most = int((free - stream * row) / (row + 16 * stream))
    if most < min(held, few):
        least = (10 * row + 16) * 16 / 15 / 2**20
        raise UserError(f"budget: expected at least {least:.1f} MiB for these images, found {budget / 2**20:.1f} MiB")
    return Tiles(-(-held // -(-held // most)), stream)


@dataclass(frozen=True)
class _Space:
    """How images become rows: the embedding, less a common centre, within a budget in bytes.

    A common shift leaves distances alone and shrinks the norms, hence the rounding.
    """

    embed: Embed
    centre: Float[Tensor, " d"]
    budget: int

    @property
    def row(self) -> int:
        """Bytes of one embedding."""
        return len(self.centre) * self.centre.element_size()

    def empty(self, count: int) -> Float[Tensor, "n d"]:
        """Room for rows."""
        return self.centre.new_empty(count, len(self.centre))

    def rows(self, images: tuple[str, Tensor], which: slice, room: Float[Tensor, "m d"]) -> Float[Tensor, "n d"]:
        """Embeddings of some of the named images, written into the first rows of `room`."""
        name, x = images[0], images[1][which]
        out, step = room[: len(x)], at_once(self.row, self.budget)
        for first in range(0, len(x), step):
            torch.sub(self.embed(x[first : first + step]), self.centre, out=out[first : first + step])
        checks.finite(f"embedded {name} images", out.sum(1))  # NaN or infinite as soon as one entry is
        return out


def _space(x: Tensor, embed: Embed, budget: int | None) -> _Space:
    """The space of an embedding, centred at the mean of the first IMAGES images."""
    first = embed(x[:1])
    if budget is None:
        budget = torch.cuda.mem_get_info(first.device)[0] // 2 if first.device.type == "cuda" else BUDGET
    few = at_once(first.shape[1] * first.element_size(), budget)
    total = sum(embed(part).sum(0) for part in x[:IMAGES].split(few))
    return _Space(embed, total / min(len(x), IMAGES), budget)


def _nearest(fake: Tensor, real: Tensor, embed: Embed, budget: int | None, screen: Screen) -> Nearest:
    """`nearest` without labels: holds whichever side leads to fewer embeddings in all."""
    space = _space(real, embed, budget)
    chosen = precision(screen, space.centre[None])
    sides = ("real", real), ("fake", fake)
    plans, embeddings = [], []
    for (_, held), (_, streamed) in (sides, sides[::-1]):
        plans.append(tiles(len(held), len(streamed), space.row * chosen.copies, space.budget))
        embeddings.append(len(held) + -(-len(held) // plans[-1].held) * len(streamed))
    if embeddings[0] <= embeddings[1]:
        return _swept(*sides, space, plans[0], chosen)
    return _swept(*sides[::-1], space, plans[1], chosen).swapped()


def _swept(
    held: tuple[str, Tensor], streamed: tuple[str, Tensor], space: _Space, plan: Tiles, chosen: Precision
) -> Nearest:
    """Every tile once; the streamed side counts as fakes."""
    running = _Running(len(streamed[1]), len(held[1]), space.centre)
    kept_rows, moving_rows = space.empty(plan.held), space.empty(plan.streamed)
    for start in range(0, len(held[1]), plan.held):
        kept = chosen.rows(space.rows(held, slice(start, start + plan.held), kept_rows))
        for first in range(0, len(streamed[1]), plan.streamed):
            moving = chosen.rows(space.rows(streamed, slice(first, first + plan.streamed), moving_rows))
            running.update(moving, kept, first, start, chosen)
    return running.result()


class _Running:
    """Running minima of both directions over tiles of the distance matrix."""

    def __init__(self, streamed: int, held: int, like: Tensor) -> None:
        self.best = _unmatched(streamed, held, like.dtype, like.device)

    def update(self, a: Rows, b: Rows, first: int, start: int, chosen: Precision) -> None:
        """Takes the tile whose corner is streamed row `first`, held row `start`."""
        rows, columns = slice(first, first + len(a.norms)), slice(start, start + len(b.norms))
        bounds = self.best.q_fake[rows], self.best.q_real[columns]
        i, j, q = pairs(a, b, chosen, *bounds)
        _keep_smaller(bounds[0], self.best.real_of_fake[rows], i, j + start, q)
        _keep_smaller(bounds[1], self.best.fake_of_real[columns], j, i + first, q)

    def result(self) -> Nearest:
        """The minima, on the CPU."""
        best = self.best
        return Nearest(*(x.cpu() for x in (best.real_of_fake, best.q_fake, best.fake_of_real, best.q_real)))


def _keep_smaller(best: Tensor, index: Tensor, row: Int[Tensor, " p"], other: Int[Tensor, " p"], q: Tensor) -> None:
    """Lowers `best` (r,) and its `index` (r,), views written in place, by the pairs (row, other) at distance q.

    Strictly lower only, and the lowest `other` among equals: earlier tiles hold lower indices.
    """
    least = torch.full_like(best, torch.inf).scatter_reduce_(0, row, q, "amin")
    at_least = q == least[row]
    lowest = torch.full_like(index, torch.iinfo(index.dtype).max)
    lowest.scatter_reduce_(0, row[at_least], other[at_least], "amin")
    lower = least < best
    best[lower], index[lower] = least[lower], lowest[lower]


def _unmatched(fakes: int, reals: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Nearest:
    """Nobody is near anybody yet."""
    q = [torch.full((n,), torch.inf, dtype=dtype, device=device) for n in (fakes, reals)]
    index = [torch.full((n,), -1, dtype=torch.int64, device=device) for n in (fakes, reals)]
    return Nearest(index[0], q[0], index[1], q[1])


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

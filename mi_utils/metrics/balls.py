r"""Which rows lie in which k-nearest-neighbour balls: exact decisions, nearly all of them from one float32 product.

What decides is $q_{ij}=\sum_l(a_{il}-b_{jl})^2$ in float64.  (The matrix product alone would not do: for repeated
rows it returns about 1e-8 where the truth is 0, and a strict `<` turns that into a wrong answer.)  It is computed
only for pairs that a certified lower bound leaves open.  For rows that are centred and scaled below 1, with
$n_i=\lVert a_i\rVert^2$, $m_j=\lVert b_j\rVert^2$ and float32 copies $\hat a,\hat b$,

$$L_{ij}=\mathrm{fl}\big[(1-C)n_i+(1-C)m_j-2\hat a_i^\top\hat b_j\big],\qquad
q_{ij}-2C(n_i+m_j)\le L_{ij}\le q_{ij}\quad\text{for}\quad C=2(t+4)u,\ u=2^{-24}.$$

Rounding the rows shifts $2a_i^\top b_j$ by at most $2(2u+u^2)\lVert a_i\rVert\lVert b_j\rVert\le(2u+u^2)(n_i+m_j)$.
A sum whose longest chain has t additions, in any order, fused or not, is off by at most
$\frac{tu}{1-tu}\sum\lvert\text{terms}\rvert$ (Higham 2002, section 3.1), and the terms add up to at most
$2(n_i+m_j)(1+2u)$.  Together that is below $C(n_i+m_j)$ while $t^2u<2$; blocks of BLOCK columns keep t so short.
The rest of C holds the rounding of norms and of float64, TINY what may underflow.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_utils.metrics.precision import float32

TILE = 2**22  # pairs looked at together: bounds memory, never changes a decision
BLOCK = 1024  # columns that one product sums
CHUNK = 2**18  # entries of the float64 differences computed at a time
TINY = 2.0**-100


class Screen:
    """Bounds and exact values of the squared distances between the rows of `a` (n, d) and `b` (m, d), float64.

    Bounds are in units of `unit`: what `lower`, `slack` and `ceiling` speak of is q * unit, a power of two.
    """

    def __init__(self, a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> None:
        self.a, self.b = a, b
        centre = a.mean(0).lerp(b.mean(0), len(b) / (len(a) + len(b)))
        most = torch.stack([(x - centre).abs().amax() for x in (a, b)]).amax()
        scale = 2.0 ** -int(most.frexp().exponent.clamp(-400, 400))
        self.unit = scale**2
        blocks = -(-a.shape[1] // BLOCK)
        self.c = 2 * (min(a.shape[1], BLOCK) + blocks + 6) * 2.0**-24
        self.single_a, self.norms_a = _single(a, centre, scale)
        self.single_b, self.norms_b = (self.single_a, self.norms_a) if b is a else _single(b, centre, scale)

    def strips(self, rows: Int[Tensor, " t"]) -> tuple[Int[Tensor, " s"], ...]:
        """Rows of `a` cut into parts that are held against all of `b` together."""
        return rows.split(max(1, TILE // len(self.b)))

    def lower(self, rows: Int[Tensor, " s"]) -> Float[Tensor, "s m"]:
        """L of some rows, float32."""
        n, m = ((x * (1 - self.c)).float() for x in (self.norms_a[rows], self.norms_b))
        low = n[:, None] + m
        with float32():
            for left, right in zip(self.single_a[rows].split(BLOCK, 1), self.single_b.split(BLOCK, 1), strict=True):
                low.addmm_(left, right.T, alpha=-2)
        return low

    def slack(self, i: Int[Tensor, "..."], j: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        """By how much q * unit can exceed L."""
        return 2 * self.c * (self.norms_a[i] + self.norms_b[j]) + TINY

    def exact(self, i: Int[Tensor, " p"], j: Int[Tensor, " p"]) -> Float[Tensor, " p"]:
        """q of some pairs.

        Every chunk has the same shape, filled up with repeats: sums of another shape may be taken in another
        order, and equal distances must come out equal to the last bit.
        """
        size = max(2, CHUNK // self.a.shape[1])
        parts = []
        for start in range(0, len(i), size):
            left, right = (torch.nn.functional.pad(x[start : start + size], (0, size))[:size] for x in (i, j))
            parts.append(self.a[left].sub_(self.b[right]).square_().sum(1))
        return torch.cat(parts)[: len(i)] if parts else self.a.new_empty(0)


def ceiling(bound: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """A float32 number that L stays below wherever q * unit is below `bound`; no q is below 0."""
    return torch.where(bound > 0, bound * (1 + 2.0**-22) + TINY, -torch.inf).float()


class Radii:
    r"""$R_k(x_i)^2$, the squared distance to the k-th *other* row of the own set, between `low` and `high`, (n,) each.

    One product bounds all of them; differences make a row exact, low = high, where a decision asks for it.
    """

    def __init__(self, x: Float[Tensor, "n d"], k: int) -> None:
        self.screen, self.k = Screen(x, x), k
        everyone = torch.arange(len(x), device=x.device)
        bounds = [self._bounds(rows) for rows in self.screen.strips(everyone)]
        self.low, self.high = (torch.cat(parts) for parts in zip(*bounds, strict=True))
        self.settle(everyone[self.low == 0])  # repeated rows: nothing is inside a ball of radius 0

    def settle(self, rows: Int[Tensor, " t"]) -> None:
        """Makes the radii of some rows exact."""
        asked = torch.zeros_like(self.low, dtype=torch.bool)
        asked[rows] = True
        for part in self.screen.strips((asked & (self.low < self.high)).nonzero().squeeze(1)):
            self.low[part] = self.high[part] = self._exact(part)

    def _bounds(self, rows: Int[Tensor, " s"]) -> tuple[Float[Tensor, " s"], Float[Tensor, " s"]]:
        """The (k + 1)-th smallest L, the row itself being the first, and what so many columns are within."""
        least, j = self.screen.lower(rows).topk(self.k + 1, largest=False, sorted=False)
        high = least + self.screen.slack(rows[:, None], j)
        return tuple(x.double().amax(1).clamp(min=0) / self.screen.unit for x in (least, high))

    def _exact(self, rows: Int[Tensor, " s"]) -> Float[Tensor, " s"]:
        """The (k + 1)-th smallest q: of k + 1 likely columns and all others that might be nearer."""
        low = self.screen.lower(rows)
        j = low.topk(self.k + 1, largest=False, sorted=False).indices
        at = torch.arange(len(rows), device=rows.device).repeat_interleave(self.k + 1)
        q = self.screen.exact(rows[at], j.flatten())
        near = low < ceiling(q.view(-1, self.k + 1).amax(1) * self.screen.unit)[:, None]
        more, other = near.scatter_(1, j, False).nonzero(as_tuple=True)
        at, q = torch.cat([at, more]), torch.cat([q, self.screen.exact(rows[more], other)])
        order = q.argsort()
        order = order[at[order].argsort(stable=True)]
        count = at.bincount(minlength=len(rows))
        return q[order[count.cumsum(0) - count + self.k]]


def inside(
    screen: Screen, rows: Int[Tensor, " s"], radii_a: Radii, radii_b: Radii
) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"], Bool[Tensor, " p"], Bool[Tensor, " p"]]:
    """Pairs (i, j) of some rows of which one may lie in the other's ball; whether j is in i's, and i in j's.

    Both with a strict `<` on squared distances and squared radii.
    """
    low = screen.lower(rows)
    near = low < ceiling(radii_a.high[rows] * screen.unit)[:, None]
    at, j = near.logical_or_(low < ceiling(radii_b.high * screen.unit)).nonzero(as_tuple=True)
    low, i = low[at, j].double().clamp_(min=0) / screen.unit, rows[at]
    q = low + screen.slack(i, j) / screen.unit  # right where the bounds decide: below low radii or above high ones
    for radii, centre in ((radii_a, i), (radii_b, j)):
        radii.settle(centre[(low < radii.high[centre]) & (q >= radii.low[centre])])
    balls = radii_a.low[i], radii_b.low[j]
    highs = radii_a.high[i], radii_b.high[j]
    undecided = [(low < most) & (q >= least) for least, most in zip(balls, highs, strict=True)]
    undecided = torch.stack(undecided).any(0).nonzero().squeeze(1)
    q[undecided] = screen.exact(i[undecided], j[undecided])
    return i, j, q < balls[0], q < balls[1]


def _single(x: Float[Tensor, "n d"], centre: Float[Tensor, " d"], scale: float) -> tuple[Tensor, Tensor]:
    """The rows centred and scaled, in float32, and their squared norms in float64."""
    x = (x - centre).mul_(scale)
    return x.float(), x.square().sum(1)

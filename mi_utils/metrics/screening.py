r"""Which pairs of two sets of rows can be nearest neighbours: one matrix product, in whatever precision is fast.

$q_{ij}=\lVert a_i\rVert^2+\lVert b_j\rVert^2-2a_i^\top b_j$.  In the rows' own precision its minima are right to
rounding.  In a lower one $\tilde q$ is off by at most
$\beta_{ij}=c\lVert a_i\rVert\lVert b_j\rVert+c'(\lVert a_i\rVert^2+\lVert b_j\rVert^2)$,
and a pair can be a minimum only if $\tilde q-\beta\le\min(\tilde q+\beta)$ in its row or column: those few are left for
exact differences.  (The best few of $\tilde q$ alone would not do: the true minimum was seen ranked fourth.)
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.metrics.precision import float32

Screen = Literal["auto", "full", "tf32", "bf16"]

BLOCK = 8192  # inner dimension summed at a time: bounds the rounding of long sums
NORMS = 2.0**-18  # c': what rounding leaves in the squared norms and in their sum with the product
CLOSE = 2.0**-14  # share of the squared norms below which a distance is computed again by differences
CROWD = 16  # candidates per row and column beyond which a tile is better computed in full


@dataclass(frozen=True)
class Rows:
    """Embeddings, their norms, and the copy that the screening product reads."""

    exact: Float[Tensor, "n d"]
    norms: Float[Tensor, " n"]
    coarse: Tensor


@dataclass(frozen=True)
class Precision:
    r"""How the product is computed, and `c`, the share of $\lVert a\rVert\lVert b\rVert$ by which 2ab can be off.

    Inputs rounded with unit roundoff u shift $a^\top b$ by at most $2u\lVert a\rVert\lVert b\rVert$ (Cauchy-Schwarz),
    a rounded output by $u\lVert a\rVert\lVert b\rVert$; bf16 in and out ($u=2^{-8}$): $2(2+1)u=2^{-6}+2^{-7}$.
    tf32 inputs may be truncated by the hardware ($u=2^{-10}$): $2^{-8}$.  Sums of BLOCK float32 terms, and of the
    blocks, add twice their number times $2^{-23}$, as every addition may truncate.
    """

    kind: Literal["full", "tf32", "bf16"]
    c: float
    copies: float  # bytes kept of a row, as a multiple of the row itself

    def rows(self, x: Float[Tensor, "n d"]) -> Rows:
        """The rows made ready."""
        return Rows(x, x.norm(dim=1), x.bfloat16() if self.kind == "bf16" else x)

    def product(self, a: Rows, b: Rows) -> Float[Tensor, "n m"]:
        """q tilde."""
        q = a.norms.square()[:, None] + b.norms.square()
        with float32("tf32" if self.kind == "tf32" else "ieee"):
            for start in range(0, a.exact.shape[1], BLOCK):
                left, right = (self._read(x)[:, start : start + BLOCK] for x in (a, b))
                if self.kind == "bf16":
                    q.sub_(left @ right.T, alpha=2)
                else:
                    q.addmm_(left, right.T, alpha=-2)
        return q

    def _read(self, x: Rows) -> Tensor:
        return x.coarse if self.kind == "bf16" else x.exact


FULL = Precision("full", 0.0, 1.0)


def precision(screen: Screen, rows: Tensor) -> Precision:
    """The precision that `screen` stands for; UserError for an unknown one or one that these rows cannot have."""
    if screen not in ("auto", "full", "tf32", "bf16"):
        raise UserError(f"screen: expected auto, full, tf32 or bf16, found {screen!r}")
    single = rows.dtype == torch.float32
    if not single and (screen in ("tf32", "bf16") or rows.dtype != torch.float64):
        raise UserError(f"screen: expected float32 rows (or float64 and 'full'), found {rows.dtype} and {screen!r}")
    if screen == "tf32" and rows.device.type != "cuda":
        raise UserError("screen: expected a GPU for tf32, found the CPU; leave it at 'auto'")
    automatic = "bf16" if single and rows.device.type == "cuda" else "full"
    kind = automatic if screen == "auto" else screen
    if kind == "full":
        return FULL
    inner = min(rows.shape[1], BLOCK) + math.ceil(rows.shape[1] / BLOCK)
    rounding, copies = {"tf32": (2.0**-8, 1.0), "bf16": (2.0**-6 + 2.0**-7, 1.5)}[kind]
    return Precision(kind, rounding + 2 * inner * 2.0**-23, copies)


def pairs(
    a: Rows, b: Rows, precision: Precision, best_row: Float[Tensor, " n"], best_column: Float[Tensor, " m"]
) -> tuple[Int[Tensor, " p"], Int[Tensor, " p"], Float[Tensor, " p"]]:
    """Pairs (i, j) of a tile that lower its rows' and columns' minima (and perhaps some that do not), with their q.

    Where nearly all are alike (a collapsed attack) a coarse screening cannot tell them apart; the tile is then
    computed in full.
    """
    q = precision.product(a, b)
    if precision.kind != "full":
        mask = candidates(q, a.norms, b.norms, precision.c, best_row, best_column)
        if int(mask.sum()) <= CROWD * sum(mask.shape):
            i, j = mask.nonzero(as_tuple=True)
            return i, j, differences(a.exact, b.exact, i, j)
        q = FULL.product(a, b)
    (in_row, j), (in_column, i) = q.min(1), q.min(0)
    rows, columns = (in_row < best_row).nonzero().squeeze(1), (in_column < best_column).nonzero().squeeze(1)
    i, j = torch.cat([rows, i[columns]]), torch.cat([j[rows], columns])
    return i, j, _mended(a, b, i, j, torch.cat([in_row[rows], in_column[columns]]))


def _mended(a: Rows, b: Rows, i: Int[Tensor, " p"], j: Int[Tensor, " p"], q: Float[Tensor, " p"]) -> Tensor:
    """q of the pairs; where it is so small that it is mostly rounding, by differences: 0 for equal rows."""
    close = (q <= CLOSE * (a.norms[i].square() + b.norms[j].square())).nonzero().squeeze(1)
    q[close] = differences(a.exact, b.exact, i[close], j[close])
    return q


def candidates(
    q: Float[Tensor, "n m"],
    norms_a: Float[Tensor, " n"],
    norms_b: Float[Tensor, " m"],
    c: float,
    best_row: Float[Tensor, " n"],
    best_column: Float[Tensor, " m"],
) -> Bool[Tensor, "n m"]:
    r"""Pairs that may be a minimum of their row or column: $\tilde q-\beta\le\min(\text{best},\min(\tilde q+\beta))$.

    `best_*`: exact minima of the tiles before.  `q` is overwritten.
    """
    beta = torch.outer(norms_a * c, norms_b)
    beta += NORMS * norms_a.square()[:, None]
    beta += NORMS * norms_b.square()
    q += beta
    row = torch.minimum(q.amin(1), best_row)[:, None]
    column = torch.minimum(q.amin(0), best_column)
    q.sub_(beta, alpha=2)
    return (q <= row).logical_or_(q <= column)


def differences(
    a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], i: Int[Tensor, " p"], j: Int[Tensor, " p"], chunk: int = 2**22
) -> Float[Tensor, " p"]:
    """|a_i - b_j|^2 of the pairs, `chunk` entries at a time."""
    pairs = max(1, chunk // a.shape[1])
    parts = [(a[i[at : at + pairs]] - b[j[at : at + pairs]]).square_().sum(1) for at in range(0, len(i), pairs)]
    return torch.cat(parts) if parts else a.new_empty(0)

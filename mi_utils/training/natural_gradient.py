r"""Natural gradient in image space: a gradient with the directions held back that a perceptual metric sees most.

A perceptual distance is $q(x,y)=\lVert E(x)-E(y)\rVert^2$.  With J the Jacobian of E at an image x of $n_x$ numbers,
$$H=\nabla_x^2\,q(x,x_0)\big|_{x_0=x}=2J^\top J\succeq0,\qquad
  P_\varepsilon=\varepsilon\,(H+\varepsilon I)^{-1},\quad0\prec P_\varepsilon\preceq I,\quad P_\infty=I.$$
Deviation: the paper writes the Hessian of a squared distance d; with d = q it is zero where both images are the same,
so d is read as $\sqrt q$.  Damping and its factor $\varepsilon$, which leaves unseen directions as they are, are ours.
Source: specification ddcs_ngd, 2.5.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.models.perceptual import Perceptual
from mi_utils.stage import StageFailed

EPSILON = 1e-5  # of the smooth norm
SPARE = 8  # columns of the subspace iteration beyond those that are kept
PROBES = 16  # random columns for the part of the trace outside the subspace

Embedding = Callable[[Float[Tensor, "n c s s"]], Float[Tensor, "n e"]]
Product = Callable[[Tensor], Tensor]
Norm = Literal["eps", "raw", "l2"]

# --- metric ----------------------------------------------------------------------------------------------------


def smooth_embedding(net: Perceptual, x: Float[Tensor, "n c s s"]) -> Float[Tensor, "n e"]:
    r"""E(x) of images in [-1, 1], grey repeated, with $\hat a=a/\sqrt{\lVert a\rVert^2+\epsilon_0^2}$.

    The metric's own $\lVert a\rVert$ has no derivative where all channels are 0.
    """
    a = (x.expand(-1, 3, -1, -1) - net.shift) / net.scale
    parts = []
    for layer, piece in enumerate(net.pieces):
        a = piece(a)
        root = getattr(net, f"root{layer}") / (a.shape[2] * a.shape[3]) ** 0.5
        unit = a * (a.square().sum(1, keepdim=True) + EPSILON**2).rsqrt()
        parts.append((unit * root[:, None, None]).flatten(1))
    return torch.cat(parts, 1)


@cache
def _forward_mode() -> None:
    """Torch's forward mode scripts its formulas at its first use, which the newer versions warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.func.jvp(torch.square, (torch.zeros(1),), (torch.zeros(1),))


def products(
    embed: Embedding, x: Float[Tensor, "n c s s"], columns: Float[Tensor, "m n c s s"]
) -> Float[Tensor, "m n c s s"]:
    r"""$H_bv=2J_b^\top(J_bv)$ of m vectors for each image b, in one pass: a jvp and a vjp that share E(x)."""
    _forward_mode()
    _, pull = torch.func.vjp(embed, x)
    return 2 * torch.func.vmap(lambda v: pull(torch.func.jvp(embed, (x,), (v,))[1])[0])(columns)


def mean_products(
    embed: Embedding, x: Float[Tensor, "n c s s"], columns: Float[Tensor, "d m"], chunk: int
) -> Float[Tensor, "d m"]:
    r"""$\bar HV=\frac1n\sum_bH_bV$, $d=n_x$; at most `chunk` images in memory at a time."""
    total = torch.zeros_like(columns)
    for part in x.split(chunk):
        v = columns.T.reshape(-1, 1, *x.shape[1:]).expand(-1, len(part), -1, -1, -1)
        total += products(embed, part, v).sum(1).flatten(1).T
    return total / len(x)


# --- eigenvectors ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spectrum:
    r"""The k largest eigenvalues, descending, their eigenvectors (columns), and an estimate of the whole trace."""

    vectors: Float[Tensor, "d k"]
    values: Float[Tensor, " k"]
    trace: float

    @property
    def captured(self) -> float:
        """Share of the trace within the eigenvectors, 0 to 1."""
        return float(self.values.sum()) / self.trace

    def epsilon(self, relative: float) -> float:
        r"""$\varepsilon=\max(\varepsilon_{rel}\lambda_1,\lambda_k)$: of what lies below $\lambda_k$ nothing is known.

        With all eigenvectors there is nothing below.
        """
        d, k = self.vectors.shape
        return max(relative * float(self.values[0]), float(self.values[-1]) if k < d else 0.0)


def leading(product: Product, x: Float[Tensor, "n c s s"], k: int, rounds: int, rng: torch.Generator) -> Spectrum:
    r"""Randomised subspace iteration: $Q=\mathrm{qr}(\bar H\Omega)$, then the eigenvectors of $Q^\top\bar HQ$.

    `product` takes columns (d, m), d numbers of an image of `x`; `rounds` 2 takes $Q=\mathrm{qr}(\bar HQ)$ once more,
    which the small eigenvalues need.  The trace is that of $Q^\top\bar HQ$ and a Hutchinson estimate of what lies
    outside of Q.  UserError where there is no curvature at all.
    """
    d = x[0].numel()
    if not 1 <= k <= d:
        raise UserError(f"k: expected 1 to {d} eigenvectors, as many as an image has numbers, found {k}")
    q = torch.randn((d, min(k + SPARE, d)), generator=rng).to(x)
    for _ in range(rounds):
        q = torch.linalg.qr(product(q)).Q
    probes = torch.randn((d, PROBES), generator=rng).to(x)
    probes -= q @ (q.T @ probes)
    seen, outside = product(torch.cat([q, probes], 1)).split([q.shape[1], PROBES], 1)
    inner = q.T @ seen
    values, turned = torch.linalg.eigh((inner + inner.T) / 2)
    values, vectors = values.flip(0)[:k].clamp(min=0), (q @ turned.flip(1))[:, :k]
    trace = float(inner.diagonal().sum() + (probes * outside).sum() / PROBES)
    if not (values[0] > 0 and trace > 0):
        raise UserError(f"metric: expected one that sees changes of the images, found a largest eigenvalue of "
                        f"{float(values[0]):g}; take another `net` or another generator")  # fmt: skip
    return Spectrum(vectors, values, trace)


def held_back(
    g: Float[Tensor, "n *shape"], vectors: Float[Tensor, "d k"], values: Float[Tensor, " k"], epsilon: float
) -> Float[Tensor, "n *shape"]:
    r"""$P_\varepsilon g=g-U\,\mathrm{diag}\big(\tfrac{\lambda_i}{\lambda_i+\varepsilon}\big)U^\top g$."""
    flat = g.flatten(1)
    return (flat - (flat @ vectors) * (values / (values + epsilon)) @ vectors.T).view(g.shape)


# --- conjugate gradients ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Solved:
    """Solutions, how many products they took, and what is left: |g - Ap| / |g| of every image, 0 where g is."""

    p: Float[Tensor, "n *shape"]
    iterations: int
    residual: Float[Tensor, " n"]


def dots(a: Float[Tensor, "n *shape"], b: Float[Tensor, "n *shape"]) -> Float[Tensor, " n"]:
    """Inner product of each pair of rows."""
    return (a * b).flatten(1).sum(1)


def per_row(x: Float[Tensor, " n"], like: Float[Tensor, "n *shape"]) -> Float[Tensor, "n *ones"]:
    """One number per row in a shape that multiplies rows."""
    return x.view(-1, *[1] * (like.ndim - 1))


def conjugate_gradients(
    product: Product, g: Float[Tensor, "n *shape"], tolerance: float, most: int, fallback: bool = False
) -> Solved:
    r"""$A_bp_b=g_b$ for all images at once, to $\lVert g_b-A_bp_b\rVert\le\mathtt{tolerance}\,\lVert g_b\rVert$.

    An image that is solved rests while others go on.  StageFailed where A is not positive definite, and where an
    image is not solved after `most` products; with `fallback` its last iterate is taken.
    """
    p, r = torch.zeros_like(g), g.clone()
    direction, square = r, dots(r, r)
    whole, iterations = square, 0
    while bool((going := ~(square <= tolerance**2 * whole)).any()) and iterations < most:
        seen = product(direction)
        curvature = dots(direction, seen)
        _require_positive(curvature[going], iterations)
        step = per_row(torch.where(going, square / curvature, 0.0), g)
        p, r = p + step * direction, r - step * seen
        now = dots(r, r)
        direction = r + per_row(torch.where(going, now / square, 0.0), g) * direction
        square, iterations = now, iterations + 1
    residual = torch.where(whole == 0, 0.0, (square / whole).sqrt())
    if bool(going.any()) and not fallback:
        raise StageFailed(
            f"conjugate gradients: expected a relative residual of {tolerance:g} within {most} iterations, found "
            f"{float(residual.max()):.3g} in {int(going.sum())} of {len(g)} images; raise `most` or eps_rel"
        )
    return Solved(p, iterations, residual)


def _require_positive(curvature: Float[Tensor, " n"], iterations: int) -> None:
    """StageFailed for a direction along which A curves down, or is not a number."""
    if not bool((curvature > 0).all()):
        raise StageFailed(
            f"conjugate gradients: expected a positive definite metric, found a curvature of "
            f"{float(curvature.min()):g} after {iterations} iterations; raise eps_rel"
        )


# --- length ----------------------------------------------------------------------------------------------------


def of_norm(
    norm: Norm, p: Float[Tensor, "n *shape"], g: Float[Tensor, "n *shape"], epsilon: float
) -> Float[Tensor, "n *shape"]:
    r"""$P_\varepsilon g$ as it is (`eps`), $(H+\varepsilon I)^{-1}g$ (`raw`), or as long as each image's g (`l2`)."""
    if norm == "raw":
        return p / epsilon
    if norm == "eps":
        return p
    length = dots(p, p).sqrt()
    return p * per_row(torch.where(length > 0, dots(g, g).sqrt() / length, 0.0), p)

r"""The two kinds of prototypes of DMMIA (Qi et al., ACM MM 2023, arXiv 2309.00013).

e (K, n, d): unit features of n images of each of K attacked classes.  IMR draws an image to the positive prototypes
W that it resembles and away from the negative ones; IDR to its class's row of a memory M of all C classes and away
from the other rows.  Every class has W and M of its own, so that no class's attack depends on another's.

The paper's exact likelihoods are not public; the form is ours, consistent with the grouping in the released code.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

Group = Literal["sum", "mean"]


def unit(x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    r"""$x/\lVert x\rVert_2$."""
    return F.normalize(x, dim=-1)


def similarities(e: Float[Tensor, "k n d"], rows: Float[Tensor, "k m d"], tau: float) -> Float[Tensor, "k n m"]:
    r"""$e\cdot w/\tau$ of every image with every row of its class."""
    return e @ rows.mT / tau


def grouped_loss(
    own: Float[Tensor, "*n a"], others: Float[Tensor, "*n b"], counts: tuple[Tensor | int, Tensor | int], group: Group
) -> Float[Tensor, " *n"]:
    r"""$-\log\frac{O}{O+R}$ with O, R the sums of $e^s$ over two groups, or their means (`counts` entries each)."""
    o, r = own.logsumexp(-1), others.logsumexp(-1)
    if group == "mean":
        o, r = (x - torch.as_tensor(c).to(x).log() for x, c in zip((o, r), counts, strict=True))
    return F.softplus(r - o)


def imr_loss(
    e: Float[Tensor, "k n d"], w: Float[Tensor, "k m d"], rho: int, tau: float, group: Group = "sum"
) -> Float[Tensor, "k n"]:
    r"""$L_{imr}=-\log\frac{\sum_{k\le\rho}e^{e\cdot w_k/\tau}}{\sum_{k\le N_w}e^{e\cdot w_k/\tau}}$, per image.

    Source: specification 2.3.  `group="mean"` (released code): means instead of sums within the two groups.
    """
    s = similarities(e, w, tau)
    return grouped_loss(s[..., :rho], s[..., rho:], (rho, w.shape[1] - rho), group)


def imr_gradient(
    e: Float[Tensor, "k n d"], w: Float[Tensor, "k m d"], rho: int, tau: float, group: Group = "sum"
) -> Float[Tensor, "k m d"]:
    r"""Slope of each class's mean $L_{imr}$ in W: with sums, $\frac1{n\tau}\sum_b(\pi_{bk}-q_{bk})\,e_b$ for row k."""
    w = w.detach().requires_grad_()
    return torch.autograd.grad(imr_loss(e, w, rho, tau, group).mean(1).sum(), w)[0]


def positives(e: Float[Tensor, "k n d"], w: Float[Tensor, "k m d"], rho: int, tau: float) -> Float[Tensor, "k n rho"]:
    r"""$q=\mathrm{softmax}_{k\le\rho}(e\cdot w_k/\tau)$: which positive prototypes an image belongs to."""
    return similarities(e, w[:, :rho], tau).softmax(-1)


def effective_positives(q: Float[Tensor, "k n rho"]) -> Float[Tensor, " k"]:
    r"""$\exp H(\mathrm{mean}_b\,q_b)$: how many positives the images of a class share out among them."""
    mean = q.mean(1)
    return torch.special.entr(mean).sum(-1).exp()


def idr_loss(
    e: Float[Tensor, "k n d"],
    memory: Float[Tensor, "k c d"],
    filled: Bool[Tensor, "k c"],
    y: Int[Tensor, " k"],
    tau: float,
    group: Group = "sum",
) -> Float[Tensor, "k n"]:
    r"""$L_{idr}=-\log\frac{e^{e\cdot m_y/\tau}}{\sum_{c:\kappa_c=1}e^{e\cdot m_c/\tau}}$, per image.

    0 while $\kappa_y=0$ and, without a gradient, while no other class is filled.  `group="mean"` (released code): the
    mean over the other filled classes, which adds $\log(C-1)$ to the class's own logit.
    """
    s = similarities(e, memory, tau)
    own = F.one_hot(y, memory.shape[1]).bool()
    others = filled & ~own
    known = (filled & own).any(1) & others.any(1)
    rest = s.masked_fill(~others[:, None], -torch.inf).masked_fill(~known[:, None, None], 0.0)
    alone = s.gather(-1, y[:, None, None].expand(-1, s.shape[1], 1))
    loss = grouped_loss(alone, rest, (1, others.sum(1, keepdim=True).clamp_min(1)), group)
    return torch.where(known[:, None], loss, 0.0)


def class_features(
    e: Float[Tensor, "k n d"], said: Int[Tensor, "k n"], classes: int
) -> tuple[Float[Tensor, "k c d"], Bool[Tensor, "k c"]]:
    r"""$m'_c=\mathrm{mean}\{e_b:\hat y_b=c\}$, and which classes occur."""
    one_hot = F.one_hot(said, classes).to(e)
    counts = one_hot.sum(1)
    return one_hot.mT @ e / counts.clamp_min(1)[..., None], counts > 0


def remembered(
    memory: Float[Tensor, "k c d"],
    filled: Bool[Tensor, "k c"],
    e: Float[Tensor, "k n d"],
    said: Int[Tensor, "k n"],
    r: float,
) -> tuple[Float[Tensor, "k c d"], Bool[Tensor, "k c"]]:
    r"""$m_c\leftarrow r\,m_c+(1-r)\,m'_c$ for the classes that occur, a first write copies; rows of norm 1."""
    fresh, present = class_features(e.detach(), said, memory.shape[1])
    moved = torch.where(filled[..., None], r * memory + (1 - r) * fresh, fresh)
    return torch.where(present[..., None], unit(moved), memory), filled | present


def initial_prototypes(
    shape: tuple[int, int], norm: bool, rng: torch.Generator, device: torch.device
) -> Float[Tensor, "m d"]:
    r"""Rows of norm 1 in random directions, or (released code) from $\mathcal N(0,0.01^2)$."""
    drawn = torch.randn(shape, generator=rng, device=rng.device).to(device)
    return unit(drawn) if norm else 0.01 * drawn


def spread_loss(e: Float[Tensor, "k n d"]) -> Float[Tensor, "k n"]:
    r"""$\frac1{n-1}\sum_{j\ne i}e_i\cdot e_j$: the plain diversity term that a memory has to beat."""
    n = e.shape[1]
    return ((e * e.sum(1, keepdim=True)).sum(-1) - e.square().sum(-1)) / max(n - 1, 1)

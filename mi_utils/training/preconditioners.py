r"""Preconditioners of the gradient that a frozen target sends into a generator's images, and what they are made of.

`nystrom` is the paper's Hessian products "precomputed once on a batch and reused"; the others are its reference and
its controls.  Source: specification ddcs_ngd, 2.5.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from mi_utils.data.augment import blurred
from mi_utils.errors import UserError
from mi_utils.metrics.precision import float32
from mi_utils.models import perceptual
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Config, Job, Output
from mi_utils.training.natural_gradient import (
    Embedding,
    Norm,
    conjugate_gradients,
    dots,
    held_back,
    leading,
    mean_products,
    of_norm,
    products,
    smooth_embedding,
)
from mi_utils.training.shipped import Shippable
from mi_utils.training.stylegan2 import TrainStyleGAN2

Relative = Annotated[float, Field(gt=0)]  # damping as a share of the largest eigenvalue
Project = Callable[[Tensor, Tensor], Tensor]  # images (n, c, s, s) and a gradient there -> the gradient that is used


class PerceptualBasis(Shippable):
    r"""The leading eigenvectors of $\bar H=\frac1{B_0}\sum_bH_b$ over images of a generator, computed once.

    Tensors: `vectors` U (n_x, k), `values` Λ (k,), descending.  `meta`: `trace` of the mean Hessian and the share of
    it that is `captured`; `epsilon`, the damping; `effective`, the same over the largest eigenvalue, which is larger
    than `eps_rel` where k is too small to see that far down; `net`, the metric's name in tables.

    Deviation: two rounds of the subspace iteration.  With one, at 32 px and k = 256, the projection of a smooth
    gradient is off by 14 %, with two by 8 %, of which 7 % are what lies below the smallest eigenvalue.
    """

    prior: TrainStyleGAN2
    net: str = "st-lpips-alex"
    k: Annotated[int, Field(ge=1)] = 256
    images: Annotated[int, Field(ge=1)] = 16  # B_0
    eps_rel: Relative = 1e-3
    rounds: Annotated[int, Field(ge=1)] = 2  # of the subspace iteration
    chunk: Annotated[int, Field(ge=1)] = 128  # Hessian products in memory at a time
    seed: int = 0

    @model_validator(mode="after")
    def _known(self) -> "PerceptualBasis":
        if reason := perceptual.available(self.net):
            raise UserError(f"net: {self.net} cannot be loaded: {reason}; use st-lpips-alex")
        return self

    def learn(self, job: Job) -> Output:
        """Products with all columns, one time more than there are rounds, a chunk at a time."""
        net = perceptual.load(self.net).to(job.device)
        x = self._images(job.device)
        if x.shape[2] < net.least_side:
            raise UserError(f"net: {self.net} takes images from {net.least_side} px on, found {x.shape[2]} px; "
                            "take another")  # fmt: skip
        embed = partial(smooth_embedding, net)
        with float32():
            times, rng = partial(self._products, job, embed, x), seeded("perceptual basis", self.seed)
            found = leading(times, x, self.k, self.rounds, rng)
        job.check_finite("eigenvectors of the perceptual metric", found.vectors)
        epsilon, most = found.epsilon(self.eps_rel), float(found.values[0])
        shape = {"channels": x.shape[1], "size": x.shape[2], "net": net.name}
        facts = {"trace": found.trace, "captured": found.captured, "epsilon": epsilon, "effective": epsilon / most}
        return Output({"vectors": found.vectors, "values": found.values}, shape | facts)

    @torch.no_grad()
    def _images(self, device: torch.device) -> Float[Tensor, "n c s s"]:
        g = self.prior.generator(device)
        return g(torch.randn((self.images, g.z_dim), generator=seeded("basis images", self.seed)).to(device))

    def _products(self, job: Job, embed: Embedding, x: Tensor, columns: Float[Tensor, "d m"]) -> Float[Tensor, "d m"]:
        """The mean Hessian times all columns."""
        many, seen = max(1, self.chunk // len(x)), torch.zeros_like(columns)
        for i in job.steps(-(-columns.shape[1] // many), {"seen": seen}):
            part = slice(i * many, (i + 1) * many)
            seen[:, part] = mean_products(embed, x, columns[:, part], self.chunk)
        return seen

    def facts(self) -> dict:
        """`meta`, read from the store."""
        return self.result().meta


class Plain(Config):
    """The gradient as it is."""

    kind: Literal["none"] = "none"

    def ready(self, device: torch.device) -> Project:
        """What is done to a gradient; nothing."""
        return lambda x, g: g


class _Based(Config):
    """A preconditioner that reads the stored eigenvectors."""

    basis: PerceptualBasis

    def _held_back(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        stored = self.basis.result(device)
        vectors, values = (stored.tensors[name].to(device) for name in ("vectors", "values"))
        return lambda g: held_back(g, vectors, values, stored.meta["epsilon"])


class Nystrom(_Based):
    """One mean Hessian for all images and all steps."""

    kind: Literal["nystrom"] = "nystrom"
    norm: Norm = "eps"

    def ready(self, device: torch.device) -> Project:
        """Two thin matrix products for each gradient."""
        project, epsilon = self._held_back(device), self.basis.facts()["epsilon"]
        return lambda x, g: of_norm(self.norm, project(g), g, epsilon)


class ConjugateGradients(_Based):
    r"""Each image's own Hessian at every step, $\varepsilon=\varepsilon_{rel}\lambda_1$ of the stored mean Hessian.

    Of the basis it takes metric and damping, so that it differs from `nystrom` in the Hessian alone (and in damping
    where the basis has too few columns).  An unsolved image fails the training, or with `fallback` takes the last
    iterate.
    """

    kind: Literal["cg"] = "cg"
    norm: Norm = "eps"
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-2  # residual over the gradient's length
    most: Annotated[int, Field(ge=1)] = 100  # iterations
    fallback: bool = False

    def ready(self, device: torch.device) -> Project:
        """Some ten Hessian products for each gradient."""
        net = perceptual.load(self.basis.net).to(device)
        epsilon = self.basis.eps_rel * float(self.basis.result(device).tensors["values"][0])
        return partial(self._solved, partial(smooth_embedding, net), epsilon)

    def _solved(self, embed: Embedding, epsilon: float, x: Tensor, g: Tensor) -> Tensor:
        def damped(v: Tensor) -> Tensor:
            return products(embed, x, v[None])[0] + epsilon * v

        with float32():
            solved = conjugate_gradients(damped, g, self.tolerance, self.most, self.fallback)
        return of_norm(self.norm, epsilon * solved.p, g, epsilon)


class Scaled(_Based):
    r"""Control: the plain gradient, shortened by the batch's mean $\lVert Pg\rVert/\lVert g\rVert$ under `nystrom`."""

    kind: Literal["scale"] = "scale"

    def ready(self, device: torch.device) -> Project:
        """The gradient times one number."""
        project = self._held_back(device)

        def shortened(x: Tensor, g: Tensor) -> Tensor:
            p = project(g)
            ratio = (dots(p, p) / dots(g, g)).sqrt().nan_to_num(0.0)
            return g * ratio.mean()

        return shortened


class Random(_Based):
    """Control: `nystrom` with random orthonormal directions in place of the metric's, eigenvalues as they are."""

    kind: Literal["random"] = "random"
    norm: Norm = "eps"
    seed: int = 0

    def ready(self, device: torch.device) -> Project:
        """Two thin matrix products for each gradient."""
        stored = self.basis.result(device)
        values, epsilon = stored.tensors["values"].to(device), stored.meta["epsilon"]
        drawn = torch.randn(stored.tensors["vectors"].shape, generator=seeded("random basis", self.seed))
        vectors = torch.linalg.qr(drawn).Q.to(device)
        return lambda x, g: of_norm(self.norm, held_back(g, vectors, values, epsilon), g, epsilon)


class Blurred(Config):
    """Control: the gradient without fine structure."""

    kind: Literal["blur"] = "blur"
    sigma: Annotated[float, Field(gt=0)] = 1.0  # px

    def ready(self, device: torch.device) -> Project:
        """A Gaussian low-pass."""
        sigma = torch.tensor([self.sigma], device=device)
        return lambda x, g: blurred(g, sigma)


class Euclidean(Config):
    r"""Control: squared pixel distance as the metric, so $H=2I$ and $P_\varepsilon=\frac{\varepsilon}{2+\varepsilon}I$.

    With $\varepsilon=2\varepsilon_{rel}$ the gradient is multiplied by $\varepsilon_{rel}/(1+\varepsilon_{rel})$: it
    points where it did, and at the usual damping is a thousandth as long; with the norm `l2` it is the plain gradient.
    """

    kind: Literal["euclid"] = "euclid"
    norm: Norm = "eps"
    eps_rel: Relative = 1e-3

    def ready(self, device: torch.device) -> Project:
        """The gradient times one number."""
        epsilon = 2 * self.eps_rel
        return lambda x, g: of_norm(self.norm, g * (epsilon / (2 + epsilon)), g, epsilon)


Preconditioner = Annotated[
    Plain | Nystrom | ConjugateGradients | Scaled | Blurred | Random | Euclidean, Field(discriminator="kind")
]

r"""How near a generator can come to each private image at all: $r_i=\min_wq(G(w),x_i)$.

Source: specification ddcs_ngd, 8 (OQ1 a).  An evaluator's measurement: it looks at private images, so that no attack
may read it.
"""

from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from mi_utils.attacks.per_sample import gradients
from mi_utils.attacks.style_search import shown, to_images
from mi_utils.data import AnySource
from mi_utils.data.images import ImageSet
from mi_utils.errors import UserError
from mi_utils.metrics import matching, perceptual
from mi_utils.models import perceptual as nets
from mi_utils.models.stylegan2 import Generator
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Output, Stage
from mi_utils.studies.evaluation import drawn_per_class
from mi_utils.training.style_priors import StylePrior


class Projection(Stage):
    """Adam on a style of its own for every private image and restart, from the nearest of a pool of samples.

    Restart k starts from the nearest of the k-th part of the pool.  Images are those of an `Evaluation` of these
    classes and of this `perceptual`, in its order (N).  Stored: `start` (N,), the distance to the nearest of the pool;
    `distance` (N,): r of 8-bit images, the least of `start` and of what was found on the way; `images` uint8 and
    `latents` where it was found, (N, d) or (N, L, d); `log_distance`: mean over all restarts at every step.  Nothing
    holds w within the law of training: with "w+" r is a lower bound of what a search of w can reach.
    """

    prior: StylePrior
    private: AnySource
    classes: Annotated[tuple[int, ...], Field(min_length=1)]
    perceptual: Annotated[int, Field(ge=1)]  # private images per class
    space: Literal["w", "w+"] = "w"  # one style for all layers, or one each
    steps: Annotated[int, Field(ge=1)] = 100
    lr: Annotated[float, Field(gt=0)] = 0.05
    restarts: Annotated[int, Field(ge=1)] = 2
    pool: Annotated[int, Field(ge=1)] = 2000
    centre: Annotated[int, Field(ge=8)] | None = None  # px that are cropped from the generator's images, as attacks do
    net: str = "st-lpips-alex"
    seed: int = 0
    chunk: Annotated[int, Field(ge=1)] = 64  # images in memory at a time

    def compute(self, job: Job) -> Output:
        """All images and restarts at once."""
        data = drawn_per_class(self.private.load().only_classes(self.classes), self.perceptual)
        self._check(data)
        g, net = self.prior.generator(job.device), nets.load(self.net).to(job.device)
        real = perceptual.embed(data.images, net)
        first, start = self._starts(g, net, real, data.images.shape[2])
        latents, curve = self._searched(job, g, net, real, first, data.images.shape[2])
        job.check_finite("projection", curve)
        found = self._nearest(g, net, real, torch.cat([first[None], latents[None]]), data.images.shape[2])
        return Output(found | {"start": start, "log_distance": curve})

    def _check(self, data: ImageSet) -> None:
        """UserError where the generator's images are not like the private ones, or the pool is too small."""
        makes, (channels, size) = self.prior.facts(), data.images.shape[1:3]
        if makes["channels"] != channels or (self.centre is None and makes["size"] != size):
            raise UserError(f"prior: expected images of {channels} colours and {size} px as the private ones, found "
                            f"{makes['channels']} and {makes['size']}; take another prior, or set centre")  # fmt: skip
        if self.pool < self.restarts:
            raise UserError(f"pool: expected at least one sample per restart ({self.restarts}), found {self.pool}")

    def _image(self, g: Generator, w: Float[Tensor, "n *d"], size: int) -> Float[Tensor, "n c s s"]:
        return shown(g.synthesis(w), self.centre, size)

    @torch.no_grad()
    def _starts(
        self, g: Generator, net: nets.Perceptual, real: Float[Tensor, "n e"], size: int
    ) -> tuple[Float[Tensor, "r n *d"], Float[Tensor, " n"]]:
        """Every restart's nearest sample of its part of the pool, and the distance to the nearest of all."""
        z = torch.randn((self.pool, g.z_dim), generator=seeded("projection pool", self.seed)).to(real.device)
        parts = g.mapping(z).tensor_split(self.restarts)
        images = [to_images(lambda w: self._image(g, w, size), part, self.chunk) for part in parts]
        near = [matching.nearest(perceptual.embed(x, net), real, matching.as_is) for x in images]
        start = torch.stack([part[one.fake_of_real.to(part.device)] for part, one in zip(parts, near, strict=True)])
        if self.space == "w+":
            start = start[:, :, None].repeat(1, 1, g.synthesis.inputs, 1)
        return start, torch.stack([one.q_real for one in near]).amin(0)

    def _searched(
        self, job: Job, g: Generator, net: nets.Perceptual, real: Tensor, start: Float[Tensor, "r n *d"], size: int
    ) -> tuple[Float[Tensor, "r n *d"], Float[Tensor, " t"]]:
        """The best style that each restart has met, and the mean distance at every step."""
        w = start.flatten(0, 1).clone().requires_grad_()
        rows = torch.arange(len(real), device=real.device).repeat(self.restarts)
        adam = torch.optim.Adam([w], self.lr)
        best, least = w.detach().clone(), torch.full((len(w),), torch.inf, device=w.device)
        curve: list[Tensor] = []

        def loss(part: Tensor, where: slice) -> Float[Tensor, " m"]:
            x = self._image(g, part, size).expand(-1, 3, -1, -1)
            return (net(x) - real[rows[where]]).square().sum(1)

        for _ in job.steps(self.steps, {"w": w, "adam": adam, "best": best, "least": least, "curve": curve}):
            w.grad, q = gradients(loss, w, self.chunk)
            _keep(best, least, w.detach(), q)
            adam.step()
            curve.append(q.mean())
        return best.view_as(start), torch.stack(curve)

    def _nearest(
        self, g: Generator, net: nets.Perceptual, real: Tensor, found: Float[Tensor, "two r n *d"], size: int
    ) -> dict[str, Tensor]:
        """The nearest 8-bit image among starts and ends of all restarts."""
        each = found.flatten(0, 1)
        distance, latents = torch.full((len(real),), torch.inf, device=real.device), each[0].clone()
        for w in each:
            x = to_images(lambda part: self._image(g, part, size), w, self.chunk)
            _keep(latents, distance, w, (perceptual.embed(x, net) - real).square().sum(1))
        images = to_images(lambda part: self._image(g, part, size), latents, self.chunk)
        return {"distance": distance, "latents": latents, "images": images}


def _keep(best: Tensor, least: Float[Tensor, " n"], now: Tensor, q: Float[Tensor, " n"]) -> None:
    """Replace rows of `best` and `least` in place where q is lower."""
    lower = q < least
    best[lower], least[lower] = now[lower], q[lower]


def rows_drawn(data: ImageSet, classes: tuple[int, ...], count: int) -> Int[Tensor, " n"]:
    """Which rows of `data` an evaluation or a projection takes, in its order: it draws images that spell their row."""
    row = torch.arange(len(data))
    coded = torch.stack([row >> 16, row >> 8, row], 1).bitwise_and(255).to(torch.uint8)[:, :, None, None]
    whole = ImageSet(coded, data.labels, data.classes, data.name).only_classes(classes)
    drawn = drawn_per_class(whole, count).images[:, :, 0, 0].long()
    return (drawn * torch.tensor([1 << 16, 1 << 8, 1])).sum(1)

r"""Select, optimise, select: what the searches of a StyleGAN2's styles share (PPA, DMMIA and their variants).

A pool of latents is scored once for all classes; each class starts from the styles that score best; the optimised
images are put in the order of the target's confidence under random crops.  Source: Plug & Play Attacks (Struppek et
al., ICML 2022, arXiv 2201.12179), released code; specification dmmia, 2.2.

Arrays of the search are (K, n, ...): K attacked classes with n candidates each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from mi_utils.attacks import per_sample
from mi_utils.attacks.latent_search import Frames
from mi_utils.attacks.memory import unit
from mi_utils.data.augment import Augment, Flip, ResizedCrop
from mi_utils.data.disjoint import check_disjoint
from mi_utils.data.images import to_uint8
from mi_utils.errors import UserError
from mi_utils.models.classifiers import Classifier
from mi_utils.models.folding import folded
from mi_utils.models.stylegan2 import Generator, truncated
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Output, Stage, StageFailed
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.style_priors import StylePrior

FARTHEST = 5.0  # drift, in standard deviations of w, beyond which a search has left the generator's range
Range = tuple[float, float]


@dataclass(frozen=True)
class Pool:
    """Latents that all classes choose from, and what the target says of their images."""

    z: Float[Tensor, "p z"]
    w: Float[Tensor, "p d"]  # truncated
    scores: Float[Tensor, "p c"]
    features: Float[Tensor, "p f"]  # of norm 1
    said: Int[Tensor, " p"]
    sigma: float  # standard deviation of w before truncation


@dataclass(frozen=True)
class Nets:
    """The frozen networks of a search."""

    g: Generator
    f: Classifier


def shown(x: Float[Tensor, "n c r r"], centre: int | None, size: int) -> Float[Tensor, "n c size size"]:
    r"""$\mathcal T$ without its random part: the middle `centre` px of the generator's images at the target's size."""
    if centre is not None:
        edge = (x.shape[2] - centre) // 2
        x = x[:, :, edge : edge + centre, edge : edge + centre]
    if x.shape[2] == size:
        return x
    return F.interpolate(x, size=(size, size), mode="bilinear", antialias=True)


def best(scores: Float[Tensor, "p c"], classes: Int[Tensor, " k"], count: int) -> Int[Tensor, "k n"]:
    """The `count` latents of the highest score of every class, best first; a latent may serve several classes."""
    return scores[:, classes].topk(count, dim=0).indices.T


def drift(now: Float[Tensor, "k n d"], start: Float[Tensor, "k n d"], sigma: float, psi: float) -> Float[Tensor, ""]:
    r"""$\Delta_t=\mathrm{mean}\frac{\lVert w_t-w_0\rVert}{\psi\,\sigma_w\sqrt{d_w}}$: how far styles have moved."""
    return (now - start).norm(dim=-1).mean() / (psi * sigma * now.shape[-1] ** 0.5)


def cosine(e: Float[Tensor, "k n d"]) -> Float[Tensor, ""]:
    """Mean cosine over all pairs of unit features of one class."""
    n = e.shape[1]
    return ((e.sum(1).square().sum(-1) - n) / max(n * (n - 1), 1)).mean()


class StyleSearch(Stage):
    """Fields that the searches share.  Defaults are PPA's for CelebA.

    Every random crop is drawn once for a whole batch, as in the released code, from a stream of the step's own, so
    that a class's result depends on no other class and no chunk.  Deviation: the pool scores the very image that the
    search starts from (released: the pool truncates the first 8 inputs alone, which is another image above 32 px).
    """

    prior: StylePrior
    target: TrainClassifier
    classes: tuple[int, ...]
    seed: int = 0
    pool: Annotated[int, Field(ge=1)] = 5000  # latents scored
    candidates: Annotated[int, Field(ge=1)] = 200  # per class
    samples: Annotated[int, Field(ge=1)] = 50  # the best of them by the last selection, which are stored first
    search: Literal["best", "first"] = "best"  # of the pool: by score, or as they come
    psi: Annotated[float, Field(gt=0, le=1)] = 0.5  # truncation
    epochs: Annotated[int, Field(ge=1)] = 70
    lr: Annotated[float, Field(gt=0)] = 0.005
    centre: Annotated[int, Field(ge=8)] | None = None  # px that are cropped from the generator's images
    crop: Range = (0.9, 1.0)  # area of the random crops on the way
    last_crop: Range = (0.5, 0.9)  # and of those of the last selection
    last_aspect: Range = (0.8, 1.2)
    draws: Annotated[int, Field(ge=0)] = 100  # of the last selection; 0: candidates stay in the pool's order
    flip: bool = True  # whether a mirror image shows the same class
    frames: Annotated[int, Field(ge=2)] = 8  # epochs whose styles are kept, evenly spaced, first and last included
    chunk: Annotated[int, Field(ge=1)] = 64  # images in memory at a time

    @model_validator(mode="after")
    def _fits(self) -> "StyleSearch":
        if not self.samples <= self.candidates <= self.pool:
            raise UserError(
                f"samples, candidates, pool: expected samples <= candidates <= pool, found {self.samples}, "
                f"{self.candidates}, {self.pool}"
            )
        return self

    # --- select --------------------------------------------------------------------------------------------

    def nets(self, device: torch.device) -> Nets:
        """Generator and target, once the classes are the target's and the prior's images none of its private ones."""
        per_sample.check(self.target, self.classes)
        takes, makes = self.target.facts(), self.prior.facts()
        if takes["channels"] != makes["channels"]:
            raise UserError(
                f"prior: expected {takes['channels']} colours as the target takes, found {makes['channels']}"
            )
        if self.centre is None and takes["size"] != makes["size"]:
            raise UserError(
                f"prior: expected images of {takes['size']} px as the target takes, found {makes['size']} px; take "
                f"another prior, or say in `centre` how many px of its images to resize"
            )
        for public in self.prior.sources():
            for private in (self.target.train, self.target.test):
                check_disjoint(private, public, "prior")
        return Nets(self.prior.generator(device), folded(self.target.network(device)))

    @torch.no_grad()
    def scored(self, nets: Nets, device: torch.device) -> Pool:
        r"""The pool.  A score is $\frac12[p_y(x)+p_y(\mathrm{flip}\,x)]$, without flips $p_y(x)$."""
        z = torch.randn((self.pool, nets.g.z_dim), generator=seeded("style pool", self.seed)).to(device)
        free = nets.g.mapping(z)
        w = truncated(free, nets.g.mapping.w_avg, self.psi)
        scores, features = [], []
        for part in w.split(self.chunk):
            x = self.image(nets, part).clamp(-1, 1)
            h = nets.f.features(x)
            views = [nets.f.head(h), nets.f(x.flip(3))] if self.flip else [nets.f.head(h)]
            scores.append(torch.stack([said.softmax(1) for said in views]))
            features.append(unit(h))
        both = torch.cat(scores, 1)
        sigma = free.var(0).mean().sqrt().item()
        return Pool(z, w, both.mean(0), torch.cat(features), both[0].argmax(1), sigma)

    def chosen(self, pool: Pool, device: torch.device) -> Int[Tensor, "k n"]:
        """Positions in the pool of every class's candidates."""
        if self.search == "first":
            return torch.arange(self.candidates, device=device).expand(len(self.classes), -1)
        return best(pool.scores, torch.tensor(self.classes, device=device), self.candidates)

    # --- optimise ------------------------------------------------------------------------------------------

    def image(self, nets: Nets, w: Float[Tensor, "n d"]) -> Float[Tensor, "n c s s"]:
        """Images of styles with the stored noise, as the target gets them before the random crop; not clipped."""
        return shown(nets.g.synthesis(w), self.centre, self.target.facts()["size"])

    def cropped(self, x: Float[Tensor, "n c s s"], step: int) -> Float[Tensor, "n c s s"]:
        """The images under the step's random crop."""
        crop = ResizedCrop(size=x.shape[2], area=self.crop, aspect=(1, 1))
        return Augment(steps=(crop,), draw="batch")(x, seeded("style views", self.seed, step))

    def groups(self, count: int) -> list[slice]:
        """Classes whose `count` images each are in memory at a time."""
        each = max(1, self.chunk // count)
        return [slice(i, min(i + each, len(self.classes))) for i in range(0, len(self.classes), each)]

    # --- select again --------------------------------------------------------------------------------------

    @torch.no_grad()
    def confidence(self, nets: Nets, w: Float[Tensor, "k n d"], labels: Int[Tensor, " k"]) -> Float[Tensor, "k n"]:
        r"""Mean $p_y$ of the target over `draws` random views of each image."""
        steps = (ResizedCrop(size=self.target.facts()["size"], area=self.last_crop, aspect=self.last_aspect),)
        views = Augment(steps=(*steps, Flip()) if self.flip else steps, draw="batch")
        found = []
        for part, y in zip(w.flatten(0, 1).split(self.chunk), labels.repeat_interleave(w.shape[1]).split(self.chunk),
                           strict=True):  # fmt: skip
            x, total = self.image(nets, part).clamp(-1, 1), torch.zeros(len(part), device=w.device)
            for i in range(self.draws):
                said = nets.f(views(x, seeded("style selection", self.seed, i))).softmax(1)
                total += said.gather(1, y[:, None]).squeeze(1)
            found.append(total / max(self.draws, 1))
        return torch.cat(found).view(w.shape[:2])

    def finished(self, job: Job, nets: Nets, frames: Frames, curves: dict[str, list[Tensor]]) -> Output:
        """Everything stored: images of all candidates, the best of each class first; a diverged search fails.

        `latents` and `frames_latents` are styles w; `place` says which candidate (by the pool's score) an image was;
        `confidence` what the last selection said of it.  `meta["cost"]`: images made and images shown to the target
        per class, and how many of them with a gradient.
        """
        logs = {name: torch.stack(values) for name, values in curves.items()}
        self._check(job, logs)
        found = self._selected(nets, frames, torch.tensor(self.classes, device=job.device))
        return Output(found | {f"log_{name}": curve for name, curve in logs.items()}, {"cost": self._cost()})

    def _check(self, job: Job, logs: dict[str, Float[Tensor, " t"]]) -> None:
        """StageFailed where a curve is not finite or styles have left the generator's range."""
        for name, curve in logs.items():
            job.check_finite(f"{type(self).__name__} {name}", curve)
        farthest = float(logs["drift"].max())
        if farthest > FARTHEST:
            raise StageFailed(f"drift: expected styles within {FARTHEST:g} standard deviations of their start, found "
                              f"{farthest:.1f} (diverged); lower lr")  # fmt: skip

    def _selected(self, nets: Nets, frames: Frames, y: Int[Tensor, " k"]) -> dict[str, Tensor]:
        """Images and styles in the order of the last selection, and what it said."""
        w = frames.kept[-1]
        confidence = self.confidence(nets, w, y)
        order = confidence.argsort(dim=1, descending=True, stable=True) if self.draws else first_order(w)
        kept = [sample_major(state, order) for state in frames.kept]
        images = per_sample.reconstructions(
            lambda part: self.image(nets, part), kept[-1], y.repeat(self.candidates), nets.f, self.chunk
        )
        return images | {
            "latents": kept[-1],
            "frames_latents": torch.stack(kept),
            "frames_steps": torch.tensor(frames.steps),
            "place": order.T.flatten(),
            "confidence": sample_major(confidence, order),
        }

    def _cost(self) -> dict[str, int]:
        """Per class; the pool's images are made once for all classes and count in full for each.

        A candidate is made once per epoch, however many steps its gradient is used for.
        """
        search, last = self.candidates * self.epochs, self.candidates * (self.draws + 1)
        looks = (1 + self.flip) * self.pool
        return {"generated": self.pool + search + self.candidates, "shown": looks + search + last, "gradients": search}

    def decoder(self, device: torch.device | str) -> Callable[[Float[Tensor, "n d"]], Float[Tensor, "n c s s"]]:
        """What makes images of stored styles: of `latents` and of `frames_latents`."""
        nets = Nets(self.prior.generator(device), nn.Identity())
        return lambda w: self.image(nets, w)


def first_order(w: Float[Tensor, "k n d"]) -> Int[Tensor, "k n"]:
    """The candidates as they came."""
    return torch.arange(w.shape[1], device=w.device).expand(len(w), -1)


def sample_major(x: Float[Tensor, "k n *d"], order: Int[Tensor, "k n"]) -> Float[Tensor, "kn *d"]:
    """Rows in each class's order, best of every class first: as `per_sample.rows` labels them."""
    index = order.reshape(*order.shape, *([1] * (x.ndim - 2))).expand_as(x)
    return x.gather(1, index).transpose(0, 1).flatten(0, 1)


def to_images(decode: Callable[[Tensor], Tensor], w: Float[Tensor, "n d"], chunk: int = 64) -> Tensor:
    """uint8 images of styles, a chunk at a time."""
    with torch.no_grad():
        return torch.cat([to_uint8(decode(part)) for part in w.split(chunk)])

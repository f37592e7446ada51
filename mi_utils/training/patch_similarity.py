"""How far auxiliary patches are from private ones: the measured side of Patch-MI's Assumption 3."""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor, nn

from mi_utils.data import AnySource
from mi_utils.data.images import to_float
from mi_utils.data.pool import AuxiliaryPool
from mi_utils.metrics import sets
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Output, Stage

BLANK = -0.9  # a patch whose maximum is below this has no ink


def random_patches(
    images: UInt8[Tensor, "n c s s"], side: int, count: int, rng: torch.Generator
) -> Float[Tensor, "count d"]:
    """`count` patches of side x side px at uniform places of uniformly drawn images, flattened, in [-1, 1]."""
    n, _, height, width = images.shape
    which = torch.randint(n, (count,), generator=rng, device=images.device)
    span = torch.arange(side, device=images.device)
    top, left = (
        torch.randint(length - side + 1, (count, 1), generator=rng, device=images.device) + span
        for length in (height, width)
    )
    cut = images[which[:, None, None], :, top[:, :, None], left[:, None, :]]
    return to_float(cut).flatten(1)


def jensen_shannon(cross_entropy: float) -> float:
    r"""$\widehat{JS}=\max(0,\log 2-CE)$ nats, CE of the best two-sample classifier at equal priors.

    A lower bound up to sampling error: a weak classifier makes the sets look alike.
    """
    return max(0.0, math.log(2) - cross_entropy)


class PatchSimilarity(Stage):
    r"""JS$_p$ between the patches of private and auxiliary images, for each side p (specification, section 6).

    An MLP (128-128) learns to tell the two apart; its held-out cross-entropy bounds the divergence.  The
    evaluator's measurement: it reads private images and is never upstream of an attack.
    """

    private: AnySource
    auxiliary: AuxiliaryPool
    sides: tuple[int, ...] = (4, 6, 8, 12, 32)
    patches: Annotated[int, Field(ge=16)] = 20_000  # per set; half are held out
    iterations: Annotated[int, Field(ge=1)] = 2000
    batch: Annotated[int, Field(ge=2)] = 512
    skip_blank: bool = False
    seed: int = 0

    def compute(self, job: Job) -> Output:
        """`meta`: JS by side, and Fréchet distance and MMD on 32 principal components of 6 px patches."""
        private = self.private.load().images.to(job.device)
        auxiliary = self.auxiliary.images(job.device)
        found = {str(side): self._divergence(private, auxiliary, side, job) for side in self.sides}
        return Output(meta={"js": found, **self._moments(private, auxiliary)})

    def _pair(self, private: Tensor, auxiliary: Tensor, side: int) -> tuple[Tensor, Tensor]:
        rng = seeded("patches", self.seed, side, device=private.device)
        kept = []
        for images in (private, auxiliary):
            patches = random_patches(images, side, 2 * self.patches if self.skip_blank else self.patches, rng)
            inked = patches.amax(1) >= BLANK
            kept.append(patches[inked][: self.patches] if self.skip_blank else patches)
        count = min(map(len, kept))
        return kept[0][:count], kept[1][:count]

    def _divergence(self, private: Tensor, auxiliary: Tensor, side: int, job: Job) -> float:
        a, b = self._pair(private, auxiliary, side)
        x, y = torch.cat([a, b]), torch.cat([torch.ones(len(a)), torch.zeros(len(b))]).to(a)
        rng = seeded("patch critic", self.seed, side)
        order = torch.randperm(len(x), generator=rng).to(x.device)
        train, test = order[: len(x) // 2], order[len(x) // 2 :]
        net = mlp(x.shape[1], rng).to(x.device)
        adam = torch.optim.Adam(net.parameters(), 1e-3, weight_decay=1e-4)
        for _ in job.steps(self.iterations, {f"net{side}": net, f"adam{side}": adam, f"rng{side}": rng}):
            index = train[torch.randint(len(train), (self.batch,), generator=rng).to(x.device)]
            loss = F.binary_cross_entropy_with_logits(net(x[index]).squeeze(1), y[index])
            adam.zero_grad()
            loss.backward()
            adam.step()
        with torch.no_grad():
            held_out = F.binary_cross_entropy_with_logits(net(x[test]).squeeze(1).double(), y[test].double())
        return jensen_shannon(held_out.item())

    def _moments(self, private: Tensor, auxiliary: Tensor) -> dict[str, float]:
        """Fréchet distance and MMD of 6 px patches on the 32 leading principal components of their union."""
        a, b = (x[:2000].double() for x in self._pair(private, auxiliary, 6))
        union = torch.cat([a, b])
        mean = union.mean(0)
        _, _, axes = torch.linalg.svd(union - mean, full_matrices=False)
        a, b = ((x - mean) @ axes[:32].T for x in (a, b))
        return {"fd": sets.frechet_distance(a, b), "mmd2": sets.mmd_rbf(a, b)}


def mlp(inputs: int, rng: torch.Generator) -> nn.Module:
    """inputs-128-128-1 with ReLU; weights are a function of `rng` alone."""
    layers = [nn.Linear(inputs, 128), nn.Linear(128, 128), nn.Linear(128, 1)]
    for layer in layers:
        bound = layer.in_features**-0.5
        layer.weight.data.uniform_(-bound, bound, generator=rng)
        layer.bias.data.zero_()
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])

r"""A toy in the plane: do prototypes keep a search on all four blobs of a class?

The private class lies in four blobs on a ring, three other classes between them and in the middle.  The prior is
$G(z)=3z$; a search moves points themselves (PPA) or tunes a residual map $F_\phi(z)=z+\mathrm{MLP}_\phi(z)$.
Source: specification 2.5.
"""

from typing import Annotated, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from mi_utils.attacks import memory
from mi_utils.attacks.memory import unit
from mi_utils.attacks.objective import LOSSES
from mi_utils.report.figures import PALETTE, Picture
from mi_utils.report.panels import panels
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Output, Stage

RADIUS, WIDTH, NEAR = 3.0, 0.35, 0.9  # of the ring, of a blob, of what counts as on it
OTHERS = (45.0, 225.0)  # degrees of two other classes on the ring; a third one lies in its middle
FEATURES = 16
Method = Literal["PPA", "map CE", "IMR, rho 1", "IMR, rho 8", "IMR, rho 8, tau 1", "IDR"]
METHODS: tuple[Method, ...] = get_args(Method)


def ring(degrees: Float[Tensor, " k"]) -> Float[Tensor, "k 2"]:
    """Points of the ring."""
    return RADIUS * torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], 1)


def blobs() -> Float[Tensor, "4 2"]:
    """Centres of the private class."""
    return ring(torch.tensor([0.0, 90.0, 180.0, 270.0]))


def data(count: int, rng: torch.Generator) -> tuple[Float[Tensor, "n 2"], Int[Tensor, " n"]]:
    """Points of all classes: class 0 in four blobs, classes 1 to 3 in one each."""
    centres = torch.cat([blobs(), ring(torch.tensor(OTHERS)), torch.zeros(1, 2)])
    y = torch.tensor([0, 0, 0, 0, 1, 2, 3]).repeat(count)
    return centres.repeat(count, 1) + WIDTH * torch.randn(7 * count, 2, generator=rng), y


def occupied(x: Float[Tensor, "n 2"], own: Bool[Tensor, " n"]) -> int:
    """Blobs that are the nearest one of at least a twentieth of the points, those counted that the classifier owns."""
    nearest = torch.cdist(x, blobs()).argmin(1)
    shares = torch.stack([((nearest == k) & own).double().mean() for k in range(4)])
    return int((shares >= 0.05).sum())


def on_blobs(x: Float[Tensor, "n 2"]) -> float:
    """Share of the points that lie on a blob."""
    return (torch.cdist(x, blobs()).amin(1) < NEAR).double().mean().item()


def _net(sizes: tuple[int, ...], rng: torch.Generator) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, o in zip(sizes, sizes[1:], strict=False):
        layer = nn.Linear(i, o)
        layer.weight.data = torch.randn(o, i, generator=rng) / i**0.5
        layer.bias.data.zero_()
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers)


class ToyMemory(Stage):
    """One search; `path` (epochs + 1, n, 2), `occupied` blobs and `share` of points on them (epochs + 1,)."""

    method: Method
    count: Annotated[int, Field(ge=4)] = 64
    epochs: Annotated[int, Field(ge=1)] = 80
    lr: Annotated[float, Field(gt=0)] = 0.003
    seed: int = 0

    def compute(self, job: Job) -> Output:
        """Train the classifier, then search from points of the prior."""
        body, head = self._classifier()
        z = torch.randn(self.count, 2, generator=seeded("toy starts", self.seed))
        bend = _net((2, 32), seeded("toy map", self.seed))
        out = nn.Linear(32, 2)
        nn.init.zeros_(out.weight), nn.init.zeros_(out.bias)
        w = z.clone()
        direct = self.method == "PPA"
        moved = [w.requires_grad_()] if direct else [*bend.parameters(), *out.parameters()]
        adam = torch.optim.Adam(moved, self.lr, betas=(0.1, 0.1) if direct else (0.0, 0.99))
        prototypes = memory.initial_prototypes((16, FEATURES), True, seeded("toy W", self.seed), z.device)[None]
        m, filled = torch.zeros(1, 4, FEATURES), torch.zeros(1, 4, dtype=torch.bool)
        with torch.no_grad():
            everyone = 3 * torch.randn(400, 2, generator=seeded("toy memory", self.seed))
            h = body(everyone)
            m, filled = memory.remembered(m, filled, unit(h)[None], head(h).argmax(1)[None], 0.0)
        path, kept = [], []
        for _ in range(self.epochs + 1):
            x = 3 * (w if direct else z + out(bend(z)))
            path.append(x.detach().clone())
            h = body(x)
            e, o = unit(h)[None], head(h)
            kept.append(occupied(x.detach(), o.argmax(1) == 0))
            adam.zero_grad()
            self._loss(e, o, prototypes, m, filled).mean().backward()
            adam.step()
            prototypes = unit(prototypes - 0.1 * memory.imr_gradient(e.detach(), prototypes, self.rho, self.tau))
            m, filled = memory.remembered(m, filled, e.detach(), o.argmax(1)[None], 0.7)
        share = torch.tensor([on_blobs(x) for x in path])
        return Output({"path": torch.stack(path), "occupied": torch.tensor(kept), "share": share})

    @property
    def rho(self) -> int:
        """Positive prototypes of sixteen."""
        return 1 if self.method == "IMR, rho 1" else 8

    @property
    def tau(self) -> float:
        """Temperature of IMR."""
        return 1.0 if self.method.endswith("tau 1") else 0.1

    def _loss(self, e: Tensor, o: Tensor, prototypes: Tensor, m: Tensor, filled: Tensor) -> Float[Tensor, " n"]:
        y = torch.zeros(len(o), dtype=torch.long)
        if self.method == "PPA":
            return LOSSES["poincare"](o, y)
        found = LOSSES["ce"](o, y)
        if self.method.startswith("IMR"):
            found = found + memory.imr_loss(e, prototypes, self.rho, self.tau)[0]
        if self.method == "IDR":
            found = found + memory.idr_loss(e, m, filled, y[:1], 0.1)[0]
        return found

    def _classifier(self) -> tuple[nn.Module, nn.Module]:
        """An MLP of the plane with 16 penultimate features, trained on private points."""
        rng = seeded("toy classifier", self.seed)
        body, head = _net((2, 32, FEATURES), rng), nn.Linear(FEATURES, 4)
        nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
        x, y = data(60, rng)
        adam = torch.optim.Adam([*body.parameters(), *head.parameters()], 0.01)
        for _ in range(400):
            adam.zero_grad()
            nn.functional.cross_entropy(head(body(x)), y).backward()
            adam.step()
        return body.requires_grad_(False), head.requires_grad_(False)


def figure(found: dict[str, dict[str, Tensor]]) -> Picture:
    """Where the points end, and how many of them are on a blob from epoch to epoch."""
    x, y = data(40, seeded("toy figure"))
    with panels([*found, "points on a blob (%)"], 2.3, 2.6) as (picture, axes):
        for axis, tensors in zip(axes, found.values(), strict=False):
            for k in range(4):
                axis.scatter(*x[y == k].T, s=3, color=PALETTE[k], alpha=0.35, label=f"private, class {k}")
            axis.scatter(*tensors["path"][0].T, s=4, color="#999999", label="starts")
            axis.scatter(*tensors["path"][-1].T, s=8, color="#222222", label="ends")
            axis.set(xlim=(-6, 6), ylim=(-6, 6), aspect="equal", xticks=(), yticks=())
        for i, (name, tensors) in enumerate(found.items()):
            axes[-1].plot(100 * tensors["share"], color=PALETTE[i], label=name)
        axes[-1].set(xlabel="epoch", ylim=(0, 100))
        picture.legend(*axes[-1].get_legend_handles_labels(), loc="outside right lower")
    return picture

"""What the attacks share that search every reconstruction on its own: checks, gradients, collection.

Frozen networks in eval mode treat images one by one, so all classes and samples are one batch; `chunk`
bounds memory and changes nothing else.  Rows are ordered sample by sample, in each the classes in order.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mi_utils.attacks.identity import Views, identity_loss
from mi_utils.data.images import to_uint8
from mi_utils.errors import UserError
from mi_utils.runtime import generator as seeded
from mi_utils.training.classifier import TrainClassifier


class Prior(Protocol):
    """A stage that has trained a generator."""

    def facts(self) -> dict:
        """At least `channels` and `size` of its images."""


def check(target: TrainClassifier, classes: tuple[int, ...], prior: Prior | None = None) -> None:
    """Class ids and image shape must be the target's; UserError before the first step."""
    facts = target.facts()
    known = len(facts["classes"])
    if not classes or not 0 <= min(classes) <= max(classes) < known:
        raise UserError(f"classes: expected ids in 0..{known - 1} (the target's), found {classes}")
    if prior is None:
        return
    takes, makes = ((f["channels"], f["size"], f["size"]) for f in (facts, prior.facts()))
    if takes != makes:
        raise UserError(f"prior: expected images {takes} as the target takes, found {makes}")


def rows(classes: tuple[int, ...], samples: int, device: torch.device) -> Int[Tensor, " n"]:
    """Labels of all reconstructions: the classes in order, `samples` times."""
    return torch.tensor(classes, device=device).repeat(samples)


def normal(
    name: str, seed: int, classes: tuple[int, ...], samples: int, *shape: int, device: torch.device
) -> Float[Tensor, "n *shape"]:
    """N(0, I) starts in the order of `rows`; a class's own do not depend on the other classes."""
    drawn = [
        torch.randn((samples, *shape), generator=seeded(name, seed, y, device=device), device=device) for y in classes
    ]
    return torch.stack(drawn, 1).flatten(0, 1)


def stream(views: Views, name: str, seed: int, step: int, where: slice) -> torch.Generator:
    """The transformation block's stream at a step: one draw for all chunks, or new draws in each.

    Only with `transform.draw` "sample" does `chunk` change what is drawn.  A CPU stream serves every device.
    """
    chunk = (where.start,) if views.transform.draw == "sample" else ()
    return seeded(f"{name} views", seed, step, *chunk)


def gradients(
    loss: Callable[[Tensor, slice], Float[Tensor, " m"]], x: Float[Tensor, "n *shape"], chunk: int
) -> tuple[Float[Tensor, "n *shape"], Float[Tensor, " n"]]:
    r"""($\partial\ell_j/\partial x_j$, $\ell_j$) per sample j; `loss` gets a part of x and where it lies."""
    slopes, losses = [], []
    for start in range(0, len(x), chunk):
        where = slice(start, start + chunk)
        part = x.detach()[where].requires_grad_()
        values = loss(part, where)
        slopes.append(torch.autograd.grad(values.sum(), part)[0])
        losses.append(values.detach())
    return torch.cat(slopes), torch.cat(losses)


@torch.no_grad()
def reconstructions(
    render: Callable[[Tensor], Float[Tensor, "m c s s"]],
    x: Float[Tensor, "n *shape"],
    y: Int[Tensor, " n"],
    target: nn.Module,
    chunk: int,
) -> dict[str, Tensor]:
    """Images (uint8), labels, and `losses` (N,): -log p_y of each image as it is before it becomes 8-bit."""
    images, losses = [], []
    for part, label in zip(x.split(chunk), y.split(chunk), strict=True):
        image = render(part)
        images.append(to_uint8(image))
        losses.append(identity_loss(target(image)[None], label, "loss"))
    return {"images": torch.cat(images), "labels": y, "losses": torch.cat(losses)}

"""What a patch critic and the target see: for the notebook's sliders, no stage reads this."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mi_utils import runtime
from mi_utils.data.augment import Augment
from mi_utils.data.images import shuffled_patches, to_float, to_uint8
from mi_utils.report import figures
from mi_utils.report.figures import Picture
from mi_utils.runtime import generator as seeded
from mi_utils.studies.evaluation import drawn_per_class
from mi_utils.studies.patch_mi.settings import CIFAR_BLOCK, TUNED_BLOCK, handwriting_block
from mi_utils.studies.plan import Plan

PATCHES = (1, 2, 4, 6, 8, 12, 16, 32)  # px
STRENGTHS = (0.25, 0.5, 1.0, 1.5, 2.0)
COUNT = 10


def patches(plan: Plan) -> Callable[..., Picture]:
    """`draw(problem, patch)`: auxiliary and private images, and both with their patches in a random order.

    A critic of pure p x p patches cannot tell an image from its shuffled patches: where the two shuffled rows look
    alike it leaves the generator free (Assumption 3).
    """

    def draw(problem: str, patch: int) -> Picture:
        rows = {}
        for name, images in shown(plan, problem).items():
            rows |= {name: images, f"{name}, shuffled": shuffled(images, patch)}
        return figures.image_grid(rows, first=COUNT, cell=0.6, title=f"{problem}: patches of {patch} px")

    return draw


def transformations(plan: Plan, device: str) -> Callable[..., Picture]:
    """`draw(problem, block, strength, number)`: views A_v x of one auxiliary and one private image.

    `strength` scales the handwriting block alone; `number` is that of the random draw.
    """
    place = runtime.device(device)

    def draw(problem: str, block: str, strength: float, number: int) -> Picture:
        transform, rows = blocks(strength)[block], {}
        for name, images in shown(plan, problem).items():
            rng = seeded("preview", number, device=place)
            x = to_float(images[:1].to(place))
            views = torch.cat([x, *(transform(x, rng) for _ in range(COUNT - 1))])
            rows[name] = to_uint8(views).cpu()
        heads = ["image", *(f"view {i}" for i in range(2, COUNT + 1))]
        return figures.image_grid(rows, columns=heads, first=COUNT, cell=0.6, title=f"{problem}: {block}\n")

    return draw


def blocks(strength: float = 1.0) -> dict[str, Augment]:
    """The transformation blocks that the study compares."""
    return {
        "released, handwriting": handwriting_block(strength, "sample"),
        "tuned": TUNED_BLOCK,
        "released, CIFAR-10": CIFAR_BLOCK,
    }


def shown(plan: Plan, problem: str) -> dict[str, Tensor]:
    """A few auxiliary images of the paper's pool and a few private ones, uint8 (n, C, S, S)."""
    bench = next(b for b in plan.notes["benches"] if b.problem.name == problem)
    classes = bench.problem.classes
    private = drawn_per_class(bench.problem.train.load().only_classes(list(classes)), -(-COUNT // len(classes)))
    return {"auxiliary": bench.pool().images("cpu")[:COUNT], "private": private.images[:COUNT]}


def shuffled(images: Tensor, patch: int) -> Tensor:
    """The p x p squares of each image in a random order; what p does not divide is cut at the right and below."""
    side = images.shape[2]
    kept = side // patch * patch
    mixed = shuffled_patches(images[:, :, :kept, :kept].contiguous(), patch, seeded("preview patches"))
    return F.pad(mixed, (0, side - kept, 0, side - kept))

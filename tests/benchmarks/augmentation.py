"""Random transformations: all images at once with draws of their own, against a loop over images."""

import torch

from mi_utils.data.augment import Affine, Augment, Flip, ResizedCrop
from mi_utils.runtime import generator
from tests.benchmarks.harness import Comparison, benchmark, clocked


@benchmark("augmentation")
def augmentation(device: torch.device) -> Comparison:
    """The same transform of the same images."""
    steps = (Affine(degrees=10, scale=(0.9, 1.1)), ResizedCrop(size=32), Flip())
    augment = Augment(steps=steps)
    images = torch.rand((256, 3, 32, 32), device=device) * 2 - 1
    rng = generator("benchmark")

    def plain() -> torch.Tensor:
        return torch.cat([augment(image, rng) for image in images.split(1)])

    size = "256 images 3×32×32: affine, resized crop, flip"
    return Comparison(clocked(plain, device), clocked(lambda: augment(images, rng), device), size)

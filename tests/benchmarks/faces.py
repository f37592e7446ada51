"""Procedural faces: whole batches at a time, against one image after another."""

import torch

from mi_utils.data.face_drawing import render
from mi_utils.data.face_factors import Values, identities, views
from tests.benchmarks.harness import Comparison, benchmark, clocked, sampled

IMAGES, SIZE, SHARE = 1000, 64, 0.05
RATE = 2000  # images a second


@benchmark("faces", threads=2)
def faces(device: torch.device) -> Comparison:
    """The same images of 40 people; the seconds asked for are those of RATE."""
    ids = torch.arange(40, device=device).repeat(IMAGES // 40)
    people, seen = identities(ids), views(ids, "train", torch.arange(IMAGES, device=device) // 40)

    def one(values: Values, i: int) -> Values:
        return {name: value[i : i + 1] for name, value in values.items()}

    def singly() -> None:
        for i in range(int(IMAGES * SHARE)):
            render(one(people, i), one(seen, i), SIZE)

    fast = clocked(lambda: render(people, seen, SIZE), device)
    return Comparison(
        sampled(singly, device, SHARE),
        fast,
        f"{IMAGES} faces of {SIZE} px",
        measures=lambda: {"images_per_second": IMAGES / min(fast() for _ in range(3))},
        most={"fast_seconds": IMAGES / RATE},
    )

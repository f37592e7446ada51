"""Numbers that a dependency upgrade must not change unnoticed: `python -m tests.golden` records them anew.

They are small and fixed, from the operations that the attacks stand on. tests/golden.json holds them with the
versions that made them; tests/test_golden.py compares.
"""

import importlib.metadata
import json
import math
import platform
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mi_utils import runtime
from mi_utils.data import Faces, LatinSheet
from mi_utils.metrics import perceptual
from mi_utils.metrics.ddcs import ddcs
from mi_utils.models import perceptual as nets

FILE = Path(__file__).with_name("golden.json")
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pillow", "scikit-learn", "stlpips-pytorch")


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=runtime.generator("golden", *shape))


def pictures(n: int, word: str) -> Tensor:
    coarse = torch.rand(n, 3, 7, 7, generator=runtime.generator("golden", word))
    return (255 * F.interpolate(coarse, (32, 32), mode="bilinear")).to(torch.uint8)


def random_streams() -> Tensor:
    stream = runtime.generator("golden")
    return torch.cat(
        [torch.randn(3, generator=stream), torch.rand(3, generator=stream), torch.randperm(9, generator=stream)]
    )


def convolution() -> Tensor:
    return F.conv2d(drawn(2, 3, 16, 16), drawn(4, 3, 3, 3), stride=2, padding=1).flatten()[::32]


def resizing() -> Tensor:
    return F.interpolate(drawn(1, 1, 24, 24), (9, 9), mode="bicubic", antialias=True).flatten()[::9]


def embedding() -> Tensor:
    return perceptual.distances(pictures(2, "a"), pictures(3, "b"), nets.load("st-lpips-alex")).flatten()


def coverage() -> Tensor:
    found = ddcs(perceptual.nearest(pictures(8, "fake"), pictures(9, "real"), nets.load("st-lpips-alex")))
    return torch.tensor([found.ddcs, found.coverage, found.closeness, found.effective])


def training() -> Tensor:
    """Losses of five steps of Adam."""
    with runtime.isolated(torch.device("cpu"), "golden"):
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.LazyLinear(5)
        )
        x, y = drawn(16, 3, 8, 8), torch.arange(16) % 5
        net(x)
        adam, losses = torch.optim.Adam(net.parameters(), lr=0.01), []
        for _ in range(5):
            loss = F.cross_entropy(net(x), y)
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(loss.detach())
    return torch.stack(losses)


def images() -> Tensor:
    """Means and spreads of drawn faces and glyphs."""
    faces = Faces(identities=2, per_identity=2).load().images.double()
    glyphs = LatinSheet(symbols="digits", channels=1, limit=12).load().images.double()
    return torch.stack([faces.mean(), faces.std(), glyphs.mean(), glyphs.std()])


# Each with the largest relative change that another processor may make by rounding.
VALUES: dict[str, tuple[Callable[[], Tensor], float]] = {
    "random streams": (random_streams, 1e-6),
    "convolution": (convolution, 1e-4),
    "resizing": (resizing, 1e-4),
    "perceptual distances": (embedding, 1e-3),
    "DDCS": (coverage, 1e-3),
    "five training steps": (training, 1e-2),
    "drawn images": (images, 1e-3),
}


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def computed() -> dict[str, list[float]]:
    return {name: [float(value) for value in make()] for name, (make, _) in VALUES.items()}


def change(old: list[float], new: list[float]) -> float:
    """Largest difference, relative to the largest of the old values; infinite for another number of them."""
    if len(old) != len(new) or not all(map(math.isfinite, new)):
        return math.inf
    return max(abs(a - b) for a, b in zip(old, new, strict=True)) / max(map(abs, old))


def verdict(recorded: dict, installed: dict[str, str], values: dict[str, list[float]]) -> str:
    """What changed, by how much, with which upgrade, and what to do; empty where nothing did."""
    changes = {name: change(recorded["values"].get(name, []), found) for name, found in values.items()}
    wrong = [f"{n} by {c:.2g} (at most {VALUES[n][1]:g})" for n, c in changes.items() if c > VALUES[n][1]]
    if not wrong:
        return ""
    old = recorded["versions"]
    moved = [f"{name} {old.get(name)} -> {found}" for name, found in installed.items() if old.get(name) != found]
    cause = f"a dependency upgrade ({', '.join(moved)})" if moved else "no dependency but the code or the machine"
    return (
        f"{cause} changed numbers, relative to their size: {'; '.join(wrong)}. Stored results are not what this "
        "installation would compute: install the recorded versions (make test does, from requirements.lock), or "
        "accept the new numbers: `python -m tests.golden`, then `python -m mi_utils clean` and `make reproduce`"
    )


if __name__ == "__main__":
    text = json.dumps({"versions": versions(), "values": computed()}, indent=1)
    FILE.write_text(text + "\n", encoding="utf-8")

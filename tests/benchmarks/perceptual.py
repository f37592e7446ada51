"""All pairs of a perceptual distance: embeddings and one matrix product, against the package's own calls."""

import torch
import torch.nn.functional as F

from mi_utils.metrics import matching, perceptual
from mi_utils.metrics.screening import FULL, pairs
from mi_utils.models import perceptual as nets
from mi_utils.runtime import generator
from tests.benchmarks.harness import Comparison, benchmark, clocked, sampled
from tests.packages import st_lpips

SIDE = 64
PAIRS = 64  # that the package is timed on


def pictures(n: int, word: str) -> torch.Tensor:
    """Coloured pictures with structure of several sizes, uint8 (n,3,64,64)."""
    rng = generator("benchmark pictures", word)
    parts = [torch.rand(n, 3, side, side, generator=rng) for side in (4, 16, SIDE)]
    weights = (0.6, 0.3, 0.1)
    image = sum(w * F.interpolate(x, (SIDE, SIDE), mode="bilinear") for w, x in zip(weights, parts, strict=True))
    return (255 * image).to(torch.uint8)


def package_distances(fake: torch.Tensor, real: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The package's own value of the pairs (fake[i], real[i])."""
    net = st_lpips("alex").to(device)
    with torch.no_grad():
        return net(*(perceptual.to_rgb_float(x.to(device)) for x in (fake, real))).flatten().cpu()


@benchmark("stlpips-all-pairs", threads=2, rounds=2)
def all_pairs(device: torch.device, n: int = 2000) -> Comparison:
    """Nearest neighbours both ways among n x n pairs."""
    fake, real, net = pictures(n, "fake"), pictures(n, "real"), nets.load("st-lpips-alex").to(device)

    def plain() -> torch.Tensor:
        return package_distances(fake[:PAIRS], real[:PAIRS], device)

    def measures() -> dict[str, float]:
        """Largest error over pairs, and how much nearer than ours the package's nearest is, at 8 x 40 pairs."""
        ours = perceptual.distances(fake[:PAIRS], real[:PAIRS], net).diagonal().cpu()
        few = perceptual.nearest(fake[:8], real[:40], net)
        theirs = package_distances(fake[:8].repeat_interleave(40, 0), real[:40].repeat(8, 1, 1, 1), device).view(8, 40)
        behind = theirs.gather(1, few.real_of_fake[:, None]).squeeze(1) - theirs.amin(1)
        return {"max_abs_error": float((ours - plain()).abs().max()), "argmin_gap": float(behind.max())}

    return Comparison(
        sampled(plain, device, share=PAIRS / n**2),
        clocked(lambda: perceptual.nearest(fake, real, net), device),
        f"ST-LPIPS (AlexNet), {n} x {n} images of {SIDE} px; package: {PAIRS} pairs, extrapolated",
        least=500,
        measures=measures,
        most={"max_abs_error": 1e-5, "argmin_gap": 1e-6},
    )


@benchmark("stlpips-product", threads=2, rounds=5)
def product(device: torch.device, n: int = 2000, d: int = 158_144) -> Comparison:
    """What the tiles of the search, with norms and minima, cost beside a bare float32 product (ratio 1: nothing)."""
    a, b = (torch.randn(n, d, generator=generator("rows", w)).mul_(1e-3).to(device) for w in ("a", "b"))

    def tiles() -> None:
        best = torch.full((n,), torch.inf, device=device), torch.full((n,), torch.inf, device=device)
        held = FULL.rows(b)
        for rows, least in zip(a.split(256), best[0].split(256), strict=True):
            pairs(FULL.rows(rows), held, FULL, least, best[1])

    return Comparison(
        clocked(lambda: a @ b.T, device),
        clocked(tiles, device),
        f"float32 product of {n} x {d} rows; fast: the search's tiles of the same rows",
        least=0.6,
    )


@benchmark("stlpips-memory", threads=2, rounds=0)
def memory(device: torch.device, n: int = 10_000) -> Comparison:
    """Memory of n x n pairs within the default budget."""
    fake, real, net = pictures(n, "fake"), pictures(n, "real"), nets.load("st-lpips-alex").to(device)
    return Comparison(
        sampled(lambda: package_distances(fake[:PAIRS], real[:PAIRS], device), device, share=PAIRS / n**2),
        clocked(lambda: perceptual.nearest(fake, real, net, budget=matching.BUDGET), device),
        f"ST-LPIPS (AlexNet), {n} x {n} images of {SIDE} px, budget 2 GB; package: {PAIRS} pairs, extrapolated",
        most={"fast_peak_mib": 2e9 / 2**20},
    )


@benchmark("stlpips-screening", rounds=1, device="cuda")
def screening(device: torch.device, n: int = 30_000) -> Comparison:
    """On a GPU: float32 products against bf16 with exact differences of what its bound leaves open."""
    fake, real, net = pictures(n, "fake"), pictures(n, "real"), nets.load("st-lpips-alex").to(device)
    found = {}

    def way(screen: str) -> None:
        found[screen] = perceptual.nearest(fake, real, net, screen=screen)

    def measures() -> dict[str, float]:
        full, coarse = found["full"], found["bf16"]
        return {"max_abs_error": float((full.q_fake - coarse.q_fake).abs().max())}

    return Comparison(
        clocked(lambda: way("full"), device),
        clocked(lambda: way("bf16"), device),
        f"ST-LPIPS (AlexNet), {n} x {n} images of {SIDE} px",
        measures=measures,
        most={"fast_seconds": 60, "max_abs_error": 1e-5},
    )

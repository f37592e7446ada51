"""Set metrics of two feature matrices, against the packages that the field uses."""

import contextlib
import io
import warnings

import numpy as np
import torch
from prdc import compute_prdc
from pytorch_fid.fid_score import calculate_frechet_distance

from mi_utils.metrics import sets
from mi_utils.runtime import generator
from tests.benchmarks.harness import Comparison, benchmark, clocked

K = 5


def matrices(n: int, d: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of n reals and n fakes: correlated, with a spectrum that falls off; the fakes are a little off."""
    rng = generator("benchmark features", n, d)
    mixing = torch.randn(d, d, generator=rng) / torch.arange(1, d + 1)[:, None] ** 0.5
    real, fake = (torch.randn(n, d, generator=rng) @ mixing for _ in range(2))
    return real.to(device), (1.05 * fake + 0.05).to(device)


@benchmark("prdc", threads=2, rounds=5)
def prdc(device: torch.device, n: int = 5000, d: int = 512) -> Comparison:
    """Precision, recall, density and coverage."""
    real, fake = matrices(n, d, device)
    arrays = [x.cpu().numpy() for x in (real, fake)]

    def plain() -> dict[str, float]:
        with contextlib.redirect_stdout(io.StringIO()):
            return compute_prdc(*arrays, K)

    def measures() -> dict[str, float]:
        """Largest difference of the four."""
        ours, theirs = sets.prdc(real, fake, K), plain()
        return {"max_difference": max(abs(ours[name] - float(theirs[name])) for name in ours)}

    return Comparison(
        clocked(plain, device),
        clocked(lambda: sets.prdc(real, fake, K), device),
        f"{n} x {n} x {d} float32, k = {K}; the prdc package on the CPU",
        least=5,
        measures=measures,
        most={"max_difference": 1e-9},
    )


@benchmark("frechet", threads=2, rounds=3)
def frechet(device: torch.device, n: int = 5000, d: int = 2048) -> Comparison:
    """Frechet distance of as many features as FID-Inception has."""
    real, fake = matrices(n, d, device)
    arrays = [x.cpu().double().numpy() for x in (real, fake)]

    def plain() -> float:
        moments = [f(x) for x in arrays for f in (lambda v: v.mean(0), lambda v: np.cov(v, rowvar=False))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pytorch_fid: scipy.linalg.sqrtm(disp=)
            return float(calculate_frechet_distance(*moments))

    def measures() -> dict[str, float]:
        """Error relative to the package's value."""
        return {"relative_error": abs(sets.frechet_distance(real, fake) / plain() - 1)}

    return Comparison(
        clocked(plain, device),
        clocked(lambda: sets.frechet_distance(real, fake), device),
        f"{n} x {n} x {d}, float64; pytorch_fid on the CPU, moments included",
        measures=measures,
        most={"relative_error": 1e-6},
    )

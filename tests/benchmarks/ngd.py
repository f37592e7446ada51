"""Natural gradient: what it adds to a step of a generator's training; DDCS of many reconstructions."""

import torch

from mi_utils.data import Faces
from mi_utils.metrics import matching, perceptual
from mi_utils.models import perceptual as nets
from mi_utils.runtime import generator
from mi_utils.stage import Stage
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.preconditioners import Nystrom, PerceptualBasis, Plain, Preconditioner
from mi_utils.training.stylegan2 import TrainStyleGAN2
from mi_utils.training.transfer import TransferStyleGAN2
from tests.benchmarks.harness import Comparison, Way, benchmark, clocked, sampled
from tests.benchmarks.patch_mi import Clock
from tests.benchmarks.perceptual import PAIRS, package_distances, pictures

STEPS = 17  # the first one, with R1, is not timed; one in sixteen of the others has R1
DEAREST = 1 / 1.5  # a step may cost one and a half times as much
PRIVATE, MADE = 5_000, 20_000
LPIPS_ALEX_64 = 31_872  # length of an embedding of LPIPS (AlexNet) at 64 px, whose weights are not at hand
MINUTES = {"fast_seconds": 180.0}


def many(n: int, word: str) -> torch.Tensor:
    """`pictures`, made a part at a time: it holds floats."""
    return torch.cat([pictures(1000, f"{word} {i}") for i in range(n // 1000)])


def stages(device: torch.device, *arms: tuple[float, int]) -> list[TransferStyleGAN2]:
    """Trainings at 32 px of weight lambda with k eigenvectors (0: the plain gradient), all below them computed."""
    people = {"identities": 20, "per_identity": 2}
    target = TrainClassifier(
        train=Faces(**people), test=Faces(**people, split="test"), architecture="ir_deep", width=8, iterations=2
    )
    start = TrainStyleGAN2(public=Faces(identities=20, first=1000, per_identity=4), steps=1)
    auxiliary = Faces(identities=20, first=2000, per_identity=4)
    made = []
    for weight, k in arms:
        # What a step costs depends on the size of the basis, not on how good it is: few images make it.
        used: Preconditioner = Nystrom(basis=PerceptualBasis(prior=start, k=k, images=1, rounds=1)) if k else Plain()
        fields = {"public": auxiliary, "target": target, "steps": STEPS, "lambda_adv": weight, "preconditioner": used}
        made.append(TransferStyleGAN2.of(start, **fields))
    for stage in (target, start, *(s.preconditioner.basis for s in made if hasattr(s.preconditioner, "basis"))):
        stage.result(device)
    return made


def stepping(stage: Stage, device: torch.device) -> Way:
    """The seconds of a training's steps after the first."""

    def seconds() -> float:
        clock = Clock(device)
        stage.learn(clock)
        return clock.seconds

    return seconds


def steps(device: torch.device, weight: float, told: str) -> Comparison:
    """A training of this weight with the plain gradient against one of weight 1 with the natural gradient."""
    plain, natural = (stepping(stage, device) for stage in stages(device, (weight, 0), (1.0, 256)))
    size = f"StyleGAN2 of 32 px, batch 32, {STEPS - 1} steps; {told} against the natural gradient, 256 eigenvectors"
    return Comparison(plain, natural, size, least=DEAREST)


@benchmark("ngd-step", threads=2)
def ngd_step(device: torch.device) -> Comparison:
    """With the target's gradient in both."""
    return steps(device, 1.0, "the target's plain gradient")


@benchmark("ngd-step-transfer", threads=2)
def ngd_step_transfer(device: torch.device) -> Comparison:
    """Without a target in the plain way, so that the target's own pass counts too."""
    return steps(device, 0.0, "no target")


@benchmark("ddcs-32px", rounds=0)
def ddcs_32px(device: torch.device) -> Comparison:
    """Embeddings and all pairs of ST-LPIPS at 32 px."""
    real, made = (many(n, word)[:, :, ::2, ::2] for n, word in ((PRIVATE, "real"), (MADE, "fake")))
    net = nets.load("st-lpips-alex").to(device)
    return Comparison(
        sampled(lambda: package_distances(made[:PAIRS], real[:PAIRS], device), device, PAIRS / (PRIVATE * MADE)),
        clocked(lambda: perceptual.nearest(made, real, net), device),
        f"ST-LPIPS (AlexNet), {PRIVATE} x {MADE} images of 32 px; package: {PAIRS} pairs, extrapolated",
        most=MINUTES,
    )


@benchmark("ddcs-64px-length", rounds=0)
def ddcs_64px_length(device: torch.device) -> Comparison:
    """All pairs at the length of LPIPS at 64 px, of embeddings that are pixels and products of pixels."""
    real, made = (many(n, word) for n, word in ((PRIVATE, "real"), (MADE, "fake")))
    order = torch.randperm(3 * 64 * 64, generator=generator("order"))

    def embed(x: torch.Tensor) -> torch.Tensor:
        flat = x.to(device).flatten(1) / 255.0
        return torch.cat([flat, flat * flat[:, order.to(device)], flat.square()], 1)[:, :LPIPS_ALEX_64] * 1e-2

    def plain() -> torch.Tensor:
        a, b = embed(made[:PAIRS]), embed(real[:PAIRS])
        return torch.stack([(b - row).square().sum(1) for row in a])

    return Comparison(
        sampled(plain, device, PAIRS**2 / (PRIVATE * MADE)),
        clocked(lambda: matching.nearest(made, real, embed), device),
        f"{PRIVATE} x {MADE} embeddings of {LPIPS_ALEX_64} numbers; plain: differences of {PAIRS} x {PAIRS} pairs, "
        "extrapolated",
        most=MINUTES,
    )

"""LOMMA by GMI: all identities and restarts in one batch, against one reconstruction or one identity at a time."""

import torch

from mi_utils.attacks.gmi import GMI
from mi_utils.attacks.objective import Objective
from mi_utils.data import Faces
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.priors import TrainGMI
from mi_utils.training.statistics import FeatureStatistics
from mi_utils.training.student import TrainStudent
from tests.benchmarks.harness import Comparison, Way, benchmark
from tests.benchmarks.patch_mi import Clock

STEPS = 4
IDENTITIES, RESTARTS = 20, 5
NETS = "32 px, GMI prior of width 32, target and 3 students of width 16, random weights"


def prepared(identities: int, device: torch.device, **fields: int) -> GMI:
    """The attack on a target of that many identities, its networks next to untrained; computed but for the attack."""
    faces, public = {"identities": identities, "per_identity": 2}, Faces(first=10_000, per_identity=2)
    target = TrainClassifier(train=Faces(**faces), test=Faces(**faces, split="test"), width=16, iterations=2)
    kinds = ("cnn", "vggish", "separable")
    students = tuple(TrainStudent(teacher=target, public=public, architecture=kind, iterations=1) for kind in kinds)
    statistics = FeatureStatistics(target=target, public=public, count=20)
    attack = GMI(
        target=target,
        prior=TrainGMI(public=public, width=32, d_width=16, steps=5),
        objective=Objective(loss="logit", students=students, statistics=statistics),
        classes=tuple(range(identities)),
        samples=RESTARTS,
        iterations=STEPS + 1,
        **fields,
    )
    for stage in attack.upstream():
        stage.result(device)
    return attack


def stepping(stages: list[GMI], share: float, device: torch.device) -> Way:
    """The seconds of the stages' steps, which are this share of the whole."""

    def seconds() -> float:
        clock = Clock(device)
        for stage in stages:
            stage.compute(clock)
        return clock.seconds / share

    return seconds


def told(identities: int, plain: str) -> str:
    return f"{identities} identities × {RESTARTS} restarts, {STEPS} steps, {NETS}; {plain}"


@benchmark("lomma-batch", threads=2)
def lomma_batch(device: torch.device) -> Comparison:
    """One reconstruction at a time, timed on a tenth of them."""
    attack = prepared(IDENTITIES, device)
    single = [attack.model_copy(update={"classes": (y,), "samples": 1}) for y in attack.classes[: IDENTITIES // 2]]
    plain = stepping(single, len(single) / (IDENTITIES * RESTARTS), device)
    return Comparison(plain, stepping([attack], 1, device), told(IDENTITIES, "one at a time"), least=4)


@benchmark("lomma-identity", threads=2)
def lomma_identity(device: torch.device) -> Comparison:
    """The restarts of one identity at a time."""
    attack = prepared(IDENTITIES, device)
    single = [attack.model_copy(update={"classes": (y,)}) for y in attack.classes]
    size = told(IDENTITIES, "one identity at a time")
    return Comparison(stepping(single, 1, device), stepping([attack], 1, device), size, least=1.5)


@benchmark("lomma-identity-device", device="cuda")
def lomma_identity_device(device: torch.device) -> Comparison:
    """The paper's number of identities, one at a time timed on ten of them."""
    identities = 300
    attack = prepared(identities, device, chunk=identities * RESTARTS)
    single = [attack.model_copy(update={"classes": (y,)}) for y in range(10)]
    plain = stepping(single, len(single) / identities, device)
    size = told(identities, "one identity at a time")
    return Comparison(plain, stepping([attack], 1, device), size, least=20)

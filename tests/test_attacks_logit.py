"""GMI, KEDMI and VMI with a normal posterior against plain loops over one class; what holds for all three stages."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_attacks_stages import closure, sources
from torch.distributions import MultivariateNormal, kl_divergence
from toys import POOL, TARGET, resumed, same, tensors

from mi_utils.attacks import objective as objective_module
from mi_utils.attacks import per_sample
from mi_utils.attacks.gmi import GMI, momentum_step
from mi_utils.attacks.kedmi import KEDMI, Diagonal
from mi_utils.attacks.latent_search import Frames, LatentSearch, Noise
from mi_utils.attacks.objective import IdentityLoss, Objective
from mi_utils.attacks.vmi_normal import Normal, VMINormal
from mi_utils.data.images import to_float, to_uint8
from mi_utils.errors import UserError
from mi_utils.models.priors import LATENT
from mi_utils.runtime import generator
from mi_utils.stage import Job, StageFailed
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.priors import TrainGMI, TrainKEDMI
from mi_utils.training.statistics import FeatureStatistics
from mi_utils.training.student import TrainStudent

CPU = torch.device("cpu")
PUBLIC = POOL.source.model_copy(update={"size": 32})
OTHER = TARGET.model_copy(update={"seed": 1, "iterations": 1})
STUDENTS = tuple(TrainStudent(teacher=TARGET, public=PUBLIC, width=2, iterations=4, seed=i) for i in range(2))
STATISTICS = FeatureStatistics(target=TARGET, public=PUBLIC, count=20)
OBJECTIVES = {
    "CE": Objective(),
    "+LOM": Objective(loss="logit", statistics=STATISTICS),
    "+MA": Objective(students=STUDENTS),
    "LOMMA": Objective(loss="logit", students=STUDENTS, statistics=STATISTICS),
    "LOMMA sample": Objective(loss="logit", students=STUDENTS, statistics=STATISTICS, p_reg="sample"),
}
# Long enough that images, and what the target says of them, depend on the latent.
LEARNT = {"public": PUBLIC, "width": 8, "d_width": 8, "batch": 16, "critic_steps": 1, "steps": 100, "lr": 5e-3}
GMI_PRIOR = TrainGMI(**LEARNT)
KEDMI_PRIOR = TrainKEDMI(**LEARNT, target=TARGET, mbd_outputs=4, mbd_kernel=3)
COMMON = {"target": TARGET, "classes": (2, 0), "samples": 3, "iterations": 6, "frames": 4}
ATTACKS: dict[str, LatentSearch] = {
    "gmi": GMI(**COMMON, prior=GMI_PRIOR, objective=OBJECTIVES["LOMMA sample"]),
    "kedmi": KEDMI(**COMMON, prior=KEDMI_PRIOR, objective=OBJECTIVES["LOMMA sample"], draws=2),
    "vmi": VMINormal(**COMMON, prior=GMI_PRIOR, objective=OBJECTIVES["LOMMA sample"], batch=4),
}
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
every_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())


def changed(attack: LatentSearch, **fields: object) -> LatentSearch:
    return attack.model_copy(update=fields)


def networks(prior: TrainGMI | TrainKEDMI) -> tuple:
    """Generator and critic or discriminator, not folded."""
    prior.result("cpu")
    judge = prior.critic if isinstance(prior, TrainGMI) else prior.discriminator
    return prior.generator("cpu"), judge("cpu")


# ---------------------------------------------------------------- what a stage returns


@every_attack
def test_reconstructions_curves_and_frames(attack: LatentSearch) -> None:
    found = attack.result("cpu").tensors
    assert found["images"].shape == (6, 1, 32, 32) and found["images"].dtype == torch.uint8
    assert found["labels"].tolist() == [2, 0] * 3 and found["latents"].shape == (6, LATENT)
    assert found["log_loss"].shape == (6,)
    assert found["frames_latents"].shape == (4, 6, LATENT) and found["frames_steps"].tolist() == [0, 2, 4, 6]
    assert torch.equal(found["frames_latents"][-1], found["latents"])
    assert all((a != b).any() for a, b in zip(found["frames_latents"], found["frames_latents"][1:], strict=False))
    image = networks(attack.prior)[0](found["latents"])
    assert (found["images"].int() - to_uint8(image).int()).abs().max() <= 1
    said = TARGET.network("cpu")(image)
    assert torch.allclose(found["losses"], F.cross_entropy(said, found["labels"], reduction="none"), atol=1e-3)


@every_attack
def test_the_seed_decides_everything(attack: LatentSearch, tmp_path: Path) -> None:
    expected = attack.result("cpu").tensors
    torch.manual_seed(7)
    assert same(tensors(attack, tmp_path / "again"), expected)
    other = tensors(changed(attack, seed=1), tmp_path / "other")
    for name in ("images", "latents", "losses", "log_loss"):
        assert not torch.equal(other[name], expected[name])


@every_attack
def test_an_interrupted_attack_resumes_to_the_same_bits(
    attack: LatentSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = attack.result("cpu").tensors
    found, steps = resumed(attack, tmp_path, monkeypatch, 3)
    assert same(found, expected) and steps == [3, 4, 5]


@pytest.mark.parametrize(
    ("iterations", "count", "steps"),
    [
        (8, 2, [0, 8]),
        (8, 3, [0, 4, 8]),
        (10, 4, [0, 3, 7, 10]),
        (2, 9, [0, 1, 2]),
        (2400, 9, [*range(0, 2401, 300)]),
    ],
)
def test_frames_are_evenly_spaced_from_the_start_to_the_end(iterations: int, count: int, steps: list[int]) -> None:
    frames = Frames(iterations, count)
    for update in range(iterations + 1):
        frames.keep(update, lambda update=update: torch.full((2, 1), float(update)))
    assert frames.tensors()["frames_steps"].tolist() == steps
    assert frames.tensors()["frames_latents"][:, 0, 0].tolist() == steps


# ---------------------------------------------------------------- pairs, shards, chunks


@every_attack
def test_all_objectives_start_from_the_same_latents_and_see_the_same_noise(
    attack: LatentSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[torch.Tensor] = []
    call = Noise.__call__
    monkeypatch.setattr(Noise, "__call__", lambda self, step: drawn.append(call(self, step)) or drawn[-1])
    ends, starts, noises = [], [], []
    for objective in OBJECTIVES.values():
        found = tensors(changed(attack, objective=objective), tmp_path)
        starts.append(found["frames_latents"][0]), ends.append(found["latents"])
        noises.append(torch.stack(drawn) if drawn else torch.empty(0))
        drawn.clear()
    assert all(torch.equal(start, starts[0]) for start in starts)
    assert all(torch.equal(noise, noises[0]) for noise in noises)
    assert all(not torch.equal(end, ends[0]) for end in ends[1:]), "the objective is not used"


@every_attack
def test_a_class_does_not_depend_on_the_others_nor_on_the_chunk(attack: LatentSearch, tmp_path: Path) -> None:
    expected = tensors(changed(attack, classes=(1, 2, 0)), tmp_path)
    for fields in ({"classes": (2,)}, {"classes": (2,), "chunk": 2}, {"classes": (2,), "chunk": 1}):
        alone = tensors(changed(attack, **fields), tmp_path)
        for name in ("latents", "losses"):
            assert torch.allclose(alone[name], expected[name][1::3], atol=1e-3), name
        assert torch.allclose(alone["frames_latents"], expected["frames_latents"][:, 1::3], atol=1e-3)


def test_shards_of_equal_chunks_are_equal_to_the_bit(tmp_path: Path) -> None:
    whole = tensors(changed(ATTACKS["gmi"], classes=(2, 0, 1), chunk=1), tmp_path)
    parts = [tensors(changed(ATTACKS["gmi"], classes=classes, chunk=1), tmp_path) for classes in ((2, 0), (1,))]
    for name in ("latents", "images", "losses"):
        split = torch.cat([part[name].unflatten(0, (3, -1)) for part in parts], 1).flatten(0, 1)
        assert torch.equal(split, whole[name]), name


def test_noise_is_a_classs_own_and_new_at_every_step() -> None:
    both, alone = Noise("x", 0, (4, 7), 3, CPU), Noise("x", 0, (7,), 3, CPU)
    drawn = torch.stack([both(step) for step in range(20)])
    assert drawn.shape == (20, 3, 2, LATENT)
    assert torch.equal(drawn[:, :, 1:], torch.stack([alone(step) for step in range(20)]))
    assert torch.equal(Noise("x", 0, (4, 7), 3, CPU)(13), drawn[13]), "a resumed run sees other noise"
    assert len(drawn.flatten(0, 2).unique(dim=0)) == 20 * 3 * 2
    assert abs(drawn.mean().item()) < 0.05 and abs(drawn.std().item() - 1) < 0.05


# ---------------------------------------------------------------- GMI


def test_the_momentum_step_is_nesterovs() -> None:
    z, v = torch.randn(3, 4, generator=generator("z")), torch.zeros(3, 4)
    expected = z.clone().requires_grad_()
    sgd = torch.optim.SGD([expected], lr=0.02, momentum=0.9, nesterov=True)
    for step in range(5):
        slope = torch.randn(3, 4, generator=generator("slope", step))
        z, v = momentum_step(z, v, slope, 0.02, 0.9)
        expected.grad = slope
        sgd.step()
    assert torch.allclose(z, expected, atol=1e-6)


def test_the_momentum_step_by_hand() -> None:
    z, v = torch.tensor([[1.0]]), torch.tensor([[0.5]])
    z, v = momentum_step(z, v, torch.tensor([[10.0]]), 0.02, 0.9)
    # v = .9·.5 - .02·10 = .25; z = 1 + 1.9·.25 - .9·.5
    assert v.item() == pytest.approx(0.25) and z.item() == pytest.approx(1.025)


@every_objective
@pytest.mark.parametrize("clip", [1.0, None])
def test_gmi_is_descent_on_its_objective(objective: Objective, clip: float | None, tmp_path: Path) -> None:
    attack = GMI(
        target=TARGET, prior=GMI_PRIOR, objective=objective, classes=(1,), samples=2, iterations=5, lr=0.5, clip=clip,
        weight=30.0, prior_weight=2.0, b0=7.0, momentum=0.8,
    )  # fmt: skip
    found = tensors(attack, tmp_path)
    identity, (g, d) = IdentityLoss(objective, TARGET, 0, CPU), networks(GMI_PRIOR)
    start = per_sample.normal("gmi", 0, (1,), 2, LATENT, device=CPU)
    for row, z in enumerate(start.split(1)):
        v, y = torch.zeros_like(z), torch.tensor([1])
        for step in range(5):
            z = z.detach().requires_grad_()
            loss = (2 * -d(g(z)) + 30 * identity(g(z), y, step)).sum() / 7
            before, v = v, 0.8 * v - 0.5 * torch.autograd.grad(loss, z)[0]
            z = z.detach() + 1.8 * v - 0.8 * before
            z = z if clip is None else z.clamp(-1, 1)
        assert torch.allclose(found["latents"][row], z[0], atol=2e-3)
    assert torch.equal(found["frames_latents"][0], start)
    assert (found["latents"].abs().max() <= 1) == (clip is not None)


def test_gmis_step_does_not_depend_on_how_many_rows_are_searched(tmp_path: Path) -> None:
    # Released: the mean over the batch.  b0 in its place: the same move for the same start.
    few, many = (tensors(changed(ATTACKS["gmi"], classes=c), tmp_path) for c in ((0,), (0, 1, 2)))
    assert torch.allclose(few["latents"], many["latents"][::3], atol=1e-3)
    half = tensors(changed(ATTACKS["gmi"], b0=120.0), tmp_path)["frames_latents"]
    whole = tensors(changed(ATTACKS["gmi"], b0=60.0), tmp_path)["frames_latents"]
    assert not torch.allclose(half[-1], whole[-1], atol=1e-3)


@every_objective
def test_gmi_makes_the_target_surer(objective: Objective, tmp_path: Path) -> None:
    attack = changed(ATTACKS["gmi"], objective=objective, iterations=40, samples=4, classes=(0, 1, 2), lr=0.1)
    found = tensors(attack, tmp_path)
    images = networks(GMI_PRIOR)[0](found["frames_latents"][0].clamp(-1, 1))
    logits = TARGET.network("cpu")
    before, after = (logits(x).gather(1, found["labels"][:, None]) for x in (images, to_float(found["images"])))
    assert after.mean() > before.mean() and found["log_loss"][-1] < found["log_loss"][0]


# ---------------------------------------------------------------- KEDMI


@every_objective
@pytest.mark.parametrize("clip", [1.0, None])
def test_kedmi_is_adam_on_its_distribution(objective: Objective, clip: float | None, tmp_path: Path) -> None:
    attack = KEDMI(
        target=TARGET, prior=KEDMI_PRIOR, objective=objective, classes=(1,), samples=2, iterations=10, draws=3,
        clip=clip, weight=30.0, prior_weight=2.0,
    )  # fmt: skip
    found = tensors(attack, tmp_path)
    identity, (g, d) = IdentityLoss(objective, TARGET, 0, CPU), networks(KEDMI_PRIOR)
    mean, log_variance = torch.zeros(LATENT, requires_grad=True), torch.ones(LATENT, requires_grad=True)
    adam, noise, curve = torch.optim.Adam([mean, log_variance], 0.02), Noise("kedmi", 0, (1,), 3, CPU), []

    def cut(z: torch.Tensor) -> torch.Tensor:
        return z if clip is None else torch.where(z > 1, 1.0, torch.where(z < -1, -1.0, z))

    for step in range(10):
        z = cut(mean + log_variance.exp().sqrt() * noise(step)[:, 0])
        scores = d(g(z), coupled=False)
        loss = -2 * scores.logsumexp(1).sigmoid().log() + 30 * identity(g(z), torch.tensor([1, 1, 1]), step)
        adam.zero_grad()
        (loss.mean() / 60).backward()
        adam.step()
        curve.append(loss.mean().item())
    assert found["log_loss"].tolist() == pytest.approx(curve, rel=2e-3)
    final = per_sample.normal("kedmi samples", 0, (1,), 2, LATENT, device=CPU)
    # Adam divides a gradient of rounding size by its own size, so that a few coordinates may part.
    apart = (found["latents"] - cut(mean + log_variance.exp().sqrt() * final)).abs()
    assert (apart > 2e-3).double().mean() < 0.05


def test_kedmis_start_is_wider_than_the_clip() -> None:
    z = Diagonal(50, CPU).sample(Noise("x", 0, tuple(range(50)), 4, CPU)(0))
    assert (z.abs() > 1).double().mean().item() == pytest.approx(0.544, abs=0.01)
    assert z.var().item() == pytest.approx(torch.e, rel=0.03)


@pytest.mark.parametrize("coupled", [True, False])
def test_only_coupling_makes_a_class_depend_on_the_others(
    coupled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = TrainKEDMI.discriminator

    def attentive(self: TrainKEDMI, device: torch.device) -> torch.nn.Module:
        """A discriminator in which images are near enough to each other, and for which that counts."""
        d = trained(self, device)
        d.mbd.weight.mul_(0.01)
        d.head.weight[:, -self.mbd_outputs :] = 1.0
        return d

    monkeypatch.setattr(TrainKEDMI, "discriminator", attentive)
    attack = changed(ATTACKS["kedmi"], coupled=coupled, weight=0.0, draws=1)
    alone, among = (tensors(changed(attack, classes=c), tmp_path)["latents"] for c in ((2,), (2, 0, 1)))
    assert torch.allclose(alone, among[::3], atol=1e-3) != coupled


# ---------------------------------------------------------------- VMI with a normal posterior


def posterior(classes: int) -> Normal:
    q = Normal(classes, CPU)
    rng = generator("posterior")
    q.mean.data += torch.randn(q.mean.shape, generator=rng)
    q.scale.data += 0.1 * torch.randn(q.scale.shape, generator=rng)
    return q


def test_the_divergence_is_exact() -> None:
    q = posterior(3)
    factor = q.scale.tril()
    standard = MultivariateNormal(torch.zeros(LATENT), torch.eye(LATENT))
    expected = kl_divergence(MultivariateNormal(q.mean, factor @ factor.mT), standard)
    assert torch.allclose(q.divergence(), expected, rtol=1e-4)
    assert torch.equal(Normal(2, CPU).divergence(), torch.zeros(2))
    q.scale.data[0, :, 7] *= -1  # the sign of a column of L changes no distribution
    assert torch.allclose(q.divergence(), expected, rtol=1e-4)


def test_a_posteriors_draws_have_its_moments() -> None:
    q = posterior(2)
    w = q.sample(torch.randn(20_000, 2, LATENT, generator=generator("draws")))
    factor = q.scale.tril()
    for k in range(2):
        assert (w[:, k].mean(0) - q.mean[k]).abs().max() < 0.1
        assert (w[:, k].T.cov() - factor[k] @ factor[k].T).abs().max() < 0.25


@every_objective
def test_vmi_is_momentum_descent_on_its_objective(objective: Objective, tmp_path: Path) -> None:
    attack = VMINormal(
        target=TARGET, prior=GMI_PRIOR, objective=objective, classes=(1,), samples=2, iterations=10, batch=3,
        identity_weight=0.5, lam=0.01, lr=0.05,
    )  # fmt: skip
    found = tensors(attack, tmp_path)
    identity, (g, _) = IdentityLoss(objective, TARGET, 0, CPU), networks(GMI_PRIOR)
    m, factor = torch.zeros(LATENT, requires_grad=True), torch.eye(LATENT).requires_grad_()
    standard = MultivariateNormal(torch.zeros(LATENT), torch.eye(LATENT))
    sgd, noise, curve = torch.optim.SGD([m, factor], 0.05, momentum=0.9), Noise("vmi normal", 0, (1,), 3, CPU), []
    for step in range(10):
        w = m + noise(step)[:, 0] @ factor.tril().T
        loss = 0.5 * identity(g(w), torch.tensor([1, 1, 1]), step).mean()
        loss = loss + 0.01 * kl_divergence(MultivariateNormal(m, scale_tril=factor.tril()), standard)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        curve.append(loss.item())
    assert found["log_loss"].tolist() == pytest.approx(curve, rel=1e-3, abs=1e-4)
    final = per_sample.normal("vmi normal samples", 0, (1,), 2, LATENT, device=CPU)
    assert torch.allclose(found["latents"], m + final @ factor.tril().T, atol=1e-3)
    assert torch.equal(found["frames_latents"][0], final)


# ---------------------------------------------------------------- speed without other numbers


def test_folding_changes_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in (TARGET, *STUDENTS, STATISTICS):
        stage.result("cpu")
    quick = IdentityLoss(OBJECTIVES["LOMMA"], TARGET, 0, CPU)
    monkeypatch.setattr(objective_module, "folded", lambda net: net)
    plain = IdentityLoss(OBJECTIVES["LOMMA"], TARGET, 0, CPU)
    x, y = torch.rand((3, 1, 32, 32), generator=generator("images")) * 2 - 1, torch.tensor([0, 1, 2])
    assert torch.allclose(quick(x, y, 0), plain(x, y, 0), rtol=1e-3, atol=1e-3)
    assert not any(net.training for net in (quick.target, *quick.students))


# ---------------------------------------------------------------- threat model, and what a user can get wrong


@every_attack
def test_an_attack_reaches_no_evaluator_and_no_private_image(attack: LatentSearch) -> None:
    classifiers = {stage.key for stage in closure(attack) if isinstance(stage, TrainClassifier)}
    assert classifiers == {TARGET.key}
    assert set(sources(attack)) == {PUBLIC}


@every_attack
@pytest.mark.parametrize("classes", [(), (10,), (-1, 0)])
def test_unknown_classes_are_one_line_before_the_first_step(
    attack: LatentSearch, classes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    attack.result("cpu")
    monkeypatch.setattr(Job, "steps", None)
    with pytest.raises(UserError, match=r"^classes: expected ids in 0..9 \(the target's\), found \("):
        changed(attack, classes=classes).result("cpu")


@pytest.mark.parametrize(("name", "field"), [("gmi", "channels"), ("gmi", "size"), ("vmi", "channels")])
def test_a_prior_of_other_images_is_one_line_before_the_first_step(
    name: str, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = {"channels": 3, "size": 64}[field]
    prior = GMI_PRIOR.model_copy(update={"public": PUBLIC.model_copy(update={field: value}), "steps": 1})
    for stage in (prior, *ATTACKS[name].upstream()):
        stage.result("cpu")
    monkeypatch.setattr(Job, "steps", None)
    said = {
        "channels": r"^prior: expected images \(1, 32, 32\) as the target takes, found \(3, 32, 32\)",
        "size": r"^GMI: prior: expected images of 32 px as the target takes, found 64 px; .* of size=32$",
    }
    with pytest.raises(UserError, match=said[field]):
        changed(ATTACKS[name], prior=prior).result("cpu")


def stranger(stage: TrainStudent | FeatureStatistics | TrainKEDMI, field: str = "target") -> object:
    return stage.model_copy(update={field: OTHER})


@every_attack
@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (Objective(students=(stranger(STUDENTS[0], "teacher"),)), "objective.students: expected students of the"),
        (Objective(loss="logit", statistics=stranger(STATISTICS)), "objective.statistics: expected features of the"),
    ],
)
def test_students_and_statistics_of_another_target_are_one_line_before_any_work(
    attack: LatentSearch, objective: Objective, said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        changed(attack, objective=objective)
    assert "\n" not in str(caught.value) and "seed=1" in str(caught.value)


def test_a_prior_trained_with_another_target_is_one_line_before_any_work() -> None:
    with pytest.raises(UserError, match="prior: expected a GAN trained with the attack's target .*seed=1") as caught:
        changed(ATTACKS["kedmi"], prior=stranger(KEDMI_PRIOR))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"clip": 0.0}, "GMI.clip: .* greater than 0"),
        ({"frames": 1}, "GMI.frames: .* greater than or equal to 2"),
        ({"prior": KEDMI_PRIOR}, "GMI.prior: .*TrainGMI"),
        ({"weigth": 3}, "GMI.weigth: no such field; did you mean weight?"),
    ],
)
def test_wrong_fields_name_themselves(fields: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        changed(ATTACKS["gmi"], **fields)


@pytest.mark.parametrize(("name", "fields"), [("gmi", {"lr": float("inf")}), ("vmi", {"lr": float("inf")})])
def test_a_diverging_attack_fails_and_is_not_stored(name: str, fields: dict) -> None:
    broken = changed(ATTACKS[name], **fields)
    with pytest.raises(StageFailed, match="NaN or infinite"):
        broken.result("cpu")
    assert not broken.stored()


def test_defaults_are_the_released_settings() -> None:
    def defaults(stage: type[LatentSearch], *names: str) -> tuple:
        return tuple(stage.model_fields[name].default for name in names)

    shared = ("iterations", "lr", "weight", "prior_weight", "b0", "clip", "samples")
    assert defaults(GMI, *shared, "momentum") == (2400, 0.02, 100, 1, 60, 1, 5, 0.9)
    assert defaults(KEDMI, *shared, "draws") == (2400, 0.02, 100, 1, 60, 1, 5, 1)
    names = ("iterations", "batch", "lr", "momentum", "identity_weight", "lam")
    assert defaults(VMINormal, *names) == (31 * 157, 64, 0.02, 0.9, 1, 1e-3)
    assert defaults(Objective, "lam", "reg_scale", "p_reg") == (1, "mean", "mean")

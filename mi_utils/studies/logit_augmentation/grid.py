"""The stages of every run of the logit and augmentation study."""

from collections.abc import Iterator
from functools import cached_property

from mi_utils.attacks.gmi import GMI
from mi_utils.attacks.kedmi import KEDMI
from mi_utils.attacks.objective import Objective
from mi_utils.attacks.vmi_normal import VMINormal
from mi_utils.data import AnySource, Faces
from mi_utils.data.augment import Augment
from mi_utils.data.pool import AuxiliaryPool
from mi_utils.stage import Stage
from mi_utils.studies.evaluation import Evaluation, Panel
from mi_utils.studies.factors import FactorLeak, FactorRegressor
from mi_utils.studies.logit_augmentation.course import Course
from mi_utils.studies.logit_augmentation.settings import Problem, Search, Settings, Split
from mi_utils.studies.nets import Net, panel, trained
from mi_utils.studies.plan import Run
from mi_utils.studies.references import HeldOut, PriorSamples, PublicImages
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.priors import TrainGMI, TrainKEDMI
from mi_utils.training.statistics import FeatureStatistics
from mi_utils.training.student import TrainStudent

BASES = ("GMI", "KEDMI", "VMI")
VARIANTS = ("CE", "+LOM", "+MA", "LOMMA")
MAIN, SHIFT, CONTROL = "T1", "T2 shift", "T5"


class Bench:
    """One problem with everything that its runs share: targets, students, priors, evaluators.

    `net` is the attacked architecture, by default the problem's; `shifted` takes the public images of the other
    distribution.
    """

    def __init__(self, problem: Problem, settings: Settings, net: str | None = None, shifted: bool = False):
        self.problem, self.settings, self.shifted = problem, settings, shifted
        self.architecture = problem.targets[net] if net else problem.target
        self.name = f"{problem.name}, {net}" if net else problem.name

    # --- data and classifiers ------------------------------------------------------------------------------

    def split(self, seed: int) -> Split:
        """The class split of a seed."""
        return self.problem.splits[seed % len(self.problem.splits)]

    def public(self, seed: int) -> AnySource:
        """What the attacker has."""
        split = self.split(seed)
        return split.shifted if self.shifted and split.shifted else split.public

    def target(self, seed: int) -> TrainClassifier:
        """The attacked classifier of this seed."""
        split = self.split(seed)
        return trained(self.architecture, split.train, split.test, seed)

    @cached_property
    def panel(self) -> Panel:
        """Evaluators: other architectures, other augmentation and other seeds than any target or student."""
        p = self.problem
        return panel(p.evaluators, p.rejecting, p.judged_train, p.judged_test, p.reject)

    def student(self, net: Net, seed: int, place: int, labels: str = "teacher") -> TrainStudent:
        """A student of this seed's target, on public images alone."""
        recipe = {name: getattr(net, name) for name in ("architecture", "width", "iterations", "batch", "lr")}
        shared = dict(teacher=self.target(seed), public=self.public(seed), labels=labels)
        return TrainStudent(**shared, **recipe, seed=1000 * (1 + place) + seed)

    def students(self, seed: int) -> tuple[TrainStudent, ...]:
        """The students of model augmentation."""
        return tuple(self.student(net, seed, i) for i, net in enumerate(self.problem.students.values()))

    def statistics(self, seed: int) -> FeatureStatistics:
        """Where the regulariser pulls the features to."""
        return FeatureStatistics(target=self.target(seed), public=self.public(seed), count=self.settings.n_reg)

    # --- priors --------------------------------------------------------------------------------------------

    def _gan(self) -> dict[str, object]:
        p, s = self.problem, self.settings
        return dict(
            width=p.g_width,
            d_width=p.d_width,
            batch=s.gan_batch,
            critic_steps=s.critic_steps,
            average=s.average,
        )

    def gmi_prior(self, seed: int) -> TrainGMI:
        """GMI's and VMI's prior; the target has no part in it, so that one serves all seeds of a split."""
        s = self.settings
        return TrainGMI(public=self.public(seed), steps=self.problem.gmi_steps, lr=s.gmi_gan_lr, **self._gan())

    def kedmi_prior(self, seed: int) -> TrainKEDMI:
        """KEDMI's prior, which learns from the target's confidences."""
        s = self.settings
        shape = dict(
            mbd_outputs=s.mbd_outputs, mbd_kernel=s.mbd_kernel, lr=s.kedmi_gan_lr, steps=self.problem.kedmi_steps
        )
        public = self.public(seed)
        return TrainKEDMI(target=self.target(seed), public=public, seed=seed, **shape, **self._gan())

    # --- attacks -------------------------------------------------------------------------------------------

    def objective(self, variant: str, seed: int, **changes: object) -> Objective:
        """One of the four identity losses."""
        logit, augmented = variant in ("+LOM", "LOMMA"), variant in ("+MA", "LOMMA")
        fields: dict[str, object] = dict(students=self.students(seed) if augmented else ())
        if logit:
            fields |= dict(loss="logit", statistics=self.statistics(seed), lam=self.settings.lam)
        return Objective(**fields | changes)

    def attack(
        self, base: str, variant: str, seed: int, objective: Objective | None = None, **changes: object
    ) -> Stage:
        """A base attack with one of the identity losses; its start depends on the seed alone."""
        s = self.settings
        chosen = objective or self.objective(variant, seed)
        fields = dict(
            target=self.target(seed),
            objective=chosen,
            classes=self.split(seed).classes,
            seed=seed,
            samples=self.problem.samples,
        )
        search: Search = getattr(s, base.lower())
        fields |= dict(iterations=search.iterations, lr=search.lr)
        if base == "GMI":
            return GMI(**fields | dict(prior=self.gmi_prior(seed), weight=search.weight, clip=search.clip) | changes)
        if base == "KEDMI":
            more = dict(prior=self.kedmi_prior(seed), weight=search.weight, draws=search.draws, clip=search.clip)
            return KEDMI(**fields | more | changes)
        weight = s.vmi_logit if chosen.loss == "logit" else 1.0
        more = dict(prior=self.gmi_prior(seed), batch=search.draws, identity_weight=weight)
        return VMINormal(**fields | more | changes)

    def run(self, attack: str, row: str, seed: int, stage: Stage, perceptual: bool = True) -> Run:
        """A stage with its evaluation."""
        s = self.settings
        evaluation = Evaluation(
            attack=stage,
            target=self.target(seed),
            panel=self.panel,
            private=self.split(seed).train,
            samples=stage.samples,
            perceptual=s.perceptual if perceptual else 0,
        )
        return Run(attack, f"{self.name} | {row}", seed, evaluation)

    def course(self, run: Run) -> Course:
        """What target and evaluators say on the way, and where the features end."""
        return Course(
            attack=run.stage, target=self.target(run.seed), panel=self.panel, private=self.split(run.seed).train,
            public=self.public(run.seed),
        )  # fmt: skip


def main_runs(bench: Bench) -> Iterator[Run]:
    """T1, T3: every base attack with every identity loss."""
    for seed in range(bench.settings.seeds):
        for base in BASES:
            for variant in VARIANTS:
                yield bench.run(f"{base} {variant}", MAIN, seed, bench.attack(base, variant, seed))


def target_runs(bench: Bench) -> Iterator[Run]:
    """T1, further targets: GMI, whose prior they share, with and without both changes."""
    for seed in range(bench.settings.seeds_targets):
        for variant in ("CE", "LOMMA"):
            yield bench.run(f"GMI {variant}", MAIN, seed, bench.attack("GMI", variant, seed), False)


def shift_runs(bench: Bench) -> Iterator[Run]:
    """T2: GMI with public images of another distribution."""
    for seed in range(bench.settings.seeds_shift):
        for variant in ("CE", "LOMMA"):
            yield bench.run(f"GMI {variant}", SHIFT, seed, bench.attack("GMI", variant, seed), False)


def augmentation_controls(bench: Bench, seed: int) -> dict[str, Objective]:
    """T4: students of the target's own architecture, and students that know nothing of the target."""
    nets = list(bench.problem.students.values())
    twin = bench.architecture.model_copy(update={"iterations": nets[0].iterations // 2, "lr": nets[0].lr})
    groups = {
        "own architecture": tuple(bench.student(twin, seed, 10 + i) for i in range(len(nets))),
        "random labels": tuple(bench.student(net, seed, 20 + i, "random") for i, net in enumerate(nets)),
    }
    return {f"T4 {name}": Objective(students=students) for name, students in groups.items()}


def objective_controls(bench: Bench, seed: int) -> dict[str, Objective]:
    """T5: the regulariser."""
    found = {"lam 0": bench.objective("+LOM", seed, lam=0.0)}
    found["p_reg sample"] = bench.objective("+LOM", seed, p_reg="sample")
    return {f"T5 {name}": objective for name, objective in found.items()}


def further_controls(bench: Bench, seed: int) -> dict[str, Objective]:
    """T4, T5, options that no claim rests on: fewer students, other weights, other identity losses."""
    known = bench.students(seed)
    found = {f"T4 {n} student{'s' * (n > 1)}": Objective(students=known[:n]) for n in (1, 2)}
    found |= {f"T5 lam {lam:g}": bench.objective("+LOM", seed, lam=lam) for lam in (0.1, 10.0)}
    return found | {"T5 Poincaré": Objective(loss="poincare"), "T5 max-margin": Objective(loss="margin")}


def control_runs(bench: Bench) -> Iterator[Run]:
    """T4, T5: one change at a time around KEDMI, the cheapest base; what no claim rests on has seed 0 alone."""
    for seed in range(bench.settings.seeds_controls):
        found = augmentation_controls(bench, seed) | objective_controls(bench, seed)
        found |= further_controls(bench, seed) if seed == 0 else {}
        for row, objective in found.items():
            attack = {"logit": "KEDMI +LOM", "ce": "KEDMI +MA"}.get(objective.loss, "KEDMI CE")
            yield bench.run(attack, row, seed, bench.attack("KEDMI", "", seed, objective), False)
        for variant in ("CE", "+LOM"):
            changes = {f"lr x{f:g}": {"lr": f * bench.settings.kedmi.lr} for f in (0.5, 2.0)}
            if seed == 0:
                changes |= {"lr x0.25": {"lr": 0.25 * bench.settings.kedmi.lr}}
                changes |= {"no clip": {"clip": None}, "clip 1": {"clip": 1.0}}
            for row, change in changes.items():
                stage = bench.attack("KEDMI", variant, seed, **change)
                yield bench.run(f"KEDMI {variant}", f"T5 {row}", seed, stage, False)


def references(bench: Bench) -> Iterator[Run]:
    """Rows that no attack made, with as many images: a metric means little without them."""
    for seed in range(bench.settings.seeds):
        split = bench.split(seed)
        shared = dict(classes=split.classes, samples=bench.problem.samples, seed=seed)
        pool = AuxiliaryPool(source=bench.public(seed), count=1024, transform=Augment())
        yield bench.run("prior samples", MAIN, seed, PriorSamples(prior=bench.gmi_prior(seed), **shared))
        yield bench.run("public images", MAIN, seed, PublicImages(pool=pool, **shared))
        yield bench.run("held-out private images", MAIN, seed, HeldOut(source=split.test, **shared))


def leaks(bench: Bench, runs: list[Run]) -> dict[tuple[str, str, int], FactorLeak]:
    """Which attributes each reconstruction of procedural identities shows."""
    s, first = bench.settings, bench.split(0).train
    people = Faces(identities=s.leak_identities, first=20_000, per_identity=1, size=first.size)
    regressor = FactorRegressor(train=people, iterations=s.leak_iterations)
    return {
        (run.attack, run.setting, run.seed): FactorLeak(
            attack=run.stage, regressor=regressor, private=bench.split(run.seed).test
        )
        for run in runs
    }

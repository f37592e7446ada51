"""The runs of the DDCS / NGD study: which generators are tuned how, who attacks with them, and what is measured."""

from collections.abc import Callable, Iterator
from functools import cached_property

from mi_utils.attacks.objective import Objective
from mi_utils.attacks.plug_and_play import PlugAndPlay
from mi_utils.attacks.soft_labels import SoftLabelSearch
from mi_utils.attacks.style_search import StyleSearch
from mi_utils.attacks.union import DualAttack
from mi_utils.data import Faces
from mi_utils.stage import Stage
from mi_utils.studies.ddcs_ngd.definitions import Definitions
from mi_utils.studies.ddcs_ngd.hardness import Hardness
from mi_utils.studies.ddcs_ngd.memorisation import Memorisation
from mi_utils.studies.ddcs_ngd.projection import Projection
from mi_utils.studies.ddcs_ngd.pruning import Pruning
from mi_utils.studies.ddcs_ngd.redundancy import Redundancy
from mi_utils.studies.ddcs_ngd.sensitivity import Sensitivity
from mi_utils.studies.ddcs_ngd.sizes import SizeCurve
from mi_utils.studies.ddcs_ngd.stability import Stability
from mi_utils.studies.ddcs_ngd.transfers import TransferQuality
from mi_utils.studies.dmmia import grid as searches
from mi_utils.studies.dmmia.images import StyleSamples
from mi_utils.studies.nets import Net, trained
from mi_utils.studies.plan import Run
from mi_utils.studies.tables import HOLDOUT, PRIOR, PUBLIC
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.defence import TrainDefended
from mi_utils.training.insiders import InsiderStyleGAN2
from mi_utils.training.preconditioners import (
    Blurred,
    ConjugateGradients,
    Nystrom,
    PerceptualBasis,
    Plain,
    Preconditioner,
    Random,
    Scaled,
)
from mi_utils.training.private import TrainPrivate
from mi_utils.training.statistics import FeatureStatistics
from mi_utils.training.student import TrainStudent
from mi_utils.training.transfer import TransferStyleGAN2
from mi_utils.training.vulnerability import Vulnerability

MAIN, TWICE, AGAIN, VICTIMS, INSIDERS = "T1", "T1, twice as many images", "OQ1", "C11", "C14"
# Plug & Play on the untuned generator, and on generators tuned without the target, with its entropy, and by NGD.
PPA, VANILLA, ADV, NGD = "PPA", "vanilla", "entropy", "NGD"
LOMMA = "GMI, LOMMA"
DUAL, DUAL_ADV, BOTH = "dual: vanilla + NGD", "dual: vanilla + entropy", "dual, all of both"
# Preconditioners of the entropy loss's gradient, in the order of tables; the first is the paper's "without NGD".
KINDS = ("none", "nystrom", "nystrom, l2", "scale", "blur", "random")
# Name -> defence of the target and whom it protects.
UNDEFENDED, GUIDED, CONTROL = "undefended", "smoothing, vulnerable images", "smoothing, random images"
EVERYONE, PRIVATE = "smoothing, all images", "DP-SGD"
DEFENCES = {
    UNDEFENDED: ("none", ""),
    GUIDED: ("smooth", "vulnerable"),
    CONTROL: ("smooth", "random"),
    EVERYONE: ("smooth", "all"),
    PRIVATE: ("private", ""),
}
# The attacker of the audit, and one who knows the defence and its strength, but not whom it protects.
REPEATED, KNOWING = "OQ4", "OQ4, knowing attacker"
# The NGD attack whose auxiliary images show nobody private, and half of the private people among others.
OUTSIDE, INSIDE = "NGD, no private people", "NGD, half of the private people"
FRONTIER = ("none", "nystrom", "scale", "blur", "random")  # of them at several weights


class Bench(searches.Bench):
    """One problem with everything that its runs share."""

    # --- generators ------------------------------------------------------------------------------------------

    @cached_property
    def basis(self) -> PerceptualBasis:
        """Eigenvectors of the mean perceptual Hessian over images of the generator that is tuned."""
        t, p = self.settings.transfer, self.problem
        most = p.channels * p.train.size**2
        return PerceptualBasis(prior=p.prior, k=min(t.k, most), images=t.images, eps_rel=t.eps_rel)

    def preconditioner(self, kind: str) -> Preconditioner:
        """One of `KINDS`, or `cg`."""
        match kind:
            case "none":
                return Plain()
            case "nystrom":
                return Nystrom(basis=self.basis)
            case "nystrom, l2":
                return Nystrom(basis=self.basis, norm="l2")
            case "scale":
                return Scaled(basis=self.basis)
            case "blur":
                return Blurred(sigma=self.settings.transfer.sigma)
            case "random":
                return Random(basis=self.basis)
            case "cg":
                return ConjugateGradients(basis=self.basis, most=400)
        raise ValueError(kind)

    def tuned(
        self, seed: int, kind: str = "none", weight: float | None = None, steps: int | None = None
    ) -> TransferStyleGAN2:
        """The generator tuned on auxiliary images; weight 0: without the target."""
        t, p = self.settings.transfer, self.problem
        return TransferStyleGAN2.of(
            p.prior,
            public=p.auxiliary,
            target=self.target(seed),
            seed=seed,
            steps=steps or t.steps,
            batch=t.batch,
            lr=t.lr,
            gamma=p.prior.gamma,
            least_blur=p.prior.least_blur,
            adaptive=p.prior.adaptive,
            lambda_adv=t.weight if weight is None else weight,
            preconditioner=self.preconditioner(kind),
        )

    def quality(self, seed: int, prior: Stage) -> TransferQuality:
        """What a generator draws, beside validation images."""
        space = self.reader or next(iter(self.panel.plain.values()))
        return TransferQuality(
            prior=prior,
            target=self.target(seed),
            reader=space,
            validation=self.problem.validation,
            count=self.settings.quality_images,
        )

    # --- attacks ---------------------------------------------------------------------------------------------

    def generators(self, seed: int) -> dict[str, Stage]:
        """Attack -> the generator that it searches."""
        return {
            PPA: self.problem.prior,
            VANILLA: self.tuned(seed, weight=0.0),
            ADV: self.tuned(seed),
            NGD: self.tuned(seed, "nystrom"),
        }

    def arms(self, seed: int) -> dict[str, Stage]:
        """Attack -> its stage: Plug & Play on every generator, and unions of as many images."""
        found: dict[str, PlugAndPlay] = {n: self.ppa(seed, prior=g) for n, g in self.generators(seed).items()}
        return found | {
            DUAL: DualAttack(attacks=(found[VANILLA], found[NGD])),
            DUAL_ADV: DualAttack(attacks=(found[VANILLA], found[ADV])),
        }

    def older(self, shifted: bool = False) -> dict[str, Callable[[int], Stage]]:
        """GMI and KEDMI, whose priors learn faces: on faces alone."""
        return super().older(shifted) if self.problem.faces else {}

    def lomma(self, seed: int) -> Stage:
        """GMI with the logit loss and distilled students."""
        base = self.older()["GMI"](seed)
        public, target = base.prior.public, self.target(seed)
        students = tuple(
            TrainStudent(teacher=target, public=public, seed=1000 * (1 + i) + seed, **student_fields(net))
            for i, net in enumerate(self.settings.students.values())
        )
        statistics = FeatureStatistics(target=target, public=public)
        return base.model_copy(update={"objective": Objective(loss="logit", students=students, statistics=statistics)})

    def run(self, attack: str, row: str, seed: int, stage: Stage, perceptual: bool = True) -> Run:
        """A stage with the evaluation of the problem's number of images per class."""
        count = self.problem.samples * (2 if attack == BOTH else 1)
        return Run(attack, f"{self.name} | {row}", seed, self.evaluation(seed, stage, count, perceptual))


def main_runs(bench: Bench) -> Iterator[Run]:
    """T1: attacks with and without the framework, and both generators' images in full."""
    for seed in range(bench.settings.seeds):
        arms = bench.arms(seed)
        for attack, stage in arms.items():
            yield bench.run(attack, MAIN, seed, stage)
        full = DualAttack(attacks=arms[DUAL].attacks, size="full")
        yield bench.run(BOTH, TWICE, seed, full)  # apart: the references have half as many


def older_runs(bench: Bench) -> Iterator[Run]:
    """T1: earlier attacks with as many images."""
    for seed in range(bench.settings.seeds):
        if bench.problem.faces and seed == 0:
            yield bench.run(searches.FULL, MAIN, seed, bench.dmmia(seed))
        for attack, make in bench.older().items():
            if attack == "GMI" or seed == 0:  # KEDMI's prior is trained with each target anew
                yield bench.run(attack, MAIN, seed, make(seed))
        if bench.older() and bench.settings.students and seed == 0:
            yield bench.run(LOMMA, MAIN, seed, bench.lomma(seed))


def student_fields(net: Net) -> dict[str, object]:
    """What of a classifier's recipe a student takes."""
    return {name: getattr(net, name) for name in ("architecture", "width", "iterations", "batch", "lr")}


def references(bench: Bench) -> Iterator[Run]:
    """Rows that no attack made, with as many images."""
    yield from searches.references(bench)


def qualities(bench: Bench) -> dict[tuple[str, float, int, int], TransferQuality]:
    """(preconditioner, weight, steps, seed) -> the generator's quality; the start has no steps.

    The kinds of T2 have all seeds at the study's weight and length; the frontier and further lengths seed 0.
    """
    s, t = bench.settings, bench.settings.transfer
    found: dict[tuple[str, float, int, int], TransferQuality] = {}

    def add(kind: str, weight: float, steps: int, seed: int) -> None:
        stage = bench.tuned(seed, kind, weight, steps)
        found[kind, weight, steps, seed] = bench.quality(seed, stage)

    for seed in range(s.seeds):
        found["start", 0.0, 0, seed] = bench.quality(seed, bench.problem.prior)
        add("none", 0.0, t.steps, seed)
        for kind in ("none", "nystrom"):
            add(kind, t.weight, t.steps, seed)
    if bench.problem.faces:
        for kind in KINDS:
            for weight in (t.weight, *(s.weights if kind in FRONTIER else ())):
                add(kind, weight, t.steps, 0)
        for steps in s.lengths:
            for kind in ("none", "nystrom"):
                add(kind, t.weight, steps, 0)
        if s.cg_steps:
            for kind in ("nystrom", "cg"):
                add(kind, t.weight, s.cg_steps, 0)
    return found


# --- sample by sample ------------------------------------------------------------------------------------------


def repeated(bench: Bench, number: int, **changes: object) -> PlugAndPlay:
    """The attack on the NGD generator of seed 0 once more, with a pool of its own."""
    return bench.ppa(100 + number, prior=bench.tuned(0, "nystrom"), target=bench.target(0), **changes)


def again_runs(bench: Bench) -> Iterator[Run]:
    """OQ1, C16: further seeds of one attack on one target, and what else might reach other images."""
    for number in range(bench.settings.repeats):
        yield Run("fresh seed", f"{bench.name} | {AGAIN}", number, evaluated(bench, repeated(bench, number)))
    spread = bench.dmmia(100, prior=bench.tuned(0, "nystrom"), target=bench.target(0))
    yield Run("memory", f"{bench.name} | {AGAIN}", 0, evaluated(bench, spread))
    first = repeated(bench, 0, search="first")
    yield Run("pool in its own order", f"{bench.name} | {AGAIN}", 0, evaluated(bench, first))


def evaluated(bench: Bench, stage: Stage) -> Stage:
    """Its evaluation against the target of seed 0."""
    return bench.evaluation(0, stage, bench.problem.samples, True)


def measures(bench: Bench) -> dict[str, Stage]:
    """What is asked of the images sample by sample, of the target of seed 0."""
    s, p = bench.settings, bench.problem
    arms = bench.arms(0)
    others = {run.attack: run.stage for run in older_runs(bench) if run.seed == 0}
    alike = {run.attack: run.stage for run in references(bench) if run.seed == 0}
    again = {(run.attack, run.seed): run.evaluation for run in again_runs(bench)}
    seeds = (bench.evaluation(0, arms[NGD], p.samples, True), *(again["fresh seed", n] for n in range(s.repeats)))
    shared = dict(private=p.train, samples=p.samples, perceptual=s.perceptual)
    known = seeds[: 1 + s.repeats // 2]
    further = {
        "as many fresh seeds": seeds[len(known) :],
        "memory": (again["memory", 0],),
        "pool in its own order": (again["pool in its own order", 0],),
    }
    projections = {
        space: Projection(
            prior=p.prior, private=p.train, classes=p.classes, perceptual=s.perceptual, space=space, restarts=1,
            steps=s.projection_steps, pool=p.pool,
        )
        for space in ("w", "w+")
    }  # fmt: skip
    total = p.samples * len(p.classes)
    sensitivity = {}
    if isinstance(p.train, Faces):  # known factors, of which other faces can be drawn
        sensitivity = {"sensitivity": Sensitivity(private=p.train, classes=p.classes, count=max(4, s.perceptual // 3))}
    return sensitivity | {
        "redundancy": Redundancy(attack=arms[NGD], panel=bench.panel, factors=s.factors, **shared),
        "definitions": Definitions(attacks=arms | others | alike, **shared),
        "pruning": Pruning(attack=arms[NGD], target=bench.target(0), panel=bench.panel, **shared),
        "stability": Stability(attacks=tuple(e.attack for e in seeds), **shared),
        "sizes": SizeCurve(
            attacks={n: arms[n] for n in (PPA, VANILLA, ADV, NGD)} | {n: alike[n] for n in (PRIOR, PUBLIC, HOLDOUT)},
            sizes=tuple(dict.fromkeys(max(1, total // part) for part in (24, 12, 6, 3, 2, 1))),
            **shared,
        ),
        "projection": projections["w"],
        "projection, w+": projections["w+"],
        "hardness": Hardness(evaluations=known, projection=projections["w"], further=further),
    }


# --- defences --------------------------------------------------------------------------------------------------


def audit(bench: Bench, seed: int) -> Vulnerability:
    """What two seeds of the plain attack expose of the undefended target's training images."""
    attacks = tuple(bench.ppa(s, target=bench.target(seed)) for s in (seed, 200 + seed))
    return Vulnerability(attacks=attacks, private=bench.problem.train, samples=bench.problem.samples)


def defended(bench: Bench, name: str, seed: int) -> TrainClassifier:
    """The target trained anew with one of `DEFENCES`."""
    kind, chosen = DEFENCES[name]
    target = bench.target(seed)
    if kind == "none":
        return target
    s, p = bench.settings, bench.problem
    if kind == "private":
        recipe = {name: getattr(s.private, name) for name in Net.model_fields}
        return TrainPrivate(train=p.train, test=p.test, seed=seed, noise=s.noise, clip=s.clip, **recipe)
    fields = {field: getattr(target, field) for field in TrainClassifier.model_fields}
    return TrainDefended(**fields, audit=audit(bench, seed), defence=kind, chosen=chosen, strength=s.smoothing)


def taught(target: TrainClassifier) -> float:
    """The smoothing of the labels that a defence taught of the images it protects; 0 without one."""
    if not isinstance(target, TrainDefended):
        return 0.0
    return target.strength / (1 if target.chosen == "all" else target.audit.share)


def probed(bench: Bench) -> tuple[int, ...]:
    """The classes that further targets are attacked for."""
    return bench.problem.classes[: bench.settings.probed_classes]


def attackers(bench: Bench, seed: int, target: TrainClassifier) -> dict[str, StyleSearch]:
    """With a fresh pool: the audit's, and the search for what a protected image would be called."""
    changes = dict(target=target, classes=probed(bench))
    knowing = SoftLabelSearch(**bench.search(300 + seed, **changes), epsilon=taught(target))
    return {REPEATED: bench.ppa(300 + seed, **changes), KNOWING: knowing}


def defence_runs(bench: Bench) -> Iterator[Run]:
    """OQ4: every defended target under attacks that read the defended target itself."""
    for seed in range(bench.settings.seeds_defence):
        for name in DEFENCES:
            target = defended(bench, name, seed)
            for row, stage in attackers(bench, seed, target).items():
                yield Run(name, f"{bench.name} | {row}", seed, judged(bench, seed, stage, target))


def judged(bench: Bench, seed: int, stage: StyleSearch, target: TrainClassifier) -> Stage:
    """Its evaluation against the target that it attacked."""
    return bench.evaluation(seed, stage, bench.problem.samples, True).model_copy(update={"target": target})


# --- private people in the auxiliary set ---------------------------------------------------------------------


def halves(bench: Bench) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Classes attacked whose people the auxiliary set lacks, and as many that it shows."""
    half, count = bench.problem.train.identities // 2, bench.settings.probed_classes
    return tuple(range(half - min(count, half), half)), tuple(range(half, half + min(count, half)))


def insider(bench: Bench, seed: int) -> InsiderStyleGAN2:
    """The NGD generator tuned on as many images of fewer people, the second half of the private ones among them."""
    p, tuned = bench.problem, bench.tuned(seed, "nystrom")
    first = p.train.first + p.train.identities // 2
    fewer = {"identities": max(p.auxiliary.identities // 4, p.train.identities // 2)}
    views = {"per_identity": 4 * p.auxiliary.per_identity, "split": "holdout"}
    fields = {name: getattr(tuned, name) for name in type(tuned).model_fields}
    return InsiderStyleGAN2(**fields | {"public": p.auxiliary.model_copy(update={"first": first} | fewer | views)})


def insider_runs(bench: Bench) -> Iterator[Run]:
    """C14: the search of both generators for people that one of them has seen; on numbered identities alone."""
    if not isinstance(bench.problem.train, Faces):
        return
    classes = sum(halves(bench), ())
    for seed in range(bench.settings.seeds):
        for name, prior in {OUTSIDE: bench.tuned(seed, "nystrom"), INSIDE: insider(bench, seed)}.items():
            yield bench.run(name, INSIDERS, seed, bench.ppa(seed, prior=prior, classes=classes))


# --- targets that memorise more or less ----------------------------------------------------------------------


def victims(bench: Bench) -> dict[str, Callable[[int], TrainClassifier]]:
    """Name -> target by seed: the study's, the same after a tenth of its training, and other architectures."""
    p = bench.problem
    nets = {f"{p.target.architecture}, a tenth of the steps": brief(p.target), **p.targets, **bench.settings.victims}
    others = {n: lambda seed, net=net: trained(net, p.train, p.test, seed) for n, net in nets.items()}
    return {p.target.architecture: bench.target, **others}


def brief(net: Net) -> Net:
    """The recipe with a tenth of the steps."""
    return net.model_copy(update={"iterations": max(1, net.iterations // 10)})


def victim_runs(bench: Bench) -> Iterator[Run]:
    """C11: Plug & Play on the untuned generator against every victim."""
    for name, make in victims(bench).items():
        for seed in range(bench.settings.seeds):
            stage = bench.ppa(seed, target=make(seed), classes=probed(bench))
            yield Run(name, f"{bench.name} | {VICTIMS}", seed, judged(bench, seed, stage, make(seed)))


def victim_references(bench: Bench) -> Iterator[Run]:
    """C11: as many samples of the untuned generator."""
    p = bench.problem
    for seed in range(bench.settings.seeds):
        stage = StyleSamples(prior=p.prior, psi=bench.settings.psi, classes=probed(bench), samples=p.samples, seed=seed)
        yield bench.run(PRIOR, VICTIMS, seed, stage)


def memorisation(bench: Bench) -> dict[tuple[str, int], Memorisation]:
    """(victim, seed) -> what it memorises."""
    return {
        (name, seed): Memorisation(target=make(seed))
        for name, make in victims(bench).items()
        for seed in range(bench.settings.seeds)
    }

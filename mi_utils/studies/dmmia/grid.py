"""The stages of every run of the DMMIA study."""

from collections.abc import Callable, Iterator
from functools import cached_property

from mi_utils.attacks.dmmia import DMMIA
from mi_utils.attacks.gmi import GMI
from mi_utils.attacks.kedmi import KEDMI
from mi_utils.attacks.plug_and_play import PlugAndPlay
from mi_utils.attacks.style_search import StyleSearch
from mi_utils.data import Faces
from mi_utils.data.augment import Augment
from mi_utils.data.pool import AuxiliaryPool
from mi_utils.stage import Stage
from mi_utils.studies.dmmia.images import FreshLatents, PoolOrder, StyleSamples
from mi_utils.studies.dmmia.quality import PriorQuality
from mi_utils.studies.dmmia.settings import MODES, Problem, Settings
from mi_utils.studies.dmmia.timeline import Timeline
from mi_utils.studies.evaluation import Evaluation, Panel
from mi_utils.studies.factors import FactorLeak, FactorRegressor
from mi_utils.studies.nets import panel, trained
from mi_utils.studies.plan import Run
from mi_utils.studies.references import HeldOut, PublicImages
from mi_utils.studies.tables import HOLDOUT, PRIOR, PUBLIC
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.priors import TrainGMI, TrainKEDMI

MAIN, ALL = "T1", "all candidates"
MATCHED, SHIFT = "P1 matched prior", "P1 shifted prior"
NO_SEARCH, NO_SELECTION, FRESH = "P2 without the pool's scores", "P2 without the last selection", "new latents"
PPA, FULL = "PPA", "DMMIA"
# The paper's ablation, {IMR, IDR}: what the mapping network's tuning alone does, and each kind of prototype.
ABLATION = {(0, 0): "map CE", (1, 0): "DMMIA, IMR alone", (0, 1): "DMMIA, IDR alone", (1, 1): FULL}
GAN = {"batch": 64, "critic_steps": 1, "average": 0.99}  # of the priors of GMI and KEDMI


class Bench:
    """One problem with everything that its runs share.  `net`: the attacked architecture, by default the problem's."""

    def __init__(self, problem: Problem, settings: Settings, net: str | None = None):
        self.problem, self.settings = problem, settings
        self.architecture = problem.targets[net] if net else problem.target
        self.name = f"{problem.name}, {net}" if net else problem.name

    # --- classifiers -----------------------------------------------------------------------------------------

    def target(self, seed: int) -> TrainClassifier:
        """The attacked classifier of this seed."""
        return trained(self.architecture, self.problem.train, self.problem.test, seed)

    @cached_property
    def panel(self) -> Panel:
        """Evaluators: other architectures, other augmentation and other seeds than any target."""
        p = self.problem
        return panel(p.evaluators, p.rejecting, p.judged_train, p.judged_test, p.reject)

    @cached_property
    def reader(self) -> FactorRegressor | None:
        """Reads the factors of procedural identities; learns from people of its own."""
        if not self.problem.faces:
            return None
        size = self.problem.train.size
        people = Faces(
            identities=self.settings.reader_identities, first=20_000, per_identity=1, size=size, modes=MODES
        )  # fmt: skip
        return FactorRegressor(train=people, iterations=self.settings.reader_iterations)

    # --- attacks -------------------------------------------------------------------------------------------

    def search(self, seed: int, **changes: object) -> dict[str, object]:
        """What PPA and DMMIA have in common: pool, start, length, last selection."""
        p, s = self.problem, self.settings
        fields = dict(
            prior=p.prior, target=self.target(seed), classes=p.classes, seed=seed, pool=p.pool, candidates=p.candidates,
            samples=p.samples, psi=s.psi, epochs=p.epochs, lr=p.lr, centre=p.centre, draws=p.draws, flip=p.flip,
            frames=s.frames,
        )  # fmt: skip
        return fields | changes

    def ppa(self, seed: int, **changes: object) -> PlugAndPlay:
        """Plug & Play."""
        return PlugAndPlay(**self.search(seed, **changes))

    def dmmia(self, seed: int, **changes: object) -> DMMIA:
        """Dynamic memory on tuned mapping networks."""
        m, s = self.settings.memory, self.settings
        own = dict(
            batch=m.batch, n_w=m.n_w, rho=m.rho, lam1=m.lam1, lam2=m.lam2, tau=m.tau, tau_idr=m.tau, r=m.r, lr=m.lr,
            fresh=s.fresh,
        )  # fmt: skip
        return DMMIA(**self.search(seed, **own | changes))

    def released(self, seed: int, **changes: object) -> DMMIA:
        """Our reading of the released code with the sign of its losses put right: styles move, no temperature."""
        own = dict(
            var="w", loss="poincare", tau=1.0, tau_idr=1.0, group="mean", mem_key="target", mem_init="empty",
            lr=self.problem.lr, fresh=0,
        )  # fmt: skip
        return self.dmmia(seed, **own | changes)

    def arms(self) -> dict[str, Callable[[int], StyleSearch]]:
        """Attack -> its stage by seed."""
        m = self.settings.memory
        weights = {name: dict(lam1=i * m.lam1, lam2=j * m.lam2) for (i, j), name in ABLATION.items()}
        ablation = {name: lambda seed, w=w: self.dmmia(seed, **w) for name, w in weights.items()}
        return {
            PPA: self.ppa,
            "PPA, gradients twice": lambda seed: self.ppa(seed, repeats=2),
            "PPA, CE": lambda seed: self.ppa(seed, loss="ce"),
            "MIRROR-like": lambda seed: self.ppa(seed, loss="ce", clip=0.05, draws=0),
            **ablation,
            "map CE + spread": lambda seed: self.dmmia(seed, lam1=0.0, lam2=0.0, lam3=m.lam3),
            "DMMIA, released form": self.released,
            "DMMIA, as released": lambda seed: self.released(seed, lam1=1e-6, lam2=1e-6, repeats=2),
        }

    # --- GMI and KEDMI ---------------------------------------------------------------------------------------

    def older(self, shifted: bool = False) -> dict[str, Callable[[int], Stage]]:
        """GMI and KEDMI with as many generated images per class as PPA in all, each with a gradient.

        With a shifted prior GMI alone.
        """
        b = self.settings.baselines
        if b is None:
            return {}
        public = b.shifted if shifted else b.public
        gan = GAN | {"width": b.width, "d_width": b.width, "public": public}
        p = self.problem
        generated = p.pool + p.candidates * (p.epochs + 1)

        def fields(seed: int) -> dict[str, object]:
            return dict(target=self.target(seed), classes=p.classes, seed=seed, samples=p.samples, lr=b.search_lr,
                        frames=self.settings.frames)  # fmt: skip

        def gmi(seed: int) -> GMI:
            prior = TrainGMI(steps=b.gmi_steps, lr=b.gmi_lr, **gan)
            steps = generated // p.samples
            return GMI(prior=prior, iterations=steps, weight=b.gmi_weight, **fields(seed))

        def kedmi(seed: int) -> KEDMI:
            more = dict(mbd_outputs=16, mbd_kernel=16, steps=b.kedmi_steps, lr=b.kedmi_lr, seed=seed)
            prior = TrainKEDMI(target=self.target(seed), **more, **gan)
            return KEDMI(prior=prior, iterations=generated // 4, draws=4, clip=2.0, **fields(seed) | {"lr": 0.05})

        return {"GMI": gmi} if shifted else {"GMI": gmi, "KEDMI": kedmi}

    # --- runs --------------------------------------------------------------------------------------------------

    def run(self, attack: str, row: str, seed: int, stage: Stage, perceptual: bool = True) -> Run:
        """A stage with the evaluation of its `samples` selected images."""
        return Run(attack, f"{self.name} | {row}", seed, self.evaluation(seed, stage, stage.samples, perceptual))

    def unselected(self, attack: str, seed: int, stage: StyleSearch) -> Run:
        """The same search with all its candidates."""
        evaluation = self.evaluation(seed, stage, stage.candidates, perceptual=False)
        return Run(attack, f"{self.name} | {ALL}", seed, evaluation)

    def evaluation(self, seed: int, stage: Stage, samples: int, perceptual: bool) -> Evaluation:
        """Scores of the first `samples` images per class."""
        return Evaluation(
            attack=stage, target=self.target(seed), panel=self.panel, private=self.problem.train, samples=samples,
            perceptual=self.settings.perceptual if perceptual else 0,
        )  # fmt: skip

    def timeline(self, stage: StyleSearch) -> Timeline:
        """Its epochs, seen by the evaluators."""
        return Timeline(attack=stage, panel=self.panel, private=self.problem.train, reader=self.reader)


def main_runs(bench: Bench) -> Iterator[Run]:
    """T1, T3: every arm, selected and with all candidates; new latents of the tuned networks."""
    for seed in range(bench.settings.seeds):
        for attack, make in bench.arms().items():
            stage = make(seed)
            yield bench.run(attack, MAIN, seed, stage)
            yield bench.unselected(attack, seed, stage)
            if attack in (ABLATION[0, 0], FULL) and stage.fresh:
                yield bench.run(attack, FRESH, seed, FreshLatents(attack=stage), False)
        for attack, make in bench.older().items():
            if attack == "GMI" or seed == 0:  # KEDMI's prior is trained with each target anew
                yield bench.run(attack, MAIN, seed, make(seed))


def fewer(bench: Bench) -> dict[str, object]:
    """What makes the runs of targets and sweeps cheaper: fewer classes."""
    return {"classes": bench.problem.classes[: bench.settings.sweep_classes]}


def target_runs(bench: Bench) -> Iterator[Run]:
    """T2: PPA and DMMIA on a further architecture."""
    for seed in range(bench.settings.seeds_targets):
        for attack in (PPA, FULL):
            stage = {PPA: bench.ppa, FULL: bench.dmmia}[attack](seed, **fewer(bench))
            yield bench.run(attack, MAIN, seed, stage, False)
            yield bench.unselected(attack, seed, stage)


def shift_runs(bench: Bench) -> Iterator[Run]:
    """P1: PPA and GMI with a prior of other images, and PPA with one of the usual images trained as long."""
    p = bench.problem
    for seed in range(bench.settings.seeds_shift if p.shifted else 0):
        yield bench.run(PPA, MATCHED, seed, bench.ppa(seed, prior=p.matched or p.prior), False)
        yield bench.run(PPA, SHIFT, seed, bench.ppa(seed, prior=p.shifted), False)
        for attack, make in bench.older(shifted=True).items():
            yield bench.run(attack, SHIFT, seed, make(seed), False)


def selection_runs(bench: Bench) -> Iterator[Run]:
    """P2: PPA without either selection."""
    for seed in range(bench.settings.seeds):
        yield bench.run(PPA, NO_SEARCH, seed, bench.ppa(seed, search="first"), False)
        yield bench.run(PPA, NO_SELECTION, seed, PoolOrder(attack=bench.ppa(seed)), False)


def sweeps(settings: Settings) -> dict[str, dict[str, object]]:
    """T4 and D15: DMMIA with one option changed."""
    m = settings.memory
    found: dict[str, dict[str, object]] = {"as in T1": {}}
    found |= {f"n_w {n}": {"n_w": n, "rho": max(1, n // 2)} for n in settings.n_w}
    found |= {f"rho {share:g}": {"rho": max(1, round(share * m.n_w))} for share in settings.rho}
    found |= {f"tau {tau:g}": {"tau": tau, "tau_idr": tau} for tau in settings.tau}
    found |= {f"r {r:g}": {"r": r} for r in settings.r}
    found |= {f"lam {lam:g}": {"lam1": lam, "lam2": lam} for lam in settings.lam}
    found |= {"memory of the target class": {"mem_key": "target"}, "memory empty at first": {"mem_init": "empty"}}
    return found


def sweep_runs(bench: Bench) -> Iterator[Run]:
    """T4, with all candidates: selection would hide what an option does to diversity."""
    judged = {"as in T1", "tau 1", "r 0", "r 0.99"}
    for row, changes in sweeps(bench.settings).items():
        for seed in range(bench.settings.seeds_sweep if row in judged else min(1, bench.settings.seeds_sweep)):
            stage = bench.dmmia(seed, **fewer(bench) | {"fresh": 0} | changes)
            yield Run(FULL, f"{bench.name} | T4 {row}", seed, bench.evaluation(seed, stage, stage.candidates, False))


def references(bench: Bench) -> Iterator[Run]:
    """Rows that no attack made, with as many images."""
    p = bench.problem
    for seed in range(bench.settings.seeds):
        shared = dict(classes=p.classes, samples=p.samples, seed=seed)
        prior = StyleSamples(prior=p.prior, psi=bench.settings.psi, **shared)
        yield bench.run(PRIOR, MAIN, seed, prior)
        if p.prior.public is not None:
            pool = AuxiliaryPool(source=p.prior.public, count=1024, transform=Augment())
            yield bench.run(PUBLIC, MAIN, seed, PublicImages(pool=pool, **shared))
        yield bench.run(HOLDOUT, MAIN, seed, HeldOut(source=p.test, **shared))


def timelines(bench: Bench, runs: list[Run]) -> dict[tuple[str, str, int], Timeline]:
    """The epochs of every search whose candidates were all scored."""
    return {
        (run.attack, run.setting, run.seed): bench.timeline(run.stage)
        for run in runs
        if run.setting.endswith(f"| {ALL}") or " | T4 " in run.setting
    }


def qualities(bench: Bench) -> dict[str, PriorQuality]:
    """How well the priors draw; of generators whose public images are at hand, with a regressor to measure in."""
    p = bench.problem
    priors = {
        "prior": p.prior,
        "matched prior": p.matched,
        "shifted prior": p.shifted,
        "prior of another size": p.further,
    }
    if bench.reader is None:
        return {}
    psi = tuple(dict.fromkeys((1.0, bench.settings.psi)))
    return {
        f"{name}, {prior.public.size} px": PriorQuality(
            prior=prior, reader=bench.reader, count=bench.settings.quality_images, psi=psi
        )
        for name, prior in priors.items()
        if prior is not None and prior.public is not None
    }


def leaks(bench: Bench) -> dict[tuple[str, str, int], FactorLeak]:
    """Which attributes the selected and the other candidates of PPA and DMMIA show."""
    if bench.reader is None:
        return {}
    makers, setting = {PPA: bench.ppa, ABLATION[0, 0]: bench.arms()[ABLATION[0, 0]], FULL: bench.dmmia}, bench.name
    return {
        (attack, f"{setting} | {ALL}", seed): FactorLeak(
            attack=make(seed), regressor=bench.reader, private=bench.problem.test
        )
        for attack, make in makers.items()
        for seed in range(bench.settings.seeds)
    }

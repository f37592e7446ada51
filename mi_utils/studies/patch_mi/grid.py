"""The runs of the Patch-MI study: which attack, at which setting, for which table."""

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import TypeVar

from mi_utils.attacks.bmi import BMI
from mi_utils.attacks.generative import GenerativeMI
from mi_utils.attacks.identity import Views
from mi_utils.attacks.patch_mi import Critic, PatchMI
from mi_utils.attacks.vmi import VMI
from mi_utils.data import AnySource, HangulSheet, LatinSheet, Noise, Scenes, Shuffled
from mi_utils.data.augment import Affine, Augment, ResizedCrop, Rotate
from mi_utils.data.pool import AuxiliaryPool, glyph_pieces
from mi_utils.stage import Stage
from mi_utils.studies.evaluation import Evaluation, Panel
from mi_utils.studies.patch_mi.settings import (
    TUNED_BLOCK,
    Net,
    Problem,
    Settings,
    handwriting_block,
)
from mi_utils.studies.plan import Run
from mi_utils.studies.references import HeldOut, PriorSamples, PublicImages
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.gan import TrainDCGAN
from mi_utils.training.patch_similarity import PatchSimilarity

Value = TypeVar("Value")

DISSIMILAR = "Hangul, pixels shuffled"
OFF_PATCH = Critic(patch=32, stride=32, padding=0)
TUNED_CRITICS = (Critic(patch=8, stride=2, padding=3), Critic(patch=16, stride=4, padding=6))


def auxiliaries(problem: Problem) -> dict[str, AnySource]:
    """Auxiliary sets of the similarity study, from the paper's own to the deliberately dissimilar."""
    channels = 1
    letters = LatinSheet(symbols="letters", split="all", channels=channels)
    return {
        "Hangul": HangulSheet(channels=channels),
        "Latin digits": LatinSheet(symbols="digits", split="all", channels=channels),
        "Latin letters": letters,
        "Hangul, patches shuffled": Shuffled(source=HangulSheet(), of="patches", patch=12),
        "Hangul, pixels shuffled": Shuffled(source=HangulSheet(), of="pixels"),
        "photographs": Scenes(channels=channels),
        "1/f noise": Noise(spectrum="1/f", size=48),
        "white noise": Noise(spectrum="white", size=48),
    }


class Bench:
    """One problem with everything that its runs share: targets, evaluators, auxiliary pools, priors."""

    def __init__(self, problem: Problem, settings: Settings):
        self.problem, self.settings = problem, settings

    def classifier(self, net: Net, seed: int, reject: AnySource | None = None) -> TrainClassifier:
        """A target or evaluator of this problem."""
        p = self.problem
        return TrainClassifier(
            train=p.train,
            test=p.test,
            architecture=net.architecture,
            width=net.width,
            augmentation=net.augmentation,
            iterations=net.iterations,
            batch=net.batch,
            reject=reject,
            seed=seed,
        )

    def target(self, seed: int) -> TrainClassifier:
        """The attacked classifier of this seed."""
        return self.classifier(self.problem.target, seed)

    @cached_property
    def panel(self) -> Panel:
        """Evaluators: seeds that no target has, another architecture or width each."""
        p = self.problem
        plain = {name: self.classifier(net, 100 + i) for i, (name, net) in enumerate(p.evaluators.items())}
        pieces = p.auxiliary.model_copy(update={"size": p.train.size})
        return Panel(plain=plain, reject=self.classifier(p.reject, 200, pieces))

    def pool(self, transform: Augment | None = None, source: AnySource | None = None) -> AuxiliaryPool:
        """Auxiliary images, by default the paper's set and transform."""
        p = self.problem
        return AuxiliaryPool(
            source=source or p.auxiliary,
            count=self.settings.pool,
            transform=transform or p.pieces,
            native=p.native,
        )

    def dcgan(self, source: AnySource | None = None) -> TrainDCGAN:
        """The prior of the generative baselines."""
        s = self.settings
        return TrainDCGAN(
            auxiliary=self.pool(source=source),
            n_gf=s.dcgan_width,
            n_df=s.dcgan_width,
            iterations=s.dcgan_iterations,
            batch=s.dcgan_batch,
        )

    def run(
        self,
        attack: str,
        setting: str,
        seed: int,
        stage: Stage,
        perceptual: bool = True,
        target: TrainClassifier | None = None,
    ) -> Run:
        """A stage with its evaluation."""
        s = self.settings
        evaluation = Evaluation(
            attack=stage,
            target=target or self.target(seed),
            panel=self.panel,
            private=self.problem.train,
            samples=min(stage.samples, s.samples),
            perceptual=s.perceptual if perceptual else 0,
        )
        return Run(attack, f"{self.problem.name} | {setting}", seed, evaluation)

    # --- attacks -------------------------------------------------------------------------------------------

    def paper(self, seed: int, **changes: object) -> PatchMI:
        """Patch-MI at the paper's settings, widths and iterations of the profile."""
        p, s = self.problem, self.settings
        single = p.gan == "class_cond"
        fields = dict(
            target=self.target(seed),
            auxiliary=self.pool(),
            classes=p.classes,
            seed=seed,
            gan=p.gan,
            critics=(p.critic,),
            n_gf=s.sweep_n_gf if single else s.n_gf,
            n_df=s.sweep_n_df if single else s.n_df,
            iterations=s.iterations,
            batch=s.sweep_batch if single else s.batch,
            w_a=p.w_a,
            tau=p.tau,
            views=p.views,
            samples=s.samples,
        )
        return PatchMI(**fields | changes)

    def tuned(self, seed: int, **changes: object) -> PatchMI:
        """Patch-MI (tuned): settings found by search on the target alone (notebook, "what was tried")."""
        p, s = self.problem, self.settings
        fields = dict(
            gan="class_cond",
            auxiliary=self.pool(p.tuned_pieces),
            critics=TUNED_CRITICS,
            d_reduce="patch",
            d_norm="none",
            d_padding="replicate",
            n_gf=s.tuned_n_gf,
            n_df=s.tuned_n_df,
            iterations=s.tuned_iterations,
            batch=s.tuned_batch,
            w_a=0.3,
            tau=1.0,
            views=Views(count=2, transform=TUNED_BLOCK),
            upsampling="resize",
            instance_noise=0.05,
            w_z=1.0,
            w_bn=5.0,
            average=0.98,
        )
        return self.paper(seed, **fields | changes)

    def sweep(self, seed: int, **changes: object) -> PatchMI:
        """The base of all ablations: class-conditional, narrow, few iterations, otherwise the paper's settings."""
        s = self.settings
        fields = dict(
            gan="class_cond",
            n_gf=s.sweep_n_gf,
            n_df=s.sweep_n_df,
            iterations=s.sweep_iterations,
            batch=s.sweep_batch,
            samples=s.sweep_samples,
        )
        return self.paper(seed, **fields | changes)

    def active(self, seed: int, **changes: object) -> PatchMI:
        """The base of sweeps over patches and auxiliary sets: one in which the critic acts.

        At the released options (mean logit, instance norm, flattened labels, w_a 30) a short run is the same
        whatever the critic is shown; with per-patch loss, no norm, plain labels and w_a 1 it is not.
        """
        fields = dict(d_reduce="patch", d_norm="none", tau=1.0, w_a=1.0, iterations=self.settings.active_iterations)
        return self.sweep(seed, **fields | changes)

    def baselines(self, seed: int, views: Views, source: AnySource | None = None) -> dict[str, Stage]:
        """BMI, GenMI and VMI; their images are scored at the same number per class as Patch-MI's."""
        p, s = self.problem, self.settings
        shared = dict(target=self.target(seed), classes=p.classes, seed=seed, samples=s.samples, views=views)
        prior = self.dcgan(source)
        return {
            "BMI": BMI(iterations=s.bmi_iterations, **shared),
            "GenMI": GenerativeMI(prior=prior, iterations=s.generative_iterations, **shared),
            "VMI": VMI(prior=prior, iterations=s.vmi_iterations, batch=s.vmi_batch, **shared),
        }


def references(bench: Bench) -> Iterator[Run]:
    """Rows of T1 that no attack made, with as many images: a metric means little without them."""
    p, s = bench.problem, bench.settings
    for seed in range(s.seeds):
        shared = dict(classes=p.classes, samples=s.samples, seed=seed)
        yield bench.run("prior samples", "T1", seed, PriorSamples(prior=bench.dcgan(), **shared))
        yield bench.run("public images", "T1", seed, PublicImages(pool=bench.pool(), **shared))
        yield bench.run("held-out private images", "T1", seed, HeldOut(source=p.holdout or p.test, **shared))


def some(found: dict[str, Value], settings: Settings) -> dict[str, Value]:
    """The first `settings.variants` entries, or all."""
    return dict(islice(found.items(), settings.variants))


def main_runs(bench: Bench, augmented: bool) -> Iterator[Run]:
    """T1: baselines (also with the transformation block, where asked), the paper's settings, tuned."""
    for seed in range(bench.settings.seeds):
        yield bench.run("Patch-MI (tuned)", "T1", seed, bench.tuned(seed))
        yield bench.run("Patch-MI", "T1", seed, bench.paper(seed))
        for name, stage in bench.baselines(seed, Views()).items():
            yield bench.run(name, "T1", seed, stage)
        if augmented:
            for name, stage in bench.baselines(seed, bench.problem.views).items():
                yield bench.run(f"{name} + aug", "T1", seed, stage)


def transformation_variants(bench: Bench) -> dict[str, Views]:
    """T4: one transform alone, strengths, numbers of views, how draws and views are combined."""
    base = bench.problem.views

    def block(*steps: object, draw: str = "batch") -> Views:
        return base.model_copy(update={"transform": Augment(steps=steps, draw=draw)})

    return {
        "none": Views(),
        "rotation only": block(Rotate(degrees=20)),
        "crop only": block(ResizedCrop(size=32, area=(0.85, 1), aspect=(0.9, 1.1))),
        "translation only": block(Affine(translate=0.1)),
        "half strength": base.model_copy(update={"transform": handwriting_block(0.5)}),
        "double strength": base.model_copy(update={"transform": handwriting_block(2.0)}),
        "3 views": base.model_copy(update={"count": 3}),
        "draw per image": base.model_copy(update={"transform": handwriting_block(draw="sample")}),
        "combine logits": base.model_copy(update={"combine": "logit"}),
    }


def ablation_variants(bench: Bench) -> dict[str, dict[str, object]]:
    """T2 and T3: what differs from the base of the sweeps; the base itself is "base"."""
    return {
        "off_patch": {"critics": (OFF_PATCH,)},
        "off_patch, no aug": {"critics": (OFF_PATCH,), "views": Views()},
        "d_reduce patch": {"d_reduce": "patch"},
        "d_norm none": {"d_norm": "none"},
        "no label flattening": {"tau": 1.0},
        **{f"w_a {w:g}": {"w_a": w} for w in (0.5, 2.0, 8.0)},
        "two codes": {"n_codes": 2},
    }


def critic_variants() -> dict[str, Critic]:
    """Patch sizes around the paper's 6 px, up to the whole image."""
    return {
        "off_patch": OFF_PATCH,
        "patch 3 px": Critic(patch=3, stride=2, padding=2),
        "patch 12 px": Critic(patch=12, stride=2, padding=2),
    }


def sweep_runs(bench: Bench) -> Iterator[Run]:
    """T2, T3, T4: one factor at a time around the base of the sweeps."""
    for seed in range(bench.settings.sweep_seeds):
        yield bench.run("Patch-MI", "base", seed, bench.sweep(seed))
        for name, views in some(transformation_variants(bench), bench.settings).items():
            yield bench.run("Patch-MI", f"T4 {name}", seed, bench.sweep(seed, views=views), False)
        for name, changes in some(ablation_variants(bench), bench.settings).items():
            yield bench.run("Patch-MI", f"T3 {name}", seed, bench.sweep(seed, **changes), "off" in name)
        yield bench.run("Patch-MI", "active base", seed, bench.active(seed))
        for name, critic in some(critic_variants(), bench.settings).items():
            yield bench.run("Patch-MI", f"active, {name}", seed, bench.active(seed, critics=(critic,)))
        if bench.problem.gan == "per_class":
            yield bench.run("Patch-MI", "T3 class_cond", seed, bench.paper(seed, gan="class_cond"), False)


def pair_runs(bench: Bench) -> Iterator[Run]:
    """T5: auxiliary sets against one target; the patch critic against the whole-image critic on some."""
    for seed in range(bench.settings.pair_seeds):
        for name, source in some(auxiliaries(bench.problem), bench.settings).items():
            pool = bench.pool(glyph_pieces(), source)
            yield bench.run("Patch-MI", f"T5 {name}", seed, bench.active(seed, auxiliary=pool))


def dissimilar_runs(bench: Bench, dissimilar: str = DISSIMILAR) -> Iterator[Run]:
    """P6, P12: Patch-MI, its whole-image variant and the generative baselines on a dissimilar auxiliary set."""
    source = auxiliaries(bench.problem)[dissimilar]
    pool = bench.pool(glyph_pieces(), source)
    for seed in range(bench.settings.sweep_seeds):
        if seed >= bench.settings.pair_seeds:  # `pair_runs` has the first ones
            yield bench.run("Patch-MI", f"T5 {dissimilar}", seed, bench.active(seed, auxiliary=pool))
        off = bench.active(seed, auxiliary=pool, critics=(OFF_PATCH,))
        yield bench.run("Patch-MI", f"T5 {dissimilar}, off_patch", seed, off)
        found = bench.baselines(seed, Views(), source)
        for attack in ("GenMI", "VMI"):
            yield bench.run(attack, f"T5 {dissimilar}", seed, found[attack])


def target_runs(bench: Bench) -> Iterator[Run]:
    """T7 (ours): the same attacks on a target that was trained without augmentation; tuned on seed 0 alone."""
    net = bench.problem.target.model_copy(update={"augmentation": Augment()})
    for seed in range(bench.settings.seeds):
        target = bench.classifier(net, seed)
        found = {"Patch-MI": bench.sweep(seed, target=target)}
        found |= {"Patch-MI (tuned)": bench.tuned(seed, target=target)} if seed == 0 else {}
        for attack, stage in found.items():
            yield bench.run(attack, "T7 no target augmentation", seed, stage, False, target)


def similarity(bench: Bench, source: AnySource, seed: int = 0) -> PatchSimilarity:
    """Patch divergence of one auxiliary set from the private images."""
    return PatchSimilarity(
        private=bench.problem.train,
        auxiliary=bench.pool(glyph_pieces(), source),
        iterations=bench.settings.similarity_iterations,
        patches=bench.settings.similarity_patches,
        seed=seed,
    )


def similarities(bench: Bench) -> dict[str, PatchSimilarity]:
    """Patch divergence of every auxiliary set."""
    return {
        name: similarity(bench, source) for name, source in some(auxiliaries(bench.problem), bench.settings).items()
    }

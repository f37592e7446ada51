"""The claims ledger of Patch-MI (specification, section 8): each claim with the statistic that judges it."""

from collections.abc import Callable, Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from mi_utils.metrics.intervals import (
    Interval,
    difference_interval,
    mean_interval,
    ratio_interval,
    slope_interval,
    spearman_interval,
)
from mi_utils.report import claims as rules
from mi_utils.report.claims import Claim, Effect, Judgement
from mi_utils.report.scores import matrix, paired, per_seed
from mi_utils.runtime import generator as seeded
from mi_utils.studies.patch_mi.grid import DISSIMILAR
from mi_utils.studies.plan import Plan
from mi_utils.training.gan import TrainDCGAN

PATCH, GENERATIVE = "Patch-MI", ("GenMI", "VMI")
BASELINES = ("BMI", *GENERATIVE)

CLAIMS = {
    c.id: c
    for c in (
        Claim(id="P1", statement="99.72 % top-1 on MNIST", source="summary 000", kind="number", published="99.72 %"),
        Claim(
            id="P2",
            statement="99.68 % top-1 on EMNIST letters",
            source="summary 000",
            kind="number",
            published="99.68 %",
        ),
        Claim(
            id="P3",
            statement="At least 5 % top-1 over the best other method",
            source="summary 000",
            kind="order",
            published=">= 5 %",
        ),
        Claim(
            id="P4", statement="Beats generative attacks in accuracy on every data set", source="abstract", kind="order"
        ),
        Claim(id="P5", statement="Quality statistics stay comparable", source="abstract", kind="order"),
        Claim(
            id="P6",
            statement="The patch critic is what helps when the auxiliary set is dissimilar",
            source="summaries 000, 001",
            kind="interaction",
        ),
        Claim(id="P7", statement="The random transformation raises accuracy", source="abstract", kind="sign"),
        Claim(
            id="P8", statement="Assumption 3: patches agree although images do not", source="summary 000", kind="sign"
        ),
        Claim(
            id="P9", statement="Attack success falls with patch divergence", source="summary 000", kind="association"
        ),
        Claim(
            id="P10",
            statement="One single transformation carries over half of the effect",
            source="summary 000 (next check 2)",
            kind="sign",
        ),
        Claim(
            id="P11",
            statement="Survives a deliberately dissimilar auxiliary set on a face target",
            source="summary 000 (next check 3)",
            kind="sign",
        ),
        Claim(
            id="P12",
            statement="Relies less on the auxiliary set than generative attacks",
            source="summary 001",
            kind="interaction",
        ),
        Claim(
            id="P13", statement="Accuracy is traded for coverage (CIFAR-10)", source="summary 001", kind="association"
        ),
        Claim(id="P14", statement="No pre-trained generator is needed", source="abstract", kind="existence"),
        Claim(
            id="P15",
            statement="Smaller patches: more local detail, less global coherence",
            source="summary 000",
            kind="trend",
        ),
        Claim(
            id="P16",
            statement="Top-1 >= 99 % can coexist with unrecognisable or collapsed images",
            source="ours",
            kind="existence",
        ),
        Claim(
            id="P17",
            statement="class_cond collapses more than per_class; mean more than patch",
            source="ours",
            kind="sign",
        ),
        Claim(id="P18", statement="The InfoGAN code raises diversity", source="released code", kind="sign"),
    )
}


class Ledger:
    """Judges every claim on a plan's scores."""

    def __init__(self, plan: Plan, scores: pd.DataFrame):
        self.plan, self.scores = plan, scores
        self.problems = [bench.problem.name for bench in plan.notes["benches"]]
        self.first = self.problems[0]
        s = plan.settings
        scale = f"{s.iterations} iterations, sweeps {s.sweep_iterations} and {s.active_iterations}, released 24,000"
        self.stand_in = None if plan.profile == "paper" else f"{s.standing}; {scale}"

    def judge(self) -> list[Judgement]:
        """One judgement per claim, in order; at `smoke` none is judged."""
        if self.plan.profile == "smoke":
            return [rules.unjudged(c, "the smoke profile only checks that everything runs") for c in CLAIMS.values()]
        return [getattr(self, name.lower())(claim) for name, claim in CLAIMS.items()]

    # --- statistics ----------------------------------------------------------------------------------------

    def values(self, attack: str, setting: str, metric: str, problem: str | None = None) -> Float[Tensor, "s c"]:
        """Scores (seeds, classes) of one row."""
        return matrix(self.scores, attack, f"{problem or self.first} | {setting}", metric)[0]

    def rng(self, *words: str) -> torch.Generator:
        """The bootstrap's stream for one statistic."""
        return seeded("bootstrap", *words)

    def mean(self, name: str, values: Tensor) -> Interval:
        """Interval of a mean."""
        return mean_interval(values, self.rng(name))

    def difference(
        self, name: str, a: tuple[str, str], b: tuple[str, str], metric: str, problem: str | None = None
    ) -> Interval:
        """Interval of a paired difference between two (attack, setting) rows."""
        problem = problem or self.first
        rows = ((attack, f"{problem} | {setting}") for attack, setting in (a, b))
        return difference_interval(*paired(self.scores, *rows, metric), self.rng(name, metric))

    def best(self, metric: str, problem: str, pick: Callable = max, among: Sequence[str] = BASELINES) -> str:
        """The baseline with the best mean of a metric."""
        return pick(among, key=lambda b: float(self.values(b, "T1", metric, problem).mean()))

    # --- claims --------------------------------------------------------------------------------------------

    def _number(self, claim: Claim, problem: str, published: float) -> Judgement:
        found = self.mean(claim.id, 100 * self.values(PATCH, "T1", "top1", problem))
        return rules.number(claim, found, published, tolerance=0.5, partly_above=95, stand_in=self.stand_in)

    def p1(self, claim: Claim) -> Judgement:
        """Single-evaluator accuracy on digits."""
        return self._number(claim, self.first, 99.72)

    def p2(self, claim: Claim) -> Judgement:
        """Single-evaluator accuracy on letters."""
        letters = [name for name in self.problems if "letters" in name]
        if not letters:
            return rules.unjudged(claim, "no letters in this profile")
        return self._number(claim, letters[0], 99.68)

    def p3(self, claim: Claim) -> Judgement:
        """Patch-MI minus the best baseline, and minus the best that has the transformation block too."""
        augmented = [f"{name} + aug" for name in BASELINES]
        found = {
            f"over {best}": Effect(
                interval=self.difference(claim.id, (PATCH, "T1"), (best, "T1"), "top1"), margin=0.05, partly=0.0
            )
            for best in (self.best("top1", self.first), self.best("top1", self.first, among=augmented))
        }
        return rules.effects(claim, found, stand_in=self.stand_in)

    def p4(self, claim: Claim) -> Judgement:
        """Patch-MI minus each generative attack, per data set."""
        found = {
            f"{problem}, over {other}": Effect(
                interval=self.difference(claim.id + other, (PATCH, "T1"), (other, "T1"), "top1", problem)
            )
            for problem in self.problems
            for other in GENERATIVE
        }
        return rules.effects(claim, found, stand_in=self.stand_in)

    def p5(self, claim: Claim) -> Judgement:
        """Fréchet distance ratio and coverage difference to the best baseline."""
        near, wide = self.best("FD", self.first, min), self.best("coverage", self.first)
        ratio = ratio_interval(
            self.values(PATCH, "T1", "FD"), self.values(near, "T1", "FD"), self.rng(claim.id, "ratio")
        )
        cover = self.difference(claim.id, (PATCH, "T1"), (wide, "T1"), "coverage")
        found = {
            f"FD over {near}'s": Effect(interval=ratio, direction=-1, margin=1.1),
            f"coverage minus {wide}'s": Effect(interval=cover, margin=-0.02),
        }
        return rules.effects(claim, found, stand_in=self.stand_in)

    def p6(self, claim: Claim) -> Judgement:
        """(patch - off_patch) on a dissimilar set minus the same on Hangul."""
        found = {}
        for metric in ("unanimous", "DDCS"):
            gain_similar = self.values(PATCH, "active base", metric) - self.values(PATCH, "active, off_patch", metric)
            far = self.values(PATCH, f"T5 {DISSIMILAR}", metric)
            gain_far = far - self.values(PATCH, f"T5 {DISSIMILAR}, off_patch", metric)
            interval = difference_interval(gain_far, gain_similar, self.rng(claim.id, metric))
            found[metric] = Effect(interval=interval)
        return rules.effects(claim, found, stand_in=self.stand_in)

    def p7(self, claim: Claim) -> Judgement:
        """With minus without the block: ensemble accuracy, and the target's excess over it."""
        on, off = (PATCH, "base"), (PATCH, "T4 none")
        gap = [self.values(*row, "target") - self.values(*row, "ensemble mean") for row in (on, off)]
        found = {
            "ensemble accuracy": Effect(interval=self.difference(claim.id, on, off, "ensemble mean")),
            "overfit gap": Effect(interval=difference_interval(*gap, self.rng(claim.id, "gap")), direction=-1),
        }
        return rules.effects(claim, found, stand_in=self.stand_in)

    def p8(self, claim: Claim) -> Judgement:
        """JS_6 / JS_32 between private and auxiliary images."""
        js = [stage.result().meta["js"] for stage in self.plan.notes["repeats"]]
        whole = torch.tensor([[found["32"]] for found in js])
        if not bool((whole > 0).all()):
            return rules.unjudged(claim, "whole images could not be told apart (JS_32 = 0)")
        ratio = torch.tensor([[found["6"]] for found in js]) / whole
        effect = Effect(interval=self.mean(claim.id, ratio), direction=-1, margin=0.5, partly=1.0)
        return rules.effects(claim, {"JS_6 / JS_32": effect}, stand_in=self.stand_in)

    def p9(self, claim: Claim) -> Judgement:
        """Rank correlation of JS_6 and unanimous accuracy over auxiliary/target pairs."""
        pairs = pair_table(self.plan, self.scores)
        x, y = (torch.tensor(pairs[name].to_numpy()) for name in ("JS_6", "unanimous"))
        interval = spearman_interval(x, y, self.rng(claim.id))
        return rules.association(claim, interval, -1, strength=0.6, stand_in=self.stand_in)

    def p10(self, claim: Claim) -> Judgement:
        """Best single transformation minus half of the full block's effect."""
        metric = "ensemble mean"
        none, full = self.values(PATCH, "T4 none", metric), self.values(PATCH, "base", metric)
        singles = {n: self.values(PATCH, f"T4 {n} only", metric) for n in ("rotation", "crop", "translation")}
        best = max(singles, key=lambda n: float(singles[n].mean()))
        found = {
            "effect of the whole block": Effect(interval=self.mean("p10 full", full - none)),
            f"{best} beyond half of it": Effect(interval=self.mean("p10 single", singles[best] - (full + none) / 2)),
        }
        return rules.effects(claim, found, opposed="not reproduced", stand_in=self.stand_in)

    def p11(self, claim: Claim) -> Judgement:
        """Asked of a face target, which this project does not have yet."""
        far = float(self.values(PATCH, "T5 photographs", "unanimous").mean())
        near = float(self.values(PATCH, "active base", "unanimous").mean())
        return rules.unjudged(
            claim,
            f"no face classifier in this profile; on {self.first}, unanimous accuracy is {far:.2f} with "
            f"photographs as auxiliary set against {near:.2f} with Hangul",
        )

    def p12(self, claim: Claim) -> Judgement:
        """Loss of accuracy from similar to dissimilar auxiliary sets: generative attacks minus Patch-MI."""
        metric = "ensemble mean"
        drop = self.values(PATCH, "active base", metric) - self.values(PATCH, f"T5 {DISSIMILAR}", metric)
        found = {}
        for other in GENERATIVE:
            theirs = self.values(other, "T1", metric) - self.values(other, f"T5 {DISSIMILAR}", metric)
            interval = difference_interval(theirs, drop, self.rng(claim.id, other))
            found[f"drop of {other} minus ours"] = Effect(interval=interval)
        return rules.effects(claim, found, stand_in=self.stand_in)

    def p13(self, claim: Claim) -> Judgement:
        """Slope of coverage on top-1 over the weights of the identity loss."""
        settings = [f"T3 w_a {w}" for w in ("0.5", "2", "8")] + ["base"]
        x, y = (torch.cat([self.values(PATCH, s, metric).mean(1) for s in settings]) for metric in ("top1", "coverage"))
        if float(y.amax() - y.amin()) == 0 or float(x.amax() - x.amin()) == 0:
            return rules.unjudged(claim, f"top-1 {x.mean():.2f} or coverage {y.mean():.3f} is the same in all runs")
        interval = slope_interval(x, y, self.rng(claim.id))
        return rules.association(claim, interval, -1, stand_in=self.stand_in)

    def p14(self, claim: Claim) -> Judgement:
        """No prior among the stages that the attack reads, and its images are recognised by the ensemble."""
        runs = [r for r in self.plan.runs if (r.attack, r.setting) == (PATCH, f"{self.first} | T1")]
        accuracy = self.values(PATCH, "T1", "ensemble mean").mean(1)
        found = {
            r.seed: not any(isinstance(s, TrainDCGAN) for s in r.stage.upstream()) and float(a) > 0.5
            for r, a in zip(runs, accuracy, strict=True)
        }
        return rules.existence(claim, found, stand_in=self.stand_in)

    def p15(self, claim: Claim) -> Judgement:
        """3 px patches against whole images: precision and acceptance by the reject-class evaluator."""
        small, whole = (PATCH, "active, patch 3 px"), (PATCH, "active, off_patch")
        found = {
            "precision": Effect(interval=self.difference(claim.id, small, whole, "precision")),
            "accepted": Effect(interval=self.difference(claim.id, small, whole, "accepted"), direction=-1),
        }
        return rules.effects(claim, found, stand_in=self.stand_in)

    def p16(self, claim: Claim) -> Judgement:
        """A run with top-1 >= .99 whose images are collapsed (rho_pix < .3) or refused (accepted < .5)."""
        wide = per_seed(self.scores).pivot_table(index=["attack", "setting", "seed"], columns="metric", values="value")
        fooled = (wide["top1"] >= 0.99) & ((wide["rho_pix"] < 0.3) | (wide["accepted"] < 0.5))
        return rules.existence(claim, fooled.groupby("seed").any().to_dict(), stand_in=self.stand_in)

    def p17(self, claim: Claim) -> Judgement:
        """Pixel diversity of the less collapsing minus the more collapsing option."""
        rows = {
            "per_class minus class_cond": ((PATCH, "T1"), (PATCH, "T3 class_cond")),
            "patch minus mean": ((PATCH, "T3 d_reduce patch"), (PATCH, "base")),
        }
        found = {k: Effect(interval=self.difference(k, *pair, "rho_pix")) for k, pair in rows.items()}
        return rules.effects(claim, found, stand_in=self.stand_in)

    def p18(self, claim: Claim) -> Judgement:
        """Two codes minus none: pixel diversity and effective number of matches."""
        rows = (PATCH, "T3 two codes"), (PATCH, "base")
        found = {m: Effect(interval=self.difference(claim.id, *rows, m)) for m in ("rho_pix", "N_eff")}
        return rules.effects(claim, found, stand_in=self.stand_in)


def pair_table(plan: Plan, scores: pd.DataFrame) -> pd.DataFrame:
    """One row per auxiliary/target pair: divergences, and what Patch-MI reached (mean over seeds)."""
    means = per_seed(scores).groupby(["attack", "setting", "metric"])["value"].mean()
    rows = []
    for problem, stages in plan.notes["similarity"].items():
        for name, stage in stages.items():
            meta = stage.result().meta
            row = {"target": problem, "auxiliary": name}
            row |= {f"JS_{side}": value for side, value in meta["js"].items()}
            row |= {"FD of patches": meta["fd"], "MMD² of patches": meta["mmd2"]}
            reached = means[PATCH, f"{problem} | T5 {name}"]
            row |= {m: reached[m] for m in ("top1", "ensemble mean", "unanimous", "accepted", "rho_pix", "DDCS")}
            rows.append(row)
    return pd.DataFrame(rows)

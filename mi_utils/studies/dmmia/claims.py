"""The claims ledger of DMMIA and of Plug & Play (specification, section 8): each claim with what judges it."""

import pandas as pd
import torch
from torch import Tensor

from mi_utils.metrics.intervals import Interval, ratio_interval
from mi_utils.report import claims as rules
from mi_utils.report.claims import LEAST_SEEDS, Claim, Effect, Judgement, regraded, signed
from mi_utils.runtime import generator as seeded
from mi_utils.studies import ledger
from mi_utils.studies.dmmia import toy
from mi_utils.studies.dmmia.grid import ABLATION, ALL, FULL, MAIN, MATCHED, NO_SEARCH, NO_SELECTION, PPA, SHIFT
from mi_utils.studies.dmmia.results import sizes
from mi_utils.studies.ledger import ACCURACY
from mi_utils.studies.plan import Plan

SPACES = ("FD", "FD second space")
TOY_SEEDS = 5
TWICE, RELEASED = "PPA, gradients twice", "DMMIA, as released"

CLAIMS = {
    c.id: c
    for c in (
        Claim(id="D1", statement="DMMIA attacks more successfully than PPA", source="abstract", kind="order"),
        Claim(id="D2", statement="Reconstructions are more diverse", source="abstract, figure 1", kind="sign"),
        Claim(id="D3", statement="FID is lower", source="figure 1", kind="sign"),
        Claim(id="D4", statement="Traits such as glasses survive the optimisation", source="figure 1", kind="sign"),
        Claim(
            id="D5",
            statement="GAN-based attacks forget learned features; memory prevents it",
            source="summary 004",
            kind="sign",
        ),
        Claim(id="D6", statement="IMR raises exploration and diversity", source="abstract, README", kind="sign"),
        Claim(id="D7", statement="IDR raises discriminative fidelity", source="abstract, README", kind="sign"),
        Claim(id="D8", statement="Theory: prototypes increase diversity", source="summary 004", kind="sign"),
        Claim(
            id="D9",
            statement="Works on natural images and several architectures",
            source="summary 004",
            kind="order",
        ),
        Claim(
            id="D10",
            statement="Small training overhead, none at sampling",
            source="summary 004",
            kind="number",
            published='"minimal extra training cost", no number',
        ),
        Claim(id="D11", statement="Gradual (momentum) updates matter", source="summary 004", kind="sign"),
        Claim(
            id="D12",
            statement="The prototype configuration has an optimum",
            source="an ablation exists, summary 004",
            kind="sign",
        ),
        Claim(
            id="D13",
            statement="The released code behaves like PPA with doubled steps",
            source="ours (2.4)",
            kind="equivalence",
        ),
        Claim(
            id="D14",
            statement="The gain is not explained by CE, by tuning the mapping network, or by a plain diversity term",
            source="ours",
            kind="order",
        ),
        Claim(id="D15", statement="The memory's key and its first content matter", source="ours", kind="sign"),
        Claim(
            id="P1",
            statement="One GAN attacks many targets and survives a shift of the prior",
            source="PPA, abstract",
            kind="order",
        ),
        Claim(
            id="P2",
            statement="Candidate search and selection by transformations help",
            source="PPA (code)",
            kind="sign",
        ),
    )
}


class Ledger(ledger.Ledger):
    """DMMIA's claims, by default on all candidates."""

    claims, row = CLAIMS, ALL

    def __init__(self, plan: Plan, scores: pd.DataFrame):
        scale = sizes(plan)
        size = f"candidates {scale['candidates']}, epochs {scale['epochs']}, PPA's in brackets"
        super().__init__(plan, scores, f"{plan.settings.standing}; {size}")

    # --- statistics ----------------------------------------------------------------------------------------

    def has(self, metric: str, setting: str = ALL, name: str | None = None) -> bool:
        """Whether a metric was measured there."""
        where = self.scores["setting"] == f"{name or self.first} | {setting}"
        return bool((where & (self.scores["metric"] == metric)).any())

    def between(self, claim: Claim, one: str, other: str, metric: str = ACCURACY, **where: str) -> Interval:
        """One attack minus another."""
        pair = (self.values(attack, metric, **where) for attack in (one, other))
        return self.difference(*pair, claim.id, one, other, metric, *where.values())

    def main_effect(self, claim: Claim, which: int, metric: str) -> Interval:
        """T3's effect of IMR (0) or IDR (1), averaged over the other one off and on."""
        on, off = (
            torch.stack([self.values(n, metric) for key, n in ABLATION.items() if key[which] == level]).mean(0)
            for level in (1, 0)
        )
        return self.difference(on, off, claim.id, str(which), metric)

    def swept(self, claim: Claim, row: str, metric: str) -> Interval:
        """DMMIA as in T1 minus DMMIA with one option changed, on the sweeps' classes and the seeds that both have."""
        usual, changed = (self.values(FULL, metric, f"T4 {r}") for r in ("as in T1", row))
        return self.difference(usual[: len(changed)], changed, claim.id, row, metric)

    def spread_metrics(self, name: str | None = None) -> list[str]:
        """Measures of diversity that this problem has."""
        return [m for m in ("DIV-P", "recall", "looks") if self.has(m, name=name)]

    # --- claims --------------------------------------------------------------------------------------------

    def d1(self, claim: Claim) -> Judgement:
        """Ensemble accuracy of all candidates, one point at least."""
        found = {"ensemble accuracy": Effect(interval=self.between(claim, FULL, PPA), margin=0.01, partly=0.0)}
        return rules.effects(claim, found, stand_in=self.stand_in)

    def d2(self, claim: Claim) -> Judgement:
        """DIV-P and recall, with ensemble accuracy not lower."""
        found = {m: signed(self.between(claim, FULL, PPA, m)) for m in ("DIV-P", "recall")}
        cost = self.between(claim, FULL, PPA)
        judged = rules.effects(claim, found, stand_in=self.stand_in)
        words = f"ensemble accuracy {cost.point:.3f} [{cost.low:.3f}, {cost.high:.3f}]"
        if cost.high < 0 and judged.verdict == "reproduced":
            return regraded(judged, 1, f"{words}: lower")
        return judged.model_copy(update={"reason": f"{judged.reason}; {words}"})

    def d3(self, claim: Claim) -> Judgement:
        """Fréchet distance in two feature spaces, all classes together."""
        found = {m: signed(self.between(claim, FULL, PPA, m), -1) for m in SPACES}
        return rules.effects(claim, found, stand_in=self.stand_in)

    def d4(self, claim: Claim) -> Judgement:
        """Glasses retention of the identities that sometimes wear some."""
        if not self.has("glasses retention"):
            return rules.unjudged(claim, "the true factors of these classes are not known")
        i = self.between(claim, FULL, PPA, "glasses retention")
        found = {"glasses retention": Effect(interval=i, margin=0.05, partly=0.0)}
        return rules.effects(claim, found, stand_in=self.stand_in)

    def d5(self, claim: Claim) -> Judgement:
        """What PPA loses since its best epoch, and whether DMMIA loses less."""
        found = {}
        for metric in ("recall forgotten", "looks forgotten"):
            if self.has(metric):
                lost = self.mean(self.values(PPA, metric), claim.id, metric)
                found[f"{metric}, PPA"] = signed(lost)
                found[f"{metric}, DMMIA − PPA"] = signed(self.between(claim, FULL, PPA, metric), -1)
        return rules.effects(claim, found, stand_in=self.stand_in)

    def d6(self, claim: Claim) -> Judgement:
        """Main effect of IMR on diversity."""
        found = {m: signed(self.main_effect(claim, 0, m)) for m in self.spread_metrics()}
        return rules.effects(claim, found, stand_in=self.stand_in)

    def d7(self, claim: Claim) -> Judgement:
        """Main effect of IDR on accuracy and distance."""
        found = {
            "ensemble accuracy": signed(self.main_effect(claim, 1, ACCURACY)),
            "KNN distance": signed(self.main_effect(claim, 1, "KNN distance"), -1),
        }
        return rules.effects(claim, found, stand_in=self.stand_in)

    def d8(self, claim: Claim) -> Judgement:
        """Eight positives against one in the toy; the temperature's effect on the candidates."""

        def share(method: toy.Method) -> Tensor:
            stages = (toy.ToyMemory(method=method, seed=s) for s in range(TOY_SEEDS))
            return torch.stack([stage.result("cpu").tensors["occupied"][-1:].double() for stage in stages])

        pairs = {"rho 8 − rho 1": ("IMR, rho 8", "IMR, rho 1"), "tau 0.1 − tau 1": ("IMR, rho 8", "IMR, rho 8, tau 1")}
        found = {
            f"toy blobs, {name}": signed(self.difference(share(a), share(b), claim.id, name))
            for name, (a, b) in pairs.items()
        }
        if self.has("DIV-P", "T4 tau 1"):
            found["DIV-P, tau 0.1 − tau 1"] = signed(self.swept(claim, "tau 1", "DIV-P"))
        return rules.effects(claim, found, stand_in=self.stand_in)

    def d9(self, claim: Claim) -> Judgement:
        """D1 on every target; two thirds of those of which there are seeds enough."""
        names = [*self.names, *(bench.name for bench in self.plan.notes["others"])]
        found = {n: signed(self.between(claim, FULL, PPA, name=n)) for n in names}
        known = {n: e for n, e in found.items() if e.interval.n >= LEAST_SEEDS}
        judged = rules.effects(claim, known or found, stand_in=self.stand_in)
        held = sum(e.grade() == 2 for e in known.values())
        grade = 2 if known and held >= 2 * len(known) / 3 else int(held > 0)
        return regraded(judged, grade, f"{held} of {len(known)} intervals above 0")

    def d10(self, claim: Claim) -> Judgement:
        """Seconds of DMMIA over tuning the mapping network alone; sampling is the same graph."""
        seconds = {
            attack: torch.tensor(
                [[run.stage.result().seconds] for run in self.plan.runs
                 if (run.attack, run.setting) == (attack, f"{self.first} | {MAIN}")], dtype=torch.float64
            )
            for attack in (FULL, ABLATION[0, 0])
        }  # fmt: skip
        ratio = ratio_interval(*seconds.values(), seeded("bootstrap", claim.id))
        found = {"seconds over map CE": Effect(interval=ratio, direction=-1, margin=1.10)}
        return rules.effects(claim, found, stand_in=self.stand_in)

    def d11(self, claim: Claim) -> Judgement:
        """The study's momentum against none and against almost no update."""
        found = {}
        for row in ("r 0", "r 0.99"):
            if self.has(ACCURACY, f"T4 {row}"):
                found[f"ensemble accuracy, {row}"] = signed(self.swept(claim, row, ACCURACY))
                found[f"recall forgotten, {row}"] = signed(self.swept(claim, row, "recall forgotten"), -1)
        return rules.effects(claim, found, stand_in=self.stand_in)

    def d12(self, claim: Claim) -> Judgement:
        """Differences of T4 to the study's configuration: stated, not judged."""
        said = []
        for row in (f"n_w {n}" for n in self.plan.settings.n_w):
            said.append(self._stated(claim, row))
        said += [self._stated(claim, f"rho {share:g}") for share in self.plan.settings.rho]
        return rules.unjudged(claim, f"report only, T1's configuration minus: {'; '.join(said)}")

    def _stated(self, claim: Claim, row: str) -> str:
        parts = {m: self.swept(claim, row, m) for m in (ACCURACY, "DIV-P")}
        return f"{row}: " + ", ".join(f"{m} {i.point:.3f} [{i.low:.3f}, {i.high:.3f}]" for m, i in parts.items())

    def d13(self, claim: Claim) -> Judgement:
        """Ensemble accuracy of the released steps minus PPA with every gradient twice; 95 % where 90 % is asked."""
        return rules.equivalence(claim, self.between(claim, RELEASED, TWICE), 0.01, stand_in=self.stand_in)

    def d14(self, claim: Claim) -> Judgement:
        """DMMIA minus each simpler explanation, in accuracy and in diversity."""
        found = {
            f"{metric}, DMMIA − {other}": signed(self.between(claim, FULL, other, metric))
            for other in ("PPA, CE", ABLATION[0, 0], "map CE + spread")
            for metric in (ACCURACY, "DIV-P")
        }
        return rules.effects(claim, found, stand_in=self.stand_in)

    def d15(self, claim: Claim) -> Judgement:
        """Differences to the other key and the other start: stated, not judged."""
        rows = ("memory of the target class", "memory empty at first")
        return rules.unjudged(
            claim, f"report only, T1's configuration minus: {'; '.join(self._stated(claim, row) for row in rows)}"
        )

    def p1(self, claim: Claim) -> Judgement:
        """What the shifted prior costs PPA, minus what it costs GMI, in ensemble accuracy of the selected images."""
        if not self.has(ACCURACY, SHIFT) or "GMI" not in set(self.scores["attack"]):
            return rules.unjudged(claim, "no shifted prior, or no GMI, in this profile")
        usual = {PPA: MATCHED, "GMI": MAIN}
        drops = {a: self.values(a, ACCURACY, s) - self.values(a, ACCURACY, SHIFT) for a, s in usual.items()}
        found = {"drop of PPA − drop of GMI": signed(self.difference(drops[PPA], drops["GMI"], claim.id), -1)}
        judged = rules.effects(claim, found, stand_in=self.stand_in)
        said = ", ".join(f"{a} falls by {float(d.mean()):.3f}" for a, d in drops.items())
        return judged.model_copy(update={"reason": f"{said}; {judged.reason}"})

    def p2(self, claim: Claim) -> Judgement:
        """PPA minus PPA without the pool's scores, and without the last selection: selected images."""
        found = {}
        for setting in (NO_SEARCH, NO_SELECTION):
            pair = (self.values(PPA, ACCURACY, s) for s in (MAIN, setting))
            found[f"ensemble accuracy, {setting}"] = signed(self.difference(*pair, claim.id, setting))
        return rules.effects(claim, found, stand_in=self.stand_in)

"""The claims ledger of Re-thinking MI (specification, section 8): each claim with the statistic that judges it."""

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from mi_utils.metrics.intervals import Interval
from mi_utils.report import claims as rules
from mi_utils.report.claims import LEAST_SEEDS, Claim, Effect, Judgement, regraded, signed
from mi_utils.studies import ledger
from mi_utils.studies.ledger import ACCURACY
from mi_utils.studies.logit_augmentation.grid import BASES, MAIN, SHIFT, VARIANTS
from mi_utils.studies.logit_augmentation.results import RELEASED, rate_rows, shifted_bases
from mi_utils.studies.logit_augmentation.views import curves
from mi_utils.studies.plan import Plan
from mi_utils.studies.tables import by_rank

CELEBA = "CelebA"

CLAIMS = {
    c.id: c
    for c in (
        Claim(id="L1", statement="LOM beats CE for every base attack", source="abstract, seed 003", kind="sign"),
        Claim(id="L2", statement="MA beats no MA for every base attack", source="abstract, seed 003", kind="sign"),
        Claim(id="L3", statement="LOM and MA are complementary", source="seed 003", kind="order"),
        Claim(
            id="L4",
            statement="+11.8 points, first accuracy above 90 % on CelebA",
            source="abstract",
            kind="number",
            published="+11.8 points, > 90 %",
        ),
        Claim(
            id="L5",
            statement="From 81.4 % to over 93 %",
            source="seed 003",
            kind="number",
            published="81.4 % to over 93 %",
        ),
        Claim(
            id="L6",
            statement="A cell of 92.93 % exists (banner)",
            source="project page",
            kind="number",
            published="92.93 %",
        ),
        Claim(
            id="L7",
            statement="CE is sub-optimal because features stay off the private cluster",
            source="figure, equations 2 and 3",
            kind="sign",
        ),
        Claim(id="L8", statement="MI overfitting exists", source="abstract, seed 003", kind="sign"),
        Claim(id="L9", statement="MA reduces overfitting, not only accuracy", source="abstract, seed 003", kind="sign"),
        Claim(id="L10", statement="p_reg mean and sample are equivalent", source="ours (2.2)", kind="equivalence"),
        Claim(id="L11", statement="The gain of LOM is not a step-size effect", source="ours (control a)", kind="sign"),
        Claim(id="L12", statement="The regulariser matters", source="figure; ours", kind="trend"),
        Claim(
            id="L13",
            statement="Diversity of architecture, not averaging, drives MA",
            source="ours (controls b, c)",
            kind="sign",
        ),
        Claim(
            id="L14",
            statement="The gain holds under distribution shift",
            source="released configuration; AlignMI shows a large drop for both",
            kind="sign",
        ),
        Claim(id="L15", statement="Improvements hold over data sets and targets", source="seed 003", kind="sign"),
        Claim(
            id="L16",
            statement="Distance and Fréchet distance improve with accuracy",
            source='seed 003 ("reconstruction quality")',
            kind="sign",
        ),
        Claim(id="L17", statement="Higher accuracy costs diversity", source="ours (section 9)", kind="sign"),
        Claim(
            id="L18",
            statement="The order of KEDMI and GMI depends on the prior",
            source="AlignMI against KEDMI's issues; ours",
            kind="order",
        ),
        Claim(
            id="L19",
            statement="A defended target stays vulnerable to the improved attack",
            source="seed 003, future-work text",
            kind="sign",
        ),
    )
}
NEEDS = {  # rows that a profile may leave out
    "L10": "T5 p_reg sample",
    "L11": "T5 lr x2",
    "L12": "T5 lam 0",
    "L13": "T4 random labels",
    "L14": SHIFT,
}


class Ledger(ledger.Ledger):
    """The claims of Re-thinking MI; classes of seeds that attack different ones are paired by their place."""

    claims, row = CLAIMS, MAIN

    def __init__(self, plan: Plan, scores: pd.DataFrame):
        s = plan.settings
        scale = ", ".join(f"{b} {getattr(s, b.lower()).iterations} iterations ({n})" for b, n in RELEASED.items())
        super().__init__(plan, by_rank(scores), f"{s.standing}; {scale}, released in brackets")

    def judged(self, name: str, claim: Claim) -> Judgement:
        """The judgement of one claim, where its row is part of the profile."""
        known = {run.setting.split(" | ")[-1] for run in self.plan.runs}
        if NEEDS.get(name, MAIN) not in known:
            return rules.unjudged(claim, f"no row {NEEDS[name]!r} in this profile")
        return super().judged(name, claim)

    # --- statistics ----------------------------------------------------------------------------------------

    def pooled(self, variant: str, metric: str) -> Float[Tensor, "s bc"]:
        """Scores of one loss under all base attacks side by side: (seeds, bases x classes)."""
        return torch.cat([self.values(f"{base} {variant}", metric) for base in BASES], 1)

    def gain(self, claim: Claim, base: str, variant: str, **where: str) -> Interval:
        """Ensemble accuracy of a loss minus cross-entropy's, one base attack."""
        one, other = (self.values(f"{base} {v}", **where) for v in (variant, "CE"))
        return self.difference(one, other, claim.id, base, *where.values())

    def shift(self, claim: Claim, metric: str, one: str = "LOMMA", other: str = "CE") -> Interval:
        """Change of a metric between two losses over all base attacks together."""
        return self.difference(self.pooled(one, metric), self.pooled(other, metric), claim.id, metric)

    # --- claims --------------------------------------------------------------------------------------------

    def _each_base(self, claim: Claim, variant: str) -> Judgement:
        """All intervals above 0; partly: some above 0 and none below."""
        found = {f"{base}, {variant} − CE": signed(self.gain(claim, base, variant)) for base in BASES}
        return rules.effects(claim, found, opposed="not reproduced", stand_in=self.stand_in)

    def l1(self, claim: Claim) -> Judgement:
        """Gain of the logit loss, per base attack."""
        return self._each_base(claim, "+LOM")

    def l2(self, claim: Claim) -> Judgement:
        """Gain of model augmentation, per base attack."""
        return self._each_base(claim, "+MA")

    def l3(self, claim: Claim) -> Judgement:
        """Both changes against the better of the two, per base attack; two of three suffice."""
        found = {}
        for base in BASES:
            better = max(("+LOM", "+MA"), key=lambda v, b=base: float(self.values(f"{b} {v}").mean()))
            pair = (self.values(f"{base} {v}") for v in ("LOMMA", better))
            found[f"{base}, LOMMA − {better}"] = Effect(interval=self.difference(*pair, claim.id, base))
        judged = rules.effects(claim, found, stand_in=self.stand_in)
        enough = sum(effect.grade() == 2 for effect in found.values()) >= 2
        return regraded(judged, 2, "two attacks suffice") if enough else judged

    def _celeba(self, claim: Claim) -> Judgement | dict[str, tuple[Interval, Interval]]:
        """Top-1 in per cent of CE and of LOMMA by base attack, or why there is none."""
        if self.first != CELEBA:
            return rules.unjudged(claim, f"a number on CelebA, which is not at hand; here: {', '.join(self.names)}")
        return {
            base: tuple(self.mean(100 * self.values(f"{base} {v}", "top1"), claim.id, base, v) for v in ("CE", "LOMMA"))
            for base in BASES
        }

    def l4(self, claim: Claim) -> Judgement:
        """The best LOMMA cell and its gain."""
        cells = self._celeba(claim)
        if isinstance(cells, Judgement):
            return cells
        base = max(cells, key=lambda b: cells[b][1].point)
        pair = (100 * self.values(f"{base} {v}", "top1") for v in ("LOMMA", "CE"))
        judged = rules.number(claim, self.difference(*pair, claim.id, base), 11.8, tolerance=2)
        above, close = cells[base][1].point > 90, judged.verdict == "reproduced"
        return regraded(judged, 1 + close if above else 0, f"{base} LOMMA reaches {cells[base][1].point:.1f} %")

    def l5(self, claim: Claim) -> Judgement:
        """The GMI or KEDMI cell whose baseline is nearest to 81.4."""
        cells = self._celeba(claim)
        if isinstance(cells, Judgement):
            return cells
        base = min(("GMI", "KEDMI"), key=lambda b: abs(cells[b][0].point - 81.4))
        before, after = cells[base]
        ends = abs(before.point - 81.4) <= 2 and after.point >= 93 - 2
        judged = rules.number(claim, after, 93, tolerance=2)
        return regraded(judged, 2 if ends else int(after.point > before.point), f"{base}, CE {before.point:.1f} %")

    def l6(self, claim: Claim) -> Judgement:
        """The LOMMA cell nearest to 92.93."""
        cells = self._celeba(claim)
        if isinstance(cells, Judgement):
            return cells
        nearest = min((after for _, after in cells.values()), key=lambda i: abs(i.point - 92.93))
        judged = rules.number(claim, nearest, 92.93, tolerance=0)
        return judged if judged.verdict == "reproduced" else regraded(judged, int(abs(nearest.point - 92.93) <= 3))

    def l7(self, claim: Claim) -> Judgement:
        """Distance to the private class mean and direction towards it, LOM minus CE."""
        found = {
            "feature gap": signed(self.shift(claim, "feature gap", "+LOM"), -1),
            "feature cosine": signed(self.shift(claim, "feature cosine", "+LOM")),
        }
        return rules.effects(claim, found, stand_in=self.stand_in)

    def l8(self, claim: Claim) -> Judgement:
        """Excess of the target's accuracy over the evaluators', also relative to what each reaches on real images."""
        found = {m: signed(self.mean(self.pooled("CE", m), claim.id, m)) for m in ("gap", "relative gap")}
        return rules.effects(claim, found, stand_in=self.stand_in)

    def l9(self, claim: Claim) -> Judgement:
        """Gap of MA minus gap of CE: both stopped where the target's accuracy is the same; and at the end."""
        per_base = [matched_gap_difference(*(self._courses(f"{b} {v}") for v in ("+MA", "CE"))) for b in BASES]
        matched = self.mean(torch.stack(per_base, 1), claim.id)
        unmatched = self.shift(claim, "gap", "+MA")
        found = {"at equal target accuracy": signed(matched, -1), "at the end": signed(unmatched, -1)}
        judged = rules.effects(claim, found, stand_in=self.stand_in)
        return regraded(judged, 2 if matched.high < 0 else int(unmatched.high < 0))

    def _courses(self, attack: str) -> list[tuple[Tensor, Tensor]]:
        """Accuracy of the target and of the evaluators along the attack, by seed."""
        found = curves(self.plan, attack, self.first)
        return list(zip(found.target, found.evaluators, strict=True))

    def l10(self, claim: Claim) -> Judgement:
        """KEDMI + LOM with a drawn anchor minus with the mean."""
        pair = (self.values("KEDMI +LOM", setting=s) for s in ("T5 p_reg sample", MAIN))
        return rules.equivalence(claim, self.difference(*pair, claim.id), 0.03, partly=0.06, stand_in=self.stand_in)

    def l11(self, claim: Claim) -> Judgement:
        """LOM minus CE (KEDMI), each at its own best learning rate."""
        best = [self._best_rate(variant) for variant in ("+LOM", "CE")]
        (one, at), (other, with_) = best
        found = {f"LOM at x{at:g} − CE at x{with_:g}": Effect(interval=self.difference(one, other, claim.id))}
        return rules.effects(claim, found, stand_in=self.stand_in)

    def _best_rate(self, variant: str) -> tuple[Tensor, float]:
        """Scores at the factor of the learning rate with the highest ensemble accuracy, and the factor."""
        rows = rate_rows(self.plan, variant)
        scored = {f: self.values(attack, setting=s.split(" | ")[-1]) for f, (attack, s) in rows.items()}
        best = max(scored, key=lambda f: float(scored[f].mean()))
        return scored[best], best

    def l12(self, claim: Claim) -> Judgement:
        """No regulariser minus the study's (KEDMI + LOM): norm of the features, and accuracy."""
        if ("KEDMI +LOM", f"{self.first} | T5 lam 0", 0) not in self.plan.notes["courses"]:
            return rules.unjudged(claim, "the features of the run without regulariser were not measured")
        found = {}
        for metric, direction in (("feature norm", 1), (ACCURACY, -1)):
            pair = (self.values("KEDMI +LOM", metric, s) for s in ("T5 lam 0", MAIN))
            name = f"{metric}, lam 0 − lam {self.plan.settings.lam:g}"
            found[name] = signed(self.difference(*pair, claim.id, metric), direction)
        return rules.effects(claim, found, stand_in=self.stand_in)

    def l13(self, claim: Claim) -> Judgement:
        """Students of other architectures minus students of the target's own, and minus random-label students."""
        found = {}
        for control in ("own architecture", "random labels"):
            pair = (self.values("KEDMI +MA", setting=s) for s in (MAIN, f"T4 {control}"))
            found[f"MA − {control}"] = signed(self.difference(*pair, claim.id, control))
        return rules.effects(claim, found, stand_in=self.stand_in)

    def l14(self, claim: Claim) -> Judgement:
        """Gain of LOMMA with shifted public images; its drop from the matched ones is reported."""
        found, drops = {}, []
        for base in shifted_bases(self.plan):
            found[f"{base}, LOMMA − CE, shifted"] = signed(self.gain(claim, base, "LOMMA", setting=SHIFT))
            near, far = (float(self.values(f"{base} LOMMA", setting=s).mean()) for s in (MAIN, SHIFT))
            drops.append(f"{base} LOMMA falls from {near:.3f} to {far:.3f}")
        judged = rules.effects(claim, found, opposed="not reproduced", stand_in=self.stand_in)
        return judged.model_copy(update={"reason": f"{'; '.join(drops)}; {judged.reason}"})

    def l15(self, claim: Claim) -> Judgement:
        """Gain of LOMMA on every data set, base attack and further target of which there are seeds enough."""
        cells = [(name, base) for name in self.names for base in BASES]
        cells += [(bench.name, "GMI") for bench in self.plan.notes["others"]]
        found = {f"{n}, {b}": signed(self.gain(claim, b, "LOMMA", name=n)) for n, b in cells}
        known = {said: e for said, e in found.items() if e.interval.n >= LEAST_SEEDS}
        few = [f"{said} {e.interval.point:.3g} (n={e.interval.n}, not counted)" for said, e in found.items()
               if said not in known]  # fmt: skip
        judged = rules.effects(claim, known, stand_in=self.stand_in)
        held = sum(e.grade() == 2 for e in known.values())
        grade = 2 if held == len(known) else int(held > len(known) / 2)
        return regraded(judged, grade, "; ".join([f"{held} of {len(known)} intervals above 0", *few]))

    def l16(self, claim: Claim) -> Judgement:
        """Distances to private images over all reconstructions, LOMMA minus CE."""
        found = {m: signed(self.shift(claim, m), -1) for m in ("KNN distance", "FD")}
        return rules.effects(claim, found, stand_in=self.stand_in)

    def l17(self, claim: Claim) -> Judgement:
        """Spread and coverage, LOMMA minus CE."""
        found = {m: signed(self.shift(claim, m), -1) for m in ("rho_pix", "coverage")}
        return rules.effects(claim, found, stand_in=self.stand_in)

    def l18(self, claim: Claim) -> Judgement:
        """KEDMI minus GMI on every data set: stated, not judged."""
        said = []
        for name in self.names:
            for variant in (VARIANTS[0], VARIANTS[-1]):
                pair = (self.values(f"{base} {variant}", name=name) for base in ("KEDMI", "GMI"))
                i = self.difference(*pair, claim.id, name, variant)
                said.append(f"{name}, {variant}: {i.point:.3f} [{i.low:.3f}, {i.high:.3f}]")
        return rules.unjudged(claim, f"report only, KEDMI − GMI in ensemble accuracy: {'; '.join(said)}")

    def l19(self, claim: Claim) -> Judgement:
        """Asked of a defended target, which this study does not train."""
        return rules.unjudged(claim, "optional in the specification; no label-smoothed target was attacked")


def stopped(target: Float[Tensor, " f"], evaluators: Float[Tensor, " f"], level: float) -> float:
    """Mean evaluator accuracy when the target's accuracy first reaches `level`, linear between frames."""
    k = int((target >= level).nonzero()[0])
    if k == 0:
        return float(evaluators[0])
    share = (level - target[k - 1]) / (target[k] - target[k - 1])
    return float(evaluators[k - 1] + share * (evaluators[k] - evaluators[k - 1]))


def matched_gap_difference(one: list[tuple[Tensor, Tensor]], other: list[tuple[Tensor, Tensor]]) -> Float[Tensor, " s"]:
    r"""$\Delta$ of the first minus $\Delta$ of the second run, by seed, at the highest $A_T$ that both reach.

    Each is stopped early where it first reaches it, so the difference is $\overline{A_E}$ of the second minus that of
    the first.
    """
    found = []
    for (target, evaluators), (target_2, evaluators_2) in zip(one, other, strict=True):
        level = float(min(target.max(), target_2.max()))
        found.append(stopped(target_2, evaluators_2, level) - stopped(target, evaluators, level))
    return torch.tensor(found, dtype=torch.float64)

"""The claims ledger of DDCS and NGD (specification, section 8), and its open questions: each with what judges it."""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch

from mi_utils.metrics.intervals import Interval, ratio_interval, spearman, spearman_interval
from mi_utils.report import claims as rules
from mi_utils.report.claims import Claim, Effect, Judgement, signed, unjudged
from mi_utils.report.scores import matrix
from mi_utils.runtime import generator as seeded
from mi_utils.studies import ledger
from mi_utils.studies.ddcs_ngd import sensitivity
from mi_utils.studies.ddcs_ngd.grid import (
    CONTROL,
    DEFENCES,
    DUAL,
    FRONTIER,
    GUIDED,
    INSIDE,
    KNOWING,
    MAIN,
    NGD,
    OUTSIDE,
    PPA,
    REPEATED,
    UNDEFENDED,
    VANILLA,
    defended,
)
from mi_utils.studies.ddcs_ngd.results import LABELS, arm, measured, sizes
from mi_utils.studies.ddcs_ngd.targets import Outcome, by_half, covered, outcome, prior_coverage
from mi_utils.studies.plan import Plan
from mi_utils.studies.tables import PRIOR

STATED = (
    ("C1", "The best method reaches 22.52 % DDCS on UMDFaces", "key results", "number", "22.52"),
    ("C2", "… and 33.84 % coverage", "key results", "number", "33.84"),
    ("C3", "NGD lowers the FID to validation images", "key results", "number", "33.73 to 10.98"),
    ("C4", "NGD removes visible artefacts", "mechanism 2, figure 4", "sign", None),
    ("C5", "DDCS is stable under redundant reconstructions, FID is not", "figure 7", "order", None),
    ("C6", "Accuracy and feature distance miss gaps of coverage", "key results", "order", None),
    ("C7", "Two generators beat either one", "mechanism 3", "order", None),
    ("C8", "The entropy-tuned generator is less diverse", "mechanism 3", "sign", None),
    ("C9", "The framework improves earlier attacks", "key results", "order", None),
    ("C10", "Most private samples stay out of the best attack's reach", "abstract", "number", None),
    ("C11", "Targets that memorise little (AlexNet) give near-zero coverage", "failure signatures", "order", None),
    ("C12", "Works away from faces, less well", "appendix", "order", None),
    ("C13", "One precomputed batch of Hessian products suffices", "design trade-offs", "equivalence", None),
    ("C14", "Labels held out of the auxiliary set: DDCS sees a gap, accuracy none", "first-3 #3", "sign", None),
    ("C15", "10 to 20 epochs of transfer align, more overfit", "trade-offs", "sign", None),
    ("C16", "Vulnerable samples can be named from other attack seeds", "abstract", "order", None),
    ("NC1", "The gain of NGD is not that of a smaller step", "next check 1", "order", None),
    (
        "NC2",
        "DDCS keeps its order and value where classes overlap or are uniform",
        "next check 2",
        "order",
        None,
    ),
    ("NC3", "There is a best number of reconstructions", "next check 3", "trend", None),
    ("OQ1", "Samples that nobody matches can be reached by other searches", "open question 1", "order", None),
    ("OQ2", "Redundancy can be removed: lower FID at equal DDCS", "open question 2", "sign", None),
    ("OQ3", "NGD serves other data than faces", "open question 3", "order", None),
    ("OQ4", "A defence guided by DDCS protects the vulnerable", "open question 4", "sign", None),
)
CLAIMS = {i: Claim(id=i, statement=s, source=w, kind=k, published=p) for i, s, w, k, p in STATED}
POINT = 0.01  # of DDCS and of coverage
AUC, MOST = 0.7, 0.5
ORDER, MOVED = 0.9, 0.1
MISSED = 0.03  # of accuracy, which counts as no gap
DROP = 1.0  # points of test accuracy that a defence may cost
ATTACKERS = {REPEATED: "the audit's attacker", KNOWING: "the knowing attacker"}


class Ledger(ledger.Ledger):
    """Claims of the paper and its open questions, by default on T1 of the first problem."""

    claims, row = CLAIMS, MAIN

    def __init__(self, plan: Plan, scores: pd.DataFrame):
        scale = sizes(plan)
        size = f"{scale['private images'].split()[0]} private images, transfer of {plan.settings.transfer.steps} steps"
        super().__init__(plan, scores, f"{plan.settings.standing}; {size}")

    # --- statistics ----------------------------------------------------------------------------------------

    def between(self, claim: Claim, one: str, other: str, metric: str) -> Interval:
        """One attack minus another."""
        pair = (self.values(attack, metric) for attack in (one, other))
        return self.difference(*pair, claim.id, one, other, metric, self.first)

    def transfer(self, kind: str, metric: str, weight: float | None = None, name: str | None = None) -> torch.Tensor:
        """Quality (seeds, 1) of a tuned generator at the study's length, by default at its weight."""
        t = self.plan.settings.transfer
        row, setting = arm(kind, t.weight if weight is None else weight, t.steps)
        return matrix(self.scores, row, f"{name or self.first} | {setting}", metric)[0]

    def tuned(self, claim: Claim, metric: str, name: str) -> Interval:
        """Quality of the transfer by NGD minus that by the plain gradient."""
        pair = (self.transfer(kind, metric, name=name) for kind in ("nystrom", "none"))
        return self.difference(*pair, claim.id, metric, name)

    def table(self, name: str, columns: Sequence[str]) -> pd.DataFrame:
        """Rows of one of the measures."""
        return measured(self.plan, name).set_axis(list(columns), axis=1)

    # --- the paper's claims ----------------------------------------------------------------------------------

    def _reached(self, claim: Claim, metric: str, target: float, tolerance: float) -> Judgement:
        if self.plan.profile != "paper":
            best = max((self.values(a, metric).mean().item(), a) for a in (VANILLA, NGD, DUAL))
            return unjudged(claim, f"an absolute number of UMDFaces; here {100 * best[0]:.1f} ({best[1]})")
        found = self.mean(100 * self.values(NGD, metric), claim.id)
        return rules.number(claim, found, target, tolerance=tolerance)

    def c1(self, claim: Claim) -> Judgement:
        """The published number, on the paper's data alone."""
        return self._reached(claim, "DDCS", 22.52, 2)

    def c2(self, claim: Claim) -> Judgement:
        """The published number, on the paper's data alone."""
        return self._reached(claim, "DDCS coverage", 33.84, 3)

    def c3(self, claim: Claim) -> Judgement:
        """Ratio of the Fréchet distances with and without NGD: half at most; a part: below 1."""
        found = {}
        for name in self.names:
            pair = (self.transfer(k, "FD", name=name) for k in ("nystrom", "none"))
            ratio = ratio_interval(*pair, seeded("bootstrap", claim.id, name))
            found[f"FD, NGD over plain, {name}"] = Effect(interval=ratio, direction=-1, margin=0.5, partly=1.0)
        return rules.effects(claim, found, stand_in=self.stand_in)

    def c4(self, claim: Claim) -> Judgement:
        """Energy of fine structure, NGD minus plain, in octaves."""
        found = {f"artefacts, {n}": signed(self.tuned(claim, "artefacts", n), -1) for n in self.names}
        return rules.effects(claim, found, stand_in=self.stand_in)

    def _redundancy(self, arm_name: str, metric: str) -> pd.Series:
        found = self.table("redundancy", ("arm", "level", "metric", "value", "n"))
        here = found[(found["arm"] == arm_name) & (found["metric"] == metric)]
        return here.set_index("level")["value"]

    def c5(self, claim: Claim) -> Judgement:
        """Copies appended: DDCS within a point and FD beyond a tenth; copies in place of others: DDCS must fall."""
        arms = ("exact copies", "near copies", "uneven copies")
        held, moved = {}, {}
        for name in arms:
            score, fd = self._redundancy(name, "DDCS"), self._redundancy(name, "FD")
            held[name], moved[name] = (
                float((score - score.iloc[0]).abs().max()),
                float((fd / fd.iloc[0] - 1).abs().max()),
            )
        swap = self._redundancy("replaced", "DDCS")
        fell = float(swap.iloc[0] - swap.iloc[-1])
        said = "; ".join(f"{n}: DDCS moves by {100 * held[n]:.2f} points, FD by {100 * moved[n]:.0f} %" for n in arms)
        stable = all(held[n] <= POINT for n in ("exact copies", "uneven copies"))
        grade = 2 if stable and held["near copies"] <= POINT and max(moved.values()) > 0.1 and fell > 0 else int(stable)
        return self._stated(claim, grade, f"{said}; replaced: DDCS falls by {100 * fell:.1f} points")

    def _stated(self, claim: Claim, grade: int, words: str) -> Judgement:
        """A verdict on one attack's images, without an interval."""
        judged = unjudged(claim, f"{words} (one attack, no interval; {self.stand_in})")
        return judged.model_copy(update={"verdict": rules.GRADES[grade]})

    def c6(self, claim: Claim) -> Judgement:
        """Half of the labels gone: DDCS falls by 30 %, accuracy and KNN distance change by less than 5 %."""
        changes = {}
        for metric in ("DDCS", "accuracy", "KNN distance"):
            full = float(self._redundancy("exact copies", metric).iloc[0])
            changes[metric] = float(self._redundancy("labels dropped", metric).iloc[0]) / full - 1
        said = ", ".join(f"{m} {100 * c:+.0f} %" for m, c in changes.items())
        falls, others = changes["DDCS"] <= -0.3, [abs(c) < 0.05 for m, c in changes.items() if m != "DDCS"]
        return self._stated(claim, 2 if falls and all(others) else int(falls), f"half of the labels dropped: {said}")

    def c7(self, claim: Claim) -> Judgement:
        """The union of as many images, against either generator alone."""
        found = {f"DDCS, dual − {other}": signed(self.between(claim, DUAL, other, "DDCS")) for other in (VANILLA, NGD)}
        return rules.effects(claim, found, stand_in=self.stand_in)

    def c8(self, claim: Claim) -> Judgement:
        """Recall and marginal entropy of samples, entropy-tuned minus vanilla."""
        found = {}
        for metric in ("recall", "marginal entropy"):
            pair = self.transfer("none", metric), self.transfer("none", metric, weight=0.0)
            found[metric] = signed(self.difference(*pair, claim.id, metric), -1)
        return rules.effects(claim, found, stand_in=self.stand_in)

    def c9(self, claim: Claim) -> Judgement:
        """NGD and dual minus Plug & Play on the untuned generator: one point of DDCS."""
        found = {
            f"DDCS, {one} − {PPA}": Effect(interval=self.between(claim, one, PPA, "DDCS"), margin=POINT, partly=0.0)
            for one in (NGD, DUAL)
        }
        return rules.effects(claim, found, stand_in=self.stand_in)

    def c10(self, claim: Claim) -> Judgement:
        """Share that no seed of the attack on one target matches."""
        found = self.table("stability", ("what", "value", "n")).set_index("what")
        left = 1 - float(found.loc["union coverage", "value"])
        seeds = int(found.loc["union coverage", "n"])
        words = f"{100 * left:.1f} % of the private images are matched by none of {seeds} seeds"
        return self._stated(claim, 2 * int(left > MOST), words)

    def c11(self, claim: Claim) -> Judgement:
        """Coverage beyond the prior's rises with the target's gap of cross-entropy; the least gap has the least."""
        facts, seeds = self.plan.notes["memorisation"], range(self.plan.settings.seeds)
        prior = prior_coverage(self.plan, self.scores)
        names = list(dict.fromkeys(name for name, _ in facts))
        beyond = torch.stack([covered(self.plan, self.scores, name) - prior for name in names])
        gap = torch.tensor([[facts[n, s].result().meta["loss_gap"] for s in seeds] for n in names]).double()
        found = spearman_interval(gap.flatten(), beyond.flatten(), seeded("bootstrap", claim.id))
        judged = rules.association(claim, found, 1, stand_in=self.stand_in)
        least, lowest = names[int(gap.mean(1).argmin())], names[int(beyond.mean(1).argmin())]
        grade = min(grade_of(judged), 2 if least == lowest else 1)
        words = f"Spearman over {len(names)} targets x {len(seeds)} seeds; least gap: {least}, least coverage: {lowest}"
        return rules.regraded(judged, grade, words)

    def c12(self, claim: Claim) -> Judgement:
        """nDDCS of the NGD attack on faces minus that on the other data, and that above 0."""
        if reason := self._without_normalised():
            return unjudged(claim, reason)
        one, other = (self.values(NGD, "nDDCS", name=name) for name in self.names[:2])
        found = {
            f"nDDCS, {self.names[1]}": signed(self.mean(other, claim.id)),
            f"nDDCS, {self.first} − {self.names[1]}": signed(self.difference(one, other, claim.id, "gap")),
        }
        return rules.effects(claim, found, stand_in=self.stand_in)

    def _without_normalised(self) -> str:
        """Why nDDCS of the NGD attack on two data sets cannot be compared; empty where it can."""
        if len(self.names) < 2:
            return "one data set"
        rows = self.scores[(self.scores["metric"] == "nDDCS") & (self.scores["attack"] == NGD)]
        lost = rows[rows["setting"].isin([f"{n} | {MAIN}" for n in self.names[:2]]) & rows["value"].isna()]
        return "" if lost.empty else f"nDDCS of {lost.iloc[0]['setting']} {lost.iloc[0]['reason']}"

    def c13(self, claim: Claim) -> Judgement:
        """FD of a short transfer by one mean Hessian beside each image's own: stated."""
        steps, t = self.plan.settings.cg_steps, self.plan.settings.transfer
        if not steps:
            return unjudged(claim, "no transfer by conjugate gradients in this profile")
        values = []
        for kind in ("nystrom", "cg"):
            row, setting = arm(kind, t.weight, steps)
            values.append(matrix(self.scores, row, f"{self.first} | {setting}", "FD")[0].item())
        said = f"FD {values[0]:.3f} by one mean Hessian, {values[1]:.3f} by each image's own"
        return unjudged(claim, f"one seed of {steps} steps: {said}")

    def c14(self, claim: Claim) -> Judgement:
        """DDCS of people that the auxiliary set shows minus that of others, and the same of accuracy.

        Less the same differences without them in the set, which are those between the people.  Reproduced: that of
        DDCS is above 0 and that of accuracy below 3 points.
        """
        if not any(run.attack == INSIDE for run in self.plan.runs):
            return unjudged(claim, "needs images of the private people besides those of the target")
        inside, outside = (by_half(self.plan, self.scores, name).diff(dim=1).squeeze(1) for name in (INSIDE, OUTSIDE))
        score, said = (self.difference(inside[:, i], outside[:, i], claim.id, str(i)) for i in range(2))
        judged = rules.effects(claim, {"gap of DDCS": signed(score)}, stand_in=self.stand_in)
        missed = abs(said.point) < MISSED
        words = f"gap of accuracy {100 * said.point:+.1f} points [{100 * said.low:.1f}, {100 * said.high:.1f}]"
        return rules.regraded(judged, grade_of(judged) if missed else min(grade_of(judged), 1), words)

    def c15(self, claim: Claim) -> Judgement:
        """FD against the transfer's length: stated."""
        s = self.plan.settings
        found = {}
        for steps in sorted((*s.lengths, s.transfer.steps)):
            row, setting = arm("nystrom", s.transfer.weight, steps)
            found[steps] = matrix(self.scores, row, f"{self.first} | {setting}", "FD")[0][0].mean().item()
        said = ", ".join(f"{v:.3f} after {n}" for n, v in found.items())
        return unjudged(claim, f"epochs of 30,000 images are out of reach here; FD by steps: {said}")

    def c16(self, claim: Claim) -> Judgement:
        """AUC of .7 and above what the labels alone say."""
        found = self.table("stability", ("what", "value", "n")).set_index("what")["value"]
        one, base = float(found["AUC"]), float(found["AUC label mean"])
        grade = 2 if one >= AUC and one > base else int(one > base)
        return self._stated(
            claim, grade, f"AUC {one:.3f}, of label means {base:.3f}, Jaccard of seeds {found['Jaccard']:.3f}"
        )

    # --- checks and open questions ---------------------------------------------------------------------------

    def nc1(self, claim: Claim) -> Judgement:
        """FD at equal mean entropy: NGD's minus each control's, interpolated along the frontier of seed 0."""
        gaps = {LABELS[k]: self._gap(k) for k in FRONTIER if k != "nystrom"}
        known = [g for g in gaps.values() if g is not None]
        said = "; ".join(f"{n}: {'do not overlap' if g is None else f'{g:+.3f}'}" for n, g in gaps.items())
        words = f"FD of NGD minus a control's at equal entropy: {said}"
        if not known:
            return unjudged(claim, words)
        below = sum(g < 0 for g in known)
        return self._stated(claim, 2 if below == len(gaps) else int(below > 0), words)

    def _gap(self, kind: str) -> float | None:
        """Mean difference of two curves FD(entropy) over the entropies that both span; None where they do not."""
        curves = [self._curve(k) for k in ("nystrom", kind)]
        low, high = max(c[0][0] for c in curves), min(c[-1][0] for c in curves)
        if not low < high:
            return None
        at = torch.linspace(low, high, 33, dtype=torch.float64)
        one, other = (interpolated(curve, at) for curve in curves)
        return float((one - other).mean())

    def _curve(self, kind: str) -> list[tuple[float, float]]:
        s = self.plan.settings
        points = []
        for weight in (0.0, *s.weights, s.transfer.weight):
            values = (self.transfer("none" if weight == 0 else kind, m, weight)[0].item() for m in ("entropy", "FD"))
            points.append(tuple(values))
        return sorted(points)

    def nc2(self, claim: Claim) -> Judgement:
        """Order of noisy copies: Spearman of .9 in every variant, and values within 10 %; a part: the order alone."""
        if "sensitivity" not in self.plan.notes["measures"]:
            return unjudged(claim, "needs private images whose factors are known")
        found = sensitivity.orders(measured(self.plan, "sensitivity").to_numpy().tolist())
        order = min(float(spearman(*pair)) for pair in found.values())
        moved = max(float((now / base - 1).abs().max()) for base, now in found.values())
        words = f"least Spearman of the order {order:.2f}, DDCS moves by up to {100 * moved:.0f} %"
        kept = order >= ORDER
        return self._stated(claim, 2 if kept and moved <= MOVED else int(kept), words)

    def nc3(self, claim: Claim) -> Judgement:
        """DDCS less the prior's by size: stated where it is largest."""
        found = self.table("sizes", ("set", "size", "metric", "mean", "std"))
        by = found[found["metric"] == "DDCS"].pivot_table(index="size", columns="set", values="mean")
        gain = by[NGD] - by[PRIOR]
        said = ", ".join(f"{100 * v:.1f} at {n}" for n, v in gain.items())
        inside = gain.idxmax() not in (gain.index[0], gain.index[-1])
        return self._stated(claim, 2 * int(inside), f"DDCS of NGD less that of prior samples, points: {said}")

    def oq1(self, claim: Claim) -> Judgement:
        """What other searches reach of the images that were not found, beyond fresh seeds at equal cost."""
        rows = self.table("hardness", ("what", "which", "value", "n"))
        found = {(a, b): v for a, b, v, _ in rows.itertuples(index=False)}
        split = ", ".join(
            f"{w} {100 * found['share', w]:.1f} %" for w in ("unmatched", "prior-limited", "search-limited")
        )
        gains = {w: v for (a, w), v in found.items() if a == "coverage gain"}
        base = gains.pop("as many fresh seeds")
        said = ", ".join(f"{w} {100 * v:.1f}" for w, v in gains.items())
        auc = ", ".join(f"{w} {v:.2f}" for (a, w), v in found.items() if a == "AUC")
        best = max(gains.values())
        words = (
            f"{split}; coverage gained: fresh seeds {100 * base:.1f} points, {said}; AUC of a model of matches: {auc}"
        )
        return self._stated(claim, 2 if best > base else int(best > 0), words)

    def oq2(self, claim: Claim) -> Judgement:
        """Greedy removal against raw and random, by the evaluator; medoids, by the attacker."""
        rows = self.table("pruning", ("arm", "metric", "value", "n"))
        v = rows.set_index(["arm", "metric"])["value"]
        lower = all(v["greedy", m] < min(v["raw", m], v["random", m]) for m in ("FD", "KD"))
        equal = abs(v["greedy", "DDCS"] - v["raw", "DDCS"]) < 1e-9
        said = "; ".join(
            f"{a}: FD {v[a, 'FD']:.3f}, KD {v[a, 'KD']:.4f}, DDCS {100 * v[a, 'DDCS']:.2f}"
            for a in ("raw", "greedy", "random", "medoids", "random per class")
        )
        kept = v["medoids", "DDCS"] >= v["raw", "DDCS"] - 0.005
        return self._stated(claim, 2 if lower and equal and kept else int(lower and equal), said)

    def oq3(self, claim: Claim) -> Judgement:
        """nDDCS of the NGD attack elsewhere at least .9 of that on faces."""
        if reason := self._without_normalised():
            return unjudged(claim, reason)
        one, other = (self.values(NGD, "nDDCS", name=name) for name in self.names[:2])
        if one.mean() <= 0:
            return unjudged(
                claim, f"nDDCS is {float(one.mean()):.2f} on {self.first}: there is nothing to compare with"
            )
        gap = self.difference(other, 0.9 * one, claim.id)
        return rules.effects(claim, {"nDDCS − 0.9 × faces'": signed(gap)}, stand_in=self.stand_in)

    def oq4(self, claim: Claim) -> Judgement:
        """Rise of the vulnerable images' distance under the defence, beyond that of random images' defence.

        Under both attackers.  A part: beyond that of the undefended target attacked again.  Held back to a part where
        test accuracy falls by over a point or the others' DDCS is certainly higher.
        """
        seeds = self.plan.settings.seeds_defence
        if not seeds:
            return unjudged(claim, "no defended targets in this profile")
        told = {(r, n): [outcome(self.plan, n, s, r) for s in range(seeds)] for r in ATTACKERS for n in DEFENCES}
        rises = {at: torch.stack([o.rise.mean() for o in found]) for at, found in told.items()}
        words = "; ".join(
            f"{who}: " + ", ".join(f"{n} {float(rises[row, n].mean()):+.4f}" for n in DEFENCES)
            for row, who in ATTACKERS.items()
        )
        words = f"rise of d on the vulnerable images since the audit, {words}"
        if seeds < rules.LEAST_SEEDS:
            return unjudged(claim, f"{seeds} seed, {rules.LEAST_SEEDS} are needed; {words}")
        over = {n: [self.difference(rises[r, GUIDED], rises[r, n], claim.id, r, n) for r in ATTACKERS]
                for n in (CONTROL, UNDEFENDED)}  # fmt: skip
        found = {f"d, vulnerable − random images defended, {who}": signed(gap)
                 for who, gap in zip(ATTACKERS.values(), over[CONTROL], strict=True)}  # fmt: skip
        judged = rules.effects(claim, found, stand_in=self.stand_in)
        beyond = all(gap.low > 0 for gap in over[UNDEFENDED])
        costs = self._costs(claim, told)
        grade = 2 if judged.verdict == "reproduced" and beyond and not costs else int(beyond)
        return rules.regraded(judged, grade, "; ".join(filter(None, [costs, words])))

    def _costs(self, claim: Claim, told: Mapping[tuple[str, str], Sequence[Outcome]]) -> str:
        """What speaks against the guided defence: lost accuracy, and a leak that moved; empty where nothing does."""
        bench, seeds = self.plan.notes["benches"][0], range(self.plan.settings.seeds_defence)
        accuracy = {
            n: sum(defended(bench, n, s).facts()["test_accuracy"] for s in seeds) / len(seeds)
            for n in (UNDEFENDED, GUIDED)
        }
        lost = 100 * (accuracy[UNDEFENDED] - accuracy[GUIDED])
        said = [f"test accuracy falls by {lost:.1f} points"] if lost > DROP else []
        for row, who in ATTACKERS.items():
            pair = (torch.tensor([o.others for o in told[row, n]], dtype=torch.float64) for n in (GUIDED, UNDEFENDED))
            moved = self.difference(*pair, claim.id, "others", row)
            if moved.low > 0:
                said.append(f"DDCS of the others rises by {100 * moved.point:.1f} points, {who}")
        return "; ".join(said)


def grade_of(judged: Judgement) -> int:
    """0, 1 or 2; 0 also of what cannot be judged."""
    return rules.GRADES.index(judged.verdict) if judged.verdict in rules.GRADES else 0


def interpolated(curve: Sequence[tuple[float, float]], at: torch.Tensor) -> torch.Tensor:
    """A piecewise linear curve of ascending x at some x within it."""
    x, y = (torch.tensor(side, dtype=torch.float64) for side in zip(*curve, strict=True))
    i = torch.searchsorted(x, at).clamp(1, len(x) - 1)
    share = (at - x[i - 1]) / (x[i] - x[i - 1]).clamp(min=1e-12)
    return y[i - 1] + share * (y[i] - y[i - 1])

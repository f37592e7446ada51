"""`stored:<paper>/<attack>[/<setting>]`: a reproduction's own reconstructions, and what its study judges them by."""

from collections.abc import Sequence
from dataclasses import dataclass

from mi_utils import studies
from mi_utils.data import AnySource
from mi_utils.errors import UserError
from mi_utils.scoring.inputs import Labelled
from mi_utils.studies.evaluation import Panel, first_per_class
from mi_utils.studies.plan import Plan, Run, suggestion
from mi_utils.studies.references import HeldOut, PriorSamples, PublicImages, Reference
from mi_utils.training.classifier import TrainClassifier

PREFIX = "stored:"


@dataclass(frozen=True)
class Study:
    """The seeds of one row of a study's tables, and the sets and nets that the study judges them by.

    `prior`, `public`: images that no attack made, where they are stored.  `targets`: one a seed.  `unstored`: why
    its nets cannot judge here, or "".
    """

    seeds: tuple[Labelled, ...]
    private: AnySource
    holdout: AnySource
    prior: Labelled | None
    public: Labelled | None
    targets: tuple[TrainClassifier, ...]
    panel: Panel
    unstored: str
    notes: tuple[str, ...]


def read(text: str, profile: str) -> Study:
    """What the store holds of a row; UserError for an unknown name or where none of its seeds is stored."""
    paper, _, rest = text.removeprefix(PREFIX).partition("/")
    attack, _, setting = rest.partition("/")
    if not attack:
        raise UserError(f"RECONSTRUCTIONS: expected stored:<paper>/<attack>[/<setting>], found {text!r}")
    if paper not in studies.PAPERS:
        raise UserError(f"paper: {suggestion(paper, studies.PAPERS)}")
    plan = studies.PAPERS[paper].plan(profile)
    first = plan.find(attack, setting or None)
    runs = [run for run in plan.runs if (run.attack, run.setting) == (attack, first.setting)]
    kept = [run for run in runs if run.stage.stored()]
    if not kept:
        plan.reconstructions(attack, first.setting, first.seed)  # says what to run
    judge = first.evaluation
    notes = [f"{text}: {plan.paper}, {first.setting}, profile {profile}, seeds {[run.seed for run in kept]}"]
    if len(kept) < len(runs):
        notes.append(f"{text}: {len(runs) - len(kept)} of {len(runs)} seeds are not stored")
    return Study(
        seeds=tuple(_seed(run, text) for run in kept),
        private=judge.private,
        holdout=_holdout(plan, first),
        prior=_reference(plan, first, PriorSamples),
        public=_reference(plan, first, PublicImages),
        targets=tuple(run.evaluation.target for run in kept),
        panel=judge.panel,
        unstored=_unstored(plan, [*(run.evaluation.target for run in kept), *judge.panel.everyone().values()]),
        notes=tuple(notes),
    )


def _seed(run: Run, text: str) -> Labelled:
    """The images of one seed that the study's tables score."""
    tensors = run.stage.result().tensors
    images, labels = first_per_class(tensors["images"], tensors["labels"], run.evaluation.samples)
    return Labelled(images, labels, None, text)


def _references(plan: Plan, run: Run, kind: type[Reference]) -> list[Run]:
    """The study's rows of this kind on the same problem, which the words before the bar name."""
    problem = run.setting.partition(" | ")[0]
    return [r for r in plan.references if isinstance(r.stage, kind) and r.setting.partition(" | ")[0] == problem]


def _reference(plan: Plan, run: Run, kind: type[Reference]) -> Labelled | None:
    """The first stored row of this kind."""
    kept = [r for r in _references(plan, run, kind) if r.stage.stored()]
    return (
        Labelled(kept[0].stage.result().tensors["images"], None, None, f"{plan.paper}'s {kept[0].attack}")
        if kept
        else None
    )


def _holdout(plan: Plan, run: Run) -> AnySource:
    """The study's held-out private images, all of them; else the target's test images."""
    found = _references(plan, run, HeldOut)
    return found[0].stage.source if found else run.evaluation.target.test


def _unstored(plan: Plan, nets: Sequence[TrainClassifier]) -> str:
    """Why the nets cannot judge; "" where all are stored."""
    missing = sum(not net.stored() for net in nets)
    remedy = f"run make reproduce PAPER={plan.paper} PROFILE={plan.profile}"
    return f"{missing} of the study's {len(nets)} nets are not stored; {remedy}" if missing else ""

"""Attack accuracy as evaluators see it.  Per-sample values; reduction is the caller's."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.metrics import checks


def top_k(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"], k: int = 1) -> Bool[Tensor, " n"]:
    """True where fewer than k other classes score as high as the label.

    A tie counts against the label, so an evaluator with constant logits is right on nothing.  UserError when
    k >= the number of classes, where the answer would be True whatever the logits (top-5 needs more than 5
    classes).
    """
    labels = _check("logits", logits, labels)
    if not 1 <= k < logits.shape[1]:
        raise UserError(f"k: expected 1 <= k < {logits.shape[1]} (the number of classes), found {k}; omit this column")
    others_as_high = (logits >= logits.gather(1, labels[:, None])).sum(1) - 1
    return others_as_high < k


def confidence(logits: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """softmax(logits)_y in [0, 1], computed in float64."""
    labels = _check("logits", logits, labels)
    return logits.double().softmax(1).gather(1, labels[:, None]).squeeze(1)


def vote(
    evaluators: Mapping[str, Float[Tensor, "n c"]],
    labels: Int[Tensor, " n"],
    reject: Float[Tensor, "n c+1"] | None = None,
) -> dict[str, Tensor]:
    """Per-sample verdicts: "mean" in [0, 1], the booleans "majority", "unanimous" and "accepted".

    `evaluators` are the plain nets; `reject` the one whose last of K + 1 outputs means "none of these".
    majority: more than half of the plain nets say y.  accepted: the reject net says y.  unanimous: all nets,
    reject included, say y.
    """
    correct = correct_by(evaluators, labels)
    votes = {
        "mean": correct.double().mean(0),
        "majority": 2 * correct.sum(0) > len(correct),
        "unanimous": correct.all(0),
    }
    if reject is not None:
        classes = next(iter(evaluators.values())).shape[1]
        if reject.ndim != 2 or reject.shape[1] != classes + 1:
            raise UserError(
                f"reject: expected {classes + 1} outputs (the classes and 'none of these'), "
                f"found shape {tuple(reject.shape)}; pass the evaluator trained with a reject class"
            )
        votes["accepted"] = top_k(reject, labels)
        votes["unanimous"] = votes["unanimous"] & votes["accepted"]
    return votes


def plurality(predictions: Int[Tensor, "e n"], labels: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """The ensemble's vote: true where y is named by more nets than any other answer; a tie counts against y.

    An answer is any integer, so "none of these" of a reject net is one as well.
    """
    if predictions.ndim != 2 or len(predictions) == 0 or predictions.shape[1] != len(labels):
        raise UserError(
            f"predictions: expected (evaluators, {len(labels)}), found {tuple(predictions.shape)}; "
            "stack the argmax of every evaluator"
        )
    labels = checks.labels("labels", labels, len(labels))
    agree = (predictions[:, None] == predictions[None]).sum(0)
    right = predictions == labels
    others = agree.masked_fill(right, 0).amax(0)
    return right.sum(0) > others


def correct_by(evaluators: Mapping[str, Float[Tensor, "n c"]], labels: Int[Tensor, " n"]) -> Bool[Tensor, "e n"]:
    """Top-1 verdict of every evaluator on every sample, in the mapping's order."""
    if not evaluators:
        raise UserError("evaluators: expected at least 1 evaluator, found 0; name the nets that judge")
    widths = {name: logits.shape[-1] for name, logits in evaluators.items()}
    if len(set(widths.values())) > 1:
        raise UserError(f"evaluators: expected one number of classes, found {widths}; pass the reject net as `reject`")
    for name, logits in evaluators.items():
        _check(f"logits of {name}", logits, labels)
    return torch.stack([top_k(logits, labels) for logits in evaluators.values()])


def ensemble_min(correct: Bool[Tensor, "e n"]) -> float:
    """Accuracy of the strictest evaluator: the least of the per-evaluator means."""
    if correct.ndim != 2 or 0 in correct.shape:
        raise UserError(f"correct: expected (evaluators, samples), found {tuple(correct.shape)}; see correct_by")
    return float(correct.double().mean(1).min())


def overfit_gap(target: float, evaluator: float, clean_target: float = 1.0, clean_evaluator: float = 1.0) -> float:
    r"""$\Delta=A_T/\mathrm{acc}_T-\overline{A_E}/\mathrm{acc}_E$, or plainly $A_T-\overline{A_E}$.

    All arguments in [0, 1].  Large: the reconstructions please the attacked net more than independent ones.
    """
    given = {
        "target": target,
        "evaluator": evaluator,
        "clean_target": clean_target,
        "clean_evaluator": clean_evaluator,
    }
    for name, value in given.items():
        if not (0 < value if name.startswith("clean") else 0 <= value) or value > 1:
            raise UserError(
                f"{name}: expected an accuracy as a share in [0, 1], found {value}; divide percentages by 100"
            )
    return target / clean_target - evaluator / clean_evaluator


def _check(name: str, logits: Tensor, labels: Tensor) -> Int[Tensor, " n"]:
    """Finite logits (N >= 1, C) and labels that point at their columns."""
    if logits.ndim != 2 or len(logits) == 0:
        raise UserError(f"{name}: expected (N, classes) with N >= 1, found shape {tuple(logits.shape)}; pass samples")
    checks.finite(name, logits)
    labels = checks.labels("labels", labels, len(logits))
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[1]:
        raise UserError(
            f"labels: expected ids in 0..{logits.shape[1] - 1} (columns of the logits), found {low}..{high}; "
            "the evaluator was trained on another class list"
        )
    return labels

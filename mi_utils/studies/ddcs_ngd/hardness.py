r"""Why private images stay unmatched: out of the prior's reach, or not found; and what tells them beforehand.

Source: specification ddcs_ngd, 8 (OQ1).  An evaluator's measurement, never upstream of an attack.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import model_validator
from torch import Tensor

from mi_utils.data import AnySource, Faces
from mi_utils.data.images import ImageSet
from mi_utils.errors import UserError
from mi_utils.stage import Job, Output, Stage
from mi_utils.studies.ddcs_ngd.projection import Projection, rows_drawn
from mi_utils.studies.evaluation import Evaluation, drawn_per_class, logits

Row = tuple[str, str, float, int]  # what, of which, value, number of images
QUANTILE = 0.9  # of the matched images' r: an unmatched one above it is out of the prior's reach
YAW = 0.726  # of a procedural face's largest turn: 18 degrees on a ball of the mean head's width
SIDE_LIGHT = 0.3  # horizontal part of the light's gradient, of at most .5
FOLDS = 5


def prior_limited(matched: Bool[Tensor, " n"], r: Float[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Unmatched images whose r lies above the 90 % quantile of the matched ones'; other unmatched: search-limited."""
    return ~matched & (r > r[matched].quantile(QUANTILE))


def hard_tags(source: AnySource, rows: Int[Tensor, " n"]) -> dict[str, Bool[Tensor, " n"]]:
    """What makes views of procedural faces hard, by their true factors; empty for any other source.

    Source: specification ddcs_ngd, 4.  The occluding ones: dark glasses, hats.
    """
    if not isinstance(source, Faces):
        return {}
    person, view = source.drawn(rows)
    across = view["light"] * view["light_angle"].deg2rad().cos().abs()
    return {
        "turned": view["yaw"].abs() > YAW,
        "occluded": (person["glasses"] == 3) | (person["hat"] > 0),
        "side light": across > SIDE_LIGHT,
        "minority mode": (view["mode"] > 0) & bool(source.modes),
    }


def margin_and_loss(
    said: Float[Tensor, "n k"], y: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    r"""$\ell_y-\max_{k\neq y}\ell_k$ and $-\log p_y$."""
    own = said.gather(1, y[:, None]).squeeze(1)
    return own - said.scatter(1, y[:, None], -torch.inf).amax(1), F.cross_entropy(said, y, reduction="none")


def held_out_auc(x: Float[Tensor, "n d"], mu: Bool[Tensor, "s n"]) -> tuple[float, Float[Tensor, " d"]]:
    """AUC of a logistic model of mu, and its coefficients when fitted on all; columns of x vary.

    Every seed's outcome is an observation; all of one image are held out together, in FOLDS stratified folds.
    """
    # Deferred: scikit-learn takes a second to import.
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    rows = ((x - x.mean(0)) / x.std(0)).double().repeat(len(mu), 1).numpy()
    y, image = mu.flatten().numpy(), torch.arange(len(x)).repeat(len(mu)).numpy()
    model, folds = LogisticRegression(), StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    said = cross_val_predict(model, rows, y, groups=image, cv=folds, method="predict_proba")[:, 1]
    return float(roc_auc_score(y, said)), torch.from_numpy(model.fit(rows, y).coef_[0])


class Hardness(Stage):
    """Evaluations of one target by attacks of several seeds, seen by private image; `meta["rows"]` as follows.

    | what | of which | value |
    |---|---|---|
    | "share" | "unmatched", "prior-limited", "search-limited" | of all images; matched: by any of the evaluations |
    | "AUC" | "tags", "target", "projection", "all" | `held_out_auc` of hard tags; margin and loss; r; all of them |
    | "coefficient" | a predictor | of the standardised predictor in the model of "all" |
    | "recovered" | a name of `further` | of the search-limited images, those that any of these evaluations matches |
    | "coverage gain" | a name of `further` | by how much these raise the share of matched images |

    AUC and coefficients are left out where fewer than FOLDS images are matched in all, or unmatched; a predictor that
    does not vary is left out, and "recovered" where no image is search-limited.  Stored per image: `matched` (S, N) of
    `evaluations`, `r`, `prior_limited`, `search_limited`, `margin`, `loss`, and a hard tag each (`tag_...`).
    """

    evaluations: tuple[Evaluation, ...]
    projection: Projection
    further: dict[str, tuple[Evaluation, ...]] = {}

    @model_validator(mode="after")
    def _alike(self) -> "Hardness":
        everyone = [*self.evaluations, *(one for several in self.further.values() for one in several)]
        if not self.evaluations or not all(self.further.values()):
            raise UserError("evaluations, further: expected at least one each, found none; give the stages")
        for name, other in (("target", everyone[0]), ("private", self.projection), ("perceptual", self.projection)):
            if any(getattr(one, name) != getattr(other, name) for one in everyone):
                raise UserError(f"evaluations: expected the same {name} in all and in the projection, found several")
        return self

    def compute(self, job: Job) -> Output:
        """Split the unmatched, model the matches, count what others recover."""
        whole, classes = self.projection.private.load(), self.projection.classes
        data = drawn_per_class(whole.only_classes(classes), self.projection.perceptual)
        mu = self._matched(self.evaluations, data)
        r = self.projection.result(job.device).tensors["distance"]
        said = logits(self.evaluations[0].target.network(job.device), data.images.to(job.device)).cpu()
        margin, loss = margin_and_loss(said, data.labels)
        tags = hard_tags(self.projection.private, rows_drawn(whole, classes, self.projection.perceptual))
        matched = mu.any(0)
        far = prior_limited(matched, r)
        near = ~matched & ~far
        columns = {"tags": tags, "target": {"margin": margin, "loss": loss}, "projection": {"r": r}}
        rows = shares({"unmatched": ~matched, "prior-limited": far, "search-limited": near})
        rows += modelled(columns, mu) + self._gains(data, matched, near)
        found = {"matched": mu, "r": r, "prior_limited": far, "search_limited": near, "margin": margin, "loss": loss}
        return Output(found | {f"tag_{name.replace(' ', '_')}": x for name, x in tags.items()}, {"rows": rows})

    def _matched(self, evaluations: tuple[Evaluation, ...], data: ImageSet) -> Bool[Tensor, "s n"]:
        """mu of every evaluation; UserError where one is not of these images."""
        results = [one.result() for one in evaluations]
        wanted = data.labels.unique().tolist()
        for result in results:
            scored = sorted({c for metric, c, *_ in result.meta["rows"] if metric == "top1" and c != "all"})
            if scored != wanted:
                raise UserError(
                    f"evaluations: expected the projection's classes {wanted}, found {scored}; attack these"
                )
        near = [result.tensors["nearest_real_of_fake"] for result in results]
        return torch.stack([one.bincount(minlength=len(data)) > 0 for one in near])

    def _gains(self, data: ImageSet, matched: Bool[Tensor, " n"], near: Bool[Tensor, " n"]) -> list[Row]:
        """What further attacks match that these did not."""
        rows: list[Row] = []
        for name, evaluations in self.further.items():
            new = self._matched(evaluations, data).any(0) & ~matched
            if bool(near.any()):
                rows.append(("recovered", name, new[near].double().mean().item(), int(near.sum())))
            rows.append(("coverage gain", name, new.double().mean().item(), len(new)))
        return rows


def shares(which: dict[str, Bool[Tensor, " n"]]) -> list[Row]:
    """The share of all images that each is."""
    return [("share", name, x.double().mean().item(), len(x)) for name, x in which.items()]


def modelled(columns: dict[str, dict[str, Tensor]], mu: Bool[Tensor, "s n"]) -> list[Row]:
    """AUC of every group of predictors that vary and of all, and the coefficients of the last."""
    n, sometimes, always = mu.shape[1], int(mu.any(0).sum()), int(mu.all(0).sum())
    if sometimes < FOLDS or n - always < FOLDS:
        return []
    groups = {
        group: {k: v.float() for k, v in found.items() if v.unique().numel() > 1} for group, found in columns.items()
    }
    groups["all"] = {name: values for found in groups.values() for name, values in found.items()}
    rows: list[Row] = []
    for group, found in groups.items():
        if found:
            auc, weights = held_out_auc(torch.stack(list(found.values()), 1), mu)
            rows.append(("AUC", group, auc, n))
    return rows + [("coefficient", k, w, n) for k, w in zip(groups["all"], weights.tolist(), strict=True)]

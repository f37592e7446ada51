r"""The union of two attacks on one target, each with a generator of its own: $D_{rec}\leftarrow\{D_1,D_2\}$.

Source: specification ddcs_ngd, 2.6.
"""

from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor

from mi_utils.attacks.style_search import StyleSearch
from mi_utils.errors import UserError
from mi_utils.stage import Job, Output, Stage

ROWS = ("images", "labels", "losses", "latents", "place", "confidence")  # of a search, one row per reconstruction


class DualAttack(Stage):
    """Reconstructions of two finished searches in turn: the best of the first, the best of the second, and so on.

    `half` keeps the better half of each per class, so that there are as many as one search has (of an odd number the
    first gives one more); `full` keeps all.  Whatever number per class is scored, half of it comes from either.  Rows
    are ordered as a search's; `attack` says which one a row is of, and `latents` are styles of that one's generator.
    """

    attacks: tuple[StyleSearch, StyleSearch]
    size: Literal["half", "full"] = "half"

    @model_validator(mode="after")
    def _alike(self) -> "DualAttack":
        one, other = self.attacks
        for name in ("target", "classes", "candidates"):
            known, found = getattr(one, name), getattr(other, name)
            if known != found:
                told = ("one", "another") if name == "target" else (known, found)
                raise UserError(f"attacks: expected the same {name} in both, found {told[0]} and {told[1]}")
        if one == other:
            raise UserError("attacks: expected two different searches, found the same twice; its images would only be "
                            "counted double")  # fmt: skip
        return self

    def compute(self, job: Job) -> Output:
        """Rows of both in turn; `meta["cost"]` is that of both searches."""
        results = [attack.result(job.device) for attack in self.attacks]
        classes, count = len(self.attacks[0].classes), self.attacks[0].candidates
        kept = (count if self.size == "half" else 2 * count) * classes
        lengths = [result.tensors["latents"].shape[1] for result in results]
        if lengths[0] != lengths[1]:
            raise UserError(f"attacks: expected styles of one length, found {lengths[0]} and {lengths[1]}; tune both "
                            "generators from one")  # fmt: skip
        found = {name: in_turn([r.tensors[name] for r in results], classes)[:kept] for name in ROWS}
        found["attack"] = torch.arange(2).repeat_interleave(classes).repeat(count)[:kept]
        costs = [result.meta["cost"] for result in results]
        return Output(found, {"cost": {name: costs[0][name] + costs[1][name] for name in costs[0]}})


def in_turn(rows: list[Tensor], classes: int) -> Tensor:
    """Sample-major rows (n K, ...) of several sets as one: sample 0 of each set, then sample 1 of each, ..."""
    return torch.stack([x.unflatten(0, (-1, classes)) for x in rows], 1).flatten(0, 2)

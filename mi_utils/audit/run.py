"""`vulnerable`: from what the owner names to the ranked list and its sheet."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mi_utils import runtime
from mi_utils.audit import ranking
from mi_utils.audit.attack import attacked
from mi_utils.audit.request import Request
from mi_utils.audit.writing import Audit
from mi_utils.metrics import ddcs
from mi_utils.metrics.ddcs import Scope, Transform
from mi_utils.models import perceptual
from mi_utils.models.external import ExternalClassifier
from mi_utils.models.perceptual import Perceptual
from mi_utils.scoring import perception
from mi_utils.scoring.align import Sets
from mi_utils.scoring.context import Context, Say
from mi_utils.scoring.inputs import Given
from mi_utils.scoring.request import gather, study_of
from mi_utils.scoring.run import made_by, sizes
from mi_utils.scoring.search import Searcher
from mi_utils.scoring.table import Row
from mi_utils.scoring.writing import check_free


def vulnerable(
    target: Given | ExternalClassifier | Sequence[Given],
    private: Given | None = None,
    *,
    holdout: Given | None = None,
    public: Given | None = None,
    prior: Given | None = None,
    seeds: int | None = None,
    samples: int | None = None,
    centre: int | None = None,
    top: int = 32,
    size: int | None = None,
    net: str = "st-lpips-alex",
    scope: Scope = "global",
    transform: Transform = "recip1p",
    device: str | torch.device = "auto",
    workers: int | None = None,
    budget: int | None = None,
    profile: str = "laptop",
    out: Path | str | None = None,
    say: Say = lambda line: None,
) -> Audit:
    """Private training images by how exposed they are, beside their best reconstructions.

    target: reconstructions as `score` reads them (a list: one set for each attack seed), or an ExternalClassifier or
    its YAML, which is then attacked by Plug & Play with the generator `prior` (the name of a shipped one or a file),
    `seeds` times (default 2), `samples` images for every class (default 32) out of the middle `centre` px of the
    generator's.  holdout: private images that the classifier has not seen; public, and beside reconstructions prior:
    images that no attack made; each gives a line of reference at the same number of images.  top: pairs on the sheet.
    size, net, scope, budget, profile as in `score`; transform: g of DDCS.  workers: processes of the attack.  out: a
    folder to write to.  UserError, before anything long, for what is wrong.
    """
    several = target if isinstance(target, list) else [target]
    return audited(
        Request(
            several,
            private,
            holdout,
            public,
            prior,
            seeds,
            samples,
            centre,
            top,
            size,
            net,
            scope,
            transform,
            device,
            workers,
            budget,
            profile,
            out,
            say,
        )  # fmt: skip
    )


def audited(request: Request) -> Audit:
    """The same for a request."""
    began = time.monotonic()
    request.check()
    device = runtime.device(request.device)
    if request.out is not None:
        check_free(Path(request.out))
    net = perceptual.load(request.net)
    data, attack = _gathered(request, net, device)
    with runtime.isolated(device, "vulnerable", threads=torch.get_num_threads()):
        context = Context(data, net.to(device), device, request.scope, request.say)
        part, exposure = perception.part(context, _searcher(request, net, data), request.transform)
        found = ranking.ranked(exposure)
    rows = tuple(row for row in part.rows if "scaled" not in row.short)
    result = Audit(
        rows,
        ranking.listing(context, found),
        ranking.pairs(context, found, request.top),
        _record(request, rows, context, attack, time.monotonic() - began),
        data.notes,
    )
    if request.out is not None:
        result.write(request.out)
    return result


def _gathered(request: Request, net: Perceptual, device: torch.device) -> tuple[Sets, dict[str, Any] | None]:
    """All images, the reconstructions read or made, and what is to be told of the attack where one was run."""
    if request.classifier is not None:
        return attacked(request, net, device, lambda data: _searcher(request, net, data))
    asked = request.scoring(request.target)
    data = gather(asked, study_of(asked), net.least_side)
    _searcher(request, net, data)
    return data, None


def _searcher(request: Request, net: Perceptual, data: Sets) -> Searcher:
    """UserError where the budget is too small for a search among these images."""
    searcher = Searcher(net, request.budget)
    searcher.check(*data.private.images.shape[2:])
    return searcher


def _record(
    request: Request, rows: Sequence[Row], context: Context, attack: dict[str, Any] | None, seconds: float
) -> dict[str, Any]:
    """What was looked at, how, and by what code and machine; no path but those that the user typed."""
    data = context.sets
    values = {row.short: row.value for row in rows if row.short}
    return {
        "trunk": context.net.name,
        "transform": request.transform,
        "definition": ddcs.Options(request.transform, scope=request.scope).name(context.net.name),
        "seeds": len(data.seeds),
        "images": sizes(data),
        "shape": list(data.private.images.shape[1:]),
        "classes": {str(c): name for c, name in data.classes.items()},
        "ddcs": values["DDCS"],
        "coverage": values["coverage"],
        "reference": _reference(values, data),
        "attack": attack,
        "options": request.options(),
        "provenance": made_by(context.device, seconds),
    }


def _reference(values: Mapping[str, float | None], data: Sets) -> dict[str, float] | None:
    """DDCS of images that no attack made, and of as many reconstructions; None where there are none."""
    others = {name: values[f"DDCS: {name}"] for name in perception.REFERENCES if name in data.others}
    if not others:
        return None
    count = min(len(found) for found in (*data.seeds, *(data.others[name] for name in others)))
    return {"images": count, "ddcs": values.get(f"DDCS, at {count:,} images", values["DDCS"]), **others}

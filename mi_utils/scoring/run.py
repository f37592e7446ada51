"""`score`: from what the user names to the whole table."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mi_utils import origin, runtime
from mi_utils.metrics.ddcs import Options, Scope
from mi_utils.models import perceptual
from mi_utils.report import provenance
from mi_utils.scoring import attack, exposed, extraction, features, judges, perception, sets, spread
from mi_utils.scoring.align import Sets
from mi_utils.scoring.context import Context, Part, Say
from mi_utils.scoring.inputs import Given
from mi_utils.scoring.judges import Judges
from mi_utils.scoring.request import Net, Request, gather, study_of
from mi_utils.scoring.search import Searcher
from mi_utils.scoring.table import missing
from mi_utils.scoring.writing import Scores, check_free
from mi_utils.training.knowledge import Recipe


def score(
    reconstructions: Given | Sequence[Given],
    private: Given | None = None,
    *,
    holdout: Given | None = None,
    prior: Given | None = None,
    public: Given | None = None,
    test: Given | None = None,
    target: Net | None = None,
    evaluators: Sequence[Net] = (),
    size: int | None = None,
    net: str = "st-lpips-alex",
    scope: Scope = "global",
    device: str | torch.device = "auto",
    budget: int | None = None,
    kes: bool = False,
    recipe: Recipe | None = None,
    profile: str = "laptop",
    out: Path | str | None = None,
    say: Say = lambda line: None,
) -> Scores:
    """Every metric of labelled reconstructions against the private images that they should resemble.

    reconstructions: one set, or a list with one set for each attack seed; a set is a folder with a subfolder per
    class, an npz or Parquet file, a pair (images, labels), or `stored:<paper>/<attack>[/<setting>]` of this project
    at `profile`, which brings its study's private images, holdout, target and evaluators unless others are given.
    holdout: private images that the target was not trained on; prior, public: the attacker's, labels not needed.
    target, evaluators: an ExternalClassifier, or its YAML.  size: px a side that all images are resized to.  net,
    scope: of DDCS.  budget: bytes for embeddings.  kes: with the knowledge extraction score, tested on `test` or
    else on the holdout.  out: a folder to write to.  UserError, before anything long, for what is wrong.
    """
    several = reconstructions if isinstance(reconstructions, list) else [reconstructions]
    return scored(
        Request(
            several,
            private,
            holdout,
            prior,
            public,
            test,
            target,
            evaluators,
            size,
            net,
            scope,
            device,
            budget,
            kes,
            recipe or Recipe(),
            profile,
            out,
            say,
        )  # fmt: skip
    )


def scored(request: Request) -> Scores:
    """The same for a request."""
    began = time.monotonic()
    request.check()
    device = runtime.device(request.device)
    if request.out is not None:
        check_free(Path(request.out))
    with runtime.isolated(device, "score", threads=torch.get_num_threads()):
        net = perceptual.load(request.net).to(device)
        study = study_of(request)
        nets = judges.judges(request.target, request.evaluators, study, device)
        data = gather(request, study, net.least_side)
        judges.check(nets, list(data.classes), data.private.images, device)
        searcher = Searcher(net, request.budget)
        searcher.check(*data.private.images.shape[2:])
        context = Context(data, net, device, request.scope, request.say)
        found, exposure = _computed(context, searcher, nets, request)
        listed = exposed.frame(context, exposure)
    record = _record(request, data, device, net.name, time.monotonic() - began)
    draw = partial(exposed.picture, context, exposure)
    result = Scores(tuple(found.rows), tuple(found.classes), data.classes, listed, draw, record, data.notes)
    if request.out is not None:
        result.write(request.out)
    return result


def _computed(context: Context, searcher: Searcher, nets: Judges, request: Request) -> tuple[Part, perception.Exposure]:
    """Every group of metrics, in the order of the table."""
    first, exposure = perception.part(context, searcher)
    judged, no_judged = features.judged(context, nets)
    fid, no_fid = features.fid(context)
    spaces = [space for space in (features.pooled(context), judged, fid) if space is not None]
    parts = [first, *(sets.part(context, space) for space in spaces)]
    if judged is None:
        parts.append(Part([missing(sets.group("evaluator penultimate"), "set metrics", no_judged)]))
    if fid is None:
        inception = sets.group(features.INCEPTION)
        parts.append(Part([missing(inception, "FID", no_fid), missing(inception, "KID", no_fid)]))
    parts += [spread.part(context, spaces), attack.part(context, nets, judged)]
    if request.kes:
        parts.append(extraction.part(context, request.recipe))
    rows, classes = ([row for part in parts for row in getattr(part, name)] for name in ("rows", "classes"))
    return Part(rows, classes), exposure


def _record(request: Request, data: Sets, device: torch.device, net: str, seconds: float) -> dict[str, Any]:
    """What was scored, how, and by what code and machine; no path but those that the user typed."""
    return {
        "net": net,
        "definition": Options(scope=request.scope).name(net),
        "options": request.options(),
        "images": sizes(data),
        "shape": list(data.private.images.shape[1:]),
        "provenance": made_by(device, seconds),
    }


def sizes(data: Sets) -> dict[str, Any]:
    """Numbers of images: a list for the reconstructions, one entry a seed."""
    return {
        "reconstructions": [len(seed) for seed in data.seeds],
        "private": len(data.private),
        **{name: len(found) for name, found in data.others.items()},
    }


def made_by(device: torch.device, seconds: float) -> dict[str, Any]:
    """Code, libraries and machine behind the numbers; UserError where a path has got into it."""
    made = {
        **runtime.describe(device) | {"commit": origin.commit()},
        "packages": provenance.versions(),
        "peak_memory_mb": provenance.peak_memory_mb(),
        "seconds": round(seconds, 1),
    }
    provenance.private(made)
    return made

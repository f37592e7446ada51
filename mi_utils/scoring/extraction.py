"""Knowledge extraction score: real images named by a classifier that saw reconstructions alone."""

import torch
from jaxtyping import Bool
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.runtime import generator as seeded
from mi_utils.scoring.context import Context, Part
from mi_utils.scoring.inputs import Labelled
from mi_utils.scoring.table import Row, missing, over_private
from mi_utils.training.knowledge import Recipe, learnt, like

GROUP = "knowledge extraction"
METRIC = "KES"
TRAININGS = 3  # at least, and one for each attack seed


def part(context: Context, recipe: Recipe) -> Part:
    """The score, chance, and the ceiling: the same recipe on as many private images."""
    test = context.sets.others.get("test") or context.sets.others["holdout"]
    seeds = context.sets.seeds
    rounds = range(max(TRAININGS, len(seeds)))
    rows = [seeds[i % len(seeds)] for i in rounds]
    private = [_as_many(context, seeds[i % len(seeds)], i) for i in rounds]
    chance = Row(
        GROUP,
        "chance",
        1 / len(context.classes),
        unit="share",
        what=f"1 of {len(context.classes)} classes; exact, no interval",
    )
    about = f"{recipe.architecture}, {recipe.iterations} iterations"
    try:
        score = _accuracy(context, METRIC, rows, test, recipe, about)
        ceiling = _accuracy(context, "KES of private images", private, test, recipe, f"as many as are there; {about}")
    except UserError as error:
        return Part([missing(GROUP, METRIC, str(error)), chance])
    return Part([score, chance, ceiling])


def _accuracy(context: Context, metric: str, sets: list[Labelled], test: Labelled, recipe: Recipe, about: str) -> Row:
    """Accuracy over the test images, one training a set."""
    right: list[Bool[Tensor, " n"]] = []
    for i, found in enumerate(sets):
        context.say(f"{metric}: training {i + 1} of {len(sets)} on {len(found):,} images")
        right.append(learnt(found.images, found.labels, test.images, test.labels, recipe, i, context.device))
    words = ("test", "training")
    what = f"trained on {'/'.join(dict.fromkeys(f'{len(f):,}' for f in sets))} images; {about}"
    return over_private(GROUP, metric, torch.stack(right).double(), what=what, words=words)


def _as_many(context: Context, found: Labelled, seed: int) -> Labelled:
    """Private images of the same number in every class, or all where a class has fewer."""
    rng = seeded("score ceiling", seed)
    return context.sets.private.take(like(context.sets.private.labels, found.labels, rng))

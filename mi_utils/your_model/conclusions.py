"""What follows from an audit and what does not, as sentences.  No sentence ever says that a classifier is safe."""

from collections.abc import Sequence
from dataclasses import dataclass

from mi_utils.scoring.table import Row, number
from mi_utils.your_model.exposure import Exposure


@dataclass(frozen=True)
class Conclusions:
    """can: what the numbers support.  cannot: what they leave open.  missing: what to give to learn more."""

    can: tuple[str, ...]
    cannot: tuple[str, ...]
    missing: tuple[str, ...]


def conclusions(found: Sequence[Exposure], classes: int, private: bool, holdout: bool, judged: bool) -> Conclusions:
    """From the attacks' rows, and from what was given.  classes: of the classifier, for what chance would reach."""
    can = [_confidence(one) for one in found]
    if private:
        can += [_against_auxiliary(one) for one in found]
        can += [sentence for one in found if (sentence := _against_holdout(one))]
    if judged:
        can += [_judged(one, 1 / classes) for one in found]
    cannot = [*_scale(found[:1]), *_cannot(private, judged)]
    return Conclusions(tuple(can), tuple(cannot), tuple(_missing(private, holdout, judged)))


def above(ours: Row, reference: Row) -> int:
    """1 where our interval lies above the reference's, -1 where below, 0 where they overlap."""
    return int(ours.low > reference.high) - int(ours.high < reference.low)


def _confidence(one: Exposure) -> str:
    """The classifier's own opinion."""
    top, sure = one.row("top-1 target"), one.row("confidence target")
    return (
        f"{one.title}: the classifier takes {number(top.value, 'share')} of these images for their class, with a mean "
        f"confidence of {number(sure.value, 'share')}. That shows that the attack ran as it should; images that look "
        "like nothing reach this as well."
    )


def _against_auxiliary(one: Exposure) -> str:
    """Does the classifier add something to the attacker's own images?"""
    ours = next((r for r in one.rows if r.short.startswith("DDCS, at ") and r.value is not None), one.row("DDCS"))
    reference = one.row("DDCS: auxiliary")
    numbers = f"DDCS {ours.value:.3f} against {reference.value:.3f}, {_least(one)} images each"
    words = {
        1: f"these images come closer to more private images than as many auxiliary images do ({numbers}): the "
        "classifier has told the attacker something about its training images, or their kind.",
        0: f"whether these images come closer to the private ones than as many auxiliary images do is not decided "
        f"({numbers}; the intervals overlap).",
        -1: f"as many auxiliary images, made without the classifier, come closer to more private images ({numbers}): "
        "this attack, at this length, gave no image-by-image exposure beyond what the attacker had.",
    }
    return f"{one.title}: {words[above(ours, reference)]}"


def _least(one: Exposure) -> str:
    row = one.row("DDCS: auxiliary")
    return row.what.split("; ")[0].rsplit(", ", 1)[-1].removesuffix(" images")


def _against_holdout(one: Exposure) -> str | None:
    """Are these very images exposed, or only their kind?"""
    if "holdout" not in one.near:
        return None
    ours, theirs = one.near["reconstructions"], one.near["holdout"]
    relation = "closer to" if ours < theirs else "farther from"
    return (
        f"{one.title}: a reconstruction is typically {relation} its nearest private image (median {ours:.3g}) than an "
        f"unseen image of the same classes is ({theirs:.3g})"
        + (": look at the pairs, single training images may be exposed." if ours < theirs else ".")
    )


def _judged(one: Exposure, chance: float) -> str:
    """Independent classifiers' opinion."""
    mean = one.row("ensemble mean")
    means = (
        "that is above chance: something of what makes the class leaks, which need not be any single image."
        if mean.low is not None and mean.low > chance
        else "that is not clearly above chance: to anyone but the attacked classifier they do not show the class."
    )
    return (
        f"{one.title}: classifiers that the attack never saw name {number(mean.value, 'share')} of its images as the "
        f"attacked class (chance: {number(chance, 'share')}); {means}"
    )


def _scale(found: Sequence[Exposure]) -> list[str]:
    """Whether nDDCS has a scale: its ends are the same for every attack."""
    ends = [(one.row("DDCS: auxiliary"), one.row("DDCS: holdout")) for one in found]
    return [
        f"Anything from nDDCS: auxiliary images (DDCS {low.value:.3f}) and unseen images of the classes "
        f"({high.value:.3f}) are too alike for a scale between them."
        for low, high in ends
        if low and high and above(high, low) < 1
    ]


def _cannot(private: bool, judged: bool) -> list[str]:
    """What stays open in any case, and what this audit leaves open."""
    said = [
        "That the classifier gives nothing away. Other attacks, better priors, more time or another seed may find "
        "more; an attack that failed is no guarantee, and no number here is one such as differential privacy gives.",
        "Whether a given person or image was in the training set: that is membership inference, another question.",
        "How these numbers compare with published ones: schedules were cut to the time budget and images to the "
        "working size.",
    ]
    if not private:
        said.insert(0, "Whether any reconstruction resembles a training image: nothing was given to compare with.")
    if private and not judged:
        said.insert(0, "Whether the images show the class to anyone but the attacked classifier: no evaluator was "
                       "trained.")  # fmt: skip
    return said


def _missing(private: bool, holdout: bool, judged: bool) -> list[str]:
    """What to give."""
    if not private:
        return ["private: the training images, by class; without them there is neither coverage, DDCS nor a nearest "
                "private image"]  # fmt: skip
    if not holdout:
        return ["holdout: images of the same classes that the classifier has not seen. Without them nDDCS has no upper "
                "end, no evaluator can be tested, and knowledge of a class cannot be told from memory of an image"
                ]  # fmt: skip
    return [] if judged else ["minutes: the evaluators did not fit the time budget"]

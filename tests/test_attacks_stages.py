"""What holds for every attack stage: shapes, repeatability, resuming, and what it may see."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from toys import ALL_TERMS, ATTACKS, PATCH_MI, POOL, PRIOR, TARGET, resumed, same, tensors

from mi_utils.attacks.bmi import BMI
from mi_utils.attacks.patch_mi import Critic
from mi_utils.data import HangulSheet, LatinSheet, Source
from mi_utils.data import images as images_module
from mi_utils.data.pool import AuxiliaryPool
from mi_utils.errors import UserError
from mi_utils.stage import Config, Job, Stage
from mi_utils.training.classifier import TrainClassifier

every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())


@every_attack
def test_reconstructions_are_labelled_8_bit_images(attack: Stage) -> None:
    found = attack.result("cpu").tensors
    assert found["images"].shape == (6, 1, 32, 32) and found["images"].dtype == torch.uint8
    assert found["labels"].dtype == torch.int64 and found["labels"].tolist() == [2, 0] * 3
    curves = {name: values for name, values in found.items() if name.startswith("log_")}
    assert curves and all(values.shape == (attack.iterations,) for values in curves.values())
    assert len(found["images"].unique(dim=0)) > 2, "copies of one image"


@every_attack
def test_the_seed_decides_everything(attack: Stage, tmp_path: Path) -> None:
    expected = attack.result("cpu").tensors
    torch.manual_seed(7)  # layers draw weights from the default stream before they get their own
    assert same(tensors(attack, tmp_path / "again"), expected)
    other = tensors(attack.model_copy(update={"seed": 1}), tmp_path / "other")
    assert torch.equal(other["labels"], expected["labels"])
    assert not any(torch.equal(other[name], expected[name]) for name in expected if name != "labels")


@every_attack
def test_an_interrupted_attack_resumes_to_the_same_bits(
    attack: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = attack.result("cpu").tensors
    found, steps = resumed(attack, tmp_path, monkeypatch, 2)
    assert same(found, expected) and steps[0] == 2


# ---------------------------------------------------------------- threat model


def closure(stage: Stage) -> set[Stage]:
    """A stage and all that it is computed from."""
    return {stage}.union(*map(closure, stage.upstream()))


def sources(config: object) -> Iterator[Source]:
    """All sources in a config, those of its target left out."""
    if isinstance(config, Source):
        yield config
    if isinstance(config, Config) and not isinstance(config, TrainClassifier):
        for name in type(config).model_fields:
            yield from sources(getattr(config, name))
    if isinstance(config, tuple):
        for item in config:
            yield from sources(item)


@every_attack
def test_an_attack_reaches_no_evaluator_and_no_private_image(attack: Stage) -> None:
    classifiers = {stage.key for stage in closure(attack) if isinstance(stage, TrainClassifier)}
    assert classifiers == {TARGET.key}
    assert set(sources(attack)) <= {POOL.source}


@every_attack
def test_an_attack_loads_nothing_but_stored_results(
    attack: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = attack.result("cpu").tensors
    TARGET.result("cpu"), PRIOR.result("cpu")

    def forbidden(self: Source) -> None:
        raise AssertionError(f"the attack opens {self}")

    images_module._load.cache_clear()
    for cls in (Source, HangulSheet, LatinSheet):
        monkeypatch.setattr(cls, "load", forbidden)
        monkeypatch.setattr(cls, "open", forbidden)
    assert same(tensors(attack, tmp_path), expected)


# ---------------------------------------------------------------- what a user can get wrong


@every_attack
@pytest.mark.parametrize("classes", [(), (10,), (-1, 0)])
def test_unknown_classes_are_one_line_before_the_first_step(
    attack: Stage, classes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    TARGET.result("cpu")
    monkeypatch.setattr(Job, "steps", None)
    with pytest.raises(UserError, match=r"^classes: expected ids in 0..9 \(the target's\), found \(") as caught:
        attack.model_copy(update={"classes": classes}).result("cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["patch-mi", "generative", "vmi"])
def test_images_unlike_the_targets_are_one_line_before_the_first_step(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    colour = POOL.model_copy(update={"source": POOL.source.model_copy(update={"channels": 3})})
    prior = PRIOR.model_copy(update={"auxiliary": colour})
    wrong = {"auxiliary": colour} if name == "patch-mi" else {"prior": prior}
    prior.result("cpu"), TARGET.result("cpu")
    monkeypatch.setattr(Job, "steps", None)
    expected = r"^(auxiliary|prior): expected images \(1, 32, 32\) as the target takes, found \(3, 32, 32\)$"
    with pytest.raises(UserError, match=expected):
        ATTACKS[name].model_copy(update=wrong).result("cpu")


def test_a_patch_larger_than_the_image_is_one_line() -> None:
    wide = Critic(patch=40, stride=2, padding=2)
    with pytest.raises(UserError, match="^patch: at most 36 px fit in a 32 px image padded by 2, found 40"):
        PATCH_MI.model_copy(update={"critics": (wide,)}).result("cpu")


def test_a_pool_of_oblong_images_is_one_line() -> None:
    whole = POOL.transform.model_copy(update={"steps": ()})
    tall = AuxiliaryPool(source=HangulSheet(limit=40, syllables=4, size=16), count=64, transform=whole)
    with pytest.raises(UserError, match="^auxiliary: expected 32×32 px images for the DCGAN, found 16×16 px$"):
        PRIOR.model_copy(update={"auxiliary": tall}).result("cpu")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"w_a": -1.0}, "PatchMI.w_a: .* greater than or equal to 0"),
        ({"tau": 0.0}, "PatchMI.tau: .* greater than 0"),
        ({"gan": "both"}, "PatchMI.gan: .*'per_class' or 'class_cond'"),
        ({"n_gff": 3}, "PatchMI.n_gff: no such field; did you mean n_gf?"),
    ],
)
def test_wrong_fields_name_themselves(fields: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        PATCH_MI.model_copy(update=ALL_TERMS | fields)


def test_a_diverging_attack_fails_and_is_not_stored() -> None:
    broken = BMI(target=TARGET, classes=(0,), samples=2, iterations=3, lr=float("inf"))
    with pytest.raises(Exception, match="BMI loss: .* NaN or infinite"):
        broken.result("cpu")
    assert not broken.stored()

"""The union of two searches: whose rows it takes, in which order, and what it refuses."""

import pytest
import torch
from test_attacks_style import ATTACKS, PUBLIC, TARGET, changed
from test_attacks_style import PRIOR as START

from mi_utils.attacks.union import ROWS, DualAttack, in_turn
from mi_utils.errors import UserError
from mi_utils.studies.evaluation import first_per_class
from mi_utils.training.transfer import TransferStyleGAN2

TUNED = TransferStyleGAN2.of(START, public=PUBLIC, target=TARGET, steps=2, batch=8, bank=2, frames=2)
ONE, OTHER = ATTACKS["ppa"], changed(ATTACKS["ppa"], prior=TUNED)
ODD = tuple(changed(attack, candidates=5) for attack in (ONE, OTHER))


def of_class(found: dict[str, torch.Tensor], name: str, y: int) -> torch.Tensor:
    return found[name][found["labels"] == y]


def test_rows_take_turns_within_the_order_of_classes() -> None:
    one, other = torch.arange(6), 10 + torch.arange(6)  # three samples of two classes each
    assert in_turn([one, other], 2).tolist() == [0, 1, 10, 11, 2, 3, 12, 13, 4, 5, 14, 15]


def test_half_of_each_is_as_many_as_one_and_the_better_half() -> None:
    union = DualAttack(attacks=(ONE, OTHER))
    found = union.result("cpu").tensors
    single = [attack.result("cpu").tensors for attack in (ONE, OTHER)]
    assert set(found) == {*ROWS, "attack"}
    for name in ROWS:
        assert found[name].shape == single[0][name].shape and found[name].dtype == single[0][name].dtype
    assert torch.equal(found["labels"], single[0]["labels"])  # the order that scoring knows
    for y in (0, 2):
        for which in (0, 1):
            own = of_class(found, "attack", y) == which
            assert int(own.sum()) == 3
            for name in ROWS:
                assert torch.equal(of_class(found, name, y)[own], of_class(single[which], name, y)[:3]), name


def test_full_is_both_and_any_number_scored_takes_half_of_each() -> None:
    found = DualAttack(attacks=(ONE, OTHER), size="full").result("cpu").tensors
    single = [attack.result("cpu").tensors for attack in (ONE, OTHER)]
    assert len(found["images"]) == 24
    images, labels = first_per_class(found["images"], found["labels"], 4)
    for y in (0, 2):
        expected = torch.cat([of_class(s, "images", y)[:2] for s in single])
        rows = {image.numpy().tobytes() for image in images[labels == y]}
        assert rows == {image.numpy().tobytes() for image in expected}
    for which in (0, 1):
        assert torch.equal(found["images"][found["attack"] == which], single[which]["images"])


def test_of_an_odd_number_the_first_gives_one_more() -> None:
    found = DualAttack(attacks=ODD).result("cpu").tensors
    assert of_class(found, "attack", 2).tolist() == [0, 1, 0, 1, 0] and len(found["images"]) == 10


def test_cost_is_that_of_both() -> None:
    cost = DualAttack(attacks=(ONE, OTHER)).result("cpu").meta["cost"]
    assert cost == {name: 2 * value for name, value in ONE.result("cpu").meta["cost"].items()}


def test_searches_that_do_not_go_together_are_refused() -> None:
    for fields, words in (
        ({"classes": (0, 2)}, r"same classes in both, found \(2, 0\) and \(0, 2\)"),
        ({"candidates": 5}, "same candidates in both, found 6 and 5"),
        ({"target": TARGET.model_copy(update={"seed": 1})}, "same target in both, found one and another"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            DualAttack(attacks=(ONE, changed(OTHER, **fields)))
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="two different searches, found the same twice"):
        DualAttack(attacks=(ONE, ONE))


def test_styles_of_another_length_are_refused() -> None:
    short = START.model_copy(update={"w_dim": 6, "steps": 1})
    union = DualAttack(attacks=(ONE, changed(ONE, prior=short)))
    with pytest.raises(UserError, match="expected styles of one length, found 8 and 6"):
        union.result("cpu")
    assert not union.stored()

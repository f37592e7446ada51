"""Sets of one size, and private sets without repeats."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_utils.errors import UserError
from mi_utils.metrics import references
from mi_utils.runtime import generator


def labelled(n: int, first: int = 0) -> references.Labelled:
    """n one-pixel images that differ, labelled by their number."""
    ids = torch.arange(first, first + n)
    return (ids % 256).to(torch.uint8)[:, None, None, None], ids


def test_all_are_cut_to_the_smallest_without_repeats_and_in_order():
    cut = references.same_size({"ours": labelled(9), "prior": labelled(30), "holdout": labelled(9, 50)}, generator("x"))
    assert {len(ids) for _, ids in cut.values()} == {9}
    assert torch.equal(cut["ours"][1], torch.arange(9)) and torch.equal(cut["holdout"][1], torch.arange(50, 59))
    images, ids = cut["prior"]
    assert torch.equal(ids, ids.unique()) and torch.equal(images.flatten().long(), ids)


def test_the_draw_is_that_of_the_generator():
    sets = {"a": labelled(5), "b": labelled(200)}
    one, same, other = (references.same_size(sets, generator(word))["b"][1] for word in ("x", "x", "y"))
    assert torch.equal(one, same) and not torch.equal(one, other)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_distinct_keeps_the_first_of_equal_images(values):
    images = torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    kept = references.distinct(images).tolist()
    assert kept == [i for i, v in enumerate(values) if v not in values[:i]]


def test_errors():
    with pytest.raises(UserError, match="prior: expected at least 1 image, found 0"):
        references.same_size({"ours": labelled(2), "prior": labelled(0)}, generator("x"))
    with pytest.raises(UserError, match="labels of ours: expected 2 integer class ids"):
        references.same_size({"ours": (labelled(2)[0], torch.arange(3))}, generator("x"))
    with pytest.raises(UserError, match="sets: expected at least 1"):
        references.same_size({}, generator("x"))

"""The knowledge extraction score: what is learnt from images with true, shuffled and missing labels."""

import pytest
import torch
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.runtime import generator
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.knowledge import Recipe, learnt, like

SHORT = Recipe(width=4, iterations=40, batch=18)


def bars(per_class: int, *words: int | str) -> tuple[Tensor, Tensor]:
    """Separable classes 3, 7 and 11 of 16 px: a bright bar on the left, on the right, or none; noise added."""
    rng = generator("bars", per_class, *words)
    images = torch.randint(0, 90, (3 * per_class, 1, 16, 16), generator=rng, dtype=torch.uint8)
    labels = torch.tensor([3, 7, 11]).repeat(per_class)
    images[labels == 3, :, :, :6] += 120
    images[labels == 7, :, :, 10:] += 120
    return images, labels


TEST = bars(30, "test")


def test_a_separable_set_teaches_everything_whatever_its_class_ids():
    assert learnt(*bars(20), *TEST, SHORT, 0).all()


def test_shuffled_labels_teach_nothing():
    images, labels = bars(40)
    dealt = labels[torch.randperm(len(labels), generator=generator("deal"))]
    accuracy = torch.cat([learnt(images, dealt, *TEST, SHORT, seed) for seed in range(4)]).double().mean()
    assert 0.1 < accuracy < 0.6


def test_the_seed_decides_everything():
    images, labels = bars(4)
    weak = SHORT.model_copy(update={"iterations": 6})
    one, two, three = (learnt(images, labels, *TEST, weak, seed) for seed in (0, 0, 1))
    torch.manual_seed(5)
    assert torch.equal(one, two) and not torch.equal(one, three)


def test_a_class_that_was_not_reconstructed_is_not_known():
    images, labels = bars(20)
    kept = labels != 7
    right = learnt(images[kept], labels[kept], *TEST, SHORT, 0)
    assert not right[TEST[1] == 7].any() and right[TEST[1] != 7].all()


def test_the_recipe_is_that_of_targets():
    for name, field in Recipe.model_fields.items():
        assert field.default == TrainClassifier.model_fields[name].default


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (bars(2)[0][:, :, :8], bars(2)[1], "expected some of shape \\(1, 16, 16\\).* found 6 of \\(1, 8, 16\\)"),
        (bars(2)[0][:0], bars(2)[1][:0], "found 0 of"),
    ],
)
def test_sets_that_do_not_fit_are_one_line(images, labels, said):
    with pytest.raises(UserError, match=said):
        learnt(images, labels, *TEST, SHORT, 0)


def test_one_class_is_nothing_to_tell_apart():
    images, labels = bars(4)
    one = labels == 3
    with pytest.raises(UserError, match="classes: expected at least 2"):
        learnt(images[one], labels[one], images[one], labels[one], SHORT, 0)


def test_a_diverged_training_is_an_error():
    with pytest.raises(UserError, match="NaN or infinite"):
        learnt(*bars(4), *TEST, SHORT.model_copy(update={"lr": 1e30}), 0)


def test_as_many_of_every_class_are_drawn_once_each():
    labels = torch.tensor([0, 5, 5, 5, 5, 9, 9, 9])
    rows = like(labels, torch.tensor([5, 5, 9, 0, 0, 0, 9, 5]), generator("like"))
    assert labels[rows].tolist() == [0, 5, 5, 5, 9, 9] and len(rows.unique()) == 6

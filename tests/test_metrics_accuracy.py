"""Accuracy, confidence, ensemble votes and the overfit gap."""

from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_utils.errors import UserError
from mi_utils.metrics import accuracy
from mi_utils.runtime import generator


def logits(n: int, c: int, *words: int | str) -> torch.Tensor:
    return torch.randn(n, c, generator=generator("logits", n, c, *words))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_equals_torch_topk(k):
    x, y = logits(200, 10), torch.randint(10, (200,), generator=generator("y"))
    expected = (x.topk(k).indices == y[:, None]).any(1)
    assert torch.equal(accuracy.top_k(x, y, k), expected)
    assert 0 < expected.float().mean() < 1


def test_ties_count_against_the_label():
    assert not accuracy.top_k(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])).any()
    assert accuracy.top_k(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([0]), k=2).all()


def test_confidence_is_softmax_and_survives_huge_logits():
    x, y = logits(50, 7), torch.arange(50) % 7
    assert torch.allclose(accuracy.confidence(x, y), x.double().softmax(1)[torch.arange(50), y])
    assert accuracy.confidence(torch.tensor([[1e4, 0.0]]), torch.tensor([1])).tolist() == [0.0]


def verdicts(*says: int, classes: int = 3) -> torch.Tensor:
    """Logits of an evaluator that says these classes."""
    return torch.nn.functional.one_hot(torch.tensor(says), classes).float()


def test_votes_by_hand():
    y = torch.tensor([0, 0, 0, 2])
    nets = {
        "a": verdicts(0, 0, 1, 2),
        "b": verdicts(0, 0, 0, 2),
        "c": verdicts(0, 1, 1, 2),
        "d": verdicts(0, 1, 1, 2),
    }
    reject = verdicts(3, 0, 0, 2, classes=4)  # says "none of these" to the first
    votes = accuracy.vote(nets, y, reject)
    assert votes["mean"].tolist() == [1.0, 0.5, 0.25, 1.0]
    assert votes["majority"].tolist() == [True, False, False, True]  # two of four is not more than half
    assert votes["accepted"].tolist() == [False, True, True, True]
    assert votes["unanimous"].tolist() == [False, False, False, True]
    assert accuracy.vote(nets, y)["unanimous"].tolist() == [True, False, False, True]
    assert "accepted" not in accuracy.vote(nets, y)
    assert accuracy.ensemble_min(accuracy.correct_by(nets, y)) == 0.5


def test_minimum_is_over_evaluators_not_over_samples():
    y = torch.tensor([0, 0])
    correct = accuracy.correct_by({"a": verdicts(0, 1), "b": verdicts(1, 0)}, y)
    assert accuracy.ensemble_min(correct) == 0.5
    assert correct.all(0).double().mean() == 0.0


def test_overfit_gap():
    assert accuracy.overfit_gap(0.9, 0.6) == pytest.approx(0.3)
    assert accuracy.overfit_gap(0.9, 0.6, 0.9, 0.8) == pytest.approx(1 - 0.75)
    with pytest.raises(UserError, match="evaluator: expected an accuracy as a share"):
        accuracy.overfit_gap(0.9, 60.0)
    with pytest.raises(UserError, match="clean_target"):
        accuracy.overfit_gap(0.9, 0.6, 0.0, 0.5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x, y: accuracy.top_k(x, y, 5), "1 <= k < 5 .* found 5; omit"),
        (lambda x, y: accuracy.top_k(x, y + 1), r"ids in 0..4 .* found 1..5"),
        (lambda x, y: accuracy.top_k(x, y - 1), "found -1..3"),
        (lambda x, y: accuracy.top_k(x, y[:3]), "expected 5 integer class ids"),
        (lambda x, y: accuracy.top_k(x, y.float()), "integer class ids"),
        (lambda x, y: accuracy.top_k(x[:0], y[:0]), "N >= 1"),
        (lambda x, y: accuracy.confidence(x * torch.inf, y), "NaN or infinite"),
        (lambda x, y: accuracy.top_k(x, y > 2), "expected 5 integer class ids, found torch.bool"),
        (lambda x, y: accuracy.vote({}, y), "at least 1 evaluator"),
        (lambda x, y: accuracy.vote({"a": x, "b": x / 0}, y), "logits of b: .* NaN or infinite"),
        (lambda x, y: accuracy.vote({"a": x, "b": x[:4]}, y), "labels: expected 4 integer class ids"),
        (lambda x, y: accuracy.vote({"a": x, "b": x[:, :4]}, y), "one number of classes"),
        (lambda x, y: accuracy.vote({"a": x}, y, reject=x), "expected 6 outputs"),
    ],
)
def test_errors(call, words):
    with pytest.raises(UserError, match=words):
        call(logits(5, 5), torch.arange(5))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 12), st.integers(1, 4))
def test_plurality_is_the_only_most_common_answer(word, nets, n, classes):
    rng = generator("plurality", word)
    predictions = torch.randint(classes, (nets, n), generator=rng)
    labels = torch.randint(classes, (n,), generator=rng)
    for i, won in enumerate(accuracy.plurality(predictions, labels).tolist()):
        first, *others = Counter(predictions[:, i].tolist()).most_common(2)
        assert won == (first[0] == labels[i] and (not others or others[0][1] < first[1]))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(2, 12), st.sampled_from([torch.float16, torch.float64]))
def test_top_k_grows_with_k_and_order_changes_nothing(word, n, c, dtype):
    x, y = logits(n, c, word).to(dtype), torch.randint(c, (n,), generator=generator("y", word))
    hits = [accuracy.top_k(x, y, k) for k in range(1, c)]
    assert all((a <= b).all() for a, b in pairwise(hits))
    assert torch.equal(accuracy.top_k(x.flip(0), y.flip(0)), hits[0].flip(0))
    classes = torch.randperm(c, generator=generator("classes", word))
    assert torch.equal(accuracy.top_k(x[:, classes], classes.argsort()[y]), hits[0])
    sure = accuracy.confidence(x, y)
    assert ((sure > 0) & (sure < 1)).all() and hits[0][sure > 0.5].all()


def test_plurality_counts_answers_and_gives_ties_to_no_one() -> None:
    predictions = torch.tensor([[0, 0, 1, 3], [0, 1, 1, 3], [2, 1, 1, 3], [1, 0, 0, 0], [2, 2, 9, 0]])
    labels = torch.tensor([0, 0, 1, 3])
    # (2,1,2): 0 and 2 tie; (2,2,1): 0 and 1 tie; (3,1,1): wins; (3,2): wins.
    assert accuracy.plurality(predictions, labels).tolist() == [False, False, True, True]
    with pytest.raises(UserError, match="predictions"):
        accuracy.plurality(predictions[:, :2], labels)

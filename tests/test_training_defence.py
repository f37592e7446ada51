"""The audit of private images and the training that defends them: closed forms, a planted case, the undefended one."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_attacks_style import ATTACKS, TARGET, changed
from toys import resumed, same, tensors

from mi_utils.errors import UserError
from mi_utils.runtime import generator
from mi_utils.stage import Job, Output, Stage
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.defence import CEILING, TrainDefended, penalty
from mi_utils.training.vulnerability import Vulnerability, first_of_each, most_vulnerable

CLASSES = (0, 2)  # of 4 with 20 images each


class Copies(Stage):
    """An attack that returns private images: of both classes the same `rows`, of 0..19."""

    rows: tuple[int, ...]
    classes: tuple[int, ...] = CLASSES

    def compute(self, job: Job) -> Output:
        data = TARGET.train.load()
        index = (torch.tensor(self.rows)[:, None] + 20 * torch.tensor(self.classes)).flatten()
        return Output({"images": data.images[index], "labels": data.labels[index]})


AUDIT = Vulnerability(attacks=(Copies(rows=(3, 5, 9)), Copies(rows=(3, 6, 9))), private=TARGET.train, samples=2)
PLAIN = {name: getattr(TARGET, name) for name in TrainClassifier.model_fields} | {"iterations": 8}
UNDEFENDED = TrainClassifier(**PLAIN)
NONE = TrainDefended(**PLAIN, audit=AUDIT, defence="none")
PAIR = (NONE, UNDEFENDED)


def defended(defence: str, strength: float = 0.5, **fields: object) -> TrainDefended:
    return NONE.model_copy(update={"defence": defence, "strength": strength, **fields})


# --- audit -----------------------------------------------------------------------------------------------------


def test_copied_images_are_the_most_vulnerable_and_others_are_not_audited() -> None:
    found = AUDIT.result("cpu").tensors
    scores = found["scores"]
    assert torch.equal(scores[[3, 43]], torch.ones(2))  # a copy by both: distance 0
    half = torch.tensor([5, 6, 45, 46])
    assert torch.equal(scores[half], torch.full((4,), 0.5))  # by one of two
    assert scores.sum() == 4 and scores[9] == 0  # the third sample of a class does not count
    assert torch.equal(found["vulnerable"][:2], torch.tensor([3, 43])) and len(found["vulnerable"]) == 4
    assert set(found["vulnerable"][2:].tolist()) < set(half.tolist())
    assert torch.equal(found["reconstructions"], TARGET.train.load().images[found["vulnerable"]])
    assert torch.equal(found["closest"], torch.zeros(4))
    other = TARGET.train.load().labels % 2 == 1
    assert found["distances"].shape == (2, 80) and found["distances"][:, other].isinf().all()
    assert found["distances"][:, ~other].isfinite().all() and not found["matched"][:, other].any()
    assert found["matched"].sum() == 8


def test_a_search_is_audited() -> None:
    seeds = tuple(changed(ATTACKS["ppa"], seed=seed) for seed in (0, 1))
    found = Vulnerability(attacks=seeds, private=TARGET.train, samples=4).result("cpu")
    assert found.meta["audited"] == 40 and found.tensors["reconstructions"].shape == (4, 3, 32, 32)


def test_of_equal_scores_the_nearest_come_first() -> None:
    scores, distance = torch.tensor([0.0, 0.5, 0.0, 0.0]), torch.tensor([0.3, 0.9, 0.1, 0.3])
    assert most_vulnerable(scores, distance, 4).tolist() == [1, 2, 0, 3]


def test_the_first_of_each_class_in_stored_order() -> None:
    assert first_of_each(torch.tensor([4, 1, 4, 1, 4]), 2).tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match="samples: expected at most 2 per class"):
        first_of_each(torch.tensor([4, 1, 4, 1, 4]), 3)


def test_attacks_of_other_classes_are_refused() -> None:
    mixed = (Copies(rows=(3, 5)), Copies(rows=(3, 5), classes=(0, 1)))
    with pytest.raises(UserError, match=r"attacks: expected the same classes in all, found \[0, 2\] and \[0, 1\]"):
        AUDIT.model_copy(update={"attacks": mixed}).result("cpu")


# --- defence ---------------------------------------------------------------------------------------------------


def test_without_a_defence_the_training_is_the_undefended_one_to_the_bit(tmp_path: Path) -> None:
    assert same(NONE.result("cpu").tensors, UNDEFENDED.result("cpu").tensors)
    assert NONE.facts() == UNDEFENDED.facts() and NONE.key != UNDEFENDED.key
    rejecting = {"reject": ATTACKS["ppa"].prior.public, "batch": 18}
    pair = [stage.model_copy(update=rejecting) for stage in PAIR]
    assert same(*(tensors(stage, tmp_path / type(stage).__name__) for stage in pair))


def test_a_defended_target_is_attacked_like_any_other() -> None:
    cpu = torch.device("cpu")
    pools = [attack.scored(attack.nets(cpu), cpu) for attack in (changed(ATTACKS["ppa"], target=t) for t in PAIR)]
    assert torch.equal(pools[0].scores, pools[1].scores)


def test_penalties_have_their_closed_forms() -> None:
    p = torch.tensor([[0.9, 0.05, 0.05], [0.2, 0.5, 0.3]])
    y = torch.tensor([0, 1])
    expected = torch.tensor([torch.tensor(0.9 / CEILING).log(), 0.0])
    torch.testing.assert_close(penalty("cap", p.log(), y), expected)
    logits = torch.randn(5, 3, generator=generator("logits"))
    y = torch.tensor([0, 1, 2, 0, 1])
    for kind, sign in (("smooth", 1), ("negls", -1)):
        loss = F.cross_entropy(logits, y, reduction="none") + 0.1 * penalty(kind, logits, y)
        soft = (1 - sign * 0.1) * F.one_hot(y, 3).float() + sign * 0.1 / 3
        torch.testing.assert_close(loss, F.cross_entropy(logits, soft, reduction="none"))


def test_the_penalty_of_all_images_is_its_mean_over_the_vulnerable() -> None:
    data = TARGET.train.load()
    stage = defended("cap", batch=len(data))
    rows = AUDIT.result("cpu").tensors["vulnerable"]
    logits = 3 * torch.randn(len(data), 4, generator=generator("logits")) + 6 * F.one_hot(data.labels, 4)
    loss = stage.loss(logits, data.labels, stage.protection(data).amount[:-1])
    expected = F.cross_entropy(logits, data.labels) + 0.5 * penalty("cap", logits[rows], data.labels[rows]).mean()
    torch.testing.assert_close(loss, expected)
    assert expected > F.cross_entropy(logits, data.labels)


def test_smoothing_all_images_is_ordinary_label_smoothing() -> None:
    data = TARGET.train.load()
    stage = defended("smooth", 0.1, chosen="all", batch=len(data))
    logits = torch.randn(len(data), 4, generator=generator("logits"))
    loss = stage.loss(logits, data.labels, stage.protection(data).amount[:-1])
    torch.testing.assert_close(loss, F.cross_entropy(logits, data.labels, label_smoothing=0.1))


def test_weights_and_noise_fall_on_the_chosen_images_alone() -> None:
    data, found = TARGET.train.load(), AUDIT.result("cpu").tensors
    rows, scores = found["vulnerable"], found["scores"]
    stage = defended("weight", 1.0)
    protection = stage.protection(data)
    assert torch.equal(protection.amount[rows], scores[rows]) and protection.amount.sum() == scores[rows].sum()
    assert protection.labels[-1] == 4 and protection.amount[-1] == 0  # "none of these"
    logits = torch.zeros(80, 4)
    expected = (80 - scores[rows].sum()) / 80 * torch.tensor(4.0).log()
    torch.testing.assert_close(stage.loss(logits, data.labels, protection.amount[:-1]), expected)
    stage = defended("noise", 0.25)
    x = torch.zeros(80, 3, 32, 32)
    seen, _ = stage._seen(x, torch.arange(80), stage.protection(data), generator("noise"))
    assert seen[rows].std() == pytest.approx(0.25, rel=0.05) and seen.abs().amax((1, 2, 3)).count_nonzero() == 4


def test_random_images_are_as_many_audited_ones_with_the_same_scores() -> None:
    data, found = TARGET.train.load(), AUDIT.result("cpu").tensors
    amount = defended("weight", chosen="random").protection(data).amount
    chosen = amount.nonzero().squeeze(1)
    assert torch.equal(amount[chosen].sort().values, found["scores"][found["vulnerable"]].sort().values)
    assert set(data.labels[chosen].tolist()) <= set(CLASSES) and set(chosen.tolist()) != set(
        found["vulnerable"].tolist()
    )
    other = defended("weight", chosen="random", seed=1).protection(data).amount
    assert not torch.equal(other, amount)


def test_a_cap_holds_down_the_confidence_of_the_vulnerable() -> None:
    undefended = UNDEFENDED.model_copy(update={"iterations": 60})
    stage = defended("cap", 3.0, iterations=60)
    data, rows = TARGET.train.load(), AUDIT.result("cpu").tensors["vulnerable"]
    held, free = (
        s.network("cpu")(data.float()[rows]).log_softmax(1).gather(1, data.labels[rows, None]).mean()
        for s in (stage, undefended)
    )
    assert held < free - 0.1


@pytest.mark.parametrize("defence", ["smooth", "noise"])
def test_an_interrupted_defence_resumes_to_the_same_bits(
    defence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = defended(defence)
    expected = stage.result("cpu").tensors
    assert not same(expected, NONE.result("cpu").tensors)
    found, steps = resumed(stage, tmp_path, monkeypatch, 5)
    assert same(found, expected) and steps == [5, 6, 7]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": TARGET.test}, "audit: expected one of the images in `train`, found another source"),
        ({"strength": 1.0}, "strength: expected 0 with 'none', found 1.0"),
        ({"defence": "cap"}, "strength: expected a number above 0 with 'cap', found 0.0"),
        ({"defence": "weight", "strength": 2.0}, r"strength: expected a number in \(0, 1\] with 'weight', found 2.0"),
    ],
)
def test_wrong_defences_are_one_line(change: dict, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        NONE.model_copy(update=change)
    assert "\n" not in str(caught.value)

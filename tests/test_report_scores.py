"""The tidy scores table and the paper table made of it."""

import math

import pandas as pd
import pytest
import torch

from mi_utils.errors import UserError
from mi_utils.report import scores


def three_seeds() -> pd.DataFrame:
    runs = [
        scores.rows("Patch-MI", "mnist", s, {"top-1": {0: 0.9 + s / 100, 10: 0.7}, "FD": 5.0 + s}, n=100)
        for s in (0, 1, 2)
    ]
    gone = scores.missing("BMI", "mnist", 0, ["top-1", "FD"], "no weights for Inception")
    half = [scores.rows("VMI", "mnist", 1, {"top-1": 0.5}, 9), scores.missing("VMI", "mnist", 2, ["top-1"], "diverged")]
    return scores.concat([*runs, gone, *half])


def test_rows_are_tidy_and_class_zero_is_kept():
    frame = scores.rows("A", "s", 3, {"m": {0: 0.5, 7: 0.25}, "q": 2}, n=12)
    assert list(frame.columns) == scores.COLUMNS
    assert frame["class"].tolist() == ["0", "7", "all"] and frame["value"].tolist() == [0.5, 0.25, 2.0]
    assert set(frame["n"]) == {12} and set(frame["seed"]) == {3}


def test_paper_table():
    table = scores.paper_table(
        three_seeds(),
        ["top-1", "FD"],
        formats={"top-1": scores.percent},
        published={"top-1": {("mnist", "Patch-MI"): "99.72"}},
    )
    assert list(table.columns) == ["top-1", "top-1, published", "FD"]
    ours = table.loc[("mnist", "Patch-MI")]
    assert ours["top-1"] == "80.5 ± 0.5 (n=3)"  # class means .800, .805, .810
    assert ours["FD"] == "6.000 ± 1.000 (n=3)"
    assert ours["top-1, published"] == "99.72"
    assert table.loc[("mnist", "BMI"), "top-1, published"] == "not available"
    assert table.loc[("mnist", "BMI"), "FD"] == "not computed: no weights for Inception"
    assert table.loc[("mnist", "VMI"), "top-1"] == "50.0 (n=1 of 2, not computed: diverged)"
    assert table.loc[("mnist", "VMI"), "FD"] == "not computed: not part of this run"


def test_a_pooled_value_wins_over_the_class_mean():
    frame = scores.concat(
        [scores.rows("A", "s", 0, {"m": {0: 1.0, 1: 0.0}}, 5), scores.rows("A", "s", 0, {"m": 0.9}, 10)]
    )
    assert scores.per_seed(frame)["value"].tolist() == [0.9]


def test_matrix_and_paired():
    frame = three_seeds()
    values, seeds, classes = scores.matrix(frame, "Patch-MI", "mnist", "top-1")
    assert seeds == [0, 1, 2] and classes == ["0", "10"]
    assert torch.allclose(values, torch.tensor([[0.90, 0.7], [0.91, 0.7], [0.92, 0.7]], dtype=torch.float64))
    assert scores.matrix(frame, "Patch-MI", "mnist", "FD")[0].shape == (3, 1)
    other = frame[frame["attack"] == "Patch-MI"].assign(attack="B", value=lambda f: f["value"] - 0.1)
    a, b = scores.paired(
        scores.concat([frame, other.sample(frac=1, random_state=0)]), ("Patch-MI", "mnist"), ("B", "mnist"), "top-1"
    )
    assert torch.allclose(a - b, torch.full((3, 2), 0.1, dtype=torch.float64))


def test_csv_round_trip(tmp_path):
    frame = three_seeds()
    frame.loc[0, "attack"] = "NA"  # a name that a careless reader would take for a gap
    frame.loc[1, "value"] = 0.1 + 0.2
    path = tmp_path / "scores.csv"
    frame.to_csv(path, index=False)
    pd.testing.assert_frame_equal(scores.read(path), frame)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda f: scores.concat([f, f.iloc[[0]]]),
            "once, found attack Patch-MI, setting mnist, seed 0, class 0, metric top-1 twice",
        ),
        (lambda f: scores.rows("A", "s", 0, {"m": math.nan}, 5), "a value or a reason, found neither"),
        (lambda f: scores.rows("A", "s", 0, {"m": math.inf}, 5), "a value or a reason, found neither"),
        (lambda f: scores.check(f.drop(columns="n")), "expected columns"),
        (lambda f: scores.concat([]), "at least 1 frame"),
        (lambda f: scores.matrix(f, "Patch-MI", "cifar", "FD"), "no such row"),
        (lambda f: scores.matrix(f, "VMI", "mnist", "top-1"), "expected a value for seed 2, class all"),
        (lambda f: scores.matrix(f.drop(index=0), "Patch-MI", "mnist", "top-1"), "a value for seed 0, class 0"),
        (
            lambda f: scores.paired(f[f["seed"] < 2], ("Patch-MI", "mnist"), ("VMI", "mnist"), "top-1"),
            "equal seeds and classes",
        ),
    ],
)
def test_errors(call, words):
    with pytest.raises(UserError, match=words):
        call(three_seeds())


def test_read_of_an_absent_file_names_it(tmp_path):
    with pytest.raises(UserError, match="scores.csv: expected a scores table"):
        scores.read(tmp_path / "scores.csv")

"""Measures of the DDCS study: copies and gaps, definitions, pruning, stability, size; on planted data."""

import pytest
import torch
from toys import TARGET

from mi_utils.data import HangulSheet, LatinSheet
from mi_utils.errors import UserError
from mi_utils.metrics import matching, sets
from mi_utils.metrics.ddcs import Options, ddcs
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Output, Stage
from mi_utils.studies.ddcs_ngd import definitions, measures, pruning, redundancy, stability
from mi_utils.studies.ddcs_ngd.sizes import SizeCurve
from mi_utils.studies.evaluation import Panel, drawn_per_class

PRIVATE = LatinSheet(symbols="digits", channels=1, classes=(0, 1, 2), size=32, limit=60)
SIZES = {"private": PRIVATE, "samples": 6, "perceptual": 8}


class Planted(Stage):
    """Copies of the private images that the measures draw, each moved by noise of `noise` grey levels."""

    noise: float
    seed: int = 0

    def compute(self, job: Job) -> Output:
        private = drawn_per_class(PRIVATE.load(), 8)
        rng = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(private), generator=rng)
        shift = self.noise * torch.randn(private.images.shape, generator=rng)
        images = (private.images + shift).round().clamp(0, 255).byte()
        return Output({"images": images[order], "labels": private.labels[order]})


@pytest.fixture(scope="module")
def panel() -> Panel:
    one = TARGET.model_copy(update={"seed": 5})
    unsure = TARGET.model_copy(update={"reject": HangulSheet(syllables=4, limit=40, size=32), "seed": 6})
    return Panel(plain={"E1": one}, reject=unsure)


def planted(n: int = 40, m: int = 30, d: int = 6, seed: int = 0) -> tuple[measures.Described, torch.Tensor]:
    """Random feature rows as reconstructions of two classes, and private ones."""
    rng = torch.Generator().manual_seed(seed)
    fake, real = torch.randn(n, d, generator=rng), torch.randn(m, d, generator=rng) + 0.5
    q = matching.squared_distances(fake, real)
    return measures.Described(q, fake, q.min(1).values, (q[:, 0] > 1).double(), torch.arange(n) % 2), real


def row_values(stage: Stage) -> dict[tuple, float]:
    """Value by what precedes it in a row of (..., metric, value, images)."""
    return {tuple(row[:-2]): row[-2] for row in stage.result("cpu").meta["rows"]}


# --- copies and gaps -------------------------------------------------------------------------------------------


def test_nearest_of_a_distance_matrix_is_that_of_the_rows() -> None:
    base, real = planted()
    labels = torch.arange(30) % 2
    one, other = measures.near(base.distance), matching.nearest(base.features, real)
    assert torch.equal(one.real_of_fake, other.real_of_fake) and torch.equal(one.fake_of_real, other.fake_of_real)
    one = measures.near(base.distance, base.labels[:, None] == labels)
    other = matching.nearest(base.features, real, fake_labels=base.labels, real_labels=labels)
    assert torch.equal(one.real_of_fake, other.real_of_fake) and torch.equal(one.fake_of_real, other.fake_of_real)


def test_a_private_image_that_no_pair_admits_has_nobody() -> None:
    q = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    found = measures.near(q, torch.tensor([[True, False], [True, False]]))
    assert found.fake_of_real.tolist() == [0, -1] and found.q_real[1] == torch.inf


def test_replaced_keeps_the_size_and_the_classes() -> None:
    labels = torch.tensor([3, 1, 3, 1, 3, 1, 3, 1])
    rows = redundancy.replaced(labels, 0.5)
    assert rows.tolist() == [1, 3, 1, 3, 0, 2, 0, 2]
    assert redundancy.replaced(labels, 0.9).unique().tolist() == [0, 1]


def test_even_copies_leave_fd_nearly_alone_and_uneven_ones_do_not() -> None:
    base, real = planted(n=200, m=300)
    base.features[:50] += 1
    fd = [
        sets.frechet_distance(real, base.take(rows).features)
        for rows in (torch.arange(200), torch.arange(200).repeat(20), redundancy.uneven(base.labels, 20))
    ]
    assert fd[1] == pytest.approx(fd[0], rel=0.01) and abs(fd[2] - fd[0]) > 0.1 * fd[0]


def test_one_mode_of_two_is_dropped() -> None:
    base, _ = planted(n=8)
    base.features[:] = 0.01 * base.features
    base.features[base.labels == 0] += torch.tensor([9.0, 9, -9, -9])[:, None]
    rows = redundancy.one_mode(base)
    signs = base.features[rows[:2]].sign()
    assert len(rows) == 4 and (base.labels[rows[:2]] == 0).all() and (signs == signs[0, 0]).all()


def test_near_copies_stay_near_and_every_other_is_mirrored() -> None:
    images = torch.zeros(2, 1, 16, 16, dtype=torch.uint8)
    images[..., :8] = 100
    copies = redundancy.near_copies(images, 2, 3.0, torch.Generator().manual_seed(0)).float()
    plain, mirrored = copies[:2] - images.float(), copies[2:] - images.flip(3).float()
    assert plain.abs().max() < 20 and mirrored.abs().max() < 20
    assert plain[..., :8].std().item() == pytest.approx(3, rel=0.2)


def test_copies_leave_ddcs_and_gaps_lower_it(panel: Panel) -> None:
    stage = redundancy.Redundancy(**SIZES, panel=panel, attack=Planted(noise=0), factors=(1, 3), shares=(0.0, 0.5))
    found = row_values(stage)
    raw = {metric: found["exact copies", 1.0, metric] for metric in ("DDCS", "coverage", "KNN distance")}
    # Six of the eight private images of every class are there themselves.
    assert raw["coverage"] == 0.75 and raw["DDCS"] == pytest.approx(0.75, abs=1e-5)
    assert raw["KNN distance"] == pytest.approx(0, abs=1e-6)
    for metric in ("DDCS", "coverage", "accuracy", "KNN distance"):
        for arm in (("exact copies", 3.0), ("replaced", 0.0)):
            assert found[*arm, metric] == pytest.approx(found["exact copies", 1.0, metric], abs=1e-6)
    for arm in ("exact copies", "uneven copies"):
        assert found[arm, 3.0, "DDCS"] == pytest.approx(raw["DDCS"], abs=1e-6)
    assert found["near copies", 3.0, "DDCS"] >= raw["DDCS"] - 1e-6
    assert found["replaced", 0.5, "DDCS"] == pytest.approx(raw["DDCS"] / 2, abs=1e-5)
    assert found["modes dropped", 0.5, "DDCS"] == pytest.approx(raw["DDCS"] / 2, abs=1e-5)
    assert found["labels dropped", 0.5, "DDCS"] == pytest.approx(raw["DDCS"] * 2 / 3, abs=1e-5)
    sizes = {tuple(row[:2]): row[-1] for row in stage.result("cpu").meta["rows"]}
    assert sizes["near copies", 3.0] == 54 and sizes["replaced", 0.5] == 18 and sizes["modes dropped", 0.5] == 9


# --- definitions -----------------------------------------------------------------------------------------------


def test_every_definition_is_there_once() -> None:
    found = definitions.options(0.3)
    assert len(found) == len(set(found)) == 5 * 4 * 2 and Options() in found


def test_agreement_is_kendalls_tau() -> None:
    assert definitions.agreement([1, 2, 3], [4, 5, 9]) == 1 and definitions.agreement([1, 2, 3], [3, 2, 1]) == -1
    assert definitions.agreement([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)
    assert definitions.agreement([1, 1, 1], [1, 3, 2]) == 0


def test_scale_and_balls_are_those_of_the_metrics_own_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(31, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    among = measures.Embedded(None, rows.mean(0), rows).among()
    scales, balls = [], []
    monkeypatch.setattr(definitions, "options", lambda scale: scales.append(scale) or [Options(match="knn_ball")])
    monkeypatch.setattr(definitions, "ddcs", lambda near, option, ball: balls.append(ball) or ddcs(near))
    labels = torch.zeros(31, dtype=torch.long)
    list(definitions.defined({"one": (among.clone().fill_diagonal_(1.0), labels)}, among, labels))
    torch.testing.assert_close(balls[0], matching.kth_nearest(rows, Options().k, matching.as_is))
    assert scales == [pytest.approx(matching.half_distance(rows, seeded("private halves"), matching.as_is))]


def test_default_definition_agrees_with_itself_and_ranks_by_noise() -> None:
    attacks = {"far": Planted(noise=90), "near": Planted(noise=0), "middle": Planted(noise=30)}
    stage = definitions.Definitions(**SIZES, attacks=attacks, nets=(measures.NET,))
    rows = stage.result("cpu").meta["rows"]
    assert len(rows) == 40 * 3
    default = {row[5]: row[6:] for row in rows if tuple(row[1:5]) == ("recip1p", "assign", "matched", "global")}
    assert default["near"][0] > default["middle"][0] > default["far"][0]
    assert {tau for _, tau in default.values()} == {1.0}
    exp = {row[5]: row[6] for row in rows if tuple(row[1:5]) == ("exp", "assign", "matched", "global")}
    assert exp["near"] == pytest.approx(0.75, abs=1e-5)


def test_attacks_of_other_classes_are_refused() -> None:
    labels = {"one": torch.tensor([0, 1]), "other": torch.tensor([1, 2])}
    with pytest.raises(UserError, match=r"other: expected the classes of one, \[0, 1\], found \[1, 2\]"):
        measures.same_classes(labels)


# --- pruning ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_sufficient_images_leave_ddcs_to_the_last_digit(seed: int) -> None:
    base, _ = planted(n=200, m=60, d=3, seed=seed)
    rows = pruning.sufficient(measures.near(base.distance))
    whole, part = (ddcs(measures.near(q)) for q in (base.distance, base.distance[rows]))
    assert torch.equal(whole.score, part.score) and torch.equal(whole.matched, part.matched)
    assert len(rows) <= 2 * int(whole.matched.sum()) < 200


def test_removal_is_predicted_to_first_order() -> None:
    base, real = planted(n=3000, m=400)
    x, deviation = pruning.reduced(base.features.double(), real.double(), 6)
    there = torch.arange(3000) % 3 > 0
    value, without = pruning.linearised(x, there, deviation)
    own = deviation.square().sum()
    assert value + own == pytest.approx(sets.frechet_distance(real, base.features[there]), abs=1e-6)
    for row in (1, 100, 2999):
        left = there.clone()
        left[row] = False
        exact = sets.frechet_distance(real, base.features[left])
        assert without[row] + own == pytest.approx(exact, abs=0.01 * abs(exact - float(value + own)))


def test_greedy_removes_outliers_and_nothing_needed() -> None:
    rng = torch.Generator().manual_seed(1)
    real, fake = torch.randn(500, 8, generator=rng), torch.randn(120, 8, generator=rng)
    fake[:20] += 6
    left = pruning.greedy(fake, real, torch.tensor([0, 1, 50]), 8)
    assert {0, 1, 50} <= set(left.tolist()) and not set(range(2, 20)) & set(left.tolist())
    drawn = torch.randperm(120, generator=rng)[: len(left)]
    assert sets.frechet_distance(real, fake[left]) < sets.frechet_distance(real, fake[drawn])


def test_medoids_are_the_middles_of_planted_groups() -> None:
    x = torch.tensor([0.0, 1, 2, 100, 101, 102, 103, 104])[:, None]
    assert sorted(pruning.medoids(torch.cdist(x, x), 2).tolist()) == [1, 5]
    assert len(set(pruning.medoids(torch.zeros(4, 4), 3).tolist())) == 3
    labels = torch.tensor([7, 7, 7, 2, 2, 2, 2, 2])
    assert pruning.medoids_per_class(x, labels, 0.2).tolist() == [1, 5]


def test_pruned_sets_keep_ddcs_and_their_controls_their_size(panel: Panel) -> None:
    stage = pruning.Pruning(**SIZES, panel=panel, attack=Planted(noise=20), target=TARGET, draws=2)
    found, kept = row_values(stage), stage.result("cpu").tensors
    for arm in ("lemma", "greedy"):
        assert found[arm, "DDCS"] == found["raw", "DDCS"]
    assert set(kept["kept_lemma"].tolist()) <= set(kept["kept_greedy"].tolist())
    sizes = {row[0]: row[-1] for row in stage.result("cpu").meta["rows"]}
    assert sizes["random"] == sizes["greedy"] and sizes["random per class"] == sizes["medoids"] == 9


# --- stability and size ----------------------------------------------------------------------------------------


def test_auc_counts_pairs_in_order() -> None:
    true = torch.tensor([True, False, True, False])
    assert stability.auc(torch.tensor([4.0, 1, 3, 2]), true) == 1
    assert stability.auc(torch.tensor([4.0, 3, 1, 2]), true) == 0.5
    assert stability.auc(torch.ones(4), true) == 0.5 == stability.auc(torch.arange(4.0), true | True)


def test_vulnerable_images_are_predicted_where_they_recur_and_not_where_labels_do() -> None:
    labels = torch.arange(60) // 10
    by_image, by_label = torch.arange(60) % 2 == 0, labels < 3
    for matched, image, label in ((by_image, 1.0, 0.5), (by_label, 1.0, 1.0)):
        every = matched.repeat(4, 1)
        found = {name: value for name, value, _ in stability.predicted(every.double(), every, labels)}
        assert found == {"AUC": image, "AUC label mean": label}


def test_seeds_are_compared_in_pairs() -> None:
    matched = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]]).bool()
    found = dict((name, (value, n)) for name, value, n in stability.between_seeds(matched.double(), matched))
    assert found["Jaccard"] == (pytest.approx(1 / 3), 1) and found["union coverage"] == (0.75, 2)
    assert found["Spearman"][0] == pytest.approx(0, abs=1e-12)


def test_stability_of_planted_copies() -> None:
    stage = stability.Stability(**SIZES, attacks=(Planted(noise=0), Planted(noise=0), Planted(noise=0, seed=1)))
    result = stage.result("cpu")
    assert torch.equal(result.tensors["score"][0], result.tensors["score"][1])
    assert result.tensors["matched"].sum(1).tolist() == [18, 18, 18]
    assert {row[0]: row[2] for row in result.meta["rows"]} == {
        "Spearman": 3, "Jaccard": 3, "union coverage": 3, "AUC": 3, "AUC label mean": 3,
    }  # fmt: skip


def test_coverage_of_distinct_copies_is_their_number() -> None:
    stage = SizeCurve(**SIZES, attacks={"copies": Planted(noise=0)}, sizes=(6, 12, 18), draws=3)
    rows = {(size, metric): (mean, std) for _, size, metric, mean, std in stage.result("cpu").meta["rows"]}
    for size in (6, 12, 18):
        assert rows[size, "coverage"] == (pytest.approx(size / 24), 0)
        assert rows[size, "DDCS"][0] == pytest.approx(size / 24, abs=1e-5)
    with pytest.raises(UserError, match="at most 18"):
        stage.model_copy(update={"sizes": (6, 19)}).result("cpu")

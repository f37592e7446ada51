"""The Patch-MI study: what is planned, what an attack may read, how claims are judged, the toy."""

import math

import pandas as pd
import pytest
import torch

import mi_utils
from mi_utils import runtime
from mi_utils.data import Noise
from mi_utils.data.augment import Augment
from mi_utils.data.images import ImageSet
from mi_utils.data.pool import AuxiliaryPool
from mi_utils.errors import UserError
from mi_utils.report import scores as tidy
from mi_utils.schedule import in_order
from mi_utils.studies import PAPERS, evaluation, patch_mi
from mi_utils.studies.patch_mi import claims, results, toy
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.patch_similarity import PatchSimilarity, jensen_shannon, random_patches


@pytest.fixture(scope="module")
def laptop():
    return patch_mi.plan("laptop")


def test_every_profile_plans_without_its_data_being_there() -> None:
    assert set(patch_mi.MAKERS) == {"smoke", "laptop", "gpu", "paper"}
    for profile in ("smoke", "laptop"):
        assert len(patch_mi.plan(profile).runs) > 20
    assert patch_mi.settings("gpu").seeds >= 3
    assert patch_mi.settings("paper").seeds == 5


def test_a_run_is_planned_once_and_is_found_by_its_names(laptop) -> None:
    names = [(r.attack, r.setting, r.seed) for r in laptop.runs]
    assert len(set(names)) == len(names)
    found = laptop.find("Patch-MI", "UCI digits | T1", 2)
    assert found.stage.seed == 2 and found.stage.gan == "per_class"
    assert found.stage.critics[0].model_dump() == {"patch": 6, "stride": 2, "padding": 2}
    assert (found.stage.w_a, found.stage.tau, found.stage.views.count) == (30, 0.4, 2)


def test_no_attack_reaches_an_evaluator_or_another_target(laptop) -> None:
    judges = {s.key for b in laptop.notes["benches"] for s in b.panel.everyone().values()}
    measured = {s.key for found in laptop.notes["similarity"].values() for s in found.values()}
    for run in laptop.runs:
        read = in_order([run.stage])
        assert judges.isdisjoint(s.key for s in read)
        assert measured.isdisjoint(s.key for s in read)
        assert [s.key for s in read if isinstance(s, TrainClassifier)] == [run.stage.target.key]
        assert run.evaluation.target.key == run.stage.target.key


def test_evaluators_differ_from_each_other_and_from_every_target(laptop) -> None:
    for bench in laptop.notes["benches"]:
        nets = [*bench.panel.everyone().values(), *(bench.target(s) for s in range(3))]
        assert len({net.seed for net in nets}) == len(nets)
        assert len({(n.architecture, n.width) for n in bench.panel.plain.values()}) == len(bench.panel.plain)


@pytest.mark.parametrize(
    ("profile", "overrides", "words"),
    [
        ("laptpo", {}, ["profile", "did you mean 'laptop'"]),
        ("smoke", {"seedz": 1}, ["seedz", "did you mean 'seeds'"]),
        ("smoke", {"seeds": 0}, ["seeds"]),
        ("smoke", {"seeds": "many"}, ["seeds", "many"]),
    ],
)
def test_wrong_settings_are_one_clear_line(profile, overrides, words) -> None:
    with pytest.raises(UserError) as caught:
        patch_mi.plan(profile, **overrides)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)


def test_reconstructions_that_are_not_there_say_what_to_run(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MI_STORE", str(tmp_path))  # other tests may have stored this very run
    with pytest.raises(UserError, match="make reproduce PAPER=patch_mi PROFILE=smoke"):
        mi_utils.load_reconstructions("patch_mi", "BMI", profile="smoke")
    with pytest.raises(UserError, match="did you mean 'Patch-MI'"):
        mi_utils.load_reconstructions("patch_mi", "PatchMI", profile="smoke")
    with pytest.raises(UserError, match="expected one of patch_mi"):
        mi_utils.load_reconstructions("patchmi", "BMI")
    with pytest.raises(UserError, match="seed"):
        mi_utils.load_reconstructions("patch_mi", "BMI", profile="smoke", seed=7)


def test_stored_reconstructions_are_read_back() -> None:
    plan = patch_mi.plan("smoke")
    run = plan.find("BMI")
    run.stage.result("cpu")
    images, labels = mi_utils.load_reconstructions("patch_mi", "BMI", profile="smoke")
    assert images.dtype == torch.uint8 and images.shape[1:] == (1, 32, 32)
    assert labels.unique().tolist() == [0, 1, 2] and len(labels) == len(images)


# --- evaluation --------------------------------------------------------------------------------------------


def test_first_per_class_takes_stored_order_and_refuses_too_few() -> None:
    labels = torch.tensor([4, 0, 4, 0, 4, 0])
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1)
    kept, kept_labels = evaluation.first_per_class(images, labels, 2)
    assert kept.flatten().tolist() == [0, 1, 2, 3] and kept_labels.tolist() == [4, 0, 4, 0]
    with pytest.raises(UserError, match="at most 3 per class"):
        evaluation.first_per_class(images, labels, 4)


def test_drawn_per_class_is_fixed_and_balanced() -> None:
    labels = torch.arange(30) % 3
    data = ImageSet(torch.arange(30, dtype=torch.uint8).view(30, 1, 1, 1), labels, ("a", "b", "c"), "toy")
    one, two = (evaluation.drawn_per_class(data, 4) for _ in range(2))
    assert torch.equal(one.images, two.images)
    assert one.labels.bincount().tolist() == [4, 4, 4]
    assert one.images.flatten().tolist() != list(range(12))


def test_by_class_counts_each_class_with_its_own_images() -> None:
    rows = evaluation.by_class("m", torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0, 0, 5]), [0, 5])
    assert rows == [("m", 0, 0.5, 2), ("m", 5, 1.0, 1), ("m", "all", pytest.approx(2 / 3), 3)]


# --- patch similarity --------------------------------------------------------------------------------------


def test_random_patches_are_cut_from_the_images() -> None:
    images = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    patches = random_patches(images, 3, 50, runtime.generator("patches"))
    pixels = ((patches + 1) * 127.5).round().view(50, 3, 3)
    corner = pixels[:, 0, 0]
    expected = corner[:, None, None] + torch.tensor([[0, 1, 2], [8, 9, 10], [16, 17, 18]])
    assert torch.equal(pixels, expected)
    assert corner.unique().numel() > 15 and int(pixels.max()) < 64


def test_divergence_is_zero_for_a_blind_classifier_and_log_two_for_a_perfect_one() -> None:
    assert jensen_shannon(math.log(2)) == 0 == jensen_shannon(0.8)
    assert jensen_shannon(0.0) == pytest.approx(math.log(2))


def test_divergence_tells_noise_from_its_own_kind_and_from_digits() -> None:
    bench = patch_mi.plan("smoke").notes["benches"][0]
    digits = bench.problem.train

    def js(source) -> float:
        stage = PatchSimilarity(
            private=digits,
            auxiliary=AuxiliaryPool(source=source, count=1024, transform=Augment()),
            sides=(6,),
            patches=2000,
            iterations=150,
            batch=128,
        )
        return stage.result("cpu").meta["js"]["6"]

    same, noise = js(digits), js(Noise(spectrum="white", size=32))
    assert same < 0.03
    assert noise > 0.3


# --- claims ------------------------------------------------------------------------------------------------


class FakePlan:
    """What the ledger reads of a plan."""

    profile = "laptop"

    def __init__(self, plan) -> None:
        self.notes, self.settings, self.runs = plan.notes, plan.settings, plan.runs


def rows(cells: dict[tuple[str, str], float], metric: str) -> pd.DataFrame:
    """Scores of three seeds and two classes, varying a little."""
    return tidy.concat(
        [
            tidy.rows(attack, f"UCI digits | {setting}", s, {metric: {c: value + 0.001 * (s + c) for c in (0, 1)}}, 9)
            for (attack, setting), value in cells.items()
            for s in range(3)
        ]
    )


def judge(laptop, claim: str, *frames: pd.DataFrame):
    ledger = claims.Ledger(FakePlan(laptop), tidy.concat(frames))
    return getattr(ledger, claim.lower())(claims.CLAIMS[claim])


def test_every_claim_has_a_judge_and_smoke_judges_none(laptop) -> None:
    assert [getattr(claims.Ledger, name.lower()) for name in claims.CLAIMS]
    smoke = patch_mi.plan("smoke")
    judged = claims.Ledger(smoke, pd.DataFrame(columns=tidy.COLUMNS)).judge()
    assert {j.verdict for j in judged} == {"cannot be judged here"} and len(judged) == 18


@pytest.mark.parametrize(("value", "verdict"), [(0.997, "partly"), (0.96, "partly"), (0.8, "not reproduced")])
def test_published_accuracy_is_at_most_partly_reproduced_on_stand_ins(laptop, value, verdict) -> None:
    assert judge(laptop, "P1", rows({("Patch-MI", "T1"): value}, "top1")).verdict == verdict


@pytest.mark.parametrize(
    ("baseline", "augmented", "verdict"),
    [(0.5, 0.6, "reproduced"), (0.5, 0.88, "partly"), (0.95, 0.95, "not reproduced")],
)
def test_gain_is_judged_over_the_best_baseline_and_over_its_augmented_form(
    laptop, baseline, augmented, verdict
) -> None:
    # The best baseline with the block need not be the best one without it.
    cells = {("Patch-MI", "T1"): 0.9, ("VMI", "T1"): baseline, ("BMI + aug", "T1"): augmented}
    cells |= {("BMI", "T1"): 0.1, ("GenMI", "T1"): 0.2, ("VMI + aug", "T1"): 0.2, ("GenMI + aug", "T1"): 0.3}
    assert judge(laptop, "P3", rows(cells, "top1")).verdict == verdict


@pytest.mark.parametrize(("gain_far", "verdict"), [(0.3, "reproduced"), (0.1, "not reproduced")])
def test_interaction_compares_the_two_gains(laptop, gain_far, verdict) -> None:
    far = f"T5 {claims.DISSIMILAR}"
    cells = {("Patch-MI", "active base"): 0.7, ("Patch-MI", "active, off_patch"): 0.5}
    cells |= {("Patch-MI", far): 0.4 + gain_far, ("Patch-MI", f"{far}, off_patch"): 0.4}
    assert judge(laptop, "P6", *(rows(cells, m) for m in ("unanimous", "DDCS"))).verdict == verdict


def test_fooled_accuracy_needs_both_high_top1_and_poor_images(laptop) -> None:
    good = {"top1": 0.995, "rho_pix": 0.6, "accepted": 0.9}
    fooled = good | {"rho_pix": 0.1}
    frames = [rows({("Patch-MI", "T1"): v}, m) for m, v in good.items()]
    assert judge(laptop, "P16", *frames).verdict == "not reproduced"
    frames = [rows({("Patch-MI", "T1"): v}, m) for m, v in fooled.items()]
    assert judge(laptop, "P16", *frames).verdict == "reproduced"


# --- toy ---------------------------------------------------------------------------------------------------


def test_toy_patch_critic_reaches_the_private_law_and_image_critic_does_not() -> None:
    patches, whole = toy.attack(patchwise=True), toy.attack(patchwise=False)
    assert toy.distance_to(patches, -1) < 0.4 < 1.2 < toy.distance_to(patches, 1)
    assert toy.distance_to(whole, 1) < 0.4 < 1.2 < toy.distance_to(whole, -1)
    assert PAPERS["patch_mi"] is patch_mi


# --- rows that no attack made ------------------------------------------------------------------------------


def test_every_row_of_t1_has_references_with_as_many_images(laptop) -> None:
    wanted = {
        (b.problem.name, name, seed)
        for b in laptop.notes["benches"]
        for name in ("prior samples", "public images", "held-out private images")
        for seed in range(3)
    }
    assert {(r.setting.removesuffix(" | T1"), r.attack, r.seed) for r in laptop.references} == wanted
    attacks = [run for run in laptop.runs if run.setting.endswith("| T1")]
    assert {run.evaluation.samples for run in (*attacks, *laptop.references)} == {24}
    assert {run.evaluation.perceptual for run in (*attacks, *laptop.references)} == {50}
    for bench, references in zip(laptop.notes["benches"], (laptop.references[:9], laptop.references[9:]), strict=True):
        trained = {tuple(x.flatten().tolist()) for x in bench.problem.train.load().images[::7]}
        held_out = references[2].stage.result("cpu").tensors["images"]
        assert not trained & {tuple(x.flatten().tolist()) for x in held_out}
        assert not any(isinstance(s, TrainClassifier) for run in references for s in in_order([run.stage]))


def test_references_are_drawn_anew_for_each_seed_and_have_balanced_labels(laptop) -> None:
    for one, other in ((laptop.references[i].stage, laptop.references[i + 3].stage) for i in (1, 2)):
        first, second = one.result("cpu").tensors, other.result("cpu").tensors
        assert first["labels"].bincount().tolist() == [24] * 10
        assert not torch.equal(first["images"], second["images"])
    images = laptop.references[2].stage.result("cpu").tensors["images"]
    assert len(images.flatten(1).unique(dim=0)) == 240  # without replacement


def test_normalised_ddcs_lies_between_its_references_seed_by_seed_or_says_why_not() -> None:
    def scored(prior: float, holdout: float, seed: int) -> pd.DataFrame:
        values = {"prior samples": prior, "held-out private images": holdout, "BMI": 0.3}
        return tidy.concat([tidy.rows(a, "UCI digits | T1", seed, {"DDCS": v}, 240) for a, v in values.items()])

    lonely = tidy.rows("BMI", "UCI digits | base", 0, {"DDCS": 0.3}, 200)
    frame = results.with_normalised(tidy.concat([scored(0.2, 0.6, 0), scored(0.5, 0.5, 1), lonely]))
    found = tidy.check(frame)[frame["metric"] == "nDDCS"].set_index(["attack", "seed"])
    assert found["value"].loc[:, 0].to_dict() == pytest.approx(
        {"prior samples": 0.0, "held-out private images": 1.0, "BMI": 0.25}
    )
    assert found["value"].loc[:, 1].isna().all() and found["reason"].loc[:, 1].str.contains("cannot normalise").all()
    assert len(found) == 6  # a setting without references has none

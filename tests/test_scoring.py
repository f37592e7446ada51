"""`score` from end to end: the same numbers from every kind of file, properties, references, judges, reasons."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_scoring_inputs import noise, parquet, saved
from torchvision.models import get_model

from mi_utils.__main__ import main
from mi_utils.errors import UserError
from mi_utils.metrics import accuracy
from mi_utils.metrics import perceptual as distances
from mi_utils.metrics.ddcs import Options
from mi_utils.models import perceptual
from mi_utils.models.external import ExternalClassifier
from mi_utils.runtime import generator
from mi_utils.scoring import Scores, score, table
from mi_utils.studies import PAPERS
from mi_utils.training.knowledge import Recipe

IDS = (3, 7, 11)
NAME = Options().name("ST-LPIPS (AlexNet)")
Pair = tuple[torch.Tensor, torch.Tensor]


def toy(per_class: int, *words: int | str, spread: int = 60, channels: int = 1) -> Pair:
    """Noisy images of three classes, 28 px: a bright bar on the left, on the right, or on top."""
    labels = torch.tensor(IDS).repeat(per_class)
    images = (noise(len(labels), channels, 28, *words).float() * spread / 255).to(torch.uint8)
    images[labels == 3, :, :, :9] += 150
    images[labels == 7, :, :, 19:] += 150
    images[labels == 11, :, :9] += 150
    return images, labels


def blurred(pair: Pair, count: int, *words: int | str) -> Pair:
    """The first `count` images with noise of their own: what a good attack would find."""
    images = pair[0][:count] // 2 + noise(count, 1, 28, "blurred", *words) // 6
    return images, pair[1][:count]


PRIVATE, HELD = toy(8, "private", spread=100), toy(7, "held out", spread=100)
MADE, OTHER = blurred(PRIVATE, 18), blurred(PRIVATE, 18, "other")


def joined(a: Pair, b: Pair) -> Pair:
    return torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])


def explained(found: Scores) -> None:
    """Every number is finite, and every missing one has its reason."""
    for frame in (found.table, found.per_class):
        for _, row in frame.iterrows():
            assert (row["reason"] == "") == math.isfinite(float("nan" if row["value"] is None else row["value"])), row
            assert row["reason"] == "" or row["reason"].startswith("not computed: ")
    for row in found.rows:
        assert (row.low is None) == (row.high is None)
        assert row.low is not None or row.reason or "no interval" in row.what
        if row.low is not None:
            assert math.isfinite(row.low) and row.low <= row.high


@pytest.fixture(scope="module")
def plain() -> Scores:
    return score(MADE, PRIVATE)


# --- the same numbers from everything ----------------------------------------------------------------------


def test_folder_npz_parquet_and_tensors_give_the_same_numbers(tmp_path: Path, plain: Scores):
    images, labels = MADE
    order = torch.argsort(labels, stable=True)  # files of a folder come class by class
    made, private = (images[order], labels[order]), PRIVATE
    expected = score(made, private)
    np.savez(tmp_path / "a.npz", images=made[0].permute(0, 2, 3, 1).numpy() / 255, labels=made[1].numpy())
    parquet(tmp_path / "a.parquet", made[0], made[1].tolist())
    saved(tmp_path / "a", made[0], [f"{c:02d}" for c in made[1].tolist()])
    for given in (tmp_path / "a.npz", tmp_path / "a.parquet", tmp_path / "a"):
        found = score(given, private)
        assert found.table.equals(expected.table) and found.per_class.equals(expected.per_class)
        assert found.exposed.drop(columns="reconstruction_file").equals(
            expected.exposed.drop(columns="reconstruction_file")
        )
    assert found.exposed["reconstruction_file"].str.match(r"(03|07|11)/\d+.png").all()
    # The order of the reconstructions is irrelevant, but to rounding and to the draws of intervals.
    assert np.allclose(plain.table["value"].dropna(), expected.table["value"].dropna(), rtol=1e-5)


def test_the_private_set_as_a_folder_gives_the_same_numbers(tmp_path: Path, plain: Scores):
    folder = saved(tmp_path / "private", PRIVATE[0], [str(c) for c in PRIVATE[1].tolist()])
    found = score(MADE, folder)
    # s of the scaled distances is that of random halves, which the order of the files decides.
    kept = [row.value for row in found.rows if "scaled" not in row.metric and row.value is not None]
    expected = [row.value for row in plain.rows if "scaled" not in row.metric and row.value is not None]
    assert kept == pytest.approx(expected, rel=1e-5)
    assert found.exposed["file"].str.match(r"(3|7|11)/\d+.png").all()


def test_a_small_budget_changes_nothing(plain: Scores):
    with pytest.raises(UserError, match="budget: expected at least 28 MB for 28×28 px images under ST-LPIPS"):
        score(MADE, PRIVATE, budget=20 * 10**6)
    found = score(MADE, PRIVATE, budget=28 * 10**6)
    for metric in ("DDCS", "coverage", "DDCS, distances scaled", f"KNN distance ({plain.record['net']})"):
        assert found.row(metric).value == pytest.approx(plain.row(metric).value, rel=1e-5)


# --- numbers -----------------------------------------------------------------------------------------------


def test_ddcs_is_that_of_its_definition(plain: Scores):
    q = distances.distances(MADE[0], PRIVATE[0], perceptual.load("st-lpips-alex")).double()
    matched = torch.zeros(len(PRIVATE[0])).index_fill_(0, q.argmin(1), 1).double()
    g = 1 / (1 + q.amin(0))
    assert plain.row(NAME).value == pytest.approx(float((matched * g).mean()), rel=1e-5)
    assert plain.row("coverage").value == pytest.approx(float(matched.mean()))
    assert plain.row("closeness").value == pytest.approx(float((matched * g).sum() / matched.sum()), rel=1e-5)
    same = MADE[1][:, None] == PRIVATE[1]
    inside = q.where(same, torch.inf)
    assert plain.row(f"KNN distance ({plain.record['net']})").value == pytest.approx(
        float(inside.amin(1).mean()), rel=1e-4
    )
    inverse = plain.row(f"inverse KNN distance ({plain.record['net']})").value
    assert inverse == pytest.approx(float(inside.amin(0).mean()), rel=1e-4)
    by_class = plain.per_class.set_index(["metric", "class"])["value"]
    assert by_class[f"coverage of {NAME}", 7] == pytest.approx(float(matched[PRIVATE[1] == 7].mean()))
    assert plain.exposed["private"].tolist()[0] == int(q.amin(0).where(matched > 0, torch.inf).argmin())
    assert plain.exposed["reconstruction"].tolist()[0] == int(q[:, plain.exposed["private"][0]].argmin())


def test_the_private_images_themselves_score_full_marks():
    found = score(PRIVATE, PRIVATE)
    explained(found)
    for metric in ("DDCS", "coverage", "closeness", "precision (k=3)", "recall (k=3)", "coverage (k=3)"):
        assert found.row(metric).value == pytest.approx(1, abs=1e-6), metric
    assert found.row("rho_pix").value == pytest.approx(1)
    assert found.row("FD(ST-LPIPS-alex pooled)").value == pytest.approx(0, abs=1e-6)
    assert found.exposed["matched_in"].tolist() == [1] * len(PRIVATE[0])


def test_duplicates_leave_ddcs_alone_and_move_the_frechet_distance(plain: Scores):
    doubled = joined(MADE, (MADE[0][:9], MADE[1][:9]))
    found = score(doubled, PRIVATE)
    for metric in ("DDCS", "coverage", "closeness", "DDCS, distances scaled"):
        assert found.row(metric).value == pytest.approx(plain.row(metric).value, rel=1e-6)
    before, after = (s.row("FD(ST-LPIPS-alex pooled)").value for s in (plain, found))
    assert abs(after / before - 1) > 0.005
    assert found.exposed["private"].tolist() == plain.exposed["private"].tolist()


def test_seeds_are_averaged_and_a_private_image_is_exposed_by_the_nearest():
    one, two, both = score(MADE, PRIVATE), score(OTHER, PRIVATE), score([MADE, OTHER], PRIVATE)
    explained(both)
    for metric in ("DDCS", "coverage", "precision (k=3)", "recall (k=3)", "rho_pix", "KD(ST-LPIPS-alex pooled)"):
        mean = (one.row(metric).value + two.row(metric).value) / 2
        assert both.row(metric).value == pytest.approx(mean, rel=1e-6), metric
        assert both.row(metric).seeds == 2
    assert both.row("precision (k=3)").n == 36 and both.row("recall (k=3)").n == 24
    least = [s.exposed.set_index("private")["distance"] for s in (one, two)]
    found = both.exposed.set_index("private")
    assert np.allclose(found["distance"], np.minimum(*(d[found.index] for d in least)))
    nearest = np.where(least[0][found.index] <= least[1][found.index], 0, 1)
    assert found["seed"].tolist() == nearest.tolist() and int(found["reconstruction"].max()) < 18


def test_an_npz_with_seeds_is_several_seeds(tmp_path: Path):
    images, labels = joined(MADE, OTHER)
    np.savez(tmp_path / "a.npz", images=images.numpy(), labels=labels.numpy(), seeds=np.repeat([5, 8], 18))
    found = score(tmp_path / "a.npz", PRIVATE)
    assert found.table.equals(score([MADE, OTHER], PRIVATE).table)


def test_label_scope_compares_inside_classes_and_says_so(plain: Scores):
    found = score(MADE, PRIVATE, scope="label", prior=(noise(18), None))
    explained(found)
    assert found.row("DDCS").metric.endswith("; label]") and plain.row("DDCS").metric.endswith("; global]")
    ranked = found.exposed
    assert (MADE[1][ranked["reconstruction"].astype(int).tolist()].numpy() == ranked["class"]).all()
    assert found.row("DDCS: prior").value < found.row("DDCS").value


# --- references --------------------------------------------------------------------------------------------


def test_references_have_the_same_number_of_images_and_normalise():
    found = score(MADE, PRIVATE, prior=(noise(10), None), public=(noise(30, 1, 28, "public"), None), holdout=HELD)
    explained(found)
    at = found.row("DDCS, at 10 images").value
    assert at < found.row("DDCS").value, "fewer images cover less"
    assert "10 images" in found.row("DDCS: holdout").what
    prior, holdout = found.row("DDCS: prior").value, found.row("DDCS: holdout").value
    assert found.row("nDDCS").value == pytest.approx((at - prior) / (holdout - prior), rel=1e-6)
    low, high = found.row("nDDCS").low, found.row("nDDCS").high
    assert low < found.row("nDDCS").value < high


def test_the_normalised_score_of_the_references_is_0_and_1():
    prior, holdout = (noise(18), None), (HELD[0][:18], HELD[1][:18])
    for made, expected in ((holdout, 1), ((prior[0], holdout[1]), 0)):
        found = score(made, PRIVATE, prior=prior, holdout=holdout)
        assert found.row("nDDCS").value == pytest.approx(expected, abs=1e-6)
        assert found.row("nDDCS, distances scaled").value == pytest.approx(expected, abs=1e-6)


def test_a_missing_or_useless_reference_is_a_reason(plain: Scores):
    assert plain.row("DDCS: prior").reason == "not computed: no --prior given"
    assert plain.row("nDDCS").reason == "not computed: no --prior and no --holdout given"
    leaked = HELD[0].clone()
    leaked[:11] = PRIVATE[0][:11]
    found = score(MADE, PRIVATE, prior=(leaked, None), holdout=(leaked[:18], HELD[1][:18]))
    assert "11 holdout images are pixel-equal to a private or an earlier one" in found.notes
    useless = score(MADE, PRIVATE, prior=(HELD[0][:18], None), holdout=(HELD[0][:18], HELD[1][:18]))
    assert useless.row("nDDCS").reason.startswith("not computed: holdout: expected a DDCS above the prior's")


# --- few images --------------------------------------------------------------------------------------------


def test_a_class_with_few_images_is_a_reason_and_stops_nothing_else():
    kept = ~((MADE[1] == 7) & (torch.arange(18) > 5))  # two of class 7
    found = score((MADE[0][kept], MADE[1][kept]), PRIVATE)
    explained(found)
    by_class = found.per_class.set_index(["metric", "class"])
    metric = "recall (k=3) [ST-LPIPS-alex pooled]"
    assert by_class.loc[(metric, 7), "reason"] == "not computed: class 7 has 2 reconstructions, 4 needed"
    assert by_class.loc[(metric, 3), "reason"] == "" and by_class.loc[("rho_pix", 7), "reason"] == ""
    assert "class 7 has 2 reconstructions" in found.row("recall (k=3), class mean").what
    assert found.row("recall (k=3)").value is not None


@pytest.mark.parametrize(("made", "private"), [(1, 24), (24, 1), (1, 1), (3, 24)])
def test_single_images_give_what_can_be_had_and_reasons_for_the_rest(made: int, private: int):
    mine, theirs = (tuple(x[:n] for x in PRIVATE) for n in (made, private))
    labels = torch.full((made,), 3)
    found = score((mine[0], labels), (theirs[0], torch.full((private,), 3)))
    explained(found)
    assert found.row("DDCS").value > 0
    assert found.row("precision (k=3)").reason.endswith(
        f"{min(made, private)} images, 4 needed".replace("1 images", "1 image")
    )
    if min(made, private) == 1:
        assert found.row("FD(ST-LPIPS-alex pooled)").reason == "not computed: 1 image, 2 needed"
    else:
        assert "no interval: too few" not in found.row("FD(ST-LPIPS-alex pooled)").what
    if private == 1:
        assert "at least 2 to halve them" in found.row("DDCS, distances scaled").reason
    assert found.figure.png[:4] == b"\x89PNG"


def test_private_images_that_do_not_vary_have_no_ratio():
    images = PRIVATE[0].clone()
    images[PRIVATE[1] == 7] = PRIVATE[0][1]
    found = score(MADE, (images, PRIVATE[1]))
    explained(found)
    reason = found.per_class.set_index(["metric", "class"]).loc[("rho_pix", 7), "reason"]
    assert reason == "not computed: class 7 has 1 private image, 2 needed", "its copies are left out"


def test_a_rank_deficient_distance_says_so(plain: Scores):
    assert "rank deficient: 18 images for 1152 dimensions" in plain.row("FD(ST-LPIPS-alex pooled)").what


# --- judges ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExternalClassifier]:
    """Networks with random weights: a plain one, another, one with a reject class, one without a linear head."""
    root, found = tmp_path_factory.mktemp("nets"), {}
    for i, (name, arch) in enumerate(
        {
            "a": "mobilenet_v3_small",
            "b": "mobilenet_v3_small",
            "reject": "mobilenet_v3_small",
            "bare": "squeezenet1_1",
        }.items()
    ):
        torch.manual_seed(i)
        reject = name == "reject"
        save_file(get_model(arch, weights=None, num_classes=12 + reject).state_dict(), root / f"{name}.safetensors")
        found[name] = ExternalClassifier(
            arch=arch, weights=root / f"{name}.safetensors", classes=12, size=32, reject=reject
        )
    return found


def test_every_judge_is_asked_about_every_image(nets: dict[str, ExternalClassifier]):
    judges = [nets["a"], nets["b"], nets["reject"]]
    found = score([MADE, HELD], PRIVATE, target=nets["b"], evaluators=judges, holdout=HELD)
    explained(found)
    with torch.no_grad():
        said = {k: [nets[k].load("cpu")(x.float() / 127.5 - 1) for x, _ in (MADE, HELD)] for k in ("a", "b", "reject")}
    right = {k: [accuracy.top_k(z, y) for z, (_, y) in zip(v, (MADE, HELD), strict=True)] for k, v in said.items()}
    first = found.row("top-1 E1 mobilenet_v3_small")
    assert first.value == pytest.approx(sum(float(r.double().mean()) for r in right["a"]) / 2) and first.n == 39
    five = [accuracy.top_k(z, y, 5).double().mean() for z, (_, y) in zip(said["a"], (MADE, HELD), strict=True)]
    assert found.row("top-5 E1 mobilenet_v3_small").value == pytest.approx(float(sum(five) / 2))
    assert found.row("clean top-1 E1 mobilenet_v3_small").value == pytest.approx(float(right["a"][1].double().mean()))
    target = found.row("top-1 target").value
    assert found.row("overfit gap").value == pytest.approx(target - found.row("ensemble mean").value)
    accepted = [float(r.double().mean()) for r in right["reject"]]
    assert found.row("accepted").value == pytest.approx(sum(accepted) / 2)
    lowest = min(found.row(f"top-1 E{i} mobilenet_v3_small").value for i in (1, 2))
    assert found.row("ensemble min").value == pytest.approx(lowest)
    assert found.row("feature distance to the centroid").value > 0
    assert found.row("recall (k=3)", "sets [E1 mobilenet_v3_small penultimate]").n == 24
    assert not any("no --" in row.reason for row in found.rows if row.group == "attack")


def test_judges_that_are_not_given_are_one_row_each(plain: Scores):
    rows = [row for row in plain.rows if row.group == "attack"]
    assert [row.reason for row in rows] == ["not computed: no --target given", "not computed: no --evaluator given"]


def test_an_evaluator_without_features_still_judges(nets: dict[str, ExternalClassifier]):
    found = score(MADE, PRIVATE, evaluators=[nets["bare"]])
    explained(found)
    assert found.row("top-1 E1 squeezenet1_1").value is not None
    assert "expected a linear last layer" in found.row("set metrics").reason
    assert found.row("accepted").reason == "not computed: no evaluator with `reject: true` given"


def test_judges_that_do_not_fit_are_refused(nets: dict[str, ExternalClassifier], tmp_path: Path):
    far = (MADE[0], MADE[1] + 1)
    with pytest.raises(UserError, match="E1 mobilenet_v3_small: expected an output for each class id, found 12 .* 12;"):
        score(far, (PRIVATE[0], PRIVATE[1] + 1), evaluators=[nets["a"]])
    with pytest.raises(UserError, match="evaluator: expected at least 1 without `reject`"):
        score(MADE, PRIVATE, evaluators=[nets["reject"]])
    with pytest.raises(UserError, match="classifier: expected a mapping"):
        score(MADE, PRIVATE, target="nowhere.yaml")
    torch.manual_seed(0)
    content = get_model("squeezenet1_1", weights=None, num_classes=13).state_dict()
    save_file(content, tmp_path / "wide.safetensors")
    wide = ExternalClassifier(arch="squeezenet1_1", weights=tmp_path / "wide.safetensors", classes=13, size=32)
    with pytest.raises(UserError, match="expected one number of classes, found .* 12, .* 13"):
        score(MADE, PRIVATE, evaluators=[nets["bare"], wide])
    content["features.0.weight"].mul_(1e38)
    save_file(content, tmp_path / "wide.safetensors")
    with pytest.raises(UserError, match="target squeezenet1_1: expected finite logits, found .* NaN"):
        score(MADE, PRIVATE, target=wide)


# --- knowledge extraction ----------------------------------------------------------------------------------


def test_knowledge_is_measured_beside_chance_and_the_private_ceiling():
    recipe = Recipe(width=4, iterations=30, batch=12)
    found = score(MADE, PRIVATE, holdout=HELD, kes=True, recipe=recipe)
    explained(found)
    assert found.row("KES").value > 0.9 and found.row("KES of private images").value > 0.9
    assert found.row("chance").value == pytest.approx(1 / 3)
    assert (found.row("KES").n, found.row("KES").seeds) == (21, 3)
    assert "trained on 18 images" in found.row("KES of private images").what
    wrong = (MADE[0], MADE[1].roll(1))
    assert score(wrong, PRIVATE, test=HELD, kes=True, recipe=recipe).row("KES").value < 0.1


def test_knowledge_of_one_class_is_a_reason():
    made, private = (tuple(x[pair[1] == 3] for x in pair) for pair in (MADE, PRIVATE))
    found = score(made, private, holdout=HELD, kes=True)
    assert found.row("KES").reason.startswith("not computed: classes: expected at least 2")


# --- files and the command ---------------------------------------------------------------------------------


FILES = ["exposed.csv", "nearest.png", "per_class.csv", "scores.json", "table.csv", "table.md"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reconstructions and private images as a user has them."""
    root = tmp_path_factory.mktemp("files")
    saved(root / "private", PRIVATE[0], [str(c) for c in PRIVATE[1].tolist()])
    saved(root / "holdout", HELD[0], [str(c) for c in HELD[1].tolist()])
    np.savez(root / "My attack.npz", images=MADE[0].numpy(), labels=MADE[1].numpy())
    return root


def test_the_command_prints_the_table_and_writes_everything(files: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(files)
    out = tmp_path / "out"
    assert main(["score", "My attack.npz", "--private", "private", "--holdout", "holdout", "--out", str(out)]) == 0
    printed, steps = capsys.readouterr()
    assert max(map(len, printed.splitlines())) <= 100
    assert "My attack.npz: 18 reconstructions of 3 classes, 1×28×28; private 24, holdout 21 images" in printed
    assert "DDCS: holdout" in printed and "[1] not computed: no --prior given" in printed
    assert "embedding 24 private images" in steps
    assert sorted(p.name for p in out.iterdir()) == FILES
    found = json.loads((out / "scores.json").read_text())
    assert found["definition"] == NAME and found["images"] == {"reconstructions": [18], "private": 24, "holdout": 21}
    assert found["options"]["reconstructions"] == ["My attack.npz"] and found["options"]["private"] == "private"
    assert found["provenance"]["seconds"] > 0 and found["provenance"]["packages"]["torch"]
    for name in FILES[2:]:
        assert str(files) not in (out / name).read_text() and str(Path.cwd()) not in (out / name).read_text()
    expected = score("My attack.npz", "private", holdout="holdout")
    assert [row["value"] for row in found["table"]] == [row.value for row in expected.rows]
    assert len((out / "exposed.csv").read_text().splitlines()) == 25
    assert main(["score", "My attack.npz", "--private", "private", "--out", str(out)]) == 2
    assert "out: expected a new or empty folder" in capsys.readouterr().err


def test_results_go_beside_each_other_by_name(files: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["score", str(files / "My attack.npz"), "--private", str(files / "private")]) == 0
    assert sorted(p.name for p in (tmp_path / "scores" / "my-attack").iterdir()) == FILES
    assert "everything in scores/my-attack" in capsys.readouterr().out


def test_a_failure_leaves_no_half_written_folder(plain: Scores, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(table, "markdown", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        plain.write(tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(Path, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        plain.write(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


BAD = [
    (["x.npz"], "private: expected the private images, found none"),
    (["nowhere.npz", "--private", "private"], "RECONSTRUCTIONS: expected a folder"),
    (["My attack.npz", "--private", "private", "--net", "lpips"], "expected one of st-lpips-alex"),
    (["My attack.npz", "--private", "private", "--scope", "class"], "scope: expected one of global, label"),
    (["My attack.npz", "--private", "private", "--size", "8"], "size: expected 28..1024 px, found 8"),
    (["My attack.npz", "--private", "private", "--budget", "1MB"], "budget: expected at least 28 MB"),
    (["My attack.npz", "--private", "private", "--kes"], "kes: expected real images to test on"),
    (["My attack.npz", "--private", "private", "--test", "holdout"], "test: it is read by the knowledge"),
    (["My attack.npz", "--private", "private", "--device", "gpu"], "device: expected auto, cpu, cuda"),
    (["My attack.npz", "--private", "private", "--evaluator", "x"], "classifier: expected a mapping"),
    (["My attack.npz", "stored:patch_mi/BMI", "--private", "private"], "expected it alone"),
    (["stored:patch_mi"], "expected stored:<paper>/<attack>"),
    (["stored:patchmi/BMI"], "paper: expected one of"),
    (["stored:patch_mi/BMJ", "--profile", "smoke"], "did you mean 'BMI'"),
    (["stored:patch_mi/BMI/nowhere", "--profile", "smoke"], "setting: expected one of"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD)
def test_a_mistake_is_one_line_before_anything_long(files: Path, arguments, said, monkeypatch, capsys):
    monkeypatch.chdir(files)
    monkeypatch.setattr(distances, "embed", None)
    assert main(["score", *arguments]) == 2
    printed, error = capsys.readouterr()
    assert printed == "" and said in error.splitlines()[-1]
    assert error.splitlines()[-1].startswith("error: ") and not (files / "scores").exists()


@pytest.mark.parametrize(("text", "bytes_"), [("2GB", 2 * 10**9), ("512MiB", 2**29), ("0.5GiB", 2**29)])
def test_a_budget_has_a_unit(text: str, bytes_: int, monkeypatch):
    from mi_utils import __main__ as command

    assert command.size_in_bytes(text) == bytes_
    with pytest.raises(SystemExit):
        main(["score", "x", "--budget", text[:-2]])


def test_rows_are_found_by_either_name(plain: Scores):
    assert plain.row("DDCS") is plain.row(NAME)
    with pytest.raises(UserError, match="expected one row 'DDSC', found 0; there are DDCS, coverage"):
        plain.row("DDSC")


# --- stored reproductions ----------------------------------------------------------------------------------


def test_a_stored_row_is_judged_as_its_study_judges_it(tmp_path: Path):
    plan = PAPERS["patch_mi"].plan("smoke")
    run = plan.find("BMI")
    run.stage.result("cpu")
    for reference in plan.references:
        if reference.setting == run.setting:
            reference.stage.result("cpu")
    early = score("stored:patch_mi/BMI", profile="smoke")
    missing = [row.reason for row in early.rows if row.group == "attack"]
    assert missing and all("nets are not stored; run make reproduce PAPER=patch_mi PROFILE=smoke" in r for r in missing)
    said = {m: (v, n) for m, c, v, n in run.evaluation.result("cpu").meta["rows"] if c == "all"}
    found = score("stored:patch_mi/BMI", profile="smoke")
    explained(found)
    for metric, name in (
        *((f"top1 {name}", f"top-1 {name}") for name in run.evaluation.panel.plain),
        ("target", "top-1 target"),
        ("ensemble mean", "ensemble mean"),
        ("unanimous", "ensemble unanimous"),
        ("accepted", "accepted"),
        ("rho_pix", "rho_pix"),
    ):
        assert (found.row(name).value, found.row(name).seeds) == (pytest.approx(said[metric][0], rel=1e-6), 1), metric
    space = f"{next(iter(run.evaluation.panel.plain))} penultimate"
    assert found.row(f"FD({space})").value == pytest.approx(said["FD"][0], rel=1e-5)
    assert found.row("recall (k=3), class mean", f"sets [{space}]").value == pytest.approx(said["recall"][0], rel=1e-6)
    size = 3 * run.evaluation.samples
    for name in ("prior", "public", "holdout"):
        assert found.row(f"DDCS: {name}").value > 0 and f", {size} images" in found.row(f"DDCS: {name}").what
    assert any("UCI digits | T1, profile smoke, seeds [0]" in note for note in found.notes)


def test_intervals_are_those_of_their_generators(plain: Scores):
    torch.manual_seed(9)
    again = score(MADE, PRIVATE)
    assert again.table.equals(plain.table) and generator("x").initial_seed() > 0

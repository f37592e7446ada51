"""The audit of a user's own classifier: what is refused, what is chosen, what is said, and the whole of it tiny."""

import io
import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given as drawn
from hypothesis import settings as bounds
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges
from torchvision import models

from mi_utils import __main__ as cli
from mi_utils.errors import UserError
from mi_utils.scoring.table import Row
from mi_utils.stage import Stage
from mi_utils.your_model import audited, read, recipes, run
from mi_utils.your_model import given as inputs
from mi_utils.your_model.budget import SHARE, Candidate, Part, choose, makespan
from mi_utils.your_model.conclusions import above, conclusions
from mi_utils.your_model.exported import UNBOUNDED, Program, _upper
from mi_utils.your_model.exposure import Exposure
from mi_utils.your_model.victim import Withheld

ARCH = "shufflenet_v2_x0_5"
COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "<b>blue": (40, 40, 200)}
CPU = torch.device("cpu")


def noisy(colour: tuple[int, ...], count: int, rng: np.random.Generator, side: int = 32) -> list[np.ndarray]:
    return [np.clip(rng.normal(colour, 30, (side, side, 3)), 0, 255).astype(np.uint8) for _ in range(count)]


def save(images: list[np.ndarray], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three colours, a classifier that has learnt them, and its CONFIG."""
    folder, rng = tmp_path_factory.mktemp("classifier"), np.random.default_rng(0)
    private = {name: noisy(colour, 8, rng) for name, colour in COLOURS.items()}
    for name, colour in COLOURS.items():
        save(private[name], folder / "private" / name)
        save(noisy(colour, 5, rng), folder / "holdout" / name)
    save(noisy((128, 128, 128), 40, rng), folder / "auxiliary")
    save(noisy((90, 120, 160), 40, rng), folder / "auxiliary" / "deep" / "er")
    x = torch.tensor(np.stack(sum(private.values(), []))).permute(0, 3, 1, 2) / 127.5 - 1
    y = torch.arange(3).repeat_interleave(8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = models.get_model(ARCH, num_classes=3)
        sgd = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
        for _ in range(25):
            sgd.zero_grad()
            F.cross_entropy(net(x), y).backward()
            sgd.step()
        for _ in range(20):
            net(x)  # statistics of the batch norms
    save_file(net.state_dict(), folder / "model.safetensors")
    torch.save(net.eval(), folder / "whole.pt")
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(net, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "model.pt2")
    torch.export.save(torch.export.export(net, (torch.zeros(2, 3, 32, 32),)), folder / "static.pt2")
    write(folder)
    return folder


def fields(**changes: Any) -> dict[str, Any]:
    plain = {
        "model": {"arch": ARCH, "weights": "model.safetensors"},
        "classes": list(COLOURS),
        "preprocessing": {"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3},
        "auxiliary": "auxiliary",
        "private": "private",
        "holdout": "holdout",
        "minutes": 60,
        "samples": 2,
    }
    return {name: value for name, value in (plain | changes).items() if value is not None}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "CONFIG.yaml"
    path.write_text(yaml.safe_dump(fields(**changes)))
    return path


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(made, tmp_path / "classifier")


# ---------------------------------------------------------------- what is refused

WRONG_FIELDS = {
    "no such field; did you mean auxiliary": {"auxilary": "auxiliary"},
    "model: expected arch and weights, or program alone, found arch": {"model": {"arch": ARCH}},
    "found arch and weights and program": {"model": {"arch": ARCH, "weights": "a.pt", "program": "b.pt2"}},
    "'a' is there twice": {"classes": ["a", "b", "a"]},
    "minutes": {"minutes": 0},
    "attacks": {"attacks": ["gim"]},
    "the attack ppa searches a generator, found none": {"attacks": ["ppa"]},
    "holdout: it is compared with private images": {"private": None},
    "seeds: expected each once": {"seeds": [1, 1]},
    "preprocessing.size": {"preprocessing": {"size": 2}},
    "preprocessing.chanels: no such field": {"preprocessing": {"size": 32, "chanels": 1}},
}


@pytest.mark.parametrize("said", WRONG_FIELDS)
def test_a_wrong_field_is_one_line_that_names_file_and_field(said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(write(tmp_path, **WRONG_FIELDS[said]))
    assert said in str(caught.value)
    assert str(caught.value).startswith("CONFIG.yaml: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "just words", ""])
def test_no_mapping_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "CONFIG.yaml").write_text(text)
    with pytest.raises(UserError, match="expected.*YAML") as caught:
        read(tmp_path / "CONFIG.yaml")
    assert "\n" not in str(caught.value)


def spoil_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"no weights at all")


def empty_auxiliary(folder: Path) -> None:
    shutil.rmtree(folder / "auxiliary")
    (folder / "auxiliary" / "sub").mkdir(parents=True)
    (folder / "auxiliary" / "sub" / "notes.txt").write_text("nothing here")


def mixed_auxiliary(folder: Path) -> None:
    Image.new("RGB", (48, 40)).save(folder / "auxiliary" / "other.png")


def broken_auxiliary(folder: Path) -> None:
    (folder / "auxiliary" / "7.png").write_bytes(b"no image")


def cut_auxiliary(folder: Path) -> None:
    path = folder / "auxiliary" / "7.png"
    path.write_bytes(path.read_bytes()[:200])


def few_auxiliary(folder: Path) -> None:
    shutil.rmtree(folder / "auxiliary" / "deep")


def other_names(folder: Path) -> None:
    (folder / "private" / "red").rename(folder / "private" / "rot")


def lacking_class(folder: Path) -> None:
    shutil.rmtree(folder / "private" / "red")


def shared(folder: Path) -> None:
    shutil.copy(folder / "private" / "red" / "3.png", folder / "auxiliary" / "deep" / "stolen.png")


def held_in(folder: Path) -> None:
    shutil.copy(folder / "private" / "red" / "3.png", folder / "holdout" / "red" / "3.png")


SPOILT: dict[str, tuple[Callable[[Path], object] | None, dict[str, Any]]] = {
    "model.safetensors": (spoil_weights, {}),
    "expected 4 outputs (4 classes), found 3": (None, {"classes": [*COLOURS, "grey"]}),
    "expected a name of torchvision.models": (None, {"model": {"arch": "resnet81", "weights": "model.safetensors"}}),
    "gone.safetensors: expected a file of weights, found none": (
        None,
        {"model": {"arch": ARCH, "weights": "gone.safetensors"}},
    ),
    "whole.pt": (None, {"model": {"arch": ARCH, "weights": "whole.pt"}}),
    "auxiliary: expected image files in": (empty_auxiliary, {}),
    "auxiliary: expected images of one size, found 0.png with 32×32 px and other.png with 48×40": (mixed_auxiliary, {}),
    "7.png cannot be read": (broken_auxiliary, {}),
    "7.png: expected a whole image": (cut_auxiliary, {}),
    "auxiliary: expected at least 64 images, found 40": (few_auxiliary, {}),
    "private: expected subfolders named as `classes`": (other_names, {}),
    "private: expected images of every attacked class, found none of 'red'": (lacking_class, {}),
    "auxiliary: expected none of the private images, found 1 of them, such as red/3.png": (shared, {}),
    "holdout: expected none of the private images, found 1": (held_in, {}),
    "check the order of `classes`": (None, {"classes": ["green", "<b>blue", "red"]}),
    "attack_classes: expected names of `classes`": (None, {"attack_classes": ["mauve"]}),
    "private: expected one subfolder per class": (None, {"private": "auxiliary/deep/er"}),
    "model.trusted: model.pt2 is an exported program": (None, {"model": {"program": "model.pt2"}}),
}


@pytest.mark.parametrize("said", SPOILT)
def test_bad_input_is_one_line_before_any_computation(
    said: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, changes = SPOILT[said]
    if spoil:
        spoil(folder)
    monkeypatch.setattr(run, "planned", lambda *_: pytest.fail("something was computed"))
    assert cli.main(["audit", str(write(folder, **changes)), "--out", str(folder / "out"), "--device", "cpu"]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and said in error[0]
    assert not (folder / "out").exists()


def test_mixed_sizes_that_are_meant_become_squares_and_are_told(folder: Path) -> None:
    mixed_auxiliary(folder)
    found = inputs.check(read(write(folder, resize=True)), CPU)
    assert found.auxiliary.shape == (81, 3, 32, 32)
    assert any(line.startswith("auxiliary: 81 images, of each the central square") for line in found.told)


def test_class_folders_are_found_by_name_whatever_their_order(made: Path) -> None:
    found = inputs.check(read(write(made)), CPU)
    names = list(COLOURS)
    for file, label in zip(found.private.files, found.private.labels.tolist(), strict=True):
        assert file.split("/")[0] == names[label]
    assert found.named_right > 0.8


# ---------------------------------------------------------------- exported programs


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


def crafted(folder: Path, mark: Path) -> Path:
    """model.pt2 with sample inputs that run code."""
    hidden = io.BytesIO()
    torch.save(((Evil(mark),), {}), hidden)
    path = folder / "crafted.pt2"
    with zipfile.ZipFile(folder / "model.pt2") as whole, zipfile.ZipFile(path, "w") as out:
        for part in whole.infolist():
            out.writestr(part, hidden.getvalue() if "sample_inputs" in part.filename else whole.read(part))
    return path


def test_a_crafted_program_runs_code_when_loaded_and_is_not_loaded_unless_trusted(folder: Path) -> None:
    mark = folder / "mark"
    path = crafted(folder, mark)
    settings = read(write(folder, model={"program": "crafted.pt2"}))
    with pytest.raises(UserError, match="trusted"):
        inputs.check(settings, CPU)
    assert not mark.exists()
    # Why the field is there: once this fails, torch reads programs safely and the field can go.
    try:
        torch.export.load(path)
    except (RuntimeError, ValueError, TypeError, AttributeError, pickle.UnpicklingError):
        pass
    assert mark.exists()


def test_a_trusted_program_is_the_network_with_its_gradients(made: Path) -> None:
    trusted = {"program": "model.pt2", "trusted": True}
    program, plain = (read(write(made, **change)).classifier().load() for change in ({"model": trusted}, {}))
    x = torch.rand(5, 3, 32, 32) * 2 - 1
    slopes = []
    for net in (program, plain):
        images = x.clone().requires_grad_()
        net(images)[:, 1].sum().backward()
        slopes.append(images.grad)
    torch.testing.assert_close(program(x), plain(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-3, atol=1e-5)
    assert float(slopes[0].abs().sum()) > 0


@pytest.mark.parametrize("upper, most", [(64, 64), (int_oo, UNBOUNDED)])
def test_a_program_is_given_no_more_images_than_it_was_exported_for(upper: object, most: int) -> None:
    assert _upper(ValueRanges(1, upper)) == most
    seen = []
    net = Program(torch.nn.Identity(), 3)
    net.graph.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    x = torch.arange(8.0)[:, None]
    assert torch.equal(net(x), x) and seen == [3, 3, 2]


@pytest.mark.parametrize(
    "program, classes, said",
    [
        ("static.pt2", 3, "export it with a dynamic batch dimension"),
        ("model.pt2", 4, r"model.pt2 should give \(3, 4\) logits for 3 images, found shape \(3, 3\)"),
        ("model.safetensors", 3, "expected a file of torch.export.save"),
        ("whole.pt", 3, "cannot be read"),
    ],
)
def test_a_program_that_does_not_fit_is_one_line(made: Path, program: str, classes: int, said: str) -> None:
    settings = read(write(made, model={"program": program, "trusted": True}, classes=classes))
    with pytest.raises(UserError, match=said) as caught:
        settings.classifier().load()
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- the budget


def parts() -> st.SearchStrategy[Part]:
    seconds = st.floats(0.001, 2)
    return st.builds(
        lambda step, fixed, least, more, times, multiple: Part(
            "p", step, fixed, least * multiple, (least + more) * multiple, times, multiple
        ),
        seconds, seconds, st.integers(1, 50), st.integers(0, 500), st.integers(1, 3), st.integers(1, 5),
    )  # fmt: skip


CANDIDATES = st.lists(parts(), min_size=1, max_size=5).map(
    lambda found: [Candidate(str(i), (part,)) for i, part in enumerate(found)]
)


@drawn(CANDIDATES, st.floats(1, 3000), st.integers(1, 3))
@bounds(max_examples=60, deadline=None)
def test_what_is_chosen_fits_and_what_is_left_out_would_not(
    candidates: list[Candidate], budget: float, workers: int
) -> None:
    choices = choose(candidates, budget, workers)
    kept = [c for c, choice in zip(candidates, choices, strict=True) if choice.chosen]
    lanes = [0.0] * workers
    for seconds in sorted((choice.seconds for choice in choices if choice.chosen), reverse=True):
        lanes[lanes.index(min(lanes))] += seconds
    assert max(lanes) <= SHARE * budget * (1 + 1e-9)
    for i, (candidate, choice) in enumerate(zip(candidates, choices, strict=True)):
        (part,) = candidate.parts
        if choice.chosen:
            assert part.least <= choice.steps["p"] <= part.full
            assert choice.steps["p"] % part.multiple == 0
        else:
            before = [c for c in kept if candidates.index(c) < i]
            assert makespan([*before, candidate], 0.0, workers) > SHARE * budget
            assert "give more minutes" in choice.why


def test_more_minutes_never_shorten_a_schedule_and_seeds_cost() -> None:
    one = Candidate("a", (Part("prior", 0.1, 1, 10, 100), Part("search", 0.2, 1, 10, 100, times=3)))
    assert one.seconds(0) == pytest.approx(1 + 10 * 0.1 + 3 * (1 + 10 * 0.2))
    steps = [choose([one], budget, 1)[0].steps for budget in (20, 40, 80, 400)]
    searches = [found["search"] for found in steps]
    assert searches == sorted(searches) and searches[0] < searches[-1] == 100
    assert not choose([one], 5, 1)[0].chosen


@pytest.mark.parametrize(
    "slow, fast, step, fixed",
    [(8.0, 4.0, 1.0, 2.0), (60.0, 4.0, 10.0, 0.0), (4.0, 4.1, 1e-4, 4.0998)],
    ids=["as it should be", "busy in the longer run", "busy in the shorter run"],
)
def test_seconds_of_a_step_come_from_two_runs(slow: float, fast: float, step: float, fixed: float) -> None:
    seconds = dict(zip(recipes.TRIAL, (slow, fast), strict=True))

    def stages(steps: dict[str, int], seed: int) -> dict[str, Any]:
        return {"search": SimpleNamespace(result=lambda device: SimpleNamespace(seconds=seconds[steps["search"]]))}

    recipe = recipes.Recipe("a", {"search": recipes.Length(10, 20)}, stages, 32)
    (part,) = recipes.candidate("a", recipe, (0, 1, 2), "cpu").parts
    assert (part.step, part.fixed, part.times) == (pytest.approx(step), pytest.approx(fixed), 3)


def test_an_attack_that_was_asked_for_and_does_not_fit_is_refused(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Candidate("gmi", (Part("search", 10.0, 0.0, 100, 200),))
    monkeypatch.setattr(run, "candidate", lambda *_: slow)
    found = inputs.check(read(write(made, attacks=["gmi"], private=None, holdout=None, minutes=1)), CPU)
    with pytest.raises(UserError, match=r"minutes: gmi is asked for, but its shortest schedule takes 1000 s"):
        run.planned(found, "cpu", 1)


# ---------------------------------------------------------------- what is said


def row(short: str, value: float, what: str = "") -> Row:
    return Row("g", short, value, value - 0.01, value + 0.01, "share", 9, "private", 1, what, "", short)


def exposed(ours: float, auxiliary: float, near: dict[str, float]) -> Exposure:
    values = {"top-1 target": 1, "confidence target": 0.99, "ensemble mean": 0.5, "DDCS": ours}
    rows = [row(name, value) for name, value in values.items()]
    rows.append(row("DDCS: auxiliary", auxiliary, "auxiliary images, 24 images; mean over private images"))
    return Exposure("pixels", "pixels", (), tuple(rows), near, None, (), ())


@pytest.mark.parametrize("ours", [0.01, 0.3, 0.6])
@pytest.mark.parametrize("private, holdout, judged", [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)])
def test_no_audit_ever_says_safe(ours: float, private: int, holdout: int, judged: int) -> None:
    near = {"reconstructions": 0.5, "auxiliary": 0.4} | ({"holdout": 0.3} if holdout else {})
    said = conclusions([exposed(ours, 0.3, near)], 3, bool(private), bool(holdout), bool(judged))
    text = " ".join((*said.can, *said.cannot, *said.missing)).lower()
    assert not re.search(r"\b(safe|secure|protected|private enough|no risk|harmless)\b", text)
    assert "no guarantee" in text and "membership inference" in text
    assert bool(said.missing) == (not judged)
    assert ("holdout: images" in text) == bool(private and not holdout)
    assert ("private: the training images" in text) == (not private)


@pytest.mark.parametrize(
    "ours, said",
    [(0.6, "has told the attacker something"), (0.3, "is not decided"), (0.1, "beyond what the attacker had")],
)
def test_the_auxiliary_images_decide_what_ddcs_means(ours: float, said: str) -> None:
    found = conclusions([exposed(ours, 0.3, {"reconstructions": 0.5, "auxiliary": 0.4})], 3, True, False, False)
    assert said in found.can[1] and "24 images each" in found.can[1]


@pytest.mark.parametrize("classes, said", [(3, "that is above chance"), (2, "not clearly above chance")])
def test_an_evaluator_is_held_against_chance(classes: int, said: str) -> None:
    found = conclusions([exposed(0.3, 0.3, {"reconstructions": 0.5})], classes, True, False, True)
    assert said in found.can[-1]


@pytest.mark.parametrize("unseen, said", [(0.31, True), (0.6, False)])
def test_a_scale_without_length_is_told(unseen: float, said: bool) -> None:
    one = exposed(0.3, 0.3, {"reconstructions": 0.5})
    one = replace(one, rows=(*one.rows, row("DDCS: holdout", unseen)))
    found = conclusions([one], 3, True, True, True)
    assert any("Anything from nDDCS" in line for line in found.cannot) == said


def test_intervals_that_touch_decide_nothing() -> None:
    assert [above(row("a", v), row("b", 0.5)) for v in (0.47, 0.49, 0.5, 0.51, 0.53)] == [-1, 0, 0, 0, 1]


# ---------------------------------------------------------------- the whole, tiny


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schedules of two steps."""
    least = recipes.Length(2, 2)
    monkeypatch.setattr(recipes, "Length", lambda *_: least)
    monkeypatch.setattr(recipes, "TRIAL", (3, 2))


def pages(out: Path) -> str:
    html = (out / "report.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert "<b>blue" not in html and "&lt;b&gt;blue" in html
    return html


def test_the_whole_audit_leaves_pictures_tables_page_and_computes_nothing_twice(
    made: Path, tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(made, seeds=[0, 1])
    assert cli.main(["audit", str(config), "--out", str(tmp_path / "one"), "--device", "cpu", "--workers", "1"]) == 0
    assert "What cannot be concluded" in capsys.readouterr().out
    html, found = pages(tmp_path / "one"), json.loads((tmp_path / "one" / "audit.json").read_text())
    assert [entry["name"] for entry in found["plan"]] == ["pixels", "evaluators", "kedmi", "gmi", "patch-mi"]
    assert all(entry["run"] for entry in found["plan"])
    assert str(made) not in html + json.dumps(found)
    for name in ("pixels", "kedmi", "gmi", "patch-mi"):
        assert (tmp_path / "one" / f"{name}.png").stat().st_size > 1000
        for seed in (0, 1):
            with np.load(tmp_path / "one" / name / f"seed-{seed}" / "reconstructions.npz") as arrays:
                assert arrays["images"].shape == (6, 3, 32, 32)
    table = pd.read_csv(tmp_path / "one" / "exposure.csv")
    for metric in ("reference auxiliary", "reference holdout", "coverage", "top-1 target", "ensemble mean"):
        assert table[table.metric.str.contains(metric, regex=False)].value.notna().all()
    assert "prior" not in " ".join(table.metric) and "did not fit" not in html
    assert len(pd.read_csv(tmp_path / "one" / "exposed.csv")) == 4 * 24
    monkeypatch.setattr(Stage, "compute", lambda *_: pytest.fail("computed again"))
    audited(config, tmp_path / "two", device="cpu", workers=1)
    for name in ("exposure.csv", "exposed.csv", "pixels.png"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    with pytest.raises(UserError, match="expected a new or empty folder"):
        audited(config, tmp_path / "one", device="cpu")


def test_without_private_images_the_page_says_what_is_missing(made: Path, tmp_path: Path, tiny: None) -> None:
    config = write(made, private=None, holdout=None, attacks=["pixels"])
    report = audited(config, tmp_path / "out", device="cpu", workers=1)
    html = pages(tmp_path / "out")
    assert "DDCS: no private images given" in html
    assert "shows private images" not in html
    assert not (tmp_path / "out" / "exposed.csv").exists()
    assert report.found[0].row("pixel spread").value > 0


def test_a_failed_write_leaves_nothing(made: Path, tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    report = audited(write(made, private=None, holdout=None, attacks=["pixels"]), device="cpu", workers=1)

    def full(*_: object) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("mi_utils.export.write", full)
    with pytest.raises(OSError, match="no space"):
        report.write(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_no_attack_depends_on_private_images(made: Path) -> None:
    keys = []
    for change in ({}, {"private": None, "holdout": None}):
        found = inputs.check(read(write(made, **change)), CPU)
        steps = {"search": 2, "prior": 2}
        attacks = [recipes.RECIPES[name](found).stages(steps, 0) for name in ("pixels", "gmi", "kedmi", "patch-mi")]
        keys.append([attack["search"].key for attack in attacks])
    assert keys[0] == keys[1]
    with pytest.raises(AssertionError, match="private"):
        Withheld().load()


def test_a_trusted_program_is_attacked_like_any_network(made: Path, tiny: None) -> None:
    trusted = {"program": "model.pt2", "trusted": True}
    alone = {"private": None, "holdout": None, "attacks": ["pixels", "kedmi"]}
    found = [
        audited(write(made, model=model, **alone), device="cpu", workers=1)
        for model in (trusted, {"arch": ARCH, "weights": "model.safetensors"})
    ]
    for one, other in zip(found[0].found, found[1].found, strict=True):
        difference = (one.seeds[0].images.float() - other.seeds[0].images.float()).abs()
        assert float(difference.mean()) < 0.5  # Adam's first steps follow signs, so that single pixels may differ

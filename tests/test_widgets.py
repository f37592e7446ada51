"""Views over stored results: the picture follows the controls, and only what exists is offered."""

import io
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from mi_utils import widgets
from mi_utils.errors import UserError
from mi_utils.report.figures import Picture, image_grid
from mi_utils.studies.frontier import Reached, best
from mi_utils.widgets.view import stacked


class FakePlan:
    """Runs and their images, each run another grey level."""

    def __init__(self) -> None:
        rows = [("a", "one", 0), ("a", "one", 1), ("b", "one", 0), ("a", "two", 0)]
        self.paper, self.profile = "fake", "smoke"
        found = SimpleNamespace(tensors={"labels": torch.arange(6) % 2})
        self.runs = [
            SimpleNamespace(
                attack=a, setting=s, seed=n, stage=SimpleNamespace(stored=lambda: True, result=lambda: found)
            )
            for a, s, n in rows
        ]

    def reconstructions(self, attack: str, setting: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        index = [(r.attack, r.setting, r.seed) for r in self.runs].index((attack, setting, seed))
        return torch.full((6, 1, 8, 8), 60 * index, dtype=torch.uint8), torch.arange(6) % 2


def test_picture_follows_every_control_and_offers_only_what_is_there() -> None:
    shown = widgets.reconstructions(FakePlan(), count=2)
    setting, attack, seed, label = shown.controls.values()
    seen = [bytes(shown.picture.value)]
    assert seen[0].startswith(b"\x89PNG")
    assert (setting.options, attack.options, seed.options) == (("one", "two"), ("a", "b"), (0, 1))
    assert label.options == ("all", 0, 1)
    for control, value in ((seed, 1), (setting, "two"), (setting, "one"), (attack, "b"), (label, 1)):
        control.value = value
        seen.append(bytes(shown.picture.value))
    assert seen[3] == seen[0] and len(set(seen)) == 5
    assert (attack.options, seed.options) == (("a", "b"), (0,))


def test_what_goes_wrong_in_a_callback_is_one_line_and_the_next_picture_is_shown_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def draw(level: int) -> Picture:
        if level == 1:
            raise UserError("attack: <none> is stored; run make reproduce")
        if level == 2:
            raise ValueError("two\nlines")
        return image_grid({"a": torch.full((2, 1, 8, 8), 40 * level, dtype=torch.uint8)})

    shown = widgets.view(draw, level=widgets.slider("level", [0, 1, 2, 3]))
    first = bytes(shown.picture.value)
    shown.controls["level"].value = 1
    assert bytes(shown.picture.value) == b"" and shown.picture.layout.display == "none"
    assert "&lt;none&gt; is stored; run make reproduce" in shown.message.value
    assert shown._repr_mimebundle_() == {"text/plain": "Not shown: attack: <none> is stored; run make reproduce"}
    shown.controls["level"].value = 2
    assert shown.said == "Not shown: ValueError: two lines"
    shown.controls["level"].value = 3
    assert shown.message.value == "" and shown.picture.layout.display is None
    assert bytes(shown.picture.value) not in (b"", first)


def test_a_picture_remains_without_a_browser_and_a_widget_is_shown_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    shown = widgets.reconstructions(FakePlan(), count=2)
    assert set(shown._repr_mimebundle_()) == {"text/plain", "image/png"}
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    live = shown._repr_mimebundle_()
    assert live["application/vnd.jupyter.widget-view+json"]["model_id"] == shown.box.model_id
    assert live["image/png"].startswith(b"\x89PNG")


def test_a_missing_result_names_the_command_that_makes_it() -> None:
    plan = FakePlan()
    plan.runs[0].stage.stored = lambda: False
    shown = widgets.reconstructions(plan, count=2)
    assert shown.said.endswith("run make reproduce PAPER=fake PROFILE=smoke") and "\n" not in shown.said


def test_several_pictures_are_one_above_the_other() -> None:
    parts = [image_grid({"a": torch.zeros((n, 1, 8, 8), dtype=torch.uint8)}) for n in (1, 4)]
    sizes = [Image.open(io.BytesIO(part.png)).size for part in parts]
    assert Image.open(io.BytesIO(stacked(parts))).size == (max(w for w, _ in sizes), sum(h for _, h in sizes))


def test_frontier_joins_what_no_other_point_beats() -> None:
    known = [Reached("a", 0.9, 0.1), Reached("b", 0.5, 0.5), Reached("c", 0.5, 0.4), Reached("d", 0.1, 0.5)]
    assert [p.attack for p in best(known)] == ["b", "a"]


class Inversion:
    """A stage that stored three steps of two classes; its generator paints latents as grey levels."""

    frames = 3

    def stored(self) -> bool:
        return True

    def __init__(self, steps: list[int], classes: list[int]) -> None:
        labels = torch.tensor(classes).repeat(3)
        level = torch.arange(len(steps))[:, None] - 1.0 + 0.1 * torch.arange(6)
        tensors = {"labels": labels, "frames_latents": level[..., None], "frames_steps": torch.tensor(steps)}
        self.result = lambda: SimpleNamespace(tensors=tensors)
        self.prior = SimpleNamespace(generator=lambda device: lambda z: z[:, :, None, None].expand(-1, 1, 8, 8))


class Styles(Inversion):
    """One that says itself how its latents become images: darker by a little."""

    def decoder(self, device: str):
        return lambda w: self.prior.generator(device)(w) - 0.3


def test_replay_follows_step_and_class_and_a_new_run_brings_its_own() -> None:
    made = {("a", "one", 0): Inversion([0, 5, 9], [3, 4]), ("b", "one", 0): Inversion([0, 2], [7, 8])}
    plan = SimpleNamespace(
        runs=[SimpleNamespace(attack=a, setting=s, seed=n, stage=stage) for (a, s, n), stage in made.items()],
        find=lambda attack, setting, seed: SimpleNamespace(stage=made[attack, setting, seed]),
    )
    shown = widgets.replay(plan, count=2)
    _, attack, _, label, step = shown.controls.values()
    picture, play = shown.picture, shown.box.children[0].children[-1]
    assert (label.options, [text for text, _ in step.options]) == ((3, 4), ["0", "5", "9"])
    seen = [bytes(picture.value)]
    for control, value in ((step, 2), (label, 4), (attack, "b"), (step, 1)):
        control.value = value
        seen.append(bytes(picture.value))
    assert len(set(seen)) == 5
    assert (label.options, [text for text, _ in step.options], label.value) == ((7, 8), ["0", "2"], 7)
    play.value = 0
    assert (step.index, play.max) == (0, 1) and bytes(picture.value) == seen[3]
    step.index = 1
    assert play.value == 1 and bytes(picture.value) == seen[4]


def test_replay_uses_a_searchs_own_decoder_and_leaves_out_what_stored_no_steps() -> None:
    def shown(stage: Inversion) -> bytes:
        still = SimpleNamespace(attack="still", setting="one", seed=0, stage=SimpleNamespace())
        run = SimpleNamespace(attack="a", setting="one", seed=0, stage=stage)
        plan = SimpleNamespace(runs=[still, run], find=lambda attack, setting, seed: run)
        made = widgets.replay(plan, count=2)
        assert made.controls["attack"].options == ("a",)
        return bytes(made.picture.value)

    assert shown(Inversion([0, 2], [7, 8])) != shown(Styles([0, 2], [7, 8]))

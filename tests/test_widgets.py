"""Views over stored results: the picture follows the controls, and only what exists is offered."""

from types import SimpleNamespace

import torch

from mi_utils import widgets


class FakePlan:
    """Runs and their images, each run another grey level."""

    def __init__(self) -> None:
        rows = [("a", "one", 0), ("a", "one", 1), ("b", "one", 0), ("a", "two", 0)]
        self.runs = [SimpleNamespace(attack=a, setting=s, seed=n) for a, s, n in rows]

    def reconstructions(self, attack: str, setting: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        index = [(r.attack, r.setting, r.seed) for r in self.runs].index((attack, setting, seed))
        return torch.full((6, 1, 8, 8), 60 * index, dtype=torch.uint8), torch.arange(6) % 2


def test_picture_follows_every_control_and_offers_only_what_is_there() -> None:
    box = widgets.reconstructions(FakePlan(), count=2)
    (setting, attack, seed), picture = box.children[0].children, box.children[1]
    seen = [bytes(picture.value)]
    assert seen[0].startswith(b"\x89PNG")
    assert (setting.options, attack.options, seed.options) == (("one", "two"), ("a", "b"), (0, 1))
    for control, value in ((seed, 1), (setting, "two"), (setting, "one"), (attack, "b")):
        control.value = value
        seen.append(bytes(picture.value))
    assert seen[3] == seen[0] and len(set(seen)) == 4
    assert (attack.options, seed.options) == (("a", "b"), (0,))


class Inversion:
    """A stage that stored three steps of two classes; its generator paints latents as grey levels."""

    frames = 3

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
    box = widgets.replay(plan, count=2)
    (_, attack, _, label, step), picture = box.children[0].children, box.children[1]
    assert (label.options, [text for text, _ in step.options]) == ((3, 4), ["0", "5", "9"])
    seen = [bytes(picture.value)]
    for control, value in ((step, 2), (label, 4), (attack, "b"), (step, 1)):
        control.value = value
        seen.append(bytes(picture.value))
    assert len(set(seen)) == 5
    assert (label.options, [text for text, _ in step.options], label.value) == ((7, 8), ["0", "2"], 7)


def test_replay_uses_a_searchs_own_decoder_and_leaves_out_what_stored_no_steps() -> None:
    def shown(stage: Inversion) -> bytes:
        still = SimpleNamespace(attack="still", setting="one", seed=0, stage=SimpleNamespace())
        run = SimpleNamespace(attack="a", setting="one", seed=0, stage=stage)
        plan = SimpleNamespace(runs=[still, run], find=lambda attack, setting, seed: run)
        box = widgets.replay(plan, count=2)
        assert box.children[0].children[1].options == ("a",)
        return bytes(box.children[1].value)

    assert shown(Inversion([0, 2], [7, 8])) != shown(Styles([0, 2], [7, 8]))

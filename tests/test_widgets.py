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

"""The same config has the same key everywhere, and the same numbers whatever surrounds its computation."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import pytest
import torch
from pydantic import Field
from toys import ATTACKS, PATCH_MI, TARGET, same

from mi_utils import code_digest, stage
from mi_utils.attacks.bmi import BMI
from mi_utils.schedule import in_order, run
from mi_utils.stage import Config, Stage

ROOT = Path(__file__).parents[1]
# The first interpreter of each version that is installed beside this one; torch is not needed in them.
NEWER = ("3.11", "3.12", "3.13", "3.14")


class Colour(Enum):
    RED = "red"


class Part(Config):
    rate: float = 0.1
    path: Path = Path("here")

    def fingerprint(self) -> str:
        return "ab12"


class First(Stage):
    seed: int = 0


class Everything(Stage):
    flag: bool = True
    count: int = 3
    rate: float = 0.1
    tiny: float = 1e-7
    big: float = 1e16
    name: str = "naïve ✓"
    nothing: int | None = None
    colour: Colour = Colour.RED
    pair: tuple[int, str] = (1, "two")
    table: dict[str, float] = {"b": -0.0, "a": 1.0}
    kinds: frozenset[int] = frozenset({30, 2, 1})
    part: Part = Part()
    before: tuple[Stage, ...] = Field(default_factory=lambda: (First(),))  # a stage remembers its key


# The canonical form and its key, written down by hand and with SHA-256 alone: neither may ever change, because
# every stored result would be lost with it.
FORM = (
    '{"class": "Everything", "fields": {"before": [["stage", "e7516414deaa2dfae78cbfb7"]], "big": 1e+16, '
    '"colour": "red", "count": 3, "flag": true, "kinds": ["set", 1, 2, 30], "name": "na\\u00efve \\u2713", '
    '"nothing": null, "pair": [1, "two"], "part": {"class": "Part", "fields": {"rate": 0.1}, "fingerprint": "ab12", '
    '"source": "source of Part"}, "rate": 0.1, "table": ["dict", [["a", 1.0], ["b", -0.0]]], "tiny": 1e-07}, '
    '"fingerprint": null, "source": "source of Everything"}'
)
KEY = "29714c0eba01cd103581781f"


def keys_of_everything() -> list[str]:
    """Keys of the golden config, and of every stage of the four papers' smoke profiles."""
    from mi_utils import studies

    planned = [s for paper in studies.PAPERS.values() for s in paper.plan("smoke").stages]
    return sorted(s.key for s in in_order([Everything(), *planned]))


# ---------------------------------------------------------------- keys


def test_golden_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_source", lambda cls: f"source of {cls.__name__}")
    assert json.dumps(stage._identity(Everything()), sort_keys=True) == FORM
    assert Everything().key == KEY == hashlib.sha256(FORM.encode()).hexdigest()[:24]
    assert First().key == "e7516414deaa2dfae78cbfb7"


def test_the_order_of_fields_and_entries_does_not_enter() -> None:
    fields = Everything().model_dump() | {"before": (First(),), "part": Part(path=Path("there"))}
    fields["table"] = {"a": 1.0, "b": -0.0}
    fields["kinds"] = frozenset([1, 2, 30])
    for seed in range(5):
        order = random.Random(seed).sample(sorted(fields), len(fields))
        assert Everything(**{name: fields[name] for name in order}).key == Everything().key


ELSEWHERE = """
import json, sys
sys.path[:0] = {paths!r}
from test_determinism import keys_of_everything
print(json.dumps(keys_of_everything()))
"""


@pytest.mark.parametrize(
    "setting",
    [
        {"PYTHONHASHSEED": "1", "LC_ALL": "C", "PYTHONUTF8": "0", "TZ": "Asia/Tokyo", "OMP_NUM_THREADS": "1"},
        {"PYTHONHASHSEED": "2", "LC_ALL": "tr_TR.UTF-8", "PYTHONOPTIMIZE": "2", "PYTHONDONTWRITEBYTECODE": "1"},
    ],
)
def test_keys_in_another_process_with_other_settings(setting: dict[str, str], tmp_path: Path) -> None:
    script = ELSEWHERE.format(paths=[str(ROOT), str(ROOT / "tests")])
    env = os.environ | setting | {"MI_STORE": str(tmp_path / "store")}
    command = [sys.executable, "-W", "ignore", "-c", script]
    found = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == keys_of_everything()


def interpreters() -> dict[str, str]:
    """Version -> interpreter, of those on the path and of pyenv's."""
    places = [shutil.which(f"python{version}") for version in NEWER]
    places += sorted(map(str, Path.home().glob(".pyenv/versions/3.1[1-9]*/bin/python")))
    found: dict[str, str] = {}
    for place in filter(None, places):
        ask = [place, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        version = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip()
        if version in NEWER:
            found.setdefault(version, place)
    return found


DIGESTS = """
import hashlib, json, sys
sys.path.insert(0, {root!r})
from mi_utils import code_digest
print(json.dumps({{name: code_digest.closure(name)[0] for name in {names!r}}}))
text = json.dumps(json.loads({form!r}), sort_keys=True)
print(hashlib.sha256(text.encode()).hexdigest()[:24])
"""


def test_source_digests_and_the_canonical_form_in_every_python_at_hand() -> None:
    names = sorted({type(s).__module__ for s in in_order(list(ATTACKS.values()))} | {"mi_utils.studies.evaluation"})
    script = DIGESTS.format(root=str(ROOT), names=names, form=FORM)
    expected = {name: code_digest.closure(name)[0] for name in names}
    others = interpreters() | {"this one": sys.executable}
    for version, python in others.items():
        said = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
        assert json.loads(said[0]) == expected, f"Python {version}"
        assert said[1] == KEY, f"Python {version}"


# ---------------------------------------------------------------- numbers

STAGES = [ATTACKS["generative"], ATTACKS["bmi"], PATCH_MI]


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """`stores("name")` begins an empty store."""
    yield lambda name: monkeypatch.setenv("MI_STORE", str(tmp_path / name))


def results(stages: list[Stage]) -> list[dict[str, torch.Tensor]]:
    return [s.result("cpu").tensors for s in in_order(stages)]


def test_numbers_do_not_depend_on_workers_order_or_what_else_is_stored(stores) -> None:
    stores("plain")
    run(STAGES, workers=1, device="cpu", progress=False)
    expected = results(STAGES)
    assert len(expected) > len(STAGES) + 2
    stores("shuffled, one after another, with others between")
    torch.manual_seed(5), random.seed(5)
    for s in reversed(STAGES):
        run([s.model_copy(update={"seed": 9}), s], workers=1, device="cpu", progress=False)
    assert all(map(same, results(STAGES), expected))
    stores("two workers")
    run(STAGES[::-1], workers=2, device="cpu", progress=False)
    assert all(map(same, results(STAGES), expected))


def test_threads_of_the_caller_do_not_enter(stores, monkeypatch) -> None:
    stores("one")
    expected = TARGET.result("cpu").tensors
    stores("two")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert same(TARGET.result("cpu").tensors, expected) and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_an_attack_split_by_class_is_the_whole_one(shards: int, stores) -> None:
    """Classes draw from streams of their own; batches of another size may round the last bits otherwise."""
    stores("shards")
    whole = BMI(target=TARGET, classes=(2, 0, 1), samples=2, iterations=4)
    groups = [whole.classes[i::shards] for i in range(shards)]
    run([whole.model_copy(update={"classes": group}) for group in groups], workers=1, device="cpu", progress=False)
    expected = whole.result("cpu").tensors
    for group in groups:
        part = whole.model_copy(update={"classes": group}).result("cpu").tensors
        for y in group:
            one, other = (t["images"][t["labels"] == y].int() for t in (part, expected))
            assert torch.equal(one, other) if shards == 1 else (one - other).abs().max() <= 1
            assert expected["images"][expected["labels"] == y].unique().numel() > 10

"""Parts of a data set by class, and the guard that keeps public images apart from private ones."""

import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter

from mi_utils.data import (
    AnySource,
    Faces,
    Folder,
    HangulSheet,
    LatinSheet,
    Listed,
    Noise,
    Parquet,
    Scenes,
    Shuffled,
    Source,
    Subset,
    Torchvision,
    UciDigits,
)
from mi_utils.data.disjoint import check_disjoint
from mi_utils.data.glyphs import manifest
from mi_utils.errors import UserError

HIGH = Subset(source=UciDigits(), keep=(5, 6, 7, 8, 9))
LOW = Subset(source=UciDigits(), keep=(0, 1, 2, 3, 4))


# ---------------------------------------------------------------- Subset


def test_a_subset_has_the_images_of_its_classes_renumbered() -> None:
    whole, some = UciDigits().load(), Subset(source=UciDigits(), keep=(7, 2)).load()
    assert some.classes == ("7", "2") and set(some.labels.tolist()) == {0, 1}
    for label, digit in enumerate((7, 2)):
        assert torch.equal(some.of_class(label).images, whole.of_class(digit).images)
    assert some.name == "UCI digits train, 2 of 10 classes"


def test_a_subset_is_a_source_like_any_other() -> None:
    some = HIGH.model_copy(update={"size": 16, "channels": 3, "classes": (0, 4), "limit": 30})
    loaded = some.load()
    assert loaded.images.shape == (30, 3, 16, 16) and set(loaded.labels.tolist()) == {0, 4}
    assert loaded.classes == ("5", "6", "7", "8", "9")
    assert TypeAdapter(AnySource).validate_python(some.model_dump()) == some
    inner = Subset(source=HIGH, keep=(4, 0)).load()
    assert inner.classes == ("9", "5") and torch.equal(inner.of_class(0).images, HIGH.load().of_class(4).images)
    assert HIGH.fingerprint() == UciDigits().fingerprint()


def test_two_halves_are_the_whole() -> None:
    whole, low, high = UciDigits().load(), LOW.load(), HIGH.load()
    assert len(low) + len(high) == len(whole)
    assert torch.equal(torch.cat([low.labels, high.labels + 5]).bincount(), whole.labels.bincount())


@pytest.mark.parametrize(("keep", "found"), [((3, 10), "[10]"), ((-1, 3), "[-1]"), ((3, 4, 3), "[3]")])
def test_wrong_classes_of_a_subset_are_one_line(keep: tuple[int, ...], found: str) -> None:
    said = r"^keep: expected class ids of UCI digits train \(0..9\), each once, found "
    with pytest.raises(UserError, match=said) as caught:
        Subset(source=UciDigits(), keep=keep).load()
    assert found in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="Subset.keep"):
        Subset(source=UciDigits(), keep=())


# ---------------------------------------------------------------- by name


@pytest.fixture
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty data root, and sources that cannot load: what is said is said by name."""
    monkeypatch.setenv("MI_DATA", str(tmp_path))
    monkeypatch.setattr(Source, "load", lambda self: pytest.fail(f"loaded {self.kind}"))


MNIST, CELEBA = Torchvision(name="MNIST"), Torchvision(name="CelebA")
SYLLABLES = "".join(manifest()["sheets"]["hangul"]["symbols"][:4])
APART = {
    "two halves of one set": (LOW, HIGH),
    "halves by `classes`": (UciDigits(classes=(0, 1)), UciDigits(classes=(2,), split="test")),
    "halves by `classes` of a subset": (HIGH.model_copy(update={"classes": (0,)}), UciDigits(classes=(6,))),
    "subsets of a subset": (Subset(source=HIGH, keep=(0, 1)), Subset(source=HIGH, keep=(2,))),
    "mnist halves": (Subset(source=MNIST, keep=(0, 1)), Subset(source=MNIST, keep=(5, 6))),
    "two of torchvision's": (MNIST, Torchvision(name="FashionMNIST")),
    "celeba's published splits": (CELEBA, CELEBA.model_copy(update={"split": "test"})),
    "other identities": (Faces(identities=20), Faces(identities=40, first=20)),
    "other identities by subset": (Subset(source=Faces(), keep=(0, 1)), Faces(classes=(2, 3))),
    "another prior": (Faces(), Faces(factors="shifted")),
    "another seed": (Faces(), Faces(seed=1)),
    "letters and digits": (LatinSheet(symbols="letters"), LatinSheet(symbols="digits")),
    "letters and the digits of all": (LatinSheet(symbols="letters"), LatinSheet(symbols="all", classes=(26, 35))),
    "other syllables": (HangulSheet(syllables=SYLLABLES[:2]), HangulSheet(syllables=SYLLABLES[2:])),
    "two alphabets": (LatinSheet(), HangulSheet()),
    "digits of other hands": (UciDigits(), LatinSheet(symbols="digits")),
    "parquet halves": (Parquet(classes=(0, 1)), Subset(source=Parquet(split="test"), keep=(2,))),
    "photographs": (UciDigits(), Scenes()),
    "noise": (Noise(), Noise(seed=1)),
    "faces and digits": (Faces(), UciDigits()),
}
TOGETHER = {
    "the same source": (UciDigits(), UciDigits(), "all classes of uci-digits"),
    "another split": (UciDigits(), UciDigits(split="test"), "all classes of uci-digits"),
    "one class": (LOW, Subset(source=UciDigits(), keep=(4, 5)), "class 4 of uci-digits"),
    "some against all": (LOW, UciDigits(), "classes 0, 1, 2, 3, 4 of uci-digits"),
    "all against some": (UciDigits(), HIGH, "classes 5, 6, 7, 8, 9 of uci-digits"),
    "a subset of a subset": (Subset(source=HIGH, keep=(3, 2)), UciDigits(classes=(7,)), "class 7 of uci-digits"),
    "shuffled": (LOW, Shuffled(source=LOW, of="pixels"), "classes 0, 1, 2, 3, 4 of uci-digits"),
    "shuffled subset": (LOW, Subset(source=Shuffled(source=UciDigits()), keep=(9, 3)), "class 3 of uci-digits"),
    "mnist": (Subset(source=MNIST, keep=(0,)), MNIST.model_copy(update={"split": "all"}), "class 0 of MNIST"),
    "celeba": (CELEBA, CELEBA.model_copy(update={"split": "all"}), "all classes of CelebA"),
    "identities": (Faces(identities=20), Faces(identities=5, first=18, split="test"), "classes 18, 19 of faces"),
    "an identity by class": (Faces(first=10, classes=(1,)), Faces(identities=12, size=64), "class 11 of faces"),
    "letters": (LatinSheet(split="test"), LatinSheet(symbols="all", classes=(3, 30)), "class 3 of latin"),
    "digits": (LatinSheet(symbols="digits", classes=(4,)), LatinSheet(symbols="all"), "class 30 of latin"),
    "syllables": (HangulSheet(syllables=SYLLABLES[:2]), HangulSheet(classes=(1, 7)), "class 1 of hangul"),
    "parquet": (Parquet(classes=(0, 1)), Parquet(split="test", classes=(1, 2)), "class 1 of .*cifar10"),
    "scenes": (Scenes(), Scenes(seed=1), "all classes of scenes"),
    "noise": (Noise(), Noise(), "all classes of white noise"),
}


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize(("private", "public"), APART.values(), ids=APART.keys())
def test_sources_without_a_common_class_pass(private: Source, public: Source) -> None:
    check_disjoint(private, public, "public")
    check_disjoint(public, private, "public")


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize(("private", "public", "shared"), TOGETHER.values(), ids=TOGETHER.keys())
def test_a_common_class_is_named_in_one_line(private: Source, public: Source, shared: str) -> None:
    for one, other in ((private, public), (public, private)):
        with pytest.raises(UserError, match=rf"^mine: expected other classes .* found {shared}.* in both") as caught:
            check_disjoint(one, other, "mine")
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- by file and by image


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with two folders of three people each, all images different."""
    monkeypatch.setenv("MI_DATA", str(tmp_path))
    rng = np.random.default_rng(0)
    for folder, names in (("one", "012"), ("two", "012")):
        for name in names:
            (tmp_path / folder / name).mkdir(parents=True)
            for i in range(2):
                pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / folder / name / f"{i}.png")
    return tmp_path


ONE, TWO = Folder(path="one"), Folder(path="two")


def test_other_files_pass_and_a_copied_image_is_found(root: Path) -> None:
    check_disjoint(ONE, TWO, "public")
    shutil.copy(root / "one" / "2" / "1.png", root / "two" / "0" / "else.png")
    with pytest.raises(UserError, match="^public: .* found 1 identical images in both"):
        check_disjoint(ONE, TWO, "public")
    check_disjoint(ONE.model_copy(update={"classes": (0, 1)}), TWO, "public")


def test_a_copy_in_another_kind_of_source_is_found(root: Path) -> None:
    stored = [{"bytes": (root / "one" / "1" / "0.png").read_bytes(), "path": "x"}]
    pyarrow.parquet.write_table(pyarrow.table({"img": stored, "label": [0]}), root / "all-train.parquet")
    parquet = Parquet(path="all-{split}.parquet")
    with pytest.raises(UserError, match="found 1 identical images in both"):
        check_disjoint(ONE, parquet, "public")
    check_disjoint(TWO, parquet, "public")
    faces = Faces(identities=2, per_identity=1)
    stream = io.BytesIO()
    Image.fromarray(faces.load().images[1].permute(1, 2, 0).numpy()).save(stream, "PNG")
    (root / "saved" / "7").mkdir(parents=True)
    (root / "saved" / "7" / "a.png").write_bytes(stream.getvalue())
    with pytest.raises(UserError, match="found 1 identical images in both"):
        check_disjoint(faces, Folder(path="saved"), "public")


def test_names_of_people_count_and_numbers_do_not(root: Path) -> None:
    for folder in ("one", "two"):
        (root / folder / "2").rename(root / folder / "Ann_Lee")
    with pytest.raises(UserError, match="found class 'Ann_Lee' in both"):
        check_disjoint(ONE, TWO, "public")
    check_disjoint(ONE, TWO.model_copy(update={"classes": (0, 1)}), "public")


def test_a_file_is_one_file_whatever_names_or_resizes_it(root: Path) -> None:
    (root / "list.txt").write_text("0/0.png 0\n1/0.png 1\n")
    (root / "rest.txt").write_text("0/1.png\n2/0.png\n")
    private, public = Listed(path="one", split="list.txt"), Listed(path="one", split="rest.txt")
    check_disjoint(private, public, "public")
    (root / "link").symlink_to(root / "one")
    for other in (ONE, Folder(path="link", size=32, classes=(1, 2)), Shuffled(source=ONE, patch=4)):
        with pytest.raises(UserError, match=r"found \d files, such as 0.png in both"):
            check_disjoint(private, other, "public")
    check_disjoint(private, ONE.model_copy(update={"classes": (2,)}), "public")
    check_disjoint(Subset(source=private, keep=(1,)), ONE.model_copy(update={"classes": (0,)}), "public")

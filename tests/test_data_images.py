"""Sources: what they load, what their keys depend on, and the one line they fail with."""

import io
import json
import os
import pickle
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter
from torch import Tensor

from mi_utils.data import (
    AnySource,
    Folder,
    ImageSet,
    Noise,
    Parquet,
    Scenes,
    Shuffled,
    Torchvision,
    UciDigits,
    images,
    splits,
)
from mi_utils.data.images import natural, require_per_class, resized, to_float, to_uint8
from mi_utils.errors import UserError
from mi_utils.stage import Stage

REAL = Path(os.environ.get("MI_DATA", "none"))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root."""
    monkeypatch.setenv("MI_DATA", str(tmp_path))
    return tmp_path


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def image_set(n: int = 10, side: int = 6, channels: int = 1, classes: int = 3) -> ImageSet:
    data = torch.from_numpy(pixels(n, channels, side, side))
    return ImageSet(data, torch.arange(n) % classes, tuple("abc"[:classes]), "toy")


def faces(root: Path, per_class: int = 2, names: tuple[str, ...] = ("10", "2", "1"), side: int = 8) -> Path:
    """A folder of grey PNGs whose mean grey level is 10 times the class name."""
    for name in names:
        (root / "faces" / name).mkdir(parents=True)
        for i in range(per_class):
            Image.fromarray(np.full((side, side), 10 * int(name) + i, np.uint8)).save(
                root / "faces" / name / f"{i}.png"
            )
    return root / "faces"


# ---------------------------------------------------------------- ranges and ImageSet


def test_all_grey_levels_survive_the_round_trip():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    real = to_float(levels)
    assert float(real.min()) == -1 and float(real.max()) == 1
    assert torch.equal(to_uint8(real), levels)
    assert to_uint8(torch.tensor([-7.0, 7.0, 0.003])).tolist() == [0, 255, 128]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"images": torch.zeros(4, 1, 2, 2)}, "uint8"),
        ({"images": torch.zeros(4, 2, 2, 2, dtype=torch.uint8)}, "1 or 3"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "4 int64 labels"),
        ({"labels": torch.tensor([0, 1, 2, 3])}, "labels 0..2"),
        ({"labels": torch.tensor([0, -1, 2, 1])}, "labels 0..2"),
    ],
)
def test_inconsistent_sets_are_refused(change, says):
    good = {"images": torch.zeros(4, 1, 2, 2, dtype=torch.uint8), "labels": torch.zeros(4, dtype=torch.int64)}
    with pytest.raises(UserError, match=says):
        ImageSet(**(good | change), classes=("a", "b", "c"), name="toy")


def test_subsets_keep_labels_and_names():
    whole = image_set()
    some = whole.only_classes([2, 0])
    assert set(some.labels.tolist()) == {0, 2} and some.classes == whole.classes and len(some) == 7
    assert torch.equal(whole.of_class(2).images, whole.images[2::3])
    assert torch.equal(whole.take([3, 1]).images, whole.images[[3, 1]])
    assert torch.equal(whole.take(whole.labels == 1).labels, torch.tensor([1, 1, 1]))
    assert len(whole.take(slice(0, 0)).grey()) == 0
    for ids in ([3], [-1], []):
        with pytest.raises(UserError, match="classes: toy has class ids 0..2"):
            whole.only_classes(ids)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [17, 64])
def test_resize_is_pillows_antialiased_bilinear(channels, side):
    whole = image_set(3, 40, channels)
    mode = "L" if channels == 1 else "RGB"
    for ours, source in zip(whole.sized(side).images, whole.images, strict=True):
        picture = Image.fromarray(source.permute(1, 2, 0).numpy().squeeze()).convert(mode)
        oracle = np.atleast_3d(np.array(picture.resize((side, side), Image.Resampling.BILINEAR)))
        assert np.abs(ours.permute(1, 2, 0).numpy().astype(int) - oracle).max() <= 1


def test_resize_through_float_agrees(monkeypatch):
    data = image_set(5, 20).images
    direct = resized(data, 13)
    monkeypatch.setattr(images, "CHUNK", 2)
    through = images._chunked(
        data, lambda x: torch.nn.functional.interpolate(x, size=(13, 13), mode="bilinear", antialias=True)
    )
    assert (direct.int() - through.int()).abs().max() <= 1


def test_grey_is_pillows_luma_and_rgb_repeats():
    whole = image_set(4, 6, 3)
    for ours, source in zip(whole.grey().images, whole.images, strict=True):
        oracle = np.array(Image.fromarray(source.permute(1, 2, 0).numpy()).convert("L"))
        assert np.abs(ours[0].numpy().astype(int) - oracle).max() <= 1
    grey = image_set()
    assert torch.equal(grey.rgb().images[:, 2:], grey.images) and grey.grey() is grey
    assert torch.equal(grey.rgb().grey().images, grey.images)


def test_crop_is_central():
    whole = image_set(2, 8)
    assert torch.equal(whole.cropped(4).images, whole.images[:, :, 2:6, 2:6])
    with pytest.raises(UserError, match="crop=9 is larger"):
        whole.cropped(9)


def test_require_per_class():
    whole = image_set(10)  # 4, 3, 3
    require_per_class(whole, 3)
    require_per_class(whole, 4, [0])
    with pytest.raises(UserError, match=r"toy: expected at least 4 images per class, found: 'b' has 3, 'c' has 3"):
        require_per_class(whole, 4)
    with pytest.raises(UserError, match="'b' has 0, 'c' has 0"):
        require_per_class(whole.of_class(0), 1)
    with pytest.raises(UserError, match="class ids 0..2"):
        require_per_class(whole, 1, [5])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=80), st.data())
def test_stratified_split(labels, data):
    labels = torch.tensor(labels)
    held_out = data.draw(st.integers(1, len(labels) - 1))
    train, test = splits.stratified(labels, held_out, "x")
    assert len(test) == held_out
    assert sorted(train.tolist() + test.tolist()) == list(range(len(labels)))
    share = torch.bincount(labels) * held_out / len(labels)
    taken = torch.bincount(labels[test], minlength=len(share))
    assert float((taken - share).abs().max()) < 1
    again = splits.stratified(labels, held_out, "x")
    assert torch.equal(test, again[1])


def test_streams_of_splits_have_names():
    assert not torch.equal(splits.shuffled(50, "a", 0), splits.shuffled(50, "a", 1))
    with pytest.raises(UserError, match="between 1 and 2"):
        splits.stratified(torch.tensor([0, 1, 1]), 3)


# ---------------------------------------------------------------- folders


def test_folder_classes_are_in_numeric_order(root):
    faces(root)
    loaded = Folder(path="faces").load()
    assert loaded.classes == ("1", "2", "10")
    assert loaded.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert loaded.images.float().mean((1, 2, 3)).tolist() == [10, 11, 20, 21, 100, 101]
    assert sorted(["b10", "b9", "a", "10", "9"], key=natural) == ["9", "10", "a", "b9", "b10"]


def test_folder_ignores_what_systems_leave_behind(root):
    folder = faces(root)
    for name in (".DS_Store", "Thumbs.db"):
        (folder / "1" / name).write_bytes(b"x")
    (folder / ".cache").mkdir()
    assert len(Folder(path="faces").load()) == 6


def test_common_fields(root):
    faces(root, per_class=9)
    whole = Folder(path="faces").load()
    some = Folder(path="faces", classes=(2, 0), limit=7, size=4, channels=3).load()
    assert some.images.shape == (7, 3, 4, 4) and set(some.labels.tolist()) <= {0, 2}
    levels = some.images[:, 0, 0, 0]
    assert len(set(levels.tolist())) == 7 and set(levels.tolist()) <= set(whole.images[:, 0, 0, 0].tolist())
    fewer = Folder(path="faces", classes=(2, 0), limit=3, size=4, channels=3).load()
    assert torch.equal(fewer.images, some.images[:3]), "a smaller limit is a prefix"
    other = Folder(path="faces", classes=(2, 0), limit=7, size=4, channels=3, seed=1).load()
    assert not torch.equal(other.images, some.images)
    with pytest.raises(UserError, match="faces has class ids 0..2, found .7."):
        Folder(path="faces", classes=(7,)).load()


def test_nothing_is_stretched_and_the_crop_is_central(root):
    (root / "wide" / "a").mkdir(parents=True)
    picture = np.zeros((20, 60), np.uint8)
    picture[:, 20:40] = 200
    picture[8:12, 28:32] = 100
    Image.fromarray(picture).save(root / "wide" / "a" / "1.png")
    assert int(Folder(path="wide", size=10).load().images.min()) >= 99, "the black sides are cut off"
    assert Folder(path="wide", crop=4).load().images.unique().tolist() == [100]
    with pytest.raises(UserError, match=r"1.png: crop=21 is larger than the image \(60×20 px\)"):
        Folder(path="wide", crop=21).load()


def test_orientation_tag_is_obeyed(root):
    (root / "photo" / "a").mkdir(parents=True)
    picture = Image.fromarray(np.array([[0, 255], [0, 0]], np.uint8))
    exif = picture.getexif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    picture.save(root / "photo" / "a" / "1.png", exif=exif)
    assert Folder(path="photo").load().images[0, 0].tolist() == [[0, 0], [0, 255]]


def broken(kind: str) -> Callable[[Path], object]:
    """A function that spoils the folder of faces."""
    whole = png(pixels(8, 8))

    def odd(array: np.ndarray) -> Callable[[Path], object]:
        return lambda folder: (folder / "2" / "odd.png").write_bytes(png(array))

    return {
        "truncated": lambda folder: (folder / "2" / "odd.png").write_bytes(whole[:-30]),
        "text": lambda folder: (folder / "2" / "odd.png").write_text("no image"),
        "other size": odd(pixels(9, 8)),
        "colour": odd(pixels(8, 8, 3)),
        "16 bit": odd(np.full((8, 8), 40000, np.uint16)),
        "empty class": lambda folder: (folder / "3").mkdir(),
        "nested": lambda folder: (folder / "2" / "more").mkdir(),
        "bomb": odd(pixels(60, 60)),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("truncated", r"odd\.png: expected a whole image"),
        ("text", r"odd\.png: expected an image, found something else"),
        (
            "other size",
            r"odd\.png: expected 8×8 px with 1 channel\(s\) as in .*0\.png, found 8×9 px.*set `size`",
        ),
        ("colour", r"odd\.png: expected 8×8 px with 1 channel\(s\) as in .*, found 8×8 px with 3"),
        ("16 bit", r"odd\.png: expected an 8-bit"),
        ("empty class", r"found nothing in .*3"),
        ("nested", r"found a folder inside a class: .*more"),
        ("bomb", r"odd\.png: far too many pixels"),
    ],
)
def test_a_spoilt_folder_is_one_clear_line(root, monkeypatch, kind, says):
    folder = faces(root)
    broken(kind)(folder)
    if kind == "bomb":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with pytest.raises(UserError, match=says) as caught:
        Folder(path="faces").load()
    assert "\n" not in str(caught.value)


def test_absent_folders(root):
    with pytest.raises(UserError, match="one subfolder per class.*found no folder .*nowhere.*MI_DATA"):
        Folder(path="nowhere").load()
    (root / "flat").mkdir()
    with pytest.raises(UserError, match="found no subfolder"):
        Folder(path="flat").load()


def test_a_set_that_does_not_fit_in_memory_is_refused(root, monkeypatch):
    faces(root)
    free = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=300))
    monkeypatch.setattr(images, "psutil", free)
    with pytest.raises(UserError, match="Folder: 6 images of 64 bytes need .* set `size`"):
        Folder(path="faces").load()
    assert len(Folder(path="faces", size=4).load()) == 6


# ---------------------------------------------------------------- keys


class Mean(Stage):
    source: AnySource


def test_key_follows_content_and_not_place(root, monkeypatch, tmp_path_factory):
    folder = faces(root)
    key = Mean(source=Folder(path="faces")).key
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(folder, elsewhere / "other")
    assert Mean(source=Folder(path=elsewhere / "other")).key == key
    monkeypatch.setenv("MI_DATA", str(elsewhere))
    assert Mean(source=Folder(path="other")).key == key
    assert Mean(source=Folder(path="other", size=4)).key != key
    assert Mean(source=Shuffled(source=Folder(path="other"))).key != key
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(elsewhere / "other" / "1" / "0.png")
    assert Mean(source=Folder(path="other")).key != key


def test_changed_data_are_loaded_again_and_unchanged_ones_are_not(root):
    folder = faces(root)
    source = Folder(path="faces")
    before, shuffled = source.load(), Shuffled(source=source, patch=4).load()
    assert source.load() is before
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(folder / "1" / "0.png")
    assert source.load().images[0].unique().tolist() == [77]
    assert Shuffled(source=source, patch=4).load().images[0].unique().tolist() == [77]
    assert shuffled.images[0].unique().tolist() == [10]


def test_large_sets_are_known_by_size_and_date(root, monkeypatch):
    folder = faces(root)
    source = Folder(path="faces")
    by_content = source.fingerprint()
    monkeypatch.setattr(images, "DIGEST_LIMIT", 10)
    by_date = source.fingerprint()
    assert by_content != by_date == source.fingerprint()
    os.utime(folder / "1" / "0.png", ns=(1, 1))
    assert source.fingerprint() != by_date
    monkeypatch.undo()
    os.environ["MI_DATA"] = str(root)
    assert source.fingerprint() == by_content


# ---------------------------------------------------------------- Parquet


def parquet(path: Path, arrays: list[np.ndarray], labels: list[int], names: list[str] | None = None) -> Path:
    table = pyarrow.table(
        {
            "img": [{"bytes": png(a), "path": None} for a in arrays],
            "label": pyarrow.array(labels, pyarrow.int64()),
        }
    )
    if names:
        info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path)
    return path


def test_parquet_over_two_files(root):
    arrays = [pixels(5, 5, 3, seed=i) for i in range(6)]
    folder = root / "cifar10" / "plain_text"
    parquet(folder / "train-00001-of-00002.parquet", arrays[4:], [0, 1], ["cat", "dog"])
    parquet(folder / "train-00000-of-00002.parquet", arrays[:4], [1, 0, 1, 1], ["cat", "dog"])
    parquet(folder / "test-00000-of-00001.parquet", arrays[:1], [0])
    whole = Parquet().load()
    assert whole.classes == ("cat", "dog") and whole.labels.tolist() == [1, 0, 1, 1, 0, 1]
    assert torch.equal(whole.images, torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2))
    cats = Parquet(classes=(0,)).load()
    assert torch.equal(cats.images, whole.images[[1, 4]]) and cats.labels.tolist() == [0, 0]
    assert Parquet(split="test").load().classes == ("0",)
    assert len(Parquet(path=folder / "t*-00000*.parquet").load()) == 5


def test_spoilt_parquet_files(root):
    file = parquet(root / "p" / "train-0.parquet", [pixels(4, 4)] * 3, [0, 1, 0])
    with pytest.raises(UserError, match=r"column 'image': .*train-0.parquet has img, label"):
        Parquet(path="p/*.parquet", image="image").load()
    with pytest.raises(UserError, match="expected Parquet files .*valid-.*found none"):
        Parquet(path="p/{split}-*.parquet", split="valid").load()
    table = pyarrow.table({"img": [{"bytes": png(pixels(4, 4))}, {"bytes": b"junk"}], "label": [0, 1]})
    pyarrow.parquet.write_table(table, root / "p" / "junk-0.parquet")
    with pytest.raises(UserError, match="p/junk row 1: expected an image"):
        Parquet(path="p/{split}-*.parquet", split="junk").load()
    table = pyarrow.table({"img": [{"bytes": png(pixels(4, 4))}, {"bytes": None}], "label": [0, 1]})
    pyarrow.parquet.write_table(table, root / "p" / "null-0.parquet")
    with pytest.raises(UserError, match="row 1 of column 'img' holds no image bytes"):
        Parquet(path="p/{split}-*.parquet", split="null").load()
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="train-0.parquet: expected a whole Parquet file"):
        Parquet(path="p/train-*.parquet").load()


# ---------------------------------------------------------------- torchvision's datasets


def idx(path: Path, array: np.ndarray) -> None:
    """An idx file of bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(head + array.tobytes())


def idx_pair(root: Path, folder: str, prefix: str, n: int, labels: np.ndarray) -> np.ndarray:
    data = pixels(n, 28, 28, seed=n)
    idx(root / folder / "raw" / f"{prefix}-images-idx3-ubyte", data)
    idx(root / folder / "raw" / f"{prefix}-labels-idx1-ubyte", labels.astype(np.uint8))
    return data


def test_mnist(root):
    train = idx_pair(root, "MNIST", "train", 20, np.arange(20) % 10)
    test = idx_pair(root, "MNIST", "t10k", 5, np.arange(5))
    loaded = Torchvision(split="all").load()
    assert torch.equal(loaded.images[:, 0], torch.from_numpy(np.concatenate([train, test])))
    assert loaded.labels.tolist() == [*range(10), *range(10), *range(5)] and loaded.classes[7] == "7"
    assert len(Torchvision().load()) == 20 and len(Torchvision(split="test").load()) == 5


def test_emnist_letters_are_upright_and_counted_from_zero(root):
    data = idx_pair(root, "EMNIST", "emnist-letters-train", 26, np.arange(1, 27))
    source = Torchvision(name="EMNIST-letters")
    loaded = source.load()
    assert torch.equal(loaded.images[:, 0], torch.from_numpy(data).transpose(1, 2))
    assert loaded.labels.tolist() == list(range(26)) and "".join(loaded.classes) == "abcdefghijklmnopqrstuvwxyz"
    as_published = source.model_copy(update={"orient_fix": False}).load()
    assert torch.equal(as_published.images[:, 0], torch.from_numpy(data))


def test_unknown_and_absent_datasets(root):
    with pytest.raises(UserError, match=r"expected one of MNIST, .*, found 'Cifar-10'; did you mean CIFAR10\?"):
        Torchvision(name="Cifar-10").load()
    with pytest.raises(UserError, match=r"MNIST: expected the unpacked file MNIST/raw/train-images.*set MI_DATA"):
        Torchvision().load()
    for name in images.KNOWN:
        with pytest.raises(UserError, match=f"^{name}: expected"):
            Mean(source=Torchvision(name=name)).key  # noqa: B018


def test_truncated_idx_file(root):
    idx_pair(root, "MNIST", "train", 20, np.arange(20) % 10)
    file = root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(UserError, match="MNIST: the files in .* cannot be read .*truncated") as caught:
        Torchvision().load()
    assert "\n" not in str(caught.value)


def cifar(root: Path) -> np.ndarray:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    data = pixels(12, 3072)
    for i in range(6):
        name = f"data_batch_{i + 1}" if i < 5 else "test_batch"
        (folder / name).write_bytes(pickle.dumps({"data": data[2 * i : 2 * i + 2], "labels": [i, 9]}))
    names = ["plane", *"abcdefghi"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    return data


def test_cifar10(root, monkeypatch):
    from torchvision import datasets

    data = cifar(root)
    with pytest.raises(UserError, match="CIFAR10: the files in .* cannot be read .*corrupted"):
        Torchvision(name="CIFAR10").load()  # checksums differ, so nothing is unpickled
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda path, md5=None: True)
    loaded = Torchvision(name="CIFAR10").load()
    assert torch.equal(loaded.images.flatten(1), torch.from_numpy(data[:10]))
    assert loaded.images.shape == (10, 3, 32, 32) and loaded.classes[0] == "plane"
    assert loaded.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]


def celeba(root: Path) -> None:
    """Four tiny aligned images of the identities 3, 1, 3, 2; the last is in the test part."""
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    files = [f"{i:06d}.jpg" for i in range(1, 5)]
    for i, file in enumerate(files):
        Image.fromarray(np.full((22, 18, 3), 50 * i, np.uint8)).save(folder / "img_align_celeba" / file)
    (folder / "identity_CelebA.txt").write_text("".join(f"{f} {k}\n" for f, k in zip(files, "3132", strict=True)))
    (folder / "list_eval_partition.txt").write_text("".join(f"{f} {k}\n" for f, k in zip(files, "0002", strict=True)))
    for name in ("list_attr_celeba", "list_bbox_celeba", "list_landmarks_align_celeba"):
        rows = "".join(f"{f} 1 1\n" for f in files)
        (folder / f"{name}.txt").write_text(f"4\nx y\n{rows}")


def test_celeba_by_identity(root, monkeypatch):
    from torchvision import datasets

    celeba(root)
    with pytest.raises(UserError, match="CelebA: .* cannot be read"):
        Torchvision(name="CelebA").load()
    monkeypatch.setattr(datasets.CelebA, "_check_integrity", lambda self: True)
    loaded = Torchvision(name="CelebA", split="all", crop=12, size=6).load()
    assert loaded.labels.tolist() == [2, 0, 2, 1] and loaded.classes == ("1", "2", "3")
    assert loaded.images.shape == (4, 3, 6, 6)
    assert (loaded.images.float().mean((1, 2, 3)) - torch.tensor([0.0, 50, 100, 150])).abs().max() < 2
    assert len(Torchvision(name="CelebA").load()) == 3
    assert len(Torchvision(name="CelebA", split="all", classes=(2,)).load()) == 2


# ---------------------------------------------------------------- sources without files of the user


def test_uci_digits_split():
    train, test, whole = (UciDigits(split=split).load() for split in ("train", "test", "all"))
    assert (len(train), len(test), len(whole)) == (1347, 450, 1797)
    rows = [Tensor.tolist(part.images.flatten(1)) for part in (train, test, whole)]
    assert sorted(rows[0] + rows[1]) == sorted(rows[2])
    share = torch.bincount(test.labels) / torch.bincount(whole.labels)
    assert float((share - 450 / 1797).abs().max()) < 0.005
    assert int(whole.images.max()) == 255 and whole.images.shape[1:] == (1, 8, 8)
    means = torch.stack([train.of_class(i).float().mean(0).flatten() for i in range(10)])
    nearest = torch.cdist(test.float().flatten(1), means).argmin(1)
    assert float((nearest == test.labels).float().mean()) > 0.85, "labels belong to their images"


def test_scenes_are_pieces_of_the_photographs():
    source = Scenes(count=40, side=24)
    pieces = source.load().images
    assert pieces.shape == (40, 3, 24, 24) and len({piece.numpy().tobytes() for piece in pieces}) == 40
    whole = images._photographs()
    for piece in pieces[:5]:
        corner = (whole == piece[:, :1, :1]).all(1).nonzero().tolist()
        assert any(torch.equal(whole[i, :, y : y + 24, x : x + 24], piece) for i, y, x in corner)
    assert torch.equal(Scenes(count=40, side=24).load().images, pieces)
    assert not torch.equal(Scenes(count=40, side=24, seed=1).load().images, pieces)


def patches(data: Tensor, side: int) -> Tensor:
    """(N, patches, pixels), sorted, to compare as multisets."""
    cut = data.unfold(2, side, side).unfold(3, side, side).flatten(2, 3).transpose(1, 2).flatten(2)
    return torch.stack([torch.tensor(sorted(image.tolist())) for image in cut])


def test_shuffled_patches_are_the_same_patches_elsewhere():
    base = UciDigits(size=32, limit=20)
    whole, mixed = base.load(), Shuffled(source=base, patch=8).load()
    assert torch.equal(patches(mixed.images, 8), patches(whole.images, 8))
    assert torch.equal(mixed.labels, whole.labels) and mixed.name == "UCI digits train, patches shuffled"
    assert (mixed.images != whole.images).flatten(1).any(1).float().mean() > 0.9
    pixel = Shuffled(source=base, of="pixels").load()
    assert torch.equal(patches(pixel.images, 1), patches(whole.images, 1))
    assert not torch.equal(patches(pixel.images, 8), patches(whole.images, 8))
    with pytest.raises(UserError, match="patch: expected a divisor"):
        Shuffled(source=base, patch=5).load()


def test_every_image_is_shuffled_in_its_own_way():
    same = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).expand(50, 3, -1, -1).contiguous()
    mixed = images.shuffled_patches(same, 2, torch.Generator().manual_seed(0))
    assert len({image.numpy().tobytes() for image in mixed}) == 50
    assert torch.equal(mixed[:, 0], mixed[:, 2]), "channels stay together"


@pytest.mark.parametrize(("spectrum", "slope"), [("white", 0.0), ("1/f", -2.0)])
def test_noise_has_its_spectrum(spectrum, slope):
    source = Noise(spectrum=spectrum, count=300)
    noise = source.load().images.double()
    power = torch.fft.rfft2(noise - noise.mean((2, 3), keepdim=True)).abs().square().mean((0, 1))
    frequency = torch.hypot(torch.fft.fftfreq(32)[:, None], torch.fft.rfftfreq(32)[None]).double()
    use = (frequency > 0.05) & (frequency < 0.45)
    fitted = np.polyfit(frequency[use].log().numpy(), power[use].log().numpy(), 1)[0]
    assert fitted == pytest.approx(slope, abs=0.15)
    assert float(noise.mean()) == pytest.approx(127.5, abs=1) and 46 < float(noise.std()) < 51
    assert torch.equal(Noise(spectrum=spectrum, count=300).load().images, source.load().images)
    assert not torch.equal(Noise(spectrum=spectrum, count=300, seed=1).load().images, source.load().images)


def test_sources_are_told_apart_by_kind():
    adapter = TypeAdapter(AnySource)
    nested = adapter.validate_python({"kind": "shuffled", "source": {"kind": "uci-digits", "size": 32}})
    assert nested == Shuffled(source=UciDigits(size=32))
    assert "kind: uci-digits" in nested.recipe()
    with pytest.raises(UserError, match="sise"):
        UciDigits(sise=32)


# ---------------------------------------------------------------- real data, where MI_DATA has them


@pytest.mark.skipif(not (REAL / "MNIST" / "raw").is_dir(), reason="MI_DATA has no MNIST/raw")
def test_real_mnist(monkeypatch):
    monkeypatch.setenv("MI_DATA", str(REAL))
    test = Torchvision(split="test").load()
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert torch.bincount(test.labels).tolist() == counts
    assert float(test.images.float().mean()) / 255 == pytest.approx(0.1325, abs=1e-3)


@pytest.mark.skipif(not list(REAL.glob("cifar10/plain_text/test-*")), reason="MI_DATA has no cifar10/plain_text")
def test_real_cifar10(monkeypatch):
    monkeypatch.setenv("MI_DATA", str(REAL))
    test = Parquet(split="test", limit=500).load()
    assert test.images.shape == (500, 3, 32, 32) and len(test.classes) == 10
    assert re.search("test", test.name)

"""What `score` reads: arrays of any usual layout and range, folders, npz and Parquet files; and what it refuses."""

import io
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mi_utils.data import ImageSet, UciDigits
from mi_utils.data.arrays import declared, from_arrays, pixels, read_npz
from mi_utils.errors import UserError
from mi_utils.export import write
from mi_utils.runtime import generator
from mi_utils.scoring.align import align
from mi_utils.scoring.inputs import Labelled, read


def noise(n: int, channels: int = 1, px: int = 28, *words: int | str) -> torch.Tensor:
    """Random images (n, channels, px, px)."""
    rng = generator("noise", n, channels, *words)
    return torch.randint(0, 256, (n, channels, px, px), generator=rng, dtype=torch.uint8)


def labelled(labels: list[int], images: torch.Tensor | None = None, **fields: object) -> Labelled:
    """Labelled noise that was never on disk."""
    given = {"names": None, "typed": "toy"} | fields
    return Labelled(noise(len(labels)) if images is None else images, torch.tensor(labels), **given)


# --- arrays ------------------------------------------------------------------------------------------------


LAYOUTS = {
    "n c h w": lambda x: x,
    "n h w c": lambda x: np.moveaxis(x, 1, 3),
    "n h w": lambda x: x[:, 0],
}
RANGES = {
    "uint8": lambda x: x,
    "float in [0, 1]": lambda x: x / 255,
    "float in [-1, 1]": lambda x: x / 127.5 - 1,
}


@given(
    layout=st.sampled_from(sorted(LAYOUTS)),
    range_=st.sampled_from(sorted(RANGES)),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    n=st.integers(1, 4),
    channels=st.sampled_from([1, 3]),
    side=st.integers(4, 9),
    seed=st.integers(0, 99),
)
def test_layout_and_range_are_recognised_and_nothing_is_lost(layout, range_, dtype, n, channels, side, seed):
    if layout == "n h w":
        channels = 1
    expected = np.random.default_rng(seed).integers(0, 256, (n, channels, side, side + 5), dtype=np.uint8)
    expected[0, 0, 0, :2] = 0, 255  # so that the range is beyond doubt
    saved = LAYOUTS[layout](RANGES[range_](expected))
    found, took = pixels(saved if range_ == "uint8" else saved.astype(dtype), "toy")
    assert took == range_ and found.dtype == torch.uint8
    # Half precision has fewer steps than grey levels near 1, a quarter of a level at most.
    assert np.array_equal(found.numpy(), expected)


def ramp(low: float, high: float) -> torch.Tensor:
    return torch.linspace(low, high, 32).view(2, 1, 4, 4)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (ramp(0, 255), "expected float images in \\[0, 1\\] or \\[-1, 1\\], found 0..255; clip them"),
        (ramp(-1.2, 1), "found -1.2..1;"),
        (ramp(-0.03, 1), "found -0.03..1 tells neither"),
        (torch.zeros(2, 1, 4, 4), "found 0..0 tells neither"),
        (ramp(0, 1).where(ramp(0, 1) < 0.9, torch.nan), "expected finite pixels, found 4 NaN"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.int64), "expected uint8 or float images, found torch.int64"),
        (torch.zeros(0, 1, 4, 4, dtype=torch.uint8), "expected at least 1 image"),
        (torch.zeros(2, 4, 4, 4, dtype=torch.uint8), "1 or 3 channels, found \\(2, 4, 4, 4\\)"),
        (torch.zeros(2, 3, 4, 3, dtype=torch.uint8), "may be \\(N,C,H,W\\) or \\(N,H,W,C\\)"),
        (torch.zeros(4, 4, dtype=torch.uint8), "found \\(4, 4\\)"),
        (["a", "b"], "expected an array of numbers"),
    ],
)
def test_arrays_in_doubt_are_refused_in_one_line(images, said):
    with pytest.raises(UserError, match=said) as caught:
        pixels(images, "toy")
    assert "\n" not in str(caught.value)


def test_rounding_beyond_the_range_is_forgiven():
    assert pixels(ramp(-1e-6, 1.00001), "toy")[1] == "float in [0, 1]"
    assert pixels(ramp(-1.00001, 1), "toy")[1] == "float in [-1, 1]"


@pytest.mark.parametrize("labels", [[0.0, 1.0], [0], [[0], [1]], [True, False]])
def test_labels_are_one_whole_number_an_image(labels):
    with pytest.raises(UserError, match="toy: labels: expected 2 integers"):
        from_arrays(noise(2), labels, "toy")


def test_read_only_arrays_are_copied():
    images = noise(2).numpy()
    images.flags.writeable = False
    assert torch.equal(from_arrays(images, [3, 7], "toy").images, noise(2))


# --- npz ---------------------------------------------------------------------------------------------------


def test_an_npz_is_read_with_its_seeds(tmp_path: Path):
    seeds = [9, 2, 9, 2]
    np.savez(tmp_path / "a.npz", images=noise(4).numpy(), labels=[3, 7, 11, 3], seeds=seeds, extra=[1])
    two, nine = read(tmp_path / "a.npz", "RECONSTRUCTIONS")
    assert torch.equal(two.images, noise(4)[[1, 3]]) and two.labels.tolist() == [7, 3]
    assert nine.labels.tolist() == [3, 11] and nine.typed == str(tmp_path / "a.npz")


def test_an_npz_of_objects_is_never_unpickled(tmp_path: Path):
    np.savez(tmp_path / "a.npz", images=np.array([{}], dtype=object), labels=[0])
    with pytest.raises(UserError, match="images.npy holds Python objects, which are never loaded"):
        read_npz(tmp_path / "a.npz")


def header(shape: tuple[int, ...], content: bytes) -> bytes:
    """An npy file that promises uint8 of this shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue() + content


@pytest.mark.parametrize("shape", [(10**6, 10**3, 10**3), (1, 2, 3)])
def test_a_header_that_promises_other_than_the_file_holds_is_refused(tmp_path: Path, shape: tuple[int, ...]):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", header(shape, bytes(100)))
    with pytest.raises(UserError, match="images.npy promises .* bytes and holds 100"):
        read_npz(tmp_path / "a.npz")


def test_a_file_that_unpacks_to_more_than_the_memory_is_not_unpacked(tmp_path: Path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((1000, 32, 32), np.uint8), labels=np.zeros(1000, int))
    assert (tmp_path / "a.npz").stat().st_size < 20_000
    assert declared(tmp_path / "a.npz") == {"images": 1024 * 1000, "labels": 8000}
    monkeypatch.setattr(np, "load", None)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("M", (), {"available": 10**6}))
    with pytest.raises(UserError, match="unpacks to .* GiB, found .* of memory free"):
        read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("cut", [0, 30, 400])
def test_a_broken_npz_is_one_line(tmp_path: Path, cut: int):
    np.savez(tmp_path / "whole.npz", images=noise(2).numpy(), labels=[0, 1])
    (tmp_path / "a.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:cut])
    with pytest.raises(UserError, match="expected a whole npz of plain arrays") as caught:
        read_npz(tmp_path / "a.npz")
    assert "\n" not in str(caught.value)


def test_an_npz_with_altered_bytes_is_one_line(tmp_path: Path):
    np.savez(tmp_path / "a.npz", images=noise(2).numpy(), labels=[0, 1])
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[500] ^= 255
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        read_npz(tmp_path / "a.npz")


def test_an_npz_without_images_says_what_it_has(tmp_path: Path):
    np.savez(tmp_path / "a.npz", x=noise(2).numpy(), y=[0, 1])
    with pytest.raises(UserError, match="expected an array 'images', found x, y"):
        read_npz(tmp_path / "a.npz")


# --- folders, Parquet, recipes -----------------------------------------------------------------------------


def saved(folder: Path, images: torch.Tensor, names: list[str]) -> Path:
    """PNG files of these images, one folder a class."""
    for i, (image, name) in enumerate(zip(images, names, strict=True)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()).save(
            folder / name / f"{i:03d}.png"
        )
    return folder


def test_folders_that_are_numbers_are_class_ids(tmp_path: Path):
    images = noise(4, 3)
    (found,) = read(saved(tmp_path / "a", images, ["11", "3", "7", "3"]), "private")
    assert found.labels.tolist() == [3, 3, 7, 11] and found.names == {3: "3", 7: "7", 11: "11"}
    assert torch.equal(found.images, images[[1, 3, 2, 0]])
    assert found.files == ("3/001.png", "3/003.png", "7/002.png", "11/000.png")


def test_named_folders_are_counted_in_order(tmp_path: Path):
    (found,) = read(saved(tmp_path / "a", noise(3), ["dog", "cat 10", "cat 9"]), "private")
    assert found.names == {0: "cat 9", 1: "cat 10", 2: "dog"} and found.labels.tolist() == [0, 1, 2]


def test_two_folders_of_one_class_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="one folder per class, found several for \\[3\\]"):
        read(saved(tmp_path / "a", noise(2), ["3", "03"]), "private")


def test_a_flat_folder_is_enough_where_no_labels_are_needed(tmp_path: Path):
    folder = saved(tmp_path, noise(3), ["a"] * 3) / "a"
    (found,) = read(folder, "prior", labelled=False)
    assert found.labels is None and len(found) == 3
    with pytest.raises(UserError, match="expected one subfolder per class"):
        read(folder, "private")
    (folder / "x").mkdir()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="expected image files or one subfolder per class, found nothing"):
        read(tmp_path / "empty", "prior", labelled=False)


def parquet(path: Path, images: torch.Tensor, labels: list[int], image: str = "img", label: str = "label") -> Path:
    """A Parquet file as the Hub has them."""
    rows = []
    for x in images:
        file = io.BytesIO()
        Image.fromarray(x[0].numpy() if len(x) == 1 else x.permute(1, 2, 0).numpy()).save(file, "png")
        rows.append({"bytes": file.getvalue(), "path": None})
    pyarrow.parquet.write_table(pyarrow.table({image: rows, label: labels}), path)
    return path


def test_a_parquet_file_is_read_whatever_its_columns_are_called(tmp_path: Path):
    path = parquet(tmp_path / "a [1].parquet", noise(3), [3, 11, 3], "image", "fine_label")
    (found,) = read(path, "private")
    assert found.labels.tolist() == [3, 11, 3] and found.names is None
    assert torch.equal(found.images, noise(3).expand(-1, 3, -1, -1))
    with pytest.raises(UserError, match="expected one image column .* found img, what; rename"):
        read(parquet(tmp_path / "b.parquet", noise(1), [0], label="what"), "private")
    (tmp_path / "c.parquet").write_bytes(b"no")
    with pytest.raises(UserError, match="private: .* cannot be read as Parquet"):
        read(tmp_path / "c.parquet", "private")


def test_a_recipe_of_a_data_set_is_read():
    text = "{kind: uci-digits, split: test, size: 28, classes: [3, 7]}"
    (found,) = read(text, "private")
    expected = UciDigits(split="test", size=28, classes=(3, 7)).load()
    assert torch.equal(found.images, expected.images) and torch.equal(found.labels, expected.labels)
    (same,) = read(expected, "private")
    assert torch.equal(same.images, expected.images) and same.names[3] == "3"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nowhere", "private: expected a folder, .* found no file or folder nowhere"),
        ("{kind: uci}", "private: .*kind.*uci"),
        ("{kind: uci-digits, sise: 2}", "private: .*sise"),
        ("{kind: ", "private: expected a YAML mapping"),
        (7, "private: expected a folder, .* found int"),
        ((noise(2), None), "private: expected `labels`"),
        (__file__, "private: expected a folder, .* save it as .npz"),
    ],
)
def test_what_is_no_set_of_images_is_one_line(given, said):
    with pytest.raises(UserError, match=said) as caught:
        read(given, "private")
    assert "\n" not in str(caught.value)


# --- alignment ---------------------------------------------------------------------------------------------


def aligned(seeds: list[Labelled], private: Labelled, size: int | None = None, **others: Labelled):
    return align(seeds, private, others, size, 28)


def test_exported_folders_match_by_number_despite_leading_zeros(tmp_path: Path):
    images, labels = noise(4), torch.tensor([3, 7, 11, 3])
    write(images, labels, tmp_path / "out")
    (made,) = read(tmp_path / "out", "RECONSTRUCTIONS")
    assert sorted(made.names.values()) == ["03", "07", "11"]
    (private,) = read(saved(tmp_path / "private", noise(4, 1, 28, "p"), ["3", "7", "11", "12"]), "private")
    found = aligned([made], private)
    assert found.classes == {3: "3", 7: "7", 11: "11"} and found.labels[0].tolist() == [3, 3, 7, 11]
    assert len(found.private) == 3 and any("not attacked" in note for note in found.notes)
    assert torch.equal(found.seeds[0].images, images[[0, 3, 1, 2]]), "grey again"


def test_folders_match_by_name_and_plain_ids_count_the_private_folders(tmp_path: Path):
    (private,) = read(saved(tmp_path / "p", noise(3, 1, 28, "p"), ["ant", "bee", "cat"]), "private")
    (named,) = read(saved(tmp_path / "r", noise(2), ["cat", "bee"]), "RECONSTRUCTIONS")
    found = aligned([named, labelled([2, 1])], private)
    assert found.labels[0].tolist() == [1, 2] and found.labels[1].tolist() == [2, 1]
    assert found.classes == {1: "bee", 2: "cat"}
    assert any("class ids without names count the private classes in order: 0 = ant" in n for n in found.notes)


def test_foreign_class_names_are_listed(tmp_path: Path):
    (private,) = read(saved(tmp_path / "p", noise(2, 1, 28, "p"), ["ant", "bee"]), "private")
    (made,) = read(saved(tmp_path / "r", noise(3), ["ant", "dog", "elk"]), "RECONSTRUCTIONS")
    with pytest.raises(
        UserError, match="classes named as those of PRIVATE \\(ant, bee\\), found 2 others: 'dog', 'elk'"
    ):
        aligned([made], private)


def test_classes_without_private_images_are_named_with_their_numbers():
    said = "found 2 of 3 without private images: 8 \\(2 reconstructions\\), 9 \\(1 reconstructions\\)"
    with pytest.raises(UserError, match=said):
        aligned([labelled([0, 8, 8]), labelled([9])], labelled([0, 1], noise(2, 1, 28, "p")))


def test_mixed_sizes_are_refused_with_a_remedy_and_resized_when_told():
    small, large = labelled([0, 1], noise(2, 1, 32)), labelled([0, 1], noise(2, 1, 64))
    with pytest.raises(UserError, match="expected private images' 32×32 px, found .* 64×64; add --size 32"):
        aligned([large], small)
    found = aligned([large], small, size=32)
    assert found.seeds[0].images.shape == (2, 1, 32, 32) and torch.equal(found.private.images, small.images)
    assert "resized to 32×32 px: reconstructions, seed 0" in found.notes
    wide = labelled([0], torch.cat([noise(1, 1, 64), torch.zeros(1, 1, 64, 64, dtype=torch.uint8)], 3))
    square = aligned([wide], small, size=32).seeds[0].images
    middle = aligned([labelled([0], wide.images[:, :, :, 32:96])], small, size=32).seeds[0].images
    assert torch.equal(square, middle), "cut, not squeezed"
    with pytest.raises(UserError, match="the perceptual networks need 28 px a side, found 8×8; add --size 28"):
        aligned([labelled([0], noise(1, 1, 8))], labelled([0], noise(1, 1, 8)))


def test_colour_is_settled_once_and_said():
    grey, colour = labelled([0, 1]), labelled([0, 1], noise(2, 3))
    found = aligned([colour], grey)
    assert found.private.images.shape[1] == 3 and torch.equal(found.private.images[:, 2], grey.images[:, 0])
    assert "grey, repeated over three channels: private" in found.notes
    saved_as_rgb = labelled([0, 1], noise(2).expand(-1, 3, -1, -1))
    found = aligned([saved_as_rgb], labelled([0, 1], noise(2, 1, 28, "p")))
    assert found.seeds[0].images.shape[1] == 1 and found.notes == ()


def test_private_images_that_repeat_are_left_out_and_counted():
    images = noise(3)[[0, 1, 0, 2, 1]]
    found = aligned([labelled([0, 1])], labelled([0, 0, 0, 1, 0], images))
    assert found.rows.tolist() == [0, 1, 3] and found.private.labels.tolist() == [0, 0, 1]
    assert "2 private images are pixel-equal to an earlier one and left out" in found.notes
    with pytest.raises(UserError, match="images of its own for class 1, found copies"):
        aligned([labelled([0, 1])], labelled([0, 0, 1], images[:3]))


def test_held_out_images_are_those_of_the_attacked_classes():
    private, made = labelled([0, 1, 2], noise(3, 1, 28, "p")), labelled([0, 2])
    holdout = labelled([0, 1, 2, 5])
    found = aligned([made], private, holdout=holdout, prior=labelled([7, 8]))
    assert found.others["holdout"].labels.tolist() == [0, 2]
    assert len(found.others["prior"]) == 2 and found.others["prior"].labels is None
    with pytest.raises(UserError, match="holdout: expected images of the attacked classes, found none in toy"):
        aligned([made], private, holdout=labelled([1]))


def test_ranges_that_were_read_are_said():
    data = ImageSet(noise(2), torch.tensor([0, 1]), ("0", "1"), "set")
    (made,) = read((noise(2) / 255.0, [0, 1]), "RECONSTRUCTIONS")
    (private,) = read(data, "private")
    assert "tensors of 2 images: pixels read as float in [0, 1]" in aligned([made], private).notes

"""Images by list: what a list may say, what enters the key, and the lists that the project writes itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter

from mi_utils.data import AnySource, Folder, Listed
from mi_utils.data.listed import celeba_identities, folder_identities, write_splits
from mi_utils.errors import UserError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with six 20×16 px images whose grey level is 10 times the number in the name."""
    monkeypatch.setenv("MI_DATA", str(tmp_path))
    (tmp_path / "img").mkdir()
    for i in range(1, 7):
        save(tmp_path / "img" / f"{i:06d}.png", np.full((20, 16, 3), 10 * i, np.uint8))
    return tmp_path


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def listed(root: Path, text: str, **fields: object) -> Listed:
    (root / "list.txt").write_text(text)
    return Listed(path="img", split="list.txt", **fields)


# ---------------------------------------------------------------- reading


def test_files_come_in_the_lists_order_with_its_labels(root: Path) -> None:
    source = listed(root, "# a comment\n000003.png 1\n\n./000001.png\t0\n000006.png 1\n")
    loaded = source.load()
    assert loaded.images[:, 0, 0, 0].tolist() == [30, 10, 60] and loaded.images.shape == (3, 3, 20, 16)
    assert loaded.labels.tolist() == [1, 0, 1] and loaded.classes == ("0", "1") and loaded.name == "img (list)"
    again = TypeAdapter(AnySource).validate_python(source.model_dump())
    assert again == source and isinstance(again, Listed)
    assert source.model_copy(update={"classes": (0,)}).load().images[0, 0, 0, 0] == 10


def test_a_list_without_labels_is_of_one_class(root: Path) -> None:
    save(root / "img" / "a b.png", np.zeros((20, 16, 3), np.uint8))
    loaded = listed(root, "a b.png\n000002.png\n").load()
    assert loaded.labels.tolist() == [0, 0] and loaded.images[:, 0, 0, 0].tolist() == [0, 20]


@pytest.mark.parametrize("side", [64, 128])
def test_on_a_canvas_the_crop_is_the_same_share_of_every_image(root: Path, side: int) -> None:
    """FaceScrub's crop of 54 px counts on 64 px images: in a file of twice the size it is 108 px."""
    frame = np.zeros((side, side, 3), np.uint8)
    margin = 5 * side // 64
    frame[margin:-margin, margin:-margin] = 200
    save(root / "img" / "framed.png", frame)
    cut = listed(root, "framed.png", canvas=64, crop=54, size=64).load().images
    assert cut.shape == (1, 3, 64, 64) and cut.min() > 100 and cut[0, 0, 32, 32] == 200
    wider = listed(root, "framed.png", canvas=64, crop=60, size=64).load().images
    assert wider[0, :, 0].max() == 0 and wider[0, :, 32, 32].min() == 200


def test_crop_counts_the_files_own_pixels_without_a_canvas(root: Path) -> None:
    """CelebA: the central 108 px of 178×218, then 64 px; the oracle is Pillow on the same window."""
    pixels = np.random.default_rng(0).integers(0, 256, (218, 178, 3), dtype=np.uint8)
    save(root / "img" / "celeb.png", pixels)
    found = listed(root, "celeb.png 0", crop=108, size=64).load().images[0].permute(1, 2, 0).numpy()
    window = Image.fromarray(pixels[55:163, 35:143]).resize((64, 64), Image.Resampling.BILINEAR)
    assert np.array_equal(found, np.array(window))


def test_the_key_knows_list_labels_and_pixels_but_not_the_place(root: Path, tmp_path: Path) -> None:
    source = listed(root, "000001.png 0\n000002.png 1\n")
    first = source.fingerprint()
    assert listed(root, "# said otherwise\n000001.png 0\n000002.png 1\n").fingerprint() == first
    assert listed(root, "000001.png 1\n000002.png 0\n").fingerprint() != first
    assert listed(root, "000001.png 0\n000003.png 1\n").fingerprint() != first
    source = listed(root, "000001.png 0\n000002.png 1\n")
    (root / "img").rename(root / "moved")
    assert source.model_copy(update={"path": root / "moved"}).fingerprint() == first
    save(root / "moved" / "000002.png", np.full((20, 16, 3), 99, np.uint8))
    assert source.model_copy(update={"path": Path("moved")}).fingerprint() != first


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("000001.png 0\nnone.png 0\n", "^split: expected the 2 files of list.txt in .*, found 1 .*such as none.png"),
        ("000001.png 0\n000002.png 0\n./000001.png 0\n", "line 3: expected every file once, found 000001.png as in li"),
        ("../secret.png 0\n", "line 1: expected a file inside the folder `path`, found ../secret.png"),
        ("a/../../secret.png\n", "line 1: expected a file inside"),
        ("/etc/secret.png 0\n", "line 1: expected a file inside the folder `path`, found /etc/secret.png"),
        ("000001.png 0\n000002.png 2\n", "expected labels 0..1 in .*, found no file of label 1 and 2 as the largest"),
        ("000001.png 999999999999\n", "found no file of label 0"),
        ("000001.png 0\n000002.png\n", "line 2: expected a label in every line or in none"),
        ("\n# nothing\n", "expected lines 'file label' in .*, found none"),
    ],
)
def test_a_wrong_list_is_one_line(root: Path, text: str, said: str) -> None:
    source = listed(root, text)
    for use in (source.load, source.fingerprint):
        with pytest.raises(UserError, match=said) as caught:
            use()
        assert "\n" not in str(caught.value)


def test_missing_and_broken_lists_are_named(root: Path) -> None:
    with pytest.raises(UserError, match="^split: expected a text file of image names, found none at .*nowhere.txt"):
        Listed(path="img", split="nowhere.txt").load()
    with pytest.raises(UserError, match="^path: expected a folder of images, found none at .*faces"):
        listed(root, "a.png 0").model_copy(update={"path": Path("faces")}).load()
    (root / "list.txt").write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(UserError, match="list.txt: expected text in UTF-8"):
        Listed(path="img", split="list.txt").load()


# ---------------------------------------------------------------- lists of our own


def people(counts: dict[str, int]) -> dict[str, str]:
    """File -> identity with so many files each, files numbered through all identities in turns."""
    names = [name for i in range(max(counts.values())) for name in counts if i < counts[name]]
    return {f"{i:06d}.jpg": name for i, name in enumerate(names, 1)}


def read(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()]


def test_the_most_frequent_identities_are_private_and_the_others_public(root: Path) -> None:
    identity = people({"9": 30, "10": 35, "7": 4, "31": 34, "8": 30, "5": 6})
    made = write_splits(identity, "splits", private=3, public=7)
    train, test, public = (read(made[name]) for name in ("train", "test", "public"))
    # 8 ties with 9 at 30 files and has the lower name.
    labels = {"8": "0", "10": "1", "31": "2"}
    assert all(labels[identity[file]] == label for file, label in train + test)
    sizes = [[sum(row[1] == label for row in rows) for label in "012"] for rows in (train, test)]
    assert sizes == [[27, 31, 31], [3, 4, 3]]
    assert {identity[file] for (file,) in public} <= {"5", "7", "9"} and len({f for (f,) in public}) == 7
    files = [row[0] for row in train + test]
    assert len(set(files)) == len(files) == 99 and made["train"] == root / "splits" / "train.txt"


def test_celebas_counts_give_the_papers_private_set(root: Path) -> None:
    """991 identities of 30-34 files and 9 of 35: 3,009 test images and 27..31 training images an identity."""
    counts = {str(i): 35 if i < 9 else 30 + i % 5 for i in range(1000)}
    made = write_splits(people(counts), "splits", private=1000, public=0)
    assert len(read(made["test"])) == 3009 and "public" not in made
    per_class = torch.bincount(torch.tensor([int(label) for _, label in read(made["train"])]))
    assert (len(per_class), int(per_class.min()), int(per_class.max())) == (1000, 27, 31)


def test_lists_depend_on_the_seed_alone_and_are_never_overwritten(root: Path) -> None:
    identity = people({"1": 20, "2": 20, "3": 20})
    sizes = {"private": 2, "public": 10}
    first = {name: path.read_text() for name, path in write_splits(identity, "a", **sizes).items()}
    backwards = dict(sorted(identity.items(), reverse=True))
    assert {n: p.read_text() for n, p in write_splits(backwards, "a", **sizes).items()} == first
    other = {n: p.read_text() for n, p in write_splits(identity, "b", **sizes, seed=1).items()}
    assert all(other[name] != first[name] for name in first)
    with pytest.raises(UserError, match="train.txt: expected no file or the same list, found another"):
        write_splits(identity, "a", **sizes, seed=1)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"private": 4, "public": 1}, "^private: expected 4 identities, found 3"),
        ({"private": 3, "public": 0}, "^private: expected 2 files of every private identity, found 1"),
        ({"private": 2, "public": 2}, "^public: expected 2 files of other identities, found 1"),
        ({"private": 2, "public": -1}, "^public: expected -1 files"),
    ],
)
def test_too_few_files_are_named(root: Path, sizes: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        write_splits(people({"1": 5, "2": 5, "3": 1}), "splits", **sizes)
    assert not (root / "splits").exists()


def test_from_the_published_table_to_images(root: Path) -> None:
    """CelebA's layout in small: the table of identities, the aligned images, and the three sources."""
    (root / "celeba").mkdir()
    (root / "img").rename(root / "celeba" / "img_align_celeba")
    rows = zip(range(1, 7), (2880, 17, 2880, 17, 2880, 5), strict=True)
    (root / "celeba" / "identity_CelebA.txt").write_text("".join(f"{i:06d}.png {who}\n" for i, who in rows))
    made = write_splits(celeba_identities(), "celeba/splits", private=2, public=1)
    train, test, public = (
        Listed(path="celeba/img_align_celeba", split=made[name], crop=12, size=8).load() for name in made
    )
    assert train.classes == test.classes == ("0", "1") and train.images.shape == (3, 3, 8, 8)
    level = {**dict.fromkeys((20, 40), 0), **dict.fromkeys((10, 30, 50), 1)}
    for part in (train, test):
        assert [level[grey] for grey in part.images[:, 0, 0, 0].tolist()] == part.labels.tolist()
    assert public.images[:, 0, 0, 0].tolist() == [60]
    with pytest.raises(UserError, match="nowhere.txt: expected CelebA's list of identities, found none"):
        celeba_identities("nowhere.txt")
    (root / "wrong.txt").write_text("202599\nImage ID\n")
    with pytest.raises(UserError, match=r"wrong.txt: expected lines 'file identity', found \['202599'\]"):
        celeba_identities("wrong.txt")


def test_a_folder_of_people_is_split_like_the_table(root: Path) -> None:
    """FaceScrub's layout: one folder per person, names with underscores."""
    for who, n in (("Ann_Lee", 12), ("Bob_Roe", 3)):
        for i in range(n):
            save(root / "facescrub" / who / f"{who}_{i}.png", np.full((8, 8, 3), 10 * i, np.uint8))
    made = write_splits(folder_identities("facescrub"), "facescrub/splits", private=1, public=3)
    train, test = (Listed(path="facescrub", split=made[name], canvas=8, crop=6).load() for name in ("train", "test"))
    assert (len(train), len(test)) == (11, 1) and train.images.shape == (11, 3, 6, 6)
    greys = train.images[:, 0, 0, 0].tolist() + test.images[:, 0, 0, 0].tolist()
    assert sorted(greys) == [10 * i for i in range(12)]


def test_ffhq_thumbnails_are_a_folder(root: Path) -> None:
    for i in (0, 1000):
        save(root / "thumbnails128x128" / f"{i:05d}" / f"{i:05d}.png", np.full((128, 128, 3), 7, np.uint8))
    assert Folder(path="thumbnails128x128", crop=88, size=64).load().images.shape == (2, 3, 64, 64)

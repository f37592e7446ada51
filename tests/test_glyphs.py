"""The shipped glyph sheets: complete, readable, unchanged, licensed; and the sources over them."""

import ast
import hashlib
import json
import shutil
import time

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mi_utils.data import HangulSheet, LatinSheet, glyphs
from mi_utils.errors import UserError

FACTS = glyphs.manifest()
HANDS = [(name, entry) for name, facts in FACTS["sheets"].items() for entry in facts["hands"]]


def vectors(images: Tensor) -> Tensor:
    """Blurred, centred, unit-length images: cosine similarity is template matching."""
    small = F.avg_pool2d(images.float(), 3, 3).flatten(1)
    return F.normalize(small - small.mean(1, keepdim=True), dim=1)


@pytest.mark.parametrize(("name", "entry"), HANDS, ids=[f"{name}-{entry['name']}" for name, entry in HANDS])
def test_every_shipped_hand(name, entry):
    content = (glyphs.SHEETS / entry["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    notice = (glyphs.SHIPPED / "licences" / entry["notice"]).read_text()
    title = {
        "OFL-1.1": "open font license",
        "Apache-2.0": "apache license",
        "Artistic-1.0": "artistic license",
    }
    assert title[entry["licence"]] in notice.lower()
    tiles = glyphs.sheet(name, entry["name"])
    assert tiles.shape == (len(FACTS["sheets"][name]["symbols"]), 1, 48, 48)
    assert float(tiles.float().mean((1, 2, 3)).min()) / 255 >= 0.02
    assert len({tile.numpy().tobytes() for tile in tiles}) == len(tiles)
    assert set(tiles.unique().tolist()) <= set(range(0, 256, 17)) and int(tiles.max()) == 255
    frame = torch.cat([tiles[:, :, :2].flatten(), tiles[..., -2:].flatten()])
    assert int(frame.max()) == 0, "every glyph has a margin"


def test_what_ships():
    hangul = FACTS["sheets"]["hangul"]
    assert len(hangul["symbols"]) == len(set(hangul["symbols"])) == 520 and len(hangul["hands"]) == 18
    assert all("가" <= syllable <= "힣" for syllable in hangul["symbols"])
    assert len(glyphs.hand_names("latin", "train")) == 24 and len(glyphs.hand_names("latin", "test")) == 8
    assert not set(glyphs.hand_names("latin", "train")) & set(glyphs.hand_names("latin", "test"))
    size = sum(path.stat().st_size for path in glyphs.SHEETS.rglob("*") if path.is_file())
    assert size < 8 * 2**20
    shipped = {path.relative_to(glyphs.SHEETS).as_posix() for path in glyphs.SHEETS.rglob("*.png")}
    assert shipped == {entry["file"] for _, entry in HANDS}, "no file without an entry"


def test_both_sheets_load_fast():
    glyphs.sheet.cache_clear()
    start = time.perf_counter()
    for name, entry in HANDS:
        glyphs.sheet(name, entry["name"])
    assert time.perf_counter() - start < 3, ".3 s measured"


def test_latin_labels_belong_to_their_letters():
    for symbols, chance in (("letters", 1 / 26), ("digits", 1 / 10)):
        train = LatinSheet(symbols=symbols).load()
        test = LatinSheet(symbols=symbols, split="test").load()
        nearest = (vectors(test.images) @ vectors(train.images).T).argmax(1)
        assert float((train.labels[nearest] == test.labels).float().mean()) > 0.8 > 8 * chance - 0.01
    assert test.classes == tuple("0123456789") and test.labels.max() == 9
    every = LatinSheet(symbols="all", hands=("caveat",)).load()
    assert every.labels.tolist() == list(range(36)) and every.classes[26] == "0" and len(every) == 36


def test_hangul_labels_belong_to_their_syllables():
    one, rest = HangulSheet(hands=("gaegu",)), HangulSheet(hands=("gaegu-light", "eunjin", "nanum-barunpen"))
    similar = vectors(one.load().images) @ vectors(rest.load().images).T
    assert float((rest.load().labels[similar.argmax(1)] == one.load().labels).float().mean()) > 0.5


def test_hangul_subsets():
    whole = HangulSheet().load()
    assert whole.images.shape == (9360, 1, 48, 48) and whole.name == "rendered Hangul (SERI95 stand-in)"
    some = HangulSheet(syllables=100, hands=glyphs.hand_names("hangul")[:16]).load()
    assert len(some) == 1600 and len(some.labels.unique()) == 100 and len(some.classes) == 520
    assert not torch.equal(some.labels.unique(), HangulSheet(syllables=100, hands=("gaegu",), seed=1).load().labels)
    chosen = HangulSheet(syllables="한글", hands=("gaegu",)).load()
    assert [chosen.classes[i] for i in chosen.labels] == ["글", "한"]
    assert torch.equal(chosen.images, glyphs.sheet("hangul", "gaegu")[chosen.labels])


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (HangulSheet(hands=("nobody",)), "hands: rendered Hangul .* has bandal, .*found 'nobody'"),
        (HangulSheet(syllables="한x"), "syllables: .* found x"),
        (HangulSheet(syllables=521), "the sheet has 520, found 521"),
        (LatinSheet(hands=("kalam",)), "hands: split 'train' has .*; found kalam"),
        (LatinSheet(split="test", classes=(26,)), "class ids 0..25"),
    ],
)
def test_wrong_choices_are_one_line(source, says):
    with pytest.raises(UserError, match=says):
        source.load()


def test_variants_are_fixed_differ_and_keep_their_labels():
    recipe = LatinSheet(symbols="digits", hands=("caveat", "humor-sans"), copies=4)
    tiles = LatinSheet(symbols="digits", hands=("caveat", "humor-sans")).load()
    made = recipe.load()
    assert len(made) == 80 and torch.equal(made.labels, tiles.labels.repeat(4))
    assert len({image.numpy().tobytes() for image in made.images}) == 80
    again = glyphs.variants(tiles.images, 4, "latin", 0)
    assert torch.equal(again, made.images)
    assert not torch.equal(recipe.model_copy(update={"seed": 1}).load().images, made.images)
    nearest = (vectors(made.images) @ vectors(tiles.images).T).argmax(1)
    assert float((tiles.labels[nearest] == made.labels).float().mean()) > 0.85
    assert float(made.images.float().mean((1, 2, 3)).min()) / 255 >= 0.01, "no variant fades away"


def test_a_changed_or_missing_sheet_is_refused(tmp_path, monkeypatch):
    copy = tmp_path / "glyphs"
    shutil.copytree(glyphs.SHEETS, copy)
    monkeypatch.setattr(glyphs, "SHEETS", copy)
    before = LatinSheet().fingerprint()
    glyphs.sheet.cache_clear()
    glyphs.manifest.cache_clear()
    try:
        Image.new("L", (1248, 96)).save(copy / "latin" / "caveat.png")
        with pytest.raises(UserError, match="caveat.png: missing or not the shipped file"):
            glyphs.sheet("latin", "caveat")
        (copy / "latin" / "kalam.png").unlink()
        with pytest.raises(UserError, match="kalam.png: missing"):
            glyphs.sheet("latin", "kalam")
        facts = json.loads((copy / "manifest.json").read_text())
        facts["tile"] = 24
        (copy / "manifest.json").write_text(json.dumps(facts))
        assert LatinSheet().fingerprint() != before
        (copy / "manifest.json").unlink()
        glyphs.manifest.cache_clear()
        with pytest.raises(UserError, match="shipped glyph sheets are missing"):
            LatinSheet().load()
    finally:
        glyphs.sheet.cache_clear()
        glyphs.manifest.cache_clear()


def test_the_recipe_lists_the_shipped_hands():
    tree = ast.parse((glyphs.SHIPPED / "make_glyphs.py").read_text())
    rows = [node.elts for node in ast.walk(tree) if isinstance(node, ast.Tuple) and len(node.elts) == 6]
    rows = [row for row in rows if isinstance(row[0], ast.Constant)]
    listed = [[getattr(cell, "value", None) for cell in row] for row in rows]
    shipped = [[name, e["name"], e["package"], e["font"], None, e["split"]] for name, e in HANDS]
    assert [row[:4] + [None] + row[5:] for row in listed] == shipped

"""The shipped glyph sheets: rendered Hangul (stand-in for SERI95) and rendered Latin, as sources.

The sheets are 4-bit PNGs, one per hand, made by `data/make_glyphs.py` and described by its manifest.json.
They are rendered from fonts, 18 and 32 "hands" where real sets have hundreds of writers: every table that
uses them says so, by `ImageSet.name`.
"""

import hashlib
import json
from functools import cache
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from pydantic import Field
from torch import Tensor

from mi_utils import runtime
from mi_utils.data import augment, splits
from mi_utils.data.images import CHUNK, SHIPPED, Catalogue, Source, to_uint8
from mi_utils.errors import UserError

SHEETS = SHIPPED / "glyphs"
LETTERS = 26


@cache
def manifest() -> dict[str, Any]:
    """What `data/glyphs/manifest.json` says; UserError where the project's data folder is missing."""
    path = SHEETS / "manifest.json"
    if not path.is_file():
        raise UserError(f"{path}: the shipped glyph sheets are missing; run from a whole checkout of the project")
    return json.loads(path.read_text(encoding="utf-8"))


@cache
def sheet(name: Literal["hangul", "latin"], hand: str) -> UInt8[Tensor, "symbols 1 48 48"]:
    """One hand's tiles, ink = 255 on 0; UserError for an unknown hand or a file that was changed."""
    facts = manifest()["sheets"][name]
    entries = {entry["name"]: entry for entry in facts["hands"]}
    if hand not in entries:
        raise UserError(f"hands: {facts['title']} has {', '.join(entries)}; found {hand!r}")
    path = SHEETS / entries[hand]["file"]
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != entries[hand]["sha256"]:
        raise UserError(f"{path}: missing or not the shipped file (its SHA-256 differs); restore it from the project")
    side, columns = manifest()["tile"], manifest()["columns"]
    with Image.open(path) as image:
        levels = np.array(image)
    step = 255 // (manifest()["levels"] - 1)
    tiles = levels.reshape(-1, side, columns, side).swapaxes(1, 2).reshape(-1, 1, side, side) * np.uint8(step)
    return torch.from_numpy(tiles[: len(facts["symbols"])])


def hand_names(name: Literal["hangul", "latin"], split: str = "all") -> tuple[str, ...]:
    """The hands of a sheet, of one split (train or test) or of both."""
    hands = manifest()["sheets"][name]["hands"]
    return tuple(entry["name"] for entry in hands if split in ("all", entry["split"]))


class GlyphSheet(Source):
    """Common to both sheets.  `copies`: 0 for the tiles themselves, n for n handwriting variants of each.

    Variants are drawn by `augment.handwriting` from a stream of (sheet, seed): same recipe, same images.
    """

    hands: tuple[str, ...] | None = None  # names; None: all of the split
    copies: Annotated[int, Field(ge=0, le=1000)] = 0

    def fingerprint(self) -> str:
        """Digest of the manifest, which holds the digest of every sheet."""
        manifest()
        return hashlib.sha256((SHEETS / "manifest.json").read_bytes()).hexdigest()

    def catalogue(self, name: str, hands: tuple[str, ...], symbols: list[int], suffix: str = "") -> Catalogue:
        """All (hand, symbol) pairs, hand by hand; a label is the symbol's index in the sheet."""
        facts = manifest()["sheets"][name]
        tiles = torch.cat([sheet(name, hand)[symbols] for hand in hands])
        labels = torch.tensor(symbols).repeat(len(hands))
        if self.copies:
            tiles, labels = variants(tiles, self.copies, name, self.seed), labels.repeat(self.copies)
        return Catalogue(labels, tuple(facts["symbols"]), f"{facts['title']}{suffix}", lambda index: tiles[index])


def variants(tiles: UInt8[Tensor, "n 1 h w"], copies: int, *words: int | str) -> UInt8[Tensor, "m 1 h w"]:
    """`copies` handwriting variants of every tile, one whole round of tiles after the other."""
    generator = runtime.generator("handwriting", *words)
    rounds = [part for _ in range(copies) for part in tiles.split(CHUNK)]
    return torch.cat([to_uint8(augment.handwriting(part, generator)) for part in rounds])


class HangulSheet(GlyphSheet):
    """Rendered Hangul (SERI95 stand-in): 520 syllables in 18 hands, 48 px; the label is the syllable's index.

    `syllables`: None for all, a number to draw that many by `seed`, or the syllables themselves.
    """

    kind: Literal["hangul"] = "hangul"
    syllables: Annotated[int, Field(ge=1)] | str | None = None

    def chosen(self) -> list[int]:
        """Ascending indices of the syllables; UserError for one that the sheet does not have."""
        symbols = manifest()["sheets"]["hangul"]["symbols"]
        if self.syllables is None:
            return list(range(len(symbols)))
        if isinstance(self.syllables, int):
            if self.syllables > len(symbols):
                raise UserError(f"syllables: the sheet has {len(symbols)}, found {self.syllables}")
            return sorted(splits.shuffled(len(symbols), "syllables", self.seed)[: self.syllables].tolist())
        unknown = "".join(sorted(set(self.syllables) - set(symbols)))
        if unknown or not self.syllables:
            raise UserError(f"syllables: expected some of the sheet's {len(symbols)}, found {unknown or 'none'}")
        return sorted({symbols.index(syllable) for syllable in self.syllables})

    def open(self) -> Catalogue:
        """List the chosen tiles."""
        return self.catalogue("hangul", self.hands or hand_names("hangul"), self.chosen())


class LatinSheet(GlyphSheet):
    """Rendered Latin, 48 px: capitals (labels 0..25), digits (0..9) or both (digits 26..35).

    `split` parts the hands, not the images: 24 to train on, 8 held out, fixed in the manifest.
    """

    kind: Literal["latin"] = "latin"
    symbols: Literal["letters", "digits", "all"] = "letters"
    split: Literal["train", "test", "all"] = "train"

    def open(self) -> Catalogue:
        """List the chosen tiles."""
        available = hand_names("latin", self.split)
        strangers = [hand for hand in self.hands or () if hand not in available]
        if strangers:
            raise UserError(f"hands: split {self.split!r} has {', '.join(available)}; found {', '.join(strangers)}")
        count = len(manifest()["sheets"]["latin"]["symbols"])
        chosen = {"letters": range(LETTERS), "digits": range(LETTERS, count), "all": range(count)}[self.symbols]
        found = self.catalogue("latin", self.hands or available, list(chosen), f" {self.symbols} {self.split}")
        first = chosen[0]
        return Catalogue(found.labels - first, found.classes[first : chosen[-1] + 1], found.name, found.read)

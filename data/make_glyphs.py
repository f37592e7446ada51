"""Render the shipped glyph sheets from free handwriting fonts (Debian and npm packages).

    python data/make_glyphs.py --packages FOLDER [--out data]

Needs pillow, numpy, fonttools and brotli, `apt-get` + `dpkg-deb` for the Debian packages and `npm` for the
others; nothing here is imported by the project.  FOLDER receives the packages (kept for the next run).
Writes <out>/glyphs/{hangul,latin}/<hand>.png (16 grey levels, ink = 255 on 0, one 48 px tile per symbol, 26
tiles a row), <out>/glyphs/manifest.json and <out>/licences/*.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

TILE, COLUMNS, LEVELS = 48, 26, 16  # pixels a side, tiles a row, grey levels stored
MIN_INK = 0.02  # a render with less mean ink (0..1) is empty or unreadable
HANGUL_SIDE, HANGUL_LIMIT = 38, 44  # pixels: median longest side of a hand's syllables, longest side allowed
LATIN_SIDE = 34  # pixels: longest side of every letter and digit; 20/28 of the tile, as MNIST and EMNIST have it
HANGUL_COUNT = 520  # syllables, as many as SERI95 has
LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

OFL, APACHE, ARTISTIC = "OFL-1.1", "Apache-2.0", "Artistic-1.0"
# sheet, hand, package ("deb:" or "npm:"), end of the font's path, licence, split ("test" = held out)
HANDS = [
    ("hangul", "bandal", "deb:fonts-alee", "Bandal.ttf", ARTISTIC, "train"),
    ("hangul", "bangwool", "deb:fonts-alee", "Bangwool.ttf", ARTISTIC, "train"),
    ("hangul", "eunjin", "deb:fonts-alee", "Eunjin.ttf", ARTISTIC, "train"),
    ("hangul", "eunjin-nakseo", "deb:fonts-alee", "EunjinNakseo.ttf", ARTISTIC, "train"),
    ("hangul", "guseul", "deb:fonts-alee", "Guseul.ttf", ARTISTIC, "train"),
    ("hangul", "nanum-pen", "deb:fonts-nanum-extra", "NanumPen.ttf", OFL, "train"),
    ("hangul", "nanum-brush", "deb:fonts-nanum-extra", "NanumBrush.ttf", OFL, "train"),
    ("hangul", "nanum-barunpen", "deb:fonts-nanum-extra", "NanumBarunpenR.ttf", OFL, "train"),
    ("hangul", "nanum-barunpen-bold", "deb:fonts-nanum-extra", "NanumBarunpenB.ttf", OFL, "train"),
    ("hangul", "nanum-myeongjo", "deb:fonts-nanum", "NanumMyeongjo.ttf", OFL, "train"),
    ("hangul", "bm-euljiro", "deb:fonts-woowa-bm", "BMEULJIROTTF.ttf", OFL, "train"),
    ("hangul", "bm-jua", "deb:fonts-woowa-bm", "BMJUA_ttf.ttf", OFL, "train"),
    ("hangul", "bm-kiranghaerang", "deb:fonts-woowa-bm", "BMKIRANGHAERANG-TTF.ttf", OFL, "train"),
    ("hangul", "bm-yeonsung", "deb:fonts-woowa-bm", "BMYEONSUNG_ttf.ttf", OFL, "train"),
    ("hangul", "gaegu-light", "npm:@fontsource/gaegu", "gaegu-korean-300-normal.woff2", OFL, "train"),
    ("hangul", "gaegu", "npm:@fontsource/gaegu", "gaegu-korean-400-normal.woff2", OFL, "train"),
    ("hangul", "gaegu-bold", "npm:@fontsource/gaegu", "gaegu-korean-700-normal.woff2", OFL, "train"),
    (
        "hangul",
        "poor-story",
        "npm:@fontsource/poor-story",
        "poor-story-korean-400-normal.woff2",
        OFL,
        "train",
    ),
    ("latin", "because-we-build", "deb:fonts-bwht", "BecauseWeBuild-Regular.otf", OFL, "train"),
    ("latin", "because-we-connect", "deb:fonts-bwht", "BecauseWeConnect-Regular.otf", OFL, "train"),
    ("latin", "because-we-create", "deb:fonts-bwht", "BecauseWeCreate-Regular.otf", OFL, "train"),
    ("latin", "because-we-learn", "deb:fonts-bwht", "BecauseWeLearn-Regular.otf", OFL, "train"),
    ("latin", "because-we-mentor", "deb:fonts-bwht", "BecauseWeMentor-Regular.otf", OFL, "train"),
    ("latin", "because-we-organize", "deb:fonts-bwht", "BecauseWeOrganize-Regular.otf", OFL, "train"),
    ("latin", "comic-neue", "deb:fonts-comic-neue", "ComicNeue-Regular.otf", OFL, "test"),
    ("latin", "dancing-script", "deb:fonts-dancingscript", "DancingScript-Regular.otf", OFL, "train"),
    ("latin", "kaushan-script", "deb:fonts-kaushanscript", "KaushanScript-Regular.otf", OFL, "test"),
    ("latin", "humor-sans", "deb:fonts-humor-sans", "Humor-Sans.ttf", OFL, "train"),
    ("latin", "klee-one", "deb:fonts-klee", "KleeOne-Regular.ttf", OFL, "train"),
    ("latin", "kristi", "deb:fonts-kristi", "Kristi.ttf", OFL, "train"),
    ("latin", "leckerli-one", "deb:fonts-leckerli-one", "LeckerliOne-Regular.ttf", OFL, "train"),
    ("latin", "yusei-magic", "deb:fonts-yusei-magic", "YuseiMagic-Regular.ttf", OFL, "train"),
    ("latin", "nanum-pen", "deb:fonts-nanum-extra", "NanumPen.ttf", OFL, "train"),
    ("latin", "nanum-brush", "deb:fonts-nanum-extra", "NanumBrush.ttf", OFL, "train"),
    ("latin", "bm-yeonsung", "deb:fonts-woowa-bm", "BMYEONSUNG_ttf.ttf", OFL, "train"),
    ("latin", "bm-euljiro", "deb:fonts-woowa-bm", "BMEULJIROTTF.ttf", OFL, "train"),
    ("latin", "eunjin", "deb:fonts-alee", "Eunjin.ttf", ARTISTIC, "test"),
    (
        "latin",
        "architects-daughter",
        "npm:@fontsource/architects-daughter",
        "latin-400-normal.woff2",
        OFL,
        "train",
    ),
    ("latin", "caveat", "npm:@fontsource/caveat", "caveat-latin-400-normal.woff2", OFL, "train"),
    (
        "latin",
        "covered-by-your-grace",
        "npm:@fontsource/covered-by-your-grace",
        "latin-400-normal.woff2",
        OFL,
        "train",
    ),
    ("latin", "gaegu", "npm:@fontsource/gaegu", "gaegu-latin-400-normal.woff2", OFL, "test"),
    (
        "latin",
        "gloria-hallelujah",
        "npm:@fontsource/gloria-hallelujah",
        "latin-400-normal.woff2",
        OFL,
        "test",
    ),
    ("latin", "indie-flower", "npm:@fontsource/indie-flower", "latin-400-normal.woff2", OFL, "train"),
    ("latin", "kalam", "npm:@fontsource/kalam", "kalam-latin-400-normal.woff2", OFL, "test"),
    (
        "latin",
        "patrick-hand",
        "npm:@fontsource/patrick-hand",
        "patrick-hand-latin-400-normal.woff2",
        OFL,
        "test",
    ),
    (
        "latin",
        "permanent-marker",
        "npm:@fontsource/permanent-marker",
        "latin-400-normal.woff2",
        APACHE,
        "train",
    ),
    ("latin", "poor-story", "npm:@fontsource/poor-story", "poor-story-latin-400-normal.woff2", OFL, "train"),
    ("latin", "reenie-beanie", "npm:@fontsource/reenie-beanie", "latin-400-normal.woff2", OFL, "train"),
    ("latin", "rock-salt", "npm:@fontsource/rock-salt", "rock-salt-latin-400-normal.woff2", APACHE, "train"),
    (
        "latin",
        "shadows-into-light",
        "npm:@fontsource/shadows-into-light",
        "latin-400-normal.woff2",
        OFL,
        "test",
    ),
]

DROPPED = {  # faces looked at and not shipped
    "UnPen, UnPenheulim, UnPilgi, UnPilgia, UnVada, UnGungseo": "GPL-2, no font exception in the notice",
    "Rufscript, SteveHand, Delphine": "GPL with a font exception; not needed, so the question is not raised",
    "Isabella": "LGPL, a print of a mediaeval book hand",
    "Femkeklaver": "CC BY-SA; capitals are outlines",
    "Ecolier court": "capitals are outlines",
    "dkg": "capitals are doubled strokes",
    "Breip": "O and 0 are open and read as U, 2 reads as v",
    "Homemade Apple": "I, S, T and Z are not readable one at a time",
    "BM Kirang Haerang (Latin only)": "O is a filled blot",
    "BM Euljirooraeorae, BM Euljiro 10 years later": "worn to pieces; illegible at 48 px",
    "BM Hanna (all), BM Do Hyeon": "geometric display faces; Hanna Air draws ieung as mieum",
    "Nanum Gothic Eco, Nanum Myeongjo Eco": "perforated outlines",
}

TITLES = {"hangul": "rendered Hangul (SERI95 stand-in)", "latin": "rendered Latin"}
INITIALS = "ㅇㄱㄷㅅㄴㅈㄹㅎㅁㅂㅊㅌㅍㅋㄲㄸㅆㅃㅉ"  # jamo, roughly from common to rare in Korean text
VOWELS = "ㅏㅣㅓㅗㅡㅜㅔㅐㅕㅘㅛㅑㅝㅟㅠㅢㅚㅖㅒㅙㅞ"
FINALS = " ㄴㅇㄹㄱㅁㅂㅅㅆㄷㅌㅎㅍㅈㅊㅄㄺㄶㅀㄻㄼㅋㄲㄵㄳㄽㄾㄿ"
UNICODE_INITIALS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
UNICODE_VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
UNICODE_FINALS = " ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"


def syllables(count: int = HANGUL_COUNT) -> str:
    """The `count` KS X 1001 syllables of the commonest jamo (rank sum), in Unicode order.

    SERI95's own list could not be obtained; the standard's 2,350 syllables are what handwriting fonts cover.
    """
    ranked = []
    for lead in range(0xB0, 0xC9):
        for trail in range(0xA1, 0xFF):
            syllable = bytes([lead, trail]).decode("euc-kr")
            index = ord(syllable) - 0xAC00
            initial, vowel = UNICODE_INITIALS[index // 588], UNICODE_VOWELS[index % 588 // 28]
            final = UNICODE_FINALS[index % 28]
            rank = INITIALS.index(initial) + VOWELS.index(vowel) + 1.5 * FINALS.index(final)
            ranked.append((rank, syllable))
    return "".join(sorted(syllable for _, syllable in sorted(ranked)[:count]))


def fetch(package: str, folder: Path) -> tuple[Path, str]:
    """Download and unpack one package below `folder`; return its unpacked root and its version."""
    kind, name = package.split(":")
    root = folder / name.replace("/", "-")
    if not root.exists():
        archives = folder / "archives" / name.replace("/", "-")
        archives.mkdir(parents=True, exist_ok=True)
        command = ["apt-get", "download", name] if kind == "deb" else ["npm", "pack", "--silent", name]
        subprocess.run(command, cwd=archives, check=True, stdout=subprocess.DEVNULL)
        archive = next(archives.iterdir())
        root.mkdir()
        unpack = ["dpkg-deb", "-x", archive, root] if kind == "deb" else ["tar", "-xzf", archive, "-C", root]
        subprocess.run(unpack, check=True)
    if kind == "npm":
        return root, json.loads((root / "package" / "package.json").read_text())["version"]
    return root, next((folder / "archives" / name).iterdir()).name.split("_")[1].replace("%3a", ":")


def open_font(root: Path, ending: str, scratch: Path) -> tuple[ImageFont.FreeTypeFont, set[str]]:
    """The font below `root` whose path ends with `ending`, at 8 times the tile, and its characters."""
    path = sorted(found for found in root.rglob("*") if str(found).endswith(ending))[0]
    font = TTFont(path)
    known = {chr(code) for code in font.getBestCmap()}
    if path.suffix == ".woff2":
        font.flavor, path = None, scratch / (path.stem + ".ttf")
        font.save(path)
    return ImageFont.truetype(path, 8 * TILE), known


def ink(font: ImageFont.FreeTypeFont, symbol: str) -> Image.Image:
    """The symbol's tight bounding box at 8 times the tile, ink = 255 on 0."""
    canvas = Image.new("L", (24 * TILE, 24 * TILE))
    ImageDraw.Draw(canvas).text((12 * TILE, 12 * TILE), symbol, font=font, fill=255, anchor="mm")
    return canvas.crop(canvas.getbbox() or (0, 0, 1, 1))


def tile(box: Image.Image, scale: float) -> np.ndarray:
    """(48, 48) uint8: the box shrunk by `scale` and centred."""
    size = [max(1, round(side * scale)) for side in box.size]
    small = np.asarray(box.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR))
    out = np.zeros((TILE, TILE), np.uint8)
    top, left = (TILE - size[1]) // 2, (TILE - size[0]) // 2
    out[top : top + size[1], left : left + size[0]] = small
    return out


def render(sheet: str, font: ImageFont.FreeTypeFont, symbols: str) -> np.ndarray:
    """(symbols, 48, 48) uint8: syllables keep their relative sizes; letters and digits all fill their box."""
    boxes = [ink(font, symbol) for symbol in symbols]
    longest = np.array([max(box.size) for box in boxes])
    if sheet == "hangul":
        scales = np.minimum(HANGUL_SIDE / np.median(longest), HANGUL_LIMIT / longest)
    else:
        scales = LATIN_SIDE / longest
    return np.stack([tile(box, scale) for box, scale in zip(boxes, scales, strict=True)])


def faults(tiles: np.ndarray, symbols: str, known: set[str]) -> str:
    """Why a hand must not be shipped ("" if nothing is wrong): missing, empty or repeated glyphs."""
    missing = [symbol for symbol in symbols if symbol not in known]
    pale = [symbol for symbol, mean in zip(symbols, tiles.mean((1, 2)) / 255, strict=True) if mean < MIN_INK]
    same = len(symbols) - len({picture.tobytes() for picture in tiles})
    found = {"missing": "".join(missing), "mean ink below .02": "".join(pale), "identical tiles": same or ""}
    return "; ".join(f"{what}: {value}" for what, value in found.items() if value)


def save_sheet(tiles: np.ndarray, path: Path) -> str:
    """Write the tiles as one 4-bit PNG and return its sha256."""
    rows = -(-len(tiles) // COLUMNS)
    padded = np.zeros((rows * COLUMNS, TILE, TILE), np.uint8)
    padded[: len(tiles)] = np.round(tiles / 255 * (LEVELS - 1))
    grid = padded.reshape(rows, COLUMNS, TILE, TILE).swapaxes(1, 2).reshape(rows * TILE, COLUMNS * TILE)
    image = Image.fromarray(grid)
    image.putpalette([value for level in range(LEVELS) for value in 3 * [level * 255 // (LEVELS - 1)]])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, bits=4, optimize=True)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save_licence(package: str, root: Path, licence: str, folder: Path) -> str:
    """Copy the package's copyright notice and licence text; return the file's name."""
    name = package.split(":")[1].removeprefix("@").replace("/", "-") + ".txt"
    kind = package.split(":")[0]
    source = next(root.rglob("copyright")) if kind == "deb" else root / "package" / "LICENSE"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(source.read_text())
    if licence == ARTISTIC:
        shutil.copy("/usr/share/common-licenses/Artistic", folder / "Artistic-1.0.txt")
    return name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="folder for downloaded packages")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="the data folder")
    options = parser.parse_args()
    folder = options.packages.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    symbols = {"hangul": syllables(), "latin": LATIN}
    sheets = {sheet: {"title": TITLES[sheet], "symbols": symbols[sheet], "hands": []} for sheet in ("hangul", "latin")}
    for sheet, hand, package, ending, licence, split in HANDS:
        root, version = fetch(package, folder)
        font, known = open_font(root, ending, folder)
        tiles = render(sheet, font, symbols[sheet])
        fault = faults(tiles, symbols[sheet], known)
        if fault:
            raise SystemExit(f"{sheet}/{hand}: {fault}; take the hand out of HANDS and note why in DROPPED")
        file = f"{sheet}/{hand}.png"
        sheets[sheet]["hands"].append(
            {
                "name": hand,
                "split": split,
                "file": file,
                "sha256": save_sheet(tiles, options.out / "glyphs" / file),
                "package": package,
                "version": version,
                "font": ending,
                "licence": licence,
                "notice": save_licence(package, root, licence, options.out / "licences"),
            }
        )
    manifest = {"tile": TILE, "columns": COLUMNS, "levels": LEVELS, "sheets": sheets, "dropped": DROPPED}
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    (options.out / "glyphs" / "manifest.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

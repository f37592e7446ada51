"""Figures small enough for one page: WebP inside the page, the full PNG and PDF beside it."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

WIDTH = 1000  # px at most, of 1,800 in the files: labels stay readable
QUALITY = 68
COLOURS = 8192  # in a drawing, at most


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it; `problem`: why there is none.  Sizes in px of the stored file and in bytes."""

    uri: str = ""
    width: int = 0
    height: int = 0
    size: int = 0
    original: int = 0
    reduced: bool = False
    problem: str = ""


def embedded(paths: list[Path]) -> dict[Path, Picture]:
    """Every figure as a data: address; encoders work side by side."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(paths, pool.map(_embedded, paths), strict=True))


def _embedded(path: Path) -> Picture:
    try:
        with Image.open(path) as file:
            image = file.convert("RGBA")
    except (OSError, UnidentifiedImageError):
        return Picture(problem=f"{path.name}: expected a PNG image, found something else; run the notebook again")
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image.getchannel("A"))
    small = flat.copy()
    small.thumbnail((WIDTH, 4 * WIDTH), Image.Resampling.LANCZOS)
    content = _webp(small, quality=QUALITY, method=4)
    if flat.getcolors(COLOURS):  # a drawing: without loss it may even be smaller
        content = min(content, _webp(flat, lossless=True, quality=30, method=2), key=len)
    uri = f"data:image/webp;base64,{base64.b64encode(content).decode()}"
    return Picture(uri, *flat.size, len(content), path.stat().st_size, reduced=flat.width > WIDTH)


def _webp(image: Image.Image, **options: int | bool) -> bytes:
    content = io.BytesIO()
    image.save(content, "webp", **options)
    return content.getvalue()

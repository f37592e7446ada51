"""The sheet of the most exposed private images: one HTML page that needs no other file and no network."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from mi_utils.audit.ranking import Pair
from mi_utils.scoring import table
from mi_utils.scoring.table import Row

SIDE = 160  # px of an image on the page, at most: larger ones are shown smaller
MEASURES = ("DDCS", "coverage", "DDCS: holdout", "DDCS: public", "DDCS: prior", "nDDCS")


def render(
    rows: Sequence[Row],
    ranked: pd.DataFrame,
    pairs: Sequence[Pair],
    record: Mapping[str, Any],
    notes: Sequence[str],
) -> str:
    """The page; text of the user's, such as names of files and classes, is escaped."""
    said = {row.short: row for row in rows if row.short and row.value is not None}
    return template(Path(__file__).parent, "page.html.jinja").render(
        record=record,
        caption=caption(record),
        measures=[(measure_name(row, record), *table.cells(row)[:2]) for row in _measured(said)],
        entries=[_entry(row, pair) for row, pair in zip(ranked.to_dict("records"), pairs, strict=False)],
        total=len(ranked),
        matched=int((ranked["matched_in"] > 0).sum()),
        notes=notes,
        number=lambda value: f"{value:.3g}",
    )


def template(folder: Path, name: str) -> jinja2.Template:
    """A template of a folder; what it includes may be one of here.  Text is escaped, a missing name is an error."""
    files = jinja2.FileSystemLoader([folder, Path(__file__).parent])
    environment = jinja2.Environment(
        loader=files, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(name)


def caption(record: Mapping[str, Any]) -> str:
    """What was compared with what."""
    images, made = record["images"], record["provenance"]
    seeds = " + ".join(f"{n:,}" for n in images["reconstructions"])
    what = record["attack"]["name"] if record["attack"] else ", ".join(record["options"]["target"])
    return (
        f"{what}: {seeds} reconstructions of {len(record['classes'])} classes against {images['private']:,} private "
        f"images, {'×'.join(map(str, record['shape']))}, {record['trunk']}; mi_utils {made['commit']}, torch "
        f"{made['torch']}, {made['device']}, {made['seconds']} s."
    )


def _measured(said: Mapping[str, Row]) -> list[Row]:
    """The rows that the page shows, those at the references' number of images after the whole."""
    at = [name for name in said if name.startswith("DDCS, at ")]
    return [said[name] for name in (*MEASURES[:2], *at, *MEASURES[2:]) if name in said]


def measure_name(row: Row, record: Mapping[str, Any]) -> str:
    """A measure in words."""
    count = f"{record['reference']['images']:,}" if record["reference"] else ""
    words = {
        "DDCS": "DDCS: mean vulnerability of all private images",
        "coverage": "coverage: private images that are some reconstruction's nearest",
        "DDCS: holdout": f"reference: DDCS of {count} private images that the classifier has not seen",
        "DDCS: public": f"reference: DDCS of {count} images that no attack made",
        "DDCS: prior": f"reference: DDCS of {count} samples of the attacker's generator",
        "nDDCS": "DDCS between the generator's samples (0) and unseen private images (1)",
    }
    return words.get(row.short, f"DDCS of {count} of the reconstructions")


def _entry(row: Mapping[str, Any], pair: Pair) -> dict[str, Any]:
    """One line of the sheet: the row of the list, and both images as addresses and words."""
    private, best = row["file"] or f"row {row['private']}", row["reconstruction_file"] or f"{row['reconstruction']}"
    return row | {
        "private_name": private,
        "private_uri": uri(pair.private),
        "private_alt": f"Private image {private} of class {row['name']}",
        "best_uri": uri(pair.best),
        "best_alt": f"Reconstruction {best} of seed {row['seed']}, made for class {row['reconstruction_name']}",
    }


def uri(image: UInt8[Tensor, "c h w"]) -> str:
    """The image as a data: address, a PNG of at most SIDE px a side."""
    pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
    picture, content = Image.fromarray(pixels.contiguous().numpy()), io.BytesIO()
    picture.thumbnail((SIDE, SIDE))
    picture.save(content, "png")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"

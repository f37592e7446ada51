"""The report of an audit: one HTML page that needs no other file and no network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from mi_utils.audit import page as sheet
from mi_utils.scoring import table
from mi_utils.scoring.table import NOT_COMPUTED, Row
from mi_utils.your_model.conclusions import Conclusions
from mi_utils.your_model.exposure import Exposure

FIRST = 8  # images of a class shown, of the first seed
CLASSES = 20

# Measure -> what it says; the names are those of rows.
MEASURES = {
    "top-1 target": "the attacked classifier names the class (what the attack aims at; proves little)",
    "confidence target": "its mean confidence",
    "ensemble mean": "evaluators that the attack never saw name the class",
    "overfit gap": "the classifier's share minus the evaluators'",
    "rho_pix": "spread inside a class over that of private images (1: as varied, 0: one image)",
    "pixel spread": "spread inside a class, grey levels",
    "coverage": "private images that are some reconstruction's nearest",
    "DDCS": "coverage weighted by closeness",
    "DDCS: auxiliary": "reference: DDCS of as many auxiliary images",
    "DDCS: holdout": "reference: DDCS of as many unseen private images",
    "nDDCS": "DDCS between the auxiliary (0) and the unseen (1) images",
}


def render(
    found: Sequence[Exposure],
    said: Conclusions,
    private: Any,
    record: Mapping[str, Any],
    notes: Sequence[str],
) -> str:
    """The page; names of files and classes, which are the user's, are escaped."""
    names = {int(c): name for c, name in record["classes"].items()}
    return sheet.template(Path(__file__).parent, "page.html.jinja").render(
        record=record,
        said=said,
        attacks=[_attack(one, names) for one in found],
        measures=measures(found),
        reasons=reasons(found),
        real=_rows(private.images, private.labels, names) if private is not None else None,
        first=FIRST,
        notes=[*notes, *dict.fromkeys(note for one in found for note in one.notes)],
    )


def measures(found: Sequence[Exposure]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(measure, meaning, (value, interval) of every attack), for measures that some attack has."""
    named = [(name, meaning) for name, meaning in MEASURES.items() if any(one.row(name) for one in found)]
    return [(name, meaning, [_cell(one.row(name)) for one in found]) for name, meaning in named]


def _cell(row: Row | None) -> tuple[str, str]:
    return table.cells(row)[:2] if row is not None else ("not computed", "")


def reasons(found: Sequence[Exposure]) -> list[str]:
    """What could not be computed, and why, once each."""
    absent = (row for one in found for row in one.rows if row.reason)
    return list(dict.fromkeys(f"{row.short or row.metric}: {row.reason.removeprefix(NOT_COMPUTED)}" for row in absent))


def _attack(one: Exposure, names: Mapping[int, str]) -> dict[str, Any]:
    """One attack's images, and its pairs with private ones."""
    first = one.seeds[0]
    listed = one.listing.to_dict("records")[: len(one.pairs)] if one.listing is not None else []
    pairs = [
        {
            "private": sheet.uri(pair.private),
            "best": sheet.uri(pair.best),
            "name": row["name"],
            "file": row["file"],
            "best_name": row["reconstruction_name"],
            "distance": f"{row['distance']:.3g}",
        }
        for row, pair in zip(listed, one.pairs, strict=True)
    ]
    return {"title": one.title, "rows": _rows(first.images, first.labels, names), "pairs": pairs, "near": one.near}


def _rows(images: UInt8[Tensor, "n c h w"], labels: Tensor, names: Mapping[int, str]) -> list[tuple[str, list[str]]]:
    """(class, addresses of its first images), never selected."""
    return [
        (name, [sheet.uri(image) for image in images[labels == c][:FIRST]]) for c, name in list(names.items())[:CLASSES]
    ]

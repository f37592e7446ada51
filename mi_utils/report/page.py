"""figures/<profile>/index.html: the scorecard, then every paper's results, in one page that needs nothing else."""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mi_utils.report import deviations, pictures, prose, scorecard
from mi_utils.report.equations import Equations
from mi_utils.report.reading import Paper, Table
from mi_utils.report.scorecard import NONE, SYMBOLS

TEMPLATES = Path(__file__).parent / "templates"
_NUMBER = re.compile(r"([-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:e[-+]?\d+)?)(?=$|[\s%±(\[])")
_MISSING = ("", "–", "nan", "None", "not available", "not computed")
_COUNT = re.compile(r"(.+) (\(n=\d+\))")


def render(profile: str, papers: Sequence[Paper]) -> str:
    """The page.  Everything that comes from a file is escaped, and no script but its own may run."""
    found, equations = scorecard.rows(papers), Equations()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals |= {"symbols": SYMBOLS, "slug": slug, "ours": scorecard.ours, "short": scorecard.short}
    script, style = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    views = [_view(paper, found, equations) for paper in papers]
    return environment.get_template("index.html.jinja").render(
        profile=profile,
        papers=views,
        rows=found,
        counts=scorecard.counts(found),
        packages=list(dict.fromkeys(name for paper in papers for name in paper.provenance.get("packages", {}))),
        lossy=f"WebP of at most {pictures.WIDTH} px",
        glyphs=Markup(equations.definitions),
        script=Markup(script),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=Markup(style),
    )


def slug(*words: str) -> str:
    """An id of the page: letters, digits, - and _ alone."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", "-".join(words)).strip("-").lower()


def _view(paper: Paper, found: Sequence[scorecard.Row], equations: Equations) -> dict[str, Any]:
    """What the template shows of one paper."""
    own = [row for row in found if row.paper is paper]
    parts = prose.sections(paper.book, {"tables": list(paper.tables), "figures": list(paper.figures)}, equations)
    stated = [(name, Markup(prose.rendered(text, equations))) for name, text in deviations.of_notebook(paper.book)]
    return {
        "paper": paper,
        "id": slug(paper.name),
        "counts": scorecard.counts(own),
        "claims": sum(row.verdict != NONE for row in own),
        "sections": [_section(paper, part) for part in parts] if paper.present else [],
        "missing": [f"{item.kind[:-1]} {item.name}" for part in parts for item in part.items if not item.stored]
        if paper.present else [],
        "tables": {name: cells(table) for name, table in paper.tables.items()},
        "pictures": {path.stem: shown for path, shown in pictures.embedded(list(paper.figures.values())).items()},
        "deviations": stated,
        "kinds": _kinds(paper.provenance),
        "commits": _commits(paper.provenance),
    }  # fmt: skip


def _section(paper: Paper, part: prose.Section) -> dict[str, Any]:
    return {
        "id": slug(paper.name, "part", part.heading),
        "heading": part.heading,
        "level": min(max(part.level, 3), 4) if part.level > 2 else 2,
        "title": Markup(re.sub(r"^<p>|</p>$", "", prose.rendered(part.heading, Equations()).strip())),
        "prose": Markup(part.prose),
        "printed": [Markup(text) for text in part.printed],
        "items": part.items,
    }


def cells(table: Table) -> dict[str, Any]:
    """A table for the template: headers, and rows of cells with what they are sorted by.

    The leading columns that tell the rows apart are the rows' headers.
    """
    numeric = [_numeric([row[i] for row in table.rows]) for i in range(len(table.columns))]
    what, _, rest = table.caption.partition(". ")
    return {
        "table": table,
        "what": what.rstrip("."),
        "rest": rest,
        "heads": _headers(table),
        "columns": list(zip(table.columns, numeric, strict=True)),
        "rows": [[_cell(text, n) for text, n in zip(row, numeric, strict=True)] for row in table.rows],
    }


def _headers(table: Table) -> int:
    """How many leading columns it takes to tell the rows apart; one where three do not."""
    sizes = (n for n in (1, 2, 3) if len({row[:n] for row in table.rows}) == len(table.rows) and n < len(table.columns))
    return next(sizes, 1)


def _cell(text: str, numeric: bool) -> dict[str, Any]:
    """Text of a cell, its number of seeds set apart, and its value in a column of numbers."""
    parts = _COUNT.fullmatch(text)
    absent = missing(text)
    return {
        "text": parts[1] if parts else text,
        "count": parts[2] if parts else "",
        "value": number(text) if numeric and not absent else None,
        "missing": absent,
    }


def missing(text: str) -> bool:
    """Whether a cell says that there is no value."""
    return text.strip() in _MISSING or text.startswith(("not computed", "not available"))


def number(text: str) -> float | None:
    """The number that a cell begins with, such as that of "91.8 ± 2.4 (n=3)"; None where it begins with none."""
    hit = _NUMBER.match(text.strip())
    try:
        return float(hit[1].replace(",", "").replace("−", "-")) if hit else None
    except ValueError:  # a sign or nothing
        return None


def _numeric(column: Sequence[str]) -> bool:
    """Whether every value of a column is a number, and there is one."""
    values = [number(text) for text in column if not missing(text)]
    return bool(values) and None not in values


def _kinds(record: dict[str, Any]) -> list[tuple[str, int, float]]:
    """(stage, how many, seconds in all), the dearest first."""
    count, seconds = Counter(), Counter()
    for stage in record.get("stages", ()):
        kind = stage["stage"].split(" ")[0]
        count[kind] += 1
        seconds[kind] += stage["seconds"]
    return [(kind, count[kind], spent) for kind, spent in seconds.most_common()]


def _commits(record: dict[str, Any]) -> list[tuple[str, int]]:
    """(commit, stages that it computed), the most frequent first."""
    return Counter(stage["commit"] for stage in record.get("stages", ())).most_common()

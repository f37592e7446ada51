"""The scorecard: every claim of every paper, as rows, and as scorecard.md, .csv and .json.

Nothing in it but what claims.json and provenance.json say, so the same results give the same bytes.
"""

import csv
import fnmatch
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from mi_utils.report.claims import Judgement, Verdict
from mi_utils.report.evidence import EVIDENCE
from mi_utils.report.reading import Paper

VERDICTS: tuple[str, ...] = get_args(Verdict)  # the best first
NONE = "no results"
SYMBOLS = dict(zip((*VERDICTS, NONE), "✓◐✗?–", strict=True))
COLUMNS = tuple("paper id statement source published value low high n verdict reason evidence".split())


@dataclass(frozen=True)
class Evidence:
    """A stored table or figure behind a claim; `kind`: "tables" or "figures"; `found`: it is in the folder."""

    kind: str
    name: str
    found: bool

    @property
    def path(self) -> str:
        """The file to read, inside the paper's folder."""
        return f"{self.kind}/{self.name}.{'md' if self.kind == 'tables' else 'png'}"


@dataclass(frozen=True)
class Row:
    """A claim with what it rests on; or a paper without results, whose `judgement` is None and `reason` says why."""

    paper: Paper
    judgement: Judgement | None
    reason: str
    evidence: tuple[Evidence, ...] = ()

    @property
    def verdict(self) -> str:
        """One of VERDICTS, or NONE."""
        return self.judgement.verdict if self.judgement else NONE


def rows(papers: Sequence[Paper]) -> list[Row]:
    """Every claim in the papers' order; a paper without any has one row that says so."""
    return [row for paper in papers for row in _of(paper)]


def _of(paper: Paper) -> Iterator[Row]:
    for judged in paper.judgements:
        yield Row(paper, judged, judged.reason, evidence(paper, judged.id))
    if not paper.judgements:
        yield Row(paper, None, paper.problem)


def evidence(paper: Paper, claim: str) -> tuple[Evidence, ...]:
    """The tables and figures behind a claim; those that EVIDENCE names and that were not stored included."""
    found = []
    for place in EVIDENCE.get(paper.name, {}).get(claim, ()):
        kind, name = place.split("/")
        stored = paper.tables if kind == "tables" else paper.figures
        hits = fnmatch.filter(stored, name) or fnmatch.filter(stored, f"{name}_*")
        found.append(Evidence(kind, hits[0] if hits else name, bool(hits)))
    return tuple(found)


def counts(found: Sequence[Row]) -> dict[str, int]:
    """Verdict -> number of claims, the best first; NONE only where it occurs."""
    tally = {verdict: sum(row.verdict == verdict for row in found) for verdict in (*VERDICTS, NONE)}
    return {verdict: n for verdict, n in tally.items() if n or verdict != NONE}


def to_csv(papers: Sequence[Paper]) -> str:
    """One line a claim; intervals as two columns, evidence as files of the paper's folder."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows(papers):
        judged = row.judgement
        low, high = (judged.interval if judged else None) or (None, None)
        words = (judged.id, judged.statement, judged.source, judged.published) if judged else ("",) * 4
        numbers = (judged.value, low, high, judged.n) if judged else (None,) * 4
        files = " ".join(e.path for e in row.evidence if e.found)
        writer.writerow([row.paper.name, *words, *numbers, row.verdict, row.reason, files])
    return content.getvalue()


def to_json(profile: str, papers: Sequence[Paper]) -> str:
    """Counts and claims of each paper, with the commit that made them."""
    found = rows(papers)
    content = {
        "profile": profile,
        "counts": counts(found),
        "papers": [_paper(paper, [row for row in found if row.paper is paper]) for paper in papers],
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _paper(paper: Paper, found: Sequence[Row]) -> dict[str, Any]:
    claims = [
        row.judgement.model_dump() | {"evidence": [e.path for e in row.evidence if e.found]}
        for row in found
        if row.judgement
    ]
    made = {name: paper.provenance.get(name) for name in ("commit", "dirty", "device", "seeds")}
    return {
        "paper": paper.name,
        "title": paper.title,
        **made,
        "problem": paper.problem,
        "counts": counts(found),
        "claims": claims,
    }


def to_markdown(profile: str, papers: Sequence[Paper]) -> str:
    """A summary, then one table a paper."""
    found = rows(papers)
    words = ", ".join(f"{n} {SYMBOLS[verdict]} {verdict}" for verdict, n in counts(found).items())
    parts = [f"# Scorecard, profile {_plain(profile)}", f"{words}."]
    for paper in papers:
        own = [row for row in found if row.paper is paper]
        parts.append(f"## {_plain(paper.title)}")
        parts.append(_table(own) if paper.judgements else f"{SYMBOLS[NONE]} {_plain(paper.problem)}.")
    return "\n\n".join(parts) + "\n"


def _table(found: Sequence[Row]) -> str:
    lines = ["| id | claim | published | ours [95 % interval] | n | verdict | evidence |", "|" + ":--|" * 7]
    for row in found:
        judged = row.judgement
        links = ", ".join(f"[{e.name}]({row.paper.name}/{e.path})" for e in row.evidence if e.found) or "–"
        n = "–" if judged.n is None else judged.n
        verdict = f"{SYMBOLS[row.verdict]} {row.verdict}"
        cells = [judged.id, judged.statement, judged.published, ours(judged), n, verdict]
        lines.append("| " + " | ".join([*(_plain(str(cell)) for cell in cells), links]) + " |")
    return "\n".join(lines)


def ours(judged: Judgement) -> str:
    """`value [low, high]`, without an interval where there is none; a dash without a value."""
    if judged.value is None:
        return "–"
    return short(judged.value) + ("" if judged.interval is None else " [{}, {}]".format(*map(short, judged.interval)))


def short(value: float) -> str:
    """Three digits, with a true minus sign."""
    return f"{value:.3g}".replace("-", "−")


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no cell of its own, on one line."""
    text = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>|#$~" else letter for letter in text)

"""The scorecard and the page: every claim shown, what is missing said, nothing loaded, nothing of a file run."""

import csv
import io
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
from PIL import Image

from mi_utils import code_digest, studies
from mi_utils.__main__ import main
from mi_utils.errors import UserError
from mi_utils.report import claims, deviations, page, prose, reading, scorecard
from mi_utils.report.build import build
from mi_utils.report.equations import Equations, normalised
from mi_utils.report.evidence import EVIDENCE
from mi_utils.report.folder import Folder, write
from mi_utils.report.tables import Caption

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"
).split()
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
CAPTION = Caption(
    what="T1: attacks compared", data="digits", stand_in=None, evaluator="E", features="f", images="2", seeds=[0, 1, 2]
)
NOTEBOOK = [
    ("markdown", "# Toy: a paper\n\nBold **words**, $\\frac1N\\sum_i x_i$, ![x](http://example.com/a.png) " + EVIL),
    ("code", "import time"),
    ("markdown", "## The images\n\nLook."),
    ("code", 'for p in problems:\n    name = f"f1_{p}"\n    folder.figure(name, draw(p))'),
    ("markdown", "## T1\n\n| a | b |\n|---|---|\n| $x$ | `y` |\n\n[bad](javascript:alert(3))"),
    ("code", 'folder.table("t1_main", frame, caption)\nfolder.table("t9_gone", frame, caption)'),
    ("markdown", "## Explore\n\nSliders."),
    ("code", "%matplotlib inline\nwidgets.show()"),
]


class Page(HTMLParser):
    """Elements with their attributes, text by id of the nearest element that has one; tags must match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[tuple[str, str]] = []
        self.texts: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        found = dict(attrs)
        self.elements.append((tag, found))
        if tag not in VOID:
            inherited = self.open[-1][1] if self.open else ""
            self.open.append((tag, found.get("id") or inherited))

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        where = self.open[-1][1] if self.open else ""
        self.texts[where] = self.texts.get(where, "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def ids(self) -> list[str]:
        return [attrs["id"] for _, attrs in self.elements if attrs.get("id")]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts.values()).split())


def judged(name: str, verdict: str, value: float | None = 0.5, **changed: str) -> claims.Judgement:
    """A judgement with hostile words where a user's would stand."""
    interval = None if value is None else (value - 0.25, value + 0.25)
    words = {
        "statement": f"claim {name}",
        "source": "abstract",
        "published": "not available",
        "reason": f"since {name}",
    }
    return claims.Judgement(
        id=name, value=value, interval=interval, n=None if value is None else 3, verdict=verdict, **words | changed
    )


JUDGED = [
    judged("T1", "reproduced", 2.0),
    judged("T2", "partly", -1.0),
    judged("T10", "not reproduced", 10.0, statement=EVIL, reason=EVIL, published=EVIL, source=EVIL),
    judged("T3", "cannot be judged here", None),
]


def notebook(path: Path, cells: list[tuple[str, str]]) -> Path:
    book = nbformat.v4.new_notebook()
    book.cells = [getattr(nbformat.v4, f"new_{kind}_cell")(source) for kind, source in cells]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, path)
    return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """figures/ with one paper's results of every kind, and a second paper that has a notebook alone."""
    for name in ("toy", "absent"):
        notebook(tmp_path / "notebooks" / f"{name}.ipynb", NOTEBOOK)
    monkeypatch.setitem(EVIDENCE, "toy", {"T1": ("tables/t1_main", "figures/f1"), "T2": ("tables/t9_gone",), "T3": ()})
    folder = Folder("laptop", "toy", tmp_path / "figures")
    folder.claims(JUDGED)
    folder.provenance(
        {
            "commit": "abc123", "dirty": True, "device": "cpu", "threads": 1, "python": "3.11.7", "system": "Linux",
            "packages": {"torch": "2.15.0", EVIL: EVIL}, "seeds": [0, 1, 2], "wall_seconds": 3.5,
            "compute_seconds": 12.25, "peak_memory_mb": {"process": 300, "worker": 450},
            "stages": [
                {"stage": "Fit (a)", "key": "k", "seconds": 10.0, "device": "cpu", "commit": "abc123"},
                {"stage": "Fit (b)", "key": "l", "seconds": 2.25, "device": "cpu", "commit": "old456+"},
            ],
        }
    )  # fmt: skip
    frame = pd.DataFrame(
        {
            "data": ["digits"] * 4,
            "attack": ["BMI", "VMI", EVIL, "GMI"],
            "top1": ["9.5 ± 1.0 (n=3)", "91.8 ± 2.4 (n=3)", "not computed: no file", "-1,200"],
        }
    )
    folder.table("t1_main", frame, CAPTION)
    write(folder.path / "scores.csv", "attack\n")
    for name in ("f1_digits", "f1_faces", "zz_other"):
        content = io.BytesIO()
        Image.effect_noise((40, 30), 50).save(content, "png")
        write(folder.path / "figures" / f"{name}.png", content.getvalue())
    return tmp_path


def built(place: Path) -> Page:
    file = build(place / "figures", "laptop", ["toy", "absent"], place / "notebooks")
    return Page(file.read_text(encoding="utf-8"))


# --- scorecard ---


def test_the_committed_scorecard_is_what_the_committed_claims_say() -> None:
    papers = [reading.paper(ROOT / "figures" / "laptop" / name, ROOT / "notebooks") for name in studies.PAPERS]
    made = {
        "scorecard.md": scorecard.to_markdown("laptop", papers),
        "scorecard.csv": scorecard.to_csv(papers),
        "scorecard.json": scorecard.to_json("laptop", papers),
    }
    committed = {name: (ROOT / "figures" / "laptop" / name).read_text(encoding="utf-8") for name in made}
    assert made == committed, "run python -m mi_utils report and commit figures/laptop/"
    for paper in papers:
        stored = json.loads((ROOT / "figures" / "laptop" / paper.name / "claims.json").read_text(encoding="utf-8"))
        assert [j.model_dump(mode="json") for j in paper.judgements] == stored


def test_every_claim_has_its_evidence_and_it_is_among_the_committed_results() -> None:
    for name in studies.PAPERS:
        paper = reading.paper(ROOT / "figures" / "laptop" / name, ROOT / "notebooks")
        assert [j.id for j in paper.judgements] == list(EVIDENCE[name])
        for judgement in paper.judgements:
            found = scorecard.evidence(paper, judgement.id)
            assert all(e.found and (ROOT / "figures" / "laptop" / name / e.path).is_file() for e in found)
            assert found or judgement.verdict == "cannot be judged here"


def test_scorecard_files_agree_and_name_a_paper_without_results(place: Path) -> None:
    built(place)
    folder = place / "figures" / "laptop"
    rows = list(csv.DictReader(io.StringIO((folder / "scorecard.csv").read_text(encoding="utf-8"))))
    assert [(r["paper"], r["id"], r["verdict"]) for r in rows] == [
        *(("toy", j.id, j.verdict) for j in JUDGED),
        ("absent", "", "no results"),
    ]
    assert (rows[0]["value"], rows[0]["low"], rows[0]["high"], rows[0]["n"]) == ("2.0", "1.75", "2.25", "3")
    assert rows[0]["evidence"] == "tables/t1_main.md figures/f1_digits.png" and rows[1]["evidence"] == ""
    assert rows[3]["value"] == "" and "make reproduce PAPER=absent" in rows[4]["reason"]
    found = json.loads((folder / "scorecard.json").read_text(encoding="utf-8"))
    assert found["counts"] == dict.fromkeys((*scorecard.VERDICTS, "no results"), 1)
    assert [c["id"] for c in found["papers"][0]["claims"]] == [j.id for j in JUDGED]
    assert found["papers"][0]["dirty"] is True and found["papers"][1]["claims"] == []
    text = (folder / "scorecard.md").read_text(encoding="utf-8")
    assert "| T2 | claim T2 | not available | −1 \\[−1.25, −0.75\\] | 3 | ◐ partly | – |" in text
    assert "make reproduce PAPER=absent" in text and "<script" not in text.replace("\\<script", "")


# --- page ---


def test_every_claim_stands_on_the_page_with_links_that_resolve(place: Path) -> None:
    found = built(place)
    assert len(set(found.ids)) == len(found.ids)
    for judgement in JUDGED:
        assert f"toy-claim-{judgement.id.lower()}" in found.ids
        assert judgement.statement in found.text and judgement.reason in found.text
    for word in ("reproduced", "partly", "not reproduced", "cannot be judged here", "[1.75, 2.25]", "−1"):
        assert word in found.text
    for attrs in found.all("a"):
        target = attrs["href"]
        if target.startswith("#"):
            assert target[1:] in found.ids, target
        elif not target.endswith((".pdf", ".ipynb")) and ":" not in target:
            assert (place / "figures" / "laptop" / target).is_file(), target
    assert "toy-tables-t1_main" in found.ids and "toy-figures-f1_digits" in found.ids


def test_what_is_missing_is_said_in_its_place(place: Path) -> None:
    found = built(place)
    assert "t9 gone is missing" in found.texts["toy-claim-t2"]
    assert "none: not measured" in found.texts["toy-claim-t3"]
    assert "Table t9_gone is not among the stored results." in found.text
    assert found.text.count("No results yet: run make reproduce PAPER=absent") == 4  # card, scorecard, section, cost
    assert "no record: No results yet" in found.texts["cost-table"]
    assert "the executed notebook is not in this folder" in found.text
    assert found.text.index("Not named in the notebook") < found.text.rindex("zz other")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("claims.json", None, "claims.json is missing"),
        ("claims.json", "[", "claims.json cannot be read, the whole file"),
        ("claims.json", '[{"id": "T1"}]', "claims.json cannot be read, 0.statement: Field required"),
        ("claims.json", "[]", "claims.json holds no claim"),
        ("provenance.json", None, "provenance.json is missing or cannot be read"),
        ("provenance.json", "{", "provenance.json is missing or cannot be read"),
        ("tables/t1_main.csv", "a,b\n1\n", "expected 2 cells a row, found 1 in row 1"),
        ("tables/t1_main.csv", "", "expected a header and rows, found neither"),
        ("tables/t1_main.csv", None, "Table t1_main is not among the stored results"),
        ("tables/t1_main.md", None, "Its caption file is missing"),
        ("figures/f1_digits.png", "no image", "expected a PNG image, found something else"),
        ("toy.failed.ipynb", "{}", "The last run of this notebook failed"),
    ],
)
def test_damaged_and_missing_files_are_said_and_the_rest_is_shown(
    place: Path, file: str, content: str | None, said: str
) -> None:
    path = place / "figures" / "laptop" / "toy" / file
    if content is None:
        path.unlink()
    else:
        path.write_text(content, encoding="utf-8")
    found = built(place)
    assert said in found.text
    assert "toy-figures-f1_faces" in found.ids


def test_hostile_words_stay_words_and_nothing_is_loaded(place: Path) -> None:
    executed = nbformat.read(place / "notebooks" / "toy.ipynb", as_version=4)
    executed.cells[3].outputs = [
        nbformat.v4.new_output("stream", text=EVIL),
        nbformat.v4.new_output("display_data", {"text/markdown": EVIL, "text/html": EVIL}),
    ]
    nbformat.write(executed, place / "figures" / "laptop" / "toy" / "toy.ipynb")
    found = built(place)
    assert len(found.all("script")) == 1 and "src" not in found.all("script")[0]
    assert found.text.count("alert(1)") >= 8
    for tag, attrs in found.elements:
        assert not [name for name in attrs if name.startswith("on")], (tag, attrs)
        assert tag not in ("iframe", "object", "embed", "base", "form")
        for name in ("src", "srcset", "data", "poster", "action"):
            assert not attrs.get(name) or attrs[name].startswith("data:image/"), (tag, attrs)
        if tag == "link":
            assert attrs["href"] == "data:,"
        if "href" in attrs:
            assert not re.match(r"(?i)\s*(javascript|vbscript|file):", attrs["href"])
            assert tag == "a" or not attrs["href"].startswith("http")
    style = "".join(re.findall(r"<style>(.*?)</style>", (place / "figures/laptop/index.html").read_text(), re.S))
    assert "url(" not in style and "@import" not in style
    policy = next(a["content"] for a in found.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy


def test_tables_have_the_semantics_of_tables(place: Path) -> None:
    build(place / "figures", "laptop", ["toy", "absent"], place / "notebooks")
    text = (place / "figures" / "laptop" / "index.html").read_text(encoding="utf-8")
    for table in re.findall(r"<table id=.*?</table>", text, re.S):
        assert table.count("<caption") == 1
        header, body = table.split("<tbody>")
        assert '<th scope="col"' in header and "<td" not in header
        assert all("<th scope=row" in row or '<th scope="row"' in row for row in body.split("<tr")[1:])
    own = re.search(r'<table id="toy-tables-t1_main">.*?</table>', text, re.S)[0]
    assert own.count('aria-sort="none"') == 3
    assert own.count("<th scope=row") == 8  # data and attack tell the rows apart
    assert 'data-v="91.8"' in own and 'data-v="-1200.0"' in own and own.count("data-none") == 1


def test_an_interrupted_build_leaves_the_old_page(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = build(place / "figures", "laptop", ["toy"], place / "notebooks")
    before = file.read_bytes()
    monkeypatch.setattr(page, "render", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build(place / "figures", "laptop", ["toy", "absent"], place / "notebooks")
    assert file.read_bytes() == before and not list(file.parent.glob(".*"))


def test_a_page_is_built_twice_the_same(place: Path) -> None:
    first = build(place / "figures", "laptop", ["toy"], place / "notebooks").read_bytes()
    assert build(place / "figures", "laptop", ["toy"], place / "notebooks").read_bytes() == first


def test_a_profile_without_results_is_an_error_in_one_line(place: Path) -> None:
    with pytest.raises(UserError, match="found none of toy; run make reproduce PROFILE=gpu"):
        build(place / "figures", "gpu", ["toy"], place / "notebooks")


def test_the_command_builds_from_what_lies_there(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(studies, "PAPERS", {"toy": SimpleNamespace()})
    monkeypatch.setattr("mi_utils.reproduce.NOTEBOOKS", place / "notebooks")
    assert main(["report", "--figures", str(place / "figures")]) == 0
    assert "scorecard.md" in capsys.readouterr().out
    assert (place / "figures" / "laptop" / "index.html").is_file()
    assert main(["report", "--profile", "gpu", "--figures", str(place / "figures")]) == 2
    assert "make reproduce PROFILE=gpu" in capsys.readouterr().err


# --- parts ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("91.8 ± 2.4 (n=3)", 91.8), ("-0.251 [-0.476, -0.005] (n=60)", -0.251), ("6,016", 6016.0), (".58", 0.58),
        ("1e-3", 0.001), ("−2 points", -2.0), ("99.44 (MNIST, released README)", 99.44), ("–", None), ("", None),
        ("3x3", None), ("T1", None), ("-", None), ("IMR 1, IDR 0", None), ("97.5%", 97.5),
    ],
)  # fmt: skip
def test_numbers_are_read_from_cells(text: str, expected: float | None) -> None:
    assert page.number(text) == expected


def test_every_formula_of_the_notebooks_is_drawn() -> None:
    equations, count = Equations(), 0
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                made = prose.rendered(cell.source, equations)
                count += made.count("<svg")
                assert not re.search(r'<code class="math|\$', made), cell.source
    assert count > 70
    used = set(re.findall(r"#(glyph\d+)", equations.svg("x+y")))
    assert len(used) == 3 and all(f'id="{name}"' in equations.definitions for name in used)


def test_a_formula_that_cannot_be_drawn_stays_readable() -> None:
    made = Equations().svg(r"\begin{cases}a<b\end{cases}")
    assert made.startswith('<code class="math">') and "a&lt;b" in made
    assert normalised(r"\tfrac1N\frac{2\lambda}d\lVert x\rVert\le\mathbb 1") == (
        r"\frac{1}{N}\frac{2\lambda}{d}\Vert  x\Vert \leq \mathbb{1}"
    )


def test_figures_and_tables_stand_where_the_notebook_names_them() -> None:
    book = nbformat.read(ROOT / "notebooks" / "logit_augmentation.ipynb", as_version=4)
    paper = reading.paper(ROOT / "figures" / "laptop" / "logit_augmentation", ROOT / "notebooks")
    stored = {"tables": list(paper.tables), "figures": list(paper.figures)}
    where = {
        (item.kind, item.name): section.heading
        for section in prose.sections(book, stored, Equations())
        for item in section.items
    }
    assert where["figures", "f5_faces_gmi"] == "The images first"
    assert where["figures", "f5_disagreement_faces"] == where["tables", "t1c_differences"] == "Paired differences"
    assert where["tables", "f9_factors"] == where["figures", "f9_factors"] == "What leaks of an identity?"
    assert len(where) == len(paper.tables) + len(paper.figures) - 1  # the claims are the scorecard


@pytest.mark.parametrize("name", sorted(studies.PAPERS))
def test_committed_results_all_have_a_place(name: str) -> None:
    paper = reading.paper(ROOT / "figures" / "laptop" / name, ROOT / "notebooks")
    found = prose.sections(paper.book, {"tables": list(paper.tables), "figures": list(paper.figures)}, Equations())
    assert "Not named in the notebook" not in [section.heading for section in found]
    assert [item for section in found for item in section.items if not item.stored] == []


def test_deviations_are_those_that_the_imported_modules_state() -> None:
    from mi_utils.attacks import gmi, objective

    book = nbformat.read(ROOT / "notebooks" / "logit_augmentation.ipynb", as_version=4)
    found = dict(deviations.of_notebook(book))
    for module in (gmi, objective):
        own = {n: v for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__}
        for name, value in {"": module, **own}.items():
            if "Deviation:" in (value.__doc__ or ""):
                said = " ".join(value.__doc__.split("Deviation:")[1].split("\n\n")[0].split())
                assert found[f"{module.__name__}{'.' * bool(name)}{name}"] == said
    assert len(found) >= 5


def test_no_stage_depends_on_the_page() -> None:
    own = {"evidence", "reading", "scorecard", "page", "pictures", "prose", "equations", "deviations", "build"}
    for path in (ROOT / "mi_utils").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        imported = code_digest._followed(code_digest.ast.parse(path.read_text("utf-8")), module, False, ("mi_utils",))
        if {name.rsplit(".", 1)[-1] for name in imported if name.startswith("mi_utils.report.")} & own:
            assert module == "mi_utils.reproduce" or module.removeprefix("mi_utils.report.") in own, module


# --- in a browser ---


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as play:
        running = play.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield running
        running.close()


def opened(browser, path: Path, width: int = 1280, scheme: str = "light"):
    """The page, and what it said to the console or asked of the network."""
    view = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    said: list[str] = []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("request", lambda asked: None if asked.url.startswith(("data:", "file:")) else said.append(asked.url))
    view.goto(path.as_uri())
    return view, said


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (360, "dark"), (1280, "dark")])
def test_the_committed_page_fits_every_screen(browser, width: int, scheme: str) -> None:
    path = ROOT / "figures" / "laptop" / "index.html"
    assert path.stat().st_size <= 10e6
    view, said = opened(browser, path, width, scheme)
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert view.evaluate("[...document.images].every(i => i.id === 'zoom-image' || i.naturalWidth > 0)")
    colour = view.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colour == ("rgb(20, 22, 26)" if scheme == "dark" else "rgb(255, 255, 255)")
    assert view.locator("#claims tbody tr").count() == sum(map(len, EVIDENCE.values()))
    assert said == []
    view.close()


CONTRAST = """() => {
  const rgb = c => c.match(/[\\d.]+/g).map(Number);
  const linear = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => { const [r, g, b] = c.slice(0, 3).map(linear);
                       return .2126 * r + .7152 * g + .0722 * b; };
  const under = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
                       if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  const found = [];
  for (const e of document.body.querySelectorAll("*:not(script, option)")) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(under(e))];
    found.push((Math.max(a, b) + .05) / (Math.min(a, b) + .05));
  }
  return Math.min(...found);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(browser, place: Path, scheme: str) -> None:
    built(place)
    view, _ = opened(browser, place / "figures" / "laptop" / "index.html", scheme=scheme)
    assert view.evaluate(CONTRAST) >= 4.5
    view.close()


def column(view, table: str, index: int) -> list[str]:
    return view.eval_on_selector_all(f"#{table} tbody tr", f"rows => rows.map(r => r.cells[{index}].innerText.trim())")


def test_tables_sort_by_number_by_mouse_and_by_keyboard(browser, place: Path) -> None:
    built(place)
    view, said = opened(browser, place / "figures" / "laptop" / "index.html")
    table = "toy-tables-t1_main"
    view.locator(f"#{table} .sort").nth(2).click()
    cells = ["-1,200", "9.5 ± 1.0 (n=3)", "91.8 ± 2.4 (n=3)", "not computed: no file"]
    assert column(view, table, 2) == cells
    view.keyboard.press("Enter")  # the button has the focus
    assert column(view, table, 2) == [*cells[2::-1], cells[3]]
    states = f"#{table} thead th"
    order = "cells => cells.map(c => c.getAttribute('aria-sort'))"
    assert view.eval_on_selector_all(states, order) == ["none", "none", "descending"]
    view.locator("#claims .sort").first.focus()
    view.keyboard.press("Space")
    assert column(view, "claims", 0) == ["T1", "T2", "T3", "T10", "–"]
    view.locator("#claims .sort").nth(2).click()
    verdicts = [" ".join(text.split()[1:]) for text in column(view, "claims", 2)]
    assert verdicts == [*scorecard.VERDICTS, "no results"]
    assert said == []
    view.close()


def test_claims_are_filtered_by_paper_and_by_verdict(browser, place: Path) -> None:
    built(place)
    view, _ = opened(browser, place / "figures" / "laptop" / "index.html")
    shown = "rows => rows.filter(r => r.offsetParent).map(r => r.cells[0].innerText)"
    view.select_option("#by-verdict", "partly")
    assert view.eval_on_selector_all("#claims tbody tr", shown) == ["T2"]
    assert view.inner_text("#shown") == "1 of 5 rows"
    view.select_option("#by-verdict", "")
    view.select_option("#by-paper", "absent")
    assert view.eval_on_selector_all("#claims tbody tr", shown) == ["–"]
    view.close()


def test_figures_are_enlarged_and_closed_again(browser, place: Path) -> None:
    built(place)
    view, said = opened(browser, place / "figures" / "laptop" / "index.html")
    button = view.locator("#toy-figures-f1_faces .zoom")
    button.click()
    assert view.locator("dialog[open]").count() == 1
    assert view.get_attribute("#zoom-image", "src") == button.locator("img").get_attribute("src")
    view.click("#zoom-size")
    assert view.get_attribute("#zoom-size", "aria-pressed") == "true"
    view.keyboard.press("Escape")
    assert view.locator("dialog[open]").count() == 0
    assert view.evaluate("document.activeElement.className") == "zoom"
    view.keyboard.press("Enter")
    assert view.locator("dialog[open]").count() == 1
    view.click("#zoom-close")
    assert view.locator("dialog[open]").count() == 0 and said == []
    view.close()


def test_scripts_of_a_file_do_not_run(browser, place: Path) -> None:
    built(place)
    path = place / "figures" / "laptop" / "index.html"
    path.write_text(path.read_text(encoding="utf-8").replace("<main>", "<main><script>window.hacked = 1</script>"))
    view, said = opened(browser, path)
    assert view.evaluate("window.hacked === undefined")
    assert any("Content Security Policy" in line for line in said)
    view.close()

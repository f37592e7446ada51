"""A notebook as the flow of a page: its prose as HTML, and the stored tables and figures where its cells name them.

nbconvert reads the Markdown.  Code is not shown; of an executed notebook, what its cells printed is.
"""

import ast
import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from mi_utils.report.equations import Equations

Kind = Literal["tables", "figures"]
# Parts of a notebook that serve the one who works in it, and what the page has of its own.
LEFT_OUT = ("The recipe", "Run", "Explore", "Verdicts", "Deviations", "T7: deviations", "Cost and provenance")
ELSEWHERE = {("tables", "claims"), ("tables", "t7_deviations")}
_LOCAL = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Item:
    """A stored table or figure; `stored` False: a cell names it, and the folder has none of that name."""

    kind: Kind
    name: str
    stored: bool = True


@dataclass
class Section:
    """A heading with what stands below it: prose (HTML), what cells printed (HTML), tables and figures."""

    heading: str
    level: int
    prose: str
    printed: list[str]
    items: list[Item]


class Prose(IPythonRenderer):
    """Markdown of a notebook: markup in it is text, nothing is loaded, headings are one level down."""

    def __init__(self, equations: Equations) -> None:
        super().__init__(escape=True, allow_harmful_protocols=False, exclude_anchor_links=True)
        self.equations = equations

    def heading(self, text: str, level: int, **_: object) -> str:
        """A heading inside a paper's section."""
        return f"<h{min(level + 1, 6)}>{text}</h{min(level + 1, 6)}>\n"

    def inline_math(self, body: str) -> str:
        """A formula in a line."""
        return self.equations.svg(body)

    def block_math(self, body: str) -> str:
        """A formula of its own, one line for each part that \\quad sets apart, so that a phone can show it."""
        large = re.sub(r"\\t?frac(?![a-zA-Z])", lambda _: r"\dfrac", body)
        parts = [part for part in re.split(r"\\q?quad(?![a-zA-Z])", large) if part.strip()]
        return "".join(self.equations.svg(part, display=True) for part in parts)

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """A link; its words alone where following it would run something."""
        return super().link(text, url, title) if self.safe_url(url) != "#harmful-link" else text

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """Not loaded: a link with the picture's words."""
        return self.link(html.escape(text) or "picture", url, title)

    def block_code(self, code: str, info: str | None = None) -> str:
        """As it is, without colours."""
        return f"<pre>{html.escape(code)}</pre>\n"

    def table(self, text: str) -> str:
        """A table in a box of its own that scrolls."""
        return f'<div class="box" tabindex="0" role="region" aria-label="table"><table>{text}</table></div>\n'

    def table_cell(self, text: str, align: str | None = None, head: bool = False) -> str:
        """A cell; headers say what they head."""
        return f'<th scope="col">{text}</th>' if head else f"<td>{text}</td>"


def rendered(markdown: str, equations: Equations) -> str:
    """Markdown as HTML that is safe to show, whoever wrote it."""
    return MarkdownWithMath(renderer=Prose(equations)).render(markdown)


def sections(book: NotebookNode, stored: dict[Kind, Sequence[str]], equations: Equations) -> list[Section]:
    """The notebook's sections; what no cell names stands in a last one."""
    items = _placed(book, stored)
    found = [Section("", 2, "", [], [])]
    for i, cell in enumerate(book.cells):
        if cell.cell_type == "markdown":
            found += _split(cell.source, equations)
        elif cell.cell_type == "code":
            found[-1].items += items.pop(i, [])
            found[-1].printed += _printed(cell, equations)
    kept = [s for s in found if s.heading not in LEFT_OUT or s.items]
    rest = [item for left in items.values() for item in left]
    if rest:
        kept.append(Section("Not named in the notebook", 3, "", [], rest))
    return [s for s in kept if s.prose or s.items]


def _split(source: str, equations: Equations) -> Iterator[Section]:
    """A cell's sections, one for each heading that begins a line outside code."""
    parts = re.split(r"(?m)^(#{1,4}) +(.+)$", source)
    if parts[0].strip():
        yield Section("", 2, rendered(parts[0], equations), [], [])
    for marks, heading, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        yield Section(heading.strip(), len(marks) + 1, rendered(text, equations), [], [])


def _printed(cell: NotebookNode, equations: Equations) -> Iterator[str]:
    """What a cell printed or showed as Markdown; tables are left to the stored ones."""
    for output in cell.get("outputs", ()):
        if output.output_type == "stream" and output.name == "stdout":
            yield f"<pre>{html.escape(output.text.strip())}</pre>"
        elif text := output.get("data", {}).get("text/markdown"):
            if "\n|" not in text:
                yield rendered(text, equations)


def _placed(book: NotebookNode, stored: dict[Kind, Sequence[str]]) -> dict[int, list[Item]]:
    """Index of a cell -> what it made, in the order of its code; -1: what no cell names."""
    literals = [(i, *word) for i, cell in enumerate(book.cells) if cell.cell_type == "code" for word in _words(cell)]
    places: dict[int, list[tuple[int, Item]]] = {}
    met = set()
    for kind, names in stored.items():
        for name in sorted(names):
            if (kind, name) in ELSEWHERE:
                continue
            hits = [word for word in literals if _names(word[2], name) and word[3] in (kind, None)]
            best = max(hits, key=lambda word: len(word[2].rstrip("_")), default=(-1, 0, "", None))
            met.add((kind, best[2]))
            places.setdefault(best[0], []).append((best[1], Item(kind, name)))
    for i, position, word, kind in literals:
        if kind and (kind, word) not in met | ELSEWHERE:
            places.setdefault(i, []).append((position, Item(kind, word.rstrip("_"), stored=False)))
    return {i: [item for _, item in sorted(found, key=lambda pair: pair[0])] for i, found in sorted(places.items())}


def _names(literal: str, name: str) -> bool:
    """Whether a string of the code names a stored file, whole or up to the data set."""
    return name == literal or name.startswith(literal.rstrip("_") + "_")


def _words(cell: NotebookNode) -> list[tuple[int, str, Kind | None]]:
    """(position, string, kind) of the strings that can be a name; kind: handed to folder.table or folder.figure."""
    try:
        tree = ast.parse(cell.source)
    except SyntaxError:  # a line of IPython's own
        return []
    calls = {
        id(text): f"{call.func.attr}s"
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.args
        if call.func.attr in ("table", "figure") and getattr(call.func.value, "id", "") == "folder"
        for text in _strings(call.args[0])[:1]
    }
    return [((s.lineno << 16) + s.col_offset, s.value, calls.get(id(s))) for s in _strings(tree)]


def _strings(tree: ast.AST) -> list[ast.Constant]:
    """The strings in the code that could be part of a file's name."""
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [text for text in texts if _LOCAL.fullmatch(text.value)]

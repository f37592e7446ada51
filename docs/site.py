"""What mkdocs asks of this project: pages made of files that lie elsewhere, and formulae without a script.

README, CONTRIBUTING and CHANGELOG become pages as they are; each notebook becomes one through nbconvert (executed,
where `make reproduce` left it so); each module gets a page of its docstrings.  LaTeX becomes MathML, which browsers
draw themselves, so that a page opened from a file shows its equations.
"""

import html
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from latex2mathml.converter import convert
from latex2mathml.exceptions import NoAvailableTokensError
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
GUIDES = {path.name: f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))}
LINK = re.compile(r"(!?)\[([^\]\n]*)\]\(([^)\s]+)\)")
MATH = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


# --- pages ---------------------------------------------------------------------------------------------------------


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation: start, papers, guides, reference by package."""
    reference: dict[str, list[str]] = {}
    for module in modules():
        reference.setdefault(".".join(module.split(".")[:2]), []).append(page_of(module))
    config.nav = [
        {"Start": "index.md"},
        {"Papers": [f"papers/{path.stem}.md" for path in notebooks()]},
        *([{"Guides": list(GUIDES)}] if GUIDES else []),
        {"Reference": [{name: pages} if len(pages) > 1 else pages[0] for name, pages in reference.items()]},
        {"Contributing": "contributing.md"},
        {"Changes": "changelog.md"},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made, and the images that they show."""
    made = {page: (ROOT / source).read_text() for source, page in PAGES.items()}
    for path in notebooks():
        text, images = converted(path)
        made[f"papers/{path.stem}.md"] = text
        for name, content in images.items():
            files.append(File.generated(config, f"papers/{name}", content=content))
    for module in modules():
        made[page_of(module)] = f"# {module}\n\n::: {module}\n"
    for uri, content in made.items():
        files.append(File.generated(config, uri, content=content))
    for uri in sorted(set(shown([*made.values(), *((ROOT / guide).read_text() for guide in GUIDES.values())]))):
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / uri)))
    return files


def modules() -> list[str]:
    """Dotted names of all modules that have a text, packages before their parts."""
    paths = sorted((ROOT / "mi_utils").rglob("*.py"))
    parts = [path.relative_to(ROOT).with_suffix("").parts for path in paths if path.stat().st_size]
    return sorted(".".join(p[:-1] if p[-1] == "__init__" else p) for p in parts if p[-1] != "__main__")


def page_of(module: str) -> str:
    """`mi_utils.a.b` -> `reference/mi_utils.a.b.md`."""
    return f"reference/{module}.md"


def notebooks() -> list[Path]:
    """The papers' notebooks."""
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def converted(source: Path) -> tuple[str, dict[str, bytes]]:
    """Markdown of a notebook and its images by name; the executed one of `laptop` where it is there."""
    run = ROOT / "figures" / "laptop" / source.stem / source.name
    notebook = nbformat.read(run if run.exists() else source, as_version=4)
    text, resources = MarkdownExporter().from_notebook_node(notebook)
    names = {name: f"{source.stem}_{name}" for name in resources["outputs"]}
    for old, new in names.items():
        text = text.replace(f"({old})", f"({new})")
    return text, {names[old]: content for old, content in resources["outputs"].items()}


def shown(texts: list[str]) -> Iterator[str]:
    """Images of this repository that pages of its root or of docs/ show."""
    for text in texts:
        for mark, _, target in LINK.findall(text):
            uri = target.removeprefix("../")
            if mark and (ROOT / uri).is_file():
                yield uri


# --- links and formulae --------------------------------------------------------------------------------------------


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between files of the repository become links between pages; to what is no page, plain words."""
    here = page.file.src_uri
    source = next((s for s, made in (PAGES | {g: n for n, g in GUIDES.items()}).items() if made == here), None)
    if source is None:
        return markdown
    places = PAGES | {guide: name for name, guide in GUIDES.items()}
    places |= {f"notebooks/{path.name}": f"papers/{path.stem}.md" for path in notebooks()}

    def moved(found: re.Match) -> str:
        mark, words, target = found.groups()
        path, _, anchor = target.partition("#")
        if "://" in target or target.startswith(("#", "mailto:")):
            return found[0]
        repository = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        place = places.get(repository, repository if mark or repository.endswith(".png") else None)
        if place is None or files.get_file_from_path(place) is None:
            return words
        link = posixpath.relpath(place, posixpath.dirname(here) or ".")
        return f"{mark}[{words}]({link}{'#' * bool(anchor)}{anchor})"

    return LINK.sub(moved, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """LaTeX to MathML; what cannot be converted stays as it was written."""

    def drawn(found: re.Match) -> str:
        kind, latex = found[2], html.unescape(found[3]).strip()
        try:
            return convert(latex, display="block" if kind == "[" else "inline")
        except (NoAvailableTokensError, IndexError, KeyError, ValueError):
            return f"<code>{html.escape(latex)}</code>"

    return MATH.sub(drawn, content)

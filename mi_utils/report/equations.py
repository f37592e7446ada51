"""TeX formulas as SVG by matplotlib's mathtext, so that a page shows them without a network and without fonts.

Each glyph is drawn once, in `Equations.definitions`, and used by every formula that has it.
"""

import html
import re
from collections.abc import Mapping

from matplotlib import rc_context
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextToPath

EM = TextToPath.FONT_SCALE  # units of a glyph's outline
# TeX that mathtext knows under another name, or only with braces.
_WORDS = {r"\lVert": r"\Vert", r"\rVert": r"\Vert", r"\le": r"\leq", r"\ge": r"\geq", r"\tfrac": r"\frac"}
_LETTERS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C", Path.CLOSEPOLY: "Z"}
_ONE = r"(\\[a-zA-Z]+|[^\s\\{}])"


def normalised(tex: str) -> str:
    """The same formula in mathtext's dialect."""
    tex = re.sub(r"\\(?:big|Big|bigg|Bigg)[lr]?(?![a-zA-Z])", "", " ".join(tex.split()))
    for word, known in _WORDS.items():
        tex = re.sub(rf"{re.escape(word)}(?![a-zA-Z])", lambda _, known=known: f"{known} ", tex)
    tex = re.sub(rf"\\(mathbf|mathbb|mathcal|mathrm|bar)\s*{_ONE}", r"\\\1{\2}", tex)
    tex = re.sub(rf"(\\d?frac)\s*{_ONE}", r"\1{\2}", tex)
    return re.sub(rf"(\\d?frac(?:\{{[^{{}}]*\}}))\s*{_ONE}", r"\1{\2}", tex)


class Equations:
    """Formulas of one page; `definitions` is complete after the last of them."""

    def __init__(self) -> None:
        self._glyphs: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._draw = TextToPath()

    def svg(self, tex: str, *, display: bool = False) -> str:
        """The formula as an inline picture with its TeX as text alternative; TeX alone where it cannot be drawn."""
        source = html.escape(" ".join(tex.split()))
        kind = "math display" if display else "math"
        text = f"${normalised(tex)}$"
        try:
            with rc_context({"mathtext.fontset": "stix"}):
                prop = FontProperties(size=EM)
                width, height, depth = self._draw.get_text_width_height_descent(text, prop, True)
                glyphs, outlines, bars = self._draw.get_glyphs_mathtext(prop, text)
        except ValueError:
            return f'<code class="{kind}">{source}</code>'
        parts = [self._use(*glyph, outlines) for glyph in glyphs]
        parts += [f'<path d="{_outline(Path(*bar))}"/>' for bar in bars]
        box = f"0 {depth - height:.0f} {width:.0f} {height:.0f}"
        size = f"width:{width / EM:.2f}em;height:{height / EM:.2f}em;vertical-align:{-depth / EM:.2f}em"
        return (
            f'<svg class="{kind}" role="img" aria-label="{source}" viewBox="{box}" style="{size}">'
            f'<g transform="scale(1 -1)">{"".join(parts)}</g></svg>'
        )

    @property
    def definitions(self) -> str:
        """The glyphs that the formulas use: to be put into the page once."""
        glyphs = "".join(f'<path id="{self._names[key]}" d="{d}"/>' for key, d in self._glyphs.items())
        return f'<svg class="glyphs" width="0" height="0" aria-hidden="true"><defs>{glyphs}</defs></svg>'

    def _use(self, key: str, x: float, y: float, scale: float, outlines: Mapping[str, tuple]) -> str:
        """One glyph of a formula."""
        if key not in self._glyphs:
            self._names[key] = f"glyph{len(self._names)}"
            vertices, codes = outlines[key]
            self._glyphs[key] = _outline(Path(vertices, codes)) if len(vertices) else ""
        size = "" if scale == 1 else f" scale({scale:.3g})"
        return f'<use href="#{self._names[key]}" transform="translate({x:.1f} {y:.1f}){size}"/>'


def _outline(path: Path) -> str:
    """A path as SVG writes it."""
    steps = path.iter_segments(simplify=False)
    return "".join(
        _LETTERS[code] + ("" if code == Path.CLOSEPOLY else " ".join(f"{v:.1f}".removesuffix(".0") for v in points))
        for points, code in steps
    )

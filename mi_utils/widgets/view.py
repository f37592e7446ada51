"""A view: controls above the picture that a function draws of their values."""

import html
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets
from PIL import Image

from mi_utils.errors import UserError
from mi_utils.report.figures import Picture
from mi_utils.schedule import in_live_notebook

Draw = Callable[..., Picture | Sequence[Picture]]
_ROW = ipywidgets.Layout(flex_flow="row wrap", align_items="center", grid_gap="0 16px")
_COLUMN = ipywidgets.Layout(align_items="flex-start")  # a picture keeps its size, up to the page's width


class View:
    """Controls above a picture that follows them; what goes wrong is said in one line in the picture's place.

    `adapt` is called before each drawing and gives controls the options that fit the others.  `still` draws what
    remains where no browser is (papermill, nbconvert), by default the first picture; `more` are further widgets.
    """

    def __init__(
        self,
        draw: Draw,
        controls: Mapping[str, ipywidgets.Widget],
        adapt: Callable[[], None] | None = None,
        still: Callable[[], Picture | Sequence[Picture]] | None = None,
        more: Sequence[ipywidgets.Widget] = (),
    ) -> None:
        self.controls, self._draw, self._adapt, self._still = dict(controls), draw, adapt, still
        self._drawing, self.said = False, ""
        self.picture = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%"))
        self.message = ipywidgets.HTML()
        row = ipywidgets.HBox([*self.controls.values(), *more], layout=_ROW)
        self.box = ipywidgets.VBox([row, self.message, self.picture], layout=_COLUMN)
        for control in self.controls.values():
            control.observe(self._show, "value")
        self._show()

    def _show(self, *_: object) -> None:
        """Draw anew; controls that `adapt` changes on the way start no drawing of their own."""
        if self._drawing:
            return
        self._drawing = True
        try:
            png, self.said = _attempt(self._drawn)
        finally:
            self._drawing = False
        self.picture.value, self.picture.layout.display = png, None if png else "none"
        self.message.value = f"<p role='alert'><b>{html.escape(self.said)}</b></p>" if self.said else ""

    def _drawn(self) -> bytes:
        if self._adapt is not None:
            self._adapt()
        return stacked(self._draw(**{name: control.value for name, control in self.controls.items()}))

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        """The widget and a picture in a live notebook; elsewhere the picture, or the line that says why not."""
        png, said = bytes(self.picture.value), self.said
        if self._still is not None:
            png, said = _attempt(lambda: stacked(self._still()))
        bundle: dict[str, Any] = {"text/plain": said or "a view over stored results"}
        if png:
            bundle["image/png"] = png
        if in_live_notebook():
            bundle |= {k: v for k, v in self.box._repr_mimebundle_().items() if k != "text/plain"}
        return bundle


def view(draw: Draw, **controls: ipywidgets.Widget) -> View:
    """A view whose controls do not depend on each other."""
    return View(draw, controls)


def _attempt(draw: Callable[[], bytes]) -> tuple[bytes, str]:
    """(PNG, "") or (nothing, one line): a callback's traceback would be lost in the browser's log."""
    try:
        return draw(), ""
    except UserError as problem:
        return b"", f"Not shown: {problem}"
    except Exception as problem:
        print(f"view: {type(problem).__name__}: {problem}", file=sys.__stderr__)  # the server's log
        return b"", f"Not shown: {type(problem).__name__}: {' '.join(str(problem).split())[:300]}"


def stacked(pictures: Picture | Sequence[Picture]) -> bytes:
    """PNG of one picture, or of several one above the other on white."""
    if isinstance(pictures, Picture):
        return pictures.png
    parts = [Image.open(io.BytesIO(picture.png)).convert("RGB") for picture in pictures]
    sheet = Image.new("RGB", (max(p.width for p in parts), sum(p.height for p in parts)), "white")
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    content = io.BytesIO()
    sheet.save(content, "png")
    return content.getvalue()

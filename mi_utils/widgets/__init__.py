"""Views over stored results for JupyterLab; where a notebook runs without a browser, each leaves a picture.

A view trains nothing: it reads the store, at most sends stored latents through a stored generator, and draws.
"""

from mi_utils.widgets.controls import choice, slider
from mi_utils.widgets.runs import frontier, nearest_private, reconstructions, replay, tuning
from mi_utils.widgets.view import View, view

__all__ = ["View", "choice", "frontier", "nearest_private", "reconstructions", "replay", "slider", "tuning", "view"]

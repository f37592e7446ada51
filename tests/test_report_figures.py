"""Figures: the numbers they show, their labels, colours, bytes, and that pyplot is left alone."""

import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Annotation
from PIL import Image

from mi_utils.errors import UserError
from mi_utils.metrics.intervals import Interval
from mi_utils.report import figures
from mi_utils.report.figures import Point

POINTS = [
    Point("one", "BMI", Interval(0.1, 0.05, 0.2, 3), 0.9),
    Point("two", "BMI", 0.4, Interval(0.5, 0.4, 0.6, 3)),
    Point("twin", "VMI", 0.4, 0.5),
]


def grey(n: int, level: int, px: int = 8) -> torch.Tensor:
    return torch.full((n, 1, px, px), level, dtype=torch.uint8)


def every_figure() -> dict[str, figures.Picture]:
    frame = pd.DataFrame([[0.25, np.nan], [1.0, 0.5]], index=["BMI", "VMI"], columns=["E1", "E2"])
    y = torch.tensor([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]])
    return {
        "grid": figures.image_grid({"private": grey(3, 0), "BMI": grey(2, 200)}, columns=["0", "1", "2"]),
        "curves": figures.curves(
            {"BMI": (torch.arange(3.0), y)}, x_label="it", y_label="L", references={"chance": 0.5}
        ),
        "scatter": figures.scatter(POINTS, x_label="x", y_label="y", connect=True),
        "heat": figures.heat_map(frame, label="top-1"),
        "bars": figures.effect_bars({"a": Interval(2, 1, 3, 3), "b": Interval(0, -1, 1, 3)}, label="points"),
    }


def data_axes(figure: figures.Picture):
    return figure.axes[0]


def test_same_numbers_give_the_same_bytes_without_date_or_version():
    for name, first, second in zip(every_figure(), every_figure().values(), every_figure().values(), strict=True):
        for suffix in ("png", "pdf"):
            contents = []
            for figure in (first, second):
                contents.append(io.BytesIO())
                figures.save(figure, contents[-1], suffix)
            assert contents[0].getvalue() == contents[1].getvalue(), (name, suffix)
            assert not [w for w in (b"CreationDate", b"atplotlib") if w in contents[0].getvalue()], (name, suffix)


def test_nothing_global_is_changed_or_left_open():
    before = dict(mpl.rcParams)
    drawn = every_figure()
    assert dict(mpl.rcParams) == before and plt.get_fignums() == []
    assert drawn["bars"]._repr_png_().startswith(b"\x89PNG")


def test_grid_shows_the_first_images_in_order_grey_as_rgb_and_short_rows_white():
    ramp = torch.arange(12, dtype=torch.uint8).mul(20).view(12, 1, 1, 1).expand(-1, -1, 8, 8)
    colour = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    colour[:, 0] = 255
    axes = data_axes(figures.image_grid({"ramp": ramp, "red": colour}, first=4))
    sheet = axes.images[0].get_array()
    pitch = (sheet.shape[1] - 64) // 3  # 8 px magnified 8 times
    assert [int(sheet[5, i * pitch + 5, 0]) for i in range(4)] == [0, 20, 40, 60]
    assert sheet[-5, 5].tolist() == [255, 0, 0] and sheet[-5, -5].tolist() == [255, 255, 255]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["ramp", "red"]


def test_first_of_class_takes_the_first_and_knows_class_zero():
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1)
    rows = figures.first_of_class(images, torch.tensor([0, 3, 0, 3, 0, 3]), {0: "zero", 3: "three"}, n=2)
    assert {k: v.flatten().tolist() for k, v in rows.items()} == {"zero": [0, 2], "three": [1, 3]}


def test_curves_show_the_mean_and_the_extreme_seeds():
    axes = data_axes(every_figure()["curves"])
    assert axes.lines[0].get_ydata().tolist() == [1, 2, 3]
    band = axes.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (0, 4)
    assert [t.get_text() for t in axes.figure.legends[0].get_texts()] == ["BMI (n=2)", "chance"]


def test_scatter_labels_every_point_and_no_two_labels_overlap():
    figure = figures.scatter(POINTS, x_label="x", y_label="y")
    notes = [t for t in data_axes(figure).texts if isinstance(t, Annotation) and t.get_text()]
    assert [t.get_text() for t in notes] == ["one", "two", "twin"]
    figure.canvas.draw()
    boxes = [t.get_tightbbox() for t in notes]
    assert not [1 for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


def test_heat_map_prints_numbers_and_a_dash_for_a_gap():
    texts = [t.get_text() for t in data_axes(every_figure()["heat"]).texts]
    assert sorted(texts) == ["0.25", "0.50", "1.00", "–"]


def test_bars_colour_by_whether_the_interval_excludes_zero():
    axes = data_axes(every_figure()["bars"])
    assert [p.get_width() for p in axes.patches] == [2, 0]
    assert len({p.get_facecolor() for p in axes.patches}) == 2
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a (n=3)", "b (n=3)"]


def test_labels_stay_inside_the_picture():
    for name, figure in every_figure().items():
        pixels = np.asarray(Image.open(io.BytesIO(figure._repr_png_())).convert("L"))
        frame = np.concatenate([pixels[:2].ravel(), pixels[-2:].ravel(), pixels[:, :2].ravel(), pixels[:, -2:].ravel()])
        assert frame.min() == 255 and pixels.min() < 100, name


def test_a_figure_looks_the_same_however_often_and_by_whomever_it_is_drawn():
    for name, figure in every_figure().items():
        shown = io.BytesIO()
        figure.savefig(shown, format="png", dpi=figures.DPI)  # as a notebook's own display does
        pictures = [np.asarray(Image.open(io.BytesIO(b))) for b in (shown.getvalue(), figure._repr_png_())]
        assert (pictures[0] == pictures[1]).all(), name


def test_colours_are_stable_and_variants_are_shades():
    assert figures.colour("Patch-MI") == figures.colour("patch-mi") == "#4477aa"
    variant = figures.colour("Patch-MI +aug")
    assert variant != figures.colour("Patch-MI") and variant == figures.colour("Patch-MI +aug")
    assert sum(int(variant[i : i + 2], 16) for i in (1, 3, 5)) > 0x44 + 0x77 + 0xAA
    assert figures.colour("something new") == figures.colour("something new")
    for study in (["BMI", "GenMI", "VMI", "Patch-MI", "off_patch"], ["CE", "LOM", "MA", "LOMMA"], ["PPA", "DMMIA"]):
        assert len({figures.colour(a) for a in study}) == len(study)


def test_picture_size_is_that_of_the_page():
    picture = Image.open(io.BytesIO(every_figure()["scatter"]._repr_png_()))
    assert picture.size == (round(5.2 * figures.DPI), round(3.6 * figures.DPI))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: figures.image_grid({}), "expected rows of uint8"),
        (lambda: figures.image_grid({"a": grey(1, 0), "b": grey(1, 0, px=9)}), "of one size"),
        (lambda: figures.image_grid({"a": grey(1, 0).float()}), "uint8"),
        (lambda: figures.image_grid({"a": grey(0, 0)}), "at least 1 image"),
        (lambda: figures.curves({"a": (torch.arange(3), torch.zeros(2, 4))}, x_label="", y_label=""), "curves: a"),
        (lambda: figures.scatter([], x_label="", y_label=""), "at least 1 point"),
        (lambda: figures.effect_bars({}, label=""), "at least 1 effect"),
    ],
)
def test_errors(call, words):
    with pytest.raises(UserError, match=words):
        call()

"""Batched augmentation: identities, closed forms, per-image draws, gradients, speed."""

import math
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from scipy import ndimage
from torch import Tensor

from mi_utils.data import augment
from mi_utils.data.augment import (
    Affine,
    Augment,
    Canvas,
    Crop,
    Cutout,
    Draw,
    Elastic,
    Flip,
    GaussianNoise,
    Pad,
    Photometric,
    ResizedCrop,
    Rotate,
    Stroke,
)
from mi_utils.errors import UserError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int = 6, side: int = 32, channels: int = 1, seed: int = 1) -> Tensor:
    """Smooth random images in [-1, 1]."""
    rough = torch.rand(n, channels, 8, 8, generator=seeded(seed)) * 2 - 1
    return F.interpolate(rough, size=(side, side), mode="bicubic").clamp(-1, 1)


class Highest(Draw):
    """Every uniform draw at the top of its range."""

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return self.like.new_full((self.n, *shape), high)


def at_most(images: Tensor, *steps: object, fill: float = -1.0) -> Tensor:
    """Geometric steps with every parameter at the top of its range."""
    return augment.warped(images, steps, Highest(seeded(), len(images), images), fill)


IDENTITIES = [
    Affine(),
    Rotate(degrees=0),
    Flip(horizontal=0),
    Crop(size=32),
    Pad(),
    ResizedCrop(size=32, area=(1, 1), aspect=(1, 1)),
    Elastic(alpha=0),
    Stroke(radius=0, blur=0),
    Photometric(),
]
CHANGES = [
    Affine(degrees=20, scale=(0.8, 1.2), shear=10, translate=0.1),
    Rotate(degrees=30),
    ResizedCrop(size=32, area=(0.3, 0.9)),
    Elastic(),
    Stroke(),
    Photometric(contrast=(0.5, 0.9), brightness=0.3),
    Cutout(side=9),
]


def kinds(steps: list) -> list[str]:
    return [step.kind for step in steps]


@pytest.mark.parametrize("step", IDENTITIES, ids=kinds(IDENTITIES))
@pytest.mark.parametrize("draw", ["sample", "batch"])
def test_identity_parameters_give_the_identity(step, draw):
    x = pictures(channels=3)
    y = Augment(steps=(step,), draw=draw)(x, seeded())
    torch.testing.assert_close(y, x, atol=2e-5, rtol=0)


def test_no_blur_and_no_radius_are_exact_identities_per_image():
    x = pictures(4).double()
    torch.testing.assert_close(augment.blurred(x, torch.zeros(4).double()), x, atol=0, rtol=0)
    torch.testing.assert_close(augment.thicken(x, torch.zeros(4).double(), 2), x, atol=0, rtol=0)


@pytest.mark.parametrize("step", CHANGES, ids=kinds(CHANGES))
def test_sample_draws_differ_within_a_batch_and_batch_draws_do_not(step):
    x = pictures(1).expand(8, -1, -1, -1)
    each = Augment(steps=(step,), draw="sample")(x, seeded())
    assert len({picture.numpy().tobytes() for picture in each}) == 8
    shared = Augment(steps=(step,), draw="batch")(x, seeded())
    assert not torch.equal(shared[0], x[0])
    torch.testing.assert_close(shared, shared[:1].expand_as(shared), atol=0, rtol=0)


@pytest.mark.parametrize("step", CHANGES, ids=kinds(CHANGES))
def test_the_generator_decides_everything(step):
    x, pipeline = pictures(), Augment(steps=(step, Flip()))
    before = torch.random.get_rng_state()
    first = pipeline(x, seeded(5))
    assert torch.equal(first, pipeline(x, seeded(5)))
    assert not torch.equal(first, pipeline(x, seeded(6)))
    assert torch.equal(before, torch.random.get_rng_state()), "drew from the global stream"


@pytest.mark.parametrize("expand", [False, True])
def test_quarter_turn_is_rot90(expand):
    x = pictures(channels=3)
    steps = (Rotate(degrees=90, expand=expand), *([Crop(size=32)] if expand else []))
    torch.testing.assert_close(at_most(x, *steps), torch.rot90(x, 1, (2, 3)), atol=1e-4, rtol=0)
    torch.testing.assert_close(at_most(x, Affine(degrees=90)), torch.rot90(x, 1, (2, 3)), atol=1e-4, rtol=0)


def test_quarter_turn_of_a_wide_image_fits_the_expanded_canvas():
    x = pictures(2)[:, :, 8:24]
    y = at_most(x, Rotate(degrees=90, expand=True), Pad(square=True), Crop(size=32), fill=-1)
    torch.testing.assert_close(y[:, :, :, 8:24], torch.rot90(x, 1, (2, 3)), atol=1e-4, rtol=0)
    assert (y[:, :, :, :7] == -1).all() and (y[:, :, :, 25:] == -1).all()


def test_flips():
    x = pictures(64, channels=3)
    torch.testing.assert_close(at_most(x, Flip(horizontal=0)), x, atol=1e-5, rtol=0)
    both = Augment(steps=(Flip(horizontal=1, vertical=1),))(x, seeded())
    torch.testing.assert_close(both, x.flip(2, 3), atol=1e-5, rtol=0)
    half = Augment(steps=(Flip(horizontal=0.5),))(x, seeded())
    mirrored = (half - x.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    kept = (half - x).abs().amax((1, 2, 3)) < 1e-5
    assert (mirrored ^ kept).all() and 16 < int(mirrored.sum()) < 48


def test_shift_and_scale_against_slices():
    x = pictures(2)
    shifted = at_most(x, Affine(translate=4 / 32), fill=0)
    torch.testing.assert_close(shifted[:, :, 4:, 4:], x[:, :, :-4, :-4], atol=1e-5, rtol=0)
    assert shifted[:, :, :4].abs().max() < 1e-5
    doubled = at_most(x, Affine(scale=(2, 2)))
    oracle = F.interpolate(x[:, :, 8:24, 8:24], size=32, mode="bilinear", align_corners=False)
    torch.testing.assert_close(doubled[:, :, 1:-1, 1:-1], oracle[:, :, 1:-1, 1:-1], atol=1e-4, rtol=0)


def test_shear_moves_rows_by_their_height():
    x = torch.full((1, 1, 33, 33), -1.0)
    x[..., 16] = 1.0  # a vertical bar through the centre
    y = at_most(x, Affine(shear=45))
    assert torch.equal(y[0, 0].argmax(1), torch.arange(33)), "row y, counted down, moves right by y"


def test_affine_agrees_with_scipy():
    x = pictures(1, 33).double()
    y = at_most(x, Affine(degrees=25, scale=(1.3, 1.3), shear=15, translate=0.1))[0, 0].numpy()
    angle, slope, shift = math.radians(25), math.tan(math.radians(15)), 3.3
    rotate = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    forward = 1.3 * rotate @ np.array([[1, slope], [0, 1]])  # of (x, y) with y down
    back = np.linalg.inv(forward)[::-1, ::-1]  # of (row, column)
    offset = 16 - back @ (np.array([16, 16]) + shift)
    oracle = ndimage.affine_transform(x[0, 0].numpy() + 1, back, offset, order=1, mode="grid-constant") - 1
    np.testing.assert_allclose(y, oracle, atol=1e-5)


def test_fill_comes_in_from_outside():
    x = torch.ones(4, 1, 16, 16)
    for fill in (-1.0, 0.0, 0.5):
        y = Augment(steps=(Pad(pixels=8), Crop(size=32)), fill=fill)(x, seeded())
        inside = torch.full((4, 1, 32, 32), fill)
        inside[:, :, 8:24, 8:24] = 1
        torch.testing.assert_close(y, inside, atol=1e-5, rtol=0)


def test_pad_and_crop_is_a_whole_pixel_shift_that_reaches_every_place():
    x = pictures(512, 8)
    padded = F.pad(x, (1, 1, 1, 1), value=-1.0)
    y = Augment(steps=(Pad(pixels=1), Crop(size=8)))(x, seeded())
    windows = padded.unfold(2, 8, 1).unfold(3, 8, 1).flatten(2, 3)[:, 0]  # (n, 9, 8, 8)
    error = (windows - y).abs().amax((2, 3))
    assert (error.min(1).values < 1e-4).all()
    counts = torch.bincount(error.argmin(1), minlength=9)
    assert int(counts.min()) > 25 and int(counts.max()) < 100, counts


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 1.0), st.floats(0.5, 2.0), st.integers(0, 1000))
def test_resized_crop_takes_the_area_it_says_inside_the_canvas(area, aspect, seed):
    image = torch.zeros(16, 1, 40, 40).double()
    draw = Draw(seeded(seed), 16, image)
    side = draw.constant(40.0)
    step = ResizedCrop(size=32, area=(area, area), aspect=(aspect, aspect))
    place, canvas = step.place(Canvas(side, side, (40, 40)), draw)
    width, height = place[:, 0, 0] * 32, place[:, 1, 1] * 32
    if width.max() < 40 and height.max() < 40:
        torch.testing.assert_close(width * height, draw.constant(area * 1600))
        torch.testing.assert_close(width / height, draw.constant(aspect))
    centre = place[:, :, 2].abs()
    assert (centre[:, 0] + width / 2 <= 20 + 1e-6).all() and (centre[:, 1] + height / 2 <= 20 + 1e-6).all()
    assert canvas.pixels == (32, 32)


def test_composed_steps_are_the_product_of_single_ones():
    x = pictures(3, 33).double()
    two = at_most(x, Rotate(degrees=20), Rotate(degrees=25))
    one = at_most(x, Rotate(degrees=45))
    torch.testing.assert_close(two, one, atol=1e-9, rtol=0)
    back = at_most(at_most(x, Affine(scale=(0.5, 0.5))), Affine(scale=(2, 2)))
    kept = at_most(x, Affine(scale=(0.5, 0.5)), Affine(scale=(2, 2)))
    torch.testing.assert_close(kept, x, atol=1e-9, rtol=0)
    assert (back - x).abs().max() > 0.01, "two resamplings lose detail, one does not"


def test_steps_are_applied_in_order():
    x = pictures(2)
    shift = Affine(translate=4 / 32)
    one_by_one = at_most(at_most(x, shift), Flip(horizontal=0), Rotate(degrees=90))
    torch.testing.assert_close(at_most(x, shift, Rotate(degrees=90)), one_by_one, atol=1e-4, rtol=0)
    other_order = at_most(at_most(x, Rotate(degrees=90)), shift)
    assert (one_by_one - other_order).abs().max() > 0.1
    mixed = Augment(steps=(Rotate(degrees=40), Cutout(side=12), Pad(pixels=4)), fill=0)(x, seeded())
    assert mixed.shape[2:] == (40, 40) and int((mixed[0, 0] == 0).sum()) > 40**2 - 32**2


def test_elastic_displacement_has_the_stated_size_and_smoothness():
    draw = Draw(seeded(), 400, torch.zeros(1).double())
    field = Elastic(sigma=4, alpha=8).field(32, 32, draw)
    rms = field.pow(2).mean((0, 1, 2)).sqrt()
    torch.testing.assert_close(rms, torch.full((2,), 8 / (4 * math.sqrt(12 * math.pi))).double(), rtol=0.05, atol=0)
    edge = field[:, 0].pow(2).mean().sqrt() / field[:, 16].pow(2).mean().sqrt()
    assert 0.9 < float(edge) < 1.1, "as strong at the border as inside"
    shifted = (field[:, :, :-4] * field[:, :, 4:]).mean() / field.pow(2).mean()
    assert float(shifted) == pytest.approx(math.exp(-(4**2) / (4 * 4**2)), abs=0.05)


def test_elastic_agrees_with_smoothed_noise_at_every_pixel():
    rng = np.random.default_rng(0)
    noise = rng.uniform(-1, 1, (60, 96, 96))
    smooth = np.stack([ndimage.gaussian_filter(picture, 3) for picture in noise])[:, 32:64, 32:64] * 10
    ours = Elastic(sigma=3, alpha=10).field(32, 32, Draw(seeded(), 60, torch.zeros(1)))
    assert float(ours.std()) == pytest.approx(smooth.std(), rel=0.1)


def test_stroke_is_dilation_and_erosion_blended():
    x = pictures(1).double().expand(4, -1, -1, -1)
    y = augment.thicken(x, torch.tensor([1.0, -1.0, 0.25, -2.0]).double(), 2)[:, 0].numpy()
    image = x[0, 0].numpy()
    dilated, eroded = ndimage.maximum_filter(image, 3), ndimage.minimum_filter(image, 3)
    np.testing.assert_allclose(y[0], dilated)
    np.testing.assert_allclose(y[1], eroded)
    np.testing.assert_allclose(y[2], 0.75 * image + 0.25 * dilated)
    np.testing.assert_allclose(y[3], ndimage.minimum_filter(image, 5))


def test_blur_agrees_with_scipy_inside_and_keeps_a_constant():
    x = pictures(2, 32).double()
    y = augment.blurred(x, torch.tensor([0.6, 1.5]).double())
    for i, sigma in enumerate((0.6, 1.5)):
        oracle = ndimage.gaussian_filter(x[i, 0].numpy(), sigma, truncate=12)
        np.testing.assert_allclose(y[i, 0, 12:-12, 12:-12], oracle[12:-12, 12:-12], atol=1e-6)
    flat = torch.full((2, 3, 16, 16), 0.3)
    torch.testing.assert_close(augment.blurred(flat, torch.tensor([2.0])), flat)


def test_photometric_changes_mean_and_spread_as_told():
    x = pictures(4).double() * 0.3
    step = Photometric(contrast=(1.5, 1.5), brightness=0.0)
    y = Augment(steps=(step,))(x, seeded())
    torch.testing.assert_close(y.mean((1, 2, 3)), x.mean((1, 2, 3)))
    torch.testing.assert_close(y.std((1, 2, 3)), 1.5 * x.std((1, 2, 3)))
    wild = Augment(steps=(Photometric(contrast=(3, 3), brightness=0.9),))(pictures(), seeded())
    assert wild.min() >= -1 and wild.max() <= 1


def test_cutout_removes_one_square():
    x = torch.ones(200, 3, 20, 20)
    hole = Augment(steps=(Cutout(side=5),), fill=-0.5)(x, seeded()) == -0.5
    area = hole[:, 0].sum((1, 2))
    assert int(area.max()) == 25 and int(area.min()) >= 9 and torch.equal(hole[:, 0], hole[:, 2])
    rows, columns = hole[:, 0].any(2).sum(1), hole[:, 0].any(1).sum(1)
    assert torch.equal(rows * columns, area)


def test_gaussian_noise_has_the_drawn_deviation():
    x = torch.zeros(50, 3, 32, 32)
    spread = Augment(steps=(GaussianNoise(sigma=(0.1, 0.3)),))(x, seeded()).std((1, 2, 3))
    assert 0.09 < float(spread.min()) < 0.14 and 0.26 < float(spread.max()) < 0.32
    shared = Augment(steps=(GaussianNoise(sigma=(0.1, 0.3)),), draw="batch")(x, seeded())
    assert float(shared.std((1, 2, 3)).std()) < 0.01 and not torch.equal(shared[0], shared[1])


@pytest.mark.parametrize("step", [s for s in CHANGES if s.kind != "resized-crop"], ids=lambda s: s.kind)
def test_gradient_in_the_image(step):
    x = (pictures(2, 5).double() * 0.3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: Augment(steps=(step,))(x, seeded(3)), (x,))


def test_gradient_of_a_whole_pipeline():
    x = (pictures(2, 6).double() * 0.3).requires_grad_()
    pipeline = Augment(steps=(*augment.HANDWRITING, ResizedCrop(size=5), Flip(), Photometric(contrast=(0.8, 1))))
    assert torch.autograd.gradcheck(lambda x: pipeline(x, seeded(3)), (x,))


def test_views_of_the_specification_have_the_right_size_and_fill():
    glyph = augment.GLYPH_VIEW(torch.full((3, 1, 32, 32), -1.0), seeded())
    assert glyph.shape == (3, 1, 32, 32) and torch.allclose(glyph, torch.tensor(-1.0))
    photo = augment.PHOTO_VIEW(torch.ones(3, 3, 32, 32), seeded(2))
    assert photo.shape == (3, 3, 32, 32) and float(photo.min()) == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(photo, photo[:1].expand_as(photo))


def test_expanded_rotation_shows_the_whole_image():
    disc = torch.full((200, 1, 32, 32), -1.0)
    disc[:, :, 1:-1, 1:-1] = 1.0
    whole = (Rotate(degrees=45, expand=True), ResizedCrop(size=64, area=(1, 1), aspect=(1, 1)))
    y = Augment(steps=whole)(disc, seeded())
    border = torch.cat([y[:, :, 0].flatten(), y[:, :, -1].flatten(), y[..., 0].flatten(), y[..., -1].flatten()])
    assert float(border.max()) < 0.2, "no ink is cut off"


def test_auxiliary_transform():
    x = torch.zeros(300, 1, 40, 20, dtype=torch.uint8)
    x[:, :, 15:25, 5:15] = 255
    y = augment.auxiliary(x, seeded(), size=32)
    assert y.shape == (300, 1, 32, 32) and y.dtype == torch.float32
    assert -1.001 <= float(y.min()) and float(y.max()) <= 1.001
    # The square's 100 px of the padded 40 × 40, magnified by 32² / 800: more where it is not cut off.
    ink = (y + 1).div(2).sum((1, 2, 3))
    assert float(ink.max()) == pytest.approx(100 * 32**2 / 800, rel=0.03)
    assert len({picture.numpy().tobytes() for picture in y}) == 300
    jittered = augment.auxiliary(x, seeded(), jitter=True)
    assert jittered.shape == y.shape and jittered.sum((1, 2, 3)).std() > y.sum((1, 2, 3)).std()


def test_steps_are_recipes():
    recipe = {"steps": [{"kind": "affine", "degrees": 5}, {"kind": "flip"}], "fill": 0}
    assert TypeAdapter(Augment).validate_python(recipe).steps[0] == Affine(degrees=5)
    with pytest.raises(UserError, match="degree"):
        Affine(degree=5)
    with pytest.raises(UserError, match="0 < low"):
        Affine(scale=(0, 1))
    with pytest.raises(UserError, match="0 < low"):
        ResizedCrop(size=3, area=(0.9, 0.1))


def test_expanded_rotation_without_a_crop_is_refused():
    with pytest.raises(UserError, match="followed by a crop"):
        Augment(steps=(Rotate(expand=True),))(pictures(), seeded())


def test_jitter_of_a_batch_costs_milliseconds():
    x, pipeline = pictures(64), Augment(steps=augment.HANDWRITING)
    pipeline(x, seeded())
    seconds = []
    for seed in range(5):
        start = time.perf_counter()
        pipeline(x, seeded(seed))
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1, "10 ms measured; a loop over images costs far more"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_gpu_draws_what_the_cpu_draws():
    x, pipeline = pictures(), Augment(steps=augment.HANDWRITING)
    torch.testing.assert_close(pipeline(x.cuda(), seeded()).cpu(), pipeline(x, seeded()), atol=1e-4, rtol=0)

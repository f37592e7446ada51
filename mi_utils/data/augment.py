"""Random transformations of whole batches: per-image draws, no loop over images, differentiable in the image.

    augment = Augment(steps=(Affine(degrees=10, scale=(0.9, 1.1)), Flip(), Cutout(side=8)), fill=-1.0)
    y = augment(x, generator)                     # x (N, C, H, W) in [-1, 1]

Neighbouring geometric steps are composed into ONE bilinear `grid_sample`.  Deviation from a chain of
torchvision transforms: an intermediate canvas does not cut corners off, and nothing is resampled twice.
`draw="sample"` draws for every image, `draw="batch"` once for the whole batch (the released Patch-MI code).
Pixels are square; coordinates are pixels from the image's centre, x to the right and y down.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from pydantic import Field, model_validator
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.stage import Config

Range = tuple[float, float]
Probability = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class Draw:
    """Random numbers for n images, drawn on the generator's device: a CPU stream serves every device."""

    generator: torch.Generator
    n: int  # 1 where the batch shares one draw
    like: Tensor  # device and dtype of what is drawn

    def _here(self, values: Tensor) -> Tensor:
        return values.to(self.like.device, self.like.dtype)

    def uniform(self, low: float, high: float, *shape: int) -> Float[Tensor, "n *shape"]:
        """U(low, high)."""
        unit = torch.rand(self.n, *shape, generator=self.generator, device=self.generator.device)
        return self._here(unit) * (high - low) + low

    def normal(self, *shape: int) -> Float[Tensor, "n *shape"]:
        """N(0, 1)."""
        return self._here(torch.randn(self.n, *shape, generator=self.generator, device=self.generator.device))

    def constant(self, value: float) -> Float[Tensor, " n"]:
        """The same value for every image."""
        return self.like.new_full((self.n,), value)


@dataclass(frozen=True)
class Canvas:
    """What a geometric step leaves: sides in px per image (n,), and as whole numbers where they are fixed."""

    height: Float[Tensor, " n"]
    width: Float[Tensor, " n"]
    pixels: tuple[int, int] | None  # (height, width); None: differs from image to image


def matrix(rows: Sequence[Sequence[Tensor | float]], draw: Draw) -> Float[Tensor, "n 2 3"]:
    """Entries (n,) or numbers as n matrices that take an output coordinate to an input coordinate."""
    full = [[x if isinstance(x, Tensor) else draw.constant(float(x)) for x in row] for row in rows]
    return torch.stack([torch.stack(row, -1) for row in full], -2)


def compose(first: Float[Tensor, "n 2 3"], second: Float[Tensor, "n 2 3"]) -> Float[Tensor, "n 2 3"]:
    """The map of the step applied first after that of the step applied second: output → ... → input."""
    linear = first[:, :, :2] @ second[:, :, :2]
    offset = first[:, :, :2] @ second[:, :, 2:] + first[:, :, 2:]
    return torch.cat([linear, offset], -1)


# ---------------------------------------------------------------- geometric steps


class Geometric(Config):
    """A step that moves pixels: gives, for a canvas, output → input matrices and the canvas it leaves."""

    def place(self, canvas: Canvas, draw: Draw) -> tuple[Float[Tensor, "n 2 3"], Canvas]:
        """Matrices in pixels from the centres, and the new canvas."""
        raise NotImplementedError(f"{type(self).__name__} does not say where it puts pixels")


class Affine(Geometric):
    """Rotation ±`degrees`, `scale` range, shear ±`shear` degrees along x, shift ±`translate` of the side."""

    kind: Literal["affine"] = "affine"
    degrees: Amount = 0.0
    scale: Range = (1.0, 1.0)
    shear: Amount = 0.0
    translate: Amount = 0.0

    @model_validator(mode="after")
    def _positive(self) -> "Affine":
        if not 0 < self.scale[0] <= self.scale[1]:
            raise UserError(f"scale: expected 0 < low <= high, found {self.scale}")
        return self

    def place(self, canvas: Canvas, draw: Draw) -> tuple[Tensor, Canvas]:
        """Inverse of: shear, then rotate counter-clockwise, then scale, then shift."""
        angle = draw.uniform(-self.degrees, self.degrees).deg2rad()
        scale = draw.uniform(*self.scale)
        slope = draw.uniform(-self.shear, self.shear).deg2rad().tan()
        x = draw.uniform(-self.translate, self.translate) * canvas.width
        y = draw.uniform(-self.translate, self.translate) * canvas.height
        cos, sin = angle.cos() / scale, angle.sin() / scale
        # Undo the rotation, then the shear (x' = x + slope·y).
        a, b, c, d = cos - slope * sin, -sin - slope * cos, sin, cos
        return matrix([[a, b, -(a * x + b * y)], [c, d, -(c * x + d * y)]], draw), canvas


class Rotate(Geometric):
    """Rotation by U(-degrees, degrees), counter-clockwise; `expand` grows the canvas to hold all corners.

    An expanded canvas differs from image to image, so a crop must follow.
    """

    kind: Literal["rotate"] = "rotate"
    degrees: Amount = 10.0
    expand: bool = False

    def place(self, canvas: Canvas, draw: Draw) -> tuple[Tensor, Canvas]:
        """[[cos, -sin], [sin, cos]] with y down; sides w|cos| + h|sin| and w|sin| + h|cos| if expanded."""
        angle = draw.uniform(-self.degrees, self.degrees).deg2rad()
        cos, sin = angle.cos(), angle.sin()
        if self.expand:
            height = canvas.width * sin.abs() + canvas.height * cos.abs()
            width = canvas.width * cos.abs() + canvas.height * sin.abs()
            canvas = Canvas(height, width, None)
        return matrix([[cos, -sin, 0], [sin, cos, 0]], draw), canvas


class Flip(Geometric):
    """Mirrored left-right with probability `horizontal`, top-bottom with probability `vertical`."""

    kind: Literal["flip"] = "flip"
    horizontal: Probability = 0.5
    vertical: Probability = 0.0

    def place(self, canvas: Canvas, draw: Draw) -> tuple[Tensor, Canvas]:
        """Diagonal of ±1."""
        x = torch.where(draw.uniform(0, 1) < self.horizontal, -1.0, 1.0).to(draw.like.dtype)
        y = torch.where(draw.uniform(0, 1) < self.vertical, -1.0, 1.0).to(draw.like.dtype)
        return matrix([[x, 0, 0], [0, y, 0]], draw), canvas


class Pad(Geometric):
    """`pixels` of fill on every side; `square` first pads the shorter side to the longer one."""

    kind: Literal["pad"] = "pad"
    pixels: Annotated[int, Field(ge=0)] = 0
    square: bool = False

    def place(self, canvas: Canvas, draw: Draw) -> tuple[Tensor, Canvas]:
        """The identity about the centre, on a larger canvas."""
        height, width = canvas.height, canvas.width
        sides = canvas.pixels
        if self.square:
            height = width = torch.maximum(height, width)
            sides = None if sides is None else (max(sides), max(sides))
        more = 2 * self.pixels
        sides = None if sides is None else (sides[0] + more, sides[1] + more)
        return matrix([[1, 0, 0], [0, 1, 0]], draw), Canvas(height + more, width + more, sides)


class Crop(Geometric):
    """A `size` × `size` square at a random place, in whole px from the canvas's corner (Pad before it)."""

    kind: Literal["crop"] = "crop"
    size: Annotated[int, Field(ge=1)]

    def place(self, canvas: Canvas, draw: Draw) -> tuple[Tensor, Canvas]:
        """A shift by U{0..side - size}, from corner to corner."""
        x, y = (self._shift(side, draw) for side in (canvas.width, canvas.height))
        side = draw.constant(float(self.size))
        return matrix([[1, 0, x], [0, 1, y]], draw), Canvas(side, side, (self.size, self.size))

    def _shift(self, side: Tensor, draw: Draw) -> Tensor:
        """Centre of the crop from the centre of the canvas, along one axis."""
        room = (side - self.size).clamp_min(0)
        corner = (draw.uniform(0, 1) * (room + 1)).floor().minimum(room.floor())
        return corner + (self.size - side) / 2


class ResizedCrop(Geometric):
    """A random box of the canvas, resized to `size` × `size`.

    `area`: fraction of the canvas; `aspect`: width / height, drawn log-uniformly.  A box larger than the
    canvas in one direction is cut to it.  Bilinear without antialiasing, so keep reductions below about 2.
    """

    kind: Literal["resized-crop"] = "resized-crop"
    size: Annotated[int, Field(ge=1)]
    area: Range = (0.85, 1.0)
    aspect: Range = (0.9, 1.1)

    @model_validator(mode="after")
    def _ranges(self) -> "ResizedCrop":
        if not (0 < self.area[0] <= self.area[1] <= 1 and 0 < self.aspect[0] <= self.aspect[1]):
            raise UserError(f"area, aspect: expected 0 < low <= high (area <= 1), found {self.area} and {self.aspect}")
        return self

    def place(self, canvas: Canvas, draw: Draw) -> tuple[Tensor, Canvas]:
        """width = sqrt(area·aspect), height = sqrt(area/aspect), uniform over the places that fit."""
        area = draw.uniform(*self.area) * canvas.height * canvas.width
        aspect = draw.uniform(math.log(self.aspect[0]), math.log(self.aspect[1])).exp()
        width = (area * aspect).sqrt().minimum(canvas.width)
        height = (area / aspect).sqrt().minimum(canvas.height)
        x = draw.uniform(-0.5, 0.5) * (canvas.width - width)
        y = draw.uniform(-0.5, 0.5) * (canvas.height - height)
        side = draw.constant(float(self.size))
        box = matrix([[width / self.size, 0, x], [0, height / self.size, y]], draw)
        return box, Canvas(side, side, (self.size, self.size))


class Elastic(Config):
    """Smooth random displacement in px: `alpha` · (Gaussian of `sigma` px over U(-1, 1) noise); Simard 2003.

    The displacement has rms alpha / (sigma · sqrt(12π)) px along each axis: .33 px for sigma 4 and alpha 8.
    The field is laid over the output of the geometric group that the step stands in.
    """

    kind: Literal["elastic"] = "elastic"
    sigma: Annotated[float, Field(gt=0)] = 4.0
    alpha: Amount = 8.0

    def field(self, height: int, width: int, draw: Draw) -> Float[Tensor, "n h w 2"]:
        """Displacements (x, y) in px."""
        down, across = (_bumps(side, self.sigma, draw.like) for side in (height, width))
        noise = draw.normal(2, down.shape[1], across.shape[1])
        rms = self.alpha / (self.sigma * math.sqrt(12 * math.pi))
        return rms * (down @ noise @ across.T).permute(0, 2, 3, 1)


def _bumps(side: int, sigma: float, like: Tensor) -> Float[Tensor, "side m"]:
    """Gaussians of `sigma` px at points sigma/2 apart, seen at every pixel; rows have unit length.

    Points so close are as good as noise at every pixel, and there are far fewer of them.
    """
    margin = 3 * sigma
    count = math.ceil((side + 2 * margin) / (sigma / 2)) + 1
    points = torch.linspace(-margin, side + margin, count, device=like.device, dtype=like.dtype)
    pixels = torch.arange(side, device=like.device, dtype=like.dtype) + 0.5
    return F.normalize(torch.exp(-((pixels[:, None] - points) ** 2) / (2 * sigma**2)), dim=1)


# ---------------------------------------------------------------- steps on pixel values


class Values(Config):
    """A step that leaves pixels where they are."""

    def apply(self, images: Float[Tensor, "n c h w"], draw: Draw, fill: float) -> Float[Tensor, "n c h w"]:
        """The changed images."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it does")


class Stroke(Values):
    """Width and sharpness of bright strokes: radius U(-radius, radius) px, then blur of sigma U(0, blur) px.

    A positive radius dilates, a negative one erodes; between whole pixels the two neighbours are blended.
    """

    kind: Literal["stroke"] = "stroke"
    radius: Amount = 1.0
    blur: Amount = 0.6

    def apply(self, images: Tensor, draw: Draw, fill: float) -> Tensor:
        """Dilate or erode, then blur."""
        if self.radius:
            images = thicken(images, draw.uniform(-self.radius, self.radius), math.ceil(self.radius))
        if self.blur:
            images = blurred(images, draw.uniform(0, self.blur))
        return images


def thicken(images: Float[Tensor, "n c h w"], radius: Float[Tensor, " m"], most: int) -> Float[Tensor, "n c h w"]:
    """Each image dilated (radius > 0) or eroded (< 0) by a square; blended between whole radii -most..most.

    `radius`: px, at most `most`, one value per image or one for all.
    """
    out = torch.zeros_like(images)
    for whole in range(-most, most + 1):
        weight = (1 - (radius - whole).abs()).clamp_min(0)[:, None, None, None]
        sign, window = (1 if whole > 0 else -1), 2 * abs(whole) + 1
        level = images if whole == 0 else sign * F.max_pool2d(sign * images, window, 1, abs(whole))
        out = out + weight * level
    return out


def blurred(images: Float[Tensor, "n c h w"], sigma: Float[Tensor, " m"]) -> Float[Tensor, "n c h w"]:
    """Gaussian blur of `sigma` px (0: unchanged), one per image or one for all; borders renormalised."""

    def kernel(side: int) -> Tensor:
        place = torch.arange(side, device=images.device, dtype=images.dtype)
        distance = (place[:, None] - place) / sigma.clamp_min(1e-3)[:, None, None]
        weight = torch.exp(-(distance**2) / 2)
        return (weight / weight.sum(2, keepdim=True))[:, None]

    return kernel(images.shape[2]) @ images @ kernel(images.shape[3]).mT


class Photometric(Values):
    """Contrast factor within `contrast` about the mean, then shift ±`brightness`; clipped to [-1, 1]."""

    kind: Literal["photometric"] = "photometric"
    contrast: Range = (1.0, 1.0)
    brightness: Amount = 0.0

    def apply(self, images: Tensor, draw: Draw, fill: float) -> Tensor:
        """contrast · (x - mean) + mean + shift."""
        factor = draw.uniform(*self.contrast)[:, None, None, None]
        shift = draw.uniform(-self.brightness, self.brightness)[:, None, None, None]
        mean = images.mean((1, 2, 3), keepdim=True)
        return (factor * (images - mean) + mean + shift).clamp(-1, 1)


class Cutout(Values):
    """A `side` × `side` px square of fill around a random pixel; it may hang over the border."""

    kind: Literal["cutout"] = "cutout"
    side: Annotated[int, Field(ge=1)] = 8

    def apply(self, images: Tensor, draw: Draw, fill: float) -> Tensor:
        """Rows and columns within the square are replaced."""
        inside = []
        for length in images.shape[2:]:
            start = (draw.uniform(0, 1) * length).floor() - self.side // 2
            offset = torch.arange(length, device=images.device) - start[:, None]
            inside.append((offset >= 0) & (offset < self.side))
        hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
        return images.masked_fill(hole, fill)


class GaussianNoise(Values):
    """White noise of a standard deviation drawn from `sigma`, in units of the [-1, 1] range; not clipped."""

    kind: Literal["gaussian-noise"] = "gaussian-noise"
    sigma: Range = (0.0, 0.1)

    def apply(self, images: Tensor, draw: Draw, fill: float) -> Tensor:
        """x + sigma · N(0, 1); the noise itself differs between images even where `sigma` is shared."""
        sigma = draw.uniform(*self.sigma)[:, None, None, None]
        shape, source = images.shape, draw.generator
        return images + sigma * torch.randn(shape, generator=source, device=source.device).to(images)


# ---------------------------------------------------------------- pipeline

AnyStep = Annotated[
    Affine | Rotate | Flip | Pad | Crop | ResizedCrop | Elastic | Stroke | Photometric | Cutout | GaussianNoise,
    Field(discriminator="kind"),
]


class Augment(Config):
    """Steps in order; `fill` is what comes in from outside the image (-1: black, 0: mid-grey)."""

    steps: tuple[AnyStep, ...] = ()
    fill: Annotated[float, Field(ge=-1, le=1)] = -1.0
    draw: Literal["sample", "batch"] = "sample"

    def __call__(self, images: Float[Tensor, "n c h w"], generator: torch.Generator) -> Float[Tensor, "n c h2 w2"]:
        """Transformed images; floats in [-1, 1] in and out, gradients flow to `images`."""
        draw = Draw(generator, len(images) if self.draw == "sample" else 1, images.detach())
        group: list[Geometric | Elastic] = []
        for step in self.steps:
            if isinstance(step, Values):
                images = step.apply(warped(images, group, draw, self.fill), draw, self.fill)
                group = []
            else:
                group.append(step)
        return warped(images, group, draw, self.fill)


def warped(
    images: Float[Tensor, "n c h w"], steps: Sequence[Geometric | Elastic], draw: Draw, fill: float
) -> Float[Tensor, "n c h2 w2"]:
    """All geometric steps by one bilinear `grid_sample`; UserError where the output has no fixed size."""
    if not steps:
        return images
    height, width = images.shape[2:]
    canvas = Canvas(draw.constant(float(height)), draw.constant(float(width)), (height, width))
    maps: list[Tensor | Elastic] = []
    for step in steps:
        if isinstance(step, Elastic):
            maps.append(step)
        else:
            placed, canvas = step.place(canvas, draw)
            maps.append(placed)
    if canvas.pixels is None:
        raise UserError("steps: a rotation with expand=True must be followed by a crop or a resized-crop")
    at = coordinates(maps, canvas.pixels, draw)
    grid = at / at.new_tensor([width / 2, height / 2])
    grid = grid.expand(len(images), *grid.shape[1:])
    return F.grid_sample(images - fill, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + fill


def coordinates(maps: Sequence[Tensor | Elastic], pixels: tuple[int, int], draw: Draw) -> Float[Tensor, "n h w 2"]:
    """Where each output pixel comes from, (x, y) in px from the input's centre: maps from last to first."""
    height, width = pixels
    y = torch.arange(height, device=draw.like.device, dtype=draw.like.dtype) - (height - 1) / 2
    x = torch.arange(width, device=draw.like.device, dtype=draw.like.dtype) - (width - 1) / 2
    at = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]
    pending: Tensor | None = None
    for step in reversed(maps):
        if isinstance(step, Elastic):
            at = (at if pending is None else _apply(pending, at)) + step.field(height, width, draw)
            pending = None
        else:
            pending = step if pending is None else compose(step, pending)
    return at if pending is None else _apply(pending, at)


def _apply(map_: Float[Tensor, "n 2 3"], at: Float[Tensor, "m h w 2"]) -> Float[Tensor, "n h w 2"]:
    """Points through an affine map."""
    flat = at.flatten(1, 2) @ map_[:, :, :2].mT + map_[:, None, :, 2]
    return flat.unflatten(1, at.shape[1:3])


# ---------------------------------------------------------------- the project's own pipelines

# Variation between writers, for rendered glyphs.  Source: specification 4 (our choice).
# Deviation: radius .75 px instead of 1, at which one glyph in a hundred fades below a mean ink of .02.
HANDWRITING = (
    Stroke(radius=0.75, blur=0.6),
    Affine(degrees=10, scale=(0.85, 1.15), shear=10),
    Elastic(sigma=4, alpha=8),
)
# Views of the identity loss.  Source: specification 2.4; the released code shares one draw in a batch.
GLYPH_VIEW = Augment(
    steps=(Rotate(degrees=20, expand=True), ResizedCrop(size=32, area=(0.85, 1), aspect=(0.9, 1.1))),
    fill=-1.0,
    draw="batch",
)
PHOTO_VIEW = Augment(
    steps=(Pad(pixels=4), Rotate(degrees=22.5), Rotate(degrees=22.5), Flip(), Crop(size=32)),
    fill=0.0,
    draw="batch",
)


def handwriting(images: UInt8[Tensor, "n 1 h w"], generator: torch.Generator) -> Float[Tensor, "n 1 h w"]:
    """Rendered glyphs (ink 255 on 0) as if other hands had written them; floats in [-1, 1]."""
    return Augment(steps=HANDWRITING)(images.float() / 127.5 - 1, generator)


def auxiliary(
    images: UInt8[Tensor, "n c h w"], generator: torch.Generator, size: int = 32, jitter: bool = False
) -> Float[Tensor, "n c size size"]:
    """The released auxiliary transform, per image: square pad, rotation U(-90°, 90°), crop of half the area
    resized to `size`, both flips; floats in [-1, 1], background -1.

    `jitter` applies `HANDWRITING` first, in the same resampling.  Source: specification 4.
    Deviation: pads the shorter side (the released code pads the longer one).
    """
    steps = (
        *(HANDWRITING if jitter else ()),
        Pad(square=True),
        Rotate(degrees=90),
        ResizedCrop(size=size, area=(0.5, 0.5), aspect=(1, 1)),
        Flip(horizontal=0.5, vertical=0.5),
    )
    return Augment(steps=steps)(images.float() / 127.5 - 1, generator)

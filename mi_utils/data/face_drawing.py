"""Cartoon faces drawn by anti-aliased signed distances, whole batches at a time.

Coordinates are half sides of the canvas: x to the right and y down, -1..1; a face's own coordinates have their
origin in the middle of its head.  Parts are painted back to front.
"""

import copy
import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from mi_utils import runtime
from mi_utils.data.face_factors import FACTORS, Values
from mi_utils.errors import UserError

Field = Float[Tensor, "n h w"]  # one number for each pixel
Each = Float[Tensor, "n 1 1"]  # one number for each image
Colour = Float[Tensor, "n 3 1 1"]  # in 0..1

PIXELS = {"cpu": 2**17, "cuda": 2**24}  # drawn at a time: buffers that stay in a CPU's cache
HEIGHT = 0.60  # half the height of a head
ZOOM = 1.14  # of a face that is seen at scale 1
MIDDLE = 0.07  # where the middle of its head is, below that of the canvas
NOISE = 2**20

SKIN = ((0.27, 0.16, 0.11), (0.45, 0.28, 0.19), (0.64, 0.43, 0.30), (0.82, 0.61, 0.46), (0.94, 0.77, 0.64))
SKIN += ((0.99, 0.88, 0.79),)
HAIR = ((0.07, 0.06, 0.08), (0.24, 0.14, 0.09), (0.46, 0.25, 0.12), (0.72, 0.28, 0.08), (0.92, 0.74, 0.36))
HAIR += ((0.56, 0.57, 0.60), (0.93, 0.92, 0.90))
IRIS = ((0.36, 0.20, 0.08), (0.15, 0.42, 0.80), (0.20, 0.52, 0.25), (0.45, 0.50, 0.55))

# One row for each hair style: how far it stands off the head; the hairline's height, its arch and slope and the
# x of its middle; half width and lower end of the hair behind; waves of the edge; radius of a bun; opacity.
STYLE_COLUMNS = ("volume", "line", "arch", "slope", "part", "wide", "low", "waves", "bun", "opacity")
STYLES = (
    (0.00, -2.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0),  # bald
    (0.025, -0.34, 0.9, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.8),  # buzz
    (0.09, -0.33, 0.9, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 1.0),  # short
    (0.11, -0.40, 1.5, 0.30, 0.15, 0.0, -1.0, 0.0, 0.0, 1.0),  # parted
    (0.10, -0.23, 0.15, 0.0, 0.0, 0.52, 0.16, 0.0, 0.0, 1.0),  # fringe
    (0.11, -0.38, 1.6, 0.0, 0.08, 0.60, 0.42, 0.0, 0.0, 1.0),  # bob
    (0.10, -0.42, 2.0, 0.0, 0.0, 0.58, 1.10, 0.0, 0.0, 1.0),  # long
    (0.20, -0.30, 0.7, 0.0, 0.0, 0.66, 0.20, 0.05, 0.0, 1.0),  # curly
    (0.07, -0.36, 1.3, 0.0, 0.0, 0.0, -1.0, 0.0, 0.2, 1.0),  # bun
    (0.10, -0.36, 0.5, -0.25, 0.0, 0.0, -1.0, 0.0, 0.0, 1.0),  # quiff
)


class Columns:
    """Named numbers of each image, kept as one float32 table (n, k), so that rows are picked in one go."""

    def __init__(self, names: Sequence[str], table: Float[Tensor, "n k"]):
        self.names, self.table = names, table

    def __getitem__(self, name: str) -> Each:
        return self.table[:, self.names.index(name), None, None]

    def take(self, rows: Int[Tensor, " m"]) -> "Columns":
        """Those of some images."""
        return Columns(self.names, self.table[rows])


def columns(values: Values) -> Columns:
    """The numbers of people or views; a kind is its index."""
    return Columns(tuple(values), torch.stack([value.float() for value in values.values()], 1))


class Sheet:
    """A batch of canvases being painted: colours (n, 3, h, w) in 0..1 and every pixel's place in the face."""

    def __init__(self, people: Values, views: Values, size: int):
        self.people, self.views = columns(people), columns(views)
        self._place(size)
        self._colours(people)
        self.style = Columns(STYLE_COLUMNS, torch.tensor(STYLES, device=self.x.device)[people["hair_style"]])
        self.canvas = self._background(size)

    def _place(self, size: int) -> None:
        """x, y: a pixel's place in the face; across, down: the same on the turned face; fine: 1 / pixel side."""
        v, skin = self.views, self.people
        line = (torch.arange(size, device=v["x"].device) + 0.5) * (2 / size) - 1
        cos, sin = (part / (v["scale"] * ZOOM) for part in directions(v["roll"]))
        across, down = line[None, None, :] - v["x"], line[None, :, None] - v["y"] - MIDDLE
        self.x, self.y = cos * across + sin * down, cos * down - sin * across
        self.fine = v["scale"] * (ZOOM * size / 2)
        self.width = 0.41 + 0.12 * skin["aspect"]
        bulge = 1 - (self.x / self.width).square_() - (self.y / HEIGHT).square_()
        bulge.clamp_(0)
        self.across = self.x - bulge * (v["yaw"] * 0.20)
        self.down = self.y - bulge * (v["pitch"] * 0.06)
        self.beside = self.across.abs()
        self.outside = head_distance(self)

    def _colours(self, people: Values) -> None:
        """Skin, hair, lips, iris, hat."""
        device = people["skin"].device
        ramp = torch.tensor(SKIN, device=device)
        at = people["skin"] * (len(SKIN) - 1)
        below = at.long().clamp_max(len(SKIN) - 2)
        skin = torch.lerp(ramp[below], ramp[below + 1], (at - below)[:, None])
        gold = (people["undertone"] - 0.5)[:, None] * torch.tensor((-0.02, 0.03, -0.08), device=device)
        self.skin = (skin + gold)[:, :, None, None]
        hair = torch.tensor(HAIR, device=device)[people["hair_colour"]]
        self.hair = (hair * (0.85 + 0.3 * people["hair_shade"])[:, None]).clamp(0, 1)[:, :, None, None]
        self.iris = torch.tensor(IRIS, device=device)[people["eye_colour"]][:, :, None, None]
        red = torch.tensor((0.75, 0.25, 0.28), device=device)
        self.lips = torch.lerp(self.skin * 0.8, red[:, None, None], 0.5)
        self.hat = hues(self.people["hat_hue"], 0.65, 0.75)
        self.shirt = hues(self.views["shirt_hue"], 0.5, self.views["shirt_value"])

    def _background(self, size: int) -> Float[Tensor, "n 3 h w"]:
        """A flat colour that grows lighter or darker from top to bottom."""
        v = self.views
        flat = hues(v["back_hue"], v["back_tint"], v["back_value"])
        line = torch.linspace(-1, 1, size, device=flat.device)[:, None]
        slope = 1 + v["back_slope"][:, None] * line
        return (flat * slope).expand(-1, -1, -1, size).contiguous()

    def kind(self, name: str, *kinds: str) -> Bool[Tensor, "n 1 1"]:
        """Whose categorical factor is one of these kinds."""
        wanted = [float(FACTORS[name].kinds.index(kind)) for kind in kinds]
        return torch.isin(self.people[name], torch.tensor(wanted, device=self.x.device))

    def on(self, chosen: Bool[Tensor, "n 1 1"], part: Callable[["Sheet"], None]) -> None:
        """Draw a part on some of the canvases and spend nothing on the others."""
        rows = chosen.flatten().nonzero().flatten()
        if len(rows) == len(self.canvas):
            part(self)
        elif len(rows):
            some = copy.copy(self)
            for name, value in vars(self).items():
                setattr(some, name, value[rows] if isinstance(value, Tensor) else value.take(rows))
            part(some)
            self.canvas[rows] = some.canvas

    def cover(self, distance: Field, opacity: Each | float = 1.0) -> Field:
        """Share of a pixel that a shape of this signed distance (negative inside) covers; distance is spent."""
        return distance.mul_(-self.fine).add_(0.5).clamp_(0, 1).mul_(opacity)

    def paint(self, colour: Colour, cover: Field) -> None:
        """One colour over what is there."""
        self.canvas.lerp_(colour, cover[:, None])


def hues(hue: Each, saturation: Each | float, value: Each | float) -> Colour:
    """Colours of hue, saturation and value, each in 0..1."""
    k = torch.cat([hue * 6 + offset for offset in (5, 3, 1)], 1) % 6  # (n, 3, 1): red, green, blue
    return ((1 - torch.minimum(k, 4 - k).clamp(0, 1) * saturation) * value)[..., None]


def directions(degrees: Each) -> tuple[Each, Each]:
    """Cosine and sine, by way of float64: vector and scalar code then round to the same float32."""
    angle = degrees.double() * (math.pi / 180)
    return angle.cos().float(), angle.sin().float()


def wave(turns: Field) -> Field:
    """Like cos(2π·turns), of sums and products alone, whose rounding is the same wherever they are computed."""
    fold = turns.sub_(turns.round()).abs_().mul_(2)
    return (fold * 4 - 6).mul_(fold.square_()).add_(1)


def ellipse(x: Field, y: Field, wide: Each | float, high: Each | float) -> Field:
    """Signed distance from the border of an ellipse about the origin, to first order: f / |grad f|."""
    x, y = x / wide, y / high
    f = x.square().add_(y.square()).sqrt_()
    slope = x.div_(wide).square_().add_(y.div_(high).square_()).sqrt_().add_(1e-6)
    return (f - 1).mul_(f).div_(slope)


def disc(x: Field, y: Field, radius: Each | float) -> Field:
    """Signed distance of a disc about the origin."""
    return x.square().add_(y.square()).sqrt_().sub_(radius)


def box(x: Field, y: Field, wide: Each | float, high: Each | float, corner: float) -> Field:
    """Signed distance of a box with rounded corners around the origin; exact outside and on the border."""
    dx, dy = x.abs().sub_(wide).add_(corner), y.abs().sub_(high).add_(corner)
    inner = torch.maximum(dx, dy).clamp_(max=0)
    return dx.clamp_(0).square_().add_(dy.clamp_(0).square_()).sqrt_().add_(inner).sub_(corner)


def turned(x: Field, y: Field, slope: Each | float) -> tuple[Field, Field]:
    """Coordinates in axes turned so that x runs along (1, slope); for small slopes."""
    return x + y * slope, y - x * slope


# ---------------------------------------------------------------- parts, back to front


def head_distance(s: Sheet, grow: Each | float = 0.0) -> Field:
    """An ellipse whose lower half narrows or widens with the jaw; `grow` half sides larger."""
    low = (s.y / HEIGHT).clamp(0, 1).square_()
    x = s.x * (1 + low * (0.28 - 0.50 * s.people["jaw"]))
    return ellipse(x, s.y, s.width + grow, HEIGHT + grow)


def draw_back_hair(s: Sheet) -> None:
    """What falls behind the head, darker than what lies on it."""
    top = -HEIGHT - s.style["volume"] * 0.8
    middle, high = (s.style["low"] + top) / 2, (s.style["low"] - top) / 2
    x = s.x + s.views["yaw"] * 0.04
    fall = box(x, s.y - middle, s.style["wide"] * (s.width / 0.47), high, 0.3).add_(curls(s))
    s.paint(s.hair * 0.8, s.cover(fall))


def draw_bun(s: Sheet) -> None:
    """A knot on top of the head."""
    s.paint(s.hair * 0.9, s.cover(ellipse(s.x, s.y + HEIGHT + 0.16, s.style["bun"], s.style["bun"] * 0.85)))


def curls(s: Sheet) -> Field:
    """What waves add to the distance from the border of the hair."""
    return wave(s.x * 2.7).mul_(wave(s.y * 2.7)).mul_(s.style["waves"])


def draw_body(s: Sheet) -> None:
    """Shoulders, neck and its shadow."""
    shoulders = box(s.x, s.y - 1.27, 0.74, 0.55, 0.3)
    s.paint(s.shirt, s.cover(shoulders))
    neck = box(s.x, s.y - 0.55, 0.19, 0.36, 0.12)
    s.paint(s.skin * 0.8, s.cover(neck))


def draw_ears(s: Sheet) -> None:
    """Two ears; a turned head shows more of one."""
    size = s.people["ears"]
    x = (s.x + s.views["yaw"] * 0.03).abs_().sub_(s.width)
    s.paint(s.skin * 0.86, s.cover(ellipse(x, s.y - 0.06, 0.065 + 0.04 * size, 0.10 + 0.05 * size)))


def draw_head(s: Sheet) -> None:
    """Skin with a darker rim."""
    s.paint(s.skin * 0.80, s.cover(s.outside.clone()))
    s.paint(s.skin, s.cover(s.outside + 0.04))


def draw_cheeks(s: Sheet) -> None:
    """A soft blush."""
    away = (s.beside - 0.27).square_().add_((s.down - 0.22).square_())
    s.paint(s.lips, away.mul_(-1 / 0.05).add_(1).clamp_(0).square_().mul_(0.25))


def draw_freckles(s: Sheet) -> None:
    """Spots over nose and cheeks."""
    spots = wave(s.across * 7.3).mul_(wave(s.down * 7.3 + s.across * 2.2)).sub_(0.35).mul_(3).clamp_(0, 0.9)
    near = (s.down - 0.17).square_().mul_(-40).add_(1).clamp_(0).mul_((s.beside < 0.36).float())
    s.paint(s.skin * 0.62, spots.mul_(near))


def mark_place(s: Sheet) -> tuple[Field, Field]:
    """A pixel's place from where a mole or a scar is."""
    return s.across - (s.people["mark_place"] * 2 - 1) * 0.27, s.down - 0.27


def draw_mole(s: Sheet) -> None:
    """A dark spot on one cheek."""
    s.paint(s.skin * 0.3, s.cover(disc(*mark_place(s), 0.04)))


def draw_scar(s: Sheet) -> None:
    """A pale slanted line on one cheek."""
    x, y = mark_place(s)
    x, y = turned(x, y + 0.05, 1.0)
    s.paint(s.skin * 0.62 + 0.1, s.cover(box(x, y, 0.20, 0.028, 0.02)))


def draw_beard(s: Sheet) -> None:
    """The lower face, dense in a full beard and thin in stubble."""
    below = 0.30 - s.down - 1.1 * (s.beside - 0.10).clamp_(0)
    density = torch.where(s.kind("beard", "full"), 1.0, 0.42)
    s.paint(s.hair * 0.9, s.cover(torch.maximum(s.outside - 0.03, below), density))


def draw_goatee(s: Sheet) -> None:
    """A tuft round the chin."""
    tuft = torch.maximum(ellipse(s.across, s.down - 0.47, 0.17, 0.17), s.outside - 0.03)
    s.paint(s.hair * 0.9, s.cover(tuft))


def draw_moustache(s: Sheet) -> None:
    """Two wings under the nose."""
    x, y = turned(s.beside - 0.09, s.down - 0.285, 0.25)
    s.paint(s.hair * 0.85, s.cover(ellipse(x, y, 0.14, 0.055)))


def draw_mouth(s: Sheet) -> None:
    """Lips bent by the smile, and what is seen between them where the mouth is open."""
    v, p = s.views, s.people
    wide = 0.13 + 0.09 * p["mouth_width"] + 0.02 * v["smile"]
    full, opened = 0.026 + 0.035 * p["lips"], v["mouth_open"].clamp(0) * 0.055
    y = s.down - 0.375 + (s.across.square() * 3.0 - 0.03) * v["smile"]
    s.paint(s.lips * 0.92, s.cover(ellipse(s.across, y, wide, full + opened)))
    inner = ellipse(s.across, y, wide * 0.86, (opened - 0.004).clamp(0.010))
    dark = torch.tensor((0.25, 0.06, 0.07), device=y.device)[:, None, None]
    s.paint(dark, s.cover(inner))
    teeth = ellipse(s.across, y + opened * 0.45, wide * 0.62, opened * 0.45 + 1e-3)
    s.paint(torch.full_like(dark, 0.96), s.cover(teeth, (opened > 0.02).float()))


def draw_nose(s: Sheet) -> None:
    """A bridge lit from the side, a tip and its shadow."""
    long, wide = 0.17 + 0.09 * s.people["nose_length"], 0.06 + 0.06 * s.people["nose_width"]
    x = s.across - s.views["yaw"] * 0.04
    bridge = box(x, s.down - long / 2, 0.025, long / 2, 0.02)
    s.paint(s.skin * 1.08, s.cover(bridge, 0.6))
    s.paint(s.skin * 0.66, s.cover(ellipse(x, s.down - long - 0.012, wide, 0.045)))
    s.paint(s.skin * 1.04, s.cover(ellipse(x, s.down - long + 0.012, wide * 0.92, 0.045)))


def eye_place(s: Sheet) -> tuple[Field, Field]:
    """A pixel's place from the middle of the eye on its side."""
    return s.beside - (0.175 + 0.065 * s.people["eye_spacing"]), s.down


def draw_eyes(s: Sheet) -> None:
    """White, iris, pupil, a spark, and the upper lid."""
    p, v = s.people, s.views
    x, y = eye_place(s)
    x, y = turned(x, y, 0.35 * (0.5 - p["eye_tilt"]))
    wide = 0.095 + 0.045 * p["eye_size"]
    high = wide * 0.72 * v["eye_open"]
    s.paint(s.skin * 0.35, s.cover(ellipse(x, y + 0.02, wide + 0.018, high + 0.012)))
    white = s.cover(ellipse(x, y, wide, high))
    s.paint(torch.full_like(s.skin, 0.97), white)
    look = x - s.across.sign() * (v["gaze"] * 0.03)
    radius = wide * 0.62
    away = disc(look, y, radius)
    s.paint(s.iris, s.cover(away.clone()).mul_(white))
    s.paint(torch.full_like(s.skin, 0.04), s.cover(away.add_(radius * 0.45)).mul_(white))
    spark = disc(look.add_(radius * 0.35), y + radius * 0.4, radius * 0.3)
    s.paint(torch.ones_like(s.skin), s.cover(spark).mul_(white))


def draw_brows(s: Sheet) -> None:
    """Bars above the eyes; darker than the hair, so that they show under any of it."""
    p, v = s.people, s.views
    x, y = eye_place(s)
    x, y = turned(x, y + 0.165 + 0.03 * p["eye_size"] + 0.04 * v["brow_raise"], 0.6 * (0.5 - p["brow_tilt"]))
    bar = box(x, y, 0.125, 0.018 + 0.03 * p["brow_thickness"], 0.015)
    s.paint(s.hair * 0.72, s.cover(bar, 0.95))


def draw_glasses(s: Sheet) -> None:
    """Frames round both eyes, a bridge, temples; dark ones are filled, others shine a little."""
    x, y = eye_place(s)
    y = y - 0.01
    lens = torch.where(s.kind("glasses", "square"), box(x, y, 0.185, 0.13, 0.04), ellipse(x, y, 0.175, 0.165))
    dark = s.kind("glasses", "dark").float()
    black = torch.full_like(s.skin, 0.06)
    s.paint(torch.lerp(torch.ones_like(black), black * 2, dark[:, None]), s.cover(lens.clone(), 0.18 + 0.7 * dark))
    bars = torch.maximum(box(s.beside - 0.28, y + 0.03, 0.30, 0.022, 0.01), -lens)
    bars = torch.maximum(bars, s.x.abs() - s.width - 0.02)
    s.paint(black, s.cover(torch.minimum(lens.abs_() - 0.028, bars)))


def draw_hair(s: Sheet) -> None:
    """Inside the head grown by the style's volume, above its hairline."""
    style = s.style
    grown = head_distance(s, style["volume"]).add_(curls(s))
    x = s.across - style["part"]
    line = style["line"] + 0.10 - 0.14 * s.people["hairline"]
    below = (s.down - line).sub_(x.square() * style["arch"]).sub_(x * style["slope"]).mul_(0.8)
    mask = torch.maximum(torch.maximum(grown, below), s.y - 0.10)
    s.paint(s.hair, s.cover(mask, style["opacity"]))


def draw_hat(s: Sheet) -> None:
    """A beanie with a band, or a cap with its visor."""
    beanie = s.kind("hat", "beanie")
    s.paint(s.hat, s.cover(torch.maximum(head_distance(s, 0.13), s.down + 0.27)))
    band = torch.maximum(head_distance(s, 0.15), (s.down + 0.30).abs_() - 0.075)
    visor = ellipse(s.across - s.views["yaw"] * 0.08, s.down + 0.27, s.width * 1.02, 0.09)
    s.paint(s.hat * 0.65, s.cover(torch.where(beanie, band, visor)))


def draw_balloon(s: Sheet) -> None:
    """A balloon that hides a part of the face: rim, body and gloss."""
    v = s.views
    radius = 0.17 + 0.17 * v["balloon"]
    x, y = (s.x - v["balloon_x"]).mul_(1.12), s.y - v["balloon_y"]
    colour = hues(v["balloon_hue"], 0.55, 0.85)
    inside = disc(x, y, radius)
    s.paint(colour * 0.75, s.cover(inside.clone()))
    s.paint(colour, s.cover(inside.add_(0.04)))
    gloss = disc(x + radius * 0.36, y + radius * 0.38, radius * 0.24)
    s.paint(1 - (1 - colour) * 0.3, s.cover(gloss))


def light(s: Sheet) -> Float[Tensor, "n 3 h w"]:
    """A light from one side, exposure and colour temperature over the whole picture."""
    v = s.views
    cos, sin = directions(v["light_angle"])
    fall = (s.x * (cos * v["light"])).add_(s.y * (sin * v["light"])).add_(1).clamp_(0.15)
    warm = torch.cat([v["warmth"], torch.zeros_like(v["warmth"]), -v["warmth"]], 1)[..., None]
    return s.canvas.mul_((v["exposure"][:, None] + warm).double().exp().float()).mul_(fall[:, None])


@lru_cache(maxsize=2)
def _noise(device: torch.device) -> Float[Tensor, " n"]:
    """A long stretch of N(0, 1), from which every view takes a piece of its own."""
    return torch.randn(NOISE, generator=runtime.generator("face noise")).to(device)


def grain(views: Values, size: int) -> Float[Tensor, "n 3 h w"]:
    """Noise of the pixels, standard deviation `noise`."""
    pieces = _noise(views["noise"].device).unfold(0, 3 * size * size, 1)
    chosen = (views["noise_place"].double() * len(pieces)).long()
    return pieces[chosen].view(-1, 3, size, size) * views["noise"][:, None, None, None]


def draw(people: Values, views: Values, size: int) -> UInt8[Tensor, "n 3 size size"]:
    """One chunk of images, part by part."""
    s = Sheet(people, views, size)
    s.on(s.style["wide"] > 0, draw_back_hair)
    s.on(s.style["bun"] > 0, draw_bun)
    draw_body(s)
    s.on(s.style["wide"] == 0, draw_ears)  # elsewhere hair falls over them
    draw_head(s)
    draw_cheeks(s)
    s.on(s.kind("beard", "stubble", "full"), draw_beard)
    s.on(s.kind("beard", "goatee"), draw_goatee)
    draw_mouth(s)
    draw_nose(s)
    s.on(s.kind("beard", "moustache", "goatee", "full"), draw_moustache)
    for kind, part in (("mole", draw_mole), ("freckles", draw_freckles), ("scar", draw_scar)):
        s.on(s.kind("mark", kind), part)
    draw_eyes(s)
    draw_brows(s)
    draw_hair(s)
    s.on(s.kind("glasses", "round", "square", "dark"), draw_glasses)
    s.on(s.kind("hat", "beanie", "cap"), draw_hat)
    s.on(s.views["balloon"] > 0, draw_balloon)
    image = light(s).add_(grain(views, size))
    return image.mul_(255).round_().clamp_(0, 255).to(torch.uint8)


def render(people: Values, views: Values, size: int) -> UInt8[Tensor, "n 3 size size"]:
    """Row i shows people[i] in views[i], on the device they are on; UserError for a size outside 32..128."""
    if not 32 <= size <= 128:
        raise UserError(f"size: faces are drawn at 32..128 px, found {size}")
    count = len(people["skin"])
    step = max(1, PIXELS[people["skin"].device.type] // size**2)
    parts = []
    for first in range(0, count, step):
        rows = slice(first, first + step)
        chunk = ({name: value[rows] for name, value in given.items()} for given in (people, views))
        parts.append(draw(*chunk, size))
    return torch.cat(parts) if parts else torch.empty(0, 3, size, size, dtype=torch.uint8)

"""What a procedural face is (an identity's factors) and how it is seen (a view's nuisances).

Everything is a function of (seed, prior, id) and, for a view, of (split, number): drawn by a counter-based hash,
so that any subset of identities or views is the same as in the whole, on every device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_utils import runtime
from mi_utils.errors import UserError

Prior = Literal["plain", "shifted"]
Split = Literal["train", "test", "holdout"]
Mode = Literal["glasses", "hat", "beard"]
Values = dict[str, Tensor]  # name -> (n,): float32 of a continuous factor or nuisance, int64 of a categorical one

BLOCK = 2048  # ids that are compared with each other: k·BLOCK .. (k+1)·BLOCK - 1
APART = 2.5  # least `distance` of two identities of a block
MODE_SHARES = (0.6, 0.25, 0.15)  # of an identity's views: as it is, and its two other looks


@dataclass(frozen=True)
class Factor:
    """One factor: uniform on [low, high] of its own scale 0..1, or one of `kinds` with given probabilities.

    `plain`, `shifted`: (low, high) or the probabilities under either prior.  `weight`: in `distance`.
    """

    about: str
    plain: tuple[float, ...]
    shifted: tuple[float, ...]
    kinds: tuple[str, ...] = ()
    weight: float = 1.0

    def prior(self, name: Prior) -> tuple[float, ...]:
        """(low, high), or the probabilities of the kinds."""
        return self.plain if name == "plain" else self.shifted

    def value(self, uniform: Float[Tensor, "*n"], prior: Prior) -> Tensor:
        """The value at this quantile of the prior: float32 in 0..1, or the int64 index of a kind."""
        given = torch.tensor(self.prior(prior), dtype=torch.float64, device=uniform.device)
        if not self.kinds:
            return (given[0] + (given[1] - given[0]) * uniform).float()
        return torch.bucketize(uniform.contiguous(), given.cumsum(0)[:-1], right=True)

    def expected(self, prior: Prior) -> float | int:
        """What a guess without evidence says: the mean, or the index of the most frequent kind."""
        given = self.prior(prior)
        return given.index(max(given)) if self.kinds else sum(given) / 2


def _amount(about: str, weight: float = 1.0, shifted: tuple[float, float] = (0.0, 1.0)) -> Factor:
    return Factor(about, (0.0, 1.0), shifted, weight=weight)


FACTORS: dict[str, Factor] = {
    "skin": _amount("skin lightness, deep to fair", 3.0, (0.0, 0.7)),
    "undertone": _amount("skin hue, rosy to golden", 0.5, (0.3, 1.0)),
    "aspect": _amount("head width over height", 1.0),
    "jaw": _amount("chin, pointed to square", 1.0),
    "ears": _amount("ear size", 0.3),
    "hair_style": Factor(
        "hair style",
        (0.06, 0.12, 0.16, 0.13, 0.13, 0.10, 0.12, 0.07, 0.05, 0.06),
        (0.15, 0.15, 0.15, 0.1, 0.05, 0.1, 0.1, 0.1, 0.05, 0.05),
        ("bald", "buzz", "short", "parted", "fringe", "bob", "long", "curly", "bun", "quiff"),
        1.5,
    ),
    "hair_colour": Factor(
        "hair colour",
        (0.25, 0.23, 0.17, 0.09, 0.15, 0.06, 0.05),
        (0.14, 0.06, 0.05, 0.05, 0.05, 0.35, 0.3),
        ("black", "dark brown", "chestnut", "red", "blond", "grey", "white"),
        1.5,
    ),
    "hair_shade": _amount("lightness of the hair within its colour", 0.3),
    "hairline": _amount("hairline, low to high", 0.5, (0.3, 1.0)),
    "brow_thickness": _amount("brow thickness", 0.5),
    "brow_tilt": _amount("brow tilt, outer end low to high", 0.5),
    "eye_spacing": _amount("distance of the eyes", 1.0),
    "eye_size": _amount("eye size", 1.0),
    "eye_tilt": _amount("eye tilt, outer corner low to high", 0.3),
    "eye_colour": Factor(
        "iris colour",
        (0.4, 0.25, 0.2, 0.15),
        (0.5, 0.2, 0.15, 0.15),
        ("brown", "blue", "green", "grey"),
        0.3,
    ),
    "nose_length": _amount("nose length", 0.5),
    "nose_width": _amount("nose width", 0.5),
    "mouth_width": _amount("mouth width", 0.7),
    "lips": _amount("lip fullness", 0.7),
    "beard": Factor(
        "beard",
        (0.64, 0.12, 0.08, 0.07, 0.09),
        (0.45, 0.15, 0.1, 0.1, 0.2),
        ("none", "stubble", "moustache", "goatee", "full"),
        1.0,
    ),
    "glasses": Factor(
        "glasses", (0.7, 0.12, 0.13, 0.05), (0.4, 0.25, 0.25, 0.1), ("none", "round", "square", "dark"), 1.0
    ),
    "mark": Factor("mark", (0.55, 0.2, 0.13, 0.12), (0.55, 0.2, 0.1, 0.15), ("none", "mole", "freckles", "scar"), 0.5),
    "mark_place": _amount("where a mole or a scar is, from the left cheek to the right", 0.2),
    "hat": Factor("hat", (0.96, 0.02, 0.02), (0.85, 0.1, 0.05), ("none", "beanie", "cap"), 1.0),
    "hat_hue": _amount("hue of the hat, round the colour circle", 0.1),
}

# Nuisances of a view, uniform on (low, high): first under the plain prior, then under the shifted one.
NUISANCES: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "x": ((-0.22, 0.22), (-0.22, 0.22)),  # shift, half sides: 0.125 is 2 px of 32
    "y": ((-0.18, 0.18), (-0.18, 0.18)),
    "roll": ((-17.0, 17.0), (-17.0, 17.0)),  # degrees
    "scale": ((0.77, 1.27), (0.77, 1.27)),
    "yaw": ((-1.0, 1.0), (-1.0, 1.0)),  # of the largest turn
    "pitch": ((-1.0, 1.0), (-1.0, 1.0)),
    "light_angle": ((0.0, 360.0), (180.0, 360.0)),  # degrees clockwise from the right; where the light comes from
    "light": ((0.0, 0.5), (0.2, 0.65)),  # strength of its gradient
    "exposure": ((-0.38, 0.25), (-0.65, 0.05)),  # log of a factor on all colours
    "warmth": ((-0.2, 0.2), (0.0, 0.35)),  # log of a factor on red, and of its inverse on blue
    "smile": ((-0.5, 1.0), (-0.5, 1.0)),
    "mouth_open": ((-0.6, 1.0), (-0.6, 1.0)),  # closed below 0
    "brow_raise": ((-0.5, 1.0), (-0.5, 1.0)),
    "eye_open": ((0.6, 1.1), (0.6, 1.1)),
    "gaze": ((-1.0, 1.0), (-1.0, 1.0)),
    "back_hue": ((0.0, 1.0), (0.0, 1.0)),
    "back_tint": ((0.05, 0.45), (0.05, 0.45)),  # saturation
    "back_value": ((0.35, 0.95), (0.2, 0.7)),
    "back_slope": ((-0.25, 0.25), (-0.25, 0.25)),  # gradient from top to bottom
    "shirt_hue": ((0.0, 1.0), (0.0, 1.0)),
    "shirt_value": ((0.25, 0.95), (0.15, 0.7)),
    "balloon": ((-0.6, 1.0), (-0.6, 1.0)),  # how large a balloon floats before the face; none below 0
    "balloon_x": ((-0.75, 0.75), (-0.75, 0.75)),
    "balloon_y": ((-0.75, 0.75), (-0.75, 0.75)),
    "balloon_hue": ((0.0, 1.0), (0.0, 1.0)),
    "noise": ((0.01, 0.045), (0.01, 0.045)),  # standard deviation of the pixels, of 0..1
    "noise_place": ((0.0, 1.0), (0.0, 1.0)),  # which stretch of the noise
    "mode": ((0.0, 1.0), (0.0, 1.0)),  # quantile of MODE_SHARES
}


# ---------------------------------------------------------------- counter-based random numbers


def _mixed(x: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """The finaliser of SplitMix64 on int64, whose products wrap round as unsigned ones do."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * -4658895280553007687
    x = (x ^ ((x >> 27) & (2**37 - 1))) * -7723592293110705685
    return x ^ ((x >> 31) & (2**33 - 1))


def uniforms(columns: int, base: int, *counters: Int[Tensor, " n"]) -> Float[Tensor, "n columns"]:
    """U[0, 1) in float64, one row for each tuple of counters and no other row's business."""
    state = torch.full_like(counters[0], base)
    for counter in counters:
        state = _mixed(state + (counter + 1) * -7046029254386353131)
    column = torch.arange(1, columns + 1, device=state.device)
    return ((_mixed(state[:, None] + column * -7046029254386353131) >> 11) & (2**53 - 1)).double() / 2**53


# ---------------------------------------------------------------- identities


def identities(ids: Int[Tensor, " n"] | Sequence[int], factors: Prior = "plain", seed: int = 0) -> Values:
    """The true factors of global ids, name -> (n,); UserError for a negative id.

    Any two ids of one block of BLOCK are at least APART (`distance`): of a pair nearer than that the later id
    is drawn again.
    """
    ids = torch.as_tensor(ids, dtype=torch.int64)
    device, ids = ids.device, ids.cpu()
    if len(ids) and int(ids.min()) < 0:
        raise UserError(f"ids: expected identities from 0 on, found {int(ids.min())}")
    attempts = torch.zeros_like(ids)
    for block in (ids // BLOCK).unique().tolist():
        inside = ids // BLOCK == block
        attempts[inside] = _attempts(block, factors, seed)[ids[inside] % BLOCK]
    drawn = _drawn(ids, attempts, factors, seed)
    return {name: value.to(device) for name, value in drawn.items()}


def _drawn(ids: Int[Tensor, " n"], attempts: Int[Tensor, " n"], factors: Prior, seed: int) -> Values:
    """The factors of these ids at these attempts."""
    quantiles = uniforms(len(FACTORS), runtime.seed("face", factors, seed), ids, attempts)
    return {name: factor.value(quantiles[:, i], factors) for i, (name, factor) in enumerate(FACTORS.items())}


@lru_cache(maxsize=64)
def _attempts(block: int, factors: Prior, seed: int) -> Int[Tensor, " n"]:
    """How often each id of a block is drawn again until it is like no earlier one."""
    ids = torch.arange(BLOCK) + block * BLOCK
    attempts = torch.zeros_like(ids)
    while True:
        coded = code(_drawn(ids, attempts, factors, seed))
        near = (torch.cdist(coded, coded, p=1.0) < APART).tril(-1).any(1)
        if not near.any():
            return attempts
        attempts += near


def code(people: Values) -> Float[Tensor, "n d"]:
    """Factors as float64 vectors whose L1 distance is `distance`: a categorical one as one-hot halves."""
    parts = []
    for name, factor in FACTORS.items():
        value = people[name]
        hot = torch.nn.functional.one_hot(value, len(factor.kinds)) / 2 if factor.kinds else value[:, None]
        parts.append(hot.double() * factor.weight)
    return torch.cat(parts, 1)


def distance(people: Values, others: Values) -> Float[Tensor, "n m"]:
    """Weighted sum over factors of |difference|, or of 1 where the kinds differ."""
    return torch.cdist(code(people), code(others), p=1.0)


def chance(factors: Prior = "plain") -> dict[str, float | int]:
    """The guess that knows the prior and nothing else: means of continuous factors, modes of categorical ones."""
    return {name: factor.expected(factors) for name, factor in FACTORS.items()}


# ---------------------------------------------------------------- views


def views(
    ids: Int[Tensor, " n"], split: Split, numbers: Int[Tensor, " n"], factors: Prior = "plain", seed: int = 0
) -> Values:
    """The nuisances of view `numbers` of these identities, name -> float32 (n,), and `mode`, int64 0..2."""
    drawn = uniforms(len(NUISANCES), runtime.seed("face view", split, factors, seed), ids, numbers)
    found = {}
    for i, (name, priors) in enumerate(NUISANCES.items()):
        low, high = priors[factors != "plain"]
        found[name] = low + (high - low) * drawn[:, i]
    shares = torch.tensor(MODE_SHARES, dtype=torch.float64, device=ids.device).cumsum(0)[:-1]
    mode = torch.bucketize(found.pop("mode").contiguous(), shares, right=True)
    return {name: value.float() for name, value in found.items()} | {"mode": mode}


def in_mode(
    people: Values, ids: Int[Tensor, " n"], mode: Int[Tensor, " n"], modes: Sequence[Mode], seed: int
) -> Values:
    """The people as they look in mode 0 (themselves), 1 or 2: other kinds of the factors named in `modes`.

    The two other looks differ from the first and from each other, and are an identity's own.
    """
    drawn = uniforms(2 * len(FACTORS), runtime.seed("face modes", seed), ids)
    changed = dict(people)
    for i, name in enumerate(FACTORS):
        if name in modes:
            count = len(FACTORS[name].kinds)
            first = (drawn[:, 2 * i] * (count - 1)).long()
            second = (first + 1 + (drawn[:, 2 * i + 1] * (count - 2)).long()) % (count - 1)
            step = torch.stack([torch.full_like(first, -1), first, second])
            changed[name] = (people[name] + 1 + step.gather(0, mode[None])[0]) % count
    return changed

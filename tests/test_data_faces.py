"""Procedural faces: priors, identities that are never alike, views, modes, and what is drawn."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import Tensor

from mi_utils.data import AnySource, Faces, face_drawing
from mi_utils.data.face_drawing import box, disc, ellipse, hues, render, wave
from mi_utils.data.face_factors import (
    APART,
    BLOCK,
    FACTORS,
    MODE_SHARES,
    NUISANCES,
    Values,
    _drawn,
    chance,
    distance,
    identities,
    in_mode,
    uniforms,
    views,
)
from mi_utils.errors import UserError

MANY = torch.arange(2000)
KINDS = {name: factor.kinds for name, factor in FACTORS.items() if factor.kinds}


@pytest.fixture(autouse=True)
def one_thread():
    """As in a stage: where threads part the work decides which pixels vector code rounds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def neutral(count: int, **changes: float) -> Values:
    """Views from the front in even light, without noise."""
    still = {name: 0.0 for name in NUISANCES if name != "mode"} | {"scale": 1.0, "eye_open": 1.0, "back_value": 0.8}
    return {name: torch.full((count,), float(value)) for name, value in (still | changes).items()}


def like(person: Values, count: int, **changes: Tensor) -> Values:
    """`count` copies of one person with some factors replaced."""
    return {name: value[:1].repeat(count) for name, value in person.items()} | changes


PLAIN_FACE = identities([0]) | {name: torch.tensor([0 if factor.kinds else 0.5]) for name, factor in FACTORS.items()}
PLAIN_FACE["hair_style"] = torch.tensor([KINDS["hair_style"].index("short")])
PLAIN_FACE["hair_colour"] = torch.tensor([KINDS["hair_colour"].index("chestnut")])


# ---------------------------------------------------------------- random numbers and priors


def test_uniforms_are_uniform_and_unrelated():
    drawn = uniforms(8, 12345, torch.arange(20_000))
    assert 0 <= drawn.min() and drawn.max() < 1
    assert (drawn.mean(0) - 0.5).abs().max() < 4 / math.sqrt(12 * 20_000)
    assert (drawn.var(0) - 1 / 12).abs().max() < 0.003
    neighbours = torch.cat([drawn[:-1], drawn[1:]], 1)
    assert (neighbours.T.corrcoef() - torch.eye(16)).abs().max() < 0.035


def test_uniforms_depend_on_every_counter_and_its_place():
    one, two = torch.tensor([3]), torch.tensor([5])
    rows = [uniforms(4, base, *c) for base, c in ((0, (one, two)), (0, (two, one)), (0, (one,)), (1, (one, two)))]
    assert len({tuple(row[0].tolist()) for row in rows}) == 4


@pytest.mark.parametrize("prior", ["plain", "shifted"])
def test_people_follow_the_prior(prior):
    people = identities(MANY, prior)
    for name, factor in FACTORS.items():
        stated = torch.tensor(factor.prior(prior))
        if factor.kinds:
            assert len(stated) == len(factor.kinds) and stated.sum().item() == pytest.approx(1)
            assert (people[name].bincount(minlength=len(stated)) / len(MANY) - stated).abs().max() < 0.05, name
        else:
            low, high = stated.tolist()
            assert low <= people[name].min() and people[name].max() <= high
            assert people[name].mean() == pytest.approx((low + high) / 2, abs=0.04 * (high - low)), name


@pytest.mark.parametrize("prior", ["plain", "shifted"])
def test_chance_is_the_best_constant_guess(prior):
    people, guess = identities(MANY, prior), chance(prior)
    for name, factor in FACTORS.items():
        said = guess[name]
        if factor.kinds:
            frequencies = torch.tensor(factor.prior(prior))
            assert frequencies[said] == frequencies.max()
        else:
            error = [(people[name] - other).square().mean() for other in (said, said - 0.1, said + 0.1)]
            assert error[0] < min(error[1:])


# ---------------------------------------------------------------- identities


def test_no_two_of_two_thousand_people_are_alike():
    people = identities(MANY)
    between = distance(people, people).fill_diagonal_(9e9)
    assert between.min() >= APART


def test_distance_is_the_weighted_sum_of_differences():
    people = identities([3, 1000])
    expected = 0.0
    for name, factor in FACTORS.items():
        first, second = people[name].tolist()
        expected += factor.weight * (float(first != second) if factor.kinds else abs(first - second))
    assert distance(people, people)[0, 1].item() == pytest.approx(expected)


def test_only_the_later_one_of_a_near_pair_is_drawn_again():
    ids = torch.arange(BLOCK)
    first = _drawn(ids, torch.zeros_like(ids), "plain", 0)
    final = identities(ids)
    again = (first["skin"] != final["skin"]).nonzero().flatten()
    near = distance(first, first).fill_diagonal_(9e9) < APART
    assert 0 < len(again) < BLOCK / 10
    assert set(near.tril().any(1).nonzero().flatten().tolist()) <= set(again.tolist())


def test_people_look_different_from_each_other():
    images = render(identities(MANY), neutral(len(MANY)), 32).flatten(1).float()
    between = torch.cdist(images, images).fill_diagonal_(9e9) / math.sqrt(images.shape[1])
    assert between.min() > 4  # grey levels, root mean square over all pixels
    assert between.min(1).values.median() > 12


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3 * BLOCK), max_size=5))
def test_a_person_does_not_depend_on_the_others(ids):
    together = identities(ids)
    for i, single in enumerate(ids):
        alone = identities([single])
        assert all(together[name][i] == alone[name][0] for name in FACTORS)


def test_seed_and_prior_give_other_people():
    base = identities(MANY[:50])
    for other in (identities(MANY[:50], "shifted"), identities(MANY[:50], seed=1)):
        assert distance(base, other).diagonal().min() > APART
    with pytest.raises(UserError, match=r"ids: expected identities from 0 on, found -1"):
        identities([3, -1])


# ---------------------------------------------------------------- the source


def test_source():
    faces = Faces(identities=3, first=1000, per_identity=4).load()
    assert faces.images.shape == (12, 3, 32, 32)
    assert faces.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert faces.classes == ("face 1000", "face 1001", "face 1002")
    read = TypeAdapter(AnySource).validate_python({"kind": "faces", "size": 64, "modes": ["hat"]})
    assert read == Faces(size=64, modes=("hat",))


def test_an_image_does_not_depend_on_what_else_is_drawn():
    whole = Faces(identities=6, per_identity=9).load().images.view(6, 9, 3, 32, 32)
    later = Faces(identities=2, first=3, per_identity=5).load().images.view(2, 5, 3, 32, 32)
    assert torch.equal(later, whole[3:5, :5])
    chosen = Faces(identities=6, per_identity=9, classes=(4,)).load().images
    assert torch.equal(chosen, whole[4])


def test_images_do_not_depend_on_the_chunks(monkeypatch):
    whole = Faces(identities=4, per_identity=5, size=48).load().images
    people, seen = Faces(identities=4, per_identity=5, size=48).drawn(torch.arange(20))
    monkeypatch.setitem(face_drawing.PIXELS, "cpu", 3 * 48**2)
    assert torch.equal(render(people, seen, 48), whole)


def test_private_and_public_people_are_disjoint():
    private, public = Faces(identities=20).load(), Faces(identities=40, first=1000).load()
    assert not set(private.classes) & set(public.classes)
    people = [identities(range(first, first + n)) for first, n in ((0, 20), (1000, 40))]
    assert distance(*people).min() >= APART


def test_splits_show_other_views_of_the_same_people():
    parts = [Faces(identities=5, per_identity=20, split=split) for split in ("train", "test", "holdout")]
    images = torch.cat([part.load().images for part in parts]).flatten(1)
    assert len(images.unique(dim=0)) == len(images)
    drawn = [part.drawn(torch.arange(100)) for part in parts]
    for people, seen in drawn[1:]:
        assert all(torch.equal(people[name], drawn[0][0][name]) for name in FACTORS)
        assert not any(torch.isin(seen[name], drawn[0][1][name]).all() for name in NUISANCES if name != "mode")


def test_views_stay_within_their_ranges():
    ids = torch.arange(3000)
    for at, prior in enumerate(("plain", "shifted")):
        seen = views(ids, "train", ids, prior)
        for name, ranges in NUISANCES.items():
            if name != "mode":
                low, high = ranges[at]
                assert low - 1e-6 <= seen[name].min() and seen[name].max() <= high + 1e-6
                assert seen[name].mean() == pytest.approx((low + high) / 2, abs=0.04 * (high - low) + 1e-6)
        shares = seen["mode"].bincount(minlength=3) / len(ids)
        assert torch.allclose(shares, torch.tensor(MODE_SHARES), atol=0.04)


def test_errors():
    with pytest.raises(UserError, match="size"):
        Faces(size=16)
    with pytest.raises(UserError, match="modes"):
        Faces(modes=("shoes",))
    with pytest.raises(UserError, match=r"size: faces are drawn at 32..128 px, found 20"):
        render(PLAIN_FACE, neutral(1), 20)


def test_people_can_be_told_apart_but_not_by_their_mean_image():
    train, test = (Faces(per_identity=30, split=split).load() for split in ("train", "test"))
    means = torch.stack([train.of_class(k).float().mean(0) for k in range(20)]).flatten(1)
    said = torch.cdist(test.float().flatten(1), means).argmin(1)
    accuracy = (said == test.labels).double().mean()
    assert 0.15 < accuracy < 0.7


# ---------------------------------------------------------------- modes


@pytest.mark.parametrize("modes", [("glasses",), ("hat", "beard"), ("glasses", "hat", "beard")])
def test_three_looks_of_a_person(modes):
    ids = torch.arange(300)
    people = identities(ids)
    looks = [in_mode(people, ids, torch.full_like(ids, mode), modes, 0) for mode in range(3)]
    for name in FACTORS:
        kinds = torch.stack([look[name] for look in looks])
        assert torch.equal(kinds[0], people[name])
        if name in modes:
            assert kinds.min() >= 0 and kinds.max() == len(KINDS[name]) - 1
            assert all((kinds[i] != kinds[j]).all() for i, j in ((0, 1), (0, 2), (1, 2)))
        else:
            assert torch.equal(kinds[1], kinds[0]) and torch.equal(kinds[2], kinds[0])


def test_modes_change_views_and_nothing_else():
    rows = torch.arange(400)
    fixed, varied = (Faces(modes=modes) for modes in ((), ("glasses",)))
    (people, seen), (others, also) = fixed.drawn(rows), varied.drawn(rows)
    assert all(torch.equal(seen[name], also[name]) for name in seen)
    changed = people["glasses"] != others["glasses"]
    assert torch.equal(changed, seen["mode"] > 0) and 0.3 < changed.double().mean() < 0.5
    images = [source.load().images[rows] for source in (fixed, varied)]
    assert torch.equal(images[0][~changed], images[1][~changed])
    assert (images[0] != images[1]).flatten(1).any(1)[changed].all()


# ---------------------------------------------------------------- drawing


def plane(side: int = 41) -> tuple[Tensor, Tensor]:
    """x and y of a square grid on -1..1, (1, side, side)."""
    line = torch.linspace(-1, 1, side)
    return line[None, None, :].expand(1, side, side), line[None, :, None].expand(1, side, side)


def test_signed_distances():
    x, y = plane()
    assert torch.allclose(disc(x, y, 0.4), torch.hypot(x, y) - 0.4, atol=1e-6)
    away = torch.hypot(x, y) > 0.1
    assert torch.allclose(ellipse(x, y, 0.4, 0.4)[away], (torch.hypot(x, y) - 0.4)[away], atol=1e-3)
    # Near its border an ellipse's distance is that to the nearest of many points on it.
    turn = torch.linspace(0, 2 * math.pi, 4000)
    border = torch.stack([0.7 * turn.cos(), 0.2 * turn.sin()], -1)
    nearest = torch.cdist(torch.stack([x, y], -1).view(-1, 2), border).min(1).values.view_as(x)
    close = nearest < 0.03
    assert torch.allclose(ellipse(x, y, 0.7, 0.2)[close].abs(), nearest[close], atol=6e-3)
    sharp = box(x, y, 0.5, 0.3, 0.0)
    assert sharp[0, 20, 20].item() == pytest.approx(-0.3)
    assert sharp[0, 0, 0].item() == pytest.approx(math.hypot(0.5, 0.7))
    rounded = box(x, y, 0.5, 0.3, 0.1)
    assert rounded[0, 0, 0].item() == pytest.approx(math.hypot(0.6, 0.8) - 0.1)


def test_wave_is_nearly_a_cosine():
    turns = torch.linspace(-3, 3, 601)
    assert (wave(turns.clone()) - (2 * math.pi * turns).cos()).abs().max() < 0.03


def test_hues():
    colours = hues(torch.tensor([0, 1 / 3, 2 / 3])[:, None, None], 1.0, 1.0)[:, :, 0, 0]
    assert torch.allclose(colours, torch.eye(3), atol=1e-5)
    grey = hues(torch.tensor([0.4])[:, None, None], 0.0, 0.7)
    assert torch.allclose(grey, torch.full_like(grey, 0.7))


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_visible(name, size):
    count = len(KINDS[name])
    images = render(like(PLAIN_FACE, count, **{name: torch.arange(count)}), neutral(count), size).float()
    # Stubble in the colour of the hair on a mid skin is the faintest of all.
    for one in range(count):
        for other in range(one):
            contrast = (images[one] - images[other]).abs().amax(0)
            assert (contrast > 15).sum() >= (size // 32) ** 2 * 2, (KINDS[name][one], KINDS[name][other])


@pytest.mark.parametrize("name", [name for name, factor in FACTORS.items() if not factor.kinds])
def test_every_amount_is_visible(name):
    person = PLAIN_FACE | {"mark": torch.tensor([KINDS["mark"].index("mole")])}
    if name == "hat_hue":
        person = person | {"hat": torch.tensor([1])}
    ends = like(person, 2, **{name: torch.tensor([0.0, 0.9])})
    low, high = render(ends, neutral(2), 64).float()
    assert (low - high).abs().max() > 12


@pytest.mark.parametrize("name", [name for name in NUISANCES if name not in ("mode", "noise_place")])
def test_every_nuisance_is_visible(name):
    low, high = NUISANCES[name][0]
    base = {"light": 0.3, "back_tint": 0.3, "noise": 0.0, "balloon": 0.5, "shirt_value": 0.6}
    seen = neutral(2, **base) | {name: torch.tensor([low, low + 0.9 * (high - low)])}
    one, other = render(like(PLAIN_FACE, 2), seen, 64).float()
    assert (one - other).abs().max() > 12


def test_a_shift_by_whole_pixels_moves_the_picture():
    people = identities(range(8))
    still = render(people, neutral(8), 32)
    moved = render(people, neutral(8, x=4 / 16, y=2 / 16), 32)
    away = (moved[:, :, 2:, 4:].int() - still[:, :, :-2, :-4].int()).abs()
    assert away.max() <= 1


def test_a_face_without_marks_is_its_own_mirror_image():
    straight = {"hair_style": torch.tensor([KINDS["hair_style"].index("fringe")])}
    people = identities(range(20)) | {"mark": torch.zeros(20, dtype=torch.int64)}
    people = people | {"hair_style": straight["hair_style"].repeat(20)}
    images = render(people, neutral(20), 64).int()
    # The eyes' sparks are both on the same side of the pupil, as a light's reflection is.
    assert ((images - images.flip(3)).abs() > 1).double().mean() < 0.01


def test_edges_are_smooth():
    people = identities(range(12))
    small, large = render(people, neutral(12), 32).float(), render(people, neutral(12), 128).float()
    filtered = F.avg_pool2d(large, 4)
    assert (small - filtered).abs().mean() < 2.5
    picked = large[:, :, 2::4, 2::4]
    assert (small - filtered).square().mean() < 0.5 * (picked - filtered).square().mean()


def test_noise_has_the_stated_strength():
    person, noisy = like(PLAIN_FACE, 40), neutral(40, noise=0.03)
    noisy["noise_place"] = torch.linspace(0, 0.999, 40)
    added = render(person, noisy, 32).float() - render(person, neutral(40), 32).float()
    corner = added[:, :, :6, :6]  # background of middling lightness: nothing is clipped
    assert corner.std() == pytest.approx(0.03 * 255, rel=0.1) and abs(corner.mean()) < 0.6
    pairs = corner.flatten(1).corrcoef().fill_diagonal_(0)
    assert pairs.abs().max() < 0.6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same_images():
    ids = torch.arange(200)
    here = render(identities(ids), views(ids, "train", ids), 64)
    ids = ids.cuda()
    there = render(identities(ids), views(ids, "train", ids), 64).cpu()
    assert (here.int() - there.int()).abs().max() <= 2

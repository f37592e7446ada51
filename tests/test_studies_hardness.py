"""Projection of private images into a prior, and why images stay unmatched: planted cases and closed forms."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from test_attacks_style import ATTACKS, PRIOR, PUBLIC, TARGET
from toys import resumed, same

from mi_utils.data import Folder
from mi_utils.data.faces import Faces
from mi_utils.errors import UserError
from mi_utils.metrics import perceptual
from mi_utils.models import perceptual as nets
from mi_utils.runtime import generator
from mi_utils.stage import Job, Output, Stage
from mi_utils.studies.ddcs_ngd.hardness import (
    Hardness,
    hard_tags,
    held_out_auc,
    margin_and_loss,
    modelled,
    prior_limited,
)
from mi_utils.studies.ddcs_ngd.projection import Projection, rows_drawn
from mi_utils.studies.evaluation import Evaluation, Panel, drawn_per_class

SMALL = {"classes": (0,), "perceptual": 4, "pool": 12, "steps": 4, "chunk": 8}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Four images that the generator makes of latents of its projection's own pool."""
    folder = tmp_path_factory.mktemp("planted")
    g = PRIOR.generator("cpu")
    w = g.mapping(torch.randn((12, g.z_dim), generator=generator("projection pool", 0)))
    x = g.synthesis(w[[1, 4, 7, 10]])
    (folder / "face").mkdir()
    for i, pixels in enumerate(x.add(1).mul(127.5).round().clamp(0, 255).byte()):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / "face" / f"{i}.png")
    return Folder(path=folder)


# --- projection ------------------------------------------------------------------------------------------------


def test_samples_of_the_pool_are_projected_onto_themselves(planted: Folder) -> None:
    found = Projection(prior=PRIOR, private=planted, **SMALL).result("cpu").tensors
    assert found["start"].max() < 1e-5 and found["distance"].max() < 1e-5  # restarts have parts of the pool
    assert torch.equal(found["images"], drawn_per_class(planted.load(), 4).images)


@pytest.mark.parametrize("space", ["w", "w+"])
def test_a_projection_comes_nearer_than_its_pool(planted: Folder, space: str) -> None:
    stage = Projection(prior=PRIOR, private=planted, **SMALL, space=space, seed=1)
    stage = stage.model_copy(update={"steps": 25})
    found = stage.result("cpu").tensors
    assert (found["distance"] <= found["start"] + 1e-6).all()
    assert found["distance"].mean() < 0.8 * found["start"].mean()
    assert found["latents"].shape == ((4, 8) if space == "w" else (4, PRIOR.generator("cpu").synthesis.inputs, 8))
    net, real = nets.load("st-lpips-alex"), drawn_per_class(planted.load(), 4).images
    q = (perceptual.embed(found["images"], net) - perceptual.embed(real, net)).square().sum(1)
    torch.testing.assert_close(found["distance"], q)
    image = PRIOR.generator("cpu").synthesis(found["latents"])
    assert (image.add(1).mul(127.5).clamp(0, 255) - found["images"]).abs().max() < 0.51


def test_an_interrupted_projection_resumes(planted: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Projection(prior=PRIOR, private=planted, **SMALL, seed=1)
    expected = stage.result("cpu").tensors
    found, steps = resumed(stage, tmp_path, monkeypatch, 2)
    assert same(found, expected) and steps == [2, 3]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"restarts": 20}, "pool: expected at least one sample per restart"),
        ({"private": Faces(size=64)}, "prior: expected images of 3 colours and 64 px .* found 3 and 32"),
    ],
)
def test_wrong_projections_are_one_line(planted: Folder, change: dict, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        Projection(**{"prior": PRIOR, "private": planted} | SMALL | change).result("cpu")
    assert "\n" not in str(caught.value)


def test_rows_are_those_of_the_images_drawn() -> None:
    data = TARGET.train.load()
    rows = rows_drawn(data, (2, 0), 7)
    drawn = drawn_per_class(data.only_classes((2, 0)), 7)
    assert torch.equal(data.images[rows], drawn.images) and torch.equal(data.labels[rows], drawn.labels)


# --- hardness --------------------------------------------------------------------------------------------------

FACES = Faces(identities=4, per_identity=20, modes=("glasses",))
N = 2 * 20
PROJECTION = Projection(prior=PRIOR, private=FACES, classes=(0, 2), perceptual=20, pool=12, steps=1, restarts=1)


class Planted(Evaluation):
    """An evaluation of reconstructions of which one each is nearest to every image of `found`."""

    found: tuple[int, ...]
    scored: tuple[int, ...] = (0, 2)

    def upstream(self) -> tuple[Stage, ...]:
        return ()

    def compute(self, job: Job) -> Output:
        return Output(
            {"nearest_real_of_fake": torch.tensor(self.found)}, {"rows": [("top1", c, 1.0, 4) for c in self.scored]}
        )


def evaluation(*found: int, **fields: object) -> Planted:
    panel = Panel(plain={"other": TARGET.model_copy(update={"seed": 5})}, reject=TARGET.model_copy(update={"seed": 6}))
    given = {"attack": ATTACKS["ppa"], "target": TARGET, "panel": panel, "private": FACES, "samples": 4}
    return Planted(**given | {"perceptual": 20, "found": found} | fields)


def test_the_unmatched_are_split_at_the_matched_ones_quantile() -> None:
    r = torch.cat([torch.arange(11) / 10, torch.tensor([0.89, 0.91, 5.0])])  # matched: 90 % quantile .9
    matched = torch.arange(14) < 11
    assert prior_limited(matched, r).nonzero().squeeze(1).tolist() == [12, 13]


def test_what_is_unmatched_and_what_others_recover() -> None:
    r = PROJECTION.result("cpu").tensors["distance"]
    order = r.argsort()
    found, easy, far = order[10:28], order[:4], order[36:]
    base = (evaluation(*found[:12].tolist()), evaluation(*found[6:].tolist()))
    further = {"fresh": (evaluation(*easy[:1].tolist()),), "w+": (evaluation(*easy.tolist(), *far[:1].tolist()),)}
    stage = Hardness(evaluations=base, projection=PROJECTION, further=further)
    result = stage.result("cpu")
    rows = {(what, which): (value, n) for what, which, value, n in result.meta["rows"]}
    matched = result.tensors["matched"].any(0)
    assert set(matched.nonzero().squeeze(1).tolist()) == set(found.tolist())
    limited = result.tensors["prior_limited"]
    assert limited[far].all() and not limited[easy].any() and not limited[found].any()
    near = int(result.tensors["search_limited"].sum())
    assert near + int(limited.sum()) == N - 18
    assert rows["share", "unmatched"] == (22 / 40, 40) and rows["share", "search-limited"] == (near / 40, 40)
    assert rows["recovered", "fresh"] == pytest.approx((1 / near, near))
    assert rows["recovered", "w+"] == pytest.approx((4 / near, near))
    assert rows["coverage gain", "fresh"] == (1 / 40, 40) and rows["coverage gain", "w+"] == (5 / 40, 40)
    assert {which for what, which, *_ in result.meta["rows"] if what == "AUC"} == {
        "tags",
        "target",
        "projection",
        "all",
    }
    coefficients = {which for what, which, *_ in result.meta["rows"] if what == "coefficient"}
    assert coefficients == {"turned", "occluded", "side light", "minority mode", "margin", "loss", "r"}
    assert all(0 <= value <= 1 for (what, _), (value, _) in rows.items() if what == "AUC")


def test_a_planted_cause_is_found_and_noise_is_not() -> None:
    rng = generator("causes")
    x = torch.randn(400, 2, generator=rng)
    mu = torch.rand(3, 400, generator=rng) < (4 * x[:, 0]).sigmoid()
    auc, weights = held_out_auc(x, mu)
    assert auc > 0.85 and weights[0] > 2 and weights[1].abs() < 0.3
    assert held_out_auc(x[:, 1:], mu)[0] == pytest.approx(0.5, abs=0.06)


def test_one_images_seeds_are_held_out_together() -> None:
    """Were they not, an image's own number would tell its outcome."""
    rng = generator("coins")
    x = F.one_hot(torch.arange(60)).float()
    mu = (torch.rand(60, generator=rng) < 0.5).repeat(4, 1)
    assert held_out_auc(x, mu)[0] < 0.6


def test_models_leave_out_what_does_not_vary_and_too_few_outcomes() -> None:
    x = torch.randn(40, generator=generator("x"))
    columns = {"tags": {"turned": torch.zeros(40, dtype=torch.bool)}, "projection": {"r": x}}
    rows = modelled(columns, (x > 0)[None])
    assert [row[:2] for row in rows] == [("AUC", "projection"), ("AUC", "all"), ("coefficient", "r")]
    assert rows[0][2] > 0.99
    assert modelled(columns, (torch.arange(40) < 4)[None]) == [] == modelled(columns, (torch.arange(40) > 3)[None])


def test_margin_and_loss_of_a_hand_made_case() -> None:
    said = torch.tensor([[2.0, 0.5, 1.0], [0.0, 0.0, 3.0]])
    margin, loss = margin_and_loss(said, torch.tensor([0, 1]))
    assert margin.tolist() == [1.0, -3.0]
    torch.testing.assert_close(loss, F.cross_entropy(said, torch.tensor([0, 1]), reduction="none"))


def test_hard_tags_are_the_true_factors() -> None:
    rows = torch.arange(80)
    person, view = FACES.drawn(rows)
    tags = hard_tags(FACES, rows)
    assert view["yaw"][tags["turned"]].abs().min() > 0.7 > 0.2 > view["yaw"].abs().min()
    assert torch.equal(tags["occluded"], (person["glasses"] == 3) | (person["hat"] != 0))
    assert torch.equal(tags["minority mode"], view["mode"] != 0)
    assert all(0 < tag.sum() < 40 for name, tag in tags.items() if name != "occluded")
    assert not hard_tags(PUBLIC, rows)["minority mode"].any() and hard_tags(Folder(path="faces"), rows) == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"evaluations": ()}, "expected at least one each, found none"),
        ({"further": {"fresh": (evaluation(1, perceptual=4),)}}, "expected the same perceptual in all"),
        ({"evaluations": (evaluation(1), evaluation(1, target=TARGET.model_copy(update={"seed": 9})))}, "same target"),
        ({"evaluations": (evaluation(1, scored=(0, 1)),)}, r"projection's classes \[0, 2\], found \[0, 1\]"),
    ],
)
def test_wrong_comparisons_are_one_line(change: dict, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        Hardness(**{"evaluations": (evaluation(1),), "projection": PROJECTION} | change).result("cpu")
    assert "\n" not in str(caught.value)

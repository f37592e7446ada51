"""NC2: private sets with overlapping or uniform classes, and the order of sets of known quality."""

import pytest
import torch
from test_studies_ddcs_ngd_claims import judge, planted

from mi_utils.data import Faces
from mi_utils.data.face_factors import FACTORS, identities
from mi_utils.studies import ddcs_ngd as study
from mi_utils.studies.ddcs_ngd import results
from mi_utils.studies.ddcs_ngd.sensitivity import KEPT, Sensitivity, between, narrowed, orders

FACES = Faces(identities=4, per_identity=12, modes=("glasses",))
STAGE = Sensitivity(private=FACES, classes=(1, 3), count=8, noises=(4.0, 60.0), shares=(0.5,), overlaps=(0.5,),
                    spreads=(0.1,))  # fmt: skip


def test_the_set_as_it_is_holds_the_private_images() -> None:
    whole = FACES.load().images
    assert torch.equal(STAGE.drawn(0.0, 1.0), torch.cat([whole[12:20], whole[36:44]]))


def test_an_overlap_changes_its_part_of_every_class_alone() -> None:
    plain, mixed = STAGE.drawn(0.0, 1.0), STAGE.drawn(0.5, 1.0)
    changed = (plain != mixed).flatten(1).any(1).reshape(2, 8)
    assert changed[:, :4].all() and not changed[:, 4:].any()


def test_people_between_two_have_the_mean_of_amounts_and_either_kind() -> None:
    one, other = (identities(torch.full((400,), i)) for i in (3, 4))
    part = torch.arange(400) < 300
    found = between(one, other, part, torch.Generator().manual_seed(0))
    for name, factor in FACTORS.items():
        assert torch.equal(found[name][~part], one[name][~part])
        if factor.kinds and one[name][0] != other[name][0]:
            assert (found[name][part] == other[name][part]).double().mean().item() == pytest.approx(0.5, abs=0.1)
        elif not factor.kinds:
            torch.testing.assert_close(found[name][part], ((one[name] + other[name]) / 2)[part])


def test_narrowed_views_keep_their_middle_and_looks() -> None:
    _, seen = FACES.drawn(torch.arange(48))
    found = narrowed(seen, 0.25, "plain")
    assert all(torch.equal(found[name], seen[name]) for name in KEPT)
    torch.testing.assert_close(found["yaw"], seen["yaw"] / 4)
    torch.testing.assert_close(found["eye_open"] - 0.85, (seen["eye_open"] - 0.85) / 4)
    spread = (STAGE.drawn(0.0, s).float().var(0).mean() for s in (0.1, 1.0))
    assert next(spread) < 0.7 * next(spread)


def test_faint_copies_find_their_originals_and_coarse_ones_fewer() -> None:
    rows = STAGE.result("cpu").meta["rows"]
    assert [tuple(row[:2]) for row in rows[::2]] == [(0.0, 1.0), (0.5, 1.0), (0.0, 0.1)]
    for faint, coarse in zip(rows[::2], rows[1::2], strict=True):
        assert faint[5] == 0.5 and 0.45 < faint[4] < 0.5 and coarse[4] < faint[4]


ARMS = [(0.25, 6.0), (0.25, 40.0), (0.5, 6.0)]


def variants(*values: tuple[float, float, float]) -> list[tuple]:
    where = [(0.0, 1.0), (0.5, 1.0), (0.0, 0.25)]
    return [(*w, *arm, v, v) for w, each in zip(where, values, strict=True) for arm, v in zip(ARMS, each, strict=True)]


def test_orders_pair_every_variant_with_the_set_as_it_is() -> None:
    found = orders(variants((0.2, 0.1, 0.4), (0.3, 0.1, 0.4), (0.2, 0.2, 0.5)))
    assert list(found) == [(0.5, 1.0), (0.0, 0.25)]
    assert found[0.0, 0.25][0].tolist() == [0.2, 0.1, 0.4] and found[0.0, 0.25][1].tolist() == [0.2, 0.2, 0.5]


@pytest.mark.parametrize(
    ("last", "verdict"),
    [((0.21, 0.1, 0.4), "reproduced"), ((0.3, 0.1, 0.4), "partly"), ((0.1, 0.2, 0.4), "not reproduced")],
)
def test_the_order_decides_and_then_the_value(last: tuple[float, float, float], verdict: str) -> None:
    rows = variants((0.2, 0.1, 0.4), (0.2, 0.1, 0.4), last)
    plan = planted(study.plan("laptop"), sensitivity=rows)
    assert judge(plan, "NC2").verdict == verdict
    table = results.nc2_sensitivity(plan)
    assert len(table) == 3 and table.shape[1] == 5

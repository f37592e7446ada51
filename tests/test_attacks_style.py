"""PPA and DMMIA: the steps against plain loops, what is equal and what is paired, what is refused."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_attacks_stages import closure, sources
from toys import resumed, same, tensors

from mi_utils.attacks import memory, plug_and_play, style_search
from mi_utils.attacks.dmmia import DMMIA, mapped, shuffled
from mi_utils.attacks.objective import LOSSES
from mi_utils.attacks.plug_and_play import PlugAndPlay, on_the_sphere, quantiles
from mi_utils.attacks.style_search import StyleSearch, best, cosine, drift, sample_major, shown
from mi_utils.data import images as images_module
from mi_utils.data.augment import Augment, Flip, ResizedCrop
from mi_utils.data.faces import Faces
from mi_utils.data.images import Source, to_uint8
from mi_utils.errors import UserError
from mi_utils.models import stylegan2_files
from mi_utils.models.stylegan2 import truncated
from mi_utils.runtime import generator
from mi_utils.stage import Job, StageFailed
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.style_priors import FileStyleGAN2
from mi_utils.training.stylegan2 import ContinuedStyleGAN2, TrainStyleGAN2

CPU = torch.device("cpu")
PUBLIC = Faces(identities=40, first=1000, per_identity=2)
TARGET = TrainClassifier(
    train=Faces(identities=4, per_identity=20), test=Faces(identities=4, per_identity=5, split="test"),
    width=4, iterations=60, batch=24, lr=0.05,
)  # fmt: skip
# Long enough that images, and what the target says of them, depend on the latent.
PRIOR = TrainStyleGAN2(public=PUBLIC, base=4, most=16, z_dim=8, w_dim=8, layers=2, steps=40, batch=16, gamma=0.1)
SMALL = {
    "prior": PRIOR, "target": TARGET, "classes": (2, 0), "pool": 30, "candidates": 6, "samples": 4, "epochs": 6,
    "frames": 4, "draws": 3, "chunk": 8,
}  # fmt: skip
MEMORY = {"batch": 3, "n_w": 8, "rho": 4, "lr": 0.02, "psi": 0.7}
ATTACKS: dict[str, StyleSearch] = {
    "ppa": PlugAndPlay(**SMALL),
    "mirror": PlugAndPlay(**SMALL, loss="ce", clip=0.1, repeats=2, search="first"),
    "dmmia": DMMIA(**SMALL, **MEMORY, lam3=0.5, fresh=3),
    "dmmia styles": DMMIA(**SMALL, **MEMORY, var="w", loss="poincare", group="mean", mem_key="target", tau=1.0),
}
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())


def changed(attack: StyleSearch, **fields: object) -> StyleSearch:
    return attack.model_copy(update=fields)


# --- steps shared by all ---------------------------------------------------------------------------------------


def test_candidates_are_the_best_of_each_class_and_may_serve_several() -> None:
    scores = torch.tensor([[0.1, 0.9], [0.8, 0.7], [0.3, 0.2]])
    assert best(scores, torch.tensor([1, 0]), 2).tolist() == [[0, 1], [1, 2]]


def test_pool_scores_are_the_mean_of_an_image_and_its_mirror() -> None:
    attack = ATTACKS["ppa"]
    nets = attack.nets(CPU)
    pool = attack.scored(nets, CPU)
    x = nets.g.synthesis(pool.w).clamp(-1, 1)
    plain, mirrored = nets.f(x).softmax(1), nets.f(x.flip(3)).softmax(1)
    torch.testing.assert_close(pool.scores, (plain + mirrored) / 2)
    assert torch.equal(pool.said, plain.argmax(1))
    torch.testing.assert_close(pool.w, truncated(nets.g.mapping(pool.z), nets.g.mapping.w_avg, attack.psi))
    torch.testing.assert_close(changed(attack, flip=False).scored(nets, CPU).scores, plain)
    assert changed(attack, classes=(1,)).scored(nets, CPU).z.equal(pool.z)  # one pool for all classes


def test_last_selection_is_the_mean_over_random_views() -> None:
    attack = ATTACKS["ppa"]
    nets = attack.nets(CPU)
    w = attack.scored(nets, CPU).w[:6].view(2, 3, -1)
    views = Augment(steps=(ResizedCrop(size=32, area=(0.5, 0.9), aspect=(0.8, 1.2)), Flip()), draw="batch")
    x = nets.g.synthesis(w.flatten(0, 1)).clamp(-1, 1)
    labels = torch.tensor([2, 2, 2, 0, 0, 0])
    said = [nets.f(views(x, generator("style selection", 0, i))).softmax(1)[range(6), labels] for i in range(3)]
    torch.testing.assert_close(attack.confidence(nets, w, torch.tensor([2, 0])).flatten(), sum(said) / 3)


def test_generated_images_are_cropped_and_resized_to_the_targets_size() -> None:
    x = torch.arange(64.0).view(1, 1, 8, 8)
    assert torch.equal(shown(x, 4, 4), x[:, :, 2:6, 2:6])
    torch.testing.assert_close(shown(x, None, 4), F.interpolate(x, (4, 4), mode="bilinear", antialias=True))
    assert shown(x, None, 8) is x


def test_drift_is_in_standard_deviations_before_truncation() -> None:
    start = torch.zeros(2, 3, 4)
    assert drift(start + 0.5, start, 2.0, 0.5).item() == pytest.approx(0.5)  # half a unit of psi sigma = 1


def test_cosine_is_the_mean_over_pairs() -> None:
    e = memory.unit(torch.randn(2, 3, 5, generator=generator("e")))
    pairs = [float(e[k, i] @ e[k, j]) for k in range(2) for i in range(3) for j in range(3) if i != j]
    assert cosine(e).item() == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)


def test_rows_go_sample_by_sample_in_each_classs_order() -> None:
    x = torch.tensor([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]]])
    assert sample_major(x, torch.tensor([[2, 0, 1], [1, 2, 0]])).flatten().tolist() == [3, 5, 1, 6, 2, 4]


def test_quantiles_bound_each_coordinate() -> None:
    low, high = quantiles(torch.arange(101.0)[:, None] * torch.tensor([1.0, 2.0]), 0.1)
    assert low.tolist() == [10, 20] and high.tolist() == [90, 180]


# --- what every search returns -----------------------------------------------------------------------------------


@every_attack
def test_reconstructions_frames_and_cost(attack: StyleSearch) -> None:
    result = attack.result("cpu")
    found = result.tensors
    assert found["images"].shape == (12, 3, 32, 32) and found["images"].dtype == torch.uint8
    assert found["labels"].tolist() == [2, 0] * 6
    assert found["frames_latents"].shape == (4, 12, 8) and found["frames_steps"].tolist() == [0, 2, 4, 6]
    assert torch.equal(found["frames_latents"][-1], found["latents"])
    assert torch.equal(style_search.to_images(attack.decoder(CPU), found["latents"], attack.chunk), found["images"])
    assert sorted(found["place"].view(6, 2)[:, 1].tolist()) == list(range(6))
    by_class = found["confidence"].view(6, 2)
    assert (by_class[:-1] >= by_class[1:]).all()  # the best first
    assert result.meta["cost"] == {"generated": 30 + 36 + 6, "shown": 60 + 36 + 24, "gradients": 36}
    assert found["log_drift"].shape == (6,) and (found["log_drift"] > 0).all()
    assert all((a != b).any() for a, b in zip(found["frames_latents"], found["frames_latents"][1:], strict=False))


@every_attack
def test_the_seed_decides_everything(attack: StyleSearch, tmp_path: Path) -> None:
    expected = attack.result("cpu").tensors
    torch.manual_seed(7)
    assert same(tensors(attack, tmp_path / "again"), expected)
    other = tensors(changed(attack, seed=1), tmp_path / "other")
    assert not torch.equal(other["images"], expected["images"])


@every_attack
def test_a_classs_result_depends_on_no_other_class_and_no_chunk(attack: StyleSearch, tmp_path: Path) -> None:
    expected = attack.result("cpu").tensors
    for changes in ({"classes": (0,)}, {"chunk": 100}):
        found = tensors(changed(attack, **changes), tmp_path / str(changes))
        for name in ("latents", "frames_prototypes"):
            if name in expected:
                one, other = (t[name] for t in (expected, found))
                if name == "latents":
                    one, other = (t[name][t["labels"] == 0] for t in (expected, found))
                elif changes == {"classes": (0,)}:
                    one = one[:, 1:]
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@every_attack
def test_an_interrupted_attack_resumes_to_the_same_bits(
    attack: StyleSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = attack.result("cpu").tensors
    found, steps = resumed(attack, tmp_path, monkeypatch, 3)
    assert same(found, expected) and steps[0] == 3


@every_attack
def test_the_target_becomes_surer(attack: StyleSearch) -> None:
    found = attack.result("cpu").tensors
    f, decode = TARGET.network("cpu"), attack.decoder(CPU)
    before, after = (
        f(decode(found["frames_latents"][i])).log_softmax(1).gather(1, found["labels"][:, None]).mean() for i in (0, -1)
    )
    assert after > before


def test_the_poincare_clamp_is_counted_where_it_changes_the_loss() -> None:
    logits = torch.tensor([[3, 1, 0], [0, 0, -2], [1, 1e-7, 0], [1, 1e-5, 0], [1, 1, 1]], dtype=torch.float64)
    u, v = F.normalize(logits, p=1, dim=1), (1 - 1e-4) * torch.eye(3, dtype=torch.float64)[0]
    inside = (1 - u.square().sum(1)) * (1 - v.square().sum())
    free = torch.acosh(1 + 2 * (u - v).square().sum(1) / inside)
    kept = torch.isclose(free, LOSSES["poincare"](logits, torch.zeros(5, dtype=torch.long)), rtol=1e-6)
    assert on_the_sphere(logits).tolist() == (~kept).tolist() == [False, True, True, False, False]


def test_how_often_the_poincare_clamp_acts_is_stored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert ATTACKS["ppa"].result("cpu").tensors["log_clamped"].tolist() == [0] * 6
    assert "log_clamped" not in ATTACKS["mirror"].result("cpu").tensors
    monkeypatch.setattr(plug_and_play, "on_the_sphere", lambda logits: torch.arange(len(logits)) < 2)
    found = tensors(ATTACKS["ppa"], tmp_path)["log_clamped"]  # 12 images, of which 8 are in memory at a time
    assert found.tolist() == pytest.approx([4 / 12] * 6)


# --- PPA against a plain loop ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ppa", "mirror"])
def test_ppa_is_adam_on_each_style_by_itself(name: str) -> None:
    attack: PlugAndPlay = ATTACKS[name]
    nets = attack.nets(CPU)
    pool = attack.scored(nets, CPU)
    found = attack.result("cpu").tensors
    candidate, y = 4, 0
    index = candidate if attack.search == "first" else pool.scores[:, y].topk(6).indices[candidate]
    w = pool.w[index].clone().requires_grad_()
    adam = torch.optim.Adam([w], attack.lr, betas=(0.1, 0.1))
    crop = Augment(steps=(ResizedCrop(size=32, area=(0.9, 1), aspect=(1, 1)),), draw="batch")
    for step in range(6):
        x = crop(nets.g.synthesis(w[None]), generator("style views", 0, step))
        adam.zero_grad()
        LOSSES[attack.loss](nets.f(x), torch.tensor([y])).sum().backward()
        for _ in range(attack.repeats):
            adam.step()
        if attack.clip:
            low, high = pool.w.quantile(0.1, 0), pool.w.quantile(0.9, 0)
            w.data = torch.minimum(torch.maximum(w.data, low), high)
    own = (found["labels"] == y) & (found["place"] == candidate)
    torch.testing.assert_close(found["latents"][own][0], w.detach(), rtol=1e-3, atol=1e-4)


# --- DMMIA against a plain loop --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dmmia", "dmmia styles"])
def test_dmmia_is_the_written_algorithm_for_one_class(name: str) -> None:
    """Specification 2.3, step by step, with autograd for the prototypes too."""
    attack: DMMIA = ATTACKS[name]
    nets = attack.nets(CPU)
    pool = attack.scored(nets, CPU)
    y, g, f = 0, nets.g, nets.f
    z = pool.z[pool.scores[:, y].topk(6).indices]
    styles = pool.w[pool.scores[:, y].topk(6).indices].clone().requires_grad_()
    phi = {n: p.detach().clone().requires_grad_() for n, p in g.mapping.named_parameters()}
    tuned = attack.var == "mapping"
    adam = (
        torch.optim.Adam(phi.values(), attack.lr / 2, betas=(0.0, 0.99))
        if tuned
        else torch.optim.Adam([styles], attack.lr, betas=(0.1, 0.1))
    )
    w = memory.initial_prototypes((8, pool.features.shape[1]), True, generator("dmmia prototypes", 0, y), CPU)
    w.requires_grad_()
    sgd = torch.optim.SGD([w], 0.1, momentum=0.9)
    m = torch.zeros(4, pool.features.shape[1])
    filled = [bool((pool.said == c).any()) for c in range(4)]
    for c in range(4):
        if filled[c]:
            m[c] = memory.unit(pool.features[pool.said == c].mean(0))
    crop = Augment(steps=(ResizedCrop(size=32, area=(0.9, 1), aspect=(1, 1)),), draw="batch")
    step = 0
    for epoch in range(6):
        adam.zero_grad()
        for index in (rows[0] for rows in shuffled(6, 3, 0, (y,), epoch)):
            free = torch.func.functional_call(g.mapping, phi, (z[index],))
            style = truncated(free, g.mapping.w_avg, 0.7) if tuned else styles[index]
            h = f.features(crop(g.synthesis(style), generator("style views", 0, step)))
            e, o = h / h.norm(dim=1, keepdim=True), f.head(h)
            imr = memory.imr_loss(e[None], w[None], 4, attack.tau, attack.group)[0]
            mask = torch.tensor([filled])
            idr = memory.idr_loss(e[None], m[None], mask, torch.tensor([y]), 0.1, attack.group)[0]
            loss = LOSSES[attack.loss](o, torch.full((3,), y)) + imr + idr
            if attack.lam3:
                loss = loss + 0.5 * memory.spread_loss(e[None])[0]
            sgd.zero_grad()
            (loss.mean() if tuned else loss.sum()).backward(retain_graph=True)
            if tuned:
                adam.step(), adam.zero_grad()
            sgd.zero_grad()
            memory.imr_loss(e.detach()[None], w[None], 4, attack.tau, attack.group).mean().backward()
            sgd.step()
            w.data = memory.unit(w.data)
            said = o.argmax(1) if attack.mem_key == "predicted" else torch.full((3,), y)
            for c in said.unique().tolist():
                mean = e.detach()[said == c].mean(0)
                m[c] = memory.unit(0.7 * m[c] + 0.3 * mean) if filled[c] else memory.unit(mean)
                filled[c] = True
            step += 1
        if not tuned:
            adam.step()
    found = attack.result("cpu").tensors
    place = attack.classes.index(y)
    torch.testing.assert_close(found["frames_prototypes"][-1, place], w.detach(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found["memory"][place], m, rtol=1e-3, atol=1e-3)
    final = truncated(torch.func.functional_call(g.mapping, phi, (z,)), g.mapping.w_avg, 0.7) if tuned else styles
    own = found["labels"] == y
    order = found["place"][own]
    torch.testing.assert_close(found["latents"][own], final.detach()[order], rtol=1e-3, atol=2e-4)


def test_copies_of_the_mapping_network_are_the_network_at_first() -> None:
    attack = ATTACKS["dmmia"]
    nets = attack.nets(CPU)
    z = torch.randn(2, 3, 8, generator=generator("z"))
    phi = attack._moving(nets, z)
    torch.testing.assert_close(mapped(nets.g.mapping, phi, z, 0.5).flatten(0, 1), nets.g.mapping(z.flatten(0, 1), 0.5))


def test_both_attacks_start_from_the_same_images() -> None:
    fields = {"psi": 0.7, "draws": 0}
    one, other = (changed(ATTACKS[n], **fields).result("cpu").tensors for n in ("ppa", "dmmia"))
    assert torch.equal(one["frames_latents"][0], other["frames_latents"][0])
    assert torch.equal(one["place"], other["place"])


def test_without_weights_the_memory_changes_nothing() -> None:
    plain = changed(ATTACKS["dmmia"], lam1=0.0, lam2=0.0, lam3=0.0)
    one, other = (changed(plain, n_w=n).result("cpu").tensors for n in (8, 12))
    assert torch.equal(one["images"], other["images"])


def test_styles_without_memory_are_ppa_of_cross_entropy() -> None:
    fields = {"lam1": 0.0, "lam2": 0.0, "var": "w", "loss": "ce", "batch": 6, "fresh": 0, "lam3": 0.0, "psi": 0.5,
              "lr": 0.005}  # fmt: skip
    one = changed(ATTACKS["dmmia"], **fields).result("cpu").tensors
    other = changed(ATTACKS["ppa"], loss="ce").result("cpu").tensors
    torch.testing.assert_close(one["latents"], other["latents"], rtol=1e-4, atol=1e-5)


def test_empty_memory_in_which_all_images_are_of_the_class_gives_no_gradient() -> None:
    base = changed(ATTACKS["dmmia"], mem_init="empty", mem_key="target", lam1=0.0, lam3=0.0)
    one, other = (changed(base, lam2=lam).result("cpu").tensors for lam in (0.0, 1.0))
    assert torch.equal(one["latents"], other["latents"])
    assert not torch.equal(changed(base, mem_init="pool").result("cpu").tensors["latents"], one["latents"])


def test_tuned_networks_make_images_of_new_latents() -> None:
    found = ATTACKS["dmmia"].result("cpu").tensors
    assert found["fresh_images"].shape == (6, 3, 32, 32) and found["fresh_labels"].tolist() == [2, 0] * 3
    assert len(found["fresh_images"].unique(dim=0)) == 6


# --- threat model ----------------------------------------------------------------------------------------------


@every_attack
def test_an_attack_reaches_no_evaluator_and_no_private_image(
    attack: StyleSearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifiers = {stage.key for stage in closure(attack) if isinstance(stage, TrainClassifier)}
    assert classifiers == {TARGET.key} and set(sources(attack)) == {PUBLIC}
    expected = attack.result("cpu").tensors

    def forbidden(self: Source) -> None:
        raise AssertionError(f"the attack opens {self}")

    images_module._load.cache_clear()
    for cls in (Source, Faces):
        monkeypatch.setattr(cls, "load", forbidden)
        monkeypatch.setattr(cls, "open", forbidden)
    assert same(tensors(attack, tmp_path), expected)


# --- what a user can get wrong ---------------------------------------------------------------------------------


def one_line(attack: StyleSearch, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "steps", None)  # nothing long has begun
    with pytest.raises(UserError, match=words) as caught:
        attack.result("cpu")
    assert "\n" not in str(caught.value) and not attack.stored()


@every_attack
def test_a_prior_of_private_identities_is_refused(attack: StyleSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    TARGET.result("cpu")
    private = PRIOR.model_copy(update={"public": Faces(identities=40, first=3, per_identity=2), "steps": 1})
    private.result("cpu")
    fields = {name: getattr(private, name) for name in TrainStyleGAN2.model_fields}
    hidden = ContinuedStyleGAN2(**fields | {"public": PUBLIC, "start": private})
    hidden.result("cpu")
    for prior in (private, hidden):  # also where its first images were private
        one_line(changed(attack, prior=prior), "prior: expected other classes and images", monkeypatch)


def test_another_resolution_and_unknown_classes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    TARGET.result("cpu")
    large = PRIOR.model_copy(update={"public": Faces(identities=40, first=1000, per_identity=2, size=64), "steps": 1})
    large.result("cpu"), PRIOR.result("cpu")
    attack = ATTACKS["ppa"]
    one_line(changed(attack, prior=large), "prior: expected images of 32 px as the target takes, found 64", monkeypatch)
    one_line(changed(attack, classes=(4,)), r"classes: expected ids in 0\.\.3", monkeypatch)


def test_images_of_another_resolution_are_resized_where_that_is_asked_for() -> None:
    large = PRIOR.model_copy(update={"public": Faces(identities=40, first=1000, per_identity=2, size=64), "steps": 1})
    found = changed(ATTACKS["ppa"], prior=large, centre=48, epochs=1, frames=2).result("cpu").tensors
    assert found["images"].shape == (12, 3, 32, 32)


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="samples <= candidates <= pool"):
        changed(ATTACKS["ppa"], pool=5)
    with pytest.raises(UserError, match="rho: expected fewer positive prototypes than n_w=8, found 8"):
        changed(ATTACKS["dmmia"], rho=8)
    with pytest.raises(UserError, match="fresh: new latents need tuned mapping networks"):
        changed(ATTACKS["dmmia styles"], fresh=2)


@every_attack
def test_a_search_that_leaves_the_generators_range_fails(attack: StyleSearch) -> None:
    far = changed(attack, lr=1e4, clip=None) if isinstance(attack, PlugAndPlay) else changed(attack, lr=1e4)
    with pytest.raises(StageFailed, match="NaN or infinite|within 5 standard deviations"):
        far.result("cpu")
    assert not far.stored()


# --- generators from files -------------------------------------------------------------------------------------


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MI_DATA", str(tmp_path))
    return tmp_path


def test_a_generator_from_a_file_attacks_as_the_trained_one(data_folder: Path) -> None:
    (data_folder / "g.safetensors").write_bytes(stylegan2_files.packed(PRIOR.generator("cpu")))
    read = FileStyleGAN2(path=Path("g.safetensors"), size=32, public=PUBLIC)
    one, other = (changed(ATTACKS["ppa"], **f).result("cpu").tensors for f in ({}, {"prior": read}))
    assert torch.equal(one["images"], other["images"])
    z = torch.randn(3, 8, generator=generator("s"))
    assert torch.equal(read.samples(3, generator("s"), "cpu"), to_uint8(PRIOR.generator("cpu")(z)))


def test_a_file_of_another_resolution_or_none_is_one_line(data_folder: Path) -> None:
    (data_folder / "g.safetensors").write_bytes(stylegan2_files.packed(PRIOR.generator("cpu")))
    with pytest.raises(UserError, match="expected a generator of 64 px images, found 32 px"):
        FileStyleGAN2(path=Path("g.safetensors"), size=64).result()
    with pytest.raises(UserError, match="found no file; put it there"):
        FileStyleGAN2(path=Path("h.pkl"), size=64).result()
    (data_folder / "g.safetensors").write_bytes(b"cut short")
    with pytest.raises(UserError):
        FileStyleGAN2(path=Path("g.safetensors"), size=32).result()

"""Training of classifiers and of the shared DCGAN."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from toys import LEARNT_PRIOR, POOL, PRIOR, TARGET, interrupted, same, tensors

from mi_utils.data import Folder, LatinSheet, Noise
from mi_utils.data.augment import Augment, Photometric
from mi_utils.errors import UserError
from mi_utils.models.classifiers import Classifier
from mi_utils.runtime import generator
from mi_utils.stage import Job, Stage, StageFailed
from mi_utils.training.classifier import TrainClassifier

STAGES = {"classifier": TARGET, "dcgan": PRIOR}
every_stage = pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES.keys())


def write_bars(folder: Path, per_class: int) -> Path:
    """Three separable classes of 16 px images: a bright bar on the left, on the right, or none; noise added."""
    rng = generator("bars", per_class)
    for label, name in enumerate(("left", "right", "none")):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = torch.randint(0, 90, (16, 16), generator=rng, dtype=torch.uint8)
            if label < 2:
                pixels[:, 10 * label : 10 * label + 6] += 120
            Image.fromarray(pixels.numpy()).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> TrainClassifier:
    root = tmp_path_factory.mktemp("bars")
    return TrainClassifier(
        train=Folder(path=write_bars(root / "train", 20)),
        test=Folder(path=write_bars(root / "test", 10)),
        width=4,
        iterations=40,
        batch=18,
    )


# ---------------------------------------------------------------- classifier


@pytest.mark.parametrize("architecture", ["cnn", "vggish", "mlp"])
def test_a_separable_set_is_learnt(bars: TrainClassifier, architecture: str) -> None:
    stage = bars.model_copy(update={"architecture": architecture, "width": 16 if architecture == "mlp" else 4})
    facts = stage.facts()
    assert facts["test_accuracy"] == 1.0
    assert (facts["channels"], facts["size"], facts["n_train"], facts["n_test"]) == (1, 16, 60, 30)
    assert facts["classes"] == ["left", "none", "right"] and facts["outputs"] == 3


def test_the_test_accuracy_is_that_of_the_stored_network(bars: TrainClassifier) -> None:
    weak = bars.model_copy(update={"iterations": 4})
    data = weak.test.load()
    said = weak.network("cpu")(data.float()).argmax(1)
    assert weak.facts()["test_accuracy"] == (said == data.labels).double().mean().item() < 1


def test_networks_come_frozen_and_in_eval_mode() -> None:
    nets = [TARGET.network("cpu"), PRIOR.generator("cpu"), PRIOR.discriminator("cpu")]
    for net in nets:
        assert not net.training and not any(p.requires_grad for p in net.parameters())
    x = nets[1](torch.randn(3, 128))
    assert x.shape == (3, 1, 32, 32) and nets[2](x).shape == (3,)
    assert torch.allclose(nets[1](torch.ones(1, 128)), nets[1](torch.ones(2, 128))[:1], atol=1e-6)


def test_the_reject_class_is_one_more_output_and_works(bars: TrainClassifier) -> None:
    stage = bars.model_copy(update={"reject": Noise(count=60, size=16), "iterations": 80, "batch": 36})
    assert stage.facts()["outputs"] == 4 and stage.facts()["classes"] == ["left", "none", "right"]
    net = stage.network("cpu")
    noise = torch.randn(50, 1, 16, 16, generator=generator("noise")).clamp(-1, 1)
    assert (net(noise).argmax(1) == 3).double().mean() > 0.9
    # Of the class "none", shuffled images look like any other: only the bars must still be told.
    assert stage.facts()["test_accuracy"] > 0.65


def test_a_batch_with_rejects_has_a_quarter_of_them_in_equal_parts(bars: TrainClassifier) -> None:
    stage = bars.model_copy(update={"reject": Noise(count=60, size=16), "batch": 36})
    data, white = stage.train.load(), torch.full((5, 1, 16, 16), 255, dtype=torch.uint8)
    x, y = stage._batch(data, white, generator("x"))
    assert x.shape == (48, 1, 16, 16) and (y[:36] < 3).all() and (y[36:] == 3).all()
    assert (x[36:40] == 1).all(), "the other images"
    sums = x[40:44].flatten(1).sort(1).values
    assert torch.equal(sums, x[:4].flatten(1).sort(1).values), "shuffled images keep their pixels"
    assert not torch.equal(x[40:44], x[:4]) and x[44:].abs().max() <= 1


def test_other_images_of_the_reject_class_are_augmented_like_the_rest(bars: TrainClassifier) -> None:
    grey = Augment(steps=(Photometric(contrast=(0.0, 0.0), brightness=0.0),))  # every image becomes its own mean
    stage = bars.model_copy(update={"reject": Noise(count=60, size=16), "batch": 36, "augmentation": grey})
    halves = torch.zeros((5, 1, 16, 16), dtype=torch.uint8)
    halves[..., :8] = 255
    x, _ = stage._batch(stage.train.load(), halves, generator("x"))
    assert x[:40].std((1, 2, 3)).max() < 1e-6, "an image that is not augmented would give itself away"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"test": LatinSheet(symbols="digits", size=16)}, "^test: expected 3 classes of .*as in train, found 10"),
        ({"architecture": "resnet"}, "TrainClassifier.architecture: .*'resnet18'"),
        ({"batch": 1}, "TrainClassifier.batch: .* greater than or equal to 2"),
    ],
)
def test_wrong_recipes_are_one_line(bars: TrainClassifier, change: dict, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        bars.model_copy(update=change).result("cpu")
    assert "\n" not in str(caught.value)


def test_a_class_with_too_few_images_is_named(tmp_path: Path) -> None:
    few = TrainClassifier(train=Folder(path=write_bars(tmp_path / "a", 1)), test=Folder(path=tmp_path / "a"))
    with pytest.raises(UserError, match="expected at least 2 images per class, found: 'left' has 1"):
        few.result("cpu")


# ---------------------------------------------------------------- both


@every_stage
def test_the_seed_decides_everything(stage: Stage, tmp_path: Path) -> None:
    expected = stage.result("cpu").tensors
    torch.manual_seed(11)  # the default stream stands elsewhere
    assert same(tensors(stage, tmp_path / "again"), expected)
    other = tensors(stage.model_copy(update={"seed": 1}), tmp_path / "other")
    assert all(
        not torch.equal(values, other[name])
        for name, values in expected.items()
        if name.endswith("weight") or name.startswith("log_")
    )


@every_stage
def test_an_interrupted_training_resumes_to_the_same_bits(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = stage.result("cpu").tensors
    monkeypatch.setattr(type(stage), "checkpoint_seconds", 0.0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Job, "steps", interrupted(3, Job.steps))
        tensors(stage, tmp_path)
    assert list(tmp_path.glob("checkpoint*")) and same(tensors(stage, tmp_path), expected)


@every_stage
def test_a_diverged_training_is_not_stored(stage: Stage) -> None:
    broken = stage.model_copy(update={"lr": 1e30})
    with pytest.raises(StageFailed, match="loss.* NaN or infinite"):
        broken.result("cpu")
    assert not broken.stored()


# ---------------------------------------------------------------- auxiliary pool


def test_the_pool_holds_draws_of_the_transformed_source() -> None:
    plain = POOL.model_copy(update={"transform": POOL.transform.model_copy(update={"steps": ()})})
    drawn, source = plain.images("cpu"), plain.source.load().images
    assert drawn.shape == (64, 1, 48, 48) and drawn.dtype == torch.uint8
    apart = (drawn[:, None].int() - source[None].int()).abs().flatten(2).amax(2)
    chosen = apart.argmin(1)
    assert (apart.min(1).values == 0).all() and 20 < len(chosen.unique()) <= 40
    assert not torch.equal(plain.model_copy(update={"seed": 1}).images("cpu"), drawn)


def test_a_native_pool_is_seen_through_the_targets_resampling() -> None:
    plain = POOL.model_copy(update={"transform": POOL.transform.model_copy(update={"steps": ()})})
    sharp, found = (p.images("cpu").float() for p in (plain, plain.model_copy(update={"native": 16})))
    blocks = sharp.view(64, 1, 16, 3, 16, 3).mean((3, 5))
    expected = F.interpolate(blocks, size=(48, 48), mode="bilinear")
    assert (found - expected).abs().max() <= 0.51


# ---------------------------------------------------------------- DCGAN


def test_the_dcgan_learns_what_its_images_look_like() -> None:
    """Mid-grey and all the same at first; the auxiliary images are strokes on black."""
    z = torch.randn(64, 128, generator=generator("z"))
    first, x = (stage.generator("cpu")(z) for stage in (PRIOR, LEARNT_PRIOR))
    auxiliary = POOL.images("cpu").float() / 127.5 - 1
    assert first.std() < 0.1 * auxiliary.std() and first.mean() > auxiliary.mean() + 0.3
    assert x.std() > 0.4 * auxiliary.std() and x.mean() < auxiliary.mean() + 0.25
    assert x.std(0).mean() > 0.2, "one image for every latent"
    curves = LEARNT_PRIOR.result("cpu").tensors
    assert curves["log_loss_d"].shape == curves["log_loss_g"].shape == (150,)


def test_the_generators_step_leaves_the_discriminator_alone() -> None:
    d, g = PRIOR.discriminator("cpu").requires_grad_(True), PRIOR.generator("cpu").requires_grad_(True)
    before = [p.clone() for p in d.parameters()]
    adam = torch.optim.Adam(g.parameters(), 1e-2)
    x = g(torch.randn(4, 128, generator=generator("z")))
    first = PRIOR._train_generator(d, adam, x)
    assert all(torch.equal(p, q) for p, q in zip(before, d.parameters(), strict=True))
    assert all(p.grad is None and p.requires_grad for p in d.parameters())
    again = g(torch.randn(4, 128, generator=generator("z")))
    assert PRIOR._train_generator(d, adam, again) < first


def test_a_classifier_exposes_its_penultimate_activations() -> None:
    net: Classifier = TARGET.network("cpu")
    x = torch.zeros(2, 1, 32, 32)
    assert net.features(x).shape == (2, 16) and torch.equal(net.head(net.features(x)), net(x))

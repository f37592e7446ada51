"""Training of targets (attacked) and evaluators (judging), by one recipe."""

from collections.abc import Callable, Iterable
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from mi_utils.data import AnySource
from mi_utils.data.augment import Augment
from mi_utils.data.images import ImageSet, require_per_class, shuffled_patches, to_float
from mi_utils.errors import UserError
from mi_utils.models.classifiers import Architecture, Classifier, build_classifier
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Output
from mi_utils.training.shipped import Shippable

Batch = tuple[Float[Tensor, "n c s s"], Int[Tensor, " n"]]


def fit(
    net: nn.Module,
    draw: Callable[[], Batch],
    rng: torch.Generator,
    steps: Callable[[int, dict[str, object]], Iterable[int]],
    *,
    iterations: int,
    lr: float,
    weight_decay: float,
    loss: Callable[[Tensor, Tensor], Float[Tensor, ""]] = F.cross_entropy,
) -> Float[Tensor, " t"]:
    """The recipe of every classifier: SGD with Nesterov momentum .9 on cross-entropy, one-cycle rate up to `lr`.

    `draw` makes a batch out of `rng`, `loss` takes the outputs and what came with the images; `steps(iterations,
    state)` gives the step numbers and may keep the state in a checkpoint, as `Job.steps` does.  `net` (channels
    last) is changed in place; returns the losses.
    """
    optimiser = torch.optim.SGD(net.parameters(), lr / 25, momentum=0.9, weight_decay=weight_decay, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=iterations)
    losses: list[Tensor] = []
    state = {"net": net, "optimiser": optimiser, "schedule": schedule, "rng": rng, "losses": losses}
    for _ in steps(iterations, state):
        x, y = draw()
        value = loss(net(x.contiguous(memory_format=torch.channels_last)), y)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        losses.append(value.detach())
    return torch.stack(losses)


class TrainClassifier(Shippable):
    """Cross-entropy, SGD with Nesterov momentum .9, one-cycle learning rate; the last step's weights.

    Deviation: the released recipe drops the rate at 50/75/90 % of 20-80 epochs and keeps the epoch with the
    best *test* accuracy; here nothing is selected, so the test accuracy is that of an untouched test set.

    `reject` adds class K, "none of these": to every batch a third as many images more, in equal parts other
    images (`reject`), patch-shuffled training images and Gaussian noise.
    """

    train: AnySource
    test: AnySource
    architecture: Architecture = "cnn"
    width: Annotated[int, Field(ge=1)] = 24
    augmentation: Augment = Augment()
    reject: AnySource | None = None
    iterations: Annotated[int, Field(ge=1)] = 400
    batch: Annotated[int, Field(ge=2)] = 128
    lr: Annotated[float, Field(gt=0)] = 0.1
    weight_decay: float = 5e-4
    seed: int = 0

    def learn(self, job: Job) -> Output:
        """Train, then measure on the test set once."""
        data = self.train.load().to(job.device)
        require_per_class(data, 2, self.train.classes)
        rng = seeded("classifier", self.architecture, self.seed, device=job.device)
        channels, size = data.images.shape[1:3]
        net = self.built(channels, size, len(data.classes) + (self.reject is not None))
        net = net.to(job.device, memory_format=torch.channels_last)
        curve = self.fitted(net, data, rng, job)
        job.check_finite("classifier loss", curve)
        tensors = {name: value.contiguous() for name, value in net.state_dict().items()}
        return Output(tensors | {"log_loss": curve}, self._facts(net, data, job.device))

    def built(self, channels: int, size: int, outputs: int) -> Classifier:
        """The network with fresh weights, for images of `size` px."""
        rng = seeded("classifier weights", self.architecture, self.seed)
        return build_classifier(
            self.architecture, width=self.width, channels=channels, size=size, classes=outputs, generator=rng
        )

    def fitted(self, net: Classifier, data: ImageSet, rng: torch.Generator, job: Job) -> Float[Tensor, " t"]:
        """Trains the network in place; returns the losses."""
        others = self.others(job.device)
        return fit(
            net, lambda: self._batch(data, others, rng), rng, job.steps,
            iterations=self.iterations, lr=self.lr, weight_decay=self.weight_decay,
        )  # fmt: skip

    def others(self, device: torch.device) -> Tensor | None:
        """Images that are of no class, where the network learns to refuse."""
        return self.reject.load().images.to(device) if self.reject else None

    def _batch(self, data: ImageSet, others: Tensor | None, rng: torch.Generator) -> Batch:
        """Augmented training images, and the three kinds of "none of these" where there is a reject class."""
        device = data.images.device
        index = torch.randint(len(data), (self.batch,), generator=rng, device=device)
        images, y = data.images[index], data.labels[index]
        if others is None:
            return self.augmentation(to_float(images), rng), y
        n = self.batch // 9
        chosen = torch.randint(len(others), (n,), generator=rng, device=device)
        # Others are augmented too: were they not, an image without augmentation would be taken for one of them.
        x = self.augmentation(to_float(torch.cat([images, others[chosen]])), rng)
        x, other = x.split([self.batch, n])
        noise = torch.randn((n, *x.shape[1:]), generator=rng, device=device).clamp(-1, 1)
        shuffled = shuffled_patches(x[:n], x.shape[2] // 4, rng)
        none = torch.full((3 * n,), len(data.classes), device=device)
        return torch.cat([x, other, shuffled, noise]), torch.cat([y, none])

    @torch.no_grad()
    def _facts(self, net: Classifier, data: ImageSet, device: torch.device) -> dict:
        """Everything that is needed to rebuild the network, and its test accuracy."""
        test = self.test.load().to(device)
        if test.classes != data.classes or test.images.shape[1:] != data.images.shape[1:]:
            raise UserError(
                f"test: expected {len(data.classes)} classes of {tuple(data.images.shape[1:])} images as in "
                f"train, found {len(test.classes)} of {tuple(test.images.shape[1:])}; give matching sources"
            )
        net.eval()
        said = torch.cat([net(to_float(part)).argmax(1) for part in test.images.split(512)])
        return {
            "channels": data.images.shape[1],
            "size": data.images.shape[2],
            "outputs": net.head.out_features,
            "classes": list(data.classes),
            "n_train": len(data),
            "n_test": len(test),
            "test_accuracy": (said == test.labels).double().mean().item(),
        }

    def facts(self) -> dict:
        """Image shape, class names and test accuracy, read from the store."""
        return self.result().meta

    def network(self, device: torch.device | str) -> Classifier:
        """The trained classifier, frozen and in eval mode."""
        stored = self.result(device)
        net = self.built(*(stored.meta[name] for name in ("channels", "size", "outputs")))
        net.load_state_dict({k: v for k, v in stored.tensors.items() if not k.startswith("log_")})
        return net.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)

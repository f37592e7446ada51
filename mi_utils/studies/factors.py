"""Which attributes of a private identity a reconstruction shows: the true factors, read back by a regressor.

Only procedural identities have known factors.  The regressor learns from identities that are neither private nor
public, and no attack sees it.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from pydantic import Field, SerializeAsAny
from torch import Tensor

from mi_utils.data.faces import FACTORS, Faces, chance, identities
from mi_utils.data.images import to_float
from mi_utils.models.classifiers import Classifier, build_classifier
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Output, Stage
from mi_utils.training.classifier import fit
from mi_utils.training.shipped import Shippable

Factors = dict[str, Tensor]  # name -> (n,): float of a continuous factor, kind of a categorical one
Row = tuple[str, str, float, int]  # factor, whose images, score, number of images
OUTPUTS = {name: len(factor.kinds) or 1 for name, factor in FACTORS.items()}


def split_outputs(outputs: Float[Tensor, "n d"]) -> Factors:
    """The net's outputs by factor: logits (n, kinds) of a categorical one, the value (n,) of a continuous one."""
    parts = outputs.split(list(OUTPUTS.values()), 1)
    return {name: part if FACTORS[name].kinds else part.squeeze(1) for name, part in zip(OUTPUTS, parts, strict=True)}


def regression_loss(outputs: Float[Tensor, "n d"], true: Factors) -> Float[Tensor, " n"]:
    """Cross-entropy of every categorical factor plus twelve times the squared error of every continuous one.

    Twelve: the variance of U(0, 1) is a twelfth, so a guess of the mean costs 1.
    """
    losses = [
        F.cross_entropy(said, true[name], reduction="none")
        if FACTORS[name].kinds
        else 12 * (said - true[name]).square()
        for name, said in split_outputs(outputs).items()
    ]
    return torch.stack(losses).sum(0)


class FactorRegressor(Shippable):
    """Reads the factors of a face from its image; trained on people of its own."""

    train: Faces
    width: Annotated[int, Field(ge=1)] = 24
    iterations: Annotated[int, Field(ge=2)] = 6000
    batch: Annotated[int, Field(ge=2)] = 64
    lr: Annotated[float, Field(gt=0)] = 0.05
    seed: int = 0

    def learn(self, job: Job) -> Output:
        """The recipe of every classifier, with the loss of `regression_loss`."""
        data = self.train.load().to(job.device)
        true = {k: v.to(job.device) for k, v in self.train.drawn(torch.arange(len(data)))[0].items()}
        rng = seeded("factor regressor", self.seed, device=job.device)
        net = self._blank(data.images.shape[2]).to(job.device, memory_format=torch.channels_last)

        def draw() -> tuple[Tensor, Tensor]:
            index = torch.randint(len(data), (self.batch,), generator=rng, device=job.device)
            return to_float(data.images[index]), index

        def loss(outputs: Tensor, index: Tensor) -> Tensor:
            return regression_loss(outputs, {name: values[index] for name, values in true.items()}).mean()

        curve = fit(
            net, draw, rng, job.steps, iterations=self.iterations, lr=self.lr, weight_decay=5e-4, loss=loss
        )  # fmt: skip
        job.check_finite("factor regressor loss", curve)
        tensors = {name: value.contiguous() for name, value in net.state_dict().items()}
        return Output(tensors | {"log_loss": curve})

    def _blank(self, size: int) -> Classifier:
        return build_classifier(
            "cnn",
            width=self.width,
            channels=3,
            size=size,
            classes=sum(OUTPUTS.values()),
            generator=seeded("factor regressor weights", self.seed),
        )

    def network(self, device: torch.device | str) -> Classifier:
        """The trained net, frozen and in eval mode."""
        net = self._blank(self.train.size)
        stored = self.result(device).tensors
        net.load_state_dict({k: v for k, v in stored.items() if not k.startswith("log_")})
        return net.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)

    @torch.no_grad()
    def outputs(self, images: UInt8[Tensor, "n 3 s s"]) -> Factors:
        """What it makes of uint8 images: logits (n, kinds) and values (n,)."""
        net = self.network(images.device)
        return split_outputs(torch.cat([net(to_float(part)) for part in images.split(512)]))

    def read(self, images: UInt8[Tensor, "n 3 s s"]) -> Factors:
        """What it reads from uint8 images: kinds (n,) and values (n,)."""
        return {name: x.argmax(1) if FACTORS[name].kinds else x for name, x in self.outputs(images).items()}


def agreement(said: Factors, true: Factors, guess: dict[str, float | int]) -> dict[str, float]:
    r"""Per factor: accuracy, or $1-\mathrm{MSE}/\mathrm{MSE}_{guess}$ of a continuous one (0: no better than `guess`).

    `guess`: what the public prior alone says (`chance`).
    """
    found = {}
    for name, values in said.items():
        if FACTORS[name].kinds:
            found[name] = (values == true[name]).double().mean().item()
        else:
            error, base = ((x - true[name].double()).square().mean() for x in (values.double(), guess[name]))
            found[name] = (1 - error / base).item()
    return found


class FactorLeak(Stage):
    """Factor recovery of one attack's reconstructions: `meta["rows"]` = (factor, whose images, score, n).

    Whose: "reconstruction"; "private test images" = what the regressor reads from real ones; "other identity" = the
    reconstructions against the factors of the next private identity, which is what looking like *some* face gives;
    "public prior" = the guess without an image.
    """

    attack: SerializeAsAny[Stage]
    regressor: FactorRegressor
    private: Faces  # test images of the attacked identities

    def compute(self, job: Job) -> Output:
        """Read, compare."""
        found, real = self.attack.result(job.device).tensors, self.private.load()
        images, labels = found["images"], found["labels"]
        guess = chance(self.private.factors)
        said = self._said(images, job.device)
        mine, others = self._true(labels), self._true((labels + 1) % self.private.identities)
        private = self._said(real.images, job.device)
        constant = {name: torch.full((len(labels),), value) for name, value in guess.items()}
        scores = {
            "reconstruction": agreement(said, mine, guess),
            "private test images": agreement(private, self._true(real.labels), guess),
            "other identity": agreement(said, others, guess),
            "public prior": agreement(constant, mine, guess),
        }
        sizes = {"private test images": len(real)}
        rows = [(f, who, v, sizes.get(who, len(labels))) for who, each in scores.items() for f, v in each.items()]
        return Output(meta={"rows": rows})

    def _said(self, images: Tensor, device: torch.device) -> Factors:
        return {name: values.cpu() for name, values in self.regressor.read(images.to(device)).items()}

    def _true(self, labels: Int[Tensor, " n"]) -> Factors:
        return identities(labels.cpu() + self.private.first, self.private.factors, self.private.seed)

"""Students: classifiers that imitate a target on public images, for model augmentation (Re-thinking MI).

Only the target's answers on public images enter a student; `public_images` refuses private ones.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor

from mi_utils.data import AnySource, splits
from mi_utils.data.augment import Augment
from mi_utils.data.images import to_float
from mi_utils.models.classifiers import Architecture, Classifier, build_classifier
from mi_utils.runtime import generator as seeded
from mi_utils.stage import Job, Output, Stage
from mi_utils.training.classifier import TrainClassifier
from mi_utils.training.public import public_images, require_images

HELD_OUT = 10  # every tenth public image, in a shuffled order, is kept to measure the agreement on


def soft_labels(logits: Float[Tensor, "n k"], temperature: float) -> Float[Tensor, "n k"]:
    r"""$\mathrm{softmax}(\ell_0/\tau)$: what the student is to answer."""
    return F.softmax(logits / temperature, 1)


def distillation_loss(
    logits: Float[Tensor, "n k"], answers: Float[Tensor, "n k"], temperature: float
) -> Float[Tensor, " n"]:
    r"""$\mathrm{KL}(p\,\|\,\mathrm{softmax}(\ell_s/\tau))$ of each image, $p$ its `answers`.  Source: spec 2.4.

    Deviation: not divided by $\tau^2$ as the released code does; the paper has $\tau=1$ throughout.
    """
    return F.kl_div(F.log_softmax(logits / temperature, 1), answers, reduction="none").sum(1)


class TrainStudent(Stage):
    """A student of `teacher`: distillation on public images, SGD with momentum at a constant rate.

    `labels="random"` is the control that knows nothing of the teacher: the answers are one class per public image,
    drawn once by `seed`.

    Source: specification, 2.4 (EfficientNet b0-b2, 19 epochs of 30,000 images).  Deviations: weights start at random
    (ImageNet's are not at hand offline); batches are drawn with replacement; a tenth of the public images is held out.
    """

    teacher: TrainClassifier
    public: AnySource
    labels: Literal["teacher", "random"] = "teacher"
    architecture: Architecture = "cnn"
    width: Annotated[int, Field(ge=1)] = 16
    iterations: Annotated[int, Field(ge=1)] = 8892
    batch: Annotated[int, Field(ge=2)] = 64
    lr: Annotated[float, Field(gt=0)] = 0.02
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    temperature: Annotated[float, Field(gt=0)] = 1.0
    augmentation: Augment = Augment()
    seed: int = 0

    def compute(self, job: Job) -> Output:
        """Imitate the teacher, then measure the agreement once, on images that no step saw."""
        images = public_images(self.teacher, self.public, job.device)
        require_images(images, 2 * HELD_OUT)
        order = splits.shuffled(len(images), "students' held-out images").to(job.device)
        held_out, train = images[order[::HELD_OUT]], images[order[torch.arange(len(order)) % HELD_OUT != 0]]
        teacher, facts = self.teacher.network(job.device), self._shape(self.teacher.facts())
        net = self._blank(facts).to(job.device, memory_format=torch.channels_last)
        curve = self._imitate(job, net, teacher, train)
        job.check_finite("student loss", curve)
        measured = self._agreement(net.eval(), teacher, held_out) | {"n_train": len(train), "n_test": len(held_out)}
        tensors = {name: value.contiguous() for name, value in net.state_dict().items()}
        return Output(tensors | {"log_loss": curve}, facts | measured)

    def _imitate(
        self, job: Job, net: Classifier, teacher: Classifier, images: UInt8[Tensor, "n c s s"]
    ) -> Float[Tensor, " t"]:
        """Train `net` in place on the teacher's answers; returns the losses."""
        rng = seeded("student", self.architecture, self.seed, device=job.device)
        fixed = self._fixed_answers(teacher, images)
        optimiser = torch.optim.SGD(net.parameters(), self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        losses: list[Tensor] = []
        for _ in job.steps(self.iterations, {"net": net, "optimiser": optimiser, "rng": rng, "losses": losses}):
            index = torch.randint(len(images), (self.batch,), generator=rng, device=job.device)
            x = self.augmentation(to_float(images[index]), rng).contiguous(memory_format=torch.channels_last)
            answers = self._answers(teacher, x) if fixed is None else fixed[index]
            loss = distillation_loss(net(x), answers, self.temperature).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())
        return torch.stack(losses)

    @torch.no_grad()
    def _answers(self, teacher: Classifier, x: Float[Tensor, "n c s s"]) -> Float[Tensor, "n k"]:
        """The teacher's soft labels."""
        return soft_labels(teacher(x), self.temperature)

    def _fixed_answers(self, teacher: Classifier, images: UInt8[Tensor, "n c s s"]) -> Float[Tensor, "n k"] | None:
        """Answers that no step changes, (N, K): random classes, or a teacher that sees unaugmented images; else None.

        The teacher is the larger net: asking it once an image instead of once a step is most of the time saved.
        """
        if self.labels == "random":
            rng = seeded("student's random labels", self.seed)
            classes = torch.randint(teacher.head.out_features, (len(images),), generator=rng)
            return F.one_hot(classes, teacher.head.out_features).float().to(images.device)
        if self.augmentation.steps:
            return None
        return torch.cat([self._answers(teacher, to_float(part)) for part in images.split(512)])

    @torch.no_grad()
    def _agreement(
        self, student: Classifier, teacher: Classifier, images: UInt8[Tensor, "n c s s"]
    ) -> dict[str, float]:
        """Share of images that both nets call the same, what the best constant answer would share, and the mean KL."""
        parts = [to_float(part) for part in images.split(512)]
        asked, said = (torch.cat([net(x) for x in parts]) for net in (teacher, student))
        named = asked.argmax(1)
        divergence = distillation_loss(said, soft_labels(asked, self.temperature), self.temperature)
        return {
            "agreement": (said.argmax(1) == named).double().mean().item(),
            "constant_agreement": named.bincount().max().item() / len(named),
            "divergence": divergence.double().mean().item(),
        }

    def _shape(self, teacher: dict) -> dict:
        """What is needed to rebuild the network: the student answers as the teacher does."""
        return {name: teacher[name] for name in ("channels", "size", "outputs", "classes")}

    def _blank(self, facts: dict) -> Classifier:
        """A student that has learnt nothing yet."""
        return build_classifier(
            self.architecture,
            width=self.width,
            channels=facts["channels"],
            size=facts["size"],
            classes=facts["outputs"],
            generator=seeded("student weights", self.architecture, self.seed),
        )

    def facts(self) -> dict:
        """Image shape, class names and agreement with the teacher, read from the store."""
        return self.result().meta

    def network(self, device: torch.device | str) -> Classifier:
        """The trained student, frozen and in eval mode."""
        stored = self.result(device)
        net = self._blank(stored.meta)
        net.load_state_dict({k: v for k, v in stored.tensors.items() if not k.startswith("log_")})
        return net.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)

"""Classifiers that the user brings: an architecture of torchvision or timm by name, and a file of weights.

Nothing is downloaded and nothing in a file is executed.  An exported program (torch.export, .pt2) is not taken:
`torch.export.load` unpickles its sample inputs and constants without restriction, so that reading one can run code.
"""

import functools
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, FiniteFloat, ValidationInfo, field_validator
from torch import Tensor, nn
from torchvision import models

from mi_utils import bombs, plain_yaml
from mi_utils.data.images import LUMA, files_digest
from mi_utils.errors import UserError, understood
from mi_utils.models import weights
from mi_utils.stage import Config

TIMM = "timm/"
EXAMPLE = "{arch: resnet18, weights: ..., classes: ..., size: ...}"


def fitted(x: Float[Tensor, "n c h w"], channels: int, size: int) -> Float[Tensor, "n c2 s s"]:
    """Images in the colour and size that a network reads: grey is repeated, colour becomes luma (ITU-R BT.601)."""
    if x.shape[1] != channels:
        x = (x * x.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True) if channels == 1 else x.expand(-1, 3, -1, -1)
    if x.shape[2:] != (size, size):
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return x


class External(nn.Module):
    """A foreign network behind the project's conventions: images (n,c,h,w) in [-1,1] of any size to logits (n,k).

    Colour and size become the network's, then `mean` and `std` are applied on the [0,1] scale, where it has them.
    """

    def __init__(self, network: nn.Module, recipe: "ExternalClassifier") -> None:
        super().__init__()
        self.network, self.channels, self.size = network, recipe.channels, recipe.size
        # x in [-1,1] is (x + 1) / 2 in [0,1]; with neither given the network takes x as it is.
        mean, std = torch.tensor(recipe.mean or (0.5,)), torch.tensor(recipe.std or (0.5,))
        self.register_buffer("shift", (2 * mean - 1)[:, None, None])
        self.register_buffer("scale", (2 * std)[:, None, None])
        self.arch, self.outputs = recipe.arch, recipe.outputs

    def prepared(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 s s"]:
        """What the network sees."""
        return (fitted(x, self.channels, self.size) - self.shift) / self.scale

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        return self.network(self.prepared(x))

    def features(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """What the last linear layer that makes logits reads; UserError for a network that ends in another layer."""
        heads = [m for m in self.network.modules() if isinstance(m, nn.Linear) and m.out_features == self.outputs]
        seen: list[Tensor] = []
        hooks = [head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for head in heads]
        try:
            self(x)
        finally:
            for hook in hooks:
                hook.remove()
        rows = [inputs for inputs in seen if inputs.ndim == 2]  # an auxiliary head may read every patch
        if not rows:
            raise UserError(f"{self.arch}: expected a linear last layer for features, found none; use another network")
        return rows[-1]


class ExternalClassifier(Config):
    """The recipe of a classifier that was trained elsewhere.

    `arch`: torchvision's name, or timm/<name>.  `weights`: .safetensors, or .pt/.pth that holds a state_dict.
    `channels` and `size` (px a side) are what the network reads; `mean` and `std`, one number per channel, are
    applied on [0,1] images, without them the network takes [-1,1].  `reject`: it has one output more than `classes`,
    the last, that means "none of these".
    """

    arch: str
    weights: Path
    classes: Annotated[int, Field(ge=2)]
    size: Annotated[int, Field(ge=4, le=1024)]
    channels: Literal[1, 3] = 3
    mean: tuple[FiniteFloat, ...] | None = None
    std: Annotated[tuple[Annotated[FiniteFloat, Field(gt=0)], ...] | None, Field(validate_default=True)] = None
    reject: bool = False

    @field_validator("arch")
    @classmethod
    def _known(cls, arch: str) -> str:
        check_arch(arch)
        return arch

    @field_validator("mean", "std")
    @classmethod
    def _per_channel(cls, value: tuple[float, ...] | None, info: ValidationInfo) -> tuple[float, ...] | None:
        channels = info.data.get("channels")
        if value is not None and channels and len(value) != channels:
            raise ValueError(f"expected {channels} numbers, one per channel")
        if info.field_name == "std" and (value is None) != (info.data.get("mean") is None):
            raise ValueError("expected mean and std together, or neither")
        return value

    @property
    def outputs(self) -> int:
        """Number of logits."""
        return self.classes + self.reject

    def fingerprint(self) -> str:
        """Digest of the weights: where they lie does not matter."""
        if not self.weights.is_file():
            raise UserError(f"weights: expected a file, found none at {self.weights}; check the path")
        return files_digest([self.weights], self.weights.parent)

    def load(self, device: str | torch.device = "cpu") -> External:
        """The classifier, frozen, in eval mode; UserError where the file, the architecture or the size is wrong."""
        bombs.check_weights(self.weights)
        tensors = weights.read(self.weights)
        auxiliary = any(key.lower().startswith("aux") for key in tensors)
        network = build(self.arch, self.outputs, self.channels, self.size, auxiliary)
        self._check_classes(network.state_dict(), tensors)
        with understood(self.weights, "weights of numbers"):
            weights.put(tensors, network, self.weights, self.arch)
        external = External(network, self).eval().requires_grad_(False)
        self._try(external)
        return external.to(device)

    def _check_classes(self, own: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
        """UserError where all that differs is the number of outputs."""
        wrong = [key for key in own if key in tensors and tensors[key].shape != own[key].shape]
        heads = [key for key in wrong if tensors[key].ndim and tensors[key].shape[1:] == own[key].shape[1:]]
        found = {len(tensors[key]) for key in heads}
        if wrong and heads == wrong and len(found) == 1 and {len(own[key]) for key in wrong} == {self.outputs}:
            asked = f"{self.classes} classes" + (" and the reject output" if self.reject else "")
            raise UserError(
                f"{self.weights}: expected {self.outputs} outputs ({asked}), found {found.pop()} ({wrong[0]!r}); "
                "mend `classes` or `reject`"
            )

    def _try(self, external: External) -> None:
        """One image through the network, before anything long: UserError where it cannot read this size."""
        try:
            with torch.no_grad():
                found = external(torch.zeros(1, self.channels, self.size, self.size))
        except (RuntimeError, ValueError, AssertionError, IndexError) as problem:
            raise UserError(
                f"size: {self.arch} cannot read {self.size} px images ({_line(problem)}); give the size of its training"
            ) from None
        if not isinstance(found, Tensor) or found.shape != (1, self.outputs):
            said = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise UserError(f"arch: expected {self.arch} to give (1, {self.outputs}) logits, found {said}; use another")


def _line(problem: Exception) -> str:
    """First line of what a library says."""
    return (str(problem).splitlines() or [type(problem).__name__])[0]


@functools.cache
def _torchvision() -> tuple[str, ...]:
    """Names of torchvision's image classifiers."""
    return tuple(models.list_models(module=models))


@functools.cache
def _timm() -> tuple[str, ...]:
    """Names of timm's networks, with the prefix they have here.  Importing timm takes a second."""
    import timm

    return tuple(TIMM + name for name in timm.list_models())


def check_arch(arch: str) -> None:
    """ValueError, with the nearest names, unless torchvision or timm has the architecture."""
    if arch in _torchvision() or (arch.startswith(TIMM) and arch in _timm()):
        return
    known = (*_torchvision(), *_timm())
    close = [TIMM + arch] if TIMM + arch in known else get_close_matches(arch, known, 3, 0.6)
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    raise ValueError(f"expected a name of torchvision.models, or timm/<a name of timm.list_models()>{hint}")


def build(arch: str, outputs: int, channels: int, size: int, auxiliary: bool) -> nn.Module:
    """The architecture with weights that mean nothing yet; the caller's random stream is left alone.

    `auxiliary`: GoogLeNet and Inception have their auxiliary heads, which weights are saved with or without.
    """
    with torch.random.fork_rng(devices=[]):
        if arch.startswith(TIMM):
            return _build_timm(arch.removeprefix(TIMM), outputs, channels, size)
        options: dict[str, bool | int] = {}
        if arch in ("googlenet", "inception_v3"):
            options = {"init_weights": False, "aux_logits": auxiliary}
        elif arch.startswith("vit_"):
            options = {"image_size": size}
        network = models.get_model(arch, weights=None, num_classes=outputs, **options)
        return network if channels == 3 else _grey(network)


def _build_timm(name: str, outputs: int, channels: int, size: int) -> nn.Module:
    """timm's network; those made for one size are made for this one."""
    import timm

    fixed = getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False)
    options = {"img_size": size} if fixed else {}
    return timm.create_model(name, pretrained=False, num_classes=outputs, in_chans=channels, **options)


def _grey(network: nn.Module) -> nn.Module:
    """The network with a first convolution that reads one channel."""
    name, old = next((name, m) for name, m in network.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(1, old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None)
    network.set_submodule(name, new)
    return network


def parse(text: str) -> ExternalClassifier:
    """A recipe from a YAML mapping, "{arch: resnet18, ...}", or from the .yaml file that holds one."""
    where, source = "classifier", text
    if not text.lstrip().startswith("{"):
        where, path = text, Path(text)
        if path.suffix not in (".yaml", ".yml") or not path.is_file():
            raise UserError(
                f"classifier: expected a mapping {EXAMPLE} or a .yaml file that exists, found {plain_yaml.shown(text)}"
            )
        source = plain_yaml.read(path, "classifier")
    return ExternalClassifier(**plain_yaml.mapping(source, where, EXAMPLE))

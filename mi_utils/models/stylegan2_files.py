"""StyleGAN2 weights from files: the official `.pkl`, rosinality-style `.pt`, and `.safetensors` of our own.

Official pickles carry source code that the stock loader runs.  Here nothing of a file is executed: the unpickler
admits tensors and containers, turns the official modules into inert records, and refuses every other name.
"""

import io
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from mi_utils.errors import UserError
from mi_utils.models import weights
from mi_utils.models.stylegan2 import Generator, fir

Tensors = dict[str, Tensor]


# ---------------------------------------------------------------- official pickles


class _Record(NamedTuple):
    """What is left of an official module: its class's name and its state, never its source."""

    name: str
    state: Mapping[str, Any]


def _record(meta: Mapping[str, Any]) -> _Record:
    return _Record(str(meta["class_name"]), meta["state"])


def _tensor(storage: Any, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    """A tensor over a storage that really holds as many numbers."""
    if prod(size) > len(storage):
        raise ValueError(f"a tensor of {prod(size)} numbers over a storage of {len(storage)}")
    return torch._utils._rebuild_tensor(storage, offset, size, stride)


def _storage(content: bytes) -> Any:
    """A storage, itself a small torch file, by torch's own restricted reader (the stock function is not)."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _first(value: Any, *_: Any) -> Any:
    return value


def _nothing(*_: Any) -> None:
    return None


# Built-in types cannot be changed by a file; functions are handed out behind a `partial` of their own.
_TYPES = {("collections", "OrderedDict"): OrderedDict, ("dnnlib.util", "EasyDict"): dict, ("builtins", "set"): set}
_FUNCTIONS: dict[tuple[str, str], Callable] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _record,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("numpy.core.multiarray", "scalar"): _nothing,
    ("numpy._core.multiarray", "scalar"): _nothing,
    ("numpy", "dtype"): _nothing,
}


class _Reader(pickle.Unpickler):
    """Tensors, containers and records; UserError for any other name."""

    def __init__(self, path: Path, content: bytes):
        super().__init__(io.BytesIO(content))
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        """What a name of the file stands for here."""
        if (module, name) in _TYPES:
            return _TYPES[module, name]
        if (module, name) in _FUNCTIONS:
            return partial(_FUNCTIONS[module, name])
        hint = "a TensorFlow pickle, convert it to StyleGAN2-ADA's PyTorch format first" if "tflib" in module else (
            "such a file can run code when it is opened; take the weights from a source that you trust"
        )  # fmt: skip
        raise UserError(f"{self.path}: expected tensors and modules of StyleGAN2-ADA, found {module}.{name}; {hint}")


def _flat(record: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by their full names."""
    for kind in ("_parameters", "_buffers"):
        for name, value in record.state[kind].items():
            if isinstance(value, Tensor):
                yield prefix + name, value.float()
    for name, child in record.state["_modules"].items():
        if isinstance(child, _Record):
            yield from _flat(child, f"{prefix}{name}.")


def official(path: Path) -> Tensors:
    """The averaged generator of a StyleGAN2-ADA `.pkl`, tensors by name; UserError for anything else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the format's storages are of a kind that torch calls old
            content = _Reader(path, path.read_bytes()).load()
        found = dict(_flat(content["G_ema"]))
    except UserError:
        raise
    except Exception as problem:  # a hostile or damaged pickle may fail in any way, and none may reach the user raw
        raise UserError(
            f"{path}: expected a StyleGAN2-ADA pickle with a generator G_ema, but it cannot be read "
            f"({type(problem).__name__}); it is cut short, altered or of another kind"
        ) from None
    if "mapping.embed.weight" in found:
        classes = found["mapping.embed.weight"].shape[1]
        raise UserError(f"{path}: expected an unconditional generator, found one of {classes} classes; take another")
    return found


# ---------------------------------------------------------------- rosinality's names


_LAYER = {
    "conv.weight": "weight",
    "conv.modulation.weight": "affine.weight",
    "conv.modulation.bias": "affine.bias",
    "noise.weight": "noise_strength",
    "activate.bias": "bias",
    "bias": "bias",
}


def _place(kind: str, index: int) -> str:
    """Our name of a layer of rosinality's: `convs.3` is the second one at 16 px."""
    if kind in ("conv1", "to_rgb1"):
        return "b4.conv1" if kind == "conv1" else "b4.torgb"
    if kind == "to_rgbs":
        return f"b{8 << index}.torgb"
    return f"b{8 << index // 2}.conv{index % 2}"


def renamed(name: str, value: Tensor) -> tuple[str, Tensor] | None:
    """Our name and shape of a tensor of rosinality's generator; None for its filters, KeyError for a stranger."""
    if found := re.fullmatch(r"style\.(\d+)\.(weight|bias)", name):
        return f"mapping.fc{int(found[1]) - 1}.{found[2]}", value
    if name == "input.input":
        return "synthesis.b4.const", value[0]
    if found := re.fullmatch(r"noises\.noise_(\d+)", name):
        index = int(found[1])
        place = _place("convs", index - 1) if index else "b4.conv1"
        return f"synthesis.{place}.noise_const", value[0, 0]
    found = re.fullmatch(r"(conv1|to_rgb1|convs|to_rgbs)(?:\.(\d+))?\.(.+)", name)
    if not found:
        raise KeyError(name)
    kind, index, part = found[1], int(found[2] or 0), found[3]
    if part.endswith("kernel"):
        _same_filter(value / 4, name)
        return None
    if part == "conv.weight":
        value = value[0]
    elif part == "noise.weight":
        value = value.reshape(())
    elif part == "bias":
        value = value.flatten()
    return f"synthesis.{_place(kind, index)}.{_LAYER[part]}", value


def _same_filter(value: Tensor, name: str) -> None:
    if value.shape != (4, 4) or not torch.allclose(value.float(), fir(), atol=1e-6):
        raise ValueError(f"{name} is not the filter [1, 3, 3, 1]")


def rosinality(path: Path) -> Tensors:
    """The averaged generator `g_ema` of a rosinality-style `.pt`, under our names; UserError for anything else.

    Deviation: its convolutions are scaled before demodulation, so the $10^{-8}$ there weighs a little more.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        pairs = [renamed(name, value.float()) for name, value in content["g_ema"].items()]
        found = dict(pair for pair in pairs if pair)
        mean = content.get("latent_avg")
        width = found["mapping.fc0.bias"]
    except Exception as problem:  # as for pickles
        raise UserError(
            f"{path}: expected a checkpoint of rosinality's StyleGAN2 with g_ema, but it cannot be read "
            f"({type(problem).__name__}); it is cut short, altered, holds Python objects or is of another kind"
        ) from None
    return found | {"mapping.w_avg": torch.zeros_like(width) if mean is None else mean.float()}


# ---------------------------------------------------------------- generators


def blank(tensors: Mapping[str, Tensor]) -> Generator:
    """A generator of the tensors' shape, with weights that mean nothing; KeyError where a part is absent."""
    blocks = (re.fullmatch(r"synthesis\.b(\d+)\.conv1\.weight", name) for name in tensors)
    sides = sorted(int(block[1]) for block in blocks if block)
    if not sides or sides != [4 << i for i in range(len(sides))]:
        raise KeyError(f"blocks of 4, 8, ... px, found {sides}")
    first = tensors["mapping.fc0.weight"]
    return Generator(
        {side: tensors[f"synthesis.b{side}.conv1.weight"].shape[0] for side in sides},
        z_dim=first.shape[1],
        w_dim=first.shape[0],
        colours=tensors[f"synthesis.b{sides[-1]}.torgb.weight"].shape[0],
        layers=sum(bool(re.fullmatch(r"mapping\.fc\d+\.weight", name)) for name in tensors),
        outputs="residual" if "synthesis.b8.skip.weight" in tensors else "skip",
    )


def read(path: Path, size: int | None = None) -> Generator:
    """The generator in a `.pkl`, `.pt` or `.safetensors` file, frozen and in eval mode; its kind is told by the name.

    UserError where the file is not one, holds anything but tensors, or makes images of another `size` than asked for.
    """
    readers = {".pkl": official, ".pt": rosinality, ".safetensors": weights.read}
    if path.suffix not in readers or not path.is_file():
        raise UserError(f"{path}: expected a .pkl, .pt or .safetensors file of a StyleGAN2 generator, found none")
    tensors = {n: v for n, v in readers[path.suffix](path).items() if not n.endswith("resample_filter")}
    try:
        net = blank(tensors)
    except (KeyError, IndexError, RuntimeError) as problem:
        raise UserError(f"{path}: expected a StyleGAN2 generator, found none: no {problem.args[0]}") from None
    weights.put(tensors, net, path, "StyleGAN2")
    if size not in (None, net.size):
        raise UserError(f"{path}: expected a generator of {size} px images, found {net.size} px; take another file")
    return net.eval().requires_grad_(False)


def packed(net: Generator) -> bytes:
    """The content of a `.safetensors` file that `read` takes."""
    return save({name: value.contiguous() for name, value in net.state_dict().items()})

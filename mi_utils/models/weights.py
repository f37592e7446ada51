"""Published weight files: where they lie, how they are read, how they are put into a network.

Nothing is downloaded, and nothing that is read is executed: files are safetensors, or torch's read with
`weights_only=True`.
"""

import pickle
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mi_utils.data.images import data_root
from mi_utils.errors import UserError

# What torch and safetensors raise for a file that is cut short, altered, or holds other things than tensors.
_UNREADABLE = (
    pickle.UnpicklingError,
    SafetensorError,
    struct.error,
    RuntimeError,
    OSError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    MemoryError,
)


def find(filename: str) -> Path | None:
    """The file in the data root's `weights/`, else in torch's hub cache; None where it is in neither."""
    folders = (data_root() / "weights", Path(torch.hub.get_dir()) / "checkpoints")
    return next((folder / filename for folder in folders if (folder / filename).is_file()), None)


def missing(filename: str) -> str:
    """What a table's cell says where `find` has found nothing."""
    return f"weights {filename} not in MI_DATA/weights nor in torch's hub cache"


def read(path: Path) -> dict[str, Tensor]:
    """The file's tensors by name, on the CPU; UserError for anything else.

    A training checkpoint is searched for its `state_dict` or `model`, and a prefix `module.` on every name, which
    nn.DataParallel leaves, is dropped.
    """
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise UserError(
            f"{path}: expected a .safetensors, .pt or .pth file of weights, found {path.suffix or path.name!r}"
        )
    if not path.is_file():
        raise UserError(f"{path}: expected a file of weights, found none; check the path")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _load_tensors(path)
    except _UNREADABLE as problem:
        # torch's own message is long, and its advice is to read without the safety.
        raise UserError(
            f"{path}: expected tensors by name (safetensors, or torch.save of a state_dict), but it cannot be read "
            f"({type(problem).__name__}); it is cut short or holds Python objects, save its state_dict alone"
        ) from None
    return _state_dict(path, content)


def _load_tensors(path: Path) -> object:
    """torch's own format, tensors and containers alone."""
    with warnings.catch_warnings():
        # Of odd pickle protocols and TorchScript archives torch warns before it refuses them.
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _state_dict(path: Path, content: object) -> dict[str, Tensor]:
    """The tensors by name inside what was read; UserError where there are none or something else is among them."""
    for entry in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping):
            content = content[entry]
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path}: expected tensors by name, found {type(content).__name__}; save the state_dict")
    other = next((name for name, value in content.items() if not isinstance(value, Tensor)), None)
    if other is not None:
        kind = type(content[other]).__name__
        raise UserError(f"{path}: expected tensors by name, found {kind} under {other!r}; save the state_dict alone")
    prefix = "module." if all(str(name).startswith("module.") for name in content) else ""
    return {str(name).removeprefix(prefix): value for name, value in content.items()}


def put(tensors: Mapping[str, Tensor], network: nn.Module, path: Path, name: str) -> None:
    """The tensors into the network called `name`, as its types; UserError unless they fit one to one and are finite."""
    own = network.state_dict()
    wrong = [key for key in own if key in tensors and tensors[key].shape != own[key].shape]
    if wrong:
        expected, found = tuple(own[wrong[0]].shape), tuple(tensors[wrong[0]].shape)
        raise UserError(
            f"{path}: {len(wrong)} tensors have another shape than in {name}, the first is {wrong[0]!r}: expected "
            f"{expected}, found {found}; check the architecture"
        )
    broken = next((key for key, value in tensors.items() if not torch.isfinite(value).all()), None)
    if broken:
        raise UserError(f"{path}: expected finite weights, found NaN or infinity in {broken!r}; its training diverged")
    typed = {key: value.to(own[key].dtype) if key in own else value for key, value in tensors.items()}
    report = network.load_state_dict(typed, strict=False, assign=True)
    parts = {"missing": report.missing_keys, "unexpected": report.unexpected_keys}
    said = [f"{len(keys)} {word} (first {keys[0]!r})" for word, keys in parts.items() if keys]
    if said:
        raise UserError(f"{path}: expected the {len(own)} tensors of {name}, {', '.join(said)}; check the architecture")

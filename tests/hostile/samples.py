"""Small whole files of every kind that is read, and pickles that try to run something."""

import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from PIL import Image
from safetensors.torch import save
from torch import nn

from mi_utils.models.stylegan2 import Generator
from tests.hostile.guard import fire

RNG = np.random.default_rng(0)


def image(kind: str, mode: str = "RGB") -> bytes:
    """A picture of 8 x 9 px."""
    shape = (9, 8) if mode == "L" else (9, 8, 3)
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def npz(compressed: bool) -> bytes:
    buffer = io.BytesIO()
    arrays = {
        "images": RNG.integers(0, 256, (4, 3, 5, 5), dtype=np.uint8),
        "labels": np.arange(4),
        "seeds": np.arange(4) % 2,
    }
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def parquet(codec: str) -> bytes:
    rows = [{"bytes": image("png"), "path": None} for _ in range(3)]
    table = pyarrow.table({"img": rows, "label": pyarrow.array([0, 1, 0], pyarrow.int64())})
    names = {b"huggingface": b'{"info": {"features": {"label": {"names": ["a", "b"]}}}}'}
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table.replace_schema_metadata(names), buffer, compression=codec)
    return buffer.getvalue()


def tensors() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.ones(3, 4), "a.bias": torch.zeros(3), "steps": torch.tensor(7)}


def safetensors() -> bytes:
    return save(tensors())


def torch_file(content: Any, packed: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=packed)
    return buffer.getvalue()


def generator() -> Generator:
    net = Generator({4: 3, 8: 2}, 4, 3)
    with torch.no_grad():
        for part in net.state_dict().values():
            part.fill_(0.5)
    return net


class _Persistent:
    """Pickles as StyleGAN2-ADA's modules do."""

    def __init__(self, meta: dict, rebuild: object) -> None:
        self.meta, self.rebuild = meta, rebuild

    def __reduce__(self) -> tuple:
        return self.rebuild, (self.meta,)


def official() -> bytes:
    """A pickle in StyleGAN2-ADA's layout."""
    module = types.ModuleType("torch_utils.persistence")
    exec("def _reconstruct_persistent_obj(meta): raise AssertionError", module.__dict__)
    rebuild = module._reconstruct_persistent_obj
    rebuild.__module__ = module.__name__

    def record(net: nn.Module) -> _Persistent:
        state = {"_parameters": OrderedDict(net._parameters), "_buffers": OrderedDict(net._buffers)}
        state["_modules"] = OrderedDict((n, record(m)) for n, m in net._modules.items())
        meta = {"type": "class", "class_name": type(net).__name__, "module_src": "raise SystemExit", "state": state}
        return _Persistent(meta, rebuild)

    sys.modules |= {"torch_utils": types.ModuleType("torch_utils"), module.__name__: module}
    try:
        return pickle.dumps({"G_ema": record(generator())})
    finally:
        del sys.modules["torch_utils"], sys.modules[module.__name__]


# ---------------------------------------------------------------- pickles that run something


class _Call:
    """Unpickled by a reader that executes, it calls `fire`."""

    def __reduce__(self) -> tuple:
        return fire, ("reduce",)


class _State:
    """The same through the state of an object."""

    def __reduce__(self) -> tuple:
        return _State, (), {"x": 1}, iter([]), iter([]), fire


_G = b"ctests.hostile.guard\nfire\n"  # GLOBAL
_SYSTEM = b"cos\nsystem\n"


def payloads() -> dict[str, bytes]:
    """Opcode -> a pickle that calls `fire` through it, or `os.system`."""
    found = {f"REDUCE, protocol {p}": pickle.dumps(_Call(), p) for p in range(6)}
    found |= {
        "GLOBAL alone": _G + b".",
        "GLOBAL, REDUCE": _G + b"(S'x'\ntR.",
        "os.system": _SYSTEM + b"(S'true'\ntR.",
        "builtins.eval": b"cbuiltins\neval\n(S'1'\ntR.",
        "INST": b"(S'x'\nitests.hostile.guard\nfire\n.",
        "OBJ": b"(" + _G + b"S'x'\no.",
        "NEWOBJ": b"\x80\x02" + _G + b"(S'x'\nt\x81.",
        "NEWOBJ_EX": b"\x80\x04" + _G + b"(S'x'\nt}\x92.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x13tests.hostile.guard\x8c\x04fire\x93(S'x'\ntR.",
        "dotted STACK_GLOBAL": b"\x80\x04\x8c\x0bcollections\x8c\x18OrderedDict.fromkeys.__x\x93.",
        "BUILD": _G + b"(S'x'\ntR}S'a'\nI1\nsb.",
        "BUILD with a setter": pickle.dumps({"a": _State}, 2),
        "EXT1": b"\x80\x02\x82\x01.",
        "EXT2": b"\x80\x02\x83\x01\x00.",
        "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
        "PERSID": b"Ptests\n.",
        "BINPERSID": b"S'x'\nQ.",
        "a set's state": b"\x80\x02cbuiltins\nset\n(]tR}S'__class__'\n" + _G + b"sb.",
        "partial's state": b"ctorch._utils\n_rebuild_tensor_v2\n(" + _G + b"(t}NtNb.",
        "getattr": b"cbuiltins\ngetattr\n(" + _G + b"S'__globals__'\ntR.",
        "_load_from_bytes": b"ctorch.storage\n_load_from_bytes\n(" + _string(pickle.dumps(_Call(), 2)) + b"tR.",
        "an official module's state": b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n("
        + b"(dS'class_name'\nS'X'\nsS'state'\n" + _G + b"(S'x'\ntRstR.",
    }  # fmt: skip
    return found


def _string(data: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(data)) + data


def in_zip(payload: bytes, name: str = "archive/data.pkl") -> bytes:
    """A torch file with this pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(name, payload)
        file.writestr("archive/version", "3\n")
        file.writestr("archive/byteorder", "little")
        file.writestr("archive/../../../outside.txt", "x")
    return buffer.getvalue()


def legacy(payload: bytes) -> bytes:
    """A torch file of before 1.6 with this pickle."""
    head = [pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join([*head, payload, pickle.dumps([], 2)])

"""StyleGAN2 files: the official pickle and rosinality's checkpoint by names and shapes; hostile ones run nothing."""

import io
import os
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from test_models_stylegan2 import lively, normal
from torch import Tensor, nn

from mi_utils.errors import UserError
from mi_utils.models import stylegan2_files as files
from mi_utils.models.stylegan2 import Generator, fir

WIDTHS = {4: 6, 8: 5, 16: 4}


@pytest.fixture(params=["skip", "residual"])
def generator(request) -> Generator:
    return lively(Generator(WIDTHS, 7, 6, outputs=request.param)).float()


@pytest.fixture
def skip() -> Generator:
    return lively(Generator(WIDTHS, 7, 6)).float()


@pytest.fixture
def official(monkeypatch):
    """Stand-ins for the official packages, there while a pickle is written and gone when it is read."""
    persistence, util = types.ModuleType("torch_utils.persistence"), types.ModuleType("dnnlib.util")

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("the stock loader must not be called")

    class EasyDict(dict):
        pass

    for value, module in ((_reconstruct_persistent_obj, persistence), (EasyDict, util)):
        value.__module__, value.__qualname__ = module.__name__, value.__name__
        setattr(module, value.__name__, value)

    def written(path: Path, **nets: nn.Module) -> Path:
        def record(module: nn.Module) -> object:
            state = {k: v for k, v in vars(module).items() if k != "_modules"}
            buffers = OrderedDict(module._buffers)
            if "resample_filter" in buffers or hasattr(module, "conv1") or hasattr(module, "affine"):
                buffers["resample_filter"] = fir()  # the official layers have it wherever they may need it
            state |= {"_modules": OrderedDict((n, record(m)) for n, m in module._modules.items()), "_buffers": buffers}
            meta = {"type": "class", "version": 6, "module_src": HOSTILE_SOURCE, "class_name": type(module).__name__}
            return Persistent(EasyDict(meta | {"state": state}), _reconstruct_persistent_obj)

        with monkeypatch.context() as patch:
            for name, module in {persistence.__name__: persistence, util.__name__: util}.items():
                patch.setitem(sys.modules, name, module)
                patch.setitem(sys.modules, name.split(".")[0], types.ModuleType(name.split(".")[0]))
            content = {name: record(net) for name, net in nets.items()}
            path.write_bytes(
                pickle.dumps(content | {"training_set_kwargs": EasyDict(resolution=16), "augment_pipe": None})
            )
        return path

    return written


HOSTILE_SOURCE = "import os; os.environ['MI_EXECUTED'] = '1'"


class Persistent:
    """Pickles as the official modules do."""

    def __init__(self, meta: dict, rebuild: object):
        self.meta, self.rebuild = meta, rebuild

    def __reduce__(self) -> tuple:
        return self.rebuild, (self.meta,)


class Runs:
    """Leaves a file behind when it is unpickled by a reader that executes."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


# --- what is read ------------------------------------------------------------------------------------------


def test_official_layout_is_read_without_its_code(generator, official, tmp_path) -> None:
    path = official(tmp_path / "net.pkl", G=generator, D=nn.Linear(1, 1), G_ema=generator)
    assert "torch_utils" not in sys.modules and b"MI_EXECUTED" in path.read_bytes()
    found, z = files.read(path, 16), normal(0, 3, 7).float()
    assert torch.equal(found(z), generator(z)) and torch.equal(found.mapping(z), generator.mapping(z))
    assert "MI_EXECUTED" not in os.environ
    assert not found.training and not any(p.requires_grad for p in found.parameters())


def test_half_precision_weights_become_float(skip, official, tmp_path) -> None:
    found = files.read(official(tmp_path / "net.pkl", G_ema=skip.half()))
    assert {p.dtype for p in found.parameters()} == {torch.float32}


def in_rosinality(net: Generator) -> dict[str, Tensor]:
    """The generator's tensors under rosinality's names and shapes."""
    p, found = dict(net.state_dict()), {}
    for i in range(8):
        found |= {f"style.{i + 1}.{part}": p[f"mapping.fc{i}.{part}"] for part in ("weight", "bias")}
    found["input.input"] = p["synthesis.b4.const"][None]
    layers = [("conv1", "b4.conv1")]
    layers += [(f"convs.{2 * i + j}", f"b{8 * 2**i}.conv{j}") for i in range(2) for j in range(2)]
    for number, (theirs, ours) in enumerate(layers):
        ours = f"synthesis.{ours}"
        found |= {
            f"{theirs}.conv.weight": p[f"{ours}.weight"][None],
            f"{theirs}.conv.modulation.weight": p[f"{ours}.affine.weight"],
            f"{theirs}.conv.modulation.bias": p[f"{ours}.affine.bias"],
            f"{theirs}.noise.weight": p[f"{ours}.noise_strength"][None],
            f"{theirs}.activate.bias": p[f"{ours}.bias"],
            f"noises.noise_{number}": p[f"{ours}.noise_const"][None, None],
        }
        if ours.endswith("conv0"):
            found[f"{theirs}.conv.blur.kernel"] = 4 * fir()
    for theirs, ours in (("to_rgb1", "b4"), ("to_rgbs.0", "b8"), ("to_rgbs.1", "b16")):
        ours = f"synthesis.{ours}.torgb"
        found |= {
            f"{theirs}.conv.weight": p[f"{ours}.weight"][None],
            f"{theirs}.conv.modulation.weight": p[f"{ours}.affine.weight"],
            f"{theirs}.conv.modulation.bias": p[f"{ours}.affine.bias"],
            f"{theirs}.bias": p[f"{ours}.bias"][None, :, None, None],
        }
        if theirs != "to_rgb1":
            found[f"{theirs}.upsample.kernel"] = 4 * fir()
    return found


def test_rosinality_layout_is_read(skip, tmp_path) -> None:
    path, mean = tmp_path / "net.pt", normal(1, 6).float()
    torch.save({"g_ema": in_rosinality(skip), "latent_avg": mean}, path)
    found, z = files.read(path), normal(2, 3, 7).float()
    assert torch.equal(found(z), skip(z)) and torch.equal(found.mapping.w_avg, mean)


def exported(net: Generator, path: Path) -> Path:
    path.write_bytes(files.packed(net))
    return path


def test_an_export_is_read_again(generator, tmp_path) -> None:
    path, z = exported(generator, tmp_path / "net.safetensors"), normal(3, 2, 7).float()
    assert torch.equal(files.read(path)(z), generator(z))


# --- what is refused ---------------------------------------------------------------------------------------


def refused(path: Path, said: str, size: int | None = None) -> None:
    with pytest.raises(UserError, match=said) as caught:
        files.read(path, size)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))


def test_a_pickle_that_would_run_a_command_is_refused_by_the_name_it_asks_for(tmp_path) -> None:
    path, mark = tmp_path / "net.pkl", tmp_path / "ran"
    path.write_bytes(pickle.dumps({"G_ema": Runs(mark)}))
    refused(path, rf"found {os.system.__module__}\.system; such a file can run code")
    assert not mark.exists()


def test_a_command_inside_a_storage_is_not_run(tmp_path, monkeypatch) -> None:
    path, mark = tmp_path / "net.pkl", tmp_path / "ran"
    inner = io.BytesIO()
    torch.save(Runs(mark), inner, _use_new_zipfile_serialization=False)

    class Storage:
        def __reduce__(self) -> tuple:
            return torch.storage._load_from_bytes, (inner.getvalue(),)

    path.write_bytes(pickle.dumps({"G_ema": Storage()}))
    refused(path, "it cannot be read")
    assert not mark.exists()


def test_a_file_cannot_change_the_functions_it_names(tmp_path) -> None:
    path, before = tmp_path / "net.pkl", dict(vars(files._tensor))
    # The pickle names a function and then writes into its attributes.
    content = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x04\x00\x00\x00evilK\x01sb."
    path.write_bytes(content)
    refused(path, "it cannot be read")
    assert vars(files._tensor) == before and not hasattr(torch._utils._rebuild_tensor_v2, "evil")


def test_a_tensor_larger_than_its_storage_is_refused(tmp_path) -> None:
    class Huge:
        def __reduce__(self) -> tuple:
            storage = torch.storage.TypedStorage(
                wrap_storage=torch.zeros(4).untyped_storage(), dtype=torch.float32, _internal=True
            )
            return torch._utils._rebuild_tensor_v2, (storage, 0, (10**6, 10**6), (0, 0), False, OrderedDict())

    path = tmp_path / "net.pkl"
    path.write_bytes(pickle.dumps({"G_ema": Huge()}))
    refused(path, "it cannot be read")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_short_is_refused(skip, official, tmp_path, share: float) -> None:
    path, mine = official(tmp_path / "net.pkl", G_ema=skip), tmp_path / "net.safetensors"
    exported(skip, mine)
    theirs = tmp_path / "net.pt"
    torch.save({"g_ema": in_rosinality(skip)}, theirs)
    for each in (path, mine, theirs):
        content = each.read_bytes()
        each.write_bytes(content[: int(share * len(content))])
        refused(each, "cannot be read")


def test_other_sizes_classes_and_kinds_are_named(skip, official, tmp_path) -> None:
    path = official(tmp_path / "net.pkl", G_ema=skip)
    refused(path, "expected a generator of 32 px images, found 16 px", 32)
    skip.mapping.embed = nn.Linear(10, 6)
    refused(official(path, G_ema=skip), "expected an unconditional generator, found one of 10 classes")
    refused(official(path, D=nn.Linear(1, 1)), "a generator G_ema")
    refused(tmp_path / "none.pkl", "expected a .pkl, .pt or .safetensors file")
    path.write_bytes(b"\x80\x02cdnnlib.tflib.network\nNetwork\n)R.")
    refused(path, "a TensorFlow pickle")


def test_weights_that_do_not_fit_or_are_not_finite_are_refused(skip, tmp_path) -> None:
    path = tmp_path / "net.safetensors"
    skip.synthesis.b8.conv0.weight.data[0, 0, 0, 0] = torch.nan
    refused(exported(skip, path), "NaN or infinity in 'synthesis.b8.conv0.weight'")
    skip.synthesis.b8.conv0.weight.data.zero_()
    del skip.synthesis.b16.torgb
    refused(exported(skip, path), "expected a StyleGAN2 generator")


def test_another_filter_is_refused(skip, tmp_path) -> None:
    path, tensors = tmp_path / "net.pt", in_rosinality(skip)
    tensors["to_rgbs.0.upsample.kernel"] = torch.ones(4, 4)
    torch.save({"g_ema": tensors}, path)
    refused(path, "cannot be read")

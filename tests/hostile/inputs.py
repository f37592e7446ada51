"""Every place at which the project reads what others wrote: kind -> a mutated input, and the call that reads it."""

import contextlib
import hashlib
import importlib
import io
import json
import pkgutil
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.random import Generator

import mi_utils
from mi_utils import bombs, exchange, plain_yaml, reproduce, store, studies
from mi_utils.__main__ import main
from mi_utils.archive import Archive, Index
from mi_utils.audit import request as audit
from mi_utils.audit.priors import generator_of
from mi_utils.errors import UserError
from mi_utils.models import external, stylegan2_files, weights
from mi_utils.scoring import inputs
from mi_utils.scoring import request as scoring
from mi_utils.stage import Config, Job, Output, Stage
from tests.hostile import samples
from tests.hostile.mutations import TEXTS, arguments, lines, mutated, value

Call = Callable[[], object]
SMALL = {"images": torch.zeros(2, 1, 4, 4, dtype=torch.uint8), "labels": torch.tensor([0, 1])}


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _written(folder: Path, name: str, data: bytes) -> Path:
    path = emptied(folder) / name
    path.write_bytes(data)
    return path


@cache
def _seeds(kind: str) -> tuple[bytes, ...]:
    """Whole files, mutated over and over."""
    state = samples.generator().state_dict()
    made: dict[str, Callable[[], list[bytes]]] = {
        "npz": lambda: [samples.npz(True), samples.npz(False)],
        "png": lambda: [samples.image("png"), samples.image("png", "L")],
        "jpeg": lambda: [samples.image("jpeg"), samples.image("gif"), samples.image("bmp"), samples.image("tiff"),
                         samples.image("webp")],
        "parquet": lambda: [samples.parquet(codec) for codec in ("none", "snappy", "zstd")],
        "safetensors": lambda: [samples.safetensors(), stylegan2_files.packed(samples.generator())],
        "pt": lambda: [samples.torch_file(samples.tensors()), samples.torch_file({"g_ema": dict(state)})],
        "legacy pt": lambda: [samples.torch_file(samples.tensors(), False)],
        "pkl": lambda: [samples.official()],
    }  # fmt: skip
    return tuple(made[kind]())


def _mutated(kind: str, rng: Generator) -> bytes:
    seeds = _seeds(kind)
    return mutated(seeds[rng.integers(len(seeds))], rng)


# ---------------------------------------------------------------- images and arrays


def npz(rng: Generator, folder: Path) -> Call:
    path = _written(folder, "x.npz", _mutated("npz", rng))
    return lambda: inputs.read(str(path), "RECONSTRUCTIONS")


def parquet(rng: Generator, folder: Path) -> Call:
    path = _written(folder, "x.parquet", _mutated("parquet", rng))
    return lambda: inputs.read(str(path), "RECONSTRUCTIONS")


def _images(kind: str, rng: Generator, folder: Path) -> Call:
    path = _written(folder / "images" / "0", f"a.{kind}", _seeds(kind)[0])
    (path.parent / f"b.{kind}").write_bytes(_mutated(kind, rng))
    labelled = bool(rng.integers(2))
    size = None if rng.integers(2) else 8
    return lambda: inputs.read(
        str(folder / "images" if labelled else path.parent), "private", labelled=labelled, size=size
    )


def png(rng: Generator, folder: Path) -> Call:
    return _images("png", rng, folder)


def jpeg(rng: Generator, folder: Path) -> Call:
    return _images("jpeg", rng, folder)


def names(rng: Generator, folder: Path) -> Call:
    """Odd names of classes and files, links in a folder."""
    root = emptied(folder / "images")
    for _ in range(rng.integers(1, 4)):
        name = TEXTS[rng.integers(len(TEXTS))].replace("/", "_").replace("\0", "") or "0"
        with contextlib.suppress(OSError, UnicodeError):
            place = root / name[:200]
            place.mkdir(exist_ok=True)
            target = [root, folder, Path("/etc/hostname"), Path("/dev/zero"), Path("nowhere"), place][rng.integers(6)]
            (place / "link.png").symlink_to(target)
            (place / f"{name[:50]}.png").write_bytes(_seeds("png")[0])
    return lambda: inputs.read(str(root), "private", size=8)


def listed(rng: Generator, folder: Path) -> Call:
    _written(folder / "faces", "a.png", _seeds("png")[0])
    (folder / "faces" / "b.png").write_bytes(_seeds("png")[0])
    (folder / "split.txt").write_text(lines("# x\na.png 0\nb.png 1\n", rng), errors="replace")
    text = json.dumps({"kind": "listed", "path": str(folder / "faces"), "split": str(folder / "split.txt"), "size": 8})
    return lambda: inputs.read(text, "private")


# ---------------------------------------------------------------- weights


def safetensors(rng: Generator, folder: Path) -> Call:
    return _weights(rng, _written(folder, "x.safetensors", _mutated("safetensors", rng)))


def pt(rng: Generator, folder: Path) -> Call:
    return _weights(rng, _written(folder, "x.pt", _mutated("pt", rng)))


def legacy_pt(rng: Generator, folder: Path) -> Call:
    return _weights(rng, _written(folder, "x.pth", _mutated("legacy pt", rng)))


def pkl(rng: Generator, folder: Path) -> Call:
    return _generator(_written(folder, "x.pkl", _mutated("pkl", rng)))


def _weights(rng: Generator, path: Path) -> Call:
    if path.suffix != ".pth" and rng.integers(2):
        return _generator(path)

    def read() -> object:
        bombs.check_weights(path)
        return weights.read(path)

    return read


def _generator(path: Path) -> Call:
    return lambda: generator_of(audit.Request(["x"], private="y", prior=str(path)))


# ---------------------------------------------------------------- text


SETTINGS = "{seeds: 1, sweep_seeds: 2, problems: [{name: a, classes: [0, 1]}], w: {a: .5, b: [1, 2.5, null, true]}}"
NET = "{arch: squeezenet1_1, weights: x.pt, classes: 10, size: 32, mean: [.5, .5, .5], std: [.5, .5, .5], reject: true}"
SOURCES = (
    "{kind: folder, path: x, size: 8, classes: [0, 1]}", "{kind: noise, count: 4, size: 8, spectrum: white}",
    "{kind: parquet, path: '*.parquet', split: train}", "{kind: torchvision, name: MNIST, split: all}",
    "{kind: shuffled, of: pixels, patch: 1, source: {kind: noise, count: 3, size: 4}}",
    "{kind: subset, keep: [0], source: {kind: uci-digits, split: test}}", "{kind: listed, path: x, split: y}",
)  # fmt: skip


def settings(rng: Generator, folder: Path) -> Call:
    text = lines(SETTINGS, rng)
    return lambda: reproduce.parse_overrides([text])


def sources(rng: Generator, folder: Path) -> Call:
    text = lines(SOURCES[rng.integers(len(SOURCES))], rng)
    return lambda: inputs.read(text, "private") if text.lstrip().startswith("{") else None


def nets(rng: Generator, folder: Path) -> Call:
    text = lines(NET, rng)
    path = _written(folder, "net.yaml", text.encode(errors="surrogatepass"))

    def read() -> None:
        audit.is_classifier(text)
        audit.named_after(text)
        for given in (text, str(path)):
            with contextlib.suppress(UserError):
                scoring.as_typed(external.parse(given))

    return read


def plain(rng: Generator, folder: Path) -> Call:
    data = rng.bytes(int(rng.integers(1, 200))).decode("latin-1")
    return lambda: plain_yaml.load(data, "--set", "{}")


# ---------------------------------------------------------------- configurations


@cache
def classes() -> tuple[type[Config], ...]:
    """Every configuration of the package."""
    for module in pkgutil.walk_packages(mi_utils.__path__, "mi_utils."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: list[type[Config]] = []
    waiting: list[type[Config]] = [Config]
    while waiting:
        waiting += (own := waiting.pop().__subclasses__())
        found += (cls for cls in own if cls.__module__.startswith("mi_utils."))
    return tuple(dict.fromkeys(found))


@cache
def whole() -> dict[type[Config], Config]:
    """One whole configuration of each class that the smoke profile has."""
    found: dict[type[Config], Config] = {}
    waiting: list[object] = [
        plan for s in studies.PAPERS.values() for p in [s.plan("smoke")] for plan in (p.settings, *p.stages)
    ]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Config) and found.setdefault(type(item), item) is item:
            waiting += (getattr(item, name) for name in type(item).model_fields)
        elif isinstance(item, list | tuple):
            waiting += item
        elif isinstance(item, dict):
            waiting += item.values()
    return found


def configs(rng: Generator, folder: Path) -> Call:
    known = classes()
    cls = known[rng.integers(len(known))]
    fields = list(cls.model_fields) or ["x"]
    changed = {fields[rng.integers(len(fields))]: value(rng) for _ in range(rng.integers(1, 4))}
    if not rng.integers(8):
        changed[TEXTS[rng.integers(len(TEXTS))]] = 1

    def make() -> None:
        base = whole().get(cls)
        made = cls(**changed) if base is None else base.model_copy(update=changed)
        made.recipe()
        if isinstance(made, Stage):
            made.title, made.upstream()

    return make


def plans(rng: Generator, folder: Path) -> Call:
    """Overrides as papermill passes them."""
    study = list(studies.PAPERS.values())[rng.integers(len(studies.PAPERS))]
    fields = list(type(whole_plan(study.__name__)).model_fields)
    changed = {fields[rng.integers(len(fields))]: value(rng) for _ in range(rng.integers(1, 3))}
    profile = "smoke" if rng.integers(8) else TEXTS[rng.integers(len(TEXTS))]
    return lambda: study.plan(profile, **changed)


@cache
def whole_plan(name: str) -> Config:
    return importlib.import_module(name).plan("smoke").settings


# ---------------------------------------------------------------- the command line


COMMANDS = (
    ["reproduce", "--paper", "toy", "--profile", "smoke", "--set", "{seeds: 1}", "--workers", "2", "--device", "cpu"],
    ["score", "x.npz", "--private", "y", "--holdout", "z", "--size", "32", "--budget", "2GB", "--target", "{arch: a}"],
    ["score", "stored:toy/BMI", "--net", "st-lpips-alex", "--scope", "label", "--out", "out"],
    ["vulnerable", "{arch: resnet18}", "--prior", "faces-32", "--private", "p", "--seeds", "2", "--top", "3"],
    ["status"], ["clean", "--unused", "--yes"], ["clean", "--all"],
    ["export", "toy", "BMI", "out", "--seed", "0", "--profile", "smoke"],
    ["export", "out.zip", "--paper", "toy", "--profile", "smoke"],
    ["import", "x.zip", "--digest", "00", "--set", "{seeds: 1}"],
)  # fmt: skip


def commands(rng: Generator, folder: Path) -> Call:
    words = arguments(COMMANDS[rng.integers(len(COMMANDS))], rng)
    words = [word for word in words if not word.startswith(("/", ".."))]  # where a user may well write
    out, err = io.StringIO(), io.StringIO()

    def run() -> None:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(words)
        if status == 2 and (err.getvalue().count("\n") != 1 or not err.getvalue()[:-1].isprintable()):
            raise AssertionError(f"not one line: {err.getvalue()!r}")

    return run


# ---------------------------------------------------------------- the store and archives


class Tiny(Stage):
    """A result and a loop, each of a few bytes."""

    checkpoint_seconds: ClassVar[float] = 0.0
    seed: int = 0

    def compute(self, job: Job) -> Output:
        total = torch.zeros(2)
        for _ in job.steps(2, {"total": total}):
            total += 1
        return Output(SMALL | {"total": total}, {"seed": self.seed})


@cache
def _output() -> dict[str, bytes]:
    Tiny().ensure("cpu")
    return {path.name: path.read_bytes() for path in (Tiny().folder / "output").iterdir()}


def results(rng: Generator, folder: Path) -> Call:
    """A stored result is served whole or computed again."""
    whole = _output()
    output = emptied(Tiny().folder / "output")
    (Tiny().folder / "job.pkl").unlink(missing_ok=True)  # exca's own note of who computes, read by exca alone
    touched = list(whole)[rng.integers(len(whole))]
    for name, data in whole.items():
        (output / name).write_bytes(mutated(data, rng) if name == touched else data)

    def read() -> None:
        found = Tiny().result("cpu")
        assert torch.equal(found.tensors["total"], torch.tensor([2.0, 2.0])) and found.meta == {"seed": 0}

    return read


def checkpoints(rng: Generator, folder: Path) -> Call:
    """Damaged, or another program's under a right digest."""
    content = {
        "step": 1,
        "seconds": 0.5,
        "device": "cpu",
        "streams": [torch.get_rng_state()],
        "state": {"total": torch.ones(2)},
    }
    if rng.integers(2):
        content[list(content)[rng.integers(5)]] = [None, 1, "x", [], {}, torch.ones(1)][rng.integers(6)]
        payload = samples.torch_file(content)
    else:
        payload = mutated(samples.torch_file(content), rng)
    path = folder / "checkpoint-0.pt"
    emptied(folder)
    store.write_checkpoint(path, payload)
    if rng.integers(2):
        path.write_bytes(mutated(path.read_bytes(), rng))
    return lambda: store.read_checkpoint(path)


@cache
def _archive(folder: Path) -> tuple[dict[str, bytes], bytes]:
    """Files of an archive with one result, and the same as a zip."""
    whole, stage = _output(), Tiny()
    for dest in (folder / "archive", folder / "archive.zip"):
        shutil.rmtree(dest) if dest.is_dir() else dest.unlink(missing_ok=True)
        output = emptied(stage.folder / "output")
        for name, data in whole.items():
            (output / name).write_bytes(data)
        exchange.export(["toy"], "smoke", dest)
    root = folder / "archive"
    files = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    return files, (folder / "archive.zip").read_bytes()


def archives(rng: Generator, folder: Path) -> Call:
    """A folder or zip with one file touched, now and then with an index that agrees."""
    files, packed = _archive(folder.parent / "made")
    if rng.integers(2):
        path = _written(folder, "x.zip", mutated(packed, rng))
    else:
        path, touched = emptied(folder), list(files)[rng.integers(len(files))]
        changed = files | {touched: mutated(files[touched], rng)}
        if rng.integers(2) and touched != "index.json":
            index = json.loads(files["index.json"])
            data = changed[touched]
            index["files"][touched] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            changed["index.json"] = Index(**index).sealed().model_dump_json().encode()
        for name, data in changed.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    return lambda: Archive(path).check()


def tensors(rng: Generator, folder: Path) -> Call:
    """Arrays that a program passes."""
    shapes = [
        (),
        (0,),
        (2,),
        (2, 4),
        (2, 4, 4),
        (2, 3, 4, 4),
        (2, 4, 4, 3),
        (1, 1, 1, 1),
        (2, 3, 4, 4, 1),
        (3, 1, 5, 0),
    ]
    kinds = ["uint8", "int64", "float32", "float64", "complex64", "bool", "object", "U3", "datetime64[s]", "float16"]
    x = np.zeros(shapes[rng.integers(len(shapes))], kinds[rng.integers(len(kinds))])
    given = x if rng.integers(2) else value(rng)
    labels = value(rng) if rng.integers(2) else np.arange(len(x) if x.ndim else 1)
    return lambda: inputs.read((given, labels), "private")


# Share of each kind in a run.
KINDS: dict[str, tuple[Callable[[Generator, Path], Call], int]] = {
    "npz": (npz, 12), "png": (png, 10), "jpeg, gif, bmp, tiff, webp": (jpeg, 10), "names and links": (names, 3),
    "parquet": (parquet, 10), "lists": (listed, 3), "arrays": (tensors, 5), "safetensors": (safetensors, 7),
    "pt": (pt, 7), "legacy pt": (legacy_pt, 4), "pkl": (pkl, 7), "settings": (settings, 6), "sources": (sources, 6),
    "nets": (nets, 5), "text": (plain, 5), "configs": (configs, 10), "plans": (plans, 3), "commands": (commands, 6),
    "results": (results, 4), "checkpoints": (checkpoints, 4), "archives": (archives, 6),
}  # fmt: skip

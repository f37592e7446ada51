"""Hostile files run nothing, write nothing outside, and are refused in one line; a few mutations of every kind.

`make test-hostile` runs thousands of mutations.
"""

import io
import json
import os
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mi_utils import bombs, plain_yaml, reproduce, studies
from mi_utils.archive import Archive
from mi_utils.errors import UserError
from mi_utils.export import write
from mi_utils.models import external, stylegan2_files, weights
from mi_utils.report.folder import Folder
from mi_utils.scoring import inputs, request
from tests.hostile import guard, samples

ROOT = Path(__file__).resolve().parents[2]
BIG = 640 << 20  # bytes that a bomb unpacks to
QUICK = settings(
    deadline=None, max_examples=60, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)


def child(code: str, folder: Path, room: int = 2 << 30) -> str:
    """What a process prints that runs `code` in `folder` with `room` bytes of address space beyond its libraries."""
    prelude = (
        "import sys, warnings, os; warnings.simplefilter('ignore')\n"
        "from pathlib import Path\nfrom mi_utils.errors import UserError\n"
        "from mi_utils.audit.priors import generator_of\nfrom mi_utils.audit.request import Request\n"
        "from mi_utils.models import external\nfrom mi_utils.scoring import inputs\nfrom tests.hostile import guard\n"
        f"guard.limit_memory({room})\nbefore = guard.peak_bytes()\n"
    )
    ending = "\nprint('peak', (guard.peak_bytes() - before) >> 20, 'fired', guard.FIRED)\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + code + ending], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "MI_STORE": str(folder / "store"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_some_mutations_of_every_kind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile", "420", "7"], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    line = done.stdout.splitlines()[-1] if done.stdout else done.stderr
    assert re.fullmatch(r"4\d\d mutated inputs, 0 uncaught tracebacks, 0 executed, 0 outside", line), done.stdout


# --- nothing is executed ---


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> guard.Guard:
    """Files may be written into the session's temporary folder alone."""
    return guard.Guard(tmp_path_factory.getbasetemp())


@pytest.mark.parametrize("name", samples.payloads())
@pytest.mark.parametrize("suffix", [".pkl", ".pt", ".pth", "legacy.pt", "legacy.pth", ".npz", ".safetensors"])
def test_no_pickle_runs_anything(watch: guard.Guard, name: str, suffix: str, tmp_path: Path) -> None:
    """As a file, as the pickle inside a torch zip, inside torch's old format, and as an array of an npz."""
    payload = samples.payloads()[name]
    data = samples.legacy(payload) if "legacy" in suffix else samples.in_zip(payload) if suffix == ".pt" else payload
    if suffix == ".npz":
        data = samples.in_zip(payload, "images.npy")
    path = tmp_path / f"x{suffix}"
    path.write_bytes(data)
    reads: list[Callable[[], object]] = [lambda: inputs.read(str(path), "private")]
    if suffix != ".npz":
        reads.append(lambda: stylegan2_files.read(path))
    if suffix not in (".npz", ".pkl"):
        reads.append(lambda: weights.read(path))
    before = set(tmp_path.parent.rglob("*"))
    for read in reads:
        problems: list[str] = []

        def refused(read: Callable[[], object] = read, problems: list[str] = problems) -> None:
            with pytest.raises(UserError) as caught:
                read()
            problems.append(str(caught.value))

        assert watch.attempt(refused, ()) == ""
        assert "\n" not in problems[0]
    assert (watch.executed, watch.outside, guard.FIRED) == ([], [], [])
    assert set(tmp_path.parent.rglob("*")) == before


def test_the_watch_itself_sees_what_runs(tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing."""
    code = (
        "import pickle, tempfile\nfrom tests.hostile import samples\n"
        "watch = guard.Guard(Path.cwd())\n"
        "print(repr(watch.attempt(lambda: pickle.loads(samples.payloads()['os.system']), ())))\n"
        "print(len(watch.executed))\n"
        "watch.attempt(lambda: pickle.loads(samples.payloads()['STACK_GLOBAL']), ())\n"
        "watch.attempt(lambda: Path('../seen').write_text('x'), ())\n"
        "watch.attempt(lambda: Path('in').write_text('x'), ())\n"
        "print(len(watch.outside), len(guard.FIRED))\nguard.FIRED.clear()\n"
    )
    lines = child(code, tmp_path).splitlines()
    assert lines[0] == "''" and int(lines[1]) > 0 and lines[2] == "1 1"


# --- nothing is written outside ---


NAMES = st.one_of(
    st.sampled_from(["..", "../x", "/etc", "", ".", "a/../../b", "a\\..\\b", "\0", "con", "~", "x" * 500]), st.text()
)


@QUICK
@given(name=NAMES)
def test_names_of_profiles_papers_and_results_stay_inside(name: str, tmp_path: Path) -> None:
    for make in (lambda: Folder(name, "paper", tmp_path), lambda: Folder("smoke", name, tmp_path)):
        try:
            path = make().path
        except UserError:
            continue
        assert path.resolve().is_relative_to(tmp_path.resolve()) and path.resolve() != tmp_path.resolve()
    slug = request.named_after(f"stored:{name}")
    assert re.fullmatch(r"[a-z0-9-]+", slug)


@QUICK
@given(labels=st.lists(st.integers(0, 2**62), min_size=1, max_size=4))
def test_labels_name_folders_inside(labels: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("labels") / "out"
    write(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), torch.tensor(labels), folder)
    assert {int(p.name) for p in folder.iterdir() if p.is_dir()} == set(labels)


def test_an_image_folder_with_a_device_or_pipe_is_refused(tmp_path: Path) -> None:
    """Reading /dev/zero or an empty pipe would never end; so does a link to either."""
    (tmp_path / "0").mkdir()
    for number, make in enumerate([lambda p: p.symlink_to("/dev/zero"), os.mkfifo, lambda p: p.symlink_to("gone")]):
        path = tmp_path / "0" / f"{number}.png"
        make(path)
        with pytest.raises(UserError, match="device or pipe|cannot be read"):
            inputs.read(str(tmp_path), "private")
        path.unlink()


# --- text ---


TEXT = st.one_of(st.text(), st.text(alphabet="{}[]:,-?&*!|>%@`'\"#\n 0123456789.xaé~=<"))


@settings(QUICK, max_examples=400)
@given(text=TEXT)
def test_any_text_as_settings_is_a_mapping_or_one_line(text: str) -> None:
    try:
        assert isinstance(reproduce.parse_overrides([text]), dict)
    except UserError as problem:
        assert "\n" not in str(problem)


@settings(QUICK, max_examples=200)
@given(text=TEXT.map(lambda text: "{" + text))
def test_any_text_as_images_or_a_net_is_refused_in_one_line(text: str) -> None:
    for read in (lambda: inputs.read(text, "private"), lambda: external.parse(text)):
        with pytest.raises(UserError) as caught:
            read()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "[" * 100_000, "{a: " * 5000, "a: !!python/object:os.system {}",
        "a: 2001-99-99", "a: !!timestamp x", "a: 0x" + "f" * 50_000,
        "a: " + "9" * 5000, "a: " + "x" * 200_000, "? {a: b}\n: c",
    ],
)  # fmt: skip
def test_yaml_that_grows_digs_or_breaks_is_refused_in_one_short_line(text: str) -> None:
    with pytest.raises(UserError) as caught:
        external.ExternalClassifier(**plain_yaml.mapping(text, "--set", "'{seeds: 1}'"))
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


def test_a_plan_of_no_problems_or_of_a_number_too_large_to_print_is_refused() -> None:
    for changed, field in (
        ({"problems": []}, "problems"),
        ({"seeds": [10**5000]}, "seeds"),
        ({"seeds": 10**5000}, "seeds"),
    ):
        with pytest.raises(UserError, match=field) as caught:
            studies.PAPERS["dmmia"].plan("smoke", **changed)
        assert len(str(caught.value)) < 300


def test_a_zip_with_a_nameless_file_is_no_archive(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("A", "x")
    (tmp_path / "x.zip").write_bytes(buffer.getvalue().replace(b"A", b"\0"))
    with pytest.raises(UserError, match="cannot be read as an archive"):
        Archive(tmp_path / "x.zip")


# --- bombs ---


def _png(width: int, height: int) -> bytes:
    """A PNG of width x height black pixels, a few kilobytes whatever its size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compressobj(9).compress(bytes(3 * 20_000))
    chunks = [(b"IHDR", head), (b"IDAT", body), (b"IEND", b"")]
    found = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + found


def _npy(shape: str, descr: str = "|u1") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(64)


def _npz(shape: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("images.npy", _npy(shape))
    return buffer.getvalue()


def _deflated(members: dict[str, bytes], zeros: int) -> bytes:
    """A zip with `zeros` zeros after the last member, deflated to less than a hundredth."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, data in members.items():
            with file.open(name, "w") as part:
                part.write(data)
                for _ in range(zeros >> 20 if name == list(members)[-1] else 0):
                    part.write(bytes(1 << 20))
    return buffer.getvalue()


def _torch_bomb() -> bytes:
    """A torch file whose storage is deflated zeros."""
    plain = zipfile.ZipFile(io.BytesIO(samples.torch_file({"w": torch.zeros(1)})))
    members = {part.filename: plain.read(part) for part in plain.infolist()}
    storage = next(name for name in members if name.endswith("data/0"))
    return _deflated({name: data for name, data in members.items() if name != storage} | {storage: b""}, BIG)


def _rows(count: int) -> bytes:
    """Parquet of `count` equal rows, which dictionaries and runs make a few kilobytes."""
    picture = samples.image("png") * 20
    table = pyarrow.table({"img": [{"bytes": picture, "path": None}] * 5000, "label": [0] * 5000})
    buffer = io.BytesIO()
    with pyarrow.parquet.ParquetWriter(buffer, table.schema, compression="zstd") as writer:
        for _ in range(count // 5000):
            writer.write_table(table)
    return buffer.getvalue()


def _labels(top: int) -> bytes:
    buffer = io.BytesIO()
    rows = [{"bytes": samples.image("png"), "path": None}] * 2
    pyarrow.parquet.write_table(pyarrow.table({"img": rows, "label": [0, top]}), buffer)
    return buffer.getvalue()


_PROMISE = b'{"w":{"dtype":"U8","shape":[1152921504606846976],"data_offsets":[0,1]}}'


def _laughs() -> bytes:
    """Twelve lines, each of nine times the line before."""
    lines = ["a0: &a0 [x, x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))]
    return "\n".join(lines).encode()


BOMBS: dict[str, Callable[[], tuple[str, bytes]]] = {
    "a picture of 60,000 x 60,000": lambda: ("0/a.png", _png(60_000, 60_000)),
    "a picture of 2^31 x 2^31": lambda: ("0/a.png", _png(2**31 - 1, 2**31 - 1)),
    "an npz of 10^12": lambda: ("x.npz", _npz("(1000000000000,)")),
    "an npz of 10^30": lambda: ("x.npz", _npz(f"({10**30}, 2)")),
    "an npz whose header digs": lambda: ("x.npz", _npz("(" + "-" * 80 + "1,)")),
    "an npz of deflated zeros": lambda: ("x.npz", _deflated({"images.npy": _npy(f"({BIG + 64},)")}, BIG)),
    "a torch file of deflated zeros": lambda: ("x.pt", _torch_bomb()),
    "a pickle whose memo has number 2^31": lambda: ("x.pkl", b"\x80\x02]r\xff\xff\xff\x7f."),
    "a pickle with bytes of 2^50": lambda: ("x.pkl", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 50) + b"x."),
    "a pickle with a torch zip of zeros": lambda: (
        "x.pkl", b"ctorch.storage\n_load_from_bytes\n(" + samples._string(_torch_bomb()) + b"tR."
    ),
    "a pickle that digs": lambda: ("x.pkl", b"(" * 10**6 + b"t" * 10**6 + b"."),
    "safetensors with a header of 2^60": lambda: ("x.safetensors", struct.pack("<Q", 1 << 60) + b"{}"),
    "safetensors of 2^60 numbers": lambda: ("x.safetensors", struct.pack("<Q", len(_PROMISE)) + _PROMISE + b"x"),
    "Parquet labels of 2^62": lambda: ("x.parquet", _labels(2**62)),
    "Parquet of 250,000 equal rows": lambda: ("x.parquet", _rows(250_000)),
    "YAML that laughs": lambda: ("x.yaml", _laughs()),
    "YAML that digs": lambda: ("x.yaml", b"{a: " * 100_000),
}  # fmt: skip

READ = """
import json, psutil
free = psutil.virtual_memory()._replace(available=1 << 30)
psutil.virtual_memory = lambda: free
for folder, name in FILES:
    os.chdir(folder)
    said = []
    for read in (
        lambda: inputs.read(name, "private"),
        lambda: generator_of(Request(["x"], private="y", prior=name)),
        lambda: external.parse("{arch: squeezenet1_1, weights: " + name + ", classes: 10, size: 32}").load(),
        lambda: external.parse(name),
    ):
        try:
            read()
            said.append("read")
        except UserError as problem:
            said.append(str(problem))
    print(json.dumps([said, (guard.peak_bytes() - before) >> 20, guard.FIRED]))
"""


@pytest.fixture(scope="module")
def met(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[str], int, list[str]]]:
    """Bomb -> (what four readers said, the largest memory so far in MiB, what fired); all in one process."""
    files = []
    for number, make in enumerate(BOMBS.values()):
        name, data = make()
        path = tmp_path_factory.mktemp(f"bomb{number}") / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        files.append((str(path.parents[name.count("/")]), "." if "/" in name else name))
    said = child(f"FILES = {files!r}\n{READ}", tmp_path_factory.mktemp("readers")).splitlines()
    return dict(zip(BOMBS, map(json.loads, said[:-1]), strict=True))


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_one_line_before_it_goes_off(name: str, met: dict) -> None:
    said, peak, fired = met[name]
    assert len(said) == 4 and "read" not in said and not any("\n" in line for line in said) and fired == []
    assert peak < 400


def test_whole_files_pass_the_check_for_bombs(tmp_path: Path) -> None:
    for suffix, data in (
        ("pt", samples.torch_file(samples.tensors())), ("pth", samples.torch_file(samples.tensors(), False)),
        ("pkl", samples.official()), ("pt", samples.torch_file({"w": torch.zeros(1 << 20)})),
    ):  # fmt: skip
        path = tmp_path / f"x.{suffix}"
        path.write_bytes(data)
        bombs.check_weights(path)
    (tmp_path / "x.parquet").write_bytes(samples.parquet("zstd"))
    bombs.check_parquet([tmp_path / "x.parquet"], "img", "label", "x")
    found = inputs.read(str(tmp_path / "x.parquet"), "private")[0]
    assert found.labels.tolist() == [0, 1, 0] and found.names == {0: "a", 1: "b"} and found.images.shape == (3, 3, 9, 8)
    assert np.array_equal(found.images[0].shape, (3, 9, 8))

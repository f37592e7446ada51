"""Keys, the cache, checkpoints, the scheduler and the inventory, on stages that take milliseconds."""

import ast
import hashlib
import json
import linecache
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, ClassVar

import cloudpickle
import pytest
import torch
from pydantic import Field

from mi_utils import code_digest, schedule, store
from mi_utils.errors import UserError
from mi_utils.schedule import Watch, in_order, levels
from mi_utils.stage import Config, Job, Output, Stage, StageFailed, clean, run, status

COMPUTED: list[str] = []


class Places(Config):
    """A source whose content is known by its fingerprint, wherever it lies."""

    path: Path = Path("here")
    size: int = 8
    content: ClassVar[str] = "pixels"

    def fingerprint(self) -> str:
        return self.content


class Bare(Config):
    path: Path = Path("here")


class Sum(Stage):
    n: int = 3
    scale: float = 1.0
    seed: int = 0
    options: dict[str, float] = {}
    source: Places | Bare = Places()
    before: tuple[Stage, ...] = ()

    def compute(self, job: Job) -> Output:
        COMPUTED.append(self.key)
        total = self.scale * torch.arange(self.n, dtype=torch.float32)
        total += sum(stage.result().tensors["total"].sum() for stage in self.before)
        return Output({"total": total, "row": total[1:]}, {"n": self.n, "name": "sum"})


class Draws(Stage):
    """Draws from the default stream, as dropout does."""

    seed: int = 0

    def compute(self, job: Job) -> Output:
        assert torch.get_num_threads() == 1
        return Output({"draw": torch.rand(4) @ torch.rand(4, 300)})


class Faulty(Stage):
    """Fails in the manner it is told, as long as `broken`."""

    manner: str
    broken: ClassVar[bool] = True

    def compute(self, job: Job) -> Output:
        if self.broken and self.manner == "user":
            raise UserError("seed: expected 0, found 1; set it")
        if self.broken and self.manner == "bug":
            raise RuntimeError("first line\nsecond line")
        if self.manner == "nan":
            job.check_finite("loss", torch.tensor([1.0, float("nan"), float("inf")]))
        if self.manner == "meta":
            return Output(meta={"value": torch.zeros(1)})
        return Output({"x": torch.zeros(1)})


class Train(Stage):
    """Two loops with everything a training changes: module, optimiser, scheduler, stream, lists, tensor."""

    checkpoint_seconds: ClassVar[float] = 0.0
    stop_at: ClassVar[tuple[int, int] | None] = None
    trace: ClassVar[list[tuple[int, int]]] = []
    seed: int = 0
    steps: int = 6

    def compute(self, job: Job) -> Output:
        stream = torch.Generator().manual_seed(self.seed)
        net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5))
        adam = torch.optim.Adam(net.parameters(), lr=0.1)
        decay = torch.optim.lr_scheduler.StepLR(adam, 2)
        curve, kept, mean = [], [], torch.zeros(4)
        state = dict(net=net, adam=adam, decay=decay, stream=stream, curve=curve, kept=kept, mean=mean)
        for loop in range(2):
            for step in job.steps(self.steps, state):
                self.trace.append((loop, step))
                if self.stop_at == (loop, step):
                    raise KeyboardInterrupt
                out = net(torch.randn(5, 3, generator=stream))
                loss = out.square().mean()
                adam.zero_grad()
                loss.backward()
                adam.step()
                decay.step()
                curve.append(loss.item())
                kept.append(out[0].detach())
                mean.mul_(0.9).add_(out.detach().mean(0))
        curves = {"curve": torch.tensor(curve), "kept": torch.stack(kept)}
        return Output({"weight": net[0].weight, "mean": mean, **curves})


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MI_STORE", str(tmp_path / "store"))
    COMPUTED.clear()
    return tmp_path / "store"


# ---------------------------------------------------------------- keys


def test_key_depends_on_every_part_of_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    variants = [
        Sum(),
        Sum(n=4),
        Sum(scale=2),
        Sum(options={"a": 1}),
        Sum(options={"b": 1}),
        Sum(source=Places(size=9)),
        Sum(before=(Sum(),)),
        Sum(before=(Sum(n=4),)),
        Sum(before=(Sum(before=(Sum(n=4),)),)),
        Draws(),
    ]
    monkeypatch.setattr(Places, "content", "other pixels")
    variants += [Sum(), Sum(before=(Sum(),))]
    keys = [variants[0].key]  # a key is found once: the first ones were not asked for before the change
    monkeypatch.setattr(Places, "content", "pixels")
    keys += [Sum().key, *(v.key for v in variants[1:10])]
    monkeypatch.setattr(Places, "content", "other pixels")
    keys += [variants[11].key]
    assert len(set(keys)) == len(keys)


def test_key_ignores_order_place_and_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key = Sum(n=2, scale=1, options={"a": 1, "b": 2}).key
    assert len(key) == 24 and int(key, 16)
    assert Sum(options={"b": 2, "a": 1}, scale=1.0, n=2).key == key
    monkeypatch.setenv("MI_STORE", str(tmp_path / "elsewhere"))
    monkeypatch.chdir(tmp_path)
    assert Sum(n=2, options={"a": 1, "b": 2}, source=Places(path=tmp_path / "data")).key == key


def test_another_process_refuses_newer_source(monkeypatch: pytest.MonkeyPatch) -> None:
    # That keys agree between processes is part of every test below that uses workers or jobs.
    sent = cloudpickle.dumps(Sum().entry("cpu"))
    assert cloudpickle.loads(sent).opened() == Sum()
    monkeypatch.setattr(Places, "content", "other pixels")
    with pytest.raises(UserError, match="its source or data was edited while the run went on; run again"):
        cloudpickle.loads(sent).opened()


def test_a_copy_forgets_the_key() -> None:
    stage = Sum(n=2)
    assert stage.model_copy(update={"n": 5}).key == Sum(n=5).key != stage.key
    assert pickle.loads(pickle.dumps(stage)).key == stage.key
    assert "key" not in pickle.loads(pickle.dumps(stage)).__dict__
    with pytest.raises(UserError, match="Sum.m: no such field"):
        stage.model_copy(update={"m": 5})


def test_a_path_needs_a_fingerprint() -> None:
    with pytest.raises(UserError, match=r"Bare\.path: expected numbers.*`fingerprint`"):
        Sum(source=Bare()).key  # noqa: B018


def test_wrong_fields_are_one_line() -> None:
    with pytest.raises(UserError, match=r"^Sum\.sede: no such field; did you mean seed\?$"):
        Sum(sede=1)
    with pytest.raises(UserError, match=r"^Sum\.n: Input should be a valid integer.*found 'many'$"):
        Sum(n="many")
    with pytest.raises(UserError, match=r"size: no such field|size: Input should"):
        Sum(source={"size": "big"})
    with pytest.raises(ValueError, match="frozen"):
        Sum().n = 4


def test_keys_of_deep_recipes_are_cheap() -> None:
    began, stage = time.perf_counter(), Sum()
    for i in range(40):
        stage = Sum(n=i, before=(stage, stage, *(Sum(n=1000 + 10 * i + j) for j in range(3))))
    assert len(in_order([stage])) == 161
    assert time.perf_counter() - began < 1


def test_label_names_what_is_not_default() -> None:
    assert Sum(n=3, scale=2, before=(Sum(),)).label == "scale=2.0" and Faulty(manner="x").label == "manner=x"


def test_recipe_is_yaml_of_every_field() -> None:
    text = Sum(before=(Draws(seed=7),)).recipe()
    assert "class: Sum" in text and "scale: 1.0" in text and "- class: Draws\n  seed: 7" in text


# ---------------------------------------------------------------- source digest


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose import would end the process: it is only ever read."""
    files = {
        "__init__.py": "raise SystemExit('imported')",
        "stages.py": "from . import maths\nfrom .more.tools import double\nimport os\n",
        "maths.py": '"""Doc."""\nimport toy.constants\ndef f(x):\n "Twice."\n return 2 * x  # twice\n',
        "constants.py": "A = 1.0\n",
        "more/__init__.py": "B = 1\n",
        "more/tools.py": "def double(x):\n    from ..late import late\n    return late(x)\n",
        "late.py": "def late(x): return f'{x:>{4}} {{}}' 'end'\n",
        "unused.py": "C = 1\n",
    }
    for name, text in files.items():
        path = tmp_path / "toy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "toy"


def toy_digest() -> str:
    for known in (code_digest._places, code_digest._find, code_digest._read, code_digest.closure):
        known.cache_clear()
    return code_digest.closure("toy.stages")[0]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("maths.py", "2 * x", "3 * x"),
        ("constants.py", "1.0", "1"),
        ("late.py", ">", "<"),
        ("more/tools.py", "late(x)", "late(-x)"),
        ("stages.py", "import os", "import math"),
    ],
)
def test_an_edited_helper_changes_the_key(package: Path, name: str, old: str, new: str) -> None:
    before, path = toy_digest(), package / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert toy_digest() != before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("maths.py", "# twice", "# two times x"),
        ("maths.py", "Twice.", "Two times."),
        ("maths.py", '"""Doc."""\n', ""),
        ("maths.py", "2 * x", "(2\n  * x)"),
        ("constants.py", "1.0", "1.00"),
        ("unused.py", "1", "2"),
        ("__init__.py", "imported", "read"),
    ],
)
def test_layout_and_comments_keep_the_key(package: Path, name: str, old: str, new: str) -> None:
    before, path = toy_digest(), package / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert toy_digest() == before


def test_normal_form_is_fixed_across_python_versions() -> None:
    text = """
import a.b as c
class K(object, metaclass=type): pass
@c.d
async def f(x: int = -1, /, *a, k=1e-3, **kw) -> None:
    "doc"
    global g
    async with x as y, c: g = [i for i in y if i]
    try: return f"{x!r:>{k}}{{}}" "tail" f"{y=}"
    except* ValueError as e: raise
    match x:
        case {"a": [1, *_]} | None: pass
        case K(b=2): pass
    return b"\\x00", 1j, ..., u"s", True, x[1:, ::2], lambda: (yield)
"""
    digest = hashlib.sha256(code_digest.normal_form(ast.parse(text)).encode()).hexdigest()
    assert digest[:16] == "ca2c6928bbdcfd7d"


def test_a_file_edited_after_loading_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sum, "_defined", 0.0)
    with pytest.raises(UserError, match="edited after it was loaded; restart Python"):
        Sum(n=12).key  # noqa: B018


def test_a_notebook_cell_run_again_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    scope = vars(sys.modules["__main__"])
    monkeypatch.setattr(code_digest, "_find", lambda _: None)

    def cell(text: str, number: int) -> None:
        linecache.cache[f"<cell {number}>"] = (len(text), None, text.splitlines(True), f"<cell {number}>")
        exec(compile(text, f"<cell {number}>", "exec"), scope)

    equation, constant = "def helper(x):\n    return A * x\n", "A = 2.0\n"
    typed = "class Typed(Stage):\n    def compute(self, job):\n        return helper(1)\n"
    scope["Stage"] = Stage
    keys = []
    for number, text in enumerate([constant, equation, typed]):
        cell(text, number)
    keys.append(scope["Typed"]().key)
    cell("# the same\n" + equation, 3)
    assert scope["Typed"]().key == keys[0]
    edited = [equation.replace("*", "+"), "A = 3.0\n", typed.replace("1", "2")]
    for number, text in enumerate(edited, start=4):
        cell(text, number)
        keys.append(scope["Typed"]().key)
    assert len(set(keys)) == 4
    for name in ("A", "helper", "Typed", "Stage"):
        del scope[name]


# ---------------------------------------------------------------- results


def test_a_result_is_computed_once_and_read_back_whole(own_store: Path) -> None:
    stage = Sum(n=3, before=(Sum(n=2),))
    assert not stage.stored()
    first = stage.result()
    assert COMPUTED == [Sum(n=2).key, stage.key]
    again = Sum(n=3, before=(Sum(n=2),)).result()
    assert len(COMPUTED) == 2 and stage.stored()
    assert torch.equal(again.tensors["total"], torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(again.tensors["row"], first.tensors["row"])
    assert again.meta == {"n": 3, "name": "sum"} and again.key == stage.key
    assert again.device == "cpu" and again.seconds >= 0 and again.commit
    manifest = json.loads((stage.folder / "output" / "manifest.json").read_text())
    assert manifest["n"] == {"total": [3], "row": [2]}
    assert (stage.folder / "recipe.yaml").read_text() == stage.recipe()
    assert oct(own_store.stat().st_mode & 0o777) == "0o700"
    assert not list((own_store / "tmp").iterdir())


def test_exca_holds_the_manifest_and_no_tensor() -> None:
    stage = Sum(n=3)
    stage.result()
    assert stage.entry().manifest() == store.manifest(stage.folder, stage.key)
    assert b"_rebuild_tensor" not in (stage.folder / "job.pkl").read_bytes()


def test_the_store_is_found_from_the_notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MI_STORE")
    (tmp_path / "project" / "notebooks").mkdir(parents=True)
    (tmp_path / "project" / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path / "project" / "notebooks")
    assert store.place() == tmp_path / "project" / ".store"
    (tmp_path / "bare").mkdir()
    monkeypatch.chdir(tmp_path / "bare")
    if not any((folder / "pyproject.toml").exists() for folder in Path.cwd().parents):
        assert store.place() == tmp_path / "bare" / ".store"


@pytest.mark.parametrize(
    ("manner", "kind", "text"),
    [
        ("user", UserError, "^seed: expected 0, found 1; set it$"),
        ("bug", StageFailed, r"^Faulty \(manner=bug\) \w{24}: RuntimeError: first line; traceback in "),
        ("nan", StageFailed, "loss: 2 of 3 values are NaN or infinite"),
        ("meta", StageFailed, r"Output.meta\['value'\]: expected JSON types"),
    ],
)
def test_a_failure_is_one_line_and_never_cached(
    manner: str, kind: type, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Faulty(manner=manner)
    for _ in range(2):
        with pytest.raises(kind, match=text) as caught:
            stage.result()
        assert "\n" not in str(caught.value)
        assert not stage.stored() and status([stage])[0].state == "failed"
    assert "Traceback" in (stage.folder / "failure.log").read_text()
    if manner in ("user", "bug"):
        monkeypatch.setattr(Faulty, "broken", False)
        assert stage.result().tensors["x"].shape == (1,)
        assert status([stage])[0].state == "stored" and not (stage.folder / "failure.log").exists()


# ---------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("stop", [(0, 0), (0, 3), (0, 5), (1, 0), (1, 4)])
def test_an_interrupted_loop_resumes_to_the_same_bits(
    stop: tuple[int, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = Train().result().tensors
    monkeypatch.setenv("MI_STORE", str(tmp_path / "second"))
    monkeypatch.setattr(Train, "stop_at", stop)
    with pytest.raises(KeyboardInterrupt):
        Train().result()
    torch.rand(17)  # the default stream is elsewhere by now
    monkeypatch.setattr(Train, "stop_at", None)
    monkeypatch.setattr(Train, "trace", [])
    found = Train().result().tensors
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert Train.trace[0] == stop and Train.trace[-1] == (1, 5)
    assert not list(Train().folder.glob("checkpoint*"))


def test_ends_of_short_loops_are_saved_with_the_next_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Train, "checkpoint_seconds", 1e9)
    monkeypatch.setattr(Train, "stop_at", (1, 1))
    with pytest.raises(KeyboardInterrupt):
        Train().result()
    assert not list(Train().folder.glob("checkpoint*"))
    job = Job(Train(), torch.device("cpu"))
    end = job._capture(6, {})
    job._waiting[Train().folder / "checkpoint-0.pt"] = end
    job._save(Train().folder / "checkpoint-1.pt", job._capture(2, {}))
    steps = [store.read_checkpoint(Train().folder / f"checkpoint-{i}.pt")["step"] for i in (0, 1)]
    assert steps == [6, 2] and not job._waiting


def test_checkpoints_keep_their_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    now, saved = [0.0], []
    monkeypatch.setattr("mi_utils.stage.time.monotonic", lambda: now[0])
    monkeypatch.setattr(Train, "checkpoint_seconds", 20.0)
    job = Job(Train(), torch.device("cpu"))

    def save(path: Path, payload: bytes) -> None:
        saved.append(now[0])
        job._saved_at = now[0]

    monkeypatch.setattr(job, "_save", save)
    for _ in job.steps(100, {}):
        now[0] += 3
    assert saved == [21.0 * i for i in range(1, 15)]


def test_a_changed_recipe_does_not_see_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Train, "stop_at", (0, 3))
    with pytest.raises(KeyboardInterrupt):
        Train(seed=0).result()
    assert status([Train(seed=0)])[0].state == "interrupted"
    monkeypatch.setattr(Train, "stop_at", None)
    monkeypatch.setattr(Train, "trace", [])
    Train(seed=1).result()
    assert Train.trace[0] == (0, 0)


def test_a_number_given_has_the_key_of_the_same_default() -> None:
    assert Sum(scale=1).key == Sum(scale=1.0).key == Sum().key
    for annotation in (float, float | None, Annotated[float, Field(ge=0)]):
        with pytest.raises(TypeError, match=r"Wrong.x: write its default 1 as 1.0"):
            type("Wrong", (Config,), {"__annotations__": {"x": annotation}, "x": 1})


def test_state_must_be_restorable_and_loops_not_nested() -> None:
    job = Job(Train(), torch.device("cpu"))
    for bad in ({"x": 3}, {"x": [object()]}):
        with pytest.raises(UserError, match="job.steps: state 'x': expected"):
            job._capture(0, bad)
    with pytest.raises(RuntimeError, match="Train: job.steps is given 'x' twice; rename one"):
        next(job.steps(1, {"x": [1.0], "y": []}, {"x": []}))
    with pytest.raises(RuntimeError, match="job.steps lies inside job.steps"):
        for _ in job.steps(2, {}):
            next(job.steps(2, {}))


# ---------------------------------------------------------------- run


def test_order_and_levels() -> None:
    a, b = Sum(n=1), Sum(n=2)
    c = Sum(n=3, before=(b, a))
    d = Sum(n=4, before=(c, Sum(n=1)))
    assert [s.n for s in in_order([d, a])] == [2, 1, 3, 4]
    assert [[s.n for s in level] for level in levels(in_order([d]))] == [[2, 1], [3], [4]]
    assert [s.n for s in Sum(options={}, before=(a, b, Sum(n=1))).upstream()] == [1, 2]


def test_run_computes_what_is_missing_and_no_more(capsys: pytest.CaptureFixture) -> None:
    stages = [Sum(n=4, before=(Sum(n=2),)), Sum(n=3, before=(Sum(n=2),))]
    Sum(n=2).result()
    run(stages, workers=1)
    assert COMPUTED == [Sum(n=2).key, *(stage.key for stage in stages)]
    assert capsys.readouterr().err == "2 of 2 missing stages computed in 0 s\n"
    run(stages)
    assert len(COMPUTED) == 3 and capsys.readouterr().err == ""


def test_numbers_do_not_depend_on_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nor on the number of workers: see tests/faults.
    stages, found = [Draws(seed=i) for i in range(3)], []
    for name, order in (("a", stages), ("b", stages[::-1])):
        monkeypatch.setenv("MI_STORE", str(tmp_path / name))
        run(order, workers=1, device="cpu", progress=False)
        found.append([stage.result().tensors["draw"] for stage in stages])
    assert all(map(torch.equal, *found))
    assert len({float(draw[0]) for draw in found[0]}) == 3


def test_a_failure_stops_the_run_and_keeps_what_is_done() -> None:
    stages = [Sum(n=1), Faulty(manner="bug"), Sum(n=5)]
    with pytest.raises(StageFailed, match="first line"):
        run(stages, workers=1, progress=False)
    assert [row.state for row in status(stages)] == ["stored", "failed", "missing"]


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"cluster": "cloud"}, {"device": "gpu"}])
def test_run_refuses_before_it_computes(wrong: dict) -> None:
    with pytest.raises(UserError, match=f"^{next(iter(wrong))}: expected"):
        run([Sum()], **wrong)
    assert not COMPUTED


def test_a_warm_run_of_200_stages_is_immediate() -> None:
    stages = [Sum(n=i % 10, seed=i) for i in range(200)]
    run(stages, workers=1, progress=False)
    began = time.perf_counter()
    run([Sum(n=i % 10, seed=i) for i in range(200)])
    assert time.perf_counter() - began < 2
    began = time.perf_counter()
    stages[0].result()
    assert time.perf_counter() - began < 0.1


def test_job_arrays_run_level_by_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    stage = Sum(n=2, before=(Sum(n=3),))
    run([stage], cluster="local", device="cpu", progress=False)
    assert torch.equal(stage.result().tensors["total"], torch.tensor([3.0, 4.0]))
    assert not COMPUTED, "computed here instead of in a job"


def test_lines_are_few_outside_a_terminal(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(schedule.time, "monotonic", lambda: now[0])
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    with Watch(2, True) as watch:
        watch.start(Sum(n=5))
        for _ in range(4000):
            now[0] += 0.9
            watch.show()
    lines = capsys.readouterr().err.splitlines()
    assert 10 < len(lines) < 70 and lines[0].startswith("0/2 stages, 11 s: Sum n=5")


# ---------------------------------------------------------------- inventory


def test_status_tells_running_from_interrupted() -> None:
    stage = Sum(n=3)
    gone = subprocess.run([sys.executable, "-Sc", "import os; print(os.getpid())"], capture_output=True)
    said = dict(pid=os.getpid(), host=os.uname().nodename, started=time.time(), updated=time.time())
    store.write_atomically(stage.folder / "progress.json", json.dumps(said).encode())
    assert status([stage])[0].state == "running"
    for change in ({"pid": int(gone.stdout)}, {"started": 1000.0}, {"host": "other", "updated": 1000.0}):
        store.write_atomically(stage.folder / "progress.json", json.dumps(said | change).encode())
        assert status([stage])[0].state == "interrupted", change


def test_status_lists_the_store() -> None:
    assert status() == []
    run([Sum(n=2, before=(Sum(n=1),)), Draws(seed=3)], workers=1, progress=False)
    rows = {row.key: row for row in status()}
    assert rows.keys() == {s.key for s in (Sum(n=2, before=(Sum(n=1),)), Sum(n=1), Draws(seed=3))}
    row = rows[Draws(seed=3).key]
    assert (row.stage, row.description, row.state) == ("Draws", "seed=3", "stored") and row.bytes > 100


def test_clean_removes_what_no_recipe_needs(own_store: Path) -> None:
    keep, lose = Sum(n=2, before=(Sum(n=1),)), Sum(n=7)
    run([keep, lose], workers=1, progress=False)
    planned = clean([keep], dry_run=True)
    assert lose.stored() and planned == sum(row.bytes for row in status([lose]))
    assert clean([keep]) == planned
    assert [s.stored() for s in (keep, Sum(n=1), lose)] == [True, True, False]
    with store.lock(keep.key), ThreadPoolExecutor(1) as other:
        other.submit(clean).result()
        assert len(status()) == 1 and keep.stored(), "a stage being computed was removed"
    assert clean() > 0 and status() == []


def test_clean_stays_inside_a_store(own_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "outside"
    (outside / "a,1" / "stage=x").mkdir(parents=True)
    (outside / "a,1" / "stage=x" / "mine").write_text("mine")
    Sum(n=1).result()
    (Sum(n=1).folder / "link").symlink_to(outside)
    (Sum(n=1).folder.parent / "stage=link").symlink_to(outside)
    clean()
    monkeypatch.setenv("MI_STORE", str(outside))
    with pytest.raises(UserError, match="expected a store, found no MI_STORE file"):
        clean()
    with pytest.raises(UserError, match="expected an empty folder or a result store"):
        Sum(n=2).result()
    assert (outside / "a,1" / "stage=x" / "mine").read_text() == "mine"

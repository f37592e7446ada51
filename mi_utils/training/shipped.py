"""Trained stages that come with the project: what takes long to train and depends on no user data.

`data/priors/<recipe>.safetensors` holds one stage's tensors; the name is the digest of its recipe, every upstream
configuration included, so that a file never serves another recipe.  `index.json` says what each is, its SHA-256 and
what made it.  `python -m mi_utils retrain` trains them anew.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from mi_utils import runtime
from mi_utils.errors import UserError
from mi_utils.report.folder import write
from mi_utils.stage import Job, Output, Stage

FOLDER = Path(__file__).resolve().parents[2] / "data" / "priors"
LIMIT = 5 * 2**20  # bytes of one file


class Shippable(Stage):
    """A stage whose result may come with the project; where it does not, `learn` makes it."""

    def compute(self, job: Job) -> Output:
        """The shipped result, or a training."""
        return find(self) or self.learn(job)

    def learn(self, job: Job) -> Output:
        """Make the result here."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it is trained")

    def fingerprint(self) -> str | None:
        """The SHA-256 of the shipped file, None where there is none."""
        return fingerprint(self)

    def upstream(self) -> tuple[Stage, ...]:
        """None of a shipped result: what it was trained from is not computed for it."""
        return super().upstream() if fingerprint(self) is None else ()


def recipe_digest(stage: Stage) -> str:
    """16 hex digits of the stage's recipe as it is printed; code and data contents are not part of it."""
    return hashlib.sha256(stage.recipe().encode()).hexdigest()[:16]


def switched_off() -> bool:
    """Whether everything is to be trained here (`MI_RETRAIN=1`, set by `retrain`)."""
    return os.environ.get("MI_RETRAIN") == "1"


def fingerprint(stage: Stage) -> str | None:
    """What a stage's key knows of its shipped file: the file's SHA-256, None where it is trained."""
    entry = None if switched_off() else _index(FOLDER, _changed(FOLDER)).get(recipe_digest(stage))
    return entry["sha256"] if entry else None


def find(stage: Stage) -> Output | None:
    """The shipped result of this recipe; None where there is none.  UserError where the file is not the index's."""
    if switched_off():
        return None
    name = recipe_digest(stage)
    entry = _index(FOLDER, _changed(FOLDER)).get(name)
    if entry is None:
        return None
    path = FOLDER / f"{name}.safetensors"
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise UserError(f"{path}: expected the file with SHA-256 {entry['sha256'][:12]}..., found another or none; "
                        "restore it, or train anew with python -m mi_utils retrain")  # fmt: skip
    return Output(load(content), entry["meta"] | {"shipped": entry["sha256"]})


def publish(stage: Stage) -> Path:
    """Write the stored result of a stage among the shipped ones; UserError where it is too large."""
    result = stage.result()
    tensors: dict[str, Tensor] = {n: t.contiguous() for n, t in result.tensors.items() if not n.startswith("log_")}
    content = save(tensors)
    if len(content) > LIMIT:
        raise UserError(f"{stage.title}: expected at most {LIMIT} bytes, found {len(content)}; make it narrower")
    name = recipe_digest(stage)
    facts = {
        "stage": type(stage).__name__,
        "sha256": hashlib.sha256(content).hexdigest(),
        "meta": result.meta,
        "seconds": round(result.seconds),
        "commit": result.commit,
        "made_on": runtime.describe(),
        "recipe": stage.recipe().splitlines(),
    }
    path = write(FOLDER / f"{name}.safetensors", content)
    _write_index({**_index(FOLDER, _changed(FOLDER)), name: facts})
    return path


def keep_only(stages: Iterable[Stage]) -> list[str]:
    """Remove the files and entries that none of these stages asks for; returns their names."""
    wanted = {recipe_digest(stage) for stage in stages}
    index = _index(FOLDER, _changed(FOLDER))
    stale = sorted(set(index) - wanted)
    for name in stale:
        (FOLDER / f"{name}.safetensors").unlink(missing_ok=True)
    if stale:
        _write_index({name: entry for name, entry in index.items() if name in wanted})
    return stale


def _write_index(index: dict[str, dict]) -> None:
    write(FOLDER / "index.json", json.dumps(index, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def _changed(folder: Path) -> int:
    path = folder / "index.json"
    return path.stat().st_mtime_ns if path.is_file() else 0


@lru_cache(maxsize=2)
def _index(folder: Path, changed: int) -> dict[str, dict]:
    """index.json; `changed` is there so that an edited one is read again."""
    return json.loads((folder / "index.json").read_text()) if changed else {}

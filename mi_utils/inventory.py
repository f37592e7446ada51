"""What the store holds, and the removal of what no longer belongs to any recipe in use."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import Timeout

from mi_utils import store
from mi_utils.errors import UserError
from mi_utils.schedule import in_order

if TYPE_CHECKING:
    from mi_utils.stage import Stage

_DRAFT_SECONDS = 86400


@dataclass(frozen=True)
class Row:
    """One stage. state: stored, running, interrupted, failed or missing; bytes on disk; seconds computed."""

    stage: str
    description: str
    key: str
    state: str
    bytes: int
    seconds: float | None


def _folders() -> list[Path]:
    """Every stage's folder in the store; none where there is no store yet."""
    root = store.place()
    if not root.exists():
        return []
    if not (root / store.MARKER).is_file():
        raise UserError(f"MI_STORE: expected a store, found no {store.MARKER} file in {root}; name another")
    return [f for f in sorted(root.glob("*,*/*")) if f.is_dir() and f.name != "logs" and not f.is_symlink()]


def status(stages: Sequence["Stage"] | None = None) -> list[Row]:
    """One row a stage: of these and all their upstreams, or else of all that the store holds."""
    if stages is not None:
        return [_row(s.folder, type(s).__name__, s.label, s.key) for s in in_order(stages)]
    rows = []
    for folder in _folders():
        said = store.read_json(folder / "stage.json", store.NAME)
        if said is not None:
            rows.append(_row(folder, said["stage"], said["label"], said["key"]))
    return rows


def _row(folder: Path, name: str, description: str, key: str) -> Row:
    manifest, progress = store.manifest(folder, key), store.read_json(folder / "progress.json", store.RUNNING)
    if manifest is not None:
        state = "stored"
    elif progress is not None and store.alive(progress):
        state = "running"
    elif (folder / "failure.json").is_file():
        state = "failed"
    elif progress is not None or next(folder.glob("checkpoint-*.pt"), None) is not None:
        state = "interrupted"
    else:
        state = "missing"
    return Row(name, description, key, state, store.size(folder), manifest and manifest["seconds"])


def clean(keep: Sequence["Stage"] | None = None, dry_run: bool = False) -> int:
    """Remove what these stages and their upstreams do not need (None: everything); returns the bytes freed.

    A stage that is being computed stays. Nothing outside the store is touched, and links are not followed.
    """
    kept = {stage.folder for stage in in_order(keep or [])}
    freed = sum(_remove(folder, dry_run) for folder in _folders() if folder not in kept)
    drafts = [d for d in store.place().glob("tmp/*") if time.time() - d.lstat().st_mtime > _DRAFT_SECONDS]
    logs = list(store.place().glob("*,*/logs")) if keep is None else []
    for path in (*drafts, *logs):
        freed += store.size(path)
        if not dry_run:
            store.discard(path)
    return freed


def _remove(folder: Path, dry_run: bool) -> int:
    """Remove one stage's folder unless a process holds its lock; returns its bytes."""
    said = store.read_json(folder / "stage.json", store.NAME)
    try:
        with store.lock(said["key"] if said else folder.name).acquire(timeout=0):
            freed = store.size(folder)
            if not dry_run:
                store.discard(folder)
            return freed
    except Timeout:
        return 0

"""A simulated schedule: how long a profile's stages would take on N machines, from seconds that were measured."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from mi_utils import store, studies
from mi_utils.errors import UserError
from mi_utils.schedule import in_order
from mi_utils.stage import Stage

Graph = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Estimate:
    """Seconds of every stage by key, and of how many stages each source spoke."""

    seconds: dict[str, float]
    sources: dict[str, int]


def makespan(graph: Graph, seconds: Mapping[str, float], slots: int, barrier: bool = False) -> float:
    """Seconds until all is done on `slots` equal places, by list scheduling.

    graph: upstream keys of each key, upstreams first. A stage begins once its upstreams are done and a place is free,
    the ready one with the longest path below it first. barrier: a level begins once the level before is done, as
    job arrays do it. At most 2 - 1/slots times the shortest schedule (Graham 1966), without barrier.
    """
    if not barrier:
        return _listed(graph, seconds, slots)
    depth: dict[str, int] = {}
    for key, needed in graph.items():
        depth[key] = max((depth[other] + 1 for other in needed), default=0)
    levels = [[key for key in graph if depth[key] == level] for level in range(max(depth.values(), default=-1) + 1)]
    return sum(_listed({key: () for key in level}, seconds, slots) for level in levels)


def _listed(graph: Graph, seconds: Mapping[str, float], slots: int) -> float:
    below = longest_below(graph, seconds)
    done: dict[str, float] = {}
    running: dict[str, float] = {}
    waiting, now = list(graph), 0.0
    while waiting or running:
        ready = [key for key in waiting if all(other in done for other in graph[key])]
        for key in sorted(ready, key=below.__getitem__, reverse=True)[: slots - len(running)]:
            waiting.remove(key)
            running[key] = now + seconds[key]
        now = min(running.values())
        for key in [key for key, end in running.items() if end == now]:
            done[key] = running.pop(key)
    return now


def longest_below(graph: Graph, seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds of the longest chain that begins with each stage: the critical path is their largest."""
    below = dict(seconds)
    for key in reversed(list(graph)):
        for other in graph[key]:
            below[other] = max(below[other], seconds[other] + below[key])
    return {key: below[key] for key in graph}


def graph_of(stages: Sequence[Stage]) -> dict[str, tuple[str, ...]]:
    """Upstream keys of each stage, upstreams first."""
    return {stage.key: tuple(upstream.key for upstream in stage.upstream()) for stage in stages}


def measured(stages: Sequence[Stage], figures: Path) -> Estimate:
    """Seconds of each stage: of the store's own result, else of the same recipe in `figures`/provenance.json, else
    the mean of the same description there, else of the same kind. UserError where a kind was never measured."""
    known = _recorded(figures / "provenance.json")
    seconds, sources = {}, {}
    for stage in stages:
        source, value = _seconds(stage, known)
        seconds[stage.key] = value
        sources[source] = sources.get(source, 0) + 1
    return Estimate(seconds, sources)


def _recorded(path: Path) -> dict[str, list[float]]:
    """Seconds under each key, each title without its key, and each kind of stage of a provenance.json."""
    try:
        rows = json.loads(path.read_bytes())["stages"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"figures: expected {path} of a run that was measured, found none that can be read") from error
    known: dict[str, list[float]] = {}
    for row in rows:
        title = row["stage"].removesuffix(row["key"]).strip()
        for name in (row["key"], title, title.split(" ")[0]):
            known.setdefault(name, []).append(row["seconds"])
    return known


def _seconds(stage: Stage, known: Mapping[str, list[float]]) -> tuple[str, float]:
    """(where it was found, seconds) of one stage."""
    kind = type(stage).__name__
    manifest = store.manifest(stage.folder, stage.key) if store.place().exists() else None
    if manifest is not None:
        return "stored here", manifest["seconds"]
    names = {"same recipe": stage.key, "same description": f"{kind} ({stage.label})", "same kind": kind}
    for source, name in names.items():
        if name in known:
            return source, mean(known[name])
    raise UserError(f"figures: expected the seconds of a {kind}, found none; run a smaller profile first")


def report(paper: str, profile: str, figures: Path, nodes: Sequence[int], jobs: int, scale: float, wait: float) -> str:
    """A table: hours and speed-up on each number of nodes, with `jobs` stages at a time on each; and what it rests on.

    Seconds of a stage: measured x `scale`, and `wait` more on a cluster, where each stage is a job.
    """
    stages = in_order(list(studies.PAPERS[paper].plan(profile).stages))
    estimate, graph = measured(stages, figures), graph_of(stages)
    alone = {key: value * scale for key, value in estimate.seconds.items()}
    sent = {key: value + wait for key, value in alone.items()}
    total, path = sum(alone.values()), max(longest_below(graph, alone).values())
    lines = [
        f"{paper}, profile {profile}: {len(stages)} stages, {_hours(total)} in all, {_hours(path)} in a row",
        "seconds: " + ", ".join(f"{n} {source}" for source, n in estimate.sources.items()) + f", x {scale:g}",
        f"{'nodes':>7}{'job arrays':>12}{'speed-up':>10}{'without levels':>16}",
    ]
    for count in nodes:
        arrays = makespan(graph, sent, count * jobs, barrier=True)
        free = makespan(graph, alone, count * jobs)
        lines.append(f"{count:>7}{_hours(arrays):>12}{total / arrays:>10.1f}{_hours(free):>16}")
    return "\n".join(lines) + "\n"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h"

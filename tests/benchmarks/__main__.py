"""python -m tests.benchmarks [NAME ...] [--device auto|cpu|cuda] [--rounds N]

Prints each benchmark's ratio and writes figures/bench.json (those measured before are kept).
"""

import argparse
import importlib
import json
import os
import pkgutil
import sys
import tempfile
from pathlib import Path

from mi_utils import runtime
from mi_utils.errors import UserError
from tests import benchmarks
from tests.benchmarks.harness import BENCHMARKS, measured

FILE = Path(__file__).resolve().parents[2] / "figures" / "bench.json"


def chosen(names: list[str]) -> list[str]:
    """The names, or all; UserError for one that does not exist."""
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if module.name != "__main__":
            importlib.import_module(f"tests.benchmarks.{module.name}")
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise UserError(f"benchmark: expected some of {', '.join(sorted(BENCHMARKS))}, found {unknown[0]!r}")
    return names or sorted(BENCHMARKS)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    device = runtime.device(options.device)
    runtime.prepare(device)
    names = chosen(options.names)
    saved = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    saved = {name: row for name, row in saved.items() if name in BENCHMARKS}  # of benchmarks that there are
    for name in names:
        reason = BENCHMARKS[name].unavailable(device)
        if reason:
            print(f"{name}: not run: {reason}")
            continue
        row = measured(BENCHMARKS[name], device, options.rounds)
        saved[name] = row | runtime.describe(device)
        print(told(name, saved[name]), flush=True)
        FILE.parent.mkdir(parents=True, exist_ok=True)
        FILE.write_text(json.dumps(saved, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    return 0


def told(name: str, row: dict) -> str:
    """A benchmark's row in words."""
    further = "".join(f", {key.replace('_', ' ')} {value:g}" for key, value in row["measures"].items())
    verdict = f"  MISSED: {'; '.join(row['missed'])}" if row["missed"] else ""
    return (
        f"{name}: {row['ratio']:g}x  (plain {row['plain_seconds']:g} s, fast {row['fast_seconds']:g} s; "
        f"{row['size']}; peak {row['plain_peak_mib']} and {row['fast_peak_mib']} MiB{further}; "
        f"{row['device']}, {row['threads']} threads){verdict}"
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as store:
        os.environ["MI_STORE"] = store
        try:
            sys.exit(main())
        except UserError as problem:
            sys.exit(str(problem))

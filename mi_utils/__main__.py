"""Command line: `python -m mi_utils reproduce | status | clean | export`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mi_utils.errors import UserError

PROFILES = ("smoke", "laptop", "gpu", "paper")

# The commands import what they need themselves, so that --help and a mistyped flag answer at once.


def positive(text: str) -> int:
    """A whole number above zero."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text!r}")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The grammar; a command's `run` takes what was parsed and returns the exit status."""
    top = argparse.ArgumentParser("python -m mi_utils", description="Model-inversion attacks, replicated.")
    top.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    commands = top.add_subparsers(required=True, metavar="reproduce|status|clean|export")
    add_reproduce(commands.add_parser("reproduce", help="run the notebooks into figures/<profile>/<paper>/"))
    commands.add_parser("status", help="list what the store holds").set_defaults(run=status)
    add_clean(commands.add_parser("clean", help="delete stored results"))
    add_export(commands.add_parser("export", help="write reconstructions as PNG files and one npz"))
    return top


def add_reproduce(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=reproduce)
    command.add_argument("--paper", action="append", metavar="NAME", help="may be repeated (default: all)")
    command.add_argument("--profile", default="laptop", help="smoke, laptop (default), gpu or paper")
    command.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:<number>")
    command.add_argument("--cluster", choices=("local", "slurm"), help="run the stages as job arrays")
    command.add_argument("--workers", type=positive, metavar="N", help="processes (default: one a core)")
    command.add_argument("--set", action="append", default=[], metavar="YAML", help="such as '{seeds: 1}'")
    command.add_argument("--figures", type=Path, metavar="DIR", help="instead of figures/ of the checkout")


def add_clean(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=clean)
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("--all", action="store_true", help="every stored result")
    which.add_argument("--unused", action="store_true", help="results that no paper needs any more")
    command.add_argument("--yes", action="store_true", help="do not ask")


def add_export(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=export)
    command.add_argument("paper")
    command.add_argument("attack")
    command.add_argument("dest", type=Path, help="a new or empty folder")
    command.add_argument("--profile", default="laptop")
    command.add_argument("--seed", type=int, default=0)


def reproduce(given: argparse.Namespace) -> int:
    from mi_utils import reproduce as work

    request = work.Request(
        profile=given.profile,
        device=given.device,
        cluster=given.cluster,
        workers=given.workers,
        overrides=work.parse_overrides(given.set),
        figures=given.figures or work.FIGURES,
    )
    return 1 if work.reproduce(work.chosen(given.paper), request) else 0


def status(given: argparse.Namespace) -> int:
    from mi_utils import inventory, store

    rows = sorted(inventory.status(), key=lambda row: (row.state, row.stage, row.description))
    for row in rows:
        seconds = "" if row.seconds is None else f"{row.seconds:.0f} s"
        print(f"{row.state:12}{row.bytes / 2**20:8.1f} MiB {seconds:>8}  {row.stage} {row.description}")
    print(f"{len(rows)} stages, {sum(row.bytes for row in rows) / 2**20:.1f} MiB in {store.place()}")
    return 0


def clean(given: argparse.Namespace) -> int:
    from mi_utils import inventory, store

    keep = needed() if given.unused else None
    freed = inventory.clean(keep, dry_run=True)
    if not given.yes:
        if not sys.stdin.isatty():
            raise UserError("clean: expected --yes where nobody can be asked, found none; add it")
        if input(f"Delete {freed / 2**20:.1f} MiB from {store.place()}? [y/N] ").strip().lower() != "y":
            print("nothing deleted")
            return 1
    print(f"{inventory.clean(keep) / 2**20:.1f} MiB deleted from {store.place()}")
    return 0


def needed() -> list:
    """The stages of every paper at every profile; says which profile cannot be planned here, and skips it."""
    from mi_utils import studies

    stages = []
    for paper, study in studies.PAPERS.items():
        for profile in PROFILES:
            try:
                planned = list(study.plan(profile).stages)
                [stage.key for stage in planned]  # reads the data that the stages depend on
            except UserError as error:
                print(f"note: results of {paper} at profile {profile} count as unused ({error})")
            else:
                stages += planned
    return stages


def export(given: argparse.Namespace) -> int:
    from mi_utils import load_reconstructions
    from mi_utils.export import write

    images, labels = load_reconstructions(given.paper, given.attack, profile=given.profile, seed=given.seed)
    write(images, labels, given.dest)
    print(f"{len(images)} images in {given.dest}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; an error that the user can mend is one line on stderr and exit status 2."""
    given = parser().parse_args(arguments)
    try:
        return given.run(given)
    except UserError as error:
        if given.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

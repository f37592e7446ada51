"""Command line: `python -m mi_utils COMMAND`; `--help` lists them."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mi_utils.errors import UserError, one_line

PROFILES = ("smoke", "laptop", "gpu", "paper")

# The commands import what they need themselves, so that --help and a mistyped flag answer at once.


UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}


def size_in_bytes(text: str) -> int:
    """A number with its unit, such as 2GB or 512MiB."""
    unit = next((unit for unit in UNITS if text.endswith(unit)), "")
    try:
        return int(float(text.removesuffix(unit)) * UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"expected a size such as 2GB or 512MiB, found {text!r}") from None


def positive(text: str) -> int:
    """A whole number above zero."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text!r}")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The grammar; a command's `run` takes what was parsed and returns the exit status."""
    top = argparse.ArgumentParser("python -m mi_utils", description="Model-inversion attacks, replicated.")
    top.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    add_reproduce(commands.add_parser("reproduce", help="run the notebooks into figures/<profile>/<paper>/"))
    add_report(commands.add_parser("report", help="the page and the scorecard of what lies in figures/<profile>/"))
    add_score(commands.add_parser("score", help="every metric of the reconstructions of any attack"))
    add_vulnerable(commands.add_parser("vulnerable", help="which private images an attack comes closest to"))
    add_audit(commands.add_parser("audit", help="what your own classifier gives away, from a CONFIG.yaml"))
    add_data(commands.add_parser("data", help="whether the real data sets lie where they should"))
    commands.add_parser("status", help="list what the store holds").set_defaults(run=status)
    add_clean(commands.add_parser("clean", help="delete stored results"))
    add_export(commands.add_parser("export", help="stored results for another machine; or reconstructions as PNG"))
    add_import(commands.add_parser("import", help="check an archive of `export` and take its results in"))
    add_retrain(commands.add_parser("retrain", help="train again what ships in data/priors (an hour)"))
    add_schedule(commands.add_parser("schedule", help="what N machines would give, from measured seconds"))
    return top


def add_reproduce(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=reproduce)
    command.add_argument("--paper", action="append", metavar="NAME", help="may be repeated (default: all)")
    command.add_argument("--profile", default="laptop", help="smoke, laptop (default), gpu or paper")
    command.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:<number>")
    command.add_argument("--cluster", metavar="YAML", help="run the stages as job arrays: slurm, local, or a mapping "
                         "such as '{engine: slurm, partition: gpu, gpus: 1, hours: 12}' (docs/cluster.md)")  # fmt: skip
    command.add_argument("--workers", type=positive, metavar="N", help="processes (default: one a core)")
    command.add_argument("--set", action="append", default=[], metavar="YAML", help="such as '{seeds: 1}'")
    command.add_argument("--figures", type=Path, metavar="DIR", help="instead of figures/ of the checkout")


def add_report(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=report)
    command.add_argument("--profile", choices=PROFILES, default="laptop", help="default: laptop")
    command.add_argument("--figures", type=Path, metavar="DIR", help="instead of figures/ of the checkout")


def add_score(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=score)
    command.description = (
        "Images are given as a folder with one subfolder per class, an .npz with `images` and `labels`, a .parquet "
        "file, a YAML mapping such as '{kind: torchvision, name: MNIST}', or stored:<paper>/<attack>[/<setting>]."
    )
    command.add_argument("reconstructions", nargs="+", metavar="RECONSTRUCTIONS", help="one set for each attack seed")
    command.add_argument("--private", metavar="IMAGES", help="what the attack should find (stored:... has it)")
    command.add_argument("--holdout", metavar="IMAGES", help="private images that the target was not trained on")
    command.add_argument("--prior", metavar="IMAGES", help="samples of the attacker's prior, no target involved")
    command.add_argument("--public", metavar="IMAGES", help="the attacker's public images")
    command.add_argument("--target", metavar="YAML", help="the attacked net: '{arch: resnet18, ...}' or a .yaml file")
    command.add_argument("--evaluator", action="append", default=[], metavar="YAML", help="another net; repeatable")
    command.add_argument("--kes", action="store_true", help="train classifiers on the reconstructions (minutes)")
    command.add_argument("--test", metavar="IMAGES", help="real images for --kes (default: the holdout)")
    add_comparison(command, "scores/<name>")


def add_vulnerable(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=vulnerable)
    command.description = (
        "TARGET is reconstructions of your private images' classes, as `score` reads them, or your classifier: "
        "'{arch: resnet18, weights: net.safetensors, classes: 10, size: 32}' or a .yaml file with that, which is then "
        "attacked by Plug & Play."
    )
    command.add_argument("target", nargs="+", metavar="TARGET", help="reconstructions, a set a seed; or one classifier")
    command.add_argument("--private", metavar="IMAGES", help="the images that the classifier learnt from")
    command.add_argument("--prior", metavar="GENERATOR", help="of the attack on a classifier: faces-32, faces-64 or a "
                         "StyleGAN2 file; beside reconstructions, samples of it")  # fmt: skip
    command.add_argument("--holdout", metavar="IMAGES", help="private images that it has not seen, as a reference")
    command.add_argument("--reference", "--public", dest="public", metavar="IMAGES", help="images that no attack made")
    command.add_argument("--seeds", type=positive, metavar="N", help="attacks on a classifier (default: 2)")
    command.add_argument("--samples", type=positive, metavar="N", help="reconstructions a class and seed (default: 32)")
    command.add_argument("--centre", type=positive, metavar="PX", help="crop of the generator's images")
    command.add_argument("--top", type=positive, default=32, metavar="N", help="pairs on the sheet (default: 32)")
    command.add_argument("--transform", default="recip1p", help="g of DDCS: recip1p (default), exp or linear")
    command.add_argument("--workers", type=positive, metavar="N", help="processes (default: one a core)")
    add_comparison(command, "vulnerable/<name>")


def add_audit(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=audit)
    command.description = "Attacks that fit a time budget, and what follows from them; see docs/your_model.md."
    command.add_argument("config", type=Path, metavar="CONFIG.yaml", help="the classifier, its classes and the images")
    command.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:<number>")
    command.add_argument("--workers", type=positive, metavar="N", help="processes (default: one a core)")
    command.add_argument("--out", type=Path, metavar="DIR", help="a new folder (default: audits/<name>)")


def add_data(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=data_check)
    actions = command.add_subparsers(required=True, metavar="check")
    check = actions.add_parser("check", help="what is there, what is missing, and where to get it")
    check.add_argument("names", nargs="*", metavar="NAME", help="data sets (default: all)")


def add_comparison(command: argparse.ArgumentParser, out: str) -> None:
    """How images are compared, the same in `score` and `vulnerable`."""
    command.add_argument("--size", type=positive, metavar="PX", help="resize all images to PX x PX")
    command.add_argument("--net", default="st-lpips-alex", help="perceptual network (default: st-lpips-alex)")
    command.add_argument("--scope", default="global", help="pairs of DDCS: global (default), or label: of equal class")
    command.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:<number>")
    command.add_argument("--budget", type=size_in_bytes, metavar="SIZE", help="memory for embeddings, such as 2GB")
    command.add_argument("--profile", default="laptop", help="of stored:... (default: laptop)")
    command.add_argument("--out", type=Path, metavar="DIR", help=f"a new folder (default: {out})")


def add_clean(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=clean)
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("--all", action="store_true", help="every stored result")
    which.add_argument("--unused", action="store_true", help="results that no paper needs any more")
    command.add_argument("--yes", action="store_true", help="do not ask")


def add_export(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=export)
    command.description = (
        "`export FOLDER` writes everything that is stored of the papers, for `import` on another machine; it may be "
        "a new .zip. `export PAPER ATTACK FOLDER` writes one attack's reconstructions as PNG files and an npz."
    )
    command.add_argument("what", nargs="+", metavar="FOLDER | PAPER ATTACK FOLDER", help="a new folder")
    command.add_argument("--paper", action="append", metavar="NAME", help="may be repeated (default: all)")
    command.add_argument("--profile", default="laptop")
    command.add_argument("--seed", type=int, help="of one attack's reconstructions (default: 0)")
    command.add_argument("--set", action="append", default=[], metavar="YAML", help="as the results were made with")


def add_import(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=import_)
    command.add_argument("archive", type=Path, help="a folder or .zip that `export` has written")
    command.add_argument("--digest", metavar="HEX", help="what `export` printed: another archive is refused")
    command.add_argument("--set", action="append", default=[], metavar="YAML", help="as the results were made with")


def add_retrain(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=retrain)
    command.add_argument("--device", default="cpu", help="cpu (default: what ships was made there), auto, cuda")
    command.add_argument("--workers", type=positive, metavar="N", help="processes (default: one a core)")


def add_schedule(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=schedule)
    command.add_argument("--paper", action="append", metavar="NAME", help="may be repeated (default: all)")
    command.add_argument("--profile", default="laptop", help="whose stages (default: laptop)")
    command.add_argument("--figures", type=Path, metavar="DIR", help="with provenance.json of a run that was measured")
    command.add_argument("--nodes", type=positive, nargs="+", default=[1, 2, 4, 8, 16], metavar="N")
    command.add_argument("--jobs", type=positive, default=1, metavar="N", help="stages at one time on a node")
    command.add_argument("--scale", type=float, default=1.0, metavar="X", help="times the measured seconds")
    command.add_argument("--wait", type=float, default=10.0, metavar="S", help="seconds that a job costs before it "
                         "computes: queue, start, imports (default: 10)")  # fmt: skip


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


def report(given: argparse.Namespace) -> int:
    from mi_utils import reproduce as work

    print(work.report(given.figures or work.FIGURES, given.profile))
    return 0


def score(given: argparse.Namespace) -> int:
    from mi_utils.scoring.request import Request, named_after
    from mi_utils.scoring.run import scored

    options = {name: value for name, value in vars(given).items() if name not in ("run", "debug", "evaluator", "out")}
    request = Request(
        **options,
        evaluators=given.evaluator,
        out=given.out or Path("scores") / named_after(given.reconstructions[0]),
        say=steps(),
    )
    scored(request).show()
    print(f"everything in {request.out}")
    return 0


def vulnerable(given: argparse.Namespace) -> int:
    from mi_utils.audit.request import Request, named_after
    from mi_utils.audit.run import audited

    options = {name: value for name, value in vars(given).items() if name not in ("run", "debug", "out")}
    out = given.out or Path("vulnerable") / named_after(given.target[0])
    audited(Request(**options, out=out, say=steps())).show()
    print(f"everything in {out}; open {out / 'vulnerable.html'}")
    return 0


def audit(given: argparse.Namespace) -> int:
    from mi_utils.your_model import audited, read

    settings = read(given.config)
    out = given.out or Path("audits") / (settings.name or given.config.absolute().stem)
    audited(settings, out, device=given.device, workers=given.workers, say=steps()).show()
    print(f"everything in {out}; open {out / 'report.html'}")
    return 0


def data_check(given: argparse.Namespace) -> int:
    """Exit status 1 where something that was asked for by name is not complete."""
    from mi_utils.data_sets import checks

    found = checks.checked(given.names)
    print(checks.text(found))
    return int(bool(given.names) and not all(one.complete for one in found))


def steps() -> Callable[[str], None]:
    """Prints which step has begun, and after how many seconds, to stderr."""
    import time

    began = time.monotonic()
    return lambda line: print(f"{time.monotonic() - began:6.1f} s  {line}", file=sys.stderr, flush=True)


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


def retrain(given: argparse.Namespace) -> int:
    """Train what ships, in a part of the store that knows no shipped file, so that an interrupted run goes on."""
    from mi_utils import store, studies
    from mi_utils.stage import run
    from mi_utils.training import shipped

    os.environ |= {"MI_RETRAIN": "1", "MI_STORE": str(store.root() / "retrain")}
    stages = [stage for study in studies.PAPERS.values() for stage in getattr(study, "shipped", list)()]
    run(stages, device=given.device, workers=given.workers)
    for stage in stages:
        print(f"{shipped.publish(stage).name}  {stage.title}")
    for name in shipped.keep_only(stages):
        print(f"{name}: no study asks for it any more, removed")
    return 0


def schedule(given: argparse.Namespace) -> int:
    from mi_utils import reproduce as work
    from mi_utils import simulate

    for paper in work.chosen(given.paper):
        figures = (given.figures or work.FIGURES / "laptop") / paper
        print(simulate.report(paper, given.profile, figures, given.nodes, given.jobs, given.scale, given.wait))
    return 0


def export(given: argparse.Namespace) -> int:
    if len(given.what) == 1 and given.seed is None:
        return export_results(given)
    if len(given.what) != 3 or given.paper or given.set:
        raise UserError(
            "export: expected FOLDER [--paper NAME] [--set YAML] for all stored results, or PAPER ATTACK FOLDER "
            f"[--seed N] for one attack's images, found {len(given.what)} names; see export --help"
        )
    return export_images(*given.what, given.profile, given.seed or 0)


def export_images(paper: str, attack: str, dest: str, profile: str, seed: int) -> int:
    from mi_utils import load_reconstructions
    from mi_utils.export import write

    images, labels = load_reconstructions(paper, attack, profile=profile, seed=seed)
    write(images, labels, Path(dest))
    print(f"{len(images)} images in {dest}")
    return 0


def export_results(given: argparse.Namespace) -> int:
    from mi_utils import exchange, studies
    from mi_utils.reproduce import parse_overrides

    dest = Path(given.what[0])
    index = exchange.export(given.paper or list(studies.PAPERS), given.profile, dest, parse_overrides(given.set))
    print(f"{len(index.results)} results, {sum(f.bytes for f in index.files.values()) / 2**20:.1f} MiB in {dest}")
    print(f"digest {index.digest}")
    return 0


def import_(given: argparse.Namespace) -> int:
    from mi_utils import exchange
    from mi_utils.reproduce import parse_overrides

    taken = exchange.take_in(given.archive, digest=given.digest, overrides=parse_overrides(given.set))
    print(f"{taken.added} results taken in, {taken.present} were here already")
    if taken.left:
        print(f"{taken.left} of other code, data or settings than here stay in {given.archive}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; an error that the user can mend is one line on stderr and exit status 2."""
    given = parser().parse_args(arguments)
    try:
        return given.run(given)
    except UserError as error:
        if given.debug:
            raise
        return refused(str(error))
    except (OSError, MemoryError) as error:
        if given.debug:
            raise
        named = getattr(error, "filename", None)
        said = getattr(error, "strerror", None) or str(error) or "not enough memory"
        return refused(f"{named}: {said}" if named is not None else said)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


def refused(problem: str) -> int:
    """One line on stderr; returns the exit status."""
    print(f"error: {one_line(problem)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

"""The forking server, a small disk of its own, and the numbers of the whole run in one line."""

import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fork_client import Forks

COUNTS = ("kills", "in a write", "of workers", "faults", "lost", "wrong", "half-written")


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    started = Forks(tmp_path_factory.mktemp("forks") / "log")
    yield started
    started.process.stdin.close()
    started.process.wait(timeout=60)
    started.process.stdout.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`disk("size=2m")` mounts a file system in memory; `disk("remount,ro")` changes it."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"a file system of its own needs the right to mount: {done.stderr.strip()}")
        return place

    yield mount
    subprocess.run(["umount", "--lazy", place], capture_output=True, check=False)


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Counter:
    """What this test adds to the numbers of the whole run, by the names in COUNTS."""
    counts: Counter = Counter()
    yield counts
    request.node.user_properties.append(("faults", dict(counts)))


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """How often each stage is killed; without any the test is left to `make test-faults`."""
    count = request.config.getoption("--kills", 0)
    if not count:
        pytest.skip("run by `make test-faults`: minutes of kills at random moments")
    return count


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=0, help="kills a stage (make test-faults: 3)")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """`faults: 140 kills (30 in a write, 12 of workers), ...`; with xdist, of all its processes."""
    total: Counter = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            found = dict(getattr(report, "user_properties", ())) if getattr(report, "when", "") == "teardown" else {}
            total.update(found.get("faults", {}))
    if total:
        kills, torn, workers, faults, lost, wrong, half = (total[name] for name in COUNTS)
        terminalreporter.write_line(
            f"faults: {kills} kills ({torn} in the middle of a write, {workers} of workers) and {faults} other faults: "
            f"{lost} results lost, {wrong} wrong, {half} served half-written"
        )

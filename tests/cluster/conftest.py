"""The tests' own Slurm, for `make test-cluster` alone: it installs packages and starts daemons."""

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.cluster import slurm as machine


@pytest.fixture(scope="session")
def slurm() -> Iterator[None]:
    if os.environ.get("MI_TEST_CLUSTER") != "1":
        pytest.skip("run by `make test-cluster`, which installs and starts a Slurm")
    with ExitStack() as stack:
        try:
            stack.enter_context(machine.running())
        except machine.Unavailable as why:
            pytest.skip(f"no Slurm here: {why}")
        yield

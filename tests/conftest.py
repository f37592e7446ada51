"""One CPU thread, and a store and Jupyter settings of the session's own: tests never touch the user's."""

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = dict(os.environ)
    torch.set_num_threads(1)
    for name in ("MI_STORE", "IPYTHONDIR", "JUPYTER_CONFIG_DIR"):
        os.environ[name] = str(tmp_path_factory.mktemp(name.lower()))
    os.environ["MPLBACKEND"] = "agg"
    yield
    os.environ.clear()
    os.environ |= before

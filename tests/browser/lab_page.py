"""JupyterLab on a loopback port and one notebook of it in headless Chromium, for the browser tests."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import ConsoleMessage, Page

PATIENCE = 1200  # seconds that a whole notebook may take; no test asserts a time
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
# Whether every code cell of the notebook in front has run, and where the kernel is now.
STATE = """() => {
    const panel = window.jupyterapp.shell.currentWidget;
    if (!panel?.content?.model || !panel.sessionContext?.session?.kernel) return null;
    const cells = [...panel.content.model.cells].filter(c => c.type === 'code');
    return {
        status: panel.sessionContext.session.kernel.status,
        counts: cells.map(c => c.executionCount),
        outputs: cells.map(c => c.outputs.toJSON()),
    };
}"""


def chromium() -> str | None:
    """Path of an installed Chromium or Chrome."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((found for found in map(shutil.which, names) if found), None)


@contextmanager
def server(folder: Path, store: Path) -> Iterator[str]:
    """JupyterLab on `folder` with settings of its own; gives the address that lets one in."""
    token, log = secrets.token_hex(16), folder.parent / f"{folder.name}.log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"JUPYTER{name}": str(folder.parent / name.lower()) for name in ("_RUNTIME_DIR", "LAB_SETTINGS_DIR",
                                                                           "LAB_WORKSPACES_DIR")}  # fmt: skip
    options = (
        f"--no-browser --allow-root --ip=127.0.0.1 --port={port} --ServerApp.port_retries=0 --notebook-dir={folder} "
        "--expose-app-in-browser --LabApp.extension_manager=readonly "
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"
    ).split()
    quiet = Path(own["JUPYTERLAB_SETTINGS_DIR"]) / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True)
    (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env=os.environ | own | {"JUPYTER_TOKEN": token, "MI_STORE": str(store), "OMP_NUM_THREADS": "1"},
            stdout=output, stderr=output,
        )  # fmt: skip
        try:
            _wait(port, token, process, log)
            yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token={token}"
        finally:
            process.terminate()
            process.wait(60)


def _wait(port: int, token: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status?token={token}", timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError(f"JupyterLab did not start: {log.read_text()[-2000:]}")


@dataclass
class Lab:
    """One notebook in one page of the browser."""

    page: Page
    pictures: Path  # where screenshots go
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(120_000)
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.problems.append(f"{message.text} ({message.location.get('url', '')})")

    def open(self, address: str) -> None:
        """The notebook, with a kernel."""
        self.page.goto(address)
        self.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=PATIENCE * 1000)
        self.page.wait_for_function(f"() => ['idle', 'busy'].includes(({STATE})()?.status)", timeout=PATIENCE * 1000)

    def menu(self, *path: str) -> None:
        """Clicks through a menu of JupyterLab."""
        self.page.locator(".lm-MenuBar-item", has_text=path[0]).click()
        self.page.locator(".lm-Menu-item", has_text=path[1]).first.click()

    def state(self) -> dict[str, Any]:
        """Status of the kernel, execution counts and outputs of the code cells."""
        return self.page.evaluate(STATE)

    def finished(self) -> dict[str, Any]:
        """Waits until every code cell has run or one has failed."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found = self.state()
            if errors(found) or (found["status"] == "idle" and None not in found["counts"]):
                return found
            self.page.wait_for_timeout(500)
        raise TimeoutError(f"{PATIENCE} s: {found['counts']}")

    def show(self, source: str) -> int:
        """Scrolls to the code cell that contains `source`; returns its place among all cells."""
        return self.page.evaluate(
            """async source => {
                const notebook = window.jupyterapp.shell.currentWidget.content;
                const place = [...notebook.model.cells].findIndex(
                    c => c.type === 'code' && c.sharedModel.getSource().includes(source));
                notebook.activeCellIndex = place;
                await notebook.scrollToItem(place, 'start');
                return place;
            }""",
            source,
        )

    def screenshot(self, name: str) -> None:
        """Kept as test output."""
        self.pictures.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=self.pictures / f"{name}.png")


def errors(state: dict[str, Any]) -> list[str]:
    """What went wrong in the outputs: tracebacks, and lines of views that could not be shown."""
    outputs = [output for cell in state["outputs"] for output in cell]
    found = [f"{o['ename']}: {o['evalue']}" for o in outputs if o["output_type"] == "error"]
    said = [str(o.get("data", {}).get("text/plain", "")) for o in outputs]
    return found + [text for text in said if "Not shown" in text]

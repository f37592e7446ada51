"""Each paper's notebook in JupyterLab as a reader has it: run all, move controls, and the picture follows.

Screenshots are kept in test-output/browser/.
"""

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from playwright.sync_api import Browser, Locator, sync_playwright

from mi_utils import studies
from tests.browser.lab_page import FLAGS, PATIENCE, Lab, chromium, errors, server

ROOT = Path(__file__).resolve().parents[2]
INTERRUPTED = "patch_mi"  # the notebook whose page is closed while a cell runs
# What JupyterLab says of the restart that the test asks for: of requests under way, and of the progress bar.
OF_A_RESTART = ("Canceled future for ", "Comm not found for comm id")
# The cell of each view, the control that is moved, and how.
MOVES = {
    "patch_mi": [("previews.patches", "slider"), ("widgets.frontier", "slider"), ("previews.transf", "dropdown")],
    "logit_augmentation": [("widgets.replay", "slider"), ("widgets.reconstructions", "dropdown")],
    "dmmia": [("widgets.replay", "slider"), ("widgets.reconstructions", "dropdown")],
    "ddcs_ngd": [("widgets.tuning", "slider"), ("widgets.nearest_private", "dropdown")],
}
DIGEST = """async image => {
    const content = await (await fetch(image.src)).arrayBuffer();
    return new Uint8Array(await crypto.subtle.digest('SHA-256', content)).join();
}"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = chromium()
    if path is None:
        pytest.skip("no Chromium found: install the system's (Debian: apt-get install chromium)")
    with sync_playwright() as play:
        made = play.chromium.launch(executable_path=path, args=list(FLAGS))
        yield made
        made.close()


def prepared(name: str, folder: Path) -> Path:
    """A copy of the notebook with the parameters of a smoke run."""
    notebook = load_notebook_node(str(ROOT / "notebooks" / f"{name}.ipynb"))
    given = {"profile": "smoke", "workers": 1, "figures": str(folder / "figures")}
    folder.mkdir()
    nbformat.write(parameterize_notebook(notebook, given), folder / f"{name}.ipynb")
    return folder


def opened(browser: Browser, address: str, name: str) -> Lab:
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    lab = Lab(page, ROOT / "test-output" / "browser")
    lab.open(address.format(f"{name}.ipynb"))
    return lab


def results(store: Path) -> dict[str, int]:
    """Every finished result and when it was written."""
    return {str(path): path.stat().st_mtime_ns for path in store.rglob("output/*.safetensors")}


def interrupt(browser: Browser, address: str, name: str, store: Path) -> None:
    """Closes the page in the middle of the long cell, once some of its stages are stored."""
    lab = opened(browser, address, name)
    lab.menu("Run", "Run All Cells")
    lab.show("run(plan.stages")
    lab.page.locator(".jp-OutputArea .widget-hprogress").wait_for(timeout=1000 * PATIENCE)
    while len(results(store)) < 8:
        lab.page.wait_for_timeout(200)
    lab.screenshot(f"{name}-running")
    lab.page.context.close()


def output_of(lab: Lab, source: str) -> Locator:
    """The output of a view's cell, in sight."""
    place = lab.show(source)
    found = lab.page.locator(f'.jp-Cell[data-windowed-list-index="{place}"] .jp-Cell-outputArea')
    found.locator(".widget-image").wait_for()
    return found


def picture(output: Locator) -> str:
    """A digest of the picture in sight (its address alone changes with every drawing)."""
    return output.locator(".widget-image").evaluate(DIGEST)


def move(output: Locator, how: str) -> None:
    """One step of the last slider from the keyboard, or the next option of the first dropdown that has several."""
    if how == "slider":
        handle = output.locator(".noUi-handle:visible").last
        at_start = float(handle.get_attribute("aria-valuenow")) == 0
        handle.focus()
        handle.press("ArrowRight" if at_start else "ArrowLeft")
        return
    for control in output.locator("select").all():
        if control.locator("option").count() > 1:
            control.select_option(index=1)
            return
    raise AssertionError("no dropdown with two options")


@pytest.mark.parametrize("name", sorted(studies.PAPERS))
def test_notebook_runs_and_its_pictures_follow_the_controls(name: str, browser: Browser, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with server(prepared(name, tmp_path / name), store) as address:
        before = {}
        if name == INTERRUPTED:
            interrupt(browser, address, name, store)
            before = results(store)
        lab = opened(browser, address, name)
        if name == INTERRUPTED:
            lab.menu("Kernel", "Restart Kernel and Run All Cells")
            lab.page.locator(".jp-Dialog button.jp-mod-accept").click()
        else:
            lab.menu("Run", "Run All Cells")
        found = lab.finished()
        assert errors(found) == []
        for source, how in MOVES[name]:
            output = output_of(lab, source)
            old = picture(output)
            lab.screenshot(f"{name}-{source.split('.')[1]}-before")
            move(output, how)
            for _ in range(600):
                if picture(output) != old:
                    break
                lab.page.wait_for_timeout(200)
            lab.screenshot(f"{name}-{source.split('.')[1]}-after")
            assert picture(output) != old, f"{source}: the picture did not follow the {how}"
            assert output.locator("p[role=alert]").count() == 0
        after = results(store)
        assert {path: after[path] for path in before} == before, "a stored stage was computed again"
        expected = OF_A_RESTART if name == INTERRUPTED else ()
        assert [said for said in lab.problems if not said.startswith(expected)] == []
        lab.page.context.close()

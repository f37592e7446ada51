"""Measures stay at the bottom: they import neither attacks, training, studies, report, models nor data."""

import ast
import re
from pathlib import Path

import mi_utils.metrics

ALLOWED = ("mi_utils.metrics", "mi_utils.errors")


def test_metrics_import_nothing_above_them():
    files = sorted(Path(mi_utils.metrics.__file__).parent.glob("*.py"))
    assert len(files) > 5
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert not name.startswith("mi_utils") or name.startswith(ALLOWED), (file.name, name)


def test_the_tests_that_the_readme_names_exist():
    folder = Path(mi_utils.metrics.__file__).parent
    named = set(re.findall(r"`(test_\w+)`", (folder / "README.md").read_text()))
    defined = {
        name
        for file in Path(__file__).parent.glob("test_metrics_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert len(named) > 4 and named <= defined

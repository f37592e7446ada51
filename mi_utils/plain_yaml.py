"""YAML that a user types or names, read into plain values: bounded in length and depth, and without aliases.

An alias stands for its whole anchor, so that a few of them print as gigabytes ("billion laughs").
"""

from pathlib import Path
from typing import Any

import yaml

from mi_utils.errors import UserError

MOST_CHARACTERS = 100_000
DEEPEST = 40


class _Plain(yaml.SafeLoader):
    """SafeLoader that knows no alias and no depth beyond DEEPEST."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not read; write the value out")
        if self.depth == DEEPEST:
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {DEEPEST}")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def load(text: str, what: str, example: str) -> Any:
    """The value that the YAML says.  UserError, naming `what` and giving the `example`, where it cannot be read."""
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"{what}: expected at most {MOST_CHARACTERS} characters of YAML, found {len(text)}; shorten it")
    try:
        return yaml.load(text, _Plain)
    except (
        yaml.YAMLError,
        ValueError,
        ArithmeticError,
        LookupError,
        AttributeError,
        TypeError,
        RecursionError,
    ) as problem:
        # The constructors of dates and numbers raise what Python's own raise.
        said = (getattr(problem, "problem", None) or str(problem) or type(problem).__name__).splitlines()[0]
        raise UserError(
            f"{what}: expected a YAML mapping such as {example}, found {shown(text)}, which cannot be read ({said})"
        ) from None


def mapping(text: str, what: str, example: str) -> dict[str, Any]:
    """The same for a mapping whose names are strings."""
    found = load(text, what, example)
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise UserError(f"{what}: expected a YAML mapping such as {example}, found {shown(text)}")
    return found


def read(path: Path, what: str) -> str:
    """The text of a YAML file, no longer than `load` takes; UserError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(4 * MOST_CHARACTERS + 1).decode(errors="replace")
    except OSError as problem:
        raise UserError(f"{what}: {path} cannot be read ({problem.strerror})") from None


def shown(text: str) -> str:
    """The text as a message quotes it."""
    return repr(text if len(text) <= 200 else text[:200] + "...")

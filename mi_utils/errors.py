"""The one exception that a user can act on."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """One line for the person at the keyboard: the field or file, what was expected, what was found, the remedy."""


def one_line(text: object) -> str:
    """The text as one line that a terminal shows as it is: a file's name may hold line ends and control characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


@contextmanager
def understood(name: object, expected: str) -> Iterator[None]:
    """What a decoder raises becomes one line: a hostile or damaged file may fail in any way."""
    try:
        yield
    except UserError:
        raise
    except Exception as problem:
        raise UserError(
            f"{name}: expected {expected}, but it cannot be read ({type(problem).__name__}); it is cut short, altered "
            "or of another kind"
        ) from problem

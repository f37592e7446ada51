"""The one exception that a user can act on."""


class UserError(ValueError):
    """One line for the person at the keyboard: the field or file, what was expected, what was found, the remedy."""


def one_line(text: object) -> str:
    """The text as one line that a terminal shows as it is: a file's name may hold line ends and control characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))

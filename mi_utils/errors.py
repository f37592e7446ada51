"""The one exception that a user can act on."""


class UserError(ValueError):
    """One line for the person at the keyboard: the field or file, what was expected, what was found, the remedy."""

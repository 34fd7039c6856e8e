"""The one exception that the command line turns into a single line and exit code 2."""

__all__ = ["UserError"]


class UserError(ValueError):
    """A mistake the user can mend: the message names what is wrong, and what is allowed or to be done."""

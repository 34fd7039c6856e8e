"""The one exception that the command line turns into a single line and exit code 2, and what it says of others."""

__all__ = ["UserError", "reason_of"]

LONGEST = 120


class UserError(ValueError):
    """A mistake the user can mend: the message names what is wrong, and what is allowed or to be done."""


def reason_of(error: BaseException) -> str:
    """What another library's exception says, as a part of a line: its first line, not more than 120 characters, or its
    name where it says nothing."""
    said = getattr(error, "strerror", None) or next(iter(str(error).strip().splitlines()), "")
    said = "".join(character if character.isprintable() else "?" for character in said)
    return (said if len(said) <= LONGEST else said[:LONGEST] + "…") or type(error).__name__

"""Exceptions that a person reads: the input is wrong, or the work must stop."""

from collections.abc import Sequence


class InputError(ValueError):
    """The user's input is wrong: the rule, then the value, then what is allowed.

    The command line prints the problems, one a line, and exits with code 2. Any other exception
    is a fault of the program or of the machine and exits with code 1.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))


class SweepError(RuntimeError):
    """A sweep stopped before its end; the message says why and what to do."""


class SealedError(LookupError):
    """Code that trains or searches asked for the label of a test utterance."""


def refuse(problems: Sequence[str]) -> None:
    """Raise one `InputError` that reports all `problems` at once; do nothing if there is none."""
    if problems:
        raise InputError(*problems)

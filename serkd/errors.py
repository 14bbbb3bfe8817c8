"""The one exception that means: the user's input is wrong."""

from collections.abc import Sequence


class InputError(ValueError):
    """The user's input is wrong: the rule, then the value, then what is allowed.

    The command line prints the problems, one a line, and exits with code 2. Any other exception
    is a fault of the program or of the machine and exits with code 1.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))


class SealedError(LookupError):
    """Code that trains or searches asked for the label of a test utterance."""


def refuse(problems: Sequence[str]) -> None:
    """Raise one `InputError` that reports all `problems` at once; do nothing if there is none."""
    if problems:
        raise InputError(*problems)

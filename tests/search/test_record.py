"""What the ledger keeps of a failed trial's traceback."""

import pytest

from serkd.search.record import error_message


@pytest.mark.parametrize(
    ("traceback", "message"),
    [
        (
            'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    raise\n'
            "serkd.errors.InputError: a: must be 1\nb: must be 2\n",
            "serkd.errors.InputError: a: must be 1\nb: must be 2",
        ),
        ("KeyError: 'x'\n", "KeyError: 'x'"),
        ("", ""),
    ],
)
def test_every_line_of_the_error_is_kept_and_no_frame(traceback: str, message: str) -> None:
    assert error_message(traceback) == message

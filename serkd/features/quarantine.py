"""Audio that an extraction could not use: all of it is named, none is silently left out."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from serkd.corpora.build import shorten
from serkd.errors import InputError
from serkd.files import write_json

QUARANTINE = "quarantine.json"


@dataclass(frozen=True)
class BadFile:
    """An utterance whose audio could not be used, and why."""

    utt_id: str
    path: str
    problem: str


class QuarantineError(InputError):
    """Some files of a corpus cannot be used; what was made of the others is kept."""


def refuse_bad(bad: Sequence[BadFile], folders: Sequence[Path]) -> None:
    """List bad files in each folder and refuse them; with none, there is no list and no error.

    Raises:
        QuarantineError: naming the first files, and the first list.
    """
    lists = [folder / QUARANTINE for folder in folders]
    for path in lists:
        if bad:
            write_json(path, [asdict(file) for file in bad])
        else:
            path.unlink(missing_ok=True)
    if bad:
        raise QuarantineError(
            *shorten([file.problem for file in bad]),
            f"{len(bad)} file(s) must be repaired, {lists[0]} lists them; then run this again: "
            "what was extracted from the others is kept",
        )

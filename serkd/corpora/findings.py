"""What the doctor says of a corpus."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "note"]
_MAX_NAMES = 3
LEVELS: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that is worth knowing; `utt_ids` are the utterances it is about.

    An error makes results wrong or impossible, a warning asks for a decision, a note informs.
    """

    level: Level
    kind: str
    message: str
    utt_ids: tuple[str, ...] = ()


def count(number: int, noun: str = "utterance") -> str:
    """ "1 utterance", "3 utterances"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def name_some(utt_ids: Iterable[str]) -> str:
    """The first names of a list, and how many more there are."""
    names = list(utt_ids)
    tail = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + tail


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Errors, then warnings, then notes, each in the order given."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))

"""IEMOCAP's evaluation files: what was heard in each utterance of a dialog, and by whom.

A block of lines for each utterance, fields separated by tabs::

    [6.2901 - 8.2357]   Ses01F_impro01_F000   neu   [2.5000, 2.5000, 2.5000]
    C-E2:   Neutral;    ()                    an evaluator's categories, one or more
    C-F1:   Neutral; Anger;    (curious)      the actor's own, which are no votes
    A-E3:   val 3; act 2; dom  2;    ()       valence, activation, dominance
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CODES = {
    "anger": "ang",
    "happiness": "hap",
    "excited": "exc",
    "neutral": "neu",
    "neutral state": "neu",
    "sadness": "sad",
    "frustration": "fru",
    "surprise": "sur",
    "fear": "fea",
    "disgust": "dis",
    "other": "oth",
}
LABELS = (*dict.fromkeys(CODES.values()), "xxx")  # xxx: no majority
_TIMES = r"\[\s*\d[\d.]* - \d[\d.]*\s*\]"
_DIALOG = r"(?P<dialog>Ses0(?P<session>[1-5])[FM]_(?P<kind>impro|script)\w+)"
_UTTERANCE = rf"(?P<utt_id>{_DIALOG}_(?P<letter>[FM])[^\W_]+)"
_HEADER = re.compile(rf"{_TIMES}\s+{_UTTERANCE}\s+(?P<label>\w+)\s+\[[^][]+\]$")
_IS_HEADER = re.compile(r"\[|(?![AC]-).*\bSes\d\d[FM]_\w+_[FM]\d")
_VOTES = re.compile(r"C-E\d+:(?P<categories>[^(]*)")


@dataclass(frozen=True)
class Evaluated:
    """An utterance as its evaluation has it; `label` is what most evaluators chose."""

    utt_id: str
    dialog: str
    session: str
    letter: str  # F or M: who speaks
    subset: str
    label: str
    origin: str
    votes: Counter[str] = field(default_factory=Counter)

    @property
    def speaker_id(self) -> str:
        return f"Ses0{self.session}{self.letter}"


def read_evaluation(
    path: Path, session: str, problems: list[str], strange: Counter[str]
) -> Iterator[Evaluated]:
    """The utterances of one file; what cannot be read is added to `problems`.

    A category that the corpus does not define is counted in `strange` and not voted for. Lines of
    no known form are evaluators' comments: an utterance cannot hide in one, as a line that names
    one must be its first.
    """
    current = None
    for number, raw in enumerate(path.read_text(encoding="latin-1").split("\n"), start=1):
        line, origin = raw.strip(), f"{path}, line {number}"
        if _IS_HEADER.match(line):
            if current is not None:
                yield current
            current = _first_line(line, session, origin, problems)
        elif line.startswith("C-E"):
            _count_votes(line, origin, current, problems, strange)
    if current is not None:
        yield current


def _first_line(line: str, session: str, origin: str, problems: list[str]) -> Evaluated | None:
    match = _HEADER.match(line)
    if match is None:
        problems.append(
            f"{origin}: must look like '[6.2901 - 8.2357] Ses01F_impro01_F000 neu "
            f"[2.5000, 2.5000, 2.5000]', got {line!r}"
        )
    elif match["session"] != session:
        problems.append(
            f"{origin}: must be an utterance of session {session}, got {match['utt_id']}"
        )
    elif match["label"] not in LABELS:
        problems.append(
            f"{origin}: the label must be one of {', '.join(LABELS)}, got {match['label']!r}"
        )
    else:
        return Evaluated(
            utt_id=match["utt_id"],
            dialog=match["dialog"],
            session=session,
            letter=match["letter"],
            subset="improvised" if match["kind"] == "impro" else "scripted",
            label=match["label"],
            origin=origin,
        )
    return None


def _count_votes(
    line: str,
    origin: str,
    current: Evaluated | None,
    problems: list[str],
    strange: Counter[str],
) -> None:
    match = _VOTES.match(line)
    if match is None:
        problems.append(f"{origin}: must look like 'C-E2: Neutral; Anger; ()', got {line!r}")
    elif current is not None:  # else the block's first line is among the problems
        names = {name.strip().lower() for name in match["categories"].split(";")} - {""}
        # an evaluator who gives two categories votes for both
        current.votes.update(sorted(CODES[name] for name in names if name in CODES))
        strange.update(name for name in names if name not in CODES)

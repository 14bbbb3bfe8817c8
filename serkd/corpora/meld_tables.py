"""MELD's tables: who says what, with which emotion and sentiment."""

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serkd.corpora.build import SourceUtterance, shorten
from serkd.errors import InputError, refuse

LABELS: Mapping[str, tuple[str, ...]] = {
    "emotion": ("neutral", "joy", "surprise", "anger", "sadness", "disgust", "fear"),
    "sentiment": ("neutral", "positive", "negative"),
}
RELEASED: Mapping[str, Mapping[str, tuple[int, ...]]] = {  # in the order of LABELS
    "train": {"emotion": (4710, 1743, 1205, 1109, 683, 271, 268), "sentiment": (4710, 2334, 2945)},
    "dev": {"emotion": (470, 163, 150, 153, 111, 22, 40), "sentiment": (470, 233, 406)},
    "test": {"emotion": (1256, 402, 281, 345, 208, 68, 50), "sentiment": (1256, 521, 833)},
}
GENDERS = {
    **dict.fromkeys(("Chandler", "Joey", "Ross"), "male"),
    **dict.fromkeys(("Monica", "Phoebe", "Rachel"), "female"),
}
_COLUMNS = {"emotion": "Emotion", "sentiment": "Sentiment"}
_NEEDED = ("Speaker", *_COLUMNS.values(), "Dialogue_ID", "Utterance_ID")


@dataclass(frozen=True)
class Table:
    """The utterances of a split, still without paths, and how many have each label."""

    rows: list[SourceUtterance]
    counts: Mapping[str, Counter[str]]


def read_table(path: Path, split: str, labels: str) -> Table:
    """Read one split.

    Raises:
        InputError: not UTF-8 or not CSV, a missing column, or values that are not MELD's; the
            lines are named.
    """
    rows: list[SourceUtterance] = []
    counts = {name: Counter[str]() for name in LABELS}
    problems: list[str] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or ()
            if missing := [name for name in _NEEDED if name not in columns]:
                raise InputError(
                    f"{path}: must have the columns {', '.join(_NEEDED)}, it lacks "
                    f"{', '.join(missing)}"
                )
            for row in reader:
                origin = f"{path}, line {reader.line_num}"
                if wrong := _problems(row):
                    problems += [f"{origin}: {problem}" for problem in wrong]
                    continue
                rows.append(_source(row, split, labels, origin))
                for name, column in _COLUMNS.items():
                    counts[name][row[column].strip()] += 1
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: must be CSV in UTF-8: {error}") from error
    seen: dict[str, SourceUtterance] = {}
    for source in rows:
        if (first := seen.setdefault(source.utt_id, source)) is not source:
            problems.append(f"{source.origin}: {source.utt_id} is repeated (first: {first.origin})")
    refuse(shorten(problems))
    return Table(rows, counts)


def _problems(row: Mapping[str | None, str | None]) -> list[str]:
    """What is wrong with a row; a short one has None for what it lacks."""
    problems = ["must have no more fields than the header"] if None in row else []
    for name, column in _COLUMNS.items():
        if (value := (row[column] or "").strip()) not in LABELS[name]:
            legal = ", ".join(LABELS[name])
            problems.append(f"{column} must be one of {legal}, got {value!r}")
    for column in ("Dialogue_ID", "Utterance_ID"):
        if not ((value := (row[column] or "").strip()).isascii() and value.isdigit()):
            problems.append(f"{column} must be a whole number, got {value!r}")
    if not (row["Speaker"] or "").strip():
        problems.append("Speaker must not be empty")
    return problems


def _source(row: Mapping[str, str], split: str, labels: str, origin: str) -> SourceUtterance:
    dialog, speaker = int(row["Dialogue_ID"]), row["Speaker"].strip()
    return SourceUtterance(
        utt_id=f"{split}_dia{dialog}_utt{int(row['Utterance_ID'])}",
        path=Path(),
        corpus="meld",
        speaker_id=speaker,
        gender=GENDERS.get(speaker, "unknown"),
        session=f"{split}_dia{dialog}",
        emotion=row[_COLUMNS[labels]].strip(),
        split=split,
        origin=origin,
    )


def differing_counts(path: Path, split: str, table: Table) -> list[str]:
    """Which counts of a split are not the release's."""
    released = RELEASED[split]
    expected = {"rows": sum(released["emotion"])}
    found = {"rows": len(table.rows)}
    for name, classes in LABELS.items():
        for value, count in zip(classes, released[name], strict=True):
            expected[f"{name} {value}"] = count
            found[f"{name} {value}"] = table.counts[name][value]
    return [
        f"{path}: MELD's {split} must have {name} {count}, found {found[name]}"
        for name, count in expected.items()
        if found[name] != count
    ]

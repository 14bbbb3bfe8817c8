"""Any corpus that comes with a table: CSV, JSON Lines or Parquet, one utterance a row."""

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from serkd.corpora.build import Listing, SourceUtterance, shorten
from serkd.errors import InputError, refuse

REQUIRED = ("path", "speaker_id", "emotion")
OPTIONAL = {"utt_id": "", "gender": "unknown", "session": "", "split": "", "corpus": "table"}
_GENDER_ALIASES = {"f": "female", "m": "male", "": "unknown"}
_SPLIT_ALIASES = {"val": "dev", "valid": "dev", "validation": "dev"}
Rows = list[tuple[str, dict[str, Any]]]


def scan(
    table_path: Path,
    columns: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    audio_root: Path | None = None,
) -> Listing:
    """Read the rows; every problem names its row.

    `columns` maps our names to the table's, where they differ. `labels` maps the table's emotions
    to ours; one that is mapped to nothing is left out, one that is not named stays as it is.
    Relative paths start at `audio_root` or, without it, at the table's folder. An utterance
    without `utt_id` gets its file's name without the ending. Genders `f` and `m` and the splits
    `val`, `valid` and `validation` are understood.

    Raises:
        InputError: no such table, unknown format, a missing column or path, or a label to map
            that the table does not have.
    """
    names = {name: name for name in (*REQUIRED, *OPTIONAL)} | dict(columns or {})
    rows = _read(table_path)
    refuse(_column_problems(table_path, names, columns or {}, rows))
    root, labels = audio_root or table_path.parent, labels or {}
    found = [_source(table_path, place, row, names, root) for place, row in rows]
    refuse(_row_problems(table_path, found, labels))
    kept = [replace(s, emotion=labels.get(s.emotion, s.emotion)) for s in found]
    left_out = Counter(s.emotion for s, new in zip(found, kept, strict=True) if not new.emotion)
    notes = [f"left out: {count} utterances labelled {name}" for name, count in left_out.items()]
    return Listing([s for s in kept if s.emotion], notes=notes if labels else [])


def _column_problems(
    path: Path, names: Mapping[str, str], columns: Mapping[str, str], rows: Rows
) -> list[str]:
    found = list(dict.fromkeys(name for _, row in rows for name in row))
    problems = [
        f"--column must name one of {', '.join((*REQUIRED, *OPTIONAL))}, got {name!r}"
        for name in names
        if name not in REQUIRED and name not in OPTIONAL
    ]
    wanted = {*REQUIRED, *columns}
    return problems + [
        f"{path}: must have the column {names[name]!r} for {name}, "
        f"it has {', '.join(found)} (map names with --column {name}=...)"
        for name in (*REQUIRED, *OPTIONAL)
        if name in wanted and names[name] not in found
    ]


def _row_problems(
    path: Path, sources: Sequence[SourceUtterance], labels: Mapping[str, str]
) -> list[str]:
    problems = [f"{s.origin}: path must not be empty" for s in sources if not s.path.name]
    problems += [f"{s.origin}: emotion must not be empty" for s in sources if not s.emotion]
    present = {source.emotion for source in sources}
    return shorten(problems) + [
        f"--label must name emotions of {path} ({', '.join(sorted(present))}), got {name!r}"
        for name in labels
        if name not in present
    ]


def _read(path: Path) -> Rows:
    """The rows, each with its place in the file: a line of text, or a row of Parquet."""
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if not path.is_file():
        raise InputError(f"{path}: must be a table of utterances, but there is none")
    if path.suffix not in readers:
        raise InputError(f"{path}: must end in {', '.join(readers)}, got {path.suffix!r}")
    try:
        rows = readers[path.suffix](path)
    except InputError:
        raise
    except UnicodeDecodeError as error:
        place = f"line {_first_not_utf8(path)} is not UTF-8"
        raise InputError(f"{path}: must be a readable {path.suffix} table: {place}") from error
    except (csv.Error, OSError, ValueError, ArithmeticError, RecursionError) as error:
        # pyarrow's are ValueError, OSError and, for a date before the year 1, ArithmeticError
        raise InputError(f"{path}: must be a readable {path.suffix} table: {error}") from error
    if not rows:
        raise InputError(f"{path}: must be a readable {path.suffix} table with rows, it has none")
    return rows


def _first_not_utf8(path: Path) -> int:
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            line.decode()
        except UnicodeDecodeError:
            return number
    raise AssertionError(f"{path} is UTF-8")


def _check_header(path: Path, names: Sequence[str]) -> None:
    """Refuse a column that is there twice: one of them would silently be taken."""
    refuse(
        [
            f"{path}: must have a column once, it has {name!r} {number} times"
            for name, number in Counter(names).items()
            if number > 1 and name
        ]
    )


def _read_csv(path: Path) -> Rows:
    """Every column as text: a speaker named 01 must not become the number 1."""
    rows: Rows = []
    problems = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header, line = next(reader, []), reader.line_num + 1
        _check_header(path, header)
        for fields in reader:
            if len(fields) > len(header):
                problems.append(
                    f"{path}: must be a readable .csv table: line {line} must have no more fields "
                    "than the header"
                )
            elif fields:
                rows.append((f"line {line}", dict(zip(header, fields, strict=False))))
            line = reader.line_num + 1  # a quoted field may hold several
    refuse(shorten(problems))
    return rows


def _read_jsonl(path: Path) -> Rows:
    rows: Rows = []
    problems = []
    # not splitlines(): JSON strings may hold U+2028 and others that it takes for ends of lines
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        try:
            row = json.loads(line) if line.strip() else {}
        except json.JSONDecodeError as error:
            row = error
        if not isinstance(row, dict):
            problems.append(
                f"{path}: must be a readable .jsonl table: line {number} must be a JSON object, "
                f"got {line[:40]!r}"
            )
        elif row:
            rows.append((f"line {number}", row))
    refuse(shorten(problems))
    return rows


def _read_parquet(path: Path) -> Rows:
    table = pq.ParquetFile(path).read()
    _check_header(path, table.column_names)
    return [(f"row {number}", row) for number, row in enumerate(table.to_pylist(), start=1)]


def _source(
    table: Path, place: str, row: Mapping[str, Any], names: Mapping[str, str], root: Path
) -> SourceUtterance:
    def value(name: str) -> str:
        found = row.get(names[name])
        is_missing = found is None or found != found  # NaN, as pandas has it
        return OPTIONAL.get(name, "") if is_missing else str(found).strip()

    clip, gender, split = value("path"), value("gender").lower(), value("split").lower()
    path = root / clip if clip else Path()
    return SourceUtterance(
        utt_id=value("utt_id") or path.stem,
        path=path,
        corpus=value("corpus"),
        speaker_id=value("speaker_id"),
        gender=_GENDER_ALIASES.get(gender, gender),
        session=value("session"),
        emotion=value("emotion"),
        split=_SPLIT_ALIASES.get(split, split),
        origin=f"{table}, {place}",
    )

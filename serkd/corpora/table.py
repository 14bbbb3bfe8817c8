"""Any corpus that comes with a table: CSV, JSON Lines or Parquet, one utterance a row."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serkd.corpora.manifest import SourceUtterance
from serkd.errors import InputError, refuse

REQUIRED = ("path", "speaker_id", "emotion")
OPTIONAL = {"utt_id": "", "gender": "unknown", "session": "", "split": "", "corpus": "table"}
_SHORT_GENDERS = {"f": "female", "m": "male", "": "unknown"}


def scan(
    table_path: Path, columns: Mapping[str, str] | None = None, audio_root: Path | None = None
) -> list[SourceUtterance]:
    """Read the rows; `columns` maps our names to the table's, where they differ.

    Relative paths start at `audio_root` or, without it, at the table's folder. An utterance
    without `utt_id` gets its file's name without the ending. Genders `f` and `m` are understood.

    Raises:
        InputError: no such table, unknown format, or a column that is missing.
    """
    names = {name: name for name in (*REQUIRED, *OPTIONAL)} | dict(columns or {})
    rows = _read(table_path)
    found = list(dict.fromkeys(name for row in rows for name in row))
    problems = [
        f"--column must name one of {', '.join((*REQUIRED, *OPTIONAL))}, got {name!r}"
        for name in names
        if name not in REQUIRED and name not in OPTIONAL
    ]
    wanted = {*REQUIRED, *(columns or {})}
    problems += [
        f"{table_path}: must have the column {names[name]!r} for {name}, "
        f"it has {', '.join(found)} (map names with --column {name}=...)"
        for name in (*REQUIRED, *OPTIONAL)
        if name in wanted and names[name] not in found
    ]
    refuse(problems)
    root = audio_root or table_path.parent
    return [_source(row, names, root) for row in rows]


def _read(path: Path) -> list[dict[str, Any]]:
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if not path.is_file():
        raise InputError(f"{path}: must be a table of utterances, but there is none")
    if path.suffix not in readers:
        raise InputError(f"{path}: must end in {', '.join(readers)}, got {path.suffix!r}")
    try:
        rows = readers[path.suffix](path)
    except (pa.ArrowInvalid, csv.Error, ValueError) as error:
        raise InputError(f"{path}: must be a readable {path.suffix} table: {error}") from error
    if not rows:
        raise InputError(f"{path}: must be a readable {path.suffix} table with rows, it has none")
    return rows


def _read_csv(path: Path) -> list[dict[str, Any]]:
    """Every column as text: a speaker named 01 must not become the number 1."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    for number, row in enumerate(rows, start=2):
        if None in row:
            raise ValueError(f"line {number} has more fields than the header")
    return rows


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} must be an object, got {line[:40]}")
            rows.append(row)
    return rows


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def _source(row: Mapping[str, Any], names: Mapping[str, str], root: Path) -> SourceUtterance:
    def value(name: str) -> str:
        found = row.get(names[name])
        return OPTIONAL.get(name, "") if found is None else str(found).strip()

    path = root / value("path")
    gender = value("gender").lower()
    return SourceUtterance(
        utt_id=value("utt_id") or path.stem,
        path=path,
        corpus=value("corpus"),
        speaker_id=value("speaker_id"),
        gender=_SHORT_GENDERS.get(gender, gender),
        session=value("session"),
        emotion=value("emotion"),
        split=value("split"),
    )

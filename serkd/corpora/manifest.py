"""The list of a corpus's utterances: schema, reading, writing, sealing of test labels."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serkd.errors import InputError, SealedError, refuse

GENDERS = ("female", "male", "unknown")
SPLITS = ("train", "dev", "test")
_NEVER_EMPTY = ("utt_id", "path", "speaker_id", "emotion", "sha256")
_LEGAL = {"gender": GENDERS, "split": (*SPLITS, "")}
_POSITIVE = ("duration_s", "num_samples", "sample_rate")
_META = b"serkd"

SCHEMA = pa.schema(
    [
        ("utt_id", pa.string()),
        ("path", pa.string()),  # relative to the manifest's folder when inside it
        ("corpus", pa.string()),
        ("speaker_id", pa.string()),
        ("gender", pa.string()),
        ("session", pa.string()),  # recorded together; "" where the corpus has none
        ("emotion", pa.string()),
        ("split", pa.string()),  # train|dev|test where the corpus has an official split, else ""
        ("votes", pa.map_(pa.string(), pa.int32())),  # annotators by category, where known
        ("duration_s", pa.float64()),
        ("num_samples", pa.int64()),  # after resampling to 16 kHz
        ("sample_rate", pa.int32()),  # of the file
        ("sha256", pa.string()),  # of the file's samples
    ]
)


@dataclass(frozen=True)
class Utterance:
    """One row of a manifest; `path` is absolute, `emotion` is "" when its label is sealed."""

    utt_id: str
    path: str
    corpus: str
    speaker_id: str
    gender: str
    session: str
    emotion: str
    split: str
    votes: tuple[tuple[str, int], ...]
    duration_s: float
    num_samples: int
    sample_rate: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The utterances of a corpus, sorted by `utt_id`."""

    utterances: tuple[Utterance, ...]
    class_names: tuple[str, ...]
    excluded: tuple[str, ...] = ()  # what `prepare` left out, and why, a line each

    @cached_property
    def by_id(self) -> dict[str, Utterance]:
        return {utterance.utt_id: utterance for utterance in self.utterances}

    @cached_property
    def audio_hash(self) -> str:
        """Changes with any utterance's id or samples, and with nothing else."""
        return _hash(f"{u.utt_id}\t{u.sha256}" for u in self.utterances)

    @cached_property
    def gender_hash(self) -> str:
        """Changes with who says an utterance, and with that speaker's gender."""
        return _hash(f"{u.utt_id}\t{u.speaker_id}\t{u.gender}" for u in self.utterances)

    def label_hash(self, utt_ids: Iterable[str]) -> str:
        """Changes with which utterances these are and with what a model may learn from them."""
        rows = (self.by_id[utt_id] for utt_id in sorted(utt_ids))
        lines = (f"{u.utt_id}\t{u.emotion}\t{u.gender}\t{u.speaker_id}" for u in rows)
        return _hash([*self.class_names, *lines])

    def vote_hash(self, utt_ids: Iterable[str]) -> str:
        """Changes with what annotators said of these utterances."""
        rows = (self.by_id[utt_id] for utt_id in sorted(utt_ids))
        return _hash(f"{u.utt_id}\t{sorted(u.votes)}" for u in rows)

    def labels(self, utt_ids: Sequence[str]) -> list[int]:
        """Class indices.

        Raises:
            SealedError: an utterance's label is sealed; asking for it is a bug.
        """
        index = {name: i for i, name in enumerate(self.class_names)}
        emotions = [self.by_id[utt_id].emotion for utt_id in utt_ids]
        if "" in emotions:
            sealed = utt_ids[emotions.index("")]
            raise SealedError(f"{sealed} is a test utterance: its label is sealed")
        return [index[emotion] for emotion in emotions]

    def seal(self, test_ids: Iterable[str]) -> "Manifest":
        """The same manifest without what annotators said of `test_ids`."""
        sealed = set(test_ids)
        rows = (
            replace(u, emotion="", votes=()) if u.utt_id in sealed else u for u in self.utterances
        )
        return replace(self, utterances=tuple(rows))


def _hash(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def make_manifest(rows: Iterable[Utterance], excluded: Sequence[str] = ()) -> Manifest:
    """Sort the utterances; the classes are the emotions that they have."""
    ordered = tuple(sorted(rows, key=lambda u: u.utt_id))
    return Manifest(ordered, tuple(sorted({u.emotion for u in ordered})), tuple(excluded))


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write the Parquet file atomically; audio below its folder is stored as a relative path."""
    folder = path.resolve().parent
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{**asdict(u), "path": _relative(Path(u.path), folder)} for u in manifest.utterances]
    notes = {_META: json.dumps({"excluded": manifest.excluded}).encode()}
    table = pa.Table.from_pylist(rows, SCHEMA).replace_schema_metadata(notes)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(table, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def read_manifest(path: Path, *, is_for_learning: bool = True) -> Manifest:
    """Read and check a manifest.

    Raises:
        InputError: no such file, not a manifest, or, when it is for learning, fewer than two
            classes or three speakers.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: must be a manifest that `serkd prepare` wrote, but there is none"
        )
    try:
        table = pq.ParquetFile(path).read()  # not read_table: it takes folders "a=b" for columns
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: must be a Parquet manifest: {error}") from error
    if missing := sorted(set(SCHEMA.names) - set(table.column_names)):
        raise InputError(
            f"{path}: a manifest must have the columns that `serkd prepare` writes, it lacks "
            f"{', '.join(missing)}"
        )
    folder = path.resolve().parent
    manifest = make_manifest(
        (_utterance(row, folder) for row in _typed(table, path).to_pylist()),
        _read_excluded(table, path),
    )
    if len(manifest.by_id) != len(manifest.utterances):
        raise InputError(f"{path}: utt_id must be unique")
    if is_for_learning:
        refuse([f"{path}: {problem}" for problem in learning_problems(manifest)])
    return manifest


def _read_excluded(table: pa.Table, path: Path) -> list[str]:
    notes = (table.schema.metadata or {}).get(_META, b'{"excluded": []}')
    try:
        return [str(line) for line in json.loads(notes)["excluded"]]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: must have the metadata that `serkd prepare` writes") from error


def _utterance(row: dict[str, Any], folder: Path) -> Utterance:
    row["path"], row["votes"] = str(folder / row["path"]), tuple(row["votes"])
    return Utterance(**row)


def learning_problems(manifest: Manifest) -> list[str]:
    """Why nothing could be learned from a manifest, or nothing tested."""
    speakers = {u.speaker_id for u in manifest.utterances}
    problems = []
    if len(manifest.class_names) < 2:
        problems.append(
            "a manifest must have at least two emotions, got "
            f"{', '.join(manifest.class_names) or 'none'}"
        )
    if len(speakers) < 3:
        problems.append(
            "a manifest must have at least three speakers (train, dev and test share none), "
            f"got {len(speakers)}"
        )
    return problems


def _typed(table: pa.Table, path: Path) -> pa.Table:
    """The schema's columns with its types; nothing may be missing, empty or out of range."""
    columns, problems = [], []
    for field in SCHEMA:
        column = table.column(field.name)
        try:
            columns.append(column.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            problems.append(f"{path}: {field.name} must be of type {field.type}: {error}")
            continue
        values = columns[-1].to_pylist()
        if None in values or (field.name in _NEVER_EMPTY and "" in values):
            problems.append(f"{path}: {field.name} must be given for every utterance")
        elif other := sorted(set(values) - set(_LEGAL[field.name])) if field.name in _LEGAL else []:
            problems.append(
                f"{path}: {field.name} must be one of {', '.join(_LEGAL[field.name])}, "
                f"got {other[0]!r}"
            )
        elif field.name == "votes":
            if any((number or 0) < 1 for votes in values for _, number in votes):
                problems.append(f"{path}: votes must be at least 1 for a category that has any")
        elif field.name in _POSITIVE and (
            wrong := [value for value in values if not 0 < value < float("inf")]
        ):
            problems.append(f"{path}: {field.name} must be greater than 0, got {wrong[0]}")
    refuse(problems)
    return pa.table(columns, schema=SCHEMA)

"""The list of a corpus's utterances: schema, building, reading, sealing of test labels."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from serkd.corpora.audio import read_audio
from serkd.errors import InputError, refuse

GENDERS = ("female", "male", "unknown")
_MAX_LISTED = 20
_NEVER_EMPTY = ("utt_id", "path", "speaker_id", "emotion", "sha256")

SCHEMA = pa.schema(
    [
        ("utt_id", pa.string()),
        ("path", pa.string()),  # relative to the manifest's folder when inside it
        ("corpus", pa.string()),
        ("speaker_id", pa.string()),
        ("gender", pa.string()),
        ("session", pa.string()),
        ("emotion", pa.string()),
        ("split", pa.string()),  # train|dev|test where the corpus has an official split, else ""
        ("duration_s", pa.float64()),
        ("num_samples", pa.int64()),  # after resampling to 16 kHz
        ("sample_rate", pa.int32()),  # of the file
        ("sha256", pa.string()),  # of the file's native PCM
    ]
)


@dataclass(frozen=True)
class SourceUtterance:
    """What a corpus's folder says of an utterance, before its audio is read."""

    utt_id: str
    path: Path
    corpus: str
    speaker_id: str
    gender: str
    session: str
    emotion: str
    split: str = ""


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
    duration_s: float
    num_samples: int
    sample_rate: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The utterances of a corpus, sorted by `utt_id`."""

    utterances: tuple[Utterance, ...]
    class_names: tuple[str, ...]

    @cached_property
    def by_id(self) -> dict[str, Utterance]:
        return {utterance.utt_id: utterance for utterance in self.utterances}

    @cached_property
    def audio_hash(self) -> str:
        """Changes with any utterance's id or samples, and with nothing else."""
        return _hash(f"{u.utt_id}\t{u.sha256}" for u in self.utterances)

    def label_hash(self, utt_ids: Iterable[str]) -> str:
        """Changes with which utterances these are and with what a model may learn from them."""
        rows = (self.by_id[utt_id] for utt_id in sorted(utt_ids))
        lines = (f"{u.utt_id}\t{u.emotion}\t{u.gender}\t{u.speaker_id}" for u in rows)
        return _hash([*self.class_names, *lines])

    def labels(self, utt_ids: Sequence[str]) -> list[int]:
        """Class indices; asking for a sealed label is a bug and fails."""
        index = {name: i for i, name in enumerate(self.class_names)}
        return [index[self.by_id[utt_id].emotion] for utt_id in utt_ids]

    def seal(self, test_ids: Iterable[str]) -> "Manifest":
        """The same manifest without the emotions of `test_ids`: what training code is given."""
        sealed = set(test_ids)
        rows = (replace(u, emotion="") if u.utt_id in sealed else u for u in self.utterances)
        return Manifest(tuple(rows), self.class_names)


def _hash(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def build_manifest(
    sources: Sequence[SourceUtterance],
    *,
    on_bad: Literal["refuse", "exclude"] = "refuse",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Manifest, list[str]]:
    """Decode every file once, in parallel, and measure it.

    Returns the manifest and the problems of the files that were excluded.

    Raises:
        InputError: no utterances, a repeated id, a label or gender out of range, or, with
            `on_bad="refuse"`, any unreadable, empty or too short file (all are named).
    """
    refuse(_source_problems(sources))
    rows: list[Utterance] = []
    bad: list[str] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, result in enumerate(pool.map(_measure, sources), start=1):
            if isinstance(result, Utterance):
                rows.append(result)
            else:
                bad.append(result)
            progress(done, len(sources))
    if bad and on_bad == "refuse":
        refuse([*_shorten(bad), "exclude these files with --on-bad exclude, or repair them"])
    if not rows:
        raise InputError("a manifest must hold at least one readable utterance, got none")
    return _sorted_manifest(rows), bad


def _source_problems(sources: Sequence[SourceUtterance]) -> list[str]:
    if not sources:
        return ["a corpus must hold at least one utterance, found none"]
    problems, seen = [], set()
    for source in sources:
        if source.utt_id in seen:
            problems.append(f"utt_id must be unique, {source.utt_id!r} is repeated")
        seen.add(source.utt_id)
        if source.gender not in GENDERS:
            problems.append(
                f"{source.utt_id}: gender must be one of {', '.join(GENDERS)}, "
                f"got {source.gender!r}"
            )
        for name in ("utt_id", "speaker_id", "emotion"):
            if not getattr(source, name):
                problems.append(f"{source.utt_id or source.path}: {name} must not be empty")
    return _shorten(problems)


def _shorten(problems: list[str]) -> list[str]:
    if len(problems) <= _MAX_LISTED:
        return problems
    return [*problems[:_MAX_LISTED], f"... and {len(problems) - _MAX_LISTED} more"]


def _measure(source: SourceUtterance) -> Utterance | str:
    try:
        decoded = read_audio(source.path)
    except InputError as error:
        return str(error)
    return Utterance(
        **{**asdict(source), "path": str(source.path.resolve())},
        duration_s=decoded.num_samples / 16_000,
        num_samples=decoded.num_samples,
        sample_rate=decoded.sample_rate,
        sha256=decoded.sha256,
    )


def _sorted_manifest(rows: Iterable[Utterance]) -> Manifest:
    ordered = tuple(sorted(rows, key=lambda u: u.utt_id))
    return Manifest(ordered, tuple(sorted({u.emotion for u in ordered})))


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write the Parquet file atomically; audio below its folder is stored as a relative path."""
    folder = path.resolve().parent
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{**asdict(u), "path": _relative(Path(u.path), folder)} for u in manifest.utterances]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), temporary)
    temporary.replace(path)


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        InputError: no such file, not a manifest, or fewer than two classes or three speakers
            (nothing can be learned, or train, dev and test cannot be disjoint).
    """
    if not path.is_file():
        raise InputError(
            f"{path}: must be a manifest that `serkd prepare` wrote, but there is none"
        )
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: must be a Parquet manifest: {error}") from error
    missing = sorted(set(SCHEMA.names) - set(table.column_names))
    if missing:
        raise InputError(f"{path}: a manifest must have the columns {', '.join(missing)}")
    folder = path.resolve().parent
    rows = _typed(table, path).to_pylist()
    manifest = _sorted_manifest(
        Utterance(**{**row, "path": str(folder / row["path"])}) for row in rows
    )
    _check_learnable(manifest, path)
    return manifest


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
        elif field.name == "gender" and (other := sorted(set(values) - set(GENDERS))):
            problems.append(f"{path}: gender must be one of {', '.join(GENDERS)}, got {other[0]!r}")
        elif field.name == "num_samples" and min(values, default=1) < 1:
            problems.append(f"{path}: num_samples must be at least 1, got {min(values)}")
    refuse(problems)
    return pa.table(columns, schema=SCHEMA)


def _check_learnable(manifest: Manifest, path: Path) -> None:
    speakers = {u.speaker_id for u in manifest.utterances}
    problems = []
    if len(manifest.class_names) < 2:
        problems.append(
            f"{path}: a manifest must have at least two emotions, got "
            f"{', '.join(manifest.class_names) or 'none'}"
        )
    if len(speakers) < 3:
        problems.append(
            f"{path}: a manifest must have at least three speakers (train, dev and test share "
            f"none), got {len(speakers)}"
        )
    if len(manifest.by_id) != len(manifest.utterances):
        problems.append(f"{path}: utt_id must be unique")
    refuse(problems)

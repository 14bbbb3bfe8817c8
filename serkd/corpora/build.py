"""From what a corpus's folder says to a manifest: every file is checked and measured once.

What was measured is kept beside the manifest until it is written, so a run that was interrupted
goes on where it stopped.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from serkd.corpora.audio import (
    MIN_DURATION_S,
    Measured,
    TooShortError,
    is_file,
    measure_audio,
)
from serkd.corpora.manifest import GENDERS, SPLITS, Manifest, Utterance, make_manifest
from serkd.errors import InputError, refuse

_MAX_LISTED = 20
_TEXTS = ("utt_id", "path", "corpus", "speaker_id", "session", "emotion")
Progress = Callable[[int, int], None]


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
    votes: tuple[tuple[str, int], ...] = ()  # annotators by category
    origin: str = ""  # where this is written, for messages: "clips.csv, line 17"


@dataclass(frozen=True)
class Listing:
    """What scanning a corpus found.

    `excluded` names each utterance that is left out and why; `bad` those whose file could not be
    used, which `build_manifest` refuses or excludes as it does with unreadable audio; `notes` is
    what a user should know.
    """

    sources: list[SourceUtterance]
    excluded: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def count_notes(corpus: str, found: int, released: int) -> list[str]:
    """What to say when a folder does not hold as many clips as the corpus was released with."""
    return [] if found == released else [f"{corpus} has {released} clips, found {found}"]


@dataclass(frozen=True)
class Limits:
    """Durations in seconds that a training utterance may have.

    Dev and test stay whole, or their scores could not be compared with anybody's; but who sets a
    minimum of at least `MIN_DURATION_S` leaves out of every split what is shorter than that, as
    nothing can be computed from it.
    """

    min_s: float = 0.0
    max_s: float = float("inf")


def build_manifest(
    listing: Listing,
    *,
    on_bad: Literal["refuse", "exclude"] = "refuse",
    limits: Limits = Limits(),
    journal: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> Manifest:
    """Read every file once, in parallel, and measure it.

    `journal` is a file of measurements that an interrupted run left, and that this one adds to.

    Raises:
        InputError: no utterances, a repeated id, a label, gender or split out of range, or, with
            `on_bad="refuse"`, any unreadable, empty or too short file (all are named).
    """
    if listing.sources or not listing.bad:
        refuse(_source_problems(listing.sources))
    rows: list[Utterance] = []
    bad = [*listing.bad]
    outside: list[str] = []
    found = _measure_all(listing.sources, journal)
    for done, (source, measured) in enumerate(zip(listing.sources, found, strict=True), start=1):
        if isinstance(measured, TooShortError) and limits.min_s >= MIN_DURATION_S:
            outside.append(f"{source.utt_id}: {measured}")
        elif isinstance(measured, InputError):
            bad.append(_at(source, str(measured)))
        elif problem := _outside(source, measured, limits):
            outside.append(problem)
        else:
            rows.append(_utterance(source, measured))
        progress(done, len(listing.sources))
    if journal is not None and ((bad and on_bad == "refuse") or not rows):
        # it is for interruptions: what is refused leaves nothing behind
        journal.unlink(missing_ok=True)
    if bad and on_bad == "refuse":
        refuse([*shorten(bad), "exclude these files with --on-bad exclude, or repair them"])
    if not rows:
        raise InputError("a manifest must hold at least one readable utterance, got none")
    return make_manifest(rows, [*listing.excluded, *bad, *outside])


def _outside(source: SourceUtterance, measured: Measured, limits: Limits) -> str | None:
    seconds = measured.duration_s
    if source.split in ("dev", "test") or limits.min_s <= seconds <= limits.max_s:
        return None
    return f"{source.utt_id}: lasts {seconds:.2f} s, not {limits.min_s:g} to {limits.max_s:g} s"


def _utterance(source: SourceUtterance, measured: Measured) -> Utterance:
    said = {name: value for name, value in asdict(source).items() if name != "origin"}
    return Utterance(
        **{**said, "path": str(source.path.resolve()), "votes": source.votes},
        duration_s=measured.duration_s,
        num_samples=measured.num_samples,
        sample_rate=measured.sample_rate,
        sha256=measured.sha256,
    )


def _source_problems(sources: Sequence[SourceUtterance]) -> list[str]:
    if not sources:
        return ["a corpus must hold at least one utterance, found none"]
    problems: list[str] = []
    seen: dict[str, SourceUtterance] = {}
    genders: dict[str, SourceUtterance] = {}
    for source in sources:
        for name in ("utt_id", "speaker_id", "emotion"):
            if not getattr(source, name):
                label = source.utt_id or str(source.path)
                problems.append(_at(source, f"{label}: {name} must not be empty"))
        problems += [
            _at(source, f"the {name} must be UTF-8, got {text!r}")
            for name in _TEXTS
            if not _is_text(text := _full_text(source, name))
        ]
        for name, legal in (("gender", GENDERS), ("split", (*SPLITS, ""))):
            if (value := getattr(source, name)) not in legal:
                allowed = ", ".join(option or "empty" for option in legal)
                problems.append(
                    _at(source, f"{source.utt_id}: {name} must be one of {allowed}, got {value!r}")
                )
        if (first := seen.setdefault(source.utt_id, source)) is not source:
            repeated = f"utt_id must be unique, {source.utt_id!r} is repeated"
            also = f" (first in {first.origin})" if first.origin else ""
            problems.append(_at(source, repeated + also))
        if (first := genders.setdefault(source.speaker_id, source)).gender != source.gender:
            problems.append(
                _at(
                    source,
                    f"{source.utt_id}: a speaker must have one gender, {source.speaker_id} is "
                    f"{source.gender} here and {first.gender} in {first.utt_id}",
                )
            )
    return shorten(problems)


def _full_text(source: SourceUtterance, name: str) -> str:
    return str(source.path.absolute() if name == "path" else getattr(source, name))


def _is_text(text: str) -> bool:
    """Whether a manifest can hold it: names that are not UTF-8 come as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _at(source: SourceUtterance, problem: str) -> str:
    return f"{source.origin}: {problem}" if source.origin else problem


def shorten(problems: list[str]) -> list[str]:
    """The first problems of a long list, and how many more there are."""
    if len(problems) <= _MAX_LISTED:
        return problems
    return [*problems[:_MAX_LISTED], f"... and {len(problems) - _MAX_LISTED} more"]


def _measure_all(
    sources: Sequence[SourceUtterance], journal: Path | None
) -> Iterable[Measured | InputError]:
    """Measure in order; a file that changed since it was noted down is measured again."""
    known = _read_journal(journal)
    if journal is not None:
        journal.parent.mkdir(parents=True, exist_ok=True)
    threads = ThreadPoolExecutor(os.cpu_count())
    with (journal or Path(os.devnull)).open("ab") as notes, threads as pool:

        def measure(source: SourceUtterance) -> Measured | InputError:
            try:
                stamp = _stamp(source.path)
                if (measured := known.get(stamp)) is None:
                    measured = measure_audio(source.path)
                    record = {"stamp": stamp, **asdict(measured)}
                    notes.write(json.dumps(record).encode() + b"\n")
                return measured
            except InputError as error:
                return error

        yield from pool.map(measure, sources)


def _stamp(path: Path) -> str:
    """Changes when a file is written again."""
    if not is_file(path):
        raise InputError(f"{path}: must be an audio file, but there is none")
    status = path.stat()
    return f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"


def _read_journal(journal: Path | None) -> dict[str, Measured]:
    if journal is None or not journal.is_file():
        return {}
    known = {}
    for line in journal.read_bytes().split(b"\n"):
        try:
            record: dict[str, Any] = json.loads(line)
            stamp = record.pop("stamp")
            known[stamp] = Measured(**record)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # torn by a crash, another version's, or the empty end
    return known

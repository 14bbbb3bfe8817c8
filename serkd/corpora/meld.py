"""MELD (Poria et al. 2019): dialogs of the series Friends, official train, dev and test.

`{train,dev,test}_sent_emo.csv` name the utterances, `dia{D}_utt{U}.mp4` are their clips, numbered
anew in each split. Gender is not annotated: it is known for the six main characters.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from serkd.corpora.build import Listing, SourceUtterance, shorten
from serkd.corpora.manifest import SPLITS
from serkd.corpora.meld_tables import LABELS, differing_counts, read_table
from serkd.corpora.video import check_decoder, extract_all
from serkd.errors import InputError, refuse

BROKEN = ("train_dia125_utt3", "dev_dia110_utt7")  # the release's own; other splits' are good
_FOLDERS = {  # the release's names, and plain ones
    "train_splits": "train",
    "dev_splits_complete": "dev",
    "output_repeated_splits_test": "test",
    **{split: split for split in SPLITS},
}
_CLIP = re.compile(r"(dia\d+_utt\d+)\.(flac|wav|mp4)", re.IGNORECASE)  # not final_videos_test...
_TABLE = re.compile(r"(train|dev|test)_sent_emo\.csv", re.IGNORECASE)
_BEST_FIRST = (".flac", ".wav", ".mp4")


@dataclass(frozen=True)
class _Found:
    """What is below a folder: tables by split, and clips by utterance."""

    tables: Mapping[str, Sequence[Path]]
    clips: Mapping[str, Sequence[Path]]


def scan(
    root: Path,
    audio_dir: Path,
    labels: str = "emotion",
    allow_missing: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Listing:
    """List the utterances of the three tables; the sound of MP4 clips is written to `audio_dir`.

    A clip that cannot be decoded is named in the listing's `bad`. `allow_missing` leaves out what
    has no clip instead of refusing.

    Raises:
        InputError: not MELD's folder, a table that cannot be read, two clips for an utterance,
            no decoder of MP4, or, without `allow_missing`, a missing table or clip or other
            counts than the release's.
    """
    if labels not in LABELS:
        raise InputError(f"--labels must be one of {', '.join(LABELS)}, got {labels!r}")
    if not root.is_dir():
        raise InputError(f"{root}: must be the folder of MELD, but there is none")
    if audio_dir.exists() and not audio_dir.is_dir():
        raise InputError(f"--audio-dir must be a folder, {audio_dir} is a file")
    found = _find(root)
    rows = _read_tables(root, found, labels, allow_missing)
    best = _choose(found.clips, audio_dir)
    wanted = [row for row in rows if row.utt_id not in BROKEN]
    missing = [f"{row.utt_id}: no clip" for row in wanted if row.utt_id not in best]
    if missing and not allow_missing:
        refuse(
            [f"{root}: {problem}" for problem in shorten(missing)]
            + [f"clips must be in folders named {', '.join(_FOLDERS)}, as dia0_utt0.mp4, .wav or"
               " .flac; a part of MELD can be used with --allow-missing"]
        )  # fmt: skip
    broken = [f"{r.utt_id}: its clip is broken in the release" for r in rows if r.utt_id in BROKEN]
    sources = [replace(row, path=best[row.utt_id]) for row in wanted if row.utt_id in best]
    sources, bad = _extract(sources, audio_dir, progress)
    return Listing(sources, excluded=broken + missing, bad=bad)


def _find(root: Path) -> _Found:
    """One walk; a clip belongs to the split that the nearest folder above it is named after."""
    tables: dict[str, list[Path]] = {}
    clips: dict[str, list[Path]] = {}
    seen: set[Path] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        here = Path(folder)
        if here.resolve() in seen:  # a link that leads back
            subfolders.clear()
            continue
        seen.add(here.resolve())
        parts = reversed(here.relative_to(root).parts)
        split = next((_FOLDERS[part.lower()] for part in parts if part.lower() in _FOLDERS), None)
        for name in sorted(names):
            if match := _TABLE.fullmatch(name):
                tables.setdefault(match[1].lower(), []).append(here / name)
            elif split and (match := _CLIP.fullmatch(name)):
                clips.setdefault(f"{split}_{match[1].lower()}", []).append(here / name)
    return _Found(tables, clips)


def _read_tables(
    root: Path, found: _Found, labels: str, allow_missing: bool
) -> list[SourceUtterance]:
    """The rows of all splits, without paths."""
    problems, differing = [], []
    rows: list[SourceUtterance] = []
    for split in SPLITS:
        tables = found.tables.get(split, ())
        if not tables and not allow_missing:
            problems.append(f"{root}: must hold {split}_sent_emo.csv, at any depth")
        elif len({table.read_bytes() for table in tables}) > 1:
            names = ", ".join(str(table) for table in tables)
            problems.append(f"{root}: must hold one {split}_sent_emo.csv, they differ: {names}")
        elif tables:
            table = read_table(tables[0], split, labels)
            rows += table.rows
            differing += differing_counts(tables[0], split, table)
    refuse(problems)
    if differing and not allow_missing:
        refuse([*differing, "a part of MELD can be used with --allow-missing"])
    if not rows:
        raise InputError(f"{root}: must hold train_sent_emo.csv, dev_sent_emo.csv, ...")
    return rows


def _choose(clips: Mapping[str, Sequence[Path]], audio_dir: Path) -> dict[str, Path]:
    """The best clip of each utterance; what an earlier run extracted does not hide its source."""
    extracted = audio_dir.resolve()
    best, problems = {}, []
    for utt_id, paths in clips.items():

        def rank(path: Path) -> tuple[bool, int]:
            is_extracted = path.resolve().is_relative_to(extracted)
            return is_extracted, _BEST_FIRST.index(path.suffix.lower())

        first, *others = sorted(paths, key=rank) if len(paths) > 1 else paths
        if others and rank(first) == rank(others[0]):
            problems.append(f"{utt_id} must be one clip, found {first} and {others[0]}")
        best[utt_id] = first
    refuse(shorten(problems))
    return best


def _extract(
    sources: Sequence[SourceUtterance], audio_dir: Path, progress: Callable[[int, int], None]
) -> tuple[list[SourceUtterance], list[str]]:
    """Replace MP4 clips by their sound; and what is wrong with those that have none."""
    videos = [source for source in sources if source.path.suffix.lower() == ".mp4"]
    if videos:
        check_decoder()
    audio = [audio_dir / s.split / f"{s.utt_id.partition('_')[2]}.flac" for s in videos]
    problems = extract_all([(s.path, f) for s, f in zip(videos, audio, strict=True)], progress)
    done = {s.utt_id: (f, p) for s, f, p in zip(videos, audio, problems, strict=True)}
    good, bad = [], []
    for source in sources:
        path, problem = done.get(source.utt_id, (source.path, None))
        if problem is None:
            good.append(replace(source, path=path))
        else:
            bad.append(f"{source.utt_id}: {problem}")
    return good, bad

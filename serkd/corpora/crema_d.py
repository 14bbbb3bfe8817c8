"""CREMA-D (Cao et al. 2014): 91 actors, six emotions, 7442 clips.

A file name is actor, sentence, emotion and level: `1001_DFA_ANG_XX.wav`. Who is female and who is
male is in `VideoDemographics.csv`.
"""

import csv
import re
from pathlib import Path

from serkd.corpora.build import Listing, SourceUtterance, count_notes, shorten
from serkd.errors import InputError, refuse

EMOTIONS = {
    "ANG": "anger",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happiness",
    "NEU": "neutral",
    "SAD": "sadness",
}
NUM_CLIPS = 7442
DEMOGRAPHICS = "VideoDemographics.csv"
# one clip of the release is named 1040_ITH_SAD_X
_CLIP = re.compile(rf"(\d{{4}})_[A-Z]{{3}}_({'|'.join(EMOTIONS)})_(LO|MD|HI|XX?)")
_ENDINGS = (".wav", ".flac")


def scan(root: Path) -> Listing:
    """Find the clips below `root`, and the actors' table there or one folder above.

    Raises:
        InputError: `root` is not a folder or holds no such clip, the table is missing or cannot
            be read, or a clip's actor is not in it.
    """
    if not root.is_dir():
        raise InputError(f"{root}: must be the folder of CREMA-D, but there is none")
    clips = [path for path in sorted(root.rglob("1*_*")) if _is_clip(path)]
    if not clips:
        raise InputError(f"{root}: must hold CREMA-D's clips, such as AudioWAV/1001_DFA_ANG_XX.wav")
    table = _find_demographics(root)
    genders = _read_genders(table)
    unknown = sorted({path.name[:4] for path in clips} - genders.keys())
    refuse(shorten([f"{table}: must have each actor of a clip, it lacks {a}" for a in unknown]))
    sources = [_source(path, genders) for path in clips]
    return Listing(sources, notes=count_notes("CREMA-D", len(sources), NUM_CLIPS))


def _is_clip(path: Path) -> bool:
    return path.suffix.lower() in _ENDINGS and _CLIP.fullmatch(path.stem) is not None


def _find_demographics(root: Path) -> Path:
    beside = [folder / DEMOGRAPHICS for folder in (root, root.resolve().parent)]
    for path in (*beside, *sorted(root.rglob(DEMOGRAPHICS))):
        if path.is_file():
            return path
    raise InputError(
        f"{root}: {DEMOGRAPHICS} of the release must be in it or one folder above, as it has the "
        "actors' genders; it is not"
    )


def _read_genders(path: Path) -> dict[str, str]:
    """Gender by actor."""
    genders: dict[str, str] = {}
    problems = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not {"ActorID", "Sex"} <= set(columns := reader.fieldnames or ()):
                raise InputError(
                    f"{path}: must have the columns ActorID and Sex, it has {', '.join(columns)}"
                )
            for row in reader:
                actor, sex = ((row[name] or "").strip() for name in ("ActorID", "Sex"))
                if sex.lower() not in ("female", "male"):
                    problems.append(
                        f"{path}, line {reader.line_num}: Sex must be Female or Male, got {sex!r}"
                    )
                elif genders.setdefault(actor, sex.lower()) != sex.lower():
                    problems.append(
                        f"{path}, line {reader.line_num}: actor {actor} is {sex.lower()} here and "
                        f"{genders[actor]} above"
                    )
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: must be CSV in UTF-8: {error}") from error
    refuse(shorten(problems))
    return genders


def _source(path: Path, genders: dict[str, str]) -> SourceUtterance:
    actor, _, emotion, _ = path.stem.split("_")
    return SourceUtterance(
        utt_id=path.stem,
        path=path,
        corpus="crema_d",
        speaker_id=actor,
        gender=genders[actor],
        session="",  # every actor was recorded alone
        emotion=EMOTIONS[emotion],
        origin=str(path),
    )

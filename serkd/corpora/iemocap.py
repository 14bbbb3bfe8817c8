"""IEMOCAP (Busso et al. 2008): ten actors in five sessions, improvised and scripted dialogs.

`SessionN/dialog/EmoEvaluation/DIALOG.txt` says what was heard in every utterance of a dialog, and
`SessionN/sentences/wav/DIALOG/UTTERANCE.wav` is its sound. The letter after `Ses01` is the actor
who wore the motion-capture markers in that dialog; who speaks is the letter of the last field.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from serkd.corpora.build import Listing, SourceUtterance, shorten
from serkd.corpora.iemocap_labels import LABELS, Evaluated, read_evaluation
from serkd.errors import InputError, refuse

_FOUR = {"ang": "ang", "hap": "hap", "exc": "hap", "neu": "neu", "sad": "sad"}
CLASSES: Mapping[str, Mapping[str, str]] = {  # a label of the release -> emotion
    "4": _FOUR,
    "4-no-exc": {label: label for label in ("ang", "hap", "neu", "sad")},
    "5": {**_FOUR, "fru": "fru"},
    "6": {label: label for label in ("ang", "exc", "fru", "hap", "neu", "sad")},
}
SUBSETS = ("all", "improvised", "scripted")
SESSIONS = ("1", "2", "3", "4", "5")
RELEASED = {  # utterances with a label of the four classes: all, by class, session and speaker
    "utterances": 5531,
    **{"ang": 1103, "hap with exc": 1636, "neu": 1708, "sad": 1084},
    **{"Session1": 1085, "Session2": 1023, "Session3": 1151, "Session4": 1031, "Session5": 1241},
    **{"Ses01F": 528, "Ses01M": 557, "Ses02F": 481, "Ses02M": 542, "Ses03F": 522, "Ses03M": 629},
    **{"Ses04F": 528, "Ses04M": 503, "Ses05F": 590, "Ses05M": 651},
}


def scan(
    root: Path, classes: str = "4", subset: str = "all", allow_missing: bool = False
) -> Listing:
    """List the release's utterances that have one of the `classes`, and their speakers.

    `root` is the release's folder or the one it is in. Votes are those of the evaluators who were
    not in the dialog, each category by its own code: `hap` and `exc` stay apart whatever
    `classes` makes of them. `allow_missing` leaves out what has no file instead of refusing.

    Raises:
        InputError: not the release, an evaluation that cannot be read, an utterance evaluated
            twice, or, without `allow_missing`, a missing file or other counts than the release's.
    """
    _check_option("--classes", classes, CLASSES)
    _check_option("--subset", subset, SUBSETS)
    release = _find_release(root)
    notes: list[str] = []
    evaluated, gaps = _read_evaluations(release, notes)
    emotions = CLASSES[classes]
    selected = [e for e in evaluated if e.label in emotions and subset in ("all", e.subset)]
    audio = _find_audio(release)
    sessions = {e.session for e in evaluated}  # of others, that nothing is there is said
    unheard = sorted(audio.keys() - {e.dialog for e in evaluated})
    unheard = [dialog for dialog in unheard if dialog[4:5] in sessions]
    gaps += [f"{dialog}: no evaluation file with its utterances" for dialog in unheard]
    gaps += [f"{e.utt_id}: no audio file" for e in selected if not _has_audio(e, audio)]
    differing = _differing_counts(evaluated)
    if not allow_missing and (gaps or differing):
        refuse(
            [f"{release}: {gap}" for gap in shorten(gaps)]
            + [f"{release}: {difference}" for difference in differing]
            + ["a part of the release can be used with --allow-missing"]
        )
    sources = [
        _source(e, audio[e.dialog][e.utt_id], emotions) for e in selected if _has_audio(e, audio)
    ]
    notes += differing + _left_out_notes(evaluated, emotions, subset)
    return Listing(sources, excluded=gaps, notes=notes)


def _check_option(option: str, value: str, legal: Iterable[str]) -> None:
    if value not in legal:
        raise InputError(f"{option} must be one of {', '.join(legal)}, got {value!r}")


def _find_release(root: Path) -> Path:
    """The folder with `Session1` ...; the last rule is for its parent."""
    if not root.is_dir():
        raise InputError(f"{root}: must be the folder of IEMOCAP's release, but there is none")
    candidates = [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    found = [
        c for c in candidates if any((c / f"Session{s}" / "dialog").is_dir() for s in SESSIONS)
    ]
    if not found:
        raise InputError(
            f"{root}: must be the folder of IEMOCAP's release, with Session1/dialog/EmoEvaluation "
            "and Session1/sentences/wav, or the one above it"
        )
    if found[0] != root and len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(f"{root}: must hold one release of IEMOCAP, it holds {names}; name one")
    return found[0]


def _read_evaluations(release: Path, notes: list[str]) -> tuple[list[Evaluated], list[str]]:
    """All evaluated utterances, sorted, and which sessions are not there."""
    found: dict[str, Evaluated] = {}
    gaps: list[str] = []
    problems: list[str] = []
    strange = Counter[str]()
    for session in SESSIONS:
        folder = release / f"Session{session}" / "dialog" / "EmoEvaluation"
        paths = sorted(folder.glob("Ses*.txt"))  # not ._Ses*.txt, which macOS leaves
        if not paths:
            gaps.append(f"Session{session}: no evaluation files in dialog/EmoEvaluation")
        for path in paths:
            for evaluated in read_evaluation(path, session, problems, strange):
                if (first := found.setdefault(evaluated.utt_id, evaluated)) is not evaluated:
                    problems.append(
                        f"{evaluated.origin}: an utterance must be evaluated once, "
                        f"{evaluated.utt_id} also is in {first.origin}"
                    )
    refuse(shorten(problems))
    notes += [
        f"votes for {name!r}, no category, are not counted: {n}" for name, n in strange.items()
    ]
    return sorted(found.values(), key=lambda e: e.utt_id), gaps


def _find_audio(release: Path) -> dict[str, dict[str, Path]]:
    """The WAV files of each dialog by utterance; one look at each folder, none at each file."""
    audio: dict[str, dict[str, Path]] = {}
    for session in SESSIONS:
        folder = release / f"Session{session}" / "sentences" / "wav"
        for dialog in sorted(folder.glob("Ses*")) if folder.is_dir() else []:
            if dialog.is_dir():
                with os.scandir(dialog) as entries:
                    names = [e.name for e in entries if e.is_file() and not e.name.startswith(".")]
                audio[dialog.name] = {
                    name[:-4]: dialog / name for name in names if name.lower().endswith(".wav")
                }
    return audio


def _has_audio(evaluated: Evaluated, audio: Mapping[str, Mapping[str, Path]]) -> bool:
    return evaluated.utt_id in audio.get(evaluated.dialog, {})


def _differing_counts(evaluated: Sequence[Evaluated]) -> list[str]:
    """Which counts of the four-class set are not the release's."""
    base = [e for e in evaluated if e.label in _FOUR]
    classes = Counter("hap with exc" if _FOUR[e.label] == "hap" else e.label for e in base)
    sessions = Counter(f"Session{e.session}" for e in base)
    found = {"utterances": len(base), **classes, **sessions, **Counter(e.speaker_id for e in base)}
    return [
        f"IEMOCAP's four-class set must have {name} {count}, found {found.get(name, 0)}"
        for name, count in RELEASED.items()
        if found.get(name, 0) != count
    ]


def _left_out_notes(
    evaluated: Sequence[Evaluated], emotions: Mapping[str, str], subset: str
) -> list[str]:
    labels = Counter(e.label for e in evaluated if e.label not in emotions)
    other = Counter(e.subset for e in evaluated if e.label in emotions and subset != e.subset)
    notes = []
    if labels:
        counts = (f"{label} {labels[label]}" for label in LABELS if labels[label])
        notes.append(f"left out by label: {', '.join(counts)}")
    if subset != "all" and other:
        notes.append(f"left out by --subset: {', '.join(f'{s} {n}' for s, n in other.items())}")
    return notes


def _source(evaluated: Evaluated, path: Path, emotions: Mapping[str, str]) -> SourceUtterance:
    return SourceUtterance(
        utt_id=evaluated.utt_id,
        path=path,
        corpus="iemocap",
        speaker_id=evaluated.speaker_id,
        gender="female" if evaluated.letter == "F" else "male",
        session=evaluated.session,
        emotion=emotions[evaluated.label],
        votes=tuple(sorted(evaluated.votes.items())),
        origin=evaluated.origin,
    )

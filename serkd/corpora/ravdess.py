"""RAVDESS speech (Livingstone & Russo 2018): 24 actors, 8 emotions, 1440 clips.

A file name is seven two-digit fields, modality-channel-emotion-intensity-statement-repetition-
actor; odd actors are male, even ones female.
"""

import re
from pathlib import Path

from serkd.corpora.build import Listing, SourceUtterance, count_notes
from serkd.errors import InputError

EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}
NUM_CLIPS = 1440
_AUDIO_ONLY_SPEECH = re.compile(r"03-01-(0[1-8])-\d\d-\d\d-\d\d-(\d\d)\.(wav|flac)$", re.IGNORECASE)


def scan(root: Path) -> Listing:
    """Find the speech clips below `root`: the official `Actor_NN` folders or one flat folder.

    Songs (channel 02) and video files are passed over.

    Raises:
        InputError: `root` is not a folder or holds no such clip.
    """
    if not root.is_dir():
        raise InputError(f"{root}: must be the folder of RAVDESS, but there is none")
    found = [_source(path) for path in sorted(root.rglob("03-01-*"))]
    sources = [source for source in found if source]
    if not sources:
        raise InputError(f"{root}: must hold RAVDESS clips such as 03-01-05-01-02-01-12.wav")
    return Listing(sources, notes=count_notes("RAVDESS speech", len(sources), NUM_CLIPS))


def _source(path: Path) -> SourceUtterance | None:
    match = _AUDIO_ONLY_SPEECH.match(path.name)
    if not match:
        return None
    emotion, actor, _ = match.groups()
    return SourceUtterance(
        utt_id=path.stem,
        path=path,
        corpus="ravdess",
        speaker_id=actor,
        gender="male" if int(actor) % 2 else "female",
        session="",  # every actor was recorded alone
        emotion=EMOTIONS[emotion],
    )

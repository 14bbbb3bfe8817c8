"""EmoDB, the Berlin database of emotional speech (Burkhardt et al. 2005): ten actors, 535 clips.

A file name is speaker, text, emotion (the German word's first letter) and version: `03a01Fa.wav`.
"""

import re
from pathlib import Path

from serkd.corpora.build import Listing, SourceUtterance, count_notes
from serkd.errors import InputError

EMOTIONS = {
    "W": "anger",  # Wut
    "L": "boredom",  # Langeweile
    "E": "disgust",  # Ekel
    "A": "fear",  # Angst
    "F": "happiness",  # Freude
    "T": "sadness",  # Trauer
    "N": "neutral",
}
NUM_CLIPS = 535
_MALE = ("03", "10", "11", "12", "15")
_FEMALE = ("08", "09", "13", "14", "16")
_CLIP = re.compile(rf"({'|'.join(_MALE + _FEMALE)})[ab]\d\d([WLEAFTN])[a-z]")
_ENDINGS = (".wav", ".flac")


def scan(root: Path) -> Listing:
    """Find the clips below `root`.

    Raises:
        InputError: `root` is not a folder or holds no such clip.
    """
    if not root.is_dir():
        raise InputError(f"{root}: must be the folder of EmoDB, but there is none")
    found = [_source(path) for path in sorted(root.rglob("[01]*"))]
    sources = [source for source in found if source]
    if not sources:
        raise InputError(f"{root}: must hold EmoDB's clips, such as wav/03a01Fa.wav")
    return Listing(sources, notes=count_notes("EmoDB", len(sources), NUM_CLIPS))


def _source(path: Path) -> SourceUtterance | None:
    match = _CLIP.fullmatch(path.stem)
    if match is None or path.suffix.lower() not in _ENDINGS:
        return None
    speaker, emotion = match.groups()
    return SourceUtterance(
        utt_id=path.stem,
        path=path,
        corpus="emodb",
        speaker_id=speaker,
        gender="male" if speaker in _MALE else "female",
        session="",  # every actor was recorded alone
        emotion=EMOTIONS[emotion],
        origin=str(path),
    )

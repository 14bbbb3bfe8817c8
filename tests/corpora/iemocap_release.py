"""Invented releases of IEMOCAP: its folders and files, with a tone for all sound."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

VOTES = "C-E2:\tNeutral;\t()\nC-E3:\tNeutral;\t()\nC-E4:\tAnger; Frustration;\t(curt)\n"
SELF = "C-M1:\tSadness;\t()\nA-E3:\tval 3; act 2; dom  2;\t()\nA-M1:\tval 3; act 2; dom 1;\t()\n"


def block(utt_id: str, label: str, votes: str = VOTES) -> str:
    return f"[6.2901 - 8.2357]\t{utt_id}\t{label}\t[2.5000, 2.5000, 2.5000]\n{votes}{SELF}\n"


def evaluation_path(release: Path, dialog: str) -> Path:
    return release / f"Session{dialog[4]}" / "dialog" / "EmoEvaluation" / f"{dialog}.txt"


def wav_path(release: Path, utt_id: str) -> Path:
    dialog = utt_id.rpartition("_")[0]
    return release / f"Session{utt_id[4]}" / "sentences" / "wav" / dialog / f"{utt_id}.wav"


def write_release(release: Path, labels: Iterable[tuple[str, str]], *, newline: str = "\n") -> Path:
    """A release of utterances and labels; all sound is one short file."""
    tone = release / "tone.wav"
    release.mkdir(parents=True, exist_ok=True)
    soundfile.write(tone, 0.1 * np.sin(np.arange(1_920) / 5), 16_000)
    texts: dict[str, list[str]] = {}
    for utt_id, label in labels:
        texts.setdefault(utt_id.rpartition("_")[0], []).append(block(utt_id, label))
        wav = wav_path(release, utt_id)
        wav.parent.mkdir(parents=True, exist_ok=True)
        wav.hardlink_to(tone)
    for dialog, blocks in texts.items():
        path = evaluation_path(release, dialog)
        path.parent.mkdir(parents=True, exist_ok=True)
        head = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
        path.write_text(head + "".join(blocks), encoding="latin-1", newline=newline)
    return release

"""Invented releases of MELD: its tables and folders, with a constant for all sound."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile

_COLUMNS = ("Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID")
Row = tuple[str, str, str, int, int]  # speaker, emotion, sentiment, dialogue, utterance
FOLDERS = {
    "train": "train/train_splits",
    "dev": "dev/dev_splits_complete",
    "test": "test/output_repeated_splits_test",
}


def write_table(path: Path, rows: Sequence[Row], encoding: str = "utf-8-sig") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for number, row in enumerate(rows, start=1):
            writer.writerow((number, "You’re kidding, “right”?", *row))


def clip_path(root: Path, split: str, name: str, ending: str = ".wav") -> Path:
    return root / FOLDERS[split] / f"{name}{ending}"


def write_release(root: Path, rows: Mapping[str, Sequence[Row]]) -> Path:
    """A table of each split, and a WAV for each row."""
    for split, found in rows.items():
        write_table(root / ("train" if split == "train" else "") / f"{split}_sent_emo.csv", found)
        for *_, dialog, number in found:
            clip = clip_path(root, split, f"dia{dialog}_utt{number}")
            clip.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(clip, 0.1 * np.ones(3_200), 16_000)
    return root

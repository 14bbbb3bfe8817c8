"""Waveforms as a backbone wants them: normalised, or Whisper's own log-mel."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from serkd.corpora.audio import SAMPLE_RATE_HZ

Preparer = Callable[[np.ndarray], np.ndarray]  # waveform (T,) to the encoder's input, no batch


class _Normalise:
    """Zero mean and unit variance per utterance, as wav2vec 2.0's feature extractor does."""

    def __init__(self, is_on: bool) -> None:
        self.is_on = is_on

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        if not self.is_on:
            return waveform
        scaled = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
        return scaled.astype(np.float32)


class _WhisperLogMel:
    """transformers' own Whisper features, of the clip alone."""

    def __init__(self, folder: str) -> None:
        from transformers import WhisperFeatureExtractor

        self.extract = WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        out = self.extract(
            waveform, sampling_rate=SAMPLE_RATE_HZ, padding="do_not_pad", return_tensors="np"
        )
        return np.ascontiguousarray(out["input_features"][0], np.float32)


def build_preparer(family: str, folder: str | None) -> Preparer:
    """What a backbone of `family` in `folder` (None = built in) wants to be given."""
    if family == "whisper":
        assert folder is not None
        return _WhisperLogMel(folder)
    return _Normalise(is_normalised(folder))


def is_normalised(folder: str | None) -> bool:
    """Whether a backbone in `folder` (None = built in) wants waveforms normalised."""
    settings = Path(folder or "", "preprocessor_config.json")
    if folder is None or not settings.is_file():
        return True
    return bool(json.loads(settings.read_text(encoding="utf-8")).get("do_normalize", True))

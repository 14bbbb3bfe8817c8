"""Picklable recipes of encoders: waveforms or stored frames to float16 frames."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from serkd.corpora.audio import SAMPLE_RATE_HZ
from serkd.features.backbone import Backbone, Prefix, Suffix
from serkd.features.batching import (
    MAX_FRAMES_CPU,
    MAX_FRAMES_GPU,
    Columns,
    encode_batches,
    plan_batches,
)
from serkd.features.blocks import frame_mask
from serkd.features.fast import speed_up
from serkd.features.logmel import compute_logmel
from serkd.features.parts import Rows

_FRAME_SAMPLES = SAMPLE_RATE_HZ // 50
Encode = Callable[[Rows], list[Columns]]


class EncoderSpec(Protocol):
    """A picklable recipe of an encoder; `build` runs where the encoder will be used.

    What it builds takes the arrays of any utterances, each with its `utt_id`, and may be called by
    several threads. An utterance's output does not depend on the others: it differs from the one
    it has alone by at most 1e-3 of the RMS of its frames, float16's own rounding.
    """

    def build(self) -> Encode: ...


@dataclass(frozen=True)
class PrefixEncoder:
    """Builds the encoder of waveforms by a backbone's frozen prefix.

    `layers`, at most `frozen_layers` each, come from one pass; none given is layer `frozen_layers`.
    """

    backbone: Backbone
    frozen_layers: int
    device: str
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if outside := [n for n in self.layers if not 0 <= n <= self.frozen_layers]:
            raise ValueError(f"layers must be 0 to {self.frozen_layers}, got {outside}")

    def build(self) -> Encode:
        prefix = Prefix(self.backbone, self.frozen_layers)
        speed_up(prefix, self.device)
        layers = {n: n for n in self.layers or (self.frozen_layers,)}
        max_frames = _max_frames(self.device) if prefix.is_paddable else 0
        turn = _turn(self.device)

        def encode(waveforms: list[np.ndarray]) -> list[Columns]:
            with turn:
                states, num_frames = prefix.states(waveforms)
                return _columns(states, layers, num_frames)

        def encode_all(rows: Rows) -> list[Columns]:
            waveforms = [waveform for _, waveform in rows]
            lengths = [-(-len(waveform) // _FRAME_SAMPLES) for waveform in waveforms]
            return encode_batches(waveforms, plan_batches(lengths, max_frames), encode)

        return encode_all


@dataclass(frozen=True)
class SuffixEncoder:
    """Builds the encoder of layer-n frames by a (fine-tuned) suffix, to some of its layers."""

    backbone: Backbone
    frozen_layers: int
    weights: Mapping[str, Tensor]
    layers: tuple[int, ...]
    device: str

    def build(self) -> Encode:
        suffix = Suffix(self.backbone, self.frozen_layers)
        suffix.load_state_dict(self.weights)
        speed_up(suffix, self.device)
        places = {n: n - self.frozen_layers for n in self.layers}
        turn = _turn(self.device)

        @torch.inference_mode()
        def encode(arrays: list[np.ndarray]) -> list[Columns]:
            frames = [torch.from_numpy(array.astype(np.float32)) for array in arrays]
            num_frames = [len(array) for array in arrays]
            with turn:
                hidden = nn.utils.rnn.pad_sequence(frames, batch_first=True).to(self.device)
                states = suffix(hidden, frame_mask(num_frames, hidden.device))
                return _columns(states, places, num_frames)

        def encode_all(rows: Rows) -> list[Columns]:
            arrays = [array for _, array in rows]
            batches = plan_batches([len(array) for array in arrays], _max_frames(self.device))
            return encode_batches(arrays, batches, encode)

        return encode_all


@dataclass(frozen=True)
class LogMelEncoder:
    """Builds the encoder of waveforms to log-mel."""

    num_mels: int
    frame_rate_hz: int

    def build(self) -> Encode:
        def encode(waveform: np.ndarray) -> Columns:
            logmel = compute_logmel(waveform, self.num_mels, self.frame_rate_hz)
            return {"logmel": logmel.astype(np.float16)}

        return lambda rows: [encode(waveform) for _, waveform in rows]


def _max_frames(device: str) -> int:
    return MAX_FRAMES_CPU if device == "cpu" else MAX_FRAMES_GPU


def _turn(device: str) -> AbstractContextManager[Any]:
    """Threads take turns on a GPU, whose memory is for one batch."""
    return nullcontext() if device == "cpu" else Lock()


def _columns(
    states: Sequence[Tensor], places: Mapping[int, int], num_frames: Sequence[int]
) -> list[Columns]:
    """Layers' numbers to their places in `states`, (B, F, D) each: float16 columns of each row."""
    halves = {f"layer_{n}": states[place].half().cpu().numpy() for n, place in places.items()}
    return [
        # a copy, as a view would keep the padded batch in memory
        {name: half[row, :length].copy() for name, half in halves.items()}
        for row, length in enumerate(num_frames)
    ]

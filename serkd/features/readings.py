"""The same utterances read by a backbone in every way that people read them."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from serkd.corpora.audio import SAMPLE_RATE_HZ
from serkd.features.backbone import Backbone, Prefix, Suffix, load_encoder
from serkd.features.fast import speed_up
from serkd.features.prepare import build_preparer

FRAME_SAMPLES = 320  # 20 ms
States = Mapping[int, Tensor]  # layer to its frames (F, D)


class Readings:
    """One backbone, loaded once; waveforms (T,) are of whole frames."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.num_layers = backbone.num_layers
        self.is_whisper = backbone.family == "whisper"
        self.encoder: Any = load_encoder(backbone)
        self.prepare: Any = build_preparer(backbone.family, backbone.folder)
        self.suffix = Suffix(backbone, 0).eval()
        self.has_final_norm = self.suffix.body.final_norm is not None

    @property
    def window_s(self) -> float:
        """The longest utterance that the backbone takes."""
        if not self.is_whisper:
            return float("inf")
        return self.encoder.config.max_source_positions * FRAME_SAMPLES / SAMPLE_RATE_HZ

    def alone(self, waveform: np.ndarray) -> States:
        """transformers, one utterance: the reference."""
        inputs = torch.from_numpy(self.prepare(waveform))[None]
        if not self.is_whisper:
            return _first(_run(self.encoder, inputs))
        with _window(self.encoder, inputs.shape[-1] // 2):
            return _first(_run(self.encoder, inputs))

    @torch.inference_mode()
    def split(self, waveform: np.ndarray, frozen_layers: int) -> States:
        """serkd's prefix, then its suffix: layers from `frozen_layers` on."""
        hidden = Prefix(self.backbone, frozen_layers)(waveform)[None]
        suffix = Suffix(self.backbone, frozen_layers).eval() if frozen_layers else self.suffix
        states = suffix(hidden, torch.ones(hidden.shape[:2], dtype=torch.bool))
        return {layer: state[0] for layer, state in enumerate(states, start=frozen_layers)}

    def batched(self, waveforms: Sequence[np.ndarray]) -> list[States]:
        """serkd's extraction: the whole encoder as a prefix, all utterances in one batch."""
        prefix = Prefix(self.backbone, self.num_layers)
        speed_up(prefix, "cpu")
        batches = [waveforms] if prefix.is_paddable else [[waveform] for waveform in waveforms]
        found: list[States] = []
        for batch in batches:
            states, num_frames = prefix.states(batch)
            for row in range(len(num_frames)):
                found.append({layer: state[row] for layer, state in enumerate(states)})
        return found

    @torch.inference_mode()
    def suffix_padded(self, hidden: Sequence[Tensor]) -> list[States]:
        """serkd's suffix on layer 0 of all utterances, (F, D) each, in one masked batch."""
        batch = nn.utils.rnn.pad_sequence(list(hidden), batch_first=True, padding_value=1.0)
        lengths = torch.tensor([len(frames) for frames in hidden])
        mask = torch.arange(batch.shape[1]) < lengths[:, None]
        states = self.suffix(batch, mask)
        return [
            {layer: state[row] for layer, state in enumerate(states)} for row in range(len(hidden))
        ]

    def padded(self, waveforms: Sequence[np.ndarray], *, has_mask: bool) -> list[States]:
        """transformers, all utterances padded with zeros to the longest, with a mask or without."""
        inputs = [torch.from_numpy(self.prepare(waveform)) for waveform in waveforms]
        lengths = torch.tensor([len(values) for values in inputs])
        batch = nn.utils.rnn.pad_sequence(inputs, batch_first=True)
        mask = (torch.arange(batch.shape[1]) < lengths[:, None]).long() if has_mask else None
        states = _run(self.encoder, batch, mask)
        return [{n: state[row] for n, state in states.items()} for row in range(len(inputs))]

    def whole_window(self, waveform: np.ndarray) -> States:
        """Whisper as transformers feeds it: one utterance, silence up to the window."""
        out = self.prepare.extract(waveform, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
        return _first(_run(self.encoder, out["input_features"]))

    @torch.inference_mode()
    def without_final_norm(self, hidden: Tensor) -> Tensor:
        """Layer 0 of one utterance (F, D) to what its last layer gives before the final norm."""
        body = copy.copy(self.suffix.body)
        body._modules = {**body._modules, "final_norm": None}  # the layers are shared
        return body(hidden[None], None)[-1][0]


@torch.inference_mode()
def _run(encoder: Any, inputs: Tensor, mask: Tensor | None = None) -> dict[int, Tensor]:  # noqa: ANN401
    """transformers' layers 0..L, (B, F, D) each; the last is the encoder's output."""
    options = {} if mask is None else {"attention_mask": mask}
    out = encoder(inputs, output_hidden_states=True, **options)
    return dict(enumerate([*out.hidden_states[:-1], out.last_hidden_state]))


def _first(states: Mapping[int, Tensor]) -> States:
    return {layer: state[0] for layer, state in states.items()}


@contextmanager
def _window(encoder: Any, num_frames: int) -> Iterator[None]:  # noqa: ANN401  a Whisper encoder
    """Meanwhile an encoder's window is the clip: transformers takes no other length."""
    config, positions = encoder.config, encoder.embed_positions
    whole = config.max_source_positions
    config.max_source_positions = num_frames
    encoder.embed_positions = nn.Embedding.from_pretrained(positions.weight[:num_frames])
    try:
        yield
    finally:
        config.max_source_positions, encoder.embed_positions = whole, positions

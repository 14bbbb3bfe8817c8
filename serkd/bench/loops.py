"""Hidden states as people extract them with transformers: one utterance after the other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor, nn

from serkd.corpora.audio import SAMPLE_RATE_HZ
from serkd.corpora.manifest import Utterance
from serkd.features.backbone import Backbone, load_encoder


@torch.inference_mode()
def run_loop(
    backbone: Backbone,
    utterances: Sequence[Utterance],
    layers: Sequence[int],
    out: Path,
    *,
    is_whole_window: bool,
) -> None:
    """Load, feature extractor, model, one ``.npy`` of float16 an utterance and layer.

    `is_whole_window` is what nearly everybody runs with Whisper: silence up to its 30 s. Without,
    the encoder's modules are called on the clip alone, which is the function that serkd computes.
    """
    extractor, model = _load(backbone)
    for number, utterance in enumerate(utterances):
        waveform = _read(utterance.path)
        if backbone.family != "whisper":
            inputs = extractor(waveform, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
            states = _forward(model, inputs["input_values"])
        elif is_whole_window:
            inputs = extractor(waveform, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
            states = _forward(model, inputs["input_features"])
        else:
            inputs = extractor(
                waveform, sampling_rate=SAMPLE_RATE_HZ, padding="do_not_pad", return_tensors="pt"
            )
            states = _forward_whisper(model, inputs["input_features"])
        for layer in layers:
            np.save(out / f"{number}.layer_{layer}.npy", states[layer][0].half().numpy())


def read_loop(out: Path, number: int, layer: int) -> np.ndarray:
    """What `run_loop` wrote: frames (F, D) of an utterance."""
    return np.load(out / f"{number}.layer_{layer}.npy")


def _load(backbone: Backbone) -> tuple[Any, Any]:
    import transformers

    if backbone.folder is None:
        return transformers.Wav2Vec2FeatureExtractor(do_normalize=True), load_encoder(backbone)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(backbone.folder)
    return extractor, load_encoder(backbone)


def _read(path: str) -> np.ndarray:
    pcm, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = pcm.mean(axis=1)
    return mono if rate == SAMPLE_RATE_HZ else soxr.resample(mono, rate, SAMPLE_RATE_HZ)


def _forward(model: Any, inputs: Tensor) -> list[Tensor]:  # noqa: ANN401  a transformers model
    """Layers 0..L, the last one as the encoder gives it."""
    out = model(inputs, output_hidden_states=True)
    return [*out.hidden_states[:-1], out.last_hidden_state]


def _forward_whisper(encoder: Any, logmel: Tensor) -> list[Tensor]:  # noqa: ANN401
    """The same of a clip alone: WhisperEncoder.forward without its check of the length."""
    hidden = nn.functional.gelu(encoder.conv1(logmel))
    hidden = nn.functional.gelu(encoder.conv2(hidden)).permute(0, 2, 1)
    states = [hidden + encoder.embed_positions.weight[: hidden.shape[1]]]
    for layer in encoder.layers:
        states.append(layer(states[-1], attention_mask=None))
    return [*states[:-1], encoder.layer_norm(states[-1])]

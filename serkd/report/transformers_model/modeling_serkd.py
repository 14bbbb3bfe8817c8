"""Speech emotions from a fine-tuned encoder: a serkd teacher, for torch and transformers alone.

    pipeline("audio-classification", model=FOLDER, trust_remote_code=True)("speech.wav")

Every utterance of a batch is run by itself, at its own length: padding changes nothing.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    BatchFeature,
    PreTrainedConfig,
    PreTrainedModel,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder


class SerkdConfig(PreTrainedConfig):
    """`encoder_config` is the encoder's own; the rest says what stands on it.

    `scale` times cosines are the logits; None = a linear layer. `layer_mix`: the pooling reads a
    learned mixture of layers `frozen_layers`..L (true), or those side by side ("concat"), instead
    of the last layer.
    """

    model_type = "serkd"

    def __init__(
        self,
        encoder_config: dict[str, Any] | None = None,
        frozen_layers: int = 0,
        layer_mix: bool | str = False,
        pooling: str = "mean",
        scale: float | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        self.encoder_config = encoder_config or {}
        self.frozen_layers = frozen_layers
        self.layer_mix = layer_mix
        self.pooling = pooling
        self.scale = scale
        super().__init__(**kwargs)


class LayerMix(nn.Module):
    """Softmax-weighted mean of layers."""

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(num_layers))

    def forward(self, states: list[Tensor]) -> Tensor:
        """Layers, (1, F, D) each, to (1, F, D)."""
        return torch.einsum("s,sbfd->bfd", self.scores.softmax(dim=0), torch.stack(states))


class Pooling(nn.Module):
    """The frames of an utterance, (1, F, D), to their mean, or attentive mean (and deviation)."""

    def __init__(self, kind: str, dim: int, hidden: int = 128) -> None:
        super().__init__()
        self.kind = kind
        self.out_dim = 2 * dim if kind == "attentive_statistics" else dim
        if kind != "mean":
            self.score = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def forward(self, frames: Tensor) -> Tensor:
        if self.kind == "mean":
            return frames.mean(dim=1)
        weights = self.score(frames).softmax(dim=1)
        mean = (weights * frames).sum(dim=1)
        if self.kind == "attention":
            return mean
        variance = (weights * (frames - mean[:, None]).square()).sum(dim=1)
        return torch.cat([mean, (variance + 1e-6).sqrt()], dim=-1)


class Standardise(nn.Module):
    """(x - mean) / deviation with the statistics of the training utterances."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))

    def forward(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.deviation


class SerkdForAudioClassification(PreTrainedModel):
    """Encoder, pooling, standardisation, classifier."""

    config_class = SerkdConfig

    def __init__(self, config: SerkdConfig) -> None:
        super().__init__(config)
        inner = AutoConfig.for_model(**config.encoder_config)
        self.is_whisper = inner.model_type == "whisper"
        self.main_input_name = "input_features" if self.is_whisper else "input_values"
        self.encoder = WhisperEncoder(inner) if self.is_whisper else AutoModel.from_config(inner)
        layers = (self.encoder if self.is_whisper else self.encoder.encoder).layers
        trained = layers[config.frozen_layers :]
        self.mix = LayerMix(len(trained) + 1) if config.layer_mix is True else None
        num_read = len(trained) + 1 if config.layer_mix == "concat" else 1
        self.pooling = Pooling(config.pooling, num_read * inner.hidden_size)
        width = self.pooling.out_dim
        self.standardise = Standardise(width)
        self.classifier = nn.Linear(width, config.num_labels, bias=config.scale is None)
        self._states: list[Tensor] = []  # what entered the layers above the frozen ones
        for layer in trained:
            layer.register_forward_pre_hook(self._keep)
        self.post_init()

    def _keep(self, layer: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *others = arguments
        if not self._states:
            hidden = as_stored(hidden)
        self._states.append(hidden)
        return (hidden, *others)

    def forward(
        self,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        input_features: Tensor | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> SequenceClassifierOutput:
        """Waveforms (B, T), or Whisper's log-mels (B, mels, N), and which T or N are no padding."""
        batch = input_features if self.is_whisper else input_values
        if batch is None:
            raise ValueError(f"{self.main_input_name} must be given")
        if attention_mask is None:
            attention_mask = torch.ones(batch.shape[0], batch.shape[-1], device=batch.device)
        # transformers' own Whisper extractor may give the mask of the samples under a log-mel
        step = attention_mask.shape[-1] // batch.shape[-1]
        valid = attention_mask.bool()[:, step - 1 :: step]
        alone = [x[..., kept] for x, kept in zip(batch, valid, strict=True)]
        embedding = torch.cat([self.standardise(self.pooling(self._frames(x))) for x in alone])
        if self.config.scale is None:
            logits = self.classifier(embedding)
        else:
            weight = F.normalize(self.classifier.weight, dim=-1)
            logits = self.config.scale * F.linear(F.normalize(embedding, dim=-1), weight)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _frames(self, alone: Tensor) -> Tensor:
        """An utterance, (T,) or (mels, N), to what is pooled, (1, F, D)."""
        self._states = []
        if self.is_whisper:
            last = self._run_whisper(alone[None])
        else:
            last = self.encoder(alone[None]).last_hidden_state
        below, self._states = self._states, []
        if not below:
            last = as_stored(last)
        if self.config.layer_mix == "concat":
            return torch.cat([*below, last], dim=-1)
        return last if self.mix is None else self.mix([*below, last])

    def _run_whisper(self, logmel: Tensor) -> Tensor:
        """Positions are those of the clip; the encoder's own forward wants its whole window."""
        hidden = F.gelu(self.encoder.conv1(logmel))
        hidden = F.gelu(self.encoder.conv2(hidden)).transpose(1, 2)
        hidden = hidden + self.encoder.embed_positions.weight[: hidden.shape[1]]
        for layer in self.encoder.layers:
            hidden = layer(hidden, None)
        return self.encoder.layer_norm(hidden)


def as_stored(hidden: Tensor) -> Tensor:
    """The frozen layers' output was stored in half precision for training: round it alike."""
    return hidden.half().to(hidden.dtype)


def trim_silence(waveform: np.ndarray, threshold_db: float | None) -> np.ndarray:
    """A 16 kHz waveform (T,) from 0.1 s before its first loud 25 ms to 0.1 s behind its last.

    Loud is what is at most `threshold_db` below the loudest, of windows every 10 ms.
    """
    if threshold_db is None or len(waveform) < 400:
        return waveform
    windows = np.lib.stride_tricks.sliding_window_view(waveform, 400)[::160]
    power = np.square(windows, dtype=np.float64).mean(axis=1)
    loud = np.flatnonzero(power >= power.max() * 10 ** (-threshold_db / 10))
    return waveform[max(0, loud[0] * 160 - 1600) : loud[-1] * 160 + 400 + 1600]


class SerkdWaveformFeatureExtractor(Wav2Vec2FeatureExtractor):
    """Waveforms as HuBERT and its kin want them, without the silence at their ends."""

    def __init__(self, *args: Any, trim_silence_db: float | None = None, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self.trim_silence_db = trim_silence_db

    def __call__(self, raw_speech: Any, *args: Any, **kwargs: Any) -> BatchFeature:  # noqa: ANN401
        return super().__call__(_trim(raw_speech, self.trim_silence_db), *args, **kwargs)


def _trim(raw_speech: Any, threshold_db: float | None) -> Any:  # noqa: ANN401
    """One waveform or several, arrays or lists."""
    if np.ndim(raw_speech[0]) == 0:
        return trim_silence(np.asarray(raw_speech, np.float32), threshold_db)
    return [trim_silence(np.asarray(one, np.float32), threshold_db) for one in raw_speech]


class SerkdWhisperFeatureExtractor(WhisperFeatureExtractor):
    """Whisper's log-mel of every clip alone, then zeros up to the longest of the batch.

    Padding the waveform instead would change a clip's last frames. Silence at the ends is cut as
    in training.
    """

    def __init__(self, *args: Any, trim_silence_db: float | None = None, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self.trim_silence_db = trim_silence_db

    def __call__(
        self,
        raw_speech: Any,  # noqa: ANN401  a waveform or several, arrays or lists
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,  # noqa: ANN401  padding is always to the longest
    ) -> BatchFeature:
        is_one = np.ndim(raw_speech[0]) == 0
        found = []
        for waveform in [raw_speech] if is_one else raw_speech:
            values = trim_silence(np.asarray(waveform, np.float32), self.trim_silence_db)
            one = super().__call__(values, sampling_rate=sampling_rate, padding="do_not_pad")
            found.append(np.asarray(one["input_features"][0], np.float32))
        longest = max(logmel.shape[1] for logmel in found)
        features = np.zeros((len(found), len(found[0]), longest), np.float32)
        mask = np.zeros((len(found), longest), np.int64)
        for row, logmel in enumerate(found):
            features[row, :, : logmel.shape[1]] = logmel
            mask[row, : logmel.shape[1]] = 1
        data = {"input_features": features, "attention_mask": mask}
        return BatchFeature(data, tensor_type=return_tensors)

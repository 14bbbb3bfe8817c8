"""Small random backbones, saved as their authors would, and something for them to hear."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from transformers.models.whisper.modeling_whisper import WhisperEncoder

NUM_LAYERS = 3
SECONDS = 1  # of the small Whisper's window

# 20 ms frames as in the real models; every regulariser off is up to eval()
_SMALL: dict[str, Any] = {
    "conv_dim": (8,) * 7,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "initializer_range": 0.2,
}
_STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
# a stack of positional convolutions
_POSITIONS = {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5}
BUILDERS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "hubert_group": (transformers.HubertConfig, transformers.HubertModel, {}),
    "hubert_stable": (transformers.HubertConfig, transformers.HubertModel, _STABLE),
    "wav2vec2_group": (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model, {}),
    "wav2vec2_stable": (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model, _STABLE),
    "wavlm_group": (transformers.WavLMConfig, transformers.WavLMModel, {}),
    "wavlm_stable": (transformers.WavLMConfig, transformers.WavLMModel, _STABLE),
    "data2vec": (transformers.Data2VecAudioConfig, transformers.Data2VecAudioModel, _POSITIONS),
}


def _shake(model: nn.Module) -> None:
    """Fresh models have norms of ones, biases of zeros and gates that are shut: move them all."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def whisper_config(seconds: float = SECONDS) -> transformers.WhisperConfig:
    return transformers.WhisperConfig(
        vocab_size=32,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
        d_model=16,
        encoder_layers=NUM_LAYERS,
        encoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=24,
        num_mel_bins=20,
        max_source_positions=round(50 * seconds),
        init_std=0.2,
    )


def whisper_features(seconds: float = SECONDS) -> transformers.WhisperFeatureExtractor:
    return transformers.WhisperFeatureExtractor(feature_size=20, chunk_length=seconds)


def save_model(name: str, folder: Path, seed: int = 0, seconds: float = SECONDS) -> nn.Module:
    """A small random model of one of `BUILDERS`, "whisper" or "hubert_batch_norm".

    Saved as its authors would; returns it in eval mode."""
    torch.manual_seed(seed)
    if name == "hubert_batch_norm":
        config = transformers.HubertConfig(**_SMALL, conv_pos_batch_norm=True)
        model: Any = transformers.HubertModel(config)
        transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    elif name == "whisper":
        model = WhisperEncoder(whisper_config(seconds))
        whisper_features(seconds).save_pretrained(folder)
    else:
        config_type, kind, extra = BUILDERS[name]
        model = kind(config_type(**{**_SMALL, **extra}))
        transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    _shake(model)
    model.save_pretrained(folder)
    return model.eval()


def make_waveform(num_samples: int, seed: int = 0) -> np.ndarray:
    """A loud and a quiet part with an offset, so that normalisation is seen."""
    noise = np.random.default_rng(seed).standard_normal(num_samples) * 0.1 + 0.03
    noise[: num_samples // 2] *= 0.2
    return noise.astype(np.float32)

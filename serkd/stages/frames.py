"""The stages that write frames: features, log-mel, hidden states."""

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from serkd.features.extract import (
    EncoderSpec,
    LogMelEncoder,
    Part,
    PrefixEncoder,
    SuffixEncoder,
    extract_frames,
    split_audio,
    split_frames,
)
from serkd.stages.context import Context


def prefix_column(context: Context) -> str:
    return f"layer_{context.config('backbone.frozen_layers')}"


def _extract(context: Context, parts: Sequence[Part], encoder: EncoderSpec) -> None:
    extract_frames(
        str(context.ref),
        parts,
        encoder,
        context.folder,
        num_actors=context.compute.num_actors,
        num_gpus=context.compute.num_gpus,
        observer=context.observer,
    )


def _audio_parts(context: Context) -> list[Part]:
    utterances = context.fold.manifest.utterances
    return split_audio(utterances, context.config("corpus.max_duration_s"))


def run_features(context: Context) -> None:
    """Every utterance's output of the frozen prefix."""
    frozen = context.config("backbone.frozen_layers")
    encoder = PrefixEncoder(context.backbone, frozen, context.compute.device)
    _extract(context, _audio_parts(context), encoder)


def run_logmel(context: Context) -> None:
    """Every utterance's log-mel."""
    settings = context.config("student.logmel")
    encoder = LogMelEncoder(settings.num_mels, settings.frame_rate_hz)
    _extract(context, _audio_parts(context), encoder)


def run_hidden(context: Context) -> None:
    """Hidden states of the extractor at the layers to be clustered."""
    frozen = context.config("backbone.frozen_layers")
    encoder = SuffixEncoder(
        context.backbone,
        frozen,
        read_suffix(context.fitted_file("extractor", "model.safetensors")),
        context.config("units.layers"),
        context.compute.device,
    )
    parts = split_frames(context.input("features").folder, f"layer_{frozen}")
    _extract(context, parts, encoder)


def read_suffix(path: Path) -> dict[str, Tensor]:
    """The suffix's weights in a model's file."""
    tensors = load_file(path)
    start = "suffix."
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")

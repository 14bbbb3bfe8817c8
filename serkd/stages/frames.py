"""The stages that write frames: features, log-mel, hidden states."""

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from serkd.features.encoders import EncoderSpec, LogMelEncoder, PrefixEncoder, SuffixEncoder
from serkd.features.extract import Sink, extract_frames
from serkd.features.parts import Part, split_audio, split_frames
from serkd.stages.context import Context
from serkd.train.checkpoint import take_part

SPEED_STEPS = 1_000  # a speed of 1, as a stage counts it


def prefix_column(context: Context) -> str:
    return f"layer_{context.config('backbone.frozen_layers')}"


def extract(
    contexts: Sequence[Context],
    parts: Sequence[Part],
    encoder: EncoderSpec,
    outputs: Sequence[str],
    column: str | None = None,
) -> None:
    """Write each output of an encoder as a column, by default of its name, of its own stage."""
    first = contexts[0]
    extract_frames(
        str(first.ref) if len(contexts) == 1 else first.ref.stage,
        parts,
        encoder,
        {
            name: Sink(context.folder, column or name)
            for name, context in zip(outputs, contexts, strict=True)
        },
        num_actors=first.compute.num_actors,
        num_gpus=first.compute.num_gpus,
        observer=first.observer,
    )


def _audio_parts(context: Context, speed: float = 1.0) -> list[Part]:
    utterances = context.fold.manifest.utterances
    return split_audio(utterances, context.cut, speed)


def run_features(contexts: Sequence[Context], speed: float = 1.0) -> None:
    """Layers of the pre-trained backbone for every utterance, from one pass."""
    layers, context = list_layers(contexts), contexts[0]
    encoder = PrefixEncoder(context.backbone, max(layers), context.compute.actor_device, layers)
    extract(contexts, _audio_parts(context, speed), encoder, [f"layer_{n}" for n in layers])


def run_speeds(contexts: Sequence[Context]) -> None:
    """The same layers of the same utterances, played faster or slower."""
    run_features(contexts, contexts[0].ref.scale[0] / SPEED_STEPS)


def run_logmel(context: Context) -> None:
    """Every utterance's log-mel."""
    settings = context.config("student.logmel")
    encoder = LogMelEncoder(settings.num_mels, settings.frame_rate_hz)
    extract([context], _audio_parts(context), encoder, ["logmel"])


def run_hidden(contexts: Sequence[Context]) -> None:
    """Hidden states of the extractor at the layers to be clustered, from one pass."""
    layers, context = list_layers(contexts), contexts[0]
    frozen = context.config("backbone.frozen_layers")
    suffix = read_part(context.fitted_file("extractor", "model.safetensors"), "suffix")
    encoder = SuffixEncoder(context.backbone, frozen, suffix, layers, context.compute.actor_device)
    parts = split_frames(context.input("features").folder, f"layer_{frozen}")
    extract(contexts, parts, encoder, [f"layer_{n}" for n in layers])


def list_layers(contexts: Sequence[Context]) -> tuple[int, ...]:
    return tuple(context.ref.scale[-1] for context in contexts)


def read_part(path: Path, name: str) -> dict[str, Tensor]:
    """The weights of one part of a model, such as "suffix", in the model's file."""
    return take_part(load_file(path), name)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")

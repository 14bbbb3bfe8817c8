"""The stages that write frames: features, log-mel, hidden states, centroids, units."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
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
from serkd.features.store import read_frames
from serkd.stages.context import Context
from serkd.train.data import frame_labels
from serkd.units.assign import write_units
from serkd.units.quality import compute_quality


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


def run_centroids(context: Context) -> None:
    """k-means of one scale on the fold's training frames."""
    assert context.ref.scale is not None
    layer, num_clusters = context.ref.scale
    folder = context.input("hidden").folder
    clustering = context.compute.clustering(folder, f"layer_{layer}", context)
    fitted = clustering.fit(
        num_clusters,
        max_iterations=context.config("units.max_iterations"),
        tolerance=context.config("units.tolerance"),
        seed=context.config("seed"),
        also=[ref.scale[1] for ref in context.siblings if ref.scale is not None],
    )
    path = context.folder / "centroids.safetensors"
    save_arrays({"centroids": fitted.centroids}, path, context.lineage)
    summary = {"inertia": list(fitted.inertia), "num_frames": clustering.num_frames}
    write_json(context.folder / "fit.json", summary)


def run_units(context: Context) -> None:
    """Units of all utterances at one scale, and what they say of the training utterances."""
    assert context.ref.scale is not None
    layer, num_clusters = context.ref.scale
    arrays = load_arrays(context.fitted_file("centroids", "centroids.safetensors"))
    hidden = context.input("hidden").folder
    write_units(
        hidden, f"layer_{layer}", arrays["centroids"], context.folder, observer=context.observer
    )
    write_json(context.folder / "quality.json", _quality(context, num_clusters))


def _quality(context: Context, num_clusters: int) -> dict[str, Any]:
    """Of the training frames only: dev and test are not looked at."""
    manifest, train_ids = context.fold.manifest, context.fold.train
    units = read_frames(context.folder, "units", set(train_ids)).select(train_ids)
    labels = {}
    for name in ("emotion", "gender", "speaker_id"):
        values = [getattr(manifest.by_id[utt_id], name) for utt_id in train_ids]
        index = np.unique(values, return_inverse=True)[1]
        labels[name.removesuffix("_id")] = frame_labels(index, units.lengths)
    return compute_quality(units.values, labels, num_clusters)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")

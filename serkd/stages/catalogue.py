"""The stages of serkd: what each reads, declares, and does."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor

from serkd.config import Experiment
from serkd.features.backbone import Prefix, Suffix
from serkd.features.extract import (
    LogMelEncoder,
    Part,
    PrefixEncoder,
    SuffixEncoder,
    extract_frames,
    split_audio,
    split_frames,
)
from serkd.features.store import read_frames
from serkd.models.student import build_student, count_parameters
from serkd.stages.graph import Context, Ref, Stage
from serkd.train.data import FoldData, frame_labels
from serkd.train.loop import Task, Trained, train
from serkd.train.outputs import Outputs, forward_pair, predict, read_outputs, write_outputs
from serkd.train.student import StudentTask
from serkd.train.teacher import EmotionTask, ExtractorTask, UnitsTask, build_teacher
from serkd.units.assign import write_units
from serkd.units.quality import compute_quality

FEATURES, LOGMEL, EXTRACTOR, HIDDEN = (
    Ref("features"),
    Ref("logmel"),
    Ref("extractor"),
    Ref("hidden"),
)
STAGE_1, TEACHER, TEACHER_OUTPUTS = Ref("teacher_units"), Ref("teacher"), Ref("teacher_outputs")
STUDENT = Ref("student")


def list_scales(experiment: Experiment) -> list[tuple[int, int]]:
    """(layer, num_clusters) of every scale."""
    units = experiment.units
    return [(layer, count) for layer in units.layers for count in units.num_clusters]


def needs_teacher(experiment: Experiment) -> bool:
    """Whether the student reads the teacher's outputs at all."""
    is_curriculum = experiment.curriculum.pacing != "none"
    return experiment.distill.alpha > 0 or is_curriculum or experiment.meta.order != "off"


def _prefix_column(context: Context) -> str:
    return f"layer_{context.config('backbone.frozen_layers')}"


def _extract(context: Context, parts: Sequence[Part], encoder: Any) -> None:  # noqa: ANN401
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
    utterances = context.fold.sealed.utterances
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
        _suffix_weights(context.input("extractor").folder),
        context.config("units.layers"),
        context.compute.device,
    )
    parts = split_frames(context.input("features").folder, f"layer_{frozen}")
    _extract(context, parts, encoder)


def _suffix_weights(folder: Path) -> dict[str, Tensor]:
    tensors = load_file(folder / "model.safetensors")
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
    )
    save_arrays({"centroids": fitted.centroids}, context.folder / "centroids.safetensors")
    summary = {"inertia": list(fitted.inertia), "num_frames": clustering.num_frames}
    _write_json(context.folder / "fit.json", summary)


def run_units(context: Context) -> None:
    """Units of all utterances at one scale, and what they say of the training utterances."""
    assert context.ref.scale is not None
    layer, num_clusters = context.ref.scale
    arrays = load_arrays(context.input("centroids").folder / "centroids.safetensors")
    hidden = context.input("hidden").folder
    write_units(
        hidden, f"layer_{layer}", arrays["centroids"], context.folder, observer=context.observer
    )
    _write_json(context.folder / "quality.json", _quality(context, num_clusters))


def _quality(context: Context, num_clusters: int) -> dict[str, Any]:
    """Of the training frames only: dev and test are not looked at."""
    manifest, train_ids = context.fold.sealed, context.fold.train
    units = read_frames(context.folder, "units", set(train_ids)).select(train_ids)
    labels = {}
    for name in ("emotion", "gender", "speaker_id"):
        values = [getattr(manifest.by_id[utt_id], name) for utt_id in train_ids]
        index = np.unique(values, return_inverse=True)[1]
        labels[name.removesuffix("_id")] = frame_labels(index, units.lengths)
    return compute_quality(units.values, labels, num_clusters)


def _fold_data(context: Context, stage: str, column: str) -> FoldData:
    fold = context.fold
    return FoldData(fold.sealed, fold.train, fold.dev, context.input(stage).folder, column)


def _train(context: Context, build_task: functools.partial[Task]) -> Trained:
    trained = train(
        context.ref.stage, build_task, context.work, context.experiment.train, context.observer
    )
    save_file(
        {name: value.contiguous().clone() for name, value in trained.weights.items()},
        context.folder / "model.safetensors",
    )
    _write_json(context.folder / "history.json", trained.history)
    return trained


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def run_extractor(context: Context) -> None:
    """Multi-task fine-tuning."""
    task = functools.partial(
        ExtractorTask,
        _fold_data(context, "features", _prefix_column(context)),
        context.backbone,
        context.config("backbone.frozen_layers"),
        context.config("extractor"),
        context.config("units.gender_mode"),
        context.config("seed"),
        context.compute.device,
    )
    _train(context, task)


def run_teacher_units(context: Context) -> None:
    """Stage 1."""
    scales = [ref for ref in context.inputs if ref.stage == "units"]
    task = functools.partial(
        UnitsTask,
        _fold_data(context, "features", _prefix_column(context)),
        [context.inputs[ref].folder for ref in scales],
        [ref.scale[1] for ref in scales if ref.scale is not None],
        context.backbone,
        context.config("backbone.frozen_layers"),
        context.config("teacher.stage1"),
        context.config("seed"),
        context.compute.device,
    )
    _train(context, task)


def run_teacher(context: Context) -> None:
    """Stage 2."""
    task = functools.partial(
        EmotionTask,
        _fold_data(context, "features", _prefix_column(context)),
        context.backbone,
        context.config("backbone.frozen_layers"),
        _suffix_weights(context.input("teacher_units").folder),
        context.config("teacher.stage2"),
        context.config("seed"),
        context.compute.device,
    )
    _train(context, task)


def run_teacher_outputs(context: Context) -> None:
    """The teacher's logits and embedding of every utterance."""
    backbone, frozen = context.backbone, context.config("backbone.frozen_layers")
    model = build_teacher(
        context.config("teacher.stage2"),
        Suffix(backbone, frozen),
        backbone.dim,
        len(context.fold.manifest.class_names),
    )
    model.load_state_dict(load_file(context.input("teacher").folder / "model.safetensors"))
    frames = context.input("features").folder
    num_parameters = _whole_teacher_parameters(context, model)
    _predict_all(context, model, frames, _prefix_column(context), num_parameters)


def _whole_teacher_parameters(context: Context, model: torch.nn.Module) -> int:
    """The frozen prefix counts too: without it the teacher hears nothing."""
    prefix = Prefix(context.backbone, context.config("backbone.frozen_layers"))
    return count_parameters(model) + count_parameters(prefix)


def _predict_all(
    context: Context, model: torch.nn.Module, folder: Path, column: str, num_parameters: int
) -> None:
    model.eval().to(context.compute.device)
    frames = read_frames(folder, column)
    index = np.arange(len(frames))
    device = torch.device(context.compute.device)
    logits, embedding = predict(forward_pair(model), frames, index, device)
    write_outputs(Outputs(frames.utt_ids, logits, embedding), context.folder / "outputs.parquet")
    _write_json(context.folder / "model.json", {"num_parameters": num_parameters})


def run_student(context: Context) -> None:
    """The distilled student, and its outputs for every utterance."""
    settings = context.config("student")
    teacher = None
    if needs_teacher(context.experiment):
        teacher = read_outputs(context.input("teacher_outputs").folder / "outputs.parquet")
    task = functools.partial(
        StudentTask,
        _fold_data(context, "logmel", "logmel"),
        teacher,
        settings,
        context.config("distill"),
        context.config("curriculum"),
        context.config("seed"),
        context.compute.device,
    )
    trained = _train(context, task)
    model = build_student(settings, len(context.fold.manifest.class_names))
    model.load_state_dict(trained.weights)
    folder = context.input("logmel").folder
    _predict_all(context, model, folder, "logmel", count_parameters(model))


def _scaled(stage: str, experiment: Experiment) -> list[Ref]:
    return [Ref(stage, scale) for scale in list_scales(experiment)]


_CUT, _FROZEN = "corpus.max_duration_s", "backbone.frozen_layers"

STAGES: dict[str, Stage] = {
    "features": Stage(
        version=1,
        uses=(_CUT, _FROZEN),
        inputs=lambda e, r: [],
        fits="none",
        run=run_features,
        reads_audio=True,
        reads_backbone=True,
    ),
    "logmel": Stage(
        version=1,
        uses=(_CUT, "student.logmel"),
        inputs=lambda e, r: [],
        fits="none",
        run=run_logmel,
        reads_audio=True,
    ),
    "extractor": Stage(
        version=1,
        uses=(_FROZEN, "extractor", "units.gender_mode", "seed"),
        inputs=lambda e, r: [FEATURES],
        fits="train+dev",
        run=run_extractor,
        reads_backbone=True,
    ),
    "hidden": Stage(
        version=1,
        uses=(_FROZEN, "units.layers"),
        inputs=lambda e, r: [FEATURES, EXTRACTOR],
        fits="none",
        run=run_hidden,
        reads_backbone=True,
    ),
    "centroids": Stage(
        version=1,
        uses=("units.max_iterations", "units.tolerance", "units.max_points", "seed"),
        inputs=lambda e, r: [HIDDEN],
        fits="train",
        run=run_centroids,
    ),
    "units": Stage(
        version=1,
        uses=(),
        inputs=lambda e, r: [HIDDEN, Ref("centroids", r.scale)],
        fits="train",
        run=run_units,
    ),
    "teacher_units": Stage(
        version=1,
        uses=(_FROZEN, "teacher.stage1", "seed"),
        inputs=lambda e, r: [FEATURES, *_scaled("units", e)],
        fits="train+dev",
        run=run_teacher_units,
        reads_backbone=True,
    ),
    "teacher": Stage(
        version=1,
        uses=(_FROZEN, "teacher.stage2", "seed"),
        inputs=lambda e, r: [FEATURES, STAGE_1],
        fits="train+dev",
        run=run_teacher,
        reads_backbone=True,
    ),
    "teacher_outputs": Stage(
        version=1,
        uses=(_FROZEN, "teacher.stage2"),
        inputs=lambda e, r: [FEATURES, TEACHER],
        fits="train+dev",
        run=run_teacher_outputs,
        reads_backbone=True,
    ),
    "student": Stage(
        version=1,
        uses=("student", "distill", "curriculum", "meta", "seed"),
        inputs=lambda e, r: [LOGMEL, *([TEACHER_OUTPUTS] if needs_teacher(e) else [])],
        fits="train+dev",
        run=run_student,
    ),
}

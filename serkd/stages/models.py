"""The stages that train models or ask them: extractor, stage 1, stage 2, outputs, student."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from serkd.features.backbone import Prefix, Suffix
from serkd.features.store import read_frames
from serkd.gender import num_units
from serkd.models.student import build_student, count_parameters
from serkd.stages.context import Context
from serkd.stages.frames import prefix_column, read_suffix, write_json
from serkd.train.data import FoldData
from serkd.train.loop import Task, Trained, train
from serkd.train.outputs import Outputs, forward_pair, predict, write_outputs
from serkd.train.student import StudentTask, read_teacher
from serkd.train.teacher import EmotionTask, ExtractorTask, UnitsTask, build_teacher


def _fold_data(context: Context, stage: str, column: str) -> FoldData:
    fold = context.fold
    return FoldData(fold.manifest, fold.train, fold.dev, context.input(stage).folder, column)


def _train(context: Context, build_task: Callable[[], Task]) -> Trained:
    trained = train(
        context.ref.stage, build_task, context.work, context.experiment.train, context.observer
    )
    save_file(
        {name: value.contiguous().clone() for name, value in trained.weights.items()},
        context.folder / "model.safetensors",
        context.lineage,
    )
    write_json(context.folder / "history.json", trained.history)
    return trained


def run_extractor(context: Context) -> None:
    """Multi-task fine-tuning."""
    task = functools.partial(
        ExtractorTask,
        _fold_data(context, "features", prefix_column(context)),
        context.backbone,
        context.config("backbone.frozen_layers"),
        context.config("extractor"),
        context.config("units.gender_mode.has_task"),
        context.config("seed"),
        context.compute.device,
    )
    _train(context, task)


def run_teacher_units(context: Context) -> None:
    """Stage 1."""
    scales = [ref for ref in context.inputs if ref.stage == "units"]
    in_units = context.config("units.gender_mode.in_units")
    task = functools.partial(
        UnitsTask,
        _fold_data(context, "features", prefix_column(context)),
        [context.inputs[ref].folder for ref in scales],
        [num_units(ref.scale[1], in_units) for ref in scales],
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
        _fold_data(context, "features", prefix_column(context)),
        context.backbone,
        context.config("backbone.frozen_layers"),
        read_suffix(context.fitted_file("teacher_units", "model.safetensors")),
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
    model.load_state_dict(load_file(context.fitted_file("teacher", "model.safetensors")))
    frames = context.input("features").folder
    num_parameters = _whole_teacher_parameters(context, model)
    facts = {"num_parameters": num_parameters, "scale": model.scale}
    _predict_all(context, model, frames, prefix_column(context), facts)
    # the head on its own, for students that teach it
    head = context.folder / "head.safetensors"
    save_file(model.classifier.state_dict(), head, context.lineage)


def _whole_teacher_parameters(context: Context, model: torch.nn.Module) -> int:
    """The frozen prefix counts too: without it the teacher hears nothing."""
    prefix = Prefix(context.backbone, context.config("backbone.frozen_layers"))
    return count_parameters(model) + count_parameters(prefix)


def _predict_all(
    context: Context,
    model: torch.nn.Module,
    folder: Path,
    column: str,
    facts: Mapping[str, float | None],
) -> None:
    model.eval().to(context.compute.device)
    frames = read_frames(folder, column)
    index = np.arange(len(frames))
    device = torch.device(context.compute.device)
    logits, embedding = predict(forward_pair(model), frames, index, device)
    write_outputs(Outputs(frames.utt_ids, logits, embedding), context.folder / "outputs.parquet")
    write_json(context.folder / "model.json", facts)


def run_student(context: Context) -> None:
    """The distilled student, and its outputs for every utterance."""
    settings = context.config("student")
    teacher = None
    if any(ref.stage == "teacher_outputs" for ref in context.inputs):
        teacher = read_teacher(context.fitted_file("teacher_outputs", "head.safetensors").parent)
    task = functools.partial(
        StudentTask,
        _fold_data(context, "logmel", "logmel"),
        teacher,
        settings,
        context.config("distill"),
        context.config("curriculum"),
        context.config("meta"),
        context.config("seed"),
        context.compute.device,
    )
    trained = _train(context, task)
    model = build_student(settings, len(context.fold.manifest.class_names))
    model.load_state_dict(trained.weights)
    facts = {"num_parameters": count_parameters(model)}
    _predict_all(context, model, context.input("logmel").folder, "logmel", facts)

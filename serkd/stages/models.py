"""The stages that train models or ask them: extractor, stage 1, stage 2, outputs, student."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from serkd.features.backbone import Prefix
from serkd.features.cache import find_frames
from serkd.gender import num_units
from serkd.models.listener import count_inside
from serkd.models.student import build_student, count_parameters
from serkd.models.trunk import Trunk
from serkd.stages.context import Context, Ref
from serkd.stages.frames import SPEED_STEPS, prefix_column, read_part, write_json
from serkd.train.data import FoldData
from serkd.train.launch import train
from serkd.train.loop import Trained
from serkd.train.outputs import Outputs, forward_pair, predict, read_outputs, write_outputs
from serkd.train.stored_teacher import StoredTop, read_teacher
from serkd.train.stream import open_source
from serkd.train.student import StudentTask
from serkd.train.task import Task
from serkd.train.teacher import EmotionTask, ExtractorTask, UnitsTask, build_teacher
from serkd.train.units import KeptUnits, UnitScale

# the stage whose suffix is teacher.start
STARTS = {"units": "teacher_units", "extractor": "extractor", "backbone": None}


def fold_data(context: Context, stage: str, column: str) -> FoldData:
    fold, folder = context.fold, context.input(stage).folder
    where = context.experiment.train
    return FoldData(fold.manifest, fold.train, fold.dev, folder, column, where)


def _heard_data(context: Context) -> FoldData:
    """Of stages that may change the audio: run the frozen prefix on it, or read what is stored."""
    data = fold_data(context, "features", prefix_column(context))
    return replace(data, cut=context.cut, speeds=_speed_folders(context))


def _speed_folders(context: Context) -> dict[float, Path]:
    """The frames of audio at other speeds."""
    return {
        ref.scale[0] / SPEED_STEPS: artifact.folder
        for ref, artifact in context.inputs.items()
        if ref.stage == "speeds"
    }


def build_plain_trunk(context: Context) -> Trunk:
    """Of trained weights, which know nothing of how they were trained."""
    frozen_layers = context.config("backbone.frozen_layers")
    return Trunk(context.backbone, frozen_layers, context.config("backbone.layer_mix"))


def build_trunk(context: Context) -> Trunk:
    """What a task is to train."""
    where = context.experiment.train
    return replace(
        build_plain_trunk(context),
        lora=context.config("backbone.lora"),
        precision=context.config("backbone.precision"),
        checkpoint_layers=where.checkpoint_layers,
        compile_layers=where.compile,
    )


def _train(context: Context, build_task: Callable[[], Task], trunk: Trunk | None = None) -> Trained:
    trained = train(
        context.ref.stage, build_task, context.work, context.experiment.train, context.observer
    )
    if trunk is not None:
        trained = replace(trained, weights=trunk.merge(trained.weights))
    save_file(
        {name: value.contiguous().clone() for name, value in trained.weights.items()},
        context.folder / "model.safetensors",
        context.lineage,
    )
    write_json(context.folder / "history.json", trained.history)
    return trained


def run_extractor(context: Context) -> None:
    """Multi-task fine-tuning."""
    trunk = build_trunk(context)
    task = functools.partial(
        ExtractorTask,
        _heard_data(context),
        trunk,
        context.config("extractor"),
        context.config("units.gender_mode.has_task"),
        context.config("seed"),
        context.experiment.train.device,
    )
    _train(context, task, trunk)


def run_teacher_units(context: Context) -> None:
    """Stage 1."""
    scales = _unit_scales(context)
    trunk = build_trunk(context)
    task = functools.partial(
        UnitsTask,
        fold_data(context, "features", prefix_column(context)),
        scales,
        trunk,
        context.config("teacher.stage1"),
        context.config("seed"),
        context.experiment.train.device,
    )
    _train(context, task, trunk)
    # in the order of the heads: for stage 2, and for readers without this program
    about = [{k: v for k, v in asdict(scale).items() if k != "folder"} for scale in scales]
    write_json(context.folder / "scales.json", about)


def _unit_scales(context: Context) -> list[UnitScale]:
    """What stage 1 predicts, in the order of its heads and weights."""
    refs = [ref for ref in context.inputs if ref.stage == "units"]
    in_units = context.config("units.gender_mode.in_units")
    weights = context.config("teacher.stage1.scale_weights") or [1.0] * len(refs)
    found = []
    for ref, weight in zip(refs, weights, strict=True):
        layer, count = ref.scale
        folder = context.inputs[ref].folder
        found.append(UnitScale(layer, count, num_units(count, in_units), weight, folder))
    return found


def run_teacher(context: Context) -> None:
    """Stage 2."""
    trunk = build_trunk(context)
    task = functools.partial(
        EmotionTask,
        _heard_data(context),
        trunk,
        _start(context),
        context.config("teacher.stage2"),
        context.config("seed"),
        context.experiment.train.device,
        _kept_units(context),
    )
    _train(context, task, trunk)


def _start(context: Context) -> dict[str, Tensor] | None:
    """The suffix that stage 2 starts from; None = the pre-trained one."""
    stage = STARTS[context.config("teacher.start")]
    if stage is None:
        return None
    return read_part(context.fitted_file(stage, "model.safetensors"), "suffix")


def _kept_units(context: Context) -> KeptUnits | None:
    """Stage 1's scales and heads where its loss stays."""
    if not context.config("teacher.stage2.unit_weight"):
        return None
    path = context.fitted_file("teacher_units", "model.safetensors")
    about = json.loads((path.parent / "scales.json").read_text(encoding="utf-8"))
    scales = [
        UnitScale(
            **one, folder=context.inputs[Ref("units", (one["layer"], one["num_clusters"]))].folder
        )
        for one in about
    ]
    return KeptUnits(scales, read_part(path, "heads"))


def find_teacher_file(context: Context) -> Path:
    """The weights of the teacher that a stage reads, whichever it is."""
    (stage,) = {ref.stage for ref in context.inputs} & {"teacher", "random_teacher"}
    return context.fitted_file(stage, "model.safetensors")


def run_teacher_outputs(context: Context) -> None:
    """The teacher's logits and embedding of every utterance; an inner fold's, of its test.

    Of an inner fold's teacher, only what it says of those whom it never met is asked for.
    """
    trunk = build_plain_trunk(context)
    num_classes = len(context.fold.manifest.class_names)
    settings = context.config("teacher.stage2")
    model = build_teacher(settings, trunk.build_suffix(), trunk, num_classes)
    model.load_state_dict(load_file(find_teacher_file(context)))
    folders = {1.0: context.input("features").folder, **_speed_folders(context)}
    heard = [folders[speed] for speed in context.config("teacher.answer_speeds")]
    num_parameters = _whole_teacher_parameters(context, model)
    facts = {"num_parameters": num_parameters, "scale": model.scale}
    _predict(context, model, heard, prefix_column(context), facts)
    # the head on its own, for students that teach it
    head = context.folder / "head.safetensors"
    save_file(model.classifier.state_dict(), head, context.lineage)


def _whole_teacher_parameters(context: Context, model: torch.nn.Module) -> int:
    """The frozen prefix counts too: without it the teacher hears nothing."""
    prefix = Prefix(context.backbone, context.config("backbone.frozen_layers"))
    return count_parameters(model) + count_parameters(prefix)


def _predict(
    context: Context,
    model: torch.nn.Module,
    folders: Sequence[Path],
    column: str,
    facts: Mapping[str, float | str | None],
) -> None:
    """The mean over the frames of all folders."""
    model.eval().to(context.compute.device)
    settings, device = context.experiment.train, torch.device(context.compute.device)
    everyone = find_frames(folders[0], column).utt_ids
    utt_ids = context.fold.test if context.is_inner else everyone
    answers = []
    for folder in folders:
        source = open_source(find_frames(folder, column, utt_ids), settings.cache_gb)
        index = np.arange(len(utt_ids))
        found = predict(forward_pair(model), source, index, device, settings.max_frames)
        answers.append(found)
    logits, embedding = (np.mean(each, axis=0) for each in zip(*answers, strict=True))
    write_outputs(Outputs(utt_ids, logits, embedding), context.folder / "outputs.parquet")
    write_json(context.folder / "model.json", facts)


def _stored_top(context: Context) -> StoredTop | None:
    """The teacher's last layers where the student teaches them."""
    if not context.config("meta.has_live_layers"):
        return None
    folder = context.fitted_file("teacher_hidden", "top.safetensors").parent
    return StoredTop(folder, context.backbone)


def run_student(context: Context) -> None:
    """The distilled student, and its outputs for every utterance."""
    settings = context.config("student")
    teacher = unseen = None
    stages = {ref.stage for ref in context.inputs}
    if "teacher_outputs" in stages:
        folder = context.fitted_file("teacher_outputs", "head.safetensors").parent
        teacher = read_teacher(folder, _stored_top(context))
    if "teacher_inner_outputs" in stages:
        unseen = read_outputs(context.input("teacher_inner_outputs").folder / "outputs.parquet")
    stage, column = settings.stored_as
    data = fold_data(context, stage, column)
    task = functools.partial(
        StudentTask,
        data,
        teacher,
        settings,
        context.config("distill"),
        context.config("curriculum"),
        context.config("meta"),
        context.config("seed"),
        context.experiment.train.device,
        unseen,
    )
    trained = _train(context, task)
    model = build_student(settings, data.num_classes, data.frames.values.shape[1])
    model.load_state_dict(trained.weights)
    inside = count_inside(settings, context.backbone)
    facts: dict[str, float | str | None] = {
        "num_parameters": count_parameters(model) + inside,
        # what was wished for is in the key; processors without bfloat16 take another
        "precision": trained.precision,
    }
    _predict(context, model, [data.folder], column, facts)

"""The stages of serkd: what each reads, declares, and does."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from serkd.config import Experiment
from serkd.stages.context import Ref, Stage, alone
from serkd.stages.frames import SPEED_STEPS, run_features, run_hidden, run_logmel, run_speeds
from serkd.stages.inner import run_teacher_inner_outputs
from serkd.stages.models import (
    STARTS,
    run_extractor,
    run_student,
    run_teacher,
    run_teacher_outputs,
    run_teacher_units,
)
from serkd.stages.random_teacher import run_random_teacher
from serkd.stages.top import run_teacher_hidden
from serkd.stages.units import run_centroids, run_units

LOGMEL, EXTRACTOR, STAGE_1 = Ref("logmel"), Ref("extractor"), Ref("teacher_units")
RANDOM_TEACHER = Ref("random_teacher")
TEACHER, TEACHER_OUTPUTS, STUDENT = Ref("teacher"), Ref("teacher_outputs"), Ref("student")
TEACHER_HIDDEN, INNER_OUTPUTS = Ref("teacher_hidden"), Ref("teacher_inner_outputs")
MODELS = {"teacher": TEACHER_OUTPUTS, "student": STUDENT}  # what has results, by its name


def find_prefix(experiment: Experiment) -> Ref:
    """The features that models are trained on: the frozen prefix's output."""
    return Ref("features", (experiment.backbone.frozen_layers,))


def _speeds(experiment: Experiment, speeds: Iterable[float]) -> list[Ref]:
    """The same of audio at other speeds."""
    layer = experiment.backbone.frozen_layers
    return [Ref("speeds", (round(speed * SPEED_STEPS), layer)) for speed in speeds]


def list_scales(experiment: Experiment) -> list[tuple[int, int]]:
    """(layer, num_clusters) of every scale."""
    units = experiment.units
    return [(layer, count) for layer in units.layers for count in units.num_clusters]


def scores_out_of_fold(experiment: Experiment) -> bool:
    """Whether the student's curriculum asks teachers that have not seen the speaker."""
    return experiment.curriculum.scores_by_teacher and experiment.teacher.inner_folds > 0


def needs_teacher(experiment: Experiment) -> bool:
    """Whether the student reads the teacher's outputs at all."""
    is_scored = experiment.curriculum.scores_by_teacher and not scores_out_of_fold(experiment)
    return experiment.is_taught or is_scored or experiment.meta.order != "off"


def find_teacher(experiment: Experiment) -> Ref:
    """The teacher whose outputs there are: the trained one, or the random one of a control."""
    return TEACHER if experiment.distill.teacher == "trained" else RANDOM_TEACHER


def find_models(experiment: Experiment) -> tuple[str, ...]:
    """Those of `MODELS` that the student's result rests on."""
    return tuple(MODELS) if needs_teacher(experiment) else ("student",)


def find_student_input(experiment: Experiment) -> Ref:
    """The frames that the student hears."""
    stage, _ = experiment.student.stored_as
    return Ref(stage, (experiment.student.hidden.layer,)) if stage != "logmel" else LOGMEL


def _read_by_student(experiment: Experiment) -> list[Ref]:
    teacher = [TEACHER_OUTPUTS] if needs_teacher(experiment) else []
    if experiment.meta.has_live_layers:
        teacher.append(TEACHER_HIDDEN)
    return [
        find_student_input(experiment),
        *teacher,
        *([INNER_OUTPUTS] if scores_out_of_fold(experiment) else []),
    ]


def _inner_outputs(experiment: Experiment) -> list[Ref]:
    """Of the teacher of every inner fold."""
    count = experiment.teacher.inner_folds
    return [replace(TEACHER_OUTPUTS, inner=i) for i in range(1, count + 1)]


def _start(experiment: Experiment) -> list[Ref]:
    """What stage 2 starts from; nothing where that is the pre-trained backbone."""
    stage = STARTS[experiment.teacher.start]
    return [] if stage is None else [Ref(stage)]


def _kept_units(experiment: Experiment) -> list[Ref]:
    """What stage 2 still learns of stage 1's targets."""
    return _scaled("units", experiment) if experiment.teacher.stage2.unit_weight else []


def list_targets(experiment: Experiment, models: Sequence[str]) -> list[Ref]:
    """The stages to have for some of `MODELS`; what they read comes along."""
    is_scored = "teacher" in models and experiment.teacher.inner_folds > 0
    return [*(MODELS[model] for model in models), *([INNER_OUTPUTS] if is_scored else [])]


def _scaled(stage: str, experiment: Experiment) -> list[Ref]:
    return [Ref(stage, scale) for scale in list_scales(experiment)]


def _states(experiment: Experiment, ref: Ref) -> Ref:
    """The frames that a scale clusters."""
    stage = "hidden" if experiment.units.source == "extractor" else "features"
    return Ref(stage, ref.scale[:1])


_CUT = ("corpus.max_duration_s", "corpus.trim_silence_db")
_FROZEN, _GENDER = "backbone.frozen_layers", "units.gender_mode"
_READ = (_FROZEN, "backbone.layer_mix")
_TRAINED = (*_READ, "backbone.lora", "backbone.precision")

STAGES: dict[str, Stage] = {
    "features": Stage(
        version=3,
        uses=_CUT,
        inputs=lambda e, r: [],
        fits="none",
        run=run_features,
        reads_audio=True,
        reads_backbone=True,
    ),
    "speeds": Stage(
        version=1,
        uses=_CUT,
        inputs=lambda e, r: [],
        fits="none",
        run=run_speeds,
        reads_audio=True,
        reads_backbone=True,
    ),
    "logmel": Stage(
        version=1,
        uses=(*_CUT, "student.logmel"),
        inputs=lambda e, r: [],
        fits="none",
        run=alone(run_logmel),
        reads_audio=True,
    ),
    "extractor": Stage(
        version=3,
        uses=(*_TRAINED, *_CUT, "extractor", f"{_GENDER}.has_task", "seed"),
        inputs=lambda e, r: [find_prefix(e), *_speeds(e, e.extractor.augment.stored_speeds)],
        fits="train+dev",
        run=alone(run_extractor),
        reads_backbone=True,
    ),
    "hidden": Stage(
        version=3,
        uses=(_FROZEN,),
        inputs=lambda e, r: [find_prefix(e), EXTRACTOR],
        fits="train",
        run=run_hidden,
        reads_backbone=True,
    ),
    "centroids": Stage(
        version=4,
        uses=(
            "units.source",
            "units.max_iterations",
            "units.tolerance",
            "units.max_points",
            "units.balanced",
            f"{_GENDER}.is_apart",
            "seed",
        ),
        inputs=lambda e, r: [_states(e, r)],
        fits="train",
        run=run_centroids,
        clusters=True,
    ),
    "units": Stage(
        version=3,
        uses=("units.source", f"{_GENDER}.is_apart", f"{_GENDER}.in_units", "seed"),
        inputs=lambda e, r: [_states(e, r), Ref("centroids", r.scale)],
        fits="train",
        run=run_units,
        reads_genders=True,
    ),
    "teacher_units": Stage(
        version=4,
        uses=(*_TRAINED, "teacher.stage1", f"{_GENDER}.in_units", "seed"),
        inputs=lambda e, r: [find_prefix(e), *_scaled("units", e)],
        fits="train+dev",
        run=alone(run_teacher_units),
        reads_backbone=True,
    ),
    "teacher": Stage(
        version=3,
        uses=(*_TRAINED, *_CUT, "teacher.start", "teacher.stage2", "seed"),
        inputs=lambda e, r: [
            find_prefix(e),
            *_speeds(e, e.teacher.stage2.augment.stored_speeds),
            *_start(e),
            *_kept_units(e),
        ],
        fits="train+dev",
        run=alone(run_teacher),
        reads_backbone=True,
    ),
    "random_teacher": Stage(
        version=2,
        uses=(*_READ, "teacher.stage2", "seed"),
        inputs=lambda e, r: [find_prefix(e)],
        fits="train",
        run=alone(run_random_teacher),
        reads_backbone=True,
    ),
    "teacher_outputs": Stage(
        version=2,
        uses=(*_READ, "teacher.stage2", "teacher.answer_speeds"),
        inputs=lambda e, r: [
            find_prefix(e),
            *_speeds(e, e.teacher.other_answer_speeds),
            find_teacher(e),
        ],
        fits="train+dev",
        run=alone(run_teacher_outputs),
        reads_backbone=True,
    ),
    "teacher_hidden": Stage(
        version=1,
        uses=(*_READ, "teacher.stage2", "meta.last_layers"),
        inputs=lambda e, r: [find_prefix(e), find_teacher(e)],
        fits="train+dev",
        run=alone(run_teacher_hidden),
        reads_backbone=True,
    ),
    "teacher_inner_outputs": Stage(
        version=1,
        uses=("teacher.inner_folds",),
        inputs=lambda e, r: _inner_outputs(e),
        fits="train+dev",
        run=alone(run_teacher_inner_outputs),
    ),
    "student": Stage(
        version=10,
        uses=("student", "distill", "curriculum", "meta", "seed"),
        inputs=lambda e, r: _read_by_student(e),
        fits="train+dev",
        run=alone(run_student),
        reads_votes=True,
    ),
}

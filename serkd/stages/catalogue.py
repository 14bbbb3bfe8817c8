"""The stages of serkd: what each reads, declares, and does."""

from serkd.config import Experiment
from serkd.stages.context import Ref, Stage, alone
from serkd.stages.frames import run_features, run_hidden, run_logmel
from serkd.stages.models import (
    run_extractor,
    run_student,
    run_teacher,
    run_teacher_outputs,
    run_teacher_units,
)
from serkd.stages.units import run_centroids, run_units

LOGMEL, EXTRACTOR, STAGE_1 = Ref("logmel"), Ref("extractor"), Ref("teacher_units")
TEACHER, TEACHER_OUTPUTS, STUDENT = Ref("teacher"), Ref("teacher_outputs"), Ref("student")


def find_prefix(experiment: Experiment) -> Ref:
    """The features that models are trained on: the frozen prefix's output."""
    return Ref("features", (experiment.backbone.frozen_layers,))


def list_scales(experiment: Experiment) -> list[tuple[int, int]]:
    """(layer, num_clusters) of every scale."""
    units = experiment.units
    return [(layer, count) for layer in units.layers for count in units.num_clusters]


def needs_teacher(experiment: Experiment) -> bool:
    """Whether the student reads the teacher's outputs at all."""
    is_curriculum = experiment.curriculum.pacing != "none"
    return experiment.distill.alpha > 0 or is_curriculum or experiment.meta.order != "off"


def _scaled(stage: str, experiment: Experiment) -> list[Ref]:
    return [Ref(stage, scale) for scale in list_scales(experiment)]


def _states(experiment: Experiment, ref: Ref) -> Ref:
    """The frames that a scale clusters."""
    stage = "hidden" if experiment.units.source == "extractor" else "features"
    return Ref(stage, ref.scale[:1])


_CUT, _FROZEN, _GENDER = "corpus.max_duration_s", "backbone.frozen_layers", "units.gender_mode"

STAGES: dict[str, Stage] = {
    "features": Stage(
        version=3,
        uses=(_CUT,),
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
        run=alone(run_logmel),
        reads_audio=True,
    ),
    "extractor": Stage(
        version=1,
        uses=(_FROZEN, "extractor", f"{_GENDER}.has_task", "seed"),
        inputs=lambda e, r: [find_prefix(e)],
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
        version=1,
        uses=(_FROZEN, "teacher.stage1", f"{_GENDER}.in_units", "seed"),
        inputs=lambda e, r: [find_prefix(e), *_scaled("units", e)],
        fits="train+dev",
        run=alone(run_teacher_units),
        reads_backbone=True,
    ),
    "teacher": Stage(
        version=1,
        uses=(_FROZEN, "teacher.stage2", "seed"),
        inputs=lambda e, r: [find_prefix(e), STAGE_1],
        fits="train+dev",
        run=alone(run_teacher),
        reads_backbone=True,
    ),
    "teacher_outputs": Stage(
        version=1,
        uses=(_FROZEN, "teacher.stage2"),
        inputs=lambda e, r: [find_prefix(e), TEACHER],
        fits="train+dev",
        run=alone(run_teacher_outputs),
        reads_backbone=True,
    ),
    "student": Stage(
        version=1,
        uses=("student", "distill", "curriculum", "meta", "seed"),
        inputs=lambda e, r: [LOGMEL, *([TEACHER_OUTPUTS] if needs_teacher(e) else [])],
        fits="train+dev",
        run=alone(run_student),
    ),
}

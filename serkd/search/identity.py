"""When two trials are the same experiment."""

from typing import Any

from serkd.config import Experiment
from serkd.stages.catalogue import MODELS, STAGES
from serkd.stages.graph import list_closure
from serkd.stages.key import compute_key, used_values


def used_settings(experiment: Experiment, model: str = "student") -> dict[str, Any]:
    """All that decides a model, apart from its fold: by stage, the settings that it reads.

    Settings without effect beside the others, and those of stages that this student does not need
    (units where the teacher starts from the backbone, a teacher that nobody asks), are not in it.
    """
    found: dict[str, Any] = {}
    for ref in list_closure(STAGES, experiment, [MODELS[model]]):
        stage = STAGES[ref.stage]
        found[str(ref)] = used_values(experiment, stage.uses)
        if stage.reads_backbone:
            found["backbone"] = experiment.backbone.name
    data = used_values(experiment, ("corpus", "protocol"))
    return {**found, "data": data}


def experiment_key(experiment: Experiment, model: str = "student") -> str:
    """Equal for two experiments whose models are trained alike, on whichever fold."""
    return compute_key(used_settings(experiment, model))

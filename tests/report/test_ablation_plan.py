"""The plan of an ablation, against the content keys that its cells would have."""

from serkd.config import Experiment
from serkd.corpora.protocols import read_folds
from serkd.report.ablation_plan import count_stages
from serkd.search.cells import arm_cells, unique_cells, with_settings
from serkd.stages.catalogue import MODELS, STAGES
from serkd.stages.graph import Graph


def test_the_planned_stages_are_those_that_have_different_keys(tiny: Experiment) -> None:
    folds = {fold.name: fold for fold in read_folds(tiny.corpus, tiny.protocol)}
    arms = [{}, {"distill.alpha": 0.0, "student.width": 24}, {"units.num_clusters": [4]}]
    experiments = [with_settings(tiny, settings) for settings in arms]
    for model, ref in MODELS.items():
        cells = unique_cells([arm_cells(e, list(folds), (0, 1), model) for e in experiments])
        keys: dict[str, list[str]] = {}
        for cell in cells:
            graph = Graph(STAGES, cell.experiment, folds[cell.fold])
            for used in graph.closure([ref]):
                keys.setdefault(used.stage, []).append(graph.key(used))
        found = {row["stage"]: (row["requests"], row["distinct"]) for row in count_stages(cells)}
        assert found == {stage: (len(each), len(set(each))) for stage, each in keys.items()}

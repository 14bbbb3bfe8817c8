"""A sweep over gender modes: what is shared before the trials, and what is not."""

from types import SimpleNamespace

from serkd.config import Experiment
from serkd.corpora.protocols import read_folds
from serkd.search.tuner import _is_touched
from serkd.stages.catalogue import STAGES, STUDENT
from serkd.stages.graph import Graph


def test_stages_that_read_a_property_of_the_mode_are_left_to_the_trials(tiny: Experiment) -> None:
    """Stages declare `units.gender_mode.has_task` and the like, and not the searched key itself."""
    graph = Graph(STAGES, tiny, read_folds(tiny.corpus, tiny.protocol)[0])
    space = SimpleNamespace(space={"units.gender_mode": None})
    refs = graph.closure([STUDENT])
    untouched = {ref.stage for ref in refs if not _is_touched(graph, ref, space)}  # type: ignore[arg-type]
    assert untouched == {"features", "logmel"}

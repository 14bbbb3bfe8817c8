"""Equal experiments collapse, and stages are counted as the graph's keys count them."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serkd.config import Experiment
from serkd.corpora.protocols import read_folds
from serkd.recipe import build_experiment
from serkd.search.build import Builder
from serkd.search.count import Tracer
from serkd.search.dimension import Dimension
from serkd.search.draw import draw_params
from serkd.search.grid import list_cells
from serkd.search.identity import experiment_key
from serkd.stages.catalogue import STAGES, STUDENT
from serkd.stages.graph import Graph

DIMENSIONS = {
    "units.gender_mode": Dimension(choice=("mtl", "none", "joint")),
    "units.num_clusters": Dimension(choice=((4,), (4, 8))),
    "extractor.emotion_weight": Dimension(choice=(0.5, 0.9)),
    "teacher.start": Dimension(choice=("units", "extractor", "backbone")),
    "teacher.inner_folds": Dimension(choice=(0, 2)),
    "distill.alpha": Dimension(float=(0.0, 0.5), step=0.5),
    "distill.kd": Dimension(choice=("kl", "dkd")),
    "distill.dkd_other_weight": Dimension(choice=(1.0, 8.0)),
    "curriculum.pacing": Dimension(choice=("none", "root")),
    "curriculum.scorer": Dimension(choice=("margin", "random")),
    "meta.last_layers": Dimension(choice=(1, 2)),
    "student.logmel.num_mels": Dimension(choice=(40, 80)),
}
SEEDS = (0, 1)


@pytest.fixture(scope="module")
def drawn(tiny: Experiment) -> list[Experiment]:
    """Eighty trials, without `when`: many of their settings have no effect."""
    rng, builder = random.Random(3), Builder(tiny, tuple(DIMENSIONS))
    return [builder.build(draw_params(DIMENSIONS, rng)) for _ in range(80)]


def test_stages_are_counted_as_their_keys_are(tiny: Experiment, drawn: list[Experiment]) -> None:
    """Against real keys of real folds and seeds."""
    folds = read_folds(tiny.corpus, tiny.protocol)[:2]
    counts = Tracer().trace(drawn)
    keys: Counter[str] = Counter()
    requests, students = 0, set()
    for experiment in drawn:
        graph = Graph(STAGES, experiment, folds[0])
        if (key := graph.key(STUDENT)) in students:
            continue
        students.add(key)
        requests += len(graph.closure([STUDENT]))
        for fold in folds:
            for seed in SEEDS:
                seeded = experiment.model_copy(update={"seed": seed})
                real = Graph(STAGES, seeded, fold)
                keys.update(f"{ref.stage} {real.key(ref)}" for ref in real.closure([STUDENT]))
    assert (counts.num_experiments, counts.requests) == (len(students), requests)
    computed = sum(counts.copies(node, len(folds), len(SEEDS)) for node in counts.nodes)
    assert computed == len(keys)
    assert len(students) < 80  # some collapsed


def test_a_trials_identity_is_that_of_its_student(
    tiny: Experiment, drawn: list[Experiment]
) -> None:
    fold = read_folds(tiny.corpus, tiny.protocol)[0]
    pairs = {(experiment_key(e), Graph(STAGES, e, fold).key(STUDENT)) for e in drawn}
    assert len(pairs) == len({first for first, _ in pairs}) == len({second for _, second in pairs})


IDLE = {
    "curriculum.start_share": st.floats(0.1, 1.0),
    "curriculum.full_at": st.floats(0.1, 1.0),
    "curriculum.temperature_range": st.floats(1.0, 50.0),
    "curriculum.alpha_end": st.floats(0.0, 1.0),
    "meta.pilot_lr": st.floats(1e-5, 1e-1),
    "meta.rho": st.floats(0.0, 1.0, exclude_max=True),
    "distill.dkd_other_weight": st.floats(0.0, 10.0),
    "student.num_heads": st.integers(1, 9),
    "student.num_frames": st.integers(50, 500),
    "backbone.lora.alpha": st.floats(1.0, 32.0),
    "train.max_frames": st.integers(100, 10_000),
    "teacher.inner_folds": st.sampled_from([0, 2, 5]),
}
ALIVE = {
    "student.width": st.integers(8, 64),
    "distill.alpha": st.floats(0.1, 1.0),
    "units.num_clusters": st.sampled_from([[4], [8], [4, 8]]),
    "seed": st.integers(0, 99),
}


@settings(deadline=None, max_examples=60)
@given(
    first=st.fixed_dictionaries({}, optional=IDLE),
    second=st.fixed_dictionaries({}, optional=IDLE),
    alive=st.fixed_dictionaries({}, optional=ALIVE),
    other=st.fixed_dictionaries({}, optional=ALIVE),
)
def test_equal_experiments_collapse_and_others_do_not(
    first: dict[str, object],
    second: dict[str, object],
    alive: dict[str, object],
    other: dict[str, object],
) -> None:
    """With no curriculum, no meta step, plain KD and a conv student, none of IDLE has an effect."""
    one, two = build_experiment({}, first | alive), build_experiment({}, second | alive)
    assert experiment_key(one) == experiment_key(two)
    three = build_experiment({}, second | other)
    is_same = build_experiment({}, alive) == build_experiment({}, other)
    assert (experiment_key(one) == experiment_key(three)) == is_same


def test_a_hundred_thousand_trials_are_followed_with_few_lookups(tiny: Experiment) -> None:
    dimensions = {
        "units.num_clusters": Dimension(choice=tuple((k,) for k in range(4, 14))),
        "distill.alpha": Dimension(float=(0.1, 0.9), step=0.1),
        "distill.temperature": Dimension(float=(1.0, 10.0), step=1.0),
        "student.width": Dimension(int=(16, 176), step=16),
        "student.fit.lr": Dimension(choice=tuple(i / 1000 for i in range(1, 11))),
    }
    tracer, builder = Tracer(), Builder(tiny, tuple(dimensions))
    counts = tracer.trace(map(builder.build, list_cells(dimensions)))
    assert counts.num_experiments == 10 * 9 * 10 * 11 * 10
    # one for each value of a part, and not for each trial
    assert tracer.num_computed < 2_000
    assert sum(node.ref == STUDENT for node in counts.nodes) == counts.num_experiments
    assert sum(node.ref.stage == "teacher" for node in counts.nodes) == 10

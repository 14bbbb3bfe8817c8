"""Every shipped space runs in its reduced size, and computes what its plan says."""

from pathlib import Path

import pytest

from serkd.corpora.protocols import read_folds
from serkd.events import Observer
from serkd.recipe import build_experiment
from serkd.report.sweep import start_sweep
from serkd.search.ablation import is_ablation
from serkd.search.plan import Design, plan_experiments
from serkd.search.read import read_space

pytestmark = pytest.mark.slow

FILES = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))
SPACES = [path for path in FILES if not is_ablation(path)]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all: they have most of their stages in common."""
    return tmp_path_factory.mktemp("storage")


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_a_shipped_space_runs_and_computes_what_its_plan_says(
    ray_cluster: None, manifest_path: Path, storage: Path, path: Path
) -> None:
    values = {"corpus.manifest": str(manifest_path)}
    space, base = read_space(path, values, smoke=True)
    before = set(storage.glob("stages/*/*/stage.json"))
    summary = start_sweep(path, values, None, storage, Observer(), smoke=True)
    trials = summary["trials"]
    assert [trial["state"] for trial in trials] == ["finished"] * space.budget.trials
    data = base.model_dump(mode="json")
    experiments = [build_experiment(data, trial["params"]) for trial in trials]
    design = Design(read_folds(base.corpus, base.protocol)[:1], (base.seed,), 1)
    plan = plan_experiments(experiments, design, base, storage)
    assert plan["distinct_trials"] == len(trials)
    assert plan["stored_stages"] == plan["distinct_stages"]
    computed = set(storage.glob("stages/*/*/stage.json")) - before
    assert 0 < len(computed) <= plan["distinct_stages"]
    if not before:
        assert len(computed) == plan["distinct_stages"]
    assert summary["stage_requests"] == plan["stage_requests"]

"""The plan of an ablation, against the content keys that its cells would have."""

import json
from pathlib import Path

from typer.testing import CliRunner

from serkd.cli import app
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


def test_chosen_arms_and_seeds_are_planned_alone_and_unknown_ones_refused(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    def plan(*options: str, file: str = "arms.yaml") -> tuple[int, str]:
        arguments = ["plan", str(tmp_path / file), "--json", *options]
        result = CliRunner().invoke(app, arguments)
        return result.exit_code, result.stdout or str(result.exception)

    arms = {"none": {"distill.alpha": 0.0}, "some": {}, "all": {"distill.alpha": 1.0}}
    ablation = {"question": "?", "base": str(tiny_recipe), "design": "list", "reference": "some"}
    text = json.dumps({**ablation, "arms": arms, "folds": ["1"], "seeds": [4]})
    (tmp_path / "arms.yaml").write_text(text, encoding="utf-8")
    code, out = plan("--arm", "all", "--seeds", "0,1,2")
    found = json.loads(out)
    assert (code, found["num_cells"], found["seeds"]) == (0, 6, [0, 1, 2])
    assert [arm["name"] for arm in found["arms"]] == ["some", "all"]
    assert json.loads(plan()[1])["num_cells"] == 3
    for options, message in [
        (("--arm", "many"), "--arm must be of 'some', 'none', 'all', got 'many'"),
        (("--seeds", "1,x"), "--seeds must be different whole numbers"),
    ]:
        code, out = plan(*options)
        assert code
        assert message in out
    arms["some"] = {"distill.alpha": 0.4, "curriculum.full_at": 0.2}
    (tmp_path / "idle.yaml").write_text(json.dumps({**ablation, "arms": arms}), encoding="utf-8")
    assert json.loads(plan(file="idle.yaml")[1])["warnings"] == [
        "arm 'some': curriculum.full_at has no effect unless curriculum.pacing is not 'none' and "
        "curriculum.start_share below 1"
    ]
    shown = CliRunner().invoke(app, ["plan", str(tmp_path / "idle.yaml")])
    assert "warning: arm 'some': curriculum.full_at has no effect" in shown.stdout
    impossible = {"student.input": "hidden", "student.hidden.layer": 99}
    arms["deep"] = impossible
    (tmp_path / "deep.yaml").write_text(json.dumps({**ablation, "arms": arms}), encoding="utf-8")
    told = json.loads(plan(file="deep.yaml")[1])["warnings"]
    assert told[1].startswith(
        "arm 'deep' will fail, first on fold 1: student.hidden.layer must be at most"
    )
    space = {"base": str(tiny_recipe), "space": {"distill.alpha": {"choice": [0.0, 0.5]}}}
    (tmp_path / "space.yaml").write_text(json.dumps(space), encoding="utf-8")
    code, out = plan("--seeds", "1", file="space.yaml")
    assert code
    assert "space.yaml is no ablation" in out

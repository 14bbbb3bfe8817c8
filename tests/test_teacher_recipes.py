"""The teacher recipes of IEMOCAP and MELD: they say what they mean, and run on such a corpus."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import iemocap_release
import meld_release
import numpy as np
import pytest
import soundfile

from serkd.cli import main
from serkd.config import Experiment
from serkd.corpora.protocols import read_folds
from serkd.events import Observer
from serkd.recipe import build_experiment, read_experiment
from serkd.report.run import run_experiment
from serkd.report.sealed import open_test
from serkd.stages.catalogue import STAGES, TEACHER_OUTPUTS
from serkd.stages.context import Compute
from serkd.stages.graph import Graph
from serkd.stages.store import StageStore
from serkd.threads import set_threads
from serkd.yaml12 import read_yaml

_RECIPES = Path(__file__).parents[1] / "jobs" / "recipes"
_LARGE = re.compile(r"(?P<indent> *)# (?P<name>\w+): (?P<value>.*?) +# large")
# an encoder and epochs that take seconds; all else is the recipe's
_SMALL = {
    "backbone.name": "tiny-hubert",
    "units.layers": [1, 2],
    "units.num_clusters": [4, 8],
    "extractor.fit.epochs": 1,
    "teacher.stage1.fit.epochs": 1,
    "teacher.stage2.fit.epochs": 2,
}


def _use_large(recipe: str) -> str:
    """A recipe's text with the lines marked "large" instead of those above them."""
    lines: list[str] = []
    for line in recipe.splitlines():
        if found := _LARGE.match(line):
            above = lines.pop()
            assert above.startswith(f"{found['indent']}{found['name']}: "), (above, line)
            line = f"{found['indent']}{found['name']}: {found['value']}"
        lines.append(line)
    return "\n".join(lines)


@pytest.mark.parametrize("corpus", ["iemocap", "meld"])
def test_the_large_settings_are_a_recipe_too(corpus: str, tmp_path: Path) -> None:
    path = _RECIPES / f"{corpus}_teacher.yaml"
    (tmp_path / "large.yaml").write_text(_use_large(path.read_text(encoding="utf-8")))
    base, large = read_experiment(path), read_experiment(tmp_path / "large.yaml")
    assert (base.backbone.name, max(base.units.layers)) == ("facebook/hubert-base-ls960", 12)
    assert (large.backbone.name, max(large.units.layers)) == ("facebook/hubert-large-ll60k", 24)
    assert large.teacher.stage2.fit.backbone_lr < base.teacher.stage2.fit.backbone_lr
    assert large.corpus == base.corpus and large.protocol == base.protocol


@pytest.mark.parametrize("corpus", ["iemocap", "meld"])
def test_every_value_says_why(corpus: str) -> None:
    for line in (_RECIPES / f"{corpus}_teacher.yaml").read_text(encoding="utf-8").splitlines():
        has_value = bool(re.match(r"\s*\w+: *[^\s#]", line))
        assert not has_value or re.search(r" # \S+", line), line


def _write_noise(path: Path, seed: int) -> None:
    """Instead of a release's one sound for all; 0.4 s."""
    path.unlink()
    soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(6_400), 16_000)


def _write_iemocap(root: Path) -> Path:
    rows = [
        (f"Ses0{session}F_impro01_{speaker}{number:03}", label)
        for session in range(1, 6)
        for speaker in "FM"
        for number, label in enumerate(["ang", "exc", "neu", "sad"])
    ]
    release = iemocap_release.write_release(root, rows)
    for seed, (utt_id, _) in enumerate(rows):
        _write_noise(iemocap_release.wav_path(release, utt_id), seed)
    return release


def _write_meld(root: Path) -> Path:
    feelings = ["neutral", "joy", "surprise", "anger", "sadness", "disgust", "fear"]
    rows: dict[str, list[meld_release.Row]] = {}
    for split, num_dialogs in {"train": 4, "dev": 1, "test": 1}.items():
        rows[split] = [
            (speaker, emotion, "neutral", dialog, number)
            for dialog in range(num_dialogs)
            for number, emotion in enumerate(feelings)
            for speaker in [["Rachel", "Ross", "Gunther"][(dialog + number) % 3]]
        ]
    release = meld_release.write_release(root, rows)
    for seed, clip in enumerate(sorted(release.rglob("*.wav"))):
        _write_noise(clip, seed)
    return release


@pytest.mark.parametrize(
    ("corpus", "write", "num_folds", "num_classes"),
    [("iemocap", _write_iemocap, 5, 4), ("meld", _write_meld, 1, 7)],
)
def test_a_recipe_trains_on_a_release_in_its_corpuss_layout(
    corpus: str,
    write: Callable[[Path], Path],
    num_folds: int,
    num_classes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prepared as its first lines say, trained, and tested."""
    recipe = _RECIPES / f"{corpus}_teacher.yaml"
    release = write(tmp_path / "release")
    monkeypatch.chdir(tmp_path)
    command = ["serkd", "prepare", corpus, str(release), "--out", f"{corpus}.parquet", "--quiet"]
    monkeypatch.setattr("sys.argv", [*command, "--allow-missing"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    experiment = build_experiment(read_yaml(recipe), _SMALL)
    folds = read_folds(experiment.corpus, experiment.protocol)
    assert len(folds) == num_folds
    _compute(experiment, tmp_path / "storage")
    observer = Observer()
    results, folder = run_experiment(
        experiment, "1", tmp_path / "storage", recipe.stem, observer, ["teacher"]
    )
    assert all(stage["is_cached"] for stage in results["folds"]["1"]["stages"])
    assert np.shape(results["pooled"]["teacher"]["dev"]["confusion"]) == (num_classes,) * 2
    tested = open_test(folder, None)
    counts = tested["folds"]["1"]["teacher"]["test"]["confusion"]
    assert np.sum(counts) == len(folds[0].test) > 0
    assert json.loads((folder / "test.json").read_text())["models"] == ["teacher"]


def _compute(experiment: Experiment, storage: Path) -> None:
    """The first fold's stages in this process: nothing here needs Ray."""
    set_threads(1)
    fold = read_folds(experiment.corpus, experiment.protocol)[0]
    graph = Graph(STAGES, experiment, fold)
    graph.check([TEACHER_OUTPUTS])
    graph.run([TEACHER_OUTPUTS], StageStore(storage), Compute(), Observer())

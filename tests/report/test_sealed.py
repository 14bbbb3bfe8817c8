"""The test split: out of reach for who trains or searches; who opens it is written down."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from sklearn.metrics import confusion_matrix

from serkd.config import Experiment
from serkd.corpora.folds import Fold
from serkd.corpora.manifest import Manifest, read_manifest, write_manifest
from serkd.corpora.protocols import read_folds
from serkd.corpora.seal import Look, open_seal, read_log
from serkd.errors import InputError, SealedError
from serkd.events import Observer
from serkd.report.run import run_experiment
from serkd.report.sealed import open_test
from serkd.search.trial import Plan, TrainExperiment
from serkd.stages.catalogue import STUDENT
from serkd.stages.context import Compute
from serkd.stages.store import StageStore
from serkd.train.outputs import read_outputs

Run = Any  # what the fixture of this folder gives


@pytest.fixture
def mine(run: Run, tmp_path: Path) -> Path:
    """A copy of the run's folder in a storage of its own."""
    shutil.copytree(run.storage, tmp_path / "storage", dirs_exist_ok=True)
    (folder,) = (tmp_path / "storage" / "runs").iterdir()
    return folder


def _log(folder: Path) -> Path:
    return folder.parent.parent / "test_log.jsonl"


def test_test_metrics_are_scikit_learns_on_the_stored_outputs(
    run: Run, mine: Path, manifest: Manifest
) -> None:
    results = open_test(mine, None)
    assert json.loads((mine / "test.json").read_text()) == results
    assert (mine / "confusion_test.png").stat().st_size > 10_000
    for model, stage in (("teacher", "teacher_outputs"), ("student", "student")):
        outputs = read_outputs(run.artifact(stage) / "outputs.parquet")
        rows = dict(zip(outputs.utt_ids, outputs.logits.argmax(axis=1), strict=True))
        names, test = results["class_names"], run.graph.fold.test
        truth = [manifest.by_id[utt_id].emotion for utt_id in test]
        expected = confusion_matrix(truth, [names[rows[i]] for i in test], labels=names)
        assert results["folds"]["1"][model]["test"]["confusion"] == expected.tolist()
        assert "dev" not in results["folds"]["1"][model]


def test_every_look_is_written_down_and_the_second_says_so(mine: Path) -> None:
    first, second = open_test(mine, None), open_test(mine, None)
    assert first["look"] == {"number": 1, "text": f"look 1 at the test split for runs/{mine.name}"}
    assert second["look"]["number"] == 2
    looks = read_log(_log(mine))
    assert (
        f"opened before, last on {looks[0]['time']} by {looks[0]['user']}"
        in (second["look"]["text"])
    )
    assert [look["subject"] for look in looks] == [f"runs/{mine.name}"] * 2
    assert all(look["chosen"] == "fold 1" and look["models"]["1"] for look in looks)


def test_another_run_on_the_same_test_split_hears_of_earlier_looks(mine: Path) -> None:
    open_test(mine, None)
    other = mine.with_name("other")
    shutil.copytree(mine, other)
    look = open_test(other, None)["look"]
    assert look["number"] == 1
    assert "looked at 1 time(s) for other runs or sweeps" in look["text"]


def test_the_look_is_on_disk_before_anything_is_said(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever kills the program between the two has still looked."""

    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("serkd.report.sealed.evaluate", die)
    with pytest.raises(KeyboardInterrupt):
        open_test(mine, None)
    assert len(read_log(_log(mine))) == 1
    assert not (mine / "test.json").exists()


@pytest.mark.parametrize("edit", ["removed", "changed", "swapped"])
def test_a_log_that_was_edited_is_refused(mine: Path, edit: str) -> None:
    for _ in range(3):
        open_test(mine, None)
    lines = _log(mine).read_text().splitlines(keepends=True)
    if edit == "removed":
        lines = lines[1:]
    elif edit == "changed":
        lines[0] = lines[0].replace('"user": "', '"user": "not ')
    else:
        lines[1], lines[2] = lines[2], lines[1]
    _log(mine).write_text("".join(lines))
    before = _log(mine).read_bytes()
    with pytest.raises(InputError, match="every look must follow from those before it"):
        open_test(mine, None)
    assert _log(mine).read_bytes() == before


@pytest.mark.parametrize("num_left", [0, 1])
def test_a_log_without_its_last_look_is_refused(mine: Path, num_left: int) -> None:
    for _ in range(num_left + 1):
        open_test(mine, None)
    lines = _log(mine).read_bytes().splitlines(keepends=True)
    _log(mine).write_bytes(b"".join(lines[:num_left]))
    with pytest.raises(InputError, match=r"must have the look that .*test\.json came from"):
        open_test(mine, None)
    _log(mine).write_bytes(b"".join(lines))
    assert open_test(mine, None)["look"]["number"] == num_left + 2


@pytest.mark.parametrize("line", ["7", "null", "{}", "[]"])
def test_a_line_that_is_no_look_is_an_edit(mine: Path, line: str) -> None:
    open_test(mine, None)
    with _log(mine).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match="line 2 does not: the log was edited"):
        open_test(mine, None)


def test_a_user_without_a_name_can_look(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr("getpass.getuser", fail)
    open_test(mine, None)
    assert read_log(_log(mine))[0]["user"].startswith("uid ")


def test_looks_at_one_of_several_folds_are_told_of_at_all(tiny: Experiment, tmp_path: Path) -> None:
    folds = read_folds(tiny.corpus, tiny.protocol)

    def look(subject: str, chosen: Sequence[Fold]) -> Look:
        log, result = tmp_path / "test_log.jsonl", tmp_path / "none.json"
        return open_seal(log, subject, "all", tiny.corpus, tiny.protocol, chosen, {}, result)[1]

    assert look("runs/one", folds[:1]).num_others == 0
    assert look("runs/other", folds[1:2]).num_others == 0
    assert look("runs/all", folds).num_others == 2


def test_a_record_that_a_crash_tore_does_not_stop_the_next_look(mine: Path) -> None:
    open_test(mine, None)
    with _log(mine).open("a") as file:
        file.write('{"time": "2031-')
    assert open_test(mine, None)["look"]["number"] == 2
    assert open_test(mine, None)["look"]["number"] == 3


def test_two_looks_at_once_are_both_counted(mine: Path) -> None:
    command = [sys.executable, "-m", "serkd", "test", str(mine), "--json"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    numbers = [
        json.loads(process.communicate(timeout=120)[0])["look"]["number"] for process in both
    ]
    assert sorted(numbers) == [1, 2]


def test_a_corpus_that_changed_since_is_refused_and_no_look_is_counted(
    tiny: Experiment, mine: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(Path(tiny.corpus.manifest))
    first, *_, last = sorted({u.speaker_id for u in manifest.utterances})
    swap = {first: last, last: first}
    rows = tuple(
        replace(u, speaker_id=swap.get(u.speaker_id, u.speaker_id)) for u in manifest.utterances
    )
    write_manifest(replace(manifest, utterances=rows), tmp_path / "moved.parquet")
    settings = json.loads((mine / "experiment.json").read_text())
    settings["corpus"]["manifest"] = str(tmp_path / "moved.parquet")
    (mine / "experiment.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="student of fold 1 must be stored"):
        open_test(mine, None)
    assert not _log(mine).exists()


def test_what_is_no_finished_run_or_sweep_is_refused(mine: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be a folder that `serkd run`, `serkd teacher`"):
        open_test(tmp_path / "none", None)
    with pytest.raises(InputError, match="--trial must be left out"):
        open_test(mine, 3)
    described = (mine / "experiment.json").read_text()
    (mine / "experiment.json").write_text(described[:99])
    with pytest.raises(InputError, match=r"experiment\.json: must be the JSON that serkd wrote"):
        open_test(mine, None)
    (mine / "experiment.json").write_text(described)
    shutil.rmtree(mine.parent.parent / "stages" / "student")
    with pytest.raises(InputError, match="student of fold 1 must be stored"):
        open_test(mine, None)
    assert not _log(mine).exists()


def _write_sweep(
    mine: Path, tiny: Experiment, states: list[tuple[str, float]], folds: Sequence[str] = ("1",)
) -> Path:
    folder = mine.parent.parent / "sweeps" / "alphas-1234"
    folder.mkdir(parents=True)
    described = {"base": tiny.model_dump(mode="json"), "space": {"folds": [*folds]}}
    (folder / "sweep.json").write_text(json.dumps(described))
    lines = [
        {"event": state, "trial": i, "time": 0.0, "value": value, "params": {"seed": i}}
        for i, (state, value) in enumerate(states)
    ]
    (folder / "ledger.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def test_every_fold_of_a_sweep_is_asked_for(mine: Path, tiny: Experiment) -> None:
    folder = _write_sweep(mine, tiny, [("finished", 0.5)], ["1", "2"])
    with pytest.raises(InputError, match="student of fold 2 must be stored"):
        open_test(folder, None)
    assert not _log(mine).exists()


def test_of_a_sweep_the_best_finished_trial_is_tested(mine: Path, tiny: Experiment) -> None:
    folder = _write_sweep(mine, tiny, [("finished", 0.5), ("pruned", 0.9), ("finished", 0.4)])
    first = open_test(folder, None)  # trial 0 is the stored experiment, seed 0
    assert first["chosen"] == "trial 0"
    assert first["look"]["number"] == 1
    again = open_test(folder, 0)
    assert again["look"]["text"].startswith("look 2 at the test split for sweeps/alphas-1234")
    with pytest.raises(InputError, match=r"--trial must be a finished trial \(0, 2\), got 1"):
        open_test(folder, 1)
    with pytest.raises(InputError, match="must be stored"):
        open_test(folder, 2)
    assert len(read_log(_log(mine))) == 2


def test_a_trial_is_sent_no_test_label(tiny: Experiment) -> None:
    """All that reaches a trial is its spec: nothing in it gives a test label away."""
    fold = read_folds(tiny.corpus, tiny.protocol)[0]
    plan = Plan((fold,), (0,), "epoch", 2)
    spec = TrainExperiment(
        tiny, plan, ("dev_uar",), "storage", 1, "sweeps/s", lambda folder, number: Observer()
    )
    (sent,) = spec.plan.folds
    for utt_id in sent.test:
        with pytest.raises(SealedError):
            sent.manifest.labels([utt_id])
        assert sent.manifest.by_id[utt_id].emotion == ""
    # nor does another fold built from the same manifest object bring labels back
    again = replace(sent, name="again")
    with pytest.raises(SealedError):
        again.manifest.labels(again.test)


def test_a_run_reads_no_test_label(
    tiny: Experiment, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fold whose test labels are gone from the start gives the same results."""
    sealed = read_folds(tiny.corpus, tiny.protocol)
    build: Callable[..., Any] = lambda corpus, protocol: sealed  # noqa: E731
    monkeypatch.setattr("serkd.report.run.read_folds", build)
    results, _ = run_experiment(tiny, "1", run.storage, "tiny", Observer())
    assert results["folds"]["1"]["student"] == run.results["folds"]["1"]["student"]
    text = json.dumps(results)
    assert '"test"' not in text


@pytest.mark.parametrize("stage", ["centroids", "extractor", "teacher"])
def test_files_of_another_fold_are_refused_naming_both(
    run: Run, mine: Path, tiny: Experiment, stage: str
) -> None:
    """Somebody copies weights or centroids of another fold over this one's."""
    other = read_folds(tiny.corpus, tiny.protocol)[1]
    store = StageStore(mine.parent.parent)
    path = next((store.root / stage).glob("*/*.safetensors"))
    with safe_open(path, "numpy") as file:
        said = json.loads(file.metadata()["lineage"])
    assert said["fold"] == "1"
    assert said["train_hash"] == run.graph.fold.train_hash
    forged = {**said, "fold": other.name, "train_hash": other.train_hash}
    save_file(load_file(path), path, {"lineage": json.dumps(forged)})
    order = [ref.stage for ref in run.graph.closure([STUDENT])]
    last = len(order) - order[::-1].index(stage)
    for name in set(order[last:]) - {"logmel"}:
        shutil.rmtree(store.root / name)
    with pytest.raises(InputError, match=r"fitted on fold 1 .* was fitted on fold 2 "):
        run.graph.run([STUDENT], store, Compute(), Observer())

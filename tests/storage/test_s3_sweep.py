"""A whole sweep on an object store: killed, resumed from nothing but the store, opened."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from serkd.config import Experiment
from serkd.corpora.protocols import read_folds
from serkd.events import Observer
from serkd.search.ledger import Ledger
from serkd.stages.catalogue import STAGES, STUDENT
from serkd.stages.context import Compute
from serkd.stages.graph import Graph, StageResult
from serkd.stages.store import StageStore
from serkd.storage.artifacts import delete_artifact
from serkd.storage.objects import ObjectStore, connect

pytestmark = pytest.mark.slow

SPACE = {
    "sampler": "random",
    "scheduler": {"name": "none"},
    "space": {"distill.alpha": {"float": [0.1, 0.9]}},
}
_COMMAND = "from serkd.storage import sync; sync.EVERY_S = 0.5; from serkd.cli import main; main()"


def _start(cache: Path, *words: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, "-c", _COMMAND, *words],
        env={**kept, "SERKD_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _run(cache: Path, *words: str, code: int = 0) -> str:
    process = _start(cache, *words)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == code, output
    return output


def _ledger(store: ObjectStore, scratch: Path) -> Ledger:
    paths = [e.path for e in store.list("sweeps") if e.path.endswith("/ledger.jsonl")]
    scratch.write_bytes((store.read(paths[0]) or b"") if paths else b"")
    return Ledger(scratch)


def _complete(store: ObjectStore) -> set[str]:
    return {e.path for e in store.list("stages") if e.path.endswith("/_COMPLETE")}


def _compute(tiny: Experiment, root: Path) -> list[StageResult]:
    fold = read_folds(tiny.corpus, tiny.protocol)[0]
    graph = Graph(STAGES, tiny, fold)
    _, results = graph.run([STUDENT], StageStore(root), Compute(), Observer())
    return results


def test_a_second_machine_reads_what_it_needs_and_computes_nothing(
    machine: Callable[[str], Path], uri: str, tiny: Experiment
) -> None:
    """And a student that is lost is trained again from the inputs in the store, to the same end."""
    first, second, third = (machine(name) for name in ("first", "second", "third"))
    computed = _compute(tiny, first)
    assert not any(result.is_cached for result in computed)
    found = _compute(tiny, second)
    assert all(result.is_cached for result in found)
    keys = {result.ref: result.key for result in computed}
    assert all(keys[result.ref] == result.key for result in found)
    assert not list(second.glob("stages/*/*/*.parquet"))  # nobody asked for frames
    (key,) = (result.key for result in computed if result.ref == STUDENT)
    name = f"stages/student/{key}/model.safetensors"
    delete_artifact(connect(uri), f"stages/student/{key}")
    again = _compute(tiny, third)
    assert [result.ref for result in again if not result.is_cached] == [STUDENT]
    assert (third / name).read_bytes() == (first / name).read_bytes()


def test_a_sweep_that_was_killed_goes_on_from_an_empty_cache_and_is_opened_from_a_third(
    machine: Callable[[str], Path], uri: str, tiny: Experiment, tiny_recipe: Path, tmp_path: Path
) -> None:
    _compute(tiny, machine("elsewhere"))  # so that the sweep trains students only
    store, scratch = connect(uri), tmp_path / "ledger"
    path = tmp_path / "space.yaml"
    path.write_text(json.dumps({**SPACE, "base": str(tiny_recipe)}))
    sweep = ("sweep", str(path), "--storage", uri, "--quiet")
    process = _start(tmp_path / "first", *sweep, "--trials", "50")
    try:
        while not (done := _finished(_ledger(store, scratch))):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(1)
    finally:
        process.kill()
        process.communicate()
    stages, before = _complete(store), _ledger(store, scratch)
    count = max(len(_finished(before)) + 1, len(before.trials()))
    _run(tmp_path / "second", *sweep, "--trials", str(count))
    ledger = _ledger(store, scratch)
    assert len(_finished(ledger)) == count
    assert {trial: value for trial, value in _finished(ledger).items() if trial in done} == done
    # what the killed one published was read; only students are new, of the trials that were new,
    # and not even those where it was killed between publishing one and saying so in the store
    new = {mark.split("/")[1] for mark in _complete(store) - stages}
    assert new <= {"student"}
    assert stages <= _complete(store)
    (folder,) = {e.path.split("/")[1] for e in store.list("sweeps")}
    text = _run(tmp_path / "third", "test", f"{uri}/sweeps/{folder}", "--json")
    assert json.loads(text[text.index("{") :])["look"]["number"] == 1
    looks = (store.read("test_log.jsonl") or b"").splitlines()
    assert len(looks) == 1
    assert store.read(f"sweeps/{folder}/test.json") is not None
    # a fourth, which has a copy of nothing, keeps of the bucket what the best trial needs
    kept = ("stages", "gc", "--keep-best", "1", "--storage", uri, "--json")
    marks = _complete(store)
    others = sum(mark.split("/")[1] == "student" for mark in marks) - 1
    dry = json.loads(_run(tmp_path / "fourth", *kept))
    assert (len(dry["unneeded"]), _complete(store)) == (others, marks)
    store.write(f"sweeps/{folder}/.driver", b'{"host": "elsewhere", "pid": 1, "renewal": "x"}')
    assert "process 1 of elsewhere drives" in _run(tmp_path / "fourth", *kept, "--yes", code=2)
    store.delete([f"sweeps/{folder}/.driver"])
    assert json.loads(_run(tmp_path / "fourth", *kept, "--yes"))["deleted"]
    gone = [mark.split("/")[1] for mark in marks - _complete(store)]
    assert gone == ["student"] * others
    again = _run(tmp_path / "fifth", "test", f"{uri}/sweeps/{folder}", "--json")
    assert json.loads(again[again.index("{") :])["look"]["number"] == 2


def _finished(ledger: Ledger) -> dict[int, float]:
    return {t["trial"]: t["value"] for t in ledger.trials() if t["state"] == "finished"}

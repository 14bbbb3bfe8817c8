"""The command line refuses wrong input: exit code 2, one clear error, nothing half-written."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import transformers

from serkd.corpora.manifest import Manifest, read_manifest, write_manifest

_HEAVY = {"torch", "ray", "transformers", "sklearn", "faiss", "pyarrow", "numpy"}


def _serkd(
    *arguments: object, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serkd", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _refusal(*arguments: object, cwd: Path) -> str:
    """The message of a refused command, without its "error: "."""
    done = _serkd(*arguments, cwd=cwd)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    errors = done.stderr.splitlines()
    starts = [line for line in errors if line.startswith("error: ")]
    assert len(starts) == 1, done.stderr
    # nothing beside it: what came before would be read first
    assert errors[0] == starts[0], done.stderr
    assert done.stdout == ""
    return done.stderr.removeprefix("error: ")


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _write_audio(folder: Path, count: int = 8) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        soundfile.write(folder / f"u{i}.wav", 0.1 * rng.standard_normal(3_200), 16_000)


def _write_table(path: Path, speakers: int, emotions: int, count: int = 8) -> None:
    rows = [f"audio/u{i}.wav,s{i % speakers},e{i // 4 % emotions}\n" for i in range(count)]
    path.write_text("path,speaker_id,emotion\n" + "".join(rows), encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prepare", "ravdess", "nowhere"), "nowhere: must be the folder of RAVDESS"),
        (("prepare", "table", "nowhere.csv"), "nowhere.csv: must be a table of utterances"),
        (("prepare", "table", "t.csv", "--column", "speaker"), "--column must look like name="),
        (("run", "nowhere.yaml"), "nowhere.yaml: must be a YAML file, but there is none"),
        (("config", "nowhere.yaml"), "nowhere.yaml: must be a YAML file, but there is none"),
        (("sweep", "nowhere.yaml"), "nowhere.yaml: must be a YAML file, but there is none"),
        (("config", "--set", "seed=1"), "--set"),
    ],
)
def test_missing_and_malformed_arguments(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert message in _refusal(*arguments, cwd=tmp_path)
    assert _files(tmp_path) == {}


def test_unreadable_audio_is_listed_and_no_manifest_is_written(tmp_path: Path) -> None:
    _write_audio(tmp_path / "audio")
    _write_table(tmp_path / "table.csv", speakers=4, emotions=2)
    bad = [tmp_path / "audio" / f"u{i}.wav" for i in (1, 4, 6)]
    bad[0].write_bytes(b"")
    bad[1].write_text("no audio")
    bad[2].unlink()
    before = _files(tmp_path)
    message = _refusal("prepare", "table", "table.csv", "--out", "out/m.parquet", cwd=tmp_path)
    named = {name for name in (f"u{i}.wav" for i in range(8)) if name in message}
    assert named == {path.name for path in bad}
    assert "--on-bad exclude" in message
    assert _files(tmp_path) == before


def test_an_older_manifest_survives_a_refusal(tmp_path: Path) -> None:
    _write_audio(tmp_path / "audio")
    _write_table(tmp_path / "table.csv", speakers=4, emotions=2)
    done = _serkd("prepare", "table", "table.csv", "--out", "m.parquet", "-q", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "audio" / "u3.wav").unlink()
    before = _files(tmp_path)
    _refusal("prepare", "table", "table.csv", "--out", "m.parquet", cwd=tmp_path)
    assert _files(tmp_path) == before


def test_excluding_bad_audio_names_it_and_goes_on(tmp_path: Path) -> None:
    _write_audio(tmp_path / "audio")
    _write_table(tmp_path / "table.csv", speakers=4, emotions=2)
    (tmp_path / "audio" / "u3.wav").write_text("no audio")
    done = _serkd(
        "prepare", "table", "table.csv", "--out", "m.parquet", "--on-bad", "exclude", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    excluded = [line for line in done.stderr.splitlines() if line.startswith("excluded: ")]
    assert len(excluded) == 1
    assert "u3.wav: must be readable audio" in excluded[0]
    assert "7 utterances" in done.stdout
    assert "1 excluded" in done.stdout
    assert pq.read_table(tmp_path / "m.parquet").num_rows == 7


def test_all_problems_of_a_table_are_one_error(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,who,sex\na.wav,1,f\n")
    message = _refusal("prepare", "table", "t.csv", "--column", "gendre=sex", cwd=tmp_path)
    for part in ("'speaker_id'", "'emotion'", "got 'gendre'"):
        assert part in message


def _write_recipe(folder: Path, manifest: Path, **sections: object) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({"corpus": {"manifest": str(manifest)}, **sections}))
    return path


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ("speaker", "a manifest must have at least three speakers"),
        ("class", "a manifest must have at least two emotions"),
    ],
)
def test_a_corpus_of_one_speaker_or_one_class(
    tmp_path: Path, manifest: Manifest, keep: str, message: str
) -> None:
    first = manifest.utterances[0]
    kept = tuple(
        u
        for u in manifest.utterances
        if (u.speaker_id == first.speaker_id if keep == "speaker" else u.emotion == first.emotion)
    )
    write_manifest(Manifest(kept, manifest.class_names), tmp_path / "small.parquet")
    recipe = _write_recipe(tmp_path, tmp_path / "small.parquet")
    before = _files(tmp_path)
    assert message in _refusal("run", recipe, "--storage", "out", cwd=tmp_path)
    assert _files(tmp_path) == before


@pytest.mark.parametrize("command", ["run", "config"])
def test_a_wrong_key_names_the_nearest(tmp_path: Path, command: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("student: {widht: 3}\nteacher: {stage2: {scale: -1}}\n")
    message = _refusal(command, recipe, cwd=tmp_path)
    assert "recipe.yaml: student.widht: unknown key; did you mean 'width'?" in message
    assert "recipe.yaml: teacher.stage2.scale: must be greater than 0, got -1" in message
    assert list(_files(tmp_path)) == ["recipe.yaml"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fold", "99"), "--fold must be one of 1, 2, 3 or all, got '99'"),
        (("--set", "units.layers=[2,3]"), "units.layers must be at most 2 for tiny-hubert"),
        (("--set", "protocol.num_folds=7"), "protocol.num_folds must be at most"),
        (("--set", "protocol.folds=[[a],[b],[c]]"), "protocol.folds must list"),
        (("--set", "corpus.manifest=none.parquet"), "none.parquet: must be a manifest"),
        (("--set", "corpus.manifest=recipe.yaml"), "recipe.yaml: must be a Parquet manifest"),
        (("--set", "seed"), "--set must look like dotted.key=value, got 'seed'"),
        (("--set", "backbone.name=./nowhere"), "backbone.name: must be a folder with a model"),
        (("--storage", "s3://bucket/x"), "--storage must be a folder, got s3:"),
    ],
)
def test_runs_that_cannot_start_leave_nothing(
    tmp_path: Path, tiny_recipe: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "recipe.yaml").write_bytes(tiny_recipe.read_bytes())
    before = _files(tmp_path)
    assert message in _refusal("run", "recipe.yaml", *arguments, cwd=tmp_path)
    assert _files(tmp_path) == before


def test_a_backbone_without_weights_leaves_nothing(tmp_path: Path, tiny_recipe: Path) -> None:
    folder = tmp_path / "model"
    transformers.HubertConfig(num_hidden_layers=2).save_pretrained(folder)
    before = _files(tmp_path)
    message = _refusal(
        "run", tiny_recipe, "--set", f"backbone.name={folder}", "--storage", "out", cwd=tmp_path
    )
    assert f"backbone.name: the folder {folder} must hold *.safetensors weights" in message
    assert _files(tmp_path) == before


def _assert_whole(storage: Path) -> None:
    """Every artifact is finished, and no work is left that a later run would trip over."""
    for stage in (storage / "stages").glob("[!.]*"):
        for artifact in stage.iterdir():
            assert (artifact / "stage.json").is_file(), artifact
    for path in storage.rglob("*.parquet"):
        pq.read_table(path)
    unfinished = [p for p in (storage / "stages" / ".work").glob("*") if p.is_dir()]
    assert unfinished == []
    assert not list(storage.rglob("results.json"))


def test_more_clusters_than_frames_are_refused_and_what_is_done_stays_whole(
    tmp_path: Path, tiny_recipe: Path, manifest: Manifest
) -> None:
    message = _refusal(
        "run", tiny_recipe, "--set", "units.num_clusters=[1000000]", "--storage", "out", "-q",
        cwd=tmp_path,
    )  # fmt: skip
    assert "units.num_clusters must be at most the number of training frames = " in message
    assert message.rstrip().endswith("got 1000000")
    _assert_whole(tmp_path / "out")


def test_audio_that_changed_since_prepare_is_refused_by_name(
    tmp_path: Path, tiny_recipe: Path, manifest_path: Path
) -> None:
    rows = read_manifest(manifest_path)
    changed = tmp_path / "changed.flac"
    pcm, rate = soundfile.read(rows.utterances[5].path, dtype="int16")
    soundfile.write(changed, pcm[:-1], rate)
    table = pq.read_table(manifest_path).to_pydict()
    table["path"] = [str(manifest_path.parent / path) for path in table["path"]]
    table["path"][table["utt_id"].index(rows.utterances[5].utt_id)] = str(changed)
    pq.write_table(
        pq.read_schema(manifest_path).empty_table().from_pydict(
            table, schema=pq.read_schema(manifest_path)
        ),
        tmp_path / "m.parquet",
    )
    message = _refusal(
        "run", tiny_recipe, "--set", "corpus.manifest=m.parquet", "--storage", "out", "-q",
        cwd=tmp_path,
    )  # fmt: skip
    assert "changed.flac: must be the audio that the manifest describes" in message
    _assert_whole(tmp_path / "out")


def _imported(*command: str) -> set[str]:
    """The top-level modules that a command imports, as the interpreter itself reports them."""
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "prepare" in done.stdout  # it is the help
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_help_imports_nothing_heavy() -> None:
    script = Path(sys.executable).with_name("serkd")
    commands = [[sys.executable, "-m", "serkd", "--help"], [sys.executable, "-m", "serkd"]]
    if script.is_file():
        commands.append([str(script), "--help"])
    for command in commands[:1] + commands[2:]:
        found = _imported(*command)
        assert "typer" in found  # or the report was not understood
        assert found & _HEAVY == set()


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert all(importlib.util.find_spec(name) for name in _HEAVY)
    code = "import serkd, sys; print(*(m.partition('.')[0] for m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) & _HEAVY == set()

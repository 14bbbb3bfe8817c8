"""The command line refuses wrong input: exit code 2, one clear error, nothing half-written."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import transformers

from serkd.cli import main
from serkd.corpora.manifest import Manifest, write_manifest
from serkd.errors import InputError

_HEAVY = {"torch", "ray", "transformers", "sklearn", "faiss", "pyarrow", "numpy"}


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


def _serkd(*arguments: object, cwd: Path) -> Done:
    """A command as a user gives it."""
    done = subprocess.run(
        [sys.executable, "-m", "serkd", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


class Here:
    """Commands in this process, for the many cases that need no interpreter of their own."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
    ) -> None:
        monkeypatch.chdir(folder)
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> Done:
        self.monkeypatch.setattr(sys, "argv", ["serkd", *map(str, arguments)])
        self.capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Done(code, *self.capsys.readouterr())


@pytest.fixture
def here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Here:
    return Here(monkeypatch, capsys, tmp_path)


def _message(done: Done) -> str:
    """What a refused command says, without its "error: "."""
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    assert sum(line.startswith("error: ") for line in done.err.splitlines()) == 1, done.err
    assert done.out == ""
    return done.err.partition("error: ")[2]


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
        (("run", "nowhere.yaml"), "nowhere.yaml: must be a YAML file, but there is none"),
    ],
)
def test_a_missing_corpus_or_recipe(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert message in _message(_serkd(*arguments, cwd=tmp_path))
    assert _files(tmp_path) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prepare", "table", "nowhere.csv"), "nowhere.csv: must be a table of utterances"),
        (("prepare", "table", "t.csv", "--column", "speaker"), "--column must look like name="),
        (("config", "nowhere.yaml"), "nowhere.yaml: must be a YAML file, but there is none"),
        (("sweep", "nowhere.yaml"), "nowhere.yaml: must be a YAML file, but there is none"),
        (("sweep", "nowhere.yaml", "--set", "seed"), "--set must look like"),
        (("teacher", "nowhere.yaml"), "nowhere.yaml: must be a YAML file, but there is none"),
        (("export", "nowhere", "--out", "out"), "nowhere: must be a folder that `serkd run` or"),
        (("export", "nowhere", "--out", "."), "--out must not be the working directory, got ."),
        (("export", "nowhere", "--out", "/dev/null/out"), "--out must be where files can be"),
        (("quickstart", "--storage", "/dev/null/x"), "--storage must be where files can be"),
    ],
)
def test_missing_and_malformed_arguments(
    tmp_path: Path, here: Here, arguments: tuple[str, ...], message: str
) -> None:
    assert message in _message(here(*arguments))
    assert _files(tmp_path) == {}


@pytest.mark.parametrize(
    ("command", "file", "message"),
    [
        ("run", "search_spaces/losses.yaml", "a recipe, this is a search space: `serkd sweep`"),
        ("run", "search_spaces/ablation_kd.yaml", "a recipe, this is an ablation: `serkd ablate`"),
        ("sweep", "search_spaces/ablation_kd.yaml", "a search space, this is an ablation"),
        ("sweep", "jobs/recipes/ravdess.yaml", "a search space, this is a recipe: `serkd run`"),
        ("plan", "jobs/recipes/ravdess.yaml", "a search space, this is a recipe: `serkd run`"),
        ("ablate", "search_spaces/losses.yaml", "an ablation, this is a search space"),
        ("ablate", "jobs/recipes/ravdess.yaml", "an ablation, this is a recipe: `serkd run`"),
    ],
)
def test_a_file_of_another_kind_names_its_command(
    tmp_path: Path, here: Here, command: str, file: str, message: str
) -> None:
    path = Path(__file__).parents[1] / file
    assert f"{path}: must be {message}" in _message(here(command, path))
    assert _files(tmp_path) == {}


def test_settings_without_a_recipe_are_not_ignored(here: Here) -> None:
    done = here("config", "--set", "student.fit.lr=1e-4")
    assert done.code == 0, done.err
    assert json.loads(done.out)["student"]["fit"]["lr"] == 1e-4


def test_unreadable_audio_is_listed_and_no_manifest_is_written(tmp_path: Path) -> None:
    _write_audio(tmp_path / "audio")
    _write_table(tmp_path / "table.csv", speakers=4, emotions=2)
    bad = [tmp_path / "audio" / f"u{i}.wav" for i in (1, 4, 6)]
    bad[0].write_bytes(b"")
    bad[1].write_text("no audio")
    bad[2].unlink()
    before = _files(tmp_path)
    done = _serkd("prepare", "table", "table.csv", "--out", "out/m.parquet", cwd=tmp_path)
    message = _message(done)
    named = {name for name in (f"u{i}.wav" for i in range(8)) if name in message}
    assert named == {path.name for path in bad}
    assert "--on-bad exclude" in message
    assert _files(tmp_path) == before


def test_an_older_manifest_survives_a_refusal(tmp_path: Path, here: Here) -> None:
    _write_audio(tmp_path / "audio")
    _write_table(tmp_path / "table.csv", speakers=4, emotions=2)
    done = here("prepare", "table", "table.csv", "--out", "m.parquet", "-q")
    assert done.code == 0, done.err
    (tmp_path / "audio" / "u3.wav").unlink()
    before = _files(tmp_path)
    _message(here("prepare", "table", "table.csv", "--out", "m.parquet"))
    assert _files(tmp_path) == before


def test_excluding_bad_audio_names_it_and_goes_on(tmp_path: Path, here: Here) -> None:
    _write_audio(tmp_path / "audio")
    _write_table(tmp_path / "table.csv", speakers=4, emotions=2)
    (tmp_path / "audio" / "u3.wav").write_text("no audio")
    done = here("prepare", "table", "table.csv", "--out", "m.parquet", "--on-bad", "exclude")
    assert done.code == 0, done.err
    excluded = [line for line in done.err.splitlines() if line.startswith("excluded: ")]
    assert len(excluded) == 1
    assert "u3.wav: must be readable audio" in excluded[0]
    assert "7 utterances" in done.out
    assert "1 excluded" in done.out
    assert pq.read_table(tmp_path / "m.parquet").num_rows == 7


def test_all_problems_of_a_table_are_one_error(tmp_path: Path, here: Here) -> None:
    (tmp_path / "t.csv").write_text("path,who,sex\na.wav,1,f\n")
    message = _message(here("prepare", "table", "t.csv", "--column", "gendre=sex"))
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
    assert message in _message(_serkd("run", recipe, "--storage", "out", cwd=tmp_path))
    assert _files(tmp_path) == before


def test_a_wrong_key_names_the_nearest(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("student: {widht: 3}\nteacher: {stage2: {scale: -1}}\n")
    message = _message(_serkd("run", recipe, cwd=tmp_path))
    assert "recipe.yaml: student.widht: unknown key; did you mean 'width'?" in message
    assert "recipe.yaml: teacher.stage2.scale: must be greater than 0, got -1" in message
    assert list(_files(tmp_path)) == ["recipe.yaml"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fold", "0"), "--fold must be one of 1, 2, 3 or all, got '0'"),
        (("--set", "units.layers=[2,3]"), "units.layers must be at most 2 for tiny-hubert"),
        (("--set", "protocol.num_folds=7"), "protocol.num_folds must be at most"),
        (("--set", "protocol.folds=[[a],[b],[c]]"), "protocol.folds must list"),
        (("--set", "corpus.manifest=none.parquet"), "none.parquet: must be a manifest"),
        (("--set", "corpus.manifest=recipe.yaml"), "recipe.yaml: must be a Parquet manifest"),
        (("--set", "seed"), "--set must look like dotted.key=value, got 'seed'"),
        (("--set", "backbone.name=./nowhere"), "backbone.name: must be a folder with a model"),
        (("--storage", "ftp://host/x"), "--storage must be a folder, s3://bucket/path or gs://"),
    ],
)
def test_runs_that_cannot_start_leave_nothing(
    tmp_path: Path, here: Here, tiny_recipe: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "recipe.yaml").write_bytes(tiny_recipe.read_bytes())
    before = _files(tmp_path)
    assert message in _message(here("run", "recipe.yaml", *arguments))
    assert _files(tmp_path) == before


def test_a_fold_that_does_not_exist_leaves_nothing(tmp_path: Path, tiny_recipe: Path) -> None:
    message = _message(_serkd("run", tiny_recipe, "--fold", "99", cwd=tmp_path))
    assert "--fold must be one of 1, 2, 3 or all, got '99'" in message
    assert _files(tmp_path) == {}


def test_a_backbone_without_weights_leaves_nothing(tmp_path: Path, tiny_recipe: Path) -> None:
    folder = tmp_path / "model"
    transformers.HubertConfig(num_hidden_layers=2).save_pretrained(folder)
    before = _files(tmp_path)
    setting = f"backbone.name={folder}"
    message = _message(_serkd("run", tiny_recipe, "--set", setting, cwd=tmp_path))
    assert f"backbone.name: the folder {folder} must hold *.safetensors weights" in message
    assert _files(tmp_path) == before


def _assert_whole(storage: Path) -> None:
    """Every artifact is finished, every table whole, and nothing reads as a result."""
    for stage in (storage / "stages").glob("[!.]*"):
        for artifact in stage.iterdir():
            assert (artifact / "stage.json").is_file(), artifact
    for path in storage.rglob("*.parquet"):
        pq.read_table(path)
    assert not list(storage.rglob("results.json"))


def test_more_clusters_than_frames_are_refused_before_any_work(
    tmp_path: Path, tiny_recipe: Path
) -> None:
    setting = "units.num_clusters=[8,1000000]"
    message = _message(_serkd("run", tiny_recipe, "--set", setting, cwd=tmp_path))
    assert "units.num_clusters must be at most " in message
    assert "1000000" in message
    assert _files(tmp_path) == {}


def test_audio_that_changed_since_prepare_is_refused_by_name(
    tmp_path: Path, here: Here, tiny_recipe: Path, manifest: Manifest, ray_cluster: None
) -> None:
    first, *others = manifest.utterances
    pcm, rate = soundfile.read(first.path, dtype="int16")
    soundfile.write(tmp_path / "changed.flac", pcm[:-1], rate)
    rows = (replace(first, path=str(tmp_path / "changed.flac")), *others)
    write_manifest(Manifest(rows, manifest.class_names), tmp_path / "m.parquet")
    setting = "corpus.manifest=m.parquet"
    done = here("run", tiny_recipe, "--set", setting, "--storage", "out", "-q")
    assert "changed.flac: must be the audio that the manifest describes" in _message(done)
    _assert_whole(tmp_path / "out")
    # the frames of the other utterances wait for the repaired file; nothing else is left
    (work,) = (p for p in (tmp_path / "out" / "stages" / ".work").iterdir() if p.is_dir())
    assert work.name.startswith("features-")
    listed = json.loads((work / "artifact" / "quarantine.json").read_text())
    assert [bad["utt_id"] for bad in listed] == [first.utt_id]


@pytest.mark.parametrize(
    ("kind", "code", "word"), [(InputError, 2, "error"), (FloatingPointError, 1, "failed")]
)
def test_what_settings_did_is_one_line_wherever_it_was_raised(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: type[Exception],
    code: int,
    word: str,
) -> None:
    def broken(_: list[str]) -> None:
        raise RuntimeError("a task failed") from kind("x must be finite, got nan")

    monkeypatch.setattr("serkd.cli.app", broken)
    with pytest.raises(SystemExit) as ended:
        main("run")
    assert ended.value.code == code
    assert capsys.readouterr().err == f"{word}: x must be finite, got nan\n"


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
    commands = [[sys.executable, "-m", "serkd"], *([[str(script)]] if script.is_file() else [])]
    for command in commands:
        found = _imported(*command, "--help")
        assert "typer" in found  # or the report was not understood
        assert found & _HEAVY == set()


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert all(importlib.util.find_spec(name) for name in _HEAVY)
    code = "import serkd, sys; print(*(m.partition('.')[0] for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & _HEAVY == set()

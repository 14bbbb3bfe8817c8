"""A teacher's folder for transformers: the same logits, in a program that has no serkd."""

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers
from safetensors.torch import load_file
from small_models import BUILDERS, make_waveform, save_model
from torch import Tensor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from serkd import config
from serkd.corpora.audio import Cut, read_audio
from serkd.errors import InputError
from serkd.features.backbone import Backbone, Prefix, find_backbone, load_encoder
from serkd.models.teacher import EmotionTeacher
from serkd.models.trunk import LayerMix, Trunk
from serkd.report.export import export_teacher
from serkd.report.model_card import write_card
from serkd.report.results import read_run
from serkd.report.transformers_export import TransformersExport
from serkd.train.outputs import read_outputs
from serkd.train.teacher import build_teacher

Run = Any  # what the fixture of this folder gives
TOLERANCE = 1e-4  # of a logit
CLASSES = ("zeal", "awe", "mirth", "calm")  # in no alphabetical order
WAVEFORMS = [make_waveform(size, seed=size) for size in (9_000, 16_000, 12_345)]
# pooling, loss and mixture with each number of frozen layers
HEADS: dict[int, tuple[str, str, LayerMix]] = {
    1: ("attentive_statistics", "am_softmax", "concat"),
    0: ("attention", "cross_entropy", False),
    2: ("attentive_statistics", "am_softmax", True),
    3: ("mean", "aam_softmax", False),
}
CASES = [(name, frozen) for name in [*BUILDERS, "whisper"] for frozen in HEADS]
CASES += [("hubert_batch_norm", 0), ("tiny-hubert", 0)]


@cache
def _backbone(name: str) -> Backbone:
    if name == "tiny-hubert":
        return find_backbone(name)
    folder = Path(mkdtemp(prefix=f"serkd-test-{name}-"))
    save_model(name, folder, seconds=2)
    return find_backbone(str(folder))


@cache
def _teacher(name: str, frozen: int) -> tuple[Trunk, EmotionTeacher]:
    """A teacher whose trained weights are all moved away from where they began."""
    pooling, loss, layer_mix = HEADS[frozen]
    trunk = Trunk(_backbone(name), frozen, layer_mix)
    settings = config.Stage2.model_validate({"pooling": pooling, "loss": loss})
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        teacher = build_teacher(settings, trunk.build_suffix(), trunk, len(CLASSES)).eval()
        for parameter in teacher.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
        teacher.standardise.fit(torch.randn(20, teacher.pooling.out_dim))
    return trunk, teacher


@cache
def _folder(name: str, frozen: int) -> Path:
    folder = Path(mkdtemp(prefix=f"serkd-test-export-{name}-"))
    trunk, teacher = _teacher(name, frozen)
    TransformersExport(teacher, trunk, CLASSES, "a card\n").write(folder)
    return folder


@cache
def _expected(name: str, frozen: int) -> Tensor:
    """Our own logits, through a prefix that is stored in half precision; (utterances, classes)."""
    trunk, teacher = _teacher(name, frozen)
    prefix, found = Prefix(trunk.backbone, frozen), []
    with torch.inference_mode():
        for waveform in WAVEFORMS:
            stored = prefix(waveform).half().float()[None]
            mask = torch.ones(stored.shape[:2], dtype=torch.bool)
            found.append(teacher(stored, mask).logits[0])
    return torch.stack(found)


@cache
def _loaded(folder: Path) -> tuple[Any, Any]:
    options: dict[str, Any] = {"trust_remote_code": True}
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder, **options)
    model = transformers.AutoModelForAudioClassification.from_pretrained(folder, **options)
    assert not model.training
    return extractor, model


@pytest.mark.parametrize(("name", "frozen"), CASES)
def test_logits_are_the_teachers_for_each_utterance_alone(name: str, frozen: int) -> None:
    extractor, model = _loaded(_folder(name, frozen))
    expected = _expected(name, frozen)
    assert expected.std() > 0.01  # the random teachers say something
    for waveform, row in zip(WAVEFORMS, expected, strict=True):
        inputs = extractor(waveform, sampling_rate=16_000, return_tensors="pt")
        with torch.inference_mode():
            torch.testing.assert_close(model(**inputs).logits[0], row, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["hubert_stable", "whisper"])
def test_silence_is_cut_where_it_was_cut_in_training(name: str, tmp_path: Path) -> None:
    trunk, teacher = _teacher(name, 0)
    TransformersExport(teacher, trunk, CLASSES, "a card\n", 40.0).write(tmp_path)
    extractor, _ = _loaded(tmp_path)
    silence = np.zeros(16_000, np.float32)
    waveforms = [np.concatenate([silence, waveform, silence]) for waveform in WAVEFORMS]
    assert len(Cut(trim_silence_db=40.0).apply(waveforms[0])) < len(waveforms[0]) - 16_000
    plain, _ = _loaded(_folder(name, 0))
    for given in (waveforms, waveforms[0], waveforms[0].tolist()):
        several = [np.asarray(w, np.float32) for w in (given if given is waveforms else [given])]
        cut = [Cut(trim_silence_db=40.0).apply(waveform) for waveform in several]
        options: dict[str, Any] = {"sampling_rate": 16_000, "padding": True, "return_tensors": "pt"}
        found, expected = extractor(given, **options), plain(cut, **options)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value)


@pytest.mark.parametrize(("name", "frozen"), CASES)
def test_padding_does_not_change_logits(name: str, frozen: int) -> None:
    extractor, model = _loaded(_folder(name, frozen))
    inputs = extractor(WAVEFORMS, sampling_rate=16_000, padding=True, return_tensors="pt")
    longest = inputs[model.main_input_name].shape[-1]
    assert sorted(inputs["attention_mask"].sum(dim=1) == longest) == [False, False, True]
    # what lies in the padding is of no meaning
    hidden = inputs["attention_mask"] == 0
    values = inputs[model.main_input_name]
    values[hidden if values.ndim == 2 else hidden[:, None].expand_as(values)] = 7.0
    with torch.inference_mode():
        found = model(**inputs).logits
    torch.testing.assert_close(found, _expected(name, frozen), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", ["hubert_stable", "whisper"])
def test_the_folder_loads_where_there_is_no_serkd(name: str, tmp_path: Path) -> None:
    """In another process, with its own cache, that cannot import serkd or find its folder."""
    np.save(tmp_path / "waveform.npy", WAVEFORMS[0])
    program = """
import sys
sys.modules["serkd"] = None  # importing it raises
import json, numpy, torch, transformers
folder, waveform = sys.argv[1], numpy.load(sys.argv[2])
classify = transformers.pipeline("audio-classification", model=folder, trust_remote_code=True)
found = classify(waveform, top_k=None, function_to_apply="none")
print(json.dumps({"scores": {row["label"]: row["score"] for row in found}}))
assert not [name for name in sys.modules if name.startswith("serkd.")]
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(_folder(name, 2)), str(tmp_path / "waveform.npy")],
        cwd=tmp_path,
        env={"PATH": "", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout.splitlines()[-1])["scores"]
    expected = dict(zip(CLASSES, _expected(name, 2)[0].tolist(), strict=True))
    assert scores == pytest.approx(expected, abs=TOLERANCE)


def test_labels_are_in_the_order_of_the_logits() -> None:
    folder = _folder("hubert_group", 0)
    settings = json.loads((folder / "config.json").read_text())
    assert settings["id2label"] == {str(i): name for i, name in enumerate(CLASSES)}
    assert settings["label2id"] == {name: i for i, name in enumerate(CLASSES)}
    classify = transformers.pipeline(
        "audio-classification", model=str(folder), trust_remote_code=True
    )
    chances = _expected("hubert_group", 0)[1].softmax(dim=0).tolist()
    found = {row["label"]: row["score"] for row in classify(WAVEFORMS[1], top_k=None)}
    assert found == pytest.approx(dict(zip(CLASSES, chances, strict=True)), abs=TOLERANCE)


@pytest.mark.parametrize("name", [*BUILDERS, "whisper", "tiny-hubert"])
def test_the_bare_encoder_is_transformers_own_class_with_the_trained_weights(name: str) -> None:
    trunk, teacher = _teacher(name, 0)
    folder = _folder(name, 0) / "encoder"
    kind = WhisperEncoder if name == "whisper" else transformers.AutoModel
    encoder = kind.from_pretrained(folder)
    untrained = load_encoder(trunk.backbone)
    assert type(encoder) is type(untrained)
    found, before = encoder.state_dict(), untrained.state_dict()
    trained = teacher.suffix.body.layers.state_dict()
    start = "layers." if name == "whisper" else "encoder.layers."
    for key, value in found.items():
        expected = trained[key.removeprefix(start)] if key.startswith(start) else value
        torch.testing.assert_close(value, expected, atol=0, rtol=0)
        if key.startswith(start):
            assert not torch.equal(value, before[key]), key
        elif "layer_norm" not in key:  # the last one is trained too, where it is the encoder's
            torch.testing.assert_close(value, before[key], atol=0, rtol=0)
    # ours again: the next teacher may start where this one ended
    again = find_backbone(str(folder))
    assert (again.family, again.num_layers) == (trunk.backbone.family, trunk.backbone.num_layers)


def test_plain_whisper_features_padded_to_the_window_are_cut_to_the_clip() -> None:
    """Without our extractor only a clip's edge differs."""
    folder = _folder("whisper", 0)
    plain = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    for kind in ({}, {"return_attention_mask": True}):  # of samples, and of log-mel frames
        inputs = plain(WAVEFORMS, sampling_rate=16_000, return_tensors="pt", **kind)
        assert inputs["input_features"].shape[-1] == 200
        with torch.inference_mode():
            found = _loaded(folder)[1](**inputs).logits
        torch.testing.assert_close(found, _expected("whisper", 0), atol=0.05, rtol=0)


def test_training_on_gives_a_loss_and_gradients() -> None:
    extractor, model = _loaded(_folder("wavlm_group", 2))
    inputs = extractor(WAVEFORMS, sampling_rate=16_000, padding=True, return_tensors="pt")
    out = model(**inputs, labels=torch.tensor([0, 3, 1]))
    expected = torch.nn.functional.cross_entropy(
        _expected("wavlm_group", 2), torch.tensor([0, 3, 1])
    )
    torch.testing.assert_close(out.loss, expected, atol=TOLERANCE, rtol=0)
    out.loss.backward()
    assert model.classifier.weight.grad.abs().sum() > 0
    assert model.encoder.encoder.layers[0].attention.q_proj.weight.grad.abs().sum() > 0
    model.zero_grad()


def test_a_runs_export_says_what_its_stored_outputs_say(run: Run, tmp_path: Path) -> None:
    done = export_teacher(run.folder, tmp_path / "deep" / "out", None)
    assert (done["fold"], done["class_names"]) == ("1", run.results["class_names"])
    extractor, model = _loaded(tmp_path / "deep" / "out")
    outputs = read_outputs(run.artifact("teacher_outputs") / "outputs.parquet")
    rows = dict(zip(outputs.utt_ids, outputs.logits, strict=True))
    for utt_id in run.graph.fold.dev[:4]:
        waveform = read_audio(Path(run.graph.fold.manifest.by_id[utt_id].path)).waveform
        inputs = extractor(waveform, sampling_rate=16_000, return_tensors="pt")
        with torch.inference_mode():
            found = model(**inputs).logits[0].numpy()
        np.testing.assert_allclose(found, rows[utt_id], atol=TOLERANCE)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="transformers reads files with ffmpeg")
def test_the_pipeline_reads_a_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", WAVEFORMS[0], 16_000, subtype="FLOAT")
    classify = transformers.pipeline(
        "audio-classification", model=str(_folder("hubert_group", 0)), trust_remote_code=True
    )
    best = CLASSES[int(_expected("hubert_group", 0)[0].argmax())]
    assert classify(str(tmp_path / "a.wav"))[0]["label"] == best


def test_the_card_says_classes_fold_protocol_figures_and_that_test_is_sealed(
    run: Run, tmp_path: Path
) -> None:
    export_teacher(run.folder, tmp_path / "out", "1")
    card = (tmp_path / "out" / "README.md").read_text()
    uar = run.results["folds"]["1"]["teacher"]["dev"]["uar"]
    for text in (
        "angry, happy, neutral, sad",
        "synthetic",
        "speaker_kfold",
        "| fold | 1:",
        f"| {100 * uar:.1f} % |",
        "is sealed",
        'pipeline("audio-classification"',
    ):
        assert text in card
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {
        *("README.md", "config.json", "model.safetensors", "modeling_serkd.py"),
        *("preprocessor_config.json", "encoder"),
    }


def test_the_card_says_of_a_class_without_dev_utterances_that_its_recall_is_unknown(
    run: Run,
) -> None:
    finished, fold = read_run(run.folder), run.graph.fold
    finished.results["folds"][fold.name]["teacher"]["dev"]["per_class_recall"] = [1, None, 0.5, 0]
    card = write_card(finished, fold, run.graph.backbone)
    assert "angry 100 %, happy -, neutral 50 %, sad 0 %" in card


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(
    run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"--fold must be one that was run \(1\), got 2"):
        export_teacher(run.folder, out, "2")
    with pytest.raises(InputError, match="must be a folder that `serkd run` or `serkd teacher`"):
        export_teacher(tmp_path, out, None)
    storage = shutil.copytree(run.storage, tmp_path / "storage")
    mine = storage / "runs" / run.folder.name
    shutil.rmtree(storage / "stages" / "teacher")
    with pytest.raises(InputError, match="the teacher of fold 1 must be stored"):
        export_teacher(mine, out, None)
    results = {**run.results, "models": ["student"]}
    (mine / "results.json").write_text(json.dumps(results))
    with pytest.raises(InputError, match="must be a run with a teacher, it has student"):
        export_teacher(mine, out, None)
    (mine / "results.json").write_text("[1]")
    with pytest.raises(InputError, match="must be the JSON that serkd wrote, got a list"):
        export_teacher(mine, out, None)
    assert {path.name for path in tmp_path.iterdir()} == {"storage"}


def test_a_folder_with_files_stays_as_it_is(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for taken in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(InputError, match="--out must be a new or empty folder"):
            export_teacher(run.folder, taken, None)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    export_teacher(run.folder, tmp_path / "empty", None)
    assert load_file(tmp_path / "empty" / "model.safetensors")


def test_a_link_leads_to_the_folder_and_the_working_directory_is_not_replaced(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(InputError, match=r"--out must not be the working directory, got \."):
        export_teacher(run.folder, Path(), None)
    monkeypatch.chdir(tmp_path)
    export_teacher(run.folder, Path("link"), None)
    assert load_file(tmp_path / "empty" / "model.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "link"]


def test_an_export_that_fails_leaves_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: TransformersExport, folder: Path) -> None:
        (folder / "half").write_text("written")
        raise OSError("no space left on device")

    monkeypatch.setattr(TransformersExport, "write", fail)
    with pytest.raises(OSError, match="no space"):
        export_teacher(run.folder, tmp_path / "out", None)
    assert list(tmp_path.iterdir()) == []

"""Split backbones against whole transformers models, layer by layer, padded and not."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import transformers
from small_models import (
    BUILDERS,
    NUM_LAYERS,
    SECONDS,
    make_waveform,
    save_model,
    whisper_config,
    whisper_features,
)
from torch import Tensor, nn
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from serkd.errors import InputError
from serkd.features.backbone import (
    TINY_HUBERT,
    Backbone,
    Prefix,
    Suffix,
    find_backbone,
    load_encoder,
)

TOLERANCE = 1e-5
_SHARED = Path(os.environ.get("SERKD_REAL_DATA", Path(__file__).resolve().parents[3] / "shared"))
_RAVDESS = _SHARED / "data" / "ravdess"
_REAL_ENCODER = _SHARED / "models" / "whisper-tiny.en-encoder"
needs_real_data = pytest.mark.skipif(
    not (_RAVDESS.is_dir() and _REAL_ENCODER.is_dir()),
    reason="SERKD_REAL_DATA holds no real data",
)

every_family = pytest.mark.parametrize("name", [*BUILDERS, "whisper"])
every_split = pytest.mark.parametrize("frozen", range(NUM_LAYERS + 1))


def _input_features(name: str, folder: Path, waveform: np.ndarray) -> Tensor:
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    out = extractor(waveform, sampling_rate=16_000, return_tensors="pt")
    return out["input_features" if name == "whisper" else "input_values"]


@torch.no_grad()
def _reference(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """transformers' own hidden states 0..L, (F, D) each.

    The last one is the model's output: transformers 5 records stable-norm models' layer L before
    the final norm, transformers 4 recorded it after.
    """
    out = model(inputs, output_hidden_states=True)
    return [*(state[0] for state in out.hidden_states[:-1]), out.last_hidden_state[0]]


def _largest_gap(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max())


@torch.no_grad()
def _split_states(backbone: Backbone, frozen: int, waveform: np.ndarray) -> list[Tensor]:
    hidden = Prefix(backbone, frozen)(waveform)[None].clone()
    mask = torch.ones(hidden.shape[:2], dtype=torch.bool)
    return [state[0] for state in Suffix(backbone, frozen).eval()(hidden, mask)]


@every_family
def test_suffix_of_prefix_is_the_whole_model_at_every_split(tmp_path: Path, name: str) -> None:
    model = save_model(name, tmp_path)
    backbone = find_backbone(str(tmp_path))
    waveform = make_waveform(SECONDS * 16_000)
    expected = _reference(model, _input_features(name, tmp_path, waveform))
    assert len(expected) == backbone.num_layers + 1 == NUM_LAYERS + 1
    assert expected[0].shape[1] == backbone.dim
    for frozen in range(NUM_LAYERS + 1):
        states = _split_states(backbone, frozen, waveform)
        assert len(states) == NUM_LAYERS + 1 - frozen
        for layer, state in enumerate(states, start=frozen):
            assert _largest_gap(state, expected[layer]) < TOLERANCE, (frozen, layer)
    # or the comparison would be of nothing
    assert _largest_gap(expected[0], expected[1]) > 0.1


def test_the_builtin_model_is_the_seeded_transformers_model() -> None:
    backbone = find_backbone("tiny-hubert")
    torch.manual_seed(0)
    model = transformers.HubertModel(transformers.HubertConfig(**TINY_HUBERT)).eval()
    waveform = make_waveform(8_000)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    inputs = extractor(waveform, sampling_rate=16_000, return_tensors="pt")["input_values"]
    expected = _reference(model, inputs)
    for frozen in range(backbone.num_layers + 1):
        assert _largest_gap(_split_states(backbone, frozen, waveform)[-1], expected[-1]) < TOLERANCE


def test_building_the_builtin_model_leaves_the_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    load_encoder(find_backbone("tiny-hubert"))
    assert torch.equal(torch.rand(3), expected)


def test_an_unnormalised_model_gets_the_rawmake_waveform(tmp_path: Path) -> None:
    model = save_model("hubert_stable", tmp_path)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(tmp_path)
    waveform = make_waveform(8_000)
    expected = _reference(model, torch.from_numpy(waveform)[None])
    states = _split_states(find_backbone(str(tmp_path)), 1, waveform)
    assert _largest_gap(states[-1], expected[-1]) < TOLERANCE


# an even number of mel frames: transformers' encoder takes no other
@pytest.mark.parametrize("seconds", [0.1, 0.44])
def test_a_short_clip_is_not_padded_to_whispers_window(tmp_path: Path, seconds: float) -> None:
    model = save_model("whisper", tmp_path)
    waveform = make_waveform(round(seconds * 16_000))
    inputs = whisper_features()(
        waveform, sampling_rate=16_000, padding="do_not_pad", return_tensors="pt"
    )["input_features"]
    # the same weights in a model whose window is the clip
    num_frames = inputs.shape[2] // 2
    short = WhisperEncoder(whisper_config(num_frames / 50)).eval()
    weights = model.state_dict()
    weights["embed_positions.weight"] = weights["embed_positions.weight"][:num_frames]
    short.load_state_dict(weights)
    expected = _reference(short, inputs)
    states = _split_states(find_backbone(str(tmp_path)), 1, waveform)
    assert len(states[-1]) == round(seconds * 50)
    assert _largest_gap(states[-1], expected[-1]) < TOLERANCE


def test_an_encoder_inside_a_whole_whisper_is_found(tmp_path: Path) -> None:
    encoder = save_model("whisper", tmp_path / "encoder")
    whole = transformers.WhisperForConditionalGeneration(whisper_config())
    whole.model.encoder.load_state_dict(encoder.state_dict())
    whole.save_pretrained(tmp_path / "whole")
    whisper_features().save_pretrained(tmp_path / "whole")
    waveform = make_waveform(8_000)
    alone, inside = (
        _split_states(find_backbone(str(tmp_path / folder)), 1, waveform)
        for folder in ("encoder", "whole")
    )
    assert _largest_gap(inside[-1], alone[-1]) < TOLERANCE


@every_split
@every_family
def test_padding_does_not_change_valid_frames(tmp_path: Path, name: str, frozen: int) -> None:
    save_model(name, tmp_path)
    backbone = find_backbone(str(tmp_path))
    suffix = Suffix(backbone, frozen).eval()
    lengths = (9, 23, 40)
    generator = torch.Generator().manual_seed(0)
    # what lies in the padding is noise, not zeros: zeros could be ignored by chance
    hidden = torch.randn(len(lengths), max(lengths), backbone.dim, generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        together = suffix(hidden, mask)
        for i, length in enumerate(lengths):
            alone = suffix(hidden[i : i + 1, :length], mask[i : i + 1, :length])
            for state, expected in zip(together, alone, strict=True):
                assert _largest_gap(state[i, :length], expected[0]) < TOLERANCE


@every_family
def test_every_trainable_parameter_of_a_suffix_is_used(tmp_path: Path, name: str) -> None:
    # an unused one is decayed by the optimizer but never learns
    save_model(name, tmp_path)
    backbone = find_backbone(str(tmp_path))
    for frozen in range(NUM_LAYERS):
        suffix = Suffix(backbone, frozen).train()
        hidden = torch.randn(2, 12, backbone.dim)
        mask = torch.ones(2, 12, dtype=torch.bool)
        mask[1, 8:] = False
        suffix(hidden, mask)[-1].square().sum().backward()
        unused = [n for n, p in suffix.named_parameters() if p.requires_grad and p.grad is None]
        assert unused == [], frozen


@every_family
def test_the_prefix_is_frozen(tmp_path: Path, name: str) -> None:
    save_model(name, tmp_path)
    prefix = Prefix(find_backbone(str(tmp_path)), 2)
    assert not any(parameter.requires_grad for parameter in prefix.parameters())
    waveform = make_waveform(8_000)
    assert torch.equal(prefix(waveform), prefix(waveform))  # no dropout, no layer drop


def test_half_precision_weights_are_computed_in_float32(tmp_path: Path) -> None:
    model = save_model("hubert_group", tmp_path)
    model.half().save_pretrained(tmp_path)
    backbone = find_backbone(str(tmp_path))
    assert {p.dtype for p in load_encoder(backbone).parameters()} == {torch.float32}


def test_the_weight_hash_changes_with_what_decides_the_outputs(tmp_path: Path) -> None:
    def digest(folder: Path) -> str:
        return find_backbone(str(folder)).weight_hash

    first = tmp_path / "first"
    model = save_model("hubert_group", first)
    copied = tmp_path / "copy"
    shutil.copytree(first, copied)
    (copied / "README.md").write_text("a model card")
    assert digest(copied) == digest(first)
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    model.save_pretrained(copied)
    assert digest(copied) != digest(first)
    for name, key, value in (
        ("config.json", "layer_norm_eps", 1e-3),
        ("preprocessor_config.json", "do_normalize", False),
    ):
        changed = tmp_path / name.removesuffix(".json")
        shutil.copytree(first, changed)
        settings = json.loads((changed / name).read_text())
        (changed / name).write_text(json.dumps({**settings, key: value}))
        assert digest(changed) != digest(first), name
    seeds = {
        digest(tmp_path / f"seed{s}")
        for s in (1, 2)
        if save_model("whisper", tmp_path / f"seed{s}", s)
    }
    assert len(seeds) == 2


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _pickled_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _as_bert(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))


def _half_a_config(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text[: len(text) // 2])


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (_without_weights, r"must hold \*\.safetensors weights, it has none"),
        (_pickled_weights, r"must hold \*\.safetensors weights, it has none"),
        (_without_config, r"must hold config\.json, it has none"),
        (_as_bert, "must be one of hubert, wavlm, wav2vec2, data2vec-audio, whisper, got 'bert'"),
        (_half_a_config, r"config\.json"),
        (shutil.rmtree, "must be a folder with a model"),
    ],
)
def test_folders_that_hold_no_usable_model_are_refused(
    tmp_path: Path, damage: Callable[[Path], None], rule: str
) -> None:
    folder = tmp_path / "model"
    save_model("hubert_group", folder)
    damage(folder)
    with pytest.raises(InputError, match=rf"backbone\.name: .*model.*{rule}|{rule}.*model"):
        find_backbone(str(folder))


def test_relative_folders_that_do_not_exist_never_reach_the_hub() -> None:
    with pytest.raises(InputError, match=r"must be a folder with a model, '\./nowhere' is none"):
        find_backbone("./nowhere")


@pytest.mark.real
@needs_real_data
def test_the_real_whisper_encoder_is_split_exactly() -> None:
    clips = sorted((_RAVDESS / "flac").iterdir())[:20]
    # exactly its window: transformers' encoder takes nothing else
    speech = np.concatenate([soundfile.read(clip, dtype="float32")[0] for clip in clips])
    waveform = speech[: 30 * 16_000]
    backbone = find_backbone(str(_REAL_ENCODER))
    model = WhisperEncoder.from_pretrained(_REAL_ENCODER, dtype=torch.float32).eval()
    expected = _reference(model, _input_features("whisper", _REAL_ENCODER, waveform))
    assert (backbone.num_layers, backbone.dim) == (4, 384)
    for frozen in range(backbone.num_layers + 1):
        states = _split_states(backbone, frozen, waveform)
        for layer, state in enumerate(states, start=frozen):
            # real states reach the hundreds, where float32 itself is coarser than 1e-5
            scale = max(1.0, float(expected[layer].abs().max()))
            assert _largest_gap(state, expected[layer]) < TOLERANCE * scale, (frozen, layer)

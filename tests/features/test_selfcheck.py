"""The check of a backbone against transformers: what padding and other conventions would change."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from serkd.corpora.audio import read_audio
from serkd.corpora.manifest import Manifest
from serkd.errors import InputError
from serkd.events import Observer
from serkd.features import blocks
from serkd.features.backbone import find_backbone
from serkd.features.readings import FRAME_SAMPLES, Readings
from serkd.features.selfcheck import MAX_RELATIVE, SelfCheck, check_backbone

_SHARED = Path(os.environ.get("SERKD_REAL_DATA", Path(__file__).resolve().parents[3] / "shared"))
_ENCODER = _SHARED / "models" / "whisper-tiny.en-encoder"

_SMALL: dict[str, Any] = {
    "conv_dim": (16,) * 7,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}
_BUILDERS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "hubert_stable": (transformers.HubertConfig, transformers.HubertModel, _STABLE),
    "wav2vec2_stable": (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model, _STABLE),
    "wav2vec2_group": (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model, {}),
    "wavlm_group": (transformers.WavLMConfig, transformers.WavLMModel, {}),
}


def _shake(model: nn.Module) -> None:
    """Fresh models have norms of ones and biases of zeros."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def _save(name: str, folder: Path) -> str:
    """A small random model, saved as its authors would."""
    torch.manual_seed(0)
    if name == "whisper":
        config = transformers.WhisperConfig(
            vocab_size=32, pad_token_id=0, bos_token_id=0, eos_token_id=0,
            decoder_start_token_id=0, d_model=16, encoder_layers=3, encoder_attention_heads=2,
            encoder_ffn_dim=24, num_mel_bins=20, max_source_positions=100, init_std=0.2,
        )  # fmt: skip
        model: Any = WhisperEncoder(config)
        transformers.WhisperFeatureExtractor(feature_size=20, chunk_length=2).save_pretrained(
            folder
        )
    else:
        kind, build, extra = _BUILDERS[name]
        model = build(kind(**_SMALL, **extra))
        transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    _shake(model)
    model.save_pretrained(folder)
    return str(folder)


def _worst(check: SelfCheck) -> dict[str, float]:
    return {name: check.worst(name) for name in {d.check for d in check.differences}}


@pytest.mark.parametrize("name", ["tiny-hubert", "wav2vec2_group", "wavlm_group"])
def test_group_norm_makes_padding_unsafe_even_with_a_mask(
    name: str, tmp_path: Path, manifest_path: Path
) -> None:
    backbone = name if name == "tiny-hubert" else _save(name, tmp_path)
    check = check_backbone(backbone, manifest_path, Observer())
    worst = _worst(check)
    assert check.is_sound
    assert not check.is_padding_safe
    assert worst["padded"] > 1e-2 < worst["padded_unmasked"]
    assert worst["next_layer"] > 0.1
    assert "no_final_norm" not in worst
    assert "padding would have changed the frames" in check.verdict()


@pytest.mark.parametrize("name", ["hubert_stable", "wav2vec2_stable"])
def test_layer_norm_makes_padding_safe_with_a_mask_only(
    name: str, tmp_path: Path, manifest_path: Path
) -> None:
    check = check_backbone(_save(name, tmp_path), manifest_path, Observer())
    worst = _worst(check)
    assert check.is_sound
    assert check.is_padding_safe
    assert worst["padded"] < MAX_RELATIVE < 1e-2 < worst["padded_unmasked"]
    assert worst["no_final_norm"] > 1e-2
    assert "with a mask would have been safe" in check.verdict()


def test_silence_up_to_whispers_window_changes_its_frames(
    tmp_path: Path, manifest_path: Path
) -> None:
    check = check_backbone(_save("whisper", tmp_path), manifest_path, Observer())
    assert check.is_sound
    assert not check.is_padding_safe
    assert _worst(check)["whole_window"] > 1e-2
    # cut to different lengths inside the window
    assert len(set(check.seconds)) == len(check.seconds)
    assert max(check.seconds) <= 2.0


@pytest.mark.parametrize("name", ["hubert_stable", "whisper"])
def test_the_layer_before_the_final_norm_is_what_transformers_keeps(
    name: str, tmp_path: Path, manifest: Manifest
) -> None:
    readings = Readings(find_backbone(_save(name, tmp_path)))
    waveform = read_audio(Path(manifest.utterances[0].path)).waveform
    waveform = waveform[: len(waveform) // FRAME_SAMPLES * FRAME_SAMPLES]
    states = readings.alone(waveform)
    kept: list[Tensor] = []
    stack = readings.encoder if name == "whisper" else readings.encoder.encoder
    hook = stack.layer_norm.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    again = readings.alone(waveform)
    hook.remove()
    last = readings.num_layers
    torch.testing.assert_close(again[last], states[last])
    ours = readings.without_final_norm(states[0])
    torch.testing.assert_close(ours, kept[-1][0], rtol=1e-4, atol=1e-5)
    # and the suffix still has its norm
    assert readings.suffix.body.final_norm is not None


def _ignore_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = blocks.Body.forward
    monkeypatch.setattr(blocks.Body, "forward", lambda self, h, mask: forward(self, h, None))


def _drop_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = blocks.Body.forward

    def short(self: blocks.Body, hidden: Tensor, mask: Tensor | None) -> list[Tensor]:
        states = forward(self, hidden, mask)
        return [*states[:-1], states[-2]] if len(states) > 1 else states

    monkeypatch.setattr(blocks.Body, "forward", short)


def _make_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = blocks.Body.forward

    def nan(self: blocks.Body, hidden: Tensor, mask: Tensor | None) -> list[Tensor]:
        return [state * torch.nan for state in forward(self, hidden, mask)]

    monkeypatch.setattr(blocks.Body, "forward", nan)


@pytest.mark.parametrize("damage", [_ignore_masks, _drop_a_layer, _make_nan])
def test_a_wrong_suffix_is_caught(
    damage: Any,  # noqa: ANN401  a function of monkeypatch
    monkeypatch: pytest.MonkeyPatch,
    manifest_path: Path,
) -> None:
    damage(monkeypatch)
    check = check_backbone("tiny-hubert", manifest_path, Observer())
    assert not check.is_sound
    assert "are not transformers'" in check.verdict()


def test_the_synthetic_corpus_stands_in_for_a_manifest() -> None:
    check = check_backbone("tiny-hubert", None, Observer())
    assert check.is_sound
    assert len(set(check.seconds)) == 3
    assert json.loads(json.dumps(check.record()))["is_sound"] is True


def test_unknown_backbones_and_manifests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be a folder with a model"):
        check_backbone("./nowhere", None, Observer())
    with pytest.raises(InputError, match=r"none\.parquet: must be a manifest"):
        check_backbone("tiny-hubert", tmp_path / "none.parquet", Observer())


@pytest.mark.real
@pytest.mark.skipif(not _ENCODER.is_dir(), reason="SERKD_REAL_DATA holds no real data")
def test_the_real_whisper_encoder_is_read_exactly(manifest_path: Path) -> None:
    check = check_backbone(str(_ENCODER), manifest_path, Observer())
    assert check.is_sound
    assert not check.is_padding_safe

"""What an utterance's frames do not depend on: its batch, its place, the encoder's shortcuts."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import BUILDERS, make_waveform, save_model
from torch import Tensor, nn

from serkd.corpora.audio import read_audio
from serkd.features import batching, encoders
from serkd.features.backbone import Backbone, Prefix, Suffix, find_backbone
from serkd.features.batching import MAX_FRAMES_CPU, Columns, encode_batches, plan_batches
from serkd.features.encoders import EncoderSpec, PrefixEncoder, SuffixEncoder
from serkd.features.fast import has_fast_linear, speed_up

# of the RMS of an utterance's frames, for its worst frame: float16 keeps 11 bits
TOLERANCE = 1e-3
_SHARED = Path(os.environ.get("SERKD_REAL_DATA", Path(__file__).resolve().parents[3] / "shared"))
_RAVDESS = _SHARED / "data" / "ravdess" / "flac"
_REAL_ENCODER = _SHARED / "models" / "whisper-tiny.en-encoder"
_NUM_LAYERS = 3
_NAMES = [*BUILDERS, "whisper", "tiny-hubert"]
lengths = st.lists(st.integers(1_600, 24_000), min_size=1, max_size=9)


@cache
def _backbone(name: str) -> Backbone:
    """Once a name: hypothesis calls a test many times."""
    if name == "tiny-hubert":
        return find_backbone(name)
    folder = Path(mkdtemp(prefix=f"serkd-test-{name}-"))
    save_model(name, folder, seconds=2)
    return find_backbone(str(folder))


def _build(encoder: EncoderSpec) -> Callable[[Sequence[np.ndarray]], list[Columns]]:
    """An encoder of arrays, whose names do not matter here."""
    encode = encoder.build()
    return lambda arrays: encode([("", array) for array in arrays])


@cache
def _encoder(name: str) -> Callable[[Sequence[np.ndarray]], list[Columns]]:
    backbone = _backbone(name)
    layers = tuple(range(backbone.num_layers + 1))
    return _build(PrefixEncoder(backbone, backbone.num_layers, "cpu", layers))


def _gap(ours: np.ndarray, reference: np.ndarray) -> float:
    assert ours.shape == reference.shape
    ours, reference = ours.astype(np.float64), reference.astype(np.float64)
    worst = np.square(ours - reference).mean(axis=1).max()
    return float(np.sqrt(worst / np.square(reference).mean()))


def _largest_gap(ours: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> float:
    assert ours.keys() == reference.keys()
    return max(_gap(ours[name], reference[name]) for name in ours)


@pytest.mark.parametrize("name", _NAMES)
@settings(max_examples=12, deadline=None)
@given(num_samples=lengths, seed=st.integers(0, 99))
def test_frames_do_not_depend_on_the_batch(name: str, num_samples: list[int], seed: int) -> None:
    encode = _encoder(name)
    waveforms = [make_waveform(n, seed + i) for i, n in enumerate(num_samples)]
    together = encode(waveforms)
    backwards = encode(waveforms[::-1])[::-1]
    for waveform, ours, other in zip(waveforms, together, backwards, strict=True):
        (alone,) = encode([waveform])
        assert _largest_gap(ours, alone) <= TOLERANCE
        assert _largest_gap(other, alone) <= TOLERANCE


@pytest.mark.parametrize("name", _NAMES)
def test_padded_batches_are_made_and_are_exact_in_float32(name: str) -> None:
    prefix = Prefix(_backbone(name), _backbone(name).num_layers)
    # odd numbers of mel frames too, where Whisper's second convolution looks beyond the end
    waveforms = [make_waveform(n, i) for i, n in enumerate((1_600, 4_960, 8_001, 20_000, 20_100))]
    states, num_frames = prefix.states(waveforms)
    assert states[0].shape[:2] == (5, max(num_frames))
    for row, waveform in enumerate(waveforms):
        alone, (length,) = prefix.states([waveform])
        assert num_frames[row] == length == alone[0].shape[1]
        for ours, expected in zip(states, alone, strict=True):
            scale = max(1.0, float(expected.abs().max()))
            assert float((ours[row, :length] - expected[0]).abs().max()) < 1e-5 * scale


@pytest.mark.parametrize("name", ["hubert_group", "wavlm_stable", "whisper"])
def test_padding_would_be_seen_without_the_mask(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # or the tests above could not fail
    monkeypatch.setattr("serkd.features.blocks.frame_mask", lambda lengths, device: None)
    monkeypatch.setattr("serkd.features.backbone.frame_mask", lambda lengths, device: None)
    encode = _build(PrefixEncoder(_backbone(name), 2, "cpu"))
    waveforms = [make_waveform(n, n) for n in (2_400, 9_000)]
    (alone,) = encode(waveforms[:1])
    assert _largest_gap(encode(waveforms)[0], alone) > 10 * TOLERANCE


@pytest.mark.parametrize("name", _NAMES)
@settings(max_examples=8, deadline=None)
@given(num_frames=st.lists(st.integers(5, 60), min_size=2, max_size=9))
def test_a_suffix_does_not_depend_on_the_batch(name: str, num_frames: list[int]) -> None:
    backbone = _backbone(name)
    weights = Suffix(backbone, 1).state_dict()
    encode = _build(SuffixEncoder(backbone, 1, weights, (1, backbone.num_layers), "cpu"))
    rng = np.random.default_rng(sum(num_frames))
    arrays = [rng.standard_normal((n, backbone.dim)).astype(np.float16) for n in num_frames]
    for array, ours in zip(arrays, encode(arrays), strict=True):
        (alone,) = encode([array])
        assert _largest_gap(ours, alone) <= TOLERANCE
        assert np.array_equal(alone["layer_1"], array)


@pytest.mark.parametrize("name", _NAMES)
def test_one_pass_gives_each_layer_as_its_own_prefix_does(name: str) -> None:
    backbone = _backbone(name)
    last = backbone.num_layers
    waveforms = [make_waveform(n, n) for n in (5_000, 12_000)]
    wanted = tuple(range(last))  # a shorter prefix has no final norm
    together = _build(PrefixEncoder(backbone, last, "cpu", wanted))(waveforms)
    for layer in wanted:
        single = _build(PrefixEncoder(backbone, layer, "cpu"))(waveforms)
        for ours, expected in zip(together, single, strict=True):
            assert list(expected) == [f"layer_{layer}"]
            assert np.array_equal(ours[f"layer_{layer}"], expected[f"layer_{layer}"])


def test_layers_beyond_the_frozen_ones_are_refused() -> None:
    with pytest.raises(ValueError, match=r"layers must be 0 to 1, got \[2, -1\]"):
        PrefixEncoder(find_backbone("tiny-hubert"), 1, "cpu", (0, 2, -1))


def test_batch_norm_before_the_positional_convolution_is_never_padded(tmp_path: Path) -> None:
    # it makes something of the zeros behind an utterance's end
    save_model("hubert_batch_norm", tmp_path)
    backbone = find_backbone(str(tmp_path))
    assert not Prefix(backbone, 1).is_paddable
    encode = _build(PrefixEncoder(backbone, 2, "cpu"))
    waveforms = [make_waveform(n, n) for n in (2_400, 9_000, 2_400)]
    for waveform, ours in zip(waveforms, encode(waveforms), strict=True):
        assert np.array_equal(ours["layer_2"], encode([waveform])[0]["layer_2"])


@pytest.mark.parametrize("name", _NAMES)
def test_speeding_up_changes_only_the_rounding(name: str) -> None:
    backbone = _backbone(name)
    plain, fast = Prefix(backbone, 2), speed_up(Prefix(backbone, 2), "cpu")
    waveform = make_waveform(16_000)
    expected, found = plain(waveform), fast(waveform)
    assert float((found - expected).abs().max()) < 1e-5 * max(1.0, float(expected.abs().max()))
    swapped = [m for m in fast.modules() if isinstance(m, nn.Linear) and type(m) is not nn.Linear]
    assert bool(swapped) == has_fast_linear()


def test_speeding_up_without_onednn_keeps_torchs_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    prefix = speed_up(Prefix(find_backbone("tiny-hubert"), 1), "cpu")
    assert {type(m) for m in prefix.modules() if isinstance(m, nn.Linear)} == {nn.Linear}


@settings(max_examples=100, deadline=None)
@given(
    num_frames=st.lists(st.integers(1, 1_000), max_size=40),
    max_frames=st.sampled_from([0, 50, MAX_FRAMES_CPU, 10**6]),
)
def test_batches_hold_every_utterance_once_within_the_bound(
    num_frames: list[int], max_frames: int
) -> None:
    batches = plan_batches(num_frames, max_frames)
    assert sorted(i for batch in batches for i in batch) == list(range(len(num_frames)))
    longest = [max(num_frames[i] for i in batch) for batch in batches]
    assert longest == sorted(longest)
    for batch, frames in zip(batches, longest, strict=True):
        assert len(batch) == 1 or len(batch) * frames <= max_frames
    # greedy: a batch ends only where the next utterance does not fit
    for batch, following in pairwise(batches):
        assert (len(batch) + 1) * num_frames[following[0]] > max_frames


def test_outputs_are_in_the_order_of_the_inputs() -> None:
    arrays = [np.full((n, 1), n) for n in (30, 10, 20)]
    seen: list[list[int]] = []

    def encode(batch: list[np.ndarray]) -> Sequence[Mapping[str, np.ndarray]]:
        seen.append([len(array) for array in batch])
        return [{"x": array} for array in batch]

    out = encode_batches(arrays, plan_batches([30, 10, 20], 45), encode)
    assert seen == [[10, 20], [30]]
    assert [len(columns["x"]) for columns in out] == [30, 10, 20]


def test_the_encoders_bound_their_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []
    states = Prefix.states

    def watch(self: Prefix, waveforms: Sequence[np.ndarray]) -> tuple[list[Tensor], list[int]]:
        found = states(self, waveforms)
        sizes.append(tuple(found[0][0].shape[:2]))
        return found

    monkeypatch.setattr(Prefix, "states", watch)
    monkeypatch.setattr(encoders, "MAX_FRAMES_CPU", 120)
    encode = _build(PrefixEncoder(find_backbone("tiny-hubert"), 0, "cpu"))
    encode([make_waveform(n) for n in (16_000, 8_000, 48_000, 9_000)])
    assert [batch for batch, _ in sizes] == [2, 1, 1]
    assert all(batch == 1 or batch * frames <= 120 for batch, frames in sizes)


def test_a_gpu_gets_larger_batches() -> None:
    assert encoders._max_frames("cuda") == batching.MAX_FRAMES_GPU > MAX_FRAMES_CPU


@pytest.mark.real
@pytest.mark.skipif(
    not (_RAVDESS.is_dir() and _REAL_ENCODER.is_dir()), reason="SERKD_REAL_DATA holds no real data"
)
def test_real_frames_do_not_depend_on_the_batch() -> None:
    backbone = find_backbone(str(_REAL_ENCODER))
    layers = tuple(range(backbone.num_layers + 1))
    encode = _build(PrefixEncoder(backbone, backbone.num_layers, "cpu", layers))
    rng = np.random.default_rng(0)
    clips = rng.choice(sorted(_RAVDESS.iterdir()), 24, replace=False)
    # beside clips of three seconds, pieces of them, so that there is much padding
    waveforms = [read_audio(clip).waveform[: rng.integers(4_000, 64_000)] for clip in clips]
    plain = Prefix(backbone, backbone.num_layers)
    for waveform, ours in zip(waveforms, encode(waveforms), strict=True):
        (alone,) = encode([waveform])
        assert _largest_gap(ours, alone) <= TOLERANCE
        states, _ = plain.states([waveform])
        for layer in layers:
            assert _gap(ours[f"layer_{layer}"], states[layer][0].numpy()) <= TOLERANCE


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", _NAMES)
def test_frames_of_a_gpu_do_not_depend_on_the_batch(name: str) -> None:
    backbone = _backbone(name)
    encode = _build(PrefixEncoder(backbone, backbone.num_layers, "cuda"))
    waveforms = [make_waveform(n, n) for n in (2_400, 9_000, 24_000)]
    for waveform, ours in zip(waveforms, encode(waveforms), strict=True):
        assert _largest_gap(ours, encode([waveform])[0]) <= TOLERANCE

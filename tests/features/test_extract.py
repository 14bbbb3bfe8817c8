"""Extraction: the same bytes in process and over Ray Data, and a restart that loses nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serkd.corpora.audio import Cut, read_audio
from serkd.corpora.manifest import Manifest, Utterance
from serkd.events import Observer
from serkd.features import parts as parts_module
from serkd.features.backbone import Prefix, Suffix, find_backbone
from serkd.features.batching import Columns
from serkd.features.encoders import (
    Encode,
    EncoderSpec,
    LogMelEncoder,
    PrefixEncoder,
    SuffixEncoder,
)
from serkd.features.extract import EXTRACT_INFO, Sink, extract_frames
from serkd.features.logmel import compute_logmel
from serkd.features.parts import AudioPart, Part, Rows, split_audio, split_frames
from serkd.features.store import list_parts, part_path, read_frames

_MANY, _LONG = parts_module._MAX_PART_UTTERANCES, parts_module._PART_SAMPLES


def _parts(manifest: Manifest, size: int = 12) -> list[Part]:
    """Small parts, since a whole test corpus fits into one of the usual size."""
    utterances = manifest.utterances
    return [AudioPart(utterances[i : i + size], Cut(30.0)) for i in range(0, len(utterances), size)]


def _run(
    parts: Sequence[Part],
    encoder: EncoderSpec,
    folder: Path,
    output: str,
    num_actors: int = 0,
    observer: Observer | None = None,
) -> None:
    extract_frames(
        "test", parts, encoder, {output: Sink(folder, output)},
        num_actors=num_actors, num_gpus=0.0, observer=observer or Observer(),
    )  # fmt: skip


def _bytes(folder: Path) -> dict[str, bytes]:
    """Of everything in the folder, temporary files included, but for how long it took."""
    names = {path.name for path in folder.iterdir()} - {EXTRACT_INFO}
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Parts one after the other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class CountingEncoder:
    """Encodes by the mean, counts, and dies where told to."""

    calls: list[int] = field(default_factory=list)
    die_at: int | None = None

    def build(self) -> Encode:
        def encode(waveform: np.ndarray) -> Columns:
            if len(self.calls) == self.die_at:
                raise KeyboardInterrupt
            self.calls.append(len(waveform))
            return {"x": np.array([[waveform.mean(), waveform.std()]], np.float16)}

        return lambda rows: [encode(waveform) for _, waveform in rows]


class Record(Observer):
    """What was told of the progress."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def progress(self, stage: str, done: int, total: int, unit: str, note: str = "") -> None:
        self.seen.append((done, total))


def test_stored_log_mel_is_the_log_mel_of_the_file(manifest: Manifest, tmp_path: Path) -> None:
    parts = [AudioPart(manifest.utterances, Cut(1.5))]
    _run(parts, LogMelEncoder(40, 50), tmp_path, "logmel")
    frames = read_frames(tmp_path, "logmel")
    assert frames.utt_ids == tuple(u.utt_id for u in manifest.utterances)
    for i, utterance in enumerate(manifest.utterances):
        waveform = read_audio(Path(utterance.path)).waveform[:24_000]
        assert np.array_equal(frames[i], compute_logmel(waveform, 40, 50).astype(np.float16))


def test_ray_data_writes_the_same_bytes_as_one_process(
    manifest: Manifest, tmp_path: Path, ray_cluster: None
) -> None:
    parts = _parts(manifest)
    backbone = find_backbone("tiny-hubert")
    here, there = tmp_path / "here", tmp_path / "ray"
    # Ray's actors have one thread each, this process may have any number
    prefix = PrefixEncoder(backbone, 1, "cpu")
    _run(parts, prefix, here / "prefix", "layer_1")
    _run(parts, prefix, there / "prefix", "layer_1", num_actors=2)
    weights = {k: v + 0.01 for k, v in Suffix(backbone, 1).state_dict().items()}
    suffix = SuffixEncoder(backbone, 1, weights, (2,), "cpu")
    frames = split_frames(here / "prefix", "layer_1")
    _run(frames, suffix, here / "suffix", "layer_2")
    # a run over Ray that was interrupted after two parts
    (there / "suffix").mkdir()
    for number in (0, 2):
        kept = part_path(there / "suffix", number)
        kept.write_bytes(part_path(here / "suffix", number).read_bytes())
    inodes = {path: path.stat().st_ino for path in list_parts(there / "suffix")}
    watch = Record()
    _run(frames, suffix, there / "suffix", "layer_2", num_actors=1, observer=watch)
    for stage in ("prefix", "suffix"):
        assert len(_bytes(here / stage)) == len(parts) == 4
        assert _bytes(there / stage) == _bytes(here / stage)
    assert watch.seen == [(24, 48), (36, 48), (48, 48)]
    assert {path: path.stat().st_ino for path in inodes} == inodes


def test_suffix_frames_are_those_of_the_fine_tuned_weights(
    manifest: Manifest, tmp_path: Path
) -> None:
    backbone = find_backbone("tiny-hubert")
    parts = [AudioPart(manifest.utterances[:3], Cut(30.0))]
    _run(parts, PrefixEncoder(backbone, 1, "cpu"), tmp_path / "prefix", "layer_1")
    tuned = Suffix(backbone, 1).eval()
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.mul_(1.1)
    encoder = SuffixEncoder(backbone, 1, tuned.state_dict(), (2,), "cpu")
    _run(split_frames(tmp_path / "prefix", "layer_1"), encoder, tmp_path / "hidden", "layer_2")
    found = read_frames(tmp_path / "hidden", "layer_2")
    prefix = Prefix(backbone, 1)
    for i, utterance in enumerate(manifest.utterances[:3]):
        entering = prefix(read_audio(Path(utterance.path)).waveform).half().float()[None].clone()
        with torch.no_grad():
            expected = tuned(entering, torch.ones(entering.shape[:2], dtype=torch.bool))[-1][0]
        # float16 keeps 11 bits
        assert np.allclose(found[i], expected.numpy(), rtol=2e-3, atol=2e-3)


def test_a_restart_computes_only_what_is_missing(manifest: Manifest, tmp_path: Path) -> None:
    parts, encoder = _parts(manifest), LogMelEncoder(20, 50)
    _run(parts, encoder, tmp_path, "logmel")
    before = _bytes(tmp_path)
    inodes = {path: path.stat().st_ino for path in list_parts(tmp_path)}
    for number in (1, 3):
        part_path(tmp_path, number).unlink()
    # parts that are there must not be written again, even by another encoder
    other, watch = LogMelEncoder(10, 50), Record()
    _run(parts, other, tmp_path, "logmel", observer=watch)
    assert watch.seen == [(24, 48), (36, 48), (48, 48)]
    for number in (0, 2):
        path = part_path(tmp_path, number)
        assert path.stat().st_ino == inodes[path]
        assert path.read_bytes() == before[path.name]
    for number in (1, 3):
        part_path(tmp_path, number).unlink()
    _run(parts, encoder, tmp_path, "logmel")
    assert _bytes(tmp_path) == before


@pytest.mark.usefixtures("one_thread")
def test_an_interrupted_extraction_goes_on_where_it_stopped(
    manifest: Manifest, tmp_path: Path
) -> None:
    parts = _parts(manifest)
    whole = CountingEncoder()
    _run(parts, whole, tmp_path / "whole", "x")
    dying = CountingEncoder(die_at=2 * 12 + 5)
    with pytest.raises(KeyboardInterrupt):
        _run(parts, dying, tmp_path / "again", "x")
    assert set(_bytes(tmp_path / "again")) == {f"part-0000{i}.parquet" for i in (0, 1)}
    second = CountingEncoder()
    _run(parts, second, tmp_path / "again", "x")
    assert len(second.calls) == len(manifest.utterances) - 2 * 12
    assert _bytes(tmp_path / "again") == _bytes(tmp_path / "whole")
    third = CountingEncoder()
    _run(parts, third, tmp_path / "again", "x")
    assert third.calls == []


@dataclass(frozen=True)
class TwoOutputs:
    """Two outputs of each utterance; `calls` counts utterances."""

    calls: list[str] = field(default_factory=list)

    def build(self) -> Encode:
        def encode(rows: Rows) -> list[Columns]:
            self.calls.extend(utt_id for utt_id, _ in rows)
            found = [np.array([[array.std()]], np.float16) for _, array in rows]
            return [{"plus": one, "minus": -one} for one in found]

        return encode


def test_outputs_of_one_pass_lie_apart_and_only_what_lacks_is_written(
    manifest: Manifest, tmp_path: Path
) -> None:
    parts, encoder = _parts(manifest), TwoOutputs()
    sinks = {"plus": Sink(tmp_path / "a", "x"), "minus": Sink(tmp_path / "b", "x")}

    def run() -> None:
        extract_frames(
            "test", parts, encoder, sinks, num_actors=0, num_gpus=0.0, observer=Observer()
        )

    run()
    plus, minus = (read_frames(tmp_path / name, "x") for name in "ab")
    assert plus.utt_ids == minus.utt_ids == tuple(u.utt_id for u in manifest.utterances)
    assert np.array_equal(plus.values, -minus.values) and plus.values.any()
    inode = part_path(tmp_path / "a", 1).stat().st_ino
    part_path(tmp_path / "b", 1).unlink()
    encoder.calls.clear()
    run()
    assert sorted(encoder.calls) == [u.utt_id for u in manifest.utterances[12:24]]
    assert part_path(tmp_path / "a", 1).stat().st_ino == inode
    assert np.array_equal(read_frames(tmp_path / "b", "x").values, minus.values)


@dataclass(frozen=True)
class OverflowingEncoder:
    """Some utterance's frame is above float16's largest number."""

    value: float

    def build(self) -> Encode:
        with np.errstate(over="ignore"):
            frame = np.array([[self.value]]).astype(np.float16)
        return lambda rows: [{"x": frame} for _ in rows]


@pytest.mark.parametrize("value", [1e6, np.nan, -np.inf])
def test_values_beyond_float16_stop_the_extraction(
    manifest: Manifest, tmp_path: Path, value: float
) -> None:
    first = manifest.utterances[0].utt_id
    with pytest.raises(FloatingPointError, match=f"{first}: x must be finite in float16"):
        _run(_parts(manifest), OverflowingEncoder(value), tmp_path, "x")
    assert list(tmp_path.iterdir()) == []


def _rows(lengths: Sequence[int]) -> list[Utterance]:
    return [
        Utterance(
            f"u{i:04d}", "/none", "own", "s", "unknown", "", "sad", "", (), n / 16e3, n, 16_000, ""
        )
        for i, n in enumerate(lengths)
    ]


@pytest.mark.parametrize(
    ("num_samples", "count", "sizes"),
    [
        (1_600, 2 * _MANY + 88, [_MANY, _MANY, 88]),
        (_LONG // 8, 20, [8, 8, 4]),
        (_LONG + 1, 3, [1, 1, 1]),
        (1_600, 0, []),
    ],
)
def test_parts_have_the_stated_sizes(num_samples: int, count: int, sizes: list[int]) -> None:
    parts = split_audio(_rows([num_samples] * count), Cut(30.0))
    assert [len(part.utterances) for part in parts if isinstance(part, AudioPart)] == sizes


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(
        st.one_of(st.integers(1_600, 480_000), st.integers(_LONG - 10**5, _LONG + 10**5)),
        max_size=60,
    ),
    repeats=st.integers(1, 12),
)
def test_parts_are_bounded_ordered_and_full(lengths: list[int], repeats: int) -> None:
    rows = _rows(lengths * repeats)
    parts = split_audio(rows, Cut(30.0))
    groups = [part.utterances for part in parts if isinstance(part, AudioPart)]
    assert [u for group in groups for u in group] == rows
    for group in groups:
        samples = sum(u.num_samples for u in group)
        assert 1 <= len(group) <= _MANY
        assert samples <= _LONG or len(group) == 1
    for group, following in pairwise(groups):
        # a part is closed only when the next utterance did not fit: no part is needlessly small
        fits = sum(u.num_samples for u in (*group, following[0])) <= _LONG
        assert not (fits and len(group) < _MANY)
    assert split_audio(rows, Cut(30.0)) == parts

"""Whether a backbone's frames are what they should be, and what other ways of reading would change.

Everything is compared with transformers' own hidden states of one utterance alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from serkd.corpora.audio import SAMPLE_RATE_HZ, read_audio
from serkd.corpora.manifest import read_manifest
from serkd.corpora.synthetic import write_corpus
from serkd.errors import InputError
from serkd.events import Observer
from serkd.features.backbone import Backbone, find_backbone
from serkd.features.readings import FRAME_SAMPLES, Readings, States

MAX_RELATIVE = 1e-4  # float32 through a deep model; any real disagreement is far above
NUM_UTTERANCES = 3
_MAX_SECONDS = 9.0  # of the longest of them; the others are cut to its thirds

CHECKS: Mapping[str, str] = {  # ways of reading, each against transformers with one utterance
    "split": "serkd, one utterance",
    "batched": "serkd as it extracts: padded batch, faster linear layers",
    "suffix_padded": "serkd's suffix, padded batch with mask",
    "padded": "transformers, padded batch with mask",
    "padded_unmasked": "transformers, padded batch without mask",
    "whole_window": "transformers, silence up to Whisper's window",
    "next_layer": "the next layer: fairseq's number n is layer n + 1 here",
    "no_final_norm": "the last layer before the final norm, as fairseq gives it",
}
MUST_AGREE = ("split", "batched", "suffix_padded")
_PADDINGS = ("padded", "whole_window")


@dataclass(frozen=True)
class Difference:
    """How far one way of reading a layer is from the reference, over utterances the largest.

    `max_abs` is over valid frames. `relative` is the RMS of the worst frame's difference by the RMS
    of the reference's valid frames: Whisper has a few channels in the hundreds, whose rounding
    alone is large beside the others.
    """

    check: str
    layer: int
    max_abs: float
    relative: float


@dataclass(frozen=True)
class SelfCheck:
    """All differences of a backbone; `seconds` are the lengths of the utterances."""

    backbone: Backbone
    seconds: tuple[float, ...]
    differences: tuple[Difference, ...]

    def worst(self, *checks: str) -> float:
        """The largest relative difference of some checks, 0 where there are none."""
        found = [d.relative for d in self.differences if d.check in checks]
        return float(np.max(found)) if found else 0.0

    @property
    def is_sound(self) -> bool:
        """Whether serkd's frames are those of transformers, alone and in a padded batch."""
        return self.worst(*MUST_AGREE) <= MAX_RELATIVE  # a NaN is not

    @property
    def is_padding_safe(self) -> bool:
        """Whether transformers itself may read padded batches (with a mask where it takes one)."""
        return self.worst(*_PADDINGS) <= MAX_RELATIVE

    def record(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "backbone": asdict(self.backbone),
            "seconds": self.seconds,
            "is_sound": self.is_sound,
            "is_padding_safe": self.is_padding_safe,
            "verdict": self.verdict(),
            "differences": [asdict(difference) for difference in self.differences],
        }

    def verdict(self) -> str:
        """One sentence: how serkd reads this backbone, and what padding would have done."""
        gap = self.worst(*MUST_AGREE)
        padded, bare = self.worst(*_PADDINGS), self.worst("padded_unmasked")
        if not self.is_sound:
            return (
                f"serkd's frames of this backbone are not transformers': they differ by {gap:.2g} "
                f"of the RMS, at most {MAX_RELATIVE:g} is rounding"
            )
        how = (
            "in serkd's batches an utterance has the frames that it has alone "
            f"(differences of {gap:.1g} of the RMS)"
        )
        if not self.is_padding_safe:
            return (
                f"{how}; transformers' padding would have changed the frames by up to {padded:.2g} "
                "of the RMS"
            )
        return (
            f"{how}; in transformers too a padded batch with a mask would have been safe, one "
            f"without it {bare:.2g} off"
        )


def check_backbone(name: str, manifest: Path | None, observer: Observer) -> SelfCheck:
    """Read a few utterances of a manifest, or of the synthetic corpus, in every way.

    Raises:
        InputError: no such backbone, manifest or audio.
    """
    backbone = find_backbone(name)
    readings = Readings(backbone)
    waveforms = _read_utterances(manifest, min(readings.window_s, _MAX_SECONDS))
    differences: list[Difference] = []
    compared = _compare(readings, waveforms)
    for done, found in enumerate(compared, start=1):
        differences += found
        observer.progress("check", done, len(CHECKS), "checks")
    seconds = tuple(len(waveform) / SAMPLE_RATE_HZ for waveform in waveforms)
    return SelfCheck(backbone, seconds, tuple(differences))


def _compare(readings: Readings, waveforms: Sequence[np.ndarray]) -> Iterator[list[Difference]]:
    """Differences, check by check."""
    alone = [readings.alone(waveform) for waveform in waveforms]
    for first in sorted({0, readings.num_layers // 2}):
        ours = [readings.split(waveform, first) for waveform in waveforms]
        yield _by_layer("split", ours, alone)
    yield _by_layer("batched", readings.batched(waveforms), alone)
    # transformers' own frames in, so that only the suffix is judged
    yield _by_layer("suffix_padded", readings.suffix_padded([states[0] for states in alone]), alone)
    if readings.is_whisper:
        yield _by_layer("whole_window", [readings.whole_window(w) for w in waveforms], alone)
    else:
        yield _by_layer("padded", readings.padded(waveforms, has_mask=True), alone)
        yield _by_layer("padded_unmasked", readings.padded(waveforms, has_mask=False), alone)
    last = readings.num_layers
    yield [
        _difference("next_layer", layer, [(states[layer + 1], states[layer]) for states in alone])
        for layer in range(last)
    ]
    if readings.has_final_norm:
        pairs = [(readings.without_final_norm(states[0]), states[last]) for states in alone]
        yield [_difference("no_final_norm", last, pairs)]


def _read_utterances(manifest: Path | None, longest_s: float) -> list[np.ndarray]:
    """Three waveforms (T,) of different lengths: short, median and long utterances."""
    if manifest is None:
        with TemporaryDirectory() as folder:
            sources = write_corpus(Path(folder), num_speakers=1, utterances_per_emotion=1).sources
            found = [read_audio(source.path).waveform for source in sources]
            found.sort(key=len)
            return _cut(found, longest_s)
    utterances = read_manifest(manifest, is_for_learning=False).utterances
    if not utterances:
        raise InputError(f"{manifest}: must hold at least one utterance, it has none")
    ordered = sorted(utterances, key=lambda u: (u.num_samples, u.utt_id))
    places = np.linspace(0.1, 0.9, NUM_UTTERANCES) * (len(ordered) - 1)
    chosen = [ordered[round(place)] for place in places]
    return _cut([read_audio(Path(u.path)).waveform for u in chosen], longest_s)


def _cut(waveforms: Sequence[np.ndarray], longest_s: float) -> list[np.ndarray]:
    """To at most one, two and three thirds of the longest, in whole frames."""
    cut = []
    for index, waveform in enumerate(waveforms[-NUM_UTTERANCES:], start=1):
        limit = int(longest_s * SAMPLE_RATE_HZ * index / NUM_UTTERANCES)
        cut.append(waveform[: min(limit, len(waveform)) // FRAME_SAMPLES * FRAME_SAMPLES])
    return cut


def _difference(check: str, layer: int, pairs: Sequence[tuple[Tensor, Tensor]]) -> Difference:
    """Of pairs of frames (F, D), ours and the reference."""
    largest, relative = [], []
    for ours, reference in pairs:
        gap = ours - reference
        largest.append(gap.abs().max())
        worst_frame = gap.square().mean(dim=1).max()
        relative.append((worst_frame / reference.square().mean()).sqrt())
    # torch's maximum of a NaN is NaN, Python's is chance
    return Difference(
        check, layer, float(torch.stack(largest).max()), float(torch.stack(relative).max())
    )


def _by_layer(check: str, ours: Sequence[States], references: Sequence[States]) -> list[Difference]:
    """One difference a layer that `ours` has; ours may begin later and be longer (padded)."""
    found = []
    for layer in sorted(ours[0]):
        pairs = [
            (o[layer][: len(r[layer])], r[layer]) for o, r in zip(ours, references, strict=True)
        ]
        found.append(_difference(check, layer, pairs))
    return found

"""Training frames computed from the audio in every step: no stored frame is of changed audio."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

import numpy as np

from serkd import config
from serkd.corpora.audio import Cut
from serkd.corpora.manifest import Utterance
from serkd.features.encoders import EncoderSpec, PrefixEncoder
from serkd.features.parts import read_waveform
from serkd.features.store import stack_frames
from serkd.models.trunk import Trunk
from serkd.train.augment import audio_seed, augment
from serkd.train.batches import pad_frames
from serkd.train.data import FoldData
from serkd.train.source import Padded, Source

_THREADS = 4  # that decode and change audio while the loop computes
_AHEAD = 8  # batches


class WaveformSource:
    """Changes the audio of training utterances and runs the frozen prefix on it.

    Evaluation, and whatever else has no epoch, reads the `stored` frames of audio as it is. The
    `utterances` (T,) are the first of them; `encoder` gives their frames in one column. An
    utterance's numbers are drawn from (`seed`, epoch, utterance). Audio stays in memory up to
    `cache_gb`; what is more is decoded anew in every epoch.

    Raises:
        InputError: in `load`: a file is missing, unreadable, or has changed since the manifest.
    """

    def __init__(
        self,
        stored: Source,
        utterances: Sequence[Utterance],
        encoder: EncoderSpec,
        settings: config.Augment,
        cut: Cut,
        seed: int,
        cache_gb: float,
    ) -> None:
        self.stored, self.settings, self.seed = stored, settings, seed
        self.encode = encoder.build()
        self.audio = _Audio(utterances, cut, int(cache_gb * 1e9))

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each utterance at the lowest speed, (U,), to within two.

        They bound batches; `load` says how many there are.
        """
        return np.ceil(self.stored.lengths / min(1.0, *self.settings.speed)).astype(np.int64)

    @property
    def parts(self) -> np.ndarray:
        return self.stored.parts

    def load(self, plan: Sequence[np.ndarray], epoch: int | None) -> Iterator[Padded]:
        if epoch is None:
            yield from self.stored.load(plan, None)
            return
        pool = ThreadPoolExecutor(_THREADS)
        waiting: deque[Future[list[np.ndarray]]] = deque()
        try:
            for number in range(len(plan)):
                for index in plan[number + len(waiting) : number + _AHEAD]:
                    waiting.append(pool.submit(self._waveforms, index, epoch))
                yield self._pad(waiting.popleft().result())
        finally:
            pool.shutdown(cancel_futures=True)

    def _waveforms(self, index: np.ndarray, epoch: int) -> list[np.ndarray]:
        """In a thread of its own."""
        limit = self.audio.cut.max_duration_s
        seeds = [audio_seed(self.seed, epoch, int(i)) for i in index]
        return [augment(self.audio[seed[2]], self.settings, limit, seed) for seed in seeds]

    def _pad(self, waveforms: Sequence[np.ndarray]) -> Padded:
        names = [str(number) for number in range(len(waveforms))]
        columns = self.encode(list(zip(names, waveforms, strict=True)))
        arrays = [values for column in columns for values in column.values()]
        return Padded(*pad_frames(stack_frames(names, arrays), np.arange(len(names))))


def hear_training(
    data: FoldData, trunk: Trunk, settings: config.Augment, seed: int, device: str
) -> WaveformSource:
    """The frames of a fold, those of train from changed audio; each worker keeps its share."""
    return WaveformSource(
        data.source,
        [data.manifest.by_id[utt_id] for utt_id in data.train_ids],
        PrefixEncoder(trunk.backbone, trunk.frozen_layers, device),
        settings,
        data.cut,
        seed,
        data.train.cache_gb / data.train.num_workers,
    )


class _Audio:
    """Decoded audio of utterances, by number, for several threads."""

    def __init__(self, utterances: Sequence[Utterance], cut: Cut, max_bytes: int) -> None:
        self.utterances, self.cut = utterances, cut
        self.free_bytes, self.lock = max_bytes, Lock()
        self.kept: dict[int, np.ndarray] = {}

    def __getitem__(self, i: int) -> np.ndarray:
        """The waveform (T,) that stored frames are of."""
        if i in self.kept:
            return self.kept[i]
        waveform = read_waveform(self.utterances[i], self.cut)
        with self.lock:
            if i not in self.kept and waveform.nbytes <= self.free_bytes:
                self.free_bytes -= waveform.nbytes
                # a copy, as a cut one would keep the whole in memory
                self.kept[i] = waveform.copy()
        return waveform

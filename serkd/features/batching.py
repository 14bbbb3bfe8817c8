"""Utterances of similar length encoded together, within a bound on the padded frames."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

# Padded frames of a batch, 50 a second: they bound its memory, which the output of HuBERT-base's
# first convolution dominates with 6.5 MB a second of audio. On a CPU only clips of a second or two
# gain (1.6 to 2 times as fast together); larger arrays than 32 MB leave its caches and, with glibc,
# the process, and made batches of HuBERT-base 25 % slower than single clips. A GPU wants a minute.
MAX_FRAMES_CPU = 250
MAX_FRAMES_GPU = 4_000

Columns = Mapping[str, np.ndarray]  # a column's name to an utterance's frames, (F, D)


def plan_batches(num_frames: Sequence[int], max_frames: int) -> list[list[int]]:
    """Indices of the utterances of each batch, shortest utterances first.

    A batch of several has at most `max_frames` when padded to its longest; one that is longer than
    that is alone. Depends on nothing but the lengths.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(num_frames)), key=lambda i: (num_frames[i], i)):
        if batches and (len(batches[-1]) + 1) * num_frames[index] <= max_frames:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def encode_batches(
    arrays: Sequence[np.ndarray],
    batches: Sequence[Sequence[int]],
    encode: Callable[[list[np.ndarray]], Sequence[Columns]],
) -> list[Columns]:
    """Encode batch by batch; the outputs are in the order of `arrays`."""
    outputs: dict[int, Columns] = {}
    for batch in batches:
        outputs.update(zip(batch, encode([arrays[i] for i in batch]), strict=True))
    return [outputs[i] for i in range(len(arrays))]

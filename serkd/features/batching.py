"""Utterances of similar length encoded together, within a bound on the padded frames."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

# Padded frames of a batch, 50 a second: bounds memory, which the first convolution's output of
# HuBERT-base dominates with 6.5 MB a second of audio. A CPU gains nothing from more (its caches
# overflow); a GPU wants a minute or more.
MAX_FRAMES_CPU = 800
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

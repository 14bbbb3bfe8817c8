"""What a model costs: multiplications, and seconds on one thread of a processor."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def count_macs(forward: Callable[[], object]) -> int:
    """Multiply-accumulates of a call's matrix products and convolutions.

    Half of what torch.utils.flop_counter counts. Everything that is linear in the activations
    (norms, activation functions, additions, spectra) is left out, as is usual.
    """
    with ExitStack() as stack:
        # neither a fused encoder layer nor fused attention would be counted
        stack.enter_context(_plain_encoder_layers())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        counter = stack.enter_context(FlopCounterMode(display=False))
        forward()
    return counter.get_total_flops() // 2


@contextmanager
def _plain_encoder_layers() -> Iterator[None]:
    was_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_fast)


@torch.inference_mode()
def time_forward(forward: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call on one thread, after one that is not counted."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        forward()
        return median(_seconds(forward) for _ in range(repeats))
    finally:
        torch.set_num_threads(threads)


def _seconds(forward: Callable[[], object]) -> float:
    started = time.perf_counter()
    forward()
    return time.perf_counter() - started

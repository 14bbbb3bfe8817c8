"""Threads: how many a process uses, and several that work side by side."""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

import faiss
import torch


def set_threads(num_threads: int) -> None:
    """Threads of torch and FAISS in this process."""
    torch.set_num_threads(num_threads)
    faiss.omp_set_num_threads(num_threads)


@contextmanager
def side_by_side(num_workers: int) -> Iterator[Executor]:
    """Workers with one thread of torch and FAISS each.

    Threads that share every small product wait for each other all the time, and on a busy machine
    for the slowest; workers meet once, at the end.
    """
    num_threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(num_workers, initializer=set_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(num_threads)  # what threads that come later will have

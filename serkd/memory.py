"""Memory that a process has freed: kept for its next step, given back to the machine."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
_MOST_FREE_BYTES = 1024**3
_LARGE_BYTES = 32 * 1024**2  # the most that glibc takes


def keep_memory() -> None:
    """Keep what is freed until `give_back_memory`, where the C library can (glibc).

    Every step of a training allocates what the one before it has freed. By glibc's defaults the
    system takes those pages back in between and clears them again for the next step: about 2,000
    of them, which is up to a tenth of the time of a small student's step.
    """
    option = getattr(ctypes.CDLL(None), "mallopt", None)
    if option is not None:
        option(_TRIM_THRESHOLD, _MOST_FREE_BYTES)
        option(_MMAP_THRESHOLD, _LARGE_BYTES)


def give_back_memory() -> None:
    """Return free pages to the system, where the C library can (glibc; elsewhere nothing is done).

    glibc keeps what a thread has freed for that thread's like. Trials run in threads of a worker,
    one after the other, and a fold's frames are gigabytes: workers grew several times over.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

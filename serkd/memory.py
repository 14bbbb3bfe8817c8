"""Memory that a process has freed, given back to the machine."""

import ctypes


def give_back_memory() -> None:
    """Return free pages to the system, where the C library can (glibc; elsewhere nothing is done).

    glibc keeps what a thread has freed for that thread's like. Trials run in threads of a worker,
    one after the other, and a fold's frames are gigabytes: workers grew several times over.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

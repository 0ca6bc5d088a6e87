"""What a process says about itself before it imports NumPy, so that columns cost no more than they must."""

from __future__ import annotations

import os

_KEPT_OCTETS = 256 << 20
_LARGEST_COLUMN = 32 << 20  # the most that glibc takes for M_MMAP_THRESHOLD


def prepare_numpy() -> None:
    """No threads of OpenBLAS, memory that is kept. Call it before NumPy is imported.

    A thread for every core would take longer to start than all the rest of us, and keep the privileges that we give
    up later.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    keep_memory()


def keep_memory() -> None:
    """Tell glibc to keep what a batch's columns took, for the next batch's.

    It would give each column back to the kernel, which then has to clear the pages again: a third of all CPU time.
    """
    import ctypes  # NumPy needs it anyway

    trim_threshold, mmap_threshold = -1, -3  # from malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(trim_threshold, _KEPT_OCTETS)
        mallopt(mmap_threshold, _LARGEST_COLUMN)

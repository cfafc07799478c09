"""The C library's allocator, told to keep what is freed."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_MMAP_THRESHOLD = 32 << 20
"""Bytes. glibc takes no larger one."""


def keep_freed() -> None:
    """Keep freed memory in this process, for the next step's tensors; on glibc, else nothing.

    By default glibc gives freed tensors of some 100 KB and more back to the kernel, and every step
    gets them anew, page by page, zeroed: at a batch of 256 that was a third of the time.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)

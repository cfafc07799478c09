"""Random numbers as a function of counters: SplitMix64, read at any position.

There is no generator state to save, and every process, device and library version gets the same
numbers. SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014, figure 16.
"""

from __future__ import annotations

import functools
import hashlib

from torch import Tensor

_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


@functools.lru_cache(64)
def stream(*names: int | str) -> int:
    """The 64-bit seed of the stream with these names: ``stream(0, "order", 3)``."""
    digest = hashlib.sha256(repr(names).encode()).digest()
    return int.from_bytes(digest[:8], "little")


def bits(seed: int | Tensor, counters: Tensor) -> Tensor:
    """The outputs of SplitMix64 seeded with `seed` at positions `counters` (int64, from 0).

    64 random bits each, as int64 of the same shape, on the counters' device. The seed is a number
    or an int64 scalar on that device.
    """
    start = seed if isinstance(seed, Tensor) else signed(seed)
    z = (counters + 1) * signed(_GOLDEN_GAMMA) + start
    z = (z ^ _shift_right(z, 30)) * signed(_MIX_1)
    z = (z ^ _shift_right(z, 27)) * signed(_MIX_2)
    return z ^ _shift_right(z, 31)


def uniform(seed: int | Tensor, counters: Tensor) -> Tensor:
    """Uniform numbers in [0, 1), float64, of the counters' shape."""
    return _shift_right(bits(seed, counters), 11).double() * 2.0**-53


def signed(word: int) -> int:
    """The int64 with the bits of an unsigned 64-bit word; int64 arithmetic wraps the same way."""
    return word - 2**64 if word >= 2**63 else word


def _shift_right(words: Tensor, count: int) -> Tensor:
    """Logical shift; int64's own shift copies the sign bit."""
    return (words >> count) & ((1 << (64 - count)) - 1)

"""The compiled kernels: LeNet-5's gradients and logits on a CPU, the sum of rows, distortion.

Results have the same bits for any number of threads, whatever is computed beside them, and on every
processor that has a variant.
"""

from __future__ import annotations

import ctypes
import functools
import math
import platform
import threading
from ctypes import c_double, c_float, c_int, c_int64, c_long, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from lenet_dist.kernels import build

PARAMETERS = 61_706
COUNTS = 2
CLASSES = 10
_FLAGS = {
    "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "x86-64-v3": {"avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"},
    "aarch64": set(),
}
"""What a processor must have for a variant, by Linux's names."""

_PLAIN = ", contiguous, on the CPU"
_scratch = threading.local()
_threads: int | None = None
"""Threads that a call computes on; None: as many as torch's."""


def use_threads(threads: int) -> None:
    """Have the kernels compute on so many threads from now on, and torch on one.

    What torch has left to do is small, and its threads spin for a while after each operation, on
    the cores that the kernel's would have.
    """
    global _threads
    _threads = threads
    torch.set_num_threads(1)


def variant() -> str | None:
    """The name of the compiled variant that calls use; None where there is none: see `reason`."""
    return next(iter(variants()), None)


def reason() -> str | None:
    """Why this machine has no compiled kernel and what to do, in a line; None where it has one."""
    if variants():
        return None
    of_machine = build.variants_of_machine()
    runnable = [name for name in of_machine if _FLAGS[name] <= _processor_flags()]
    if not of_machine:
        return f"there is no compiled kernel for {platform.machine()}"
    if not runnable:
        return "this processor lacks AVX2 and fused multiply-add, which the compiled kernel needs"
    if not any(build.library(name).exists() for name in runnable):
        return "no compiled kernel: install g++ or clang++ and run `make setup` again"
    if any(build.is_current(build.library(name)) for name in runnable):
        return f"{build.FOLDER}/*.so can't be loaded: delete them and run `make setup` again"
    return "the compiled kernel is of another version of its source: run `make setup` again"


@functools.cache
def variants() -> tuple[str, ...]:
    """The variants that are compiled and that this processor can run, the fastest first."""
    return tuple(
        name
        for name in build.variants_of_machine()
        if _FLAGS[name] <= _processor_flags()
        and build.is_current(build.library(name))
        and _loads(build.library(name))
    )


def shard_gradients(
    weights: Tensor,
    pixels: Tensor,
    labels: Tensor,
    shards: int,
    *,
    mean: float,
    std: float,
    smoothing: float,
    batch_size: int,
) -> Tensor:
    """The gradients, losses and counts of `shards` equal shards of a batch: rows [shards, P + 2].

    A row holds the gradient of the shard's summed loss divided by `batch_size`, in the order of
    LeNet5's parameters, then the summed loss, then the number of images that are right. `weights`
    [P] are in the same order; `pixels` are [n, 1, 28, 28], `labels` [n].
    """
    images = _checked(weights, pixels)
    if labels.shape != (images,) or not _is_plain(labels, torch.int64):
        raise ValueError(f"labels must be int64 [{images}]{_PLAIN}")
    if shards < 1 or images == 0 or images % shards:
        raise ValueError(f"{images} images do not make {shards} equal shards")
    rows = torch.empty(shards, PARAMETERS + COUNTS)
    is_right = _library().lenet5_gradients(
        weights.data_ptr(), pixels.data_ptr(), labels.data_ptr(), shards, images // shards,
        mean, std, smoothing, batch_size, rows.data_ptr(), _thread_count(), _work(),
    )  # fmt: skip
    if not is_right:
        raise ValueError(f"labels must be from 0 to {CLASSES - 1}")
    return rows


def logits(
    weights: Tensor,
    pixels: Tensor,
    *,
    mean: float,
    std: float,
) -> Tensor:
    """LeNet-5's logits [n, 10] of `pixels` [n, 1, 28, 28]."""
    images = _checked(weights, pixels)
    found = torch.empty(images, CLASSES)
    _library().lenet5_logits(
        weights.data_ptr(), pixels.data_ptr(), images, mean, std, found.data_ptr(),
        _thread_count(), _work(),
    )  # fmt: skip
    return found


def tree_sum(rows: Tensor) -> Tensor:
    """The sum [width] of `rows` [n, width] as a binary tree: 0 + 1, 2 + 3, ..., then their sums; a
    last one without a partner is passed on."""
    assert rows.dim() == 2 and len(rows) and _is_plain(rows)
    total = torch.empty(rows.shape[1])
    _library().tree_sum(
        rows.data_ptr(), rows.shape[0], rows.shape[1], total.data_ptr(), _thread_count()
    )
    return total


def distort(
    images: Tensor,
    ids: Tensor,
    *,
    stream: int,
    strength: float,
    rotate: float,
    translate: float,
    scale: float,
    shear: float,
    elastic: float,
) -> Tensor:
    """Pixels [n, 1, 28, 28] of uint8 `images` [n, 28, 28] with sample `ids` [n], each distorted by
    random numbers that depend on `stream` and its id, within ranges multiplied by `strength`.

    The ranges are those of the config's `augment`; what they mean is in data/augment.py.
    """
    count = images.shape[0]
    if images.shape[1:] != (28, 28) or not _is_plain(images, torch.uint8):
        raise ValueError(f"images must be uint8 [n, 28, 28]{_PLAIN}")
    if ids.shape != (count,) or not _is_plain(ids, torch.int64):
        raise ValueError(f"ids must be int64 [{count}]{_PLAIN}")
    distorted = torch.empty(count, 1, 28, 28)
    _library().distort(
        images.data_ptr(), ids.data_ptr(), count, stream, strength,
        math.radians(rotate), translate, scale, shear, elastic, distorted.data_ptr(),
        _thread_count(),
    )  # fmt: skip
    return distorted


def _checked(weights: Tensor, pixels: Tensor) -> int:
    """The number of images in `pixels`. Raises ValueError for what C++ would misread."""
    if weights.shape != (PARAMETERS,) or not _is_plain(weights):
        raise ValueError(f"weights must be float32 [{PARAMETERS}]{_PLAIN}")
    if pixels.shape[1:] != (1, 28, 28) or not _is_plain(pixels):
        raise ValueError(f"pixels must be float32 [n, 1, 28, 28]{_PLAIN}")
    return pixels.shape[0]


def _is_plain(tensor: Tensor, dtype: torch.dtype = torch.float32) -> bool:
    """Whether C++ finds what it expects behind the tensor's address."""
    return tensor.dtype == dtype and tensor.device.type == "cpu" and tensor.is_contiguous()


def _thread_count() -> int:
    return _threads or torch.get_num_threads()


def _work() -> int:
    """The address of scratch memory for a call of the library.

    Kept between calls, for fresh pages cost time; of a Python thread's own, for several may call.
    """
    size = _library().lenet5_scratch_bytes(_thread_count())
    kept = getattr(_scratch, "kept", None)
    if kept is None or len(kept) < size + 64:
        kept = _scratch.kept = torch.zeros(size + 64, dtype=torch.uint8)
    return -(-kept.data_ptr() // 64) * 64


def _library() -> ctypes.CDLL:
    name = variant()
    assert name is not None, reason()
    return _loaded(build.library(name))


def _loads(path: Path) -> bool:
    try:
        _loaded(path)
    except OSError:  # made on another system
        return False
    return True


@functools.cache
def _loaded(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.lenet5_gradients.argtypes = [
        *[c_void_p] * 3, c_int, c_int, *[c_float] * 4, c_void_p, c_int, c_void_p,
    ]  # fmt: skip
    library.lenet5_logits.argtypes = [
        *[c_void_p] * 2, c_int, c_float, c_float, c_void_p, c_int, c_void_p,
    ]  # fmt: skip
    library.lenet5_logits.restype = None
    library.lenet5_scratch_bytes.argtypes = [c_int]
    library.lenet5_scratch_bytes.restype = c_long
    library.distort.argtypes = [
        c_void_p, c_void_p, c_int, c_int64, *[c_double] * 6, c_void_p, c_int,
    ]  # fmt: skip
    library.distort.restype = None
    library.tree_sum.argtypes = [c_void_p, c_int, c_long, c_void_p, c_int]
    library.tree_sum.restype = None
    return library


@functools.cache
def _processor_flags() -> frozenset[str]:
    """The instruction sets of this processor, as Linux names them; elsewhere unknown, so none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())

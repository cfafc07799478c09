"""The kernels under other compilers, another processor and sanitizers; and in a wheel."""

from __future__ import annotations

import math
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from lenet_dist.kernels import build, native
from tests.processes import ROOT
from tests.test_native import MEAN, STD, VARIANTS, samples, weights

pytestmark = pytest.mark.processes
SHARDS, IMAGES = 5, 19


def needs(tool: str) -> str:
    """A compiler or an emulator's path."""
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"needs {tool}")
    return found


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver's input."""
    pixels, labels = samples(SHARDS * IMAGES)
    path = tmp_path_factory.mktemp("driver") / "input"
    tensors = (weights(), pixels, labels)
    numbers = b"".join(tensor.numpy().tobytes() for tensor in tensors)
    path.write_bytes(struct.pack("=3i", SHARDS, IMAGES, 3) + numbers)
    return path


@pytest.fixture(scope="module")
def expected() -> bytes:
    """The driver's output."""
    pixels, labels = samples(SHARDS * IMAGES)
    rows = native.shard_gradients(
        weights(), pixels, labels, SHARDS, mean=MEAN, std=STD, smoothing=0.1, batch_size=len(pixels)
    )
    logits = native.logits(weights(), pixels, mean=MEAN, std=STD)
    size = len(pixels) * 28 * 28
    images = torch.from_numpy(weights().numpy().view(np.uint8)[:size]).view(-1, 28, 28)
    distorted = native.distort(
        images, labels, stream=12345, strength=0.9, rotate=math.degrees(0.2), translate=0.1,
        scale=0.1, shear=0.1, elastic=0.05,
    )  # fmt: skip
    parts = (rows, native.tree_sum(rows.repeat(8, 1)), logits, distorted)
    return b"".join(part.numpy().tobytes() for part in parts)


def outcome(
    folder: Path,
    given: Path,
    variant: str,
    compiler: list[str],
    *flags: str,
    run: tuple[str, ...] = (),
) -> bytes:
    """What the driver says, compiled so; a sanitizer's finding fails."""
    driver, output = folder / "driver", folder / "output"
    build.run_compiler(compiler, variant, driver, *flags, str(ROOT / "tests/kernel_driver.cpp"))
    loud = {
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1",
    }
    done = subprocess.run(
        [*run, str(driver), str(given), str(output)],
        capture_output=True, text=True, timeout=300, env=os.environ | loud,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return output.read_bytes()


def test_another_compiler_gives_the_same_bits(tmp_path: Path, given: Path, expected: bytes) -> None:
    assert outcome(tmp_path, given, VARIANTS[0], [needs("clang++")]) == expected


def test_arm_gives_the_same_bits(tmp_path: Path, given: Path, expected: bytes) -> None:
    compiler, emulator = needs("aarch64-linux-gnu-g++"), needs("qemu-aarch64")
    found = outcome(tmp_path, given, "aarch64", [compiler], "-static", run=(emulator,))
    assert found == expected


@pytest.mark.parametrize("kind", ["address,undefined", "thread"])
def test_sanitizers_find_nothing(tmp_path: Path, given: Path, expected: bytes, kind: str) -> None:
    flags = ("-O1", "-g", f"-fsanitize={kind}", "-fno-sanitize-recover=all")
    assert outcome(tmp_path, given, VARIANTS[0], [needs("g++")], *flags) == expected


def wheel(folder: Path, **environment: str) -> list[str]:
    """The libraries in the package's wheel."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--quiet"]
    copy = folder / "source"
    shutil.copytree(
        ROOT,
        copy,
        ignore=shutil.ignore_patterns(".*", "*.so", "runs", "data", "*.egg-info", "build"),
    )
    shutil.copytree(ROOT / "lenet_dist/data", copy / "lenet_dist/data", dirs_exist_ok=True)
    subprocess.run([*command, "."], cwd=copy, check=True, env=os.environ | environment)
    [path] = copy.glob("*.whl")
    return [Path(name).name for name in zipfile.ZipFile(path).namelist() if name.endswith(".so")]


def test_a_wheel_has_every_variant(tmp_path: Path) -> None:
    variants = build.variants_of_machine()
    assert sorted(wheel(tmp_path)) == sorted(build.library(name).name for name in variants)


def test_without_a_compiler_the_package_installs_without_kernels(tmp_path: Path) -> None:
    assert wheel(tmp_path, CXX=str(tmp_path / "none")) == []

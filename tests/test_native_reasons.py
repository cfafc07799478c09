"""Whether there is a kernel to use, and if not, why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lenet_dist.kernels import build, native


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder in the place of the package's libraries."""
    monkeypatch.setattr(build, "library", lambda name: tmp_path / name)
    native.variants.cache_clear()
    yield tmp_path
    native.variants.cache_clear()


def test_without_a_library_there_is_a_reason(installed: Path) -> None:
    assert native.variant() is None
    assert "install g++" in str(native.reason())
    assert "make setup" in str(native.reason())


def test_a_library_of_another_source_is_not_used(installed: Path) -> None:
    for name in build.variants_of_machine():
        (installed / name).write_bytes(b"of yesterday")
    assert native.variant() is None
    assert "another version" in str(native.reason())


def test_a_processor_without_fused_multiply_add_has_no_kernel(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "_processor_flags", lambda: frozenset({"sse4_2", "avx"}))
    assert native.variant() is None
    assert "AVX2" in str(native.reason())


def test_what_is_missing_or_old_is_built(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(build, "compile_variant", lambda name, _: made.append(name))
    build.main()
    assert made == list(build.variants_of_machine())
    for name in made:
        (installed / name).write_bytes(build.fingerprint().encode())
    build.main()
    assert made == list(build.variants_of_machine())

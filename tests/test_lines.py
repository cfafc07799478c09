"""metrics.jsonl and its kind: what a kill cut short is dropped, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from lenet_dist.exits import RequestError
from lenet_dist.run_dir.lines import LinesFile, Tail

GOOD = [{"step": step, "kind": "train"} for step in range(4)]


@pytest.fixture
def lines(tmp_path: Path) -> LinesFile:
    file = LinesFile(tmp_path / "metrics.jsonl")
    for line in GOOD:
        file.write(line)
    return file


@pytest.mark.parametrize("cut", [b'{"step": 4, "kin', b"\xff\x00", b'{"kind": "train"}', b"3"])
def test_a_last_line_that_was_cut_short_is_dropped(lines: LinesFile, cut: bytes) -> None:
    with open(lines.path, "ab") as file:
        file.write(cut)
    assert lines.read() == GOOD
    lines.keep(lambda line: True)
    lines.write({"step": 4})
    assert lines.read() == [*GOOD, {"step": 4}]


def test_a_last_line_that_lacks_only_its_newline_is_kept(lines: LinesFile) -> None:
    lines.path.write_bytes(lines.path.read_bytes().removesuffix(b"\n"))
    lines.keep(lambda line: True)
    assert lines.path.read_bytes().count(b"\n") == len(lines.read()) == len(GOOD)


def test_a_file_that_can_not_be_read_is_named(lines: LinesFile) -> None:
    lines.path.unlink()
    lines.path.mkdir()
    with pytest.raises(RequestError, match=f"{lines.path}: Is a directory"):
        lines.read()


@pytest.mark.parametrize("damage", [b"\x00" * 20, b"junk", b"[1]", b'{"step": 1, "ki', b""])
@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_damaged_line_before_good_ones_is_refused_by_its_number_and_nothing_is_lost(
    lines: LinesFile, damage: bytes, number: int
) -> None:
    content = lines.path.read_bytes().split(b"\n")
    content[number - 1] = damage
    lines.path.write_bytes(b"\n".join(content))
    for read in (lines.read, lambda: lines.keep(lambda line: True), Tail(lines.path).read):
        with pytest.raises(RequestError, match=f"{lines.path}, line {number}: damaged"):
            read()
    assert lines.path.read_bytes() == b"\n".join(content)

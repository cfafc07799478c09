"""A file is written whole or not at all, whoever else writes it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lenet_dist.files import write_atomically


def test_of_writers_of_one_file_at_once_one_wins_and_none_fails(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    contents = [bytes([writer]) * 200_000 for writer in range(8)]
    with ThreadPoolExecutor(len(contents)) as pool:
        for _ in range(5):
            list(pool.map(lambda content: write_atomically(file, content), contents))
            assert file.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [file]

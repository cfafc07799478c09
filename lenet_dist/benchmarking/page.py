"""The part of a page that is made from measurements."""

from __future__ import annotations

import re
from pathlib import Path


def between(mark: str) -> re.Pattern[str]:
    """The place of the lines between ``<!-- MARK -->`` and ``<!-- /MARK -->``."""
    return re.compile(rf"(?<=<!-- {mark} -->\n).*(?=\n<!-- /{mark} -->)", re.DOTALL)


def put(page: Path, place: re.Pattern[str], content: str) -> None:
    """Replace what is in a page at a place, of which it must have one."""
    text, count = place.subn(lambda _: content, page.read_text(encoding="utf-8"))
    assert count == 1, f"{page}: {count} places for {place.pattern}"
    page.write_text(text, encoding="utf-8")

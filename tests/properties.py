"""How hypothesis runs here: the same examples each time, and no deadline on a busy machine."""

from __future__ import annotations

from hypothesis import settings

PROPERTY = settings(max_examples=25, deadline=None, derandomize=True, database=None)

"""The preflight where only files can be renamed: what test_preflight starts."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from lenet_dist import preflight


def main(arguments: list[str]) -> None:
    rename = os.rename

    def refuse_folders(old: str, new: str) -> None:
        if Path(old).is_dir():
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        rename(old, new)

    os.rename = refuse_folders  # type: ignore[assignment]
    preflight.main(arguments)

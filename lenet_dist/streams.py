"""Standard streams that can't break a command: closed ones, full disks, broken pipes, encodings."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any


class OutputLost(Exception):
    """What a command prints can't be written any more. The text says why."""


def guard_standard_streams() -> None:
    """Let no standard stream end a command with a traceback.

    What can't be printed to stdout raises OutputLost, once; a character that the encoding lacks is
    printed as an escape.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # The shell has closed it (`>&-`). Otherwise the next file that is opened would take its
            # number, and get what is printed.
            null = os.open(os.devnull, os.O_RDWR)  # The lowest number that is free: its own.
            os.set_inheritable(null, True)
            setattr(sys, name, open(null, mode, closefd=False))  # noqa: SIM115 (stays open)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        raw = _Output(stream.fileno(), is_answer=name == "stdout")
        guarded = io.TextIOWrapper(
            io.BufferedWriter(raw), encoding=stream.encoding, errors="backslashreplace",
            line_buffering=name == "stderr" or stream.isatty(),
        )  # fmt: skip
        setattr(sys, name, guarded)


def go_on_without_output() -> None:
    """From now on stdout only tells what is done: if it can't be written, it is dropped, with one
    warning."""
    _Output.is_optional = True


class _Output(io.RawIOBase):
    """The file behind stdout or stderr. What can't be written is dropped."""

    is_optional = False

    def __init__(self, descriptor: int, *, is_answer: bool) -> None:
        self._descriptor = descriptor
        self._is_answer = is_answer
        self._is_lost = False

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Write some of the data, or drop all of it. Gives how many bytes that are."""
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            select.select([], [self._descriptor], [])
            return 0
        except OSError as error:
            if self._is_answer and not self._is_lost:
                self._is_lost = True
                is_closed = error.errno == errno.EPIPE
                reason = f"can't write to stdout: {error.strerror}"
                reason = "stdout was closed (broken pipe)" if is_closed else reason
                if not self.is_optional:
                    raise OutputLost(reason) from None
                print(f"warning: {reason}; the job goes on", file=sys.stderr, flush=True)
            return len(data)

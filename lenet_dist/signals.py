"""Signals that are heard whatever the main thread does.

Python handles a signal in the main thread, between two of its instructions. A main thread that
waits in a library for another process gets there too late.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from lenet_dist.system import is_notebook

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""What asks a process to stop. A terminal that is closed sends SIGHUP."""

_REMIND_SECONDS = 1.0


def heard() -> list[signal.Signals]:
    """The signals that ask this process to stop. nohup ignores SIGHUP for what it starts."""
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [n for n in _STOP_SIGNALS if n != signal.SIGHUP or not is_ignored]


class Listener:
    """Hears signals from `listen` to `close`. What it does with one, subclasses say."""

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}
        self._previous_pipe = -1
        self._pipe = -1

    def hear(self, number: int) -> None:
        """Called in the main thread when it is in Python."""
        raise NotImplementedError

    def remind(self, number: int) -> None:
        """Called a second after a signal, in another thread: the main one may not have heard it."""
        raise NotImplementedError

    def insist(self) -> None:
        """Called at once at the second SIGINT, in another thread."""
        raise NotImplementedError

    def listen(self, *numbers: int) -> None:
        """Hear these signals from now on."""
        self._previous = {number: signal.signal(number, self._on_signal) for number in numbers}
        if is_notebook():  # It holds more than this run, so no other thread may end it.
            return
        reader, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        self._previous_pipe = signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False)
        threading.Thread(target=self._follow, args=(reader,), daemon=True).start()

    def close(self) -> None:
        """Leave the signals to those who heard them before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._pipe >= 0:
            signal.set_wakeup_fd(self._previous_pipe)
            os.close(self._pipe)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.hear(number)

    def _follow(self, reader: int) -> None:
        """Read each signal's number, which Python's C handler writes into the pipe at once."""
        interrupts = 0
        while numbers := os.read(reader, 64):
            for number in filter(self._is_handled, {*numbers}):
                later = threading.Timer(_REMIND_SECONDS, self._remind, [number])
                later.daemon = True
                later.start()
            interrupts += numbers.count(signal.SIGINT)
            if interrupts > 1 and self._is_handled(signal.SIGINT):
                self.insist()
        os.close(reader)

    def _remind(self, number: int) -> None:
        if self._is_handled(number):
            self.remind(number)

    def _is_handled(self, number: int) -> bool:
        """Whether nobody else has taken the signal over."""
        return signal.getsignal(number) == self._on_signal

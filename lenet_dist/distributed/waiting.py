"""How long this process waits for another one, not counting the time that it was itself suspended.

A scheduler may suspend all processes of a job for hours (SLURM's SUSPEND, Ctrl-Z). The timeouts of
torch's gloo count those hours, and end the job as soon as it is resumed. So gloo gets `NO_LIMIT`,
and a thread keeps the limit: it counts its own ticks, and a process that is suspended has none.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import psutil

from lenet_dist.exits import LostProcess, leave

NO_LIMIT = timedelta(days=1000)
_TICK_SECONDS = 0.5
_END_SECONDS = 10.0
_WAITING = (f"{os.sep}torch{os.sep}distributed{os.sep}", f"{os.sep}torch{os.sep}autograd{os.sep}")
"""Where the calling thread is while a collective, or DDP's within a backward pass, waits."""


def limit_waits(seconds: float) -> None:
    """From now on, let no wait of the calling thread for another process last longer than that.

    The wait then fails as it does when the other process is lost: its connections are shut down.
    """
    waiting = threading.get_ident()
    threading.Thread(target=_watch, args=(waiting, seconds), daemon=True).start()


def _watch(waiting: int, seconds: float) -> None:
    place, since = None, 0.0
    while True:
        began = time.monotonic()
        time.sleep(_TICK_SECONDS)
        elapsed = time.monotonic() - began
        now = _place(sys._current_frames().get(waiting))
        if now is None or now != place:
            place, since = now, 0.0
            continue
        # A tick that took much longer is one in which this process was suspended.
        since += elapsed if elapsed < 2 * _TICK_SECONDS else _TICK_SECONDS
        if since > seconds + _END_SECONDS:
            leave(LostProcess(f"waited for another process for {seconds} s"))
        if since > seconds:
            _shut_down_connections()


def _place(frame: Any) -> tuple[int, int] | None:
    """The call that a thread is waiting in, the same as long as it waits there; None elsewhere."""
    if frame is None or not any(part in frame.f_code.co_filename for part in _WAITING):
        return None
    return id(frame), frame.f_lasti


def _shut_down_connections() -> None:
    for connection in psutil.Process().net_connections("tcp"):
        if connection.status == psutil.CONN_ESTABLISHED:
            with suppress(OSError), socket.socket(fileno=os.dup(connection.fd)) as shared:
                shared.shutdown(socket.SHUT_RDWR)

"""How long this process waits for another one, not counting the time that it was itself suspended.

A scheduler may suspend all processes of a job for hours (SLURM's SUSPEND, Ctrl-Z). The timeouts of
torch's gloo count those hours, and end the job as soon as it is resumed. So gloo gets `NO_LIMIT`,
and a thread keeps the limit: it counts its own ticks, and a process that is suspended has none.

On a GPU a lost process shows first wherever this one reads a number, in no collective at all: a
replayed graph's collectives have no timeout. NCCL's, for the others, ends a process by SIGABRT.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil

from lenet_dist.exits import LostProcess, leave

NO_LIMIT = timedelta(days=1000)
_TICK_SECONDS = 0.5
_END_SECONDS = 10.0
_RECORD_SECONDS = 5.0
_WAITING = tuple(
    f"{os.sep}torch{os.sep}{part}{os.sep}" for part in ("distributed", "autograd", "cuda")
)
"""Where the calling thread is while a collective, or DDP's within a backward pass, or a GPU's own
wait lasts."""
_TRAINING = f"{os.sep}lenet_dist{os.sep}train{os.sep}trainer.py"
_agreements = 0


def limit_waits(seconds: float, *, on_gpu: bool) -> None:
    """From now on, let no wait of the calling thread for another process last longer than that.

    The wait then fails as it does when the other process is lost: its connections are shut down.
    `on_gpu`: any call within training may be such a wait, and the process ends.
    """
    waiting = threading.get_ident()
    threading.Thread(target=_watch, args=(waiting, seconds, on_gpu), daemon=True).start()


def agreed() -> None:
    """Say that all processes have just agreed on something: none waits for another one."""
    global _agreements
    _agreements += 1


def this_rank() -> str:
    """This process, as messages name it."""
    return f"rank {os.environ.get('RANK', '0')} on {socket.gethostname()}"


def lost(seconds: float, why: str) -> LostProcess:
    """What to raise when another process is gone, or was waited for longer than `seconds`."""
    return LostProcess(
        f"{this_rank()} lost another process, or waited for it longer than"
        f" compute.timeout_seconds={seconds} ({why}); run the same command again: a run resumes"
        " from its last checkpoint"
    )


def _watch(waiting: int, seconds: float, on_gpu: bool) -> None:
    place, since = None, 0.0
    while True:
        began = time.monotonic()
        time.sleep(_TICK_SECONDS)
        elapsed = time.monotonic() - began
        now = _place(sys._current_frames().get(waiting), on_gpu)
        if now is None or now != place:
            place, since = now, 0.0
            continue
        # A tick that took much longer is one in which this process was suspended.
        since += elapsed if elapsed < 2 * _TICK_SECONDS else _TICK_SECONDS
        if since > seconds + _END_SECONDS:
            if on_gpu:
                keeper = threading.Thread(target=_keep_flight_record, daemon=True)
                keeper.start()
                keeper.join(_RECORD_SECONDS)
            leave(lost(seconds, "it was still silent then"))
        if since > seconds and not on_gpu:
            _shut_down_connections()


def _place(frame: Any, on_gpu: bool) -> tuple[int, int, int] | None:
    """The call that a thread is waiting in, the same as long as it waits there; None elsewhere."""
    if frame is None:
        return None
    may_wait = any(part in frame.f_code.co_filename for part in _WAITING)
    caller = frame
    while on_gpu and not may_wait and caller is not None:
        may_wait = caller.f_code.co_filename.endswith(_TRAINING)
        caller = caller.f_back
    # A later call may have the same frame's memory: an agreement tells them apart.
    return (id(frame), frame.f_lasti, _agreements) if may_wait else None


def _keep_flight_record() -> None:
    """Write what NCCL's flight recorder has seen, where it would at NCCL's own, later timeout."""
    import torch

    if prefix := os.environ.get("TORCH_FR_DUMP_TEMP_FILE"):
        file = Path(prefix + os.environ.get("RANK", "0"))
        file.write_bytes(torch._C._distributed_c10d._dump_nccl_trace())  # type: ignore[attr-defined]


def _shut_down_connections() -> None:
    for connection in psutil.Process().net_connections("tcp"):
        if connection.status == psutil.CONN_ESTABLISHED:
            with suppress(OSError), socket.socket(fileno=os.dup(connection.fd)) as shared:
                shared.shutdown(socket.SHUT_RDWR)

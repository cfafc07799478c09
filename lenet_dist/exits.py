"""How a command reads its request, and how its outcome becomes an exit code."""

from __future__ import annotations

import argparse
import errno
import faulthandler
import gc
import io
import json
import os
import re
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import psutil

from lenet_dist.signals import Listener

DONE = 0
FAILED = 1
WRONG_REQUEST = 2
STOPPED = 75
"""EX_TEMPFAIL of sysexits.h: run the same command again to continue."""
_INTERRUPTED = 128 + signal.SIGINT
_OF_A_PATH = {
    errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EPERM, errno.EROFS,
}  # fmt: skip
"""Errors by which a path that was named can't be used."""
_TORCHRUN = re.compile(r"(^|/)(torchrun|accelerate)$|torch[./]distributed[./](run|launch)\b")
"""A word of its command line."""
_BINDING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
_OBJECTS_BETWEEN_COLLECTIONS = 100_000
"""Python's 700 cost a tenth of the imports, which make objects that stay and hardly a cycle."""


MPI_RANKS = (
    (
        "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)  # fmt: skip
"""What mpirun tells its processes: rank, world size, and both on this machine; by Open MPI's names,
and by those of MPICH and Intel MPI."""


class RequestError(ValueError):
    """The user's mistake: config, arguments, data or environment. Its text is the whole message,
    on one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class NodeError(RequestError):
    """Something is wrong on one node. The text names the node, and each process prints its own."""


class RunFailed(RuntimeError):
    """Training can't go on. The text says why, for example divergence or a full disk."""


class LostProcess(RunFailed):
    """A peer was killed, stopped, or never came."""


class Stopped(Exception):
    """A stop that was requested; everything needed to continue is on disk.

    `for_good`: whoever asked does not want a launcher to start the job again.
    """

    def __init__(self, message: str, *, for_good: bool = False) -> None:
        super().__init__(message)
        self.for_good = for_good


Outcome = RequestError | RunFailed | Stopped
"""How a command may end, besides well."""


def is_main_process() -> bool:
    """Whether this process speaks for the job: rank 0, or the only one, by the launcher's
    variables."""
    of_launchers = [("RANK", "WORLD_SIZE"), *MPI_RANKS, ("SLURM_PROCID", "SLURM_NTASKS")]
    known = next((names for names in of_launchers if names[1] in os.environ), of_launchers[0])
    rank, world_size = (os.environ.get(name) for name in known[:2])
    return world_size in (None, "", "0", "1") or rank in (None, "", "0")


def run(main: Callable[[list[str]], None]) -> NoReturn:
    """Run a command on sys.argv and exit with the code of its outcome.

    SIGQUIT prints the stack of each thread and changes nothing else.
    """
    _open_standard_streams()
    _guard_standard_streams()
    _unbind_threads()
    faulthandler.register(signal.SIGQUIT)
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        _Interrupt().listen(signal.SIGINT)
    outcome: Outcome | int = DONE
    try:
        with paths_named():
            main(sys.argv[1:])
        sys.stdout.flush()
    except (RequestError, RunFailed, Stopped) as error:
        outcome = error
    except KeyboardInterrupt:
        outcome = _INTERRUPTED
    except SystemExit as end:  # Of argparse, after --help.
        outcome = end.code if isinstance(end.code, int) else DONE
        try:
            sys.stdout.flush()
        except RunFailed as error:
            outcome = error
    leave(outcome)


def leave(outcome: Outcome | int) -> NoReturn:
    """End the process, from any thread, with an exit code or with that of an outcome, told first.

    Not by sys.exit: Python's finalization waits for peers that are gone, and sometimes aborts when
    a thread of torch.distributed needs the interpreter while it is shutting down.
    """
    code = outcome if isinstance(outcome, int) else _end(outcome)
    with suppress(RunFailed):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class _Interrupt(Listener):
    """Ctrl-C: KeyboardInterrupt where the main thread hears it, and the process's end elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self._is_heard = False

    def hear(self, number: int) -> None:
        self._is_heard = True
        raise KeyboardInterrupt

    def remind(self, number: int) -> None:
        if not self._is_heard:
            leave(_INTERRUPTED)

    def insist(self) -> None:
        leave(_INTERRUPTED)


def _open_standard_streams() -> None:
    """Where a shell has closed one (`>&-`), let it lead nowhere. Otherwise the next file that is
    opened takes its number, and what is printed goes into that file."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)  # The lowest number that is free: its own.
            os.set_inheritable(nowhere, True)
            setattr(sys, name, open(nowhere, mode, closefd=False))  # noqa: SIM115 (stays open)


def _guard_standard_streams() -> None:
    """Let neither a stream that can't be written nor a character that the terminal's encoding lacks
    end a command with a traceback."""
    for name, is_answer in (("stdout", True), ("stderr", False)):
        stream = getattr(sys, name)
        guarded = io.TextIOWrapper(
            io.BufferedWriter(_Output(stream.fileno(), is_answer)),
            encoding=stream.encoding, errors="backslashreplace",
            line_buffering=not is_answer or stream.isatty(),
        )  # fmt: skip
        setattr(sys, name, guarded)


def _unbind_threads() -> None:
    """Let compute.threads alone decide on threads. torch's OpenMP would bind the process that
    imports it to one core, and with it what that process starts."""
    asked = [f"{name}={os.environ.pop(name)}" for name in _BINDING if os.environ.get(name)]
    has_affinity = hasattr(os, "sched_getaffinity")  # Not on macOS.
    is_bound = has_affinity and len(os.sched_getaffinity(0)) == 1 < (os.cpu_count() or 1)
    if asked and is_bound and is_main_process():
        say = f"warning: this process may use one core only: unset {asked[0]} before the launcher"
        print(say, file=sys.stderr, flush=True)


def go_on_without_output() -> None:
    """From now on what is printed is no answer, only word of what is done: if it can't be written,
    it is dropped, with one warning."""
    _Output.is_answered_elsewhere = True


class _Output(io.RawIOBase):
    """The file behind stdout or stderr. What can't be written is dropped; if it is the command's
    answer, that raises RunFailed, once."""

    is_answered_elsewhere = False

    def __init__(self, descriptor: int, is_answer: bool) -> None:
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
        """Write some of it, or drop all of it. Gives how many bytes that are."""
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            select.select([], [self._descriptor], [])
            return 0
        except OSError as error:
            if self._is_answer and not self._is_lost:
                self._is_lost = True
                nobody = "nobody reads the output any more"
                text = nobody if error.errno == errno.EPIPE else f"can't print: {error.strerror}"
                if not self.is_answered_elsewhere:
                    raise RunFailed(text) from None
                print(f"warning: {text}; the job goes on", file=sys.stderr, flush=True)
            return len(data)


@contextmanager
def paths_named() -> Iterator[None]:
    """Raise RequestError for a path that can't be used, naming it and the reason."""
    try:
        yield
    except OSError as error:
        if error.errno not in _OF_A_PATH or not error.filename:
            raise
        raise RequestError(f"{error.filename}: {error.strerror}") from None


def _end(outcome: Outcome) -> int:
    """Say how the command ended, and end a launcher that would start it again in vain. Gives the
    exit code."""
    tell(outcome)
    _tell_torchrun(outcome)
    if is_elastic() and not _may_be_mended_by_restart(outcome) and (found := launcher()):
        with suppress(psutil.Error):
            found.terminate()
    return _said_and_code(outcome)[1]


def is_elastic() -> bool:
    """Whether a torchrun that restarts failed processes started this one."""
    return os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") not in ("", "0")


def launcher() -> psutil.Process | None:
    """The torchrun that started this process, maybe through scripts; None if there is none.

    What it starts has its variables; it has not. A notebook may launch as well, but is not to be
    ended.
    """
    with suppress(psutil.Error):
        for parent in psutil.Process().parents():
            if "TORCHELASTIC_RUN_ID" not in parent.environ():
                is_torchrun = any(_TORCHRUN.search(word) for word in parent.cmdline())
                return parent if is_torchrun else None
    return None


def _may_be_mended_by_restart(outcome: Exception) -> bool:
    match outcome:
        case LostProcess():
            return True
        case Stopped():
            return not outcome.for_good
        case _:
            return False


def tell(outcome: Outcome) -> None:
    """Print an outcome's text, once. Call it early if there is still something to wait for."""
    everywhere = isinstance(outcome, NodeError | LostProcess)
    if outcome not in _told and (everywhere or is_main_process()):
        print(_said_and_code(outcome)[0], file=sys.stderr, flush=True)
    _told.append(outcome)


_told: list[Exception] = []


def _tell_torchrun(outcome: Outcome) -> None:
    """Have torchrun, which prints a report of its own after this, repeat the text at its end."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        extra = {"timestamp": str(int(time.time()))}
        message = {"message": _said_and_code(outcome)[0], "extraInfo": extra}
        with suppress(OSError):
            Path(file).write_text(json.dumps({"message": message}), encoding="utf-8")


def _said_and_code(outcome: Outcome) -> tuple[str, int]:
    match outcome:
        case RequestError():
            return f"error: {outcome}", WRONG_REQUEST
        case Stopped():
            return str(outcome), STOPPED
        case _:
            return f"failed: {outcome}", FAILED


class ArgumentParser(argparse.ArgumentParser):
    """argparse that raises RequestError for its errors, and takes ``key=value`` beside options."""

    def __init__(self, **keywords: Any) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(formatter_class=formatter, allow_abbrev=False, **keywords)

    def print_help(self, file: Any = None) -> None:
        """Print the help once, however many processes there are."""
        if is_main_process():
            super().print_help(file)

    def error(self, message: str) -> NoReturn:
        """Raise RequestError, where argparse would print its usage and exit."""
        raise RequestError(f"{message}; see {self.prog} --help")

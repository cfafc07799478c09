"""How a command reads its arguments, and how its outcome becomes an exit code and one message."""

from __future__ import annotations

import argparse
import errno
import faulthandler
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import psutil

from lenet_dist.launchers import (
    find_torchrun,
    is_elastic,
    is_followed_by_traceback,
    is_main_process,
    tell_torchrun,
)
from lenet_dist.signals import Listener
from lenet_dist.streams import OutputLost, guard_standard_streams

DONE = 0
STOPPED = 75
"""EX_TEMPFAIL of sysexits.h: run the same command again to continue."""
_INTERRUPTED = 128 + signal.SIGINT
_PATH_ERRORS = {
    errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EPERM, errno.EROFS,
}  # fmt: skip
"""Errors by which a path that was named can't be used."""
_BINDING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
_OBJECTS_BETWEEN_COLLECTIONS = 100_000
"""Python's 700 cost a tenth of the imports, which make objects that stay and hardly a cycle."""


class RequestError(ValueError):
    """The user's mistake: config, arguments, data or environment. Its text is the whole message,
    on one line."""

    label, code = "error: ", 2

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class NodeError(RequestError):
    """Something is wrong on one node. The text names the node, and each process prints its own."""


class RunFailed(RuntimeError):
    """Training can't go on. The text says why, for example divergence or a full disk."""

    label, code = "failed: ", 1


class LostProcess(RunFailed):
    """A peer was killed, stopped, or never came."""


class Stopped(Exception):
    """A stop that was requested; everything needed to continue is on disk.

    `for_good`: whoever requested it does not want a launcher to start the job again.
    """

    label, code = "", STOPPED

    def __init__(self, message: str, *, for_good: bool = False) -> None:
        super().__init__(message)
        self.for_good = for_good


Outcome = RequestError | RunFailed | Stopped
"""How a command may end, besides well."""


def run(main: Callable[[list[str]], None]) -> NoReturn:
    """Run a command on sys.argv and exit with the code of its outcome.

    SIGQUIT prints the stack of each thread and changes nothing else.
    """
    guard_standard_streams()
    _unbind_threads()
    faulthandler.register(signal.SIGQUIT)
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        _Interrupt().listen(signal.SIGINT)
    outcome: Outcome | int = DONE
    try:
        try:
            with paths_named():
                main(sys.argv[1:])
        except SystemExit as end:  # Of argparse, after --help.
            outcome = end.code if isinstance(end.code, int) else DONE
        sys.stdout.flush()
    except (RequestError, RunFailed, Stopped) as error:
        outcome = error
    except OutputLost as error:
        outcome = RunFailed(str(error))
    except KeyboardInterrupt:
        outcome = _INTERRUPTED
    leave(outcome)


def leave(outcome: Outcome | int) -> NoReturn:
    """End the process, from any thread, with an exit code or with that of an outcome, told first.

    Not by sys.exit: Python's finalization waits for peers that are gone, and sometimes aborts when
    a thread of torch.distributed needs the interpreter while it is shutting down.
    """
    code = outcome if isinstance(outcome, int) else _end(outcome)
    with suppress(OutputLost):
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


def _unbind_threads() -> None:
    """Let compute.threads alone decide on threads. torch's OpenMP would bind the process that
    imports it to one core, and with it what that process starts."""
    set_here = [f"{name}={os.environ.pop(name)}" for name in _BINDING if os.environ.get(name)]
    has_affinity = hasattr(os, "sched_getaffinity")  # Not on macOS.
    is_bound = has_affinity and len(os.sched_getaffinity(0)) == 1 < (os.cpu_count() or 1)
    if set_here and is_bound and is_main_process():
        text = f"this process may use one core only: unset {set_here[0]} before the launcher"
        print(f"warning: {text}", file=sys.stderr, flush=True)


@contextmanager
def paths_named() -> Iterator[None]:
    """Raise RequestError for a path that can't be used, naming it and the reason."""
    try:
        yield
    except OSError as error:
        if error.errno not in _PATH_ERRORS or not error.filename:
            raise
        raise RequestError(f"{error.filename}: {error.strerror}") from None


def tell(outcome: Outcome) -> None:
    """Print an outcome's text, once. Call it early if there is still something to wait for."""
    everywhere = isinstance(outcome, NodeError | LostProcess)
    if outcome not in _told and (everywhere or is_main_process()):
        print(f"{outcome.label}{outcome}", file=sys.stderr, flush=True)
        if is_followed_by_traceback():
            what = "(the traceback below is accelerate launch's, and tells no more than this)"
            print(what, file=sys.stderr, flush=True)
    _told.append(outcome)


_told: list[Exception] = []


def _end(outcome: Outcome) -> int:
    """Print how the command ended, and end a launcher that would restart it in vain. Gives the exit
    code."""
    tell(outcome)
    tell_torchrun(f"{outcome.label}{outcome}")
    is_stop = isinstance(outcome, Stopped) and not outcome.for_good
    may_restart = is_stop or isinstance(outcome, LostProcess)
    if is_elastic() and not may_restart and (torchrun := find_torchrun()):
        with suppress(psutil.Error):
            torchrun.terminate()
    return outcome.code


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

"""How a command reads its request, and how its outcome becomes an exit code."""

from __future__ import annotations

import argparse
import errno
import faulthandler
import gc
import io
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO

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
_OBJECTS_BETWEEN_COLLECTIONS = 100_000
"""Python's 700 cost a tenth of the imports, which make objects that stay and hardly a cycle."""


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


def is_main_process() -> bool:
    """Whether this process speaks for the job: rank 0, or the only one, by the launcher's
    variables."""
    is_launched = "WORLD_SIZE" in os.environ
    names = ("WORLD_SIZE", "RANK") if is_launched else ("SLURM_NTASKS", "SLURM_PROCID")
    world_size, rank = (os.environ.get(name) for name in names)
    return world_size in (None, "", "0", "1") or rank in (None, "", "0")


def run(main: Callable[[list[str]], None]) -> NoReturn:
    """Run a command on sys.argv and exit with the code of its outcome.

    SIGQUIT prints the stack of each thread and changes nothing else.
    """
    _open_standard_streams()
    _escape_what_the_encoding_lacks()
    faulthandler.register(signal.SIGQUIT)
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    code = DONE
    try:
        with paths_named():
            main(sys.argv[1:])
        sys.stdout.flush()
    except (RequestError, RunFailed, Stopped) as outcome:
        code = _end(outcome)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except BrokenPipeError:
        if not _has_no_reader(sys.stdout):
            raise
        code = _end(RunFailed("nobody reads the output any more"))
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: Python's finalization waits for peers that are gone, and sometimes aborts
    # when a thread of torch.distributed needs the interpreter while it is shutting down.
    os._exit(code)


def _open_standard_streams() -> None:
    """Where a shell has closed one (`>&-`), let it lead nowhere. Otherwise the next file that is
    opened takes its number, and what is printed goes into that file."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)  # The lowest number that is free: its own.
            os.set_inheritable(nowhere, True)
            setattr(sys, name, open(nowhere, mode, closefd=False))  # noqa: SIM115 (stays open)


def _escape_what_the_encoding_lacks() -> None:
    """A character that can't be printed here is no reason to fail. stderr escapes it anyway."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _has_no_reader(stream: TextIO) -> bool:
    """Whether what a stream leads to, such as `head`, has ended."""
    poll = select.poll()
    poll.register(stream, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


@contextmanager
def paths_named() -> Iterator[None]:
    """Raise RequestError for a path that can't be used, naming it and the reason."""
    try:
        yield
    except OSError as error:
        if error.errno not in _OF_A_PATH or not error.filename:
            raise
        raise RequestError(f"{error.filename}: {error.strerror}") from None


def _end(outcome: RequestError | RunFailed | Stopped) -> int:
    """Say how the command ended, and end a launcher that would start it again in vain. Gives the
    exit code."""
    tell(outcome)
    if is_elastic() and not _may_be_mended_by_restart(outcome):
        os.kill(os.getppid(), signal.SIGTERM)  # Ends the launcher.
    return _said_and_code(outcome)[1]


def is_elastic() -> bool:
    """Whether a torchrun that restarts failed processes started this one."""
    return os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") not in ("", "0")


def _may_be_mended_by_restart(outcome: Exception) -> bool:
    match outcome:
        case LostProcess():
            return True
        case Stopped():
            return not outcome.for_good
        case _:
            return False


def tell(outcome: RequestError | RunFailed | Stopped) -> None:
    """Print an outcome's text, once. Call it early if there is still something to wait for."""
    everywhere = isinstance(outcome, NodeError | LostProcess)
    if outcome not in _told and (everywhere or is_main_process()):
        print(_said_and_code(outcome)[0], file=sys.stderr, flush=True)
    _told.append(outcome)


_told: list[Exception] = []


def _said_and_code(outcome: Exception) -> tuple[str, int]:
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

"""What `accelerate launch`, if it started this process, was asked for: by which flag or file."""

from __future__ import annotations

import sys
from argparse import Namespace
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil


@cache
def _asked() -> tuple[list[str], Namespace] | None:
    """The words after `accelerate launch`, and as what it took them; None if it is not there."""
    with suppress(psutil.Error):
        for parent in psutil.Process().parents():
            words = parent.cmdline()
            for place, word in enumerate(words):
                name = Path(word).name
                is_launch = name == "accelerate" and words[place + 1 : place + 2] == ["launch"]
                if is_launch or name == "accelerate-launch":
                    from accelerate.commands.launch import launch_command_parser

                    asked = words[place + 1 + is_launch :]
                    return asked, launch_command_parser().parse_args(asked)
    return None


def source(option: str) -> str:
    """Where an option's value is from: its flag, the launcher's file, or the environment."""
    if (asked := _asked()) is None:
        return "the environment says so"
    words, arguments = asked
    flag = f"--{option}"
    if any(word.partition("=")[0].replace("-", "_") == flag.replace("-", "_") for word in words):
        return f"accelerate launch has it from {flag}"
    from accelerate.commands.config.config_args import default_config_file

    file = arguments.config_file or default_config_file
    return f"accelerate launch has it from {file}"


def warn_of_processes_not_started() -> None:
    """Say that there is one process where `accelerate launch` was asked for more: without a GPU it
    starts one, whatever --num_processes says."""
    if (asked := _asked()) is None:
        return
    count = asked[1].num_processes
    if count and count > 1:
        print(
            f"warning: accelerate launch --num_processes {count} started one process: with --cpu it"
            f" starts no more; for {count} add --multi_gpu in place of --cpu, or use"
            f" torchrun --nproc-per-node {count}",
            file=sys.stderr, flush=True,
        )  # fmt: skip

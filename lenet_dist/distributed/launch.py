"""The `accelerate launch` that started this process, if one did: its flags and its config file."""

from __future__ import annotations

import sys
from argparse import Namespace
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil


@cache
def _command() -> tuple[list[str], Namespace] | None:
    """The words after `accelerate launch`, and their meaning to it; None without it."""
    with suppress(psutil.Error):
        for parent in psutil.Process().parents():
            words = parent.cmdline()
            for place, word in enumerate(words):
                name = Path(word).name
                is_launch = name == "accelerate" and words[place + 1 : place + 2] == ["launch"]
                if is_launch or name == "accelerate-launch":
                    from accelerate.commands.launch import launch_command_parser

                    words = words[place + 1 + is_launch :]
                    return words, launch_command_parser().parse_args(words)
    return None


def source(option: str) -> str:
    """Where an option's value is from: its flag, the launcher's file, or the environment."""
    if (command := _command()) is None:
        return "the environment says so"
    words, arguments = command
    flags = [word.partition("=")[0].lstrip("-").replace("-", "_") for word in words]
    if option in flags:
        return f"accelerate launch has it from --{option}"
    from accelerate.commands.config.config_args import default_config_file

    return f"accelerate launch has it from {arguments.config_file or default_config_file}"


def warn_of_processes_not_started() -> None:
    """Warn that there is one process where `accelerate launch` was told to start more: without a
    GPU it starts one, whatever --num_processes says."""
    command = _command()
    count = command[1].num_processes if command else None
    if count and count > 1:
        print(
            f"warning: accelerate launch --num_processes {count} started one process: with --cpu it"
            f" starts no more; for {count} add --multi_gpu in place of --cpu, or use"
            f" torchrun --nproc-per-node {count}",
            file=sys.stderr, flush=True,
        )  # fmt: skip

"""How the kernels are compiled: a library for each instruction set, all with the same bits.

They know nothing of Python: plain C functions, called through ctypes. `make setup` and pip compile
them where there is a compiler; without one the package does the same work in torch.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCES = sorted(FOLDER.glob("*.cpp"))
FLAGS = [
    "-std=c++17", "-O2", "-fPIC", "-pthread", "-Wall", "-Wextra", "-Wno-psabi",
    "-fno-math-errno",
    # What is to be rounded once is written as an fma; nothing else is.
    "-ffp-contract=off",
]  # fmt: skip
VARIANTS: dict[str, dict[str, list[str]]] = {
    "x86_64": {"x86-64-v4": ["-march=x86-64-v4"], "x86-64-v3": ["-march=x86-64-v3"]},
    "aarch64": {"aarch64": []},
}
"""The instruction sets of each kind of machine, the fastest first, and the flags for them."""


class BuildError(Exception):
    """A kernel can't be compiled: there is no compiler, or it failed."""


def variants_of_machine() -> dict[str, list[str]]:
    """The variants for machines of this kind, and their flags; not each machine can run all."""
    machine = platform.machine().lower()
    return VARIANTS.get({"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine), {})


def library(variant: str, folder: Path = FOLDER) -> Path:
    """The path of a variant's library."""
    return folder / f"lenet5-{variant}.so"


def fingerprint() -> str:
    """A hash of the sources and of this file; a library holds that of what it was made from."""
    files = [*SOURCES, *sorted(FOLDER.glob("*.h")), Path(__file__)]
    parts = [file.read_bytes() for file in files]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def compile_variant(variant: str, target: Path) -> None:
    """Compile the library of a variant into `target`, whole or not at all."""
    # A library that a running job has loaded is replaced, not written over.
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        compiled = Path(folder, target.name)
        run_compiler(default_compiler(), variant, compiled, "-shared")
        os.replace(compiled, target)


def run_compiler(compiler: list[str], variant: str, target: Path, *more: str) -> None:
    """Compile the kernels for a variant, of this kind of machine or another."""
    [chosen] = [of_kind[variant] for of_kind in VARIANTS.values() if variant in of_kind]
    defined = f'-DFINGERPRINT="{fingerprint()}"'
    command = [*compiler, *FLAGS, *chosen, defined, *map(str, SOURCES), *more, "-o", str(target)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise BuildError(f"{compiler[0]}: {error.strerror}") from error
    if done.returncode:
        raise BuildError(f"{shlex.join(command)}\n{done.stderr}")


def default_compiler() -> list[str]:
    """$CXX, or the first of the usual C++ compilers that is installed."""
    if chosen := os.environ.get("CXX"):
        return shlex.split(chosen)
    found = next(filter(shutil.which, ("g++", "clang++", "c++")), None)
    if found is None:
        raise BuildError("no C++ compiler: neither g++ nor clang++ is installed")
    return [found]


def is_current(path: Path) -> bool:
    """Whether a library is there and was made from this source."""
    return path.exists() and fingerprint().encode() in path.read_bytes()


def main() -> None:
    """Compile the libraries that are missing or were made from another source."""
    for variant in variants_of_machine():
        try:
            if not is_current(library(variant)):
                compile_variant(variant, library(variant))
        except BuildError as error:
            print(f"No kernel for {variant}; torch does its work. {error}", file=sys.stderr)


if __name__ == "__main__":
    main()

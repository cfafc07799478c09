"""Compiles the kernels into the package; all else about it is in pyproject.toml."""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

sys.path.insert(0, str(Path(__file__).parent))
from lenet_dist.kernels import build


class BuildKernels(build_ext):
    """Compiles plain libraries instead of extensions of Python; where it can't, does without."""

    def get_ext_filename(self, fullname: str) -> str:
        """The path of a variant's library in the package."""
        *package, variant = fullname.split(".")
        return str(build.library(variant, Path(*package)))

    def build_extension(self, ext: Extension) -> None:
        """Compile a variant."""
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            build.compile_variant(ext.name.split(".")[-1], target)
        except build.BuildError as error:
            raise CompileError(str(error)) from None


setup(
    cmdclass={"build_ext": BuildKernels},
    ext_modules=[
        Extension(f"lenet_dist.kernels.{variant}", sources=[], optional=True)
        for variant in build.variants_of_machine()
    ],
)

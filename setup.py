"""Copies ``configs/`` into a built package, so that an installation finds what a checkout has at its top."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CONFIGS = "configs"


class BuildWithConfigs(build_py):
    """Not for editable installations: these have the checkout."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            copied = Path(self.build_lib) / "carkp" / CONFIGS
            shutil.rmtree(copied, ignore_errors=True)  # of an earlier build, which may have had other files
            shutil.copytree(Path(__file__).parent / CONFIGS, copied)


setup(cmdclass={"build_py": BuildWithConfigs})

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
            shutil.copytree(
                Path(__file__).parent / CONFIGS, Path(self.build_lib) / "carkp" / CONFIGS, dirs_exist_ok=True
            )


setup(cmdclass={"build_py": BuildWithConfigs})

"""Fresh virtual environments, in which a test finds only what it installs."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 600
_OF_THIS_ENVIRONMENT = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Environment:
    """A virtual environment."""

    folder: Path

    @property
    def programs(self) -> Path:
        return self.folder / "bin"

    @property
    def variables(self) -> dict[str, str]:
        """Of a shell in which it is activated; neither this process's environment nor its checkout can be found."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in _OF_THIS_ENVIRONMENT and not name.startswith(("MLFLOW_", "CARKP_"))
        }
        foreign = {str(Path(sys.executable).parent)}
        path = [entry for entry in os.environ["PATH"].split(os.pathsep) if entry not in foreign]
        return {**kept, "PATH": os.pathsep.join([str(self.programs), *path])}

    def run(self, program: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """One of its programs, such as ``python`` or ``carkp``, to its end."""
        words = [str(self.programs / program), *arguments]
        return subprocess.run(
            words, cwd=cwd, env=self.variables, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )

    def install(self, *arguments: str, cwd: Path) -> None:
        """``pip install``."""
        done = self.run("python", "-m", "pip", "install", "--quiet", *arguments, cwd=cwd)
        assert done.returncode == 0, done.stderr

    def distributions(self, cwd: Path) -> set[str]:
        """Names of all that is installed, in lower case with hyphens."""
        code = "import importlib.metadata as m; print(*(d.metadata['Name'] for d in m.distributions()))"
        done = self.run("python", "-c", code, cwd=cwd)
        assert done.returncode == 0, done.stderr
        return {name.lower().replace("_", "-") for name in done.stdout.split()}


def create_environment(folder: Path) -> Environment:
    """With nothing but pip."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=TIMEOUT_S)
    return Environment(folder)

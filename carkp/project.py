"""Location of the project, and of the files in it that a command names."""

import os
import re
from importlib.resources import files
from pathlib import Path

from carkp.config.loading import ConfigError
from carkp.config.paths import expand

PROJECT_FILE = "MLproject"
DATABASE = "mlflow.db"
"""Database of runs in the project, unless MLFLOW_TRACKING_URI names another place."""

_OWN_PROJECT = re.compile(r"^\ufeff?name: *[\"']?carkp\b", re.MULTILINE)


def project_root() -> Path:
    """Return the project around the working directory, else this module's checkout, else the working directory."""
    here = Path.cwd()
    candidates = (here, *here.parents, Path(__file__).resolve().parents[1])
    return next((path for path in candidates if _is_project(path)), here)


def has_no_runs() -> bool:
    """Return whether runs go to the project's own database, and that database does not exist yet."""
    return not os.environ.get("MLFLOW_TRACKING_URI", "").strip() and not (project_root() / DATABASE).exists()


def find_config(name: str) -> Path:
    """Return the path of ``name``: in the working directory, else in the project, else among the installed files.

    ``~`` and ``$NAME`` in it are expanded.

    Raises:
        ConfigError: they cannot be expanded.
    """
    try:
        path = Path(expand(name))
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from error
    if path.is_file() or path.is_absolute():
        return path
    in_project, installed = project_root() / path, Path(str(files("carkp"))) / path
    return installed if installed.is_file() and not in_project.is_file() else in_project


def _is_project(directory: Path) -> bool:
    """Return whether the directory has carkp's own MLproject file; other projects have a file of that name too."""
    try:
        return bool(_OWN_PROJECT.search((directory / PROJECT_FILE).read_text(encoding="utf-8", errors="replace")))
    except OSError:
        return False

"""Where the project lies, and the files in it that a command names."""

import os
import re
from importlib.resources import files
from pathlib import Path

from carkp.config.loading import ConfigError
from carkp.config.paths import expand

PROJECT_FILE = "MLproject"
DATABASE = "mlflow.db"
"""Of runs, in the project, unless MLFLOW_TRACKING_URI names another place."""

_OWN_PROJECT = re.compile(r"^\ufeff?name: *[\"']?carkp\b", re.MULTILINE)


def project_root() -> Path:
    """The carkp project that the working directory lies in, else the checkout that this module lies in, if any."""
    here = Path.cwd()
    candidates = (here, *here.parents, Path(__file__).resolve().parents[1])
    return next((path for path in candidates if _is_project(path)), here)


def has_no_runs() -> bool:
    """Whether runs would be kept in the project's own database, and there is none yet."""
    return not os.environ.get("MLFLOW_TRACKING_URI", "").strip() and not (project_root() / DATABASE).exists()


def find_config(name: str) -> Path:
    """``name`` in the working directory, else in the project, else among the files that an installation brings.

    ``~`` and ``$NAME`` in it are filled in.

    Raises:
        ConfigError: they cannot be.
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
    """Whether carkp's own MLproject file lies there: those of other projects have the same name."""
    try:
        return bool(_OWN_PROJECT.search((directory / PROJECT_FILE).read_text(encoding="utf-8", errors="replace")))
    except OSError:
        return False

"""Files that a configuration or a command names: configurations, targets, searches."""

from pathlib import Path

from carkp.config.loading import ConfigError, load_yaml
from carkp.config.paths import expand
from carkp.deploy.hardware import TargetFile
from carkp.tracking.store import project_root

TARGET_DIR = "configs/targets"


def find_config(name: str) -> Path:
    """``name`` in the working directory, else in the project; ``~`` and ``$NAME`` in it are filled in.

    Raises:
        ConfigError: they cannot be.
    """
    try:
        path = Path(expand(name))
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from error
    return path if path.is_file() or path.is_absolute() else project_root() / path


def load_target(name: str) -> TargetFile:
    """A file of configs/targets without .yaml, or a path.

    Raises:
        ConfigError: there is no such target, or its file is malformed.
    """
    is_path = name.lower().endswith((".yaml", ".yml"))
    return load_yaml(find_config(name if is_path else f"{TARGET_DIR}/{name}.yaml"), TargetFile)

"""The files of targets."""

from carkp.config.loading import load_yaml
from carkp.deploy.hardware import TargetFile
from carkp.project import find_config

TARGET_DIR = "configs/targets"


def load_target(name: str) -> TargetFile:
    """A file of configs/targets without .yaml, or a path.

    Raises:
        ConfigError: there is no such target, or its file is malformed.
    """
    is_path = name.lower().endswith((".yaml", ".yml"))
    return load_yaml(find_config(name if is_path else f"{TARGET_DIR}/{name}.yaml"), TargetFile, "target")

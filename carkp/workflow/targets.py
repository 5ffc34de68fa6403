"""Loading of target files."""

from carkp.config.loading import load_yaml
from carkp.deploy.hardware import TargetFile
from carkp.project import find_config

TARGET_DIR = "configs/targets"


def load_target(name: str) -> TargetFile:
    """Load a target by its name in configs/targets without .yaml, or by a path.

    Raises:
        ConfigError: the target does not exist, or its file is malformed.
    """
    is_path = name.lower().endswith((".yaml", ".yml"))
    return load_yaml(find_config(name if is_path else f"{TARGET_DIR}/{name}.yaml"), TargetFile, "target")

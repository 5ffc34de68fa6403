"""Expansion of ``~`` and environment variables in paths."""

import os
import re

_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([^}]*)\})", re.ASCII)


def expand(text: str) -> str:
    """Expand ``~``, ``~name``, ``$NAME`` and ``${NAME}`` in ``text``. A path that exists literally stays as it is.

    Raises:
        ValueError: a variable is not set, or a user has no home directory; the message says what to do.
    """
    if not (text.startswith("~") or "$" in text) or os.path.lexists(text):
        return text
    for match in _VARIABLE.finditer(text):
        name = match[1] or match[2]
        if not os.environ.get(name):
            raise ValueError(f"the environment variable {name} is not set; set it or write the path out")
    expanded = os.path.expanduser(os.path.expandvars(text))  # noqa: PTH111
    if expanded.startswith("~"):
        raise ValueError(f"there is no home directory {expanded.split('/', 1)[0]}; write the path out")
    return expanded

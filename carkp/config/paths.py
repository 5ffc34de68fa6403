"""Paths as people write them: ``~`` and environment variables filled in."""

import os
import re
from pathlib import Path

_VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})")


def expand(text: str) -> str:
    """``text`` with ``~`` and ``$NAME`` filled in, unless a file of that very name is there.

    Raises:
        ValueError: a variable that is not set, or a user without a home.
    """
    if not (text.startswith("~") or "$" in text) or os.path.lexists(text):
        return text
    for match in _VARIABLE.finditer(text):
        name = match.group(1).strip("{}")
        if not os.environ.get(name):
            raise ValueError(f"the environment variable {name} is not set")
    expanded = os.path.expandvars(text)
    try:
        return str(Path(expanded).expanduser()) if expanded.startswith("~") else expanded
    except RuntimeError as error:
        raise ValueError(f"there is no home directory for {expanded.split('/')[0]}") from error

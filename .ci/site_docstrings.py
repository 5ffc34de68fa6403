"""For the API page of the site: docstrings name code as ``:class:`QConv```, pages as plain code."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`~?([^`]+)`")


class PlainRoles(griffe.Extension):
    """Writes Sphinx's roles in docstrings as code."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value)

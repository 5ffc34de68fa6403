"""YAML as configurations need it: what PyYAML takes silently and people do not mean is refused, with its line."""

import json
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

_ODD_NUMBER = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
"""YAML 1.1 reads 010 as eight and 1:30 as ninety."""

_MERGE_TAG = "tag:yaml.org,2002:merge"
_TAB_HINT = "; YAML indents with spaces, not with tabs"


class YamlError(ValueError):
    """A text that is no YAML, or one that says something else than it seems to; the message names the line."""


class _Loader(yaml.SafeLoader):
    """Safe, and strict where YAML 1.1 or PyYAML surprise."""


def read_yaml(path: Path) -> Any:
    """What a YAML file holds: UTF-8, UTF-16 or UTF-32, with or without a byte order mark, any line ends.

    Raises:
        YamlError: it is not valid.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    encoding = json.detect_encoding(data)  # by the byte order mark and by where zeros are; UTF-8 else
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise YamlError(f"line {line}: not {encoding} text ({error.reason}); save the file as UTF-8") from error
    return parse_yaml(text.removeprefix("\ufeff"))


def parse_yaml(text: str) -> Any:
    """What a YAML text holds.

    Raises:
        YamlError: it is not valid.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        hint = _TAB_HINT if r"'\t'" in str(error) else ""
        raise YamlError(f"{error}{hint}") from error
    except RecursionError as error:
        raise YamlError("nested too deeply") from error
    except ValueError as error:  # of a number or a date that is none, such as 2024-02-31
        raise YamlError(f"a value that cannot be read: {error}; quote it where it is text") from error


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> Any:
    seen: dict[Hashable, int] = {}
    for key_node, _ in node.value:
        if key_node.tag == _MERGE_TAG:
            continue
        key = loader.construct_object(key_node)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise _error(f"a name that YAML reads as {key!r}; quote it", key_node)
        if key in seen:
            raise _error(f"{key!r} is given twice, in lines {seen[key]} and {line}; keep one", key_node)
        seen[key] = line
    return loader.construct_yaml_map(node)


def _construct_number(loader: _Loader, node: yaml.ScalarNode) -> Any:
    text = str(node.value)
    if _ODD_NUMBER.fullmatch(text):
        raise _error(f"{text}: YAML reads this as another number; write it plainly, or quote it", node)
    is_float = node.tag.endswith(":float")
    return loader.construct_yaml_float(node) if is_float else loader.construct_yaml_int(node)


def _error(problem: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_number)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)

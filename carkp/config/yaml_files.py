"""Strict YAML for configurations: text that PyYAML silently reads in an unexpected way is refused, with its line."""

import json
import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

_ODD_NUMBER = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
"""Numbers that YAML 1.1 reads in an unexpected way: 010 as eight and 1:30 as ninety."""

MAX_BYTES = 2**20
"""Limit on a file; PyYAML takes minutes for more."""

MAX_EXPANDED = 2**20
"""Limit on characters and nodes with all aliases expanded: ten lines can stand for billions."""

MAX_DEPTH = 100
"""Limit on nested brackets: PyYAML's time grows with the square of the depth."""

_MERGE_TAG = "tag:yaml.org,2002:merge"
_TAB_HINT = "; YAML indents with spaces, not with tabs"


class YamlError(ValueError):
    """A text that is not valid YAML, or that means something other than it seems to; the message names the line."""


class _PlainLoader(yaml.SafeLoader):
    """A safe loader that limits the memory that a text can take."""

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level >= MAX_DEPTH:
            raise yaml.scanner.ScannerError(None, None, "nested too deeply", self.get_mark())
        super().fetch_flow_collection_start(token)

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _check_expanded(node)
        return node


class _Loader(_PlainLoader):
    """A loader that also refuses unexpected readings of YAML 1.1 and PyYAML."""


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file: UTF-8, UTF-16 or UTF-32, with or without byte order mark, any line ends.

    Raises:
        YamlError: the file is not valid.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise YamlError(f"larger than {MAX_BYTES // 2**20} MiB, the limit of a settings file")
    encoding = json.detect_encoding(data)  # by the byte order mark and the positions of zero bytes; else UTF-8
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise YamlError(f"line {line}: not {encoding} text ({error.reason}); save the file as UTF-8") from error
    return parse_yaml(text.removeprefix("\ufeff"))


def parse_yaml(text: str) -> Any:
    """Return the content of a YAML text.

    Raises:
        YamlError: the text is not valid, or its aliases expand to more than ``MAX_EXPANDED``.
    """
    return _parse(text, _Loader)


def parse_plain_yaml(text: str) -> Any:
    """Parse YAML files of other programs: everything that YAML 1.1 allows is accepted.

    Raises:
        YamlError: the text is not valid, or its aliases expand to more than ``MAX_EXPANDED``.
    """
    return _parse(text, _PlainLoader)


def _parse(text: str, loader: type[yaml.SafeLoader]) -> Any:
    try:
        return yaml.load(text, loader)
    except yaml.YAMLError as error:
        hint = _TAB_HINT if r"'\t'" in str(error) else ""
        raise YamlError(f"{error}{hint}") from error
    except RecursionError as error:
        raise YamlError("nested too deeply") from error
    except (ValueError, AttributeError, IndexError, OverflowError) as error:  # a bad number or date, such as 2024-02-31
        raise YamlError(f"a value that cannot be read: {error}; quote it if it is text") from error


def _check_expanded(root: yaml.Node) -> None:
    """Raise ConstructorError if a node contains itself, or if the aliases expand to too much."""
    sizes: dict[int, int | None] = {}

    def measure(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = None
            sizes[id(node)] = 1 + (len(node.value) if isinstance(node.value, str) else sum(map(measure, _parts(node))))
        size = sizes[id(node)]
        if size is None:
            raise _error("an alias that contains itself", node)
        if size > MAX_EXPANDED:
            raise _error(f"with its aliases expanded, more than {MAX_EXPANDED} characters", node)
        return size

    measure(root)


def _parts(node: yaml.Node) -> Iterator[yaml.Node]:
    for item in node.value:
        yield from item if isinstance(item, tuple) else (item,)


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

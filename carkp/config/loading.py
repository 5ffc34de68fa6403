"""Loading of YAML files with ``base:`` inheritance and ``a.b=c`` overrides as ``ExperimentConfig``."""

import difflib
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from carkp.config.paths import expand
from carkp.config.schema import ExperimentConfig
from carkp.config.yaml_files import YamlError, parse_yaml, read_yaml

Tree = dict[str, Any]
Model = TypeVar("Model", bound=BaseModel)


class ConfigError(Exception):
    """A configuration that cannot be used; the message says where the problem is and what to do."""


def load_config(path: Path, overrides: Iterable[str] = ()) -> ExperimentConfig:
    """Return the validated configuration of a YAML file, with ``a.b=c`` overrides applied last.

    Raises:
        ConfigError: a file is missing or malformed, a name is unknown, or a value is not valid.
    """
    tree = _read_with_base(path, seen=())
    for override in overrides:
        tree = _merge(tree, _parse_override(override))
    return _validated(ExperimentConfig, tree, str(path), "docs/settings.md lists them all")


def load_yaml(path: Path, model: type[Model], what: str) -> Model:
    """Load a YAML file that holds one ``model``; ``what`` names its kind in messages, as ``"target"``.

    Raises:
        ConfigError: the file is missing or malformed, a name is unknown, or a value is not valid.
    """
    return _validated(model, _read_tree(path, what, model), str(path), f"{', '.join(model.model_fields)} are known")


def split_overrides(text: str) -> list[str]:
    """Split ``"a.b=c d.e=f"`` into a list; shell quotes keep spaces together."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"overrides {text!r}: {error}") from error


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested mapping to dotted names: ``{"train": {"lr": 1}}`` -> ``{"<prefix>.train.lr": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping):
            flat |= flatten(value, name)
        else:
            flat[name] = value
    return flat


def dump_yaml(config: ExperimentConfig) -> str:
    """Return the whole configuration as YAML that ``load_config`` can read."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read_with_base(path: Path, seen: tuple[Path, ...]) -> Tree:
    resolved = path.resolve()
    if resolved in seen:
        raise ConfigError(f"{path}: `base:` leads back to the file itself")
    whence = f", which {seen[-1]} names as its `base`" if seen else ""
    tree = _read_tree(path, "configuration", ExperimentConfig, whence)
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{path}: `base` must be the name of a YAML file beside it, got {base!r}")
    return _merge(_read_with_base(_beside(path, base), (*seen, resolved)), tree)


def _beside(path: Path, name: str) -> Path:
    """Return the file ``name`` beside ``path``, or beside the target of ``path`` if that is a link."""
    try:
        name = expand(name)
    except ValueError as error:
        raise ConfigError(f"{path}: `base`: {error}") from error
    candidates = [path.parent / name, path.resolve().parent / name]
    return next((found for found in candidates if found.is_file()), candidates[0])


def _read_tree(path: Path, what: str, model: type[BaseModel], whence: str = "") -> Tree:
    if not path.is_file():
        problem = f"a directory, not a {what} file" if path.is_dir() else f"no such {what} file"
        raise ConfigError(f"{path}: {problem}{whence}; {_files_beside(path, model)}")
    try:
        tree = read_yaml(path)
    except YamlError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected `name: value` lines at the top, got {type(tree).__name__}")
    return tree


def _files_beside(path: Path, model: type[BaseModel]) -> str:
    """Suggest files in place of one that does not exist."""
    found = {other.stem: other.name for other in sorted(path.parent.glob("*.y*ml")) if _may_hold(other, model)}
    if not found:
        return "configs/ holds the ones that come with carkp"
    near = difflib.get_close_matches(path.stem, found, n=1)
    return f"did you mean {found[near[0]]}?" if near else f"{path.parent} holds {', '.join(found.values())}"


def _may_hold(path: Path, model: type[BaseModel]) -> bool:
    """Return whether all top-level names of a YAML file are ``base`` or fields of ``model``."""
    try:
        tree = read_yaml(path)
    except (YamlError, OSError):
        return False
    return isinstance(tree, dict) and set(tree) <= {"base", *model.model_fields}


def _merge(below: Tree, above: Tree) -> Tree:
    """Merge two trees; ``above`` wins. A section with no line in it changes nothing."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, dict) and value is None:
            continue
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _parse_override(text: str) -> Tree:
    name, separator, value = text.partition("=")
    name = name.strip()
    if not separator or not all(name.split(".")):
        raise ConfigError(f"override {text!r}: expected name=value with a dotted name, as in train.lr=1.0e-3")
    try:
        tree = parse_yaml(value) if value else ""
    except YamlError as error:
        raise ConfigError(f"override {text!r}: {value!r} is not valid YAML: {error}") from error
    if not isinstance(tree, str) and name in _text_settings():
        tree = value
    first, *rest = name.split(".")
    for part in reversed(rest):
        tree = {part: tree}
    return {first: tree}


def _text_settings() -> frozenset[str]:
    """Return the dotted names of settings that are text: for them ``name=2024`` means the text "2024"."""
    defaults = flatten(ExperimentConfig().model_dump())
    return frozenset(name for name, value in defaults.items() if isinstance(value, str) and name != "heatmap.window")


def _validated(model: type[Model], tree: Tree, origin: str, known: str) -> Model:
    sections = {name for name, field in model.model_fields.items() if isinstance(field.default, BaseModel)}
    given = {name: value for name, value in tree.items() if not (value is None and name in sections)}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        problems = {item["loc"][: _names_in(item)]: item for item in error.errors()}  # one per place, the most specific
        lines = [f"  {_explain(item, model, known)}" for item in problems.values()]
        raise ConfigError(f"{origin}: {len(lines)} problem(s)\n" + "\n".join(lines)) from error


def _explain(item: Mapping[str, Any], model: type[BaseModel], known: str) -> str:
    """Describe a problem in one line: the setting, what is wrong with it, and the given value."""
    place = ".".join(map(str, item["loc"][: _names_in(item)]))
    if item["type"] == "extra_forbidden":
        return f"{place}: no such setting; {_nearest(place, model) or known}"
    message = str(item["msg"]).removeprefix("Value error, ")
    if not isinstance(item["input"], str | int | float | bool | list | tuple | type(None)):
        return f"{place}: {message}" if place else message
    hint = ""
    if isinstance(item["input"], str) and item["type"] == "float_parsing":
        hint = "; write a plain number, such as 0.001 or 1.0e-3"
    if item["type"] in ("tuple_type", "list_type"):
        hint = "; write a list, as in [a, b]"
    if item["type"] == "string_type":
        hint = "; if you mean text, put it in quotes"
    return f"{place}: {message}, got {item['input']!r}{hint}"


def _names_in(item: Mapping[str, Any]) -> int:
    """Return how many parts of a place are names. The last part may be the union variant that pydantic tried."""
    place = item["loc"]
    if item["type"] == "extra_forbidden":
        return len(place)
    is_variant = bool(place) and isinstance(place[-1], str) and not place[-1].isidentifier()
    return len(place) - (is_variant or (len(place) > 1 and place[-1] in ("int", "str")))


def _nearest(place: str, model: type[BaseModel]) -> str:
    """Suggest the setting that was probably meant: the same last name in another section, or a similar spelling."""
    names = list(_names_of(model))
    wanted, last = place.lower(), _last(place.lower())
    same = [name for name in names if _last(name) == last]
    section = place.rpartition(".")[0]
    near = [name for name in difflib.get_close_matches(wanted, names, n=1, cutoff=0.7) if name != section]
    alike = [name for name in names if difflib.SequenceMatcher(None, _last(name), last).ratio() > 0.8]
    found = [name for name in same if name == wanted] or same or near or alike
    if found:
        return f"did you mean {' or '.join(found[:3])}?"
    siblings = [_last(name) for name in names if section and name.rpartition(".")[0] == section]
    return f"{section} has {', '.join(siblings)}" if siblings else ""


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _names_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of a model's sections and settings."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for inner in _models_in(field.annotation):
            yield from _names_of(inner, f"{prefix}{name}.")


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models in a field's type, ``X | None`` included."""
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return [item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)]

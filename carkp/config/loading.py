"""YAML files with ``base:`` inheritance and ``a.b=c`` overrides -> ``ExperimentConfig``."""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from carkp.config.schema import ExperimentConfig

Tree = dict[str, Any]
Model = TypeVar("Model", bound=BaseModel)


class ConfigError(Exception):
    """A configuration that cannot be used; the message says where and what to do."""


def load_config(path: Path, overrides: Iterable[str] = ()) -> ExperimentConfig:
    """The validated configuration of a YAML file, with ``a.b=c`` overrides applied last.

    Raises:
        ConfigError: a missing or malformed file, an unknown name, a bad value.
    """
    tree = _read_with_base(path, seen=())
    for override in overrides:
        tree = _merge(tree, _parse_override(override))
    return _validated(ExperimentConfig, tree, str(path), "carkp/config/schema.py lists them all")


def load_yaml(path: Path, model: type[Model]) -> Model:
    """A YAML file that holds one ``model``.

    Raises:
        ConfigError: a missing or malformed file, an unknown name, a bad value.
    """
    return _validated(model, _read_yaml(path), str(path), f"{', '.join(model.model_fields)} are known")


def split_overrides(text: str) -> list[str]:
    """``"a.b=c d.e=f"`` as a list; shell quoting keeps spaces together."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"overrides {text!r}: {error}") from error


def flatten(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Nested mapping as dotted names: ``{"train": {"lr": 1}}`` -> ``{"<prefix>.train.lr": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}.{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, name)
        else:
            flat[name] = value
    return flat


def dump_yaml(config: ExperimentConfig) -> str:
    """The whole configuration as YAML that ``load_config`` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read_with_base(path: Path, seen: tuple[Path, ...]) -> Tree:
    resolved = path.resolve()
    if resolved in seen:
        raise ConfigError(f"{path}: `base:` leads back to the file itself")
    tree = _read_yaml(path)
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ConfigError(f"{path}: `base` must be the name of a YAML file beside it, got {base!r}")
    return _merge(_read_with_base(path.parent / base, (*seen, resolved)), tree)


def _read_yaml(path: Path) -> Tree:
    if not path.is_file():
        raise ConfigError(f"{path}: no such configuration file; configs/ holds the ones that come with carkp")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected `name: value` lines at the top, got {type(tree).__name__}")
    return tree


def _merge(below: Tree, above: Tree) -> Tree:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _parse_override(text: str) -> Tree:
    name, separator, value = text.partition("=")
    if not separator or not all(name.split(".")):
        raise ConfigError(f"override {text!r}: expected name=value with a dotted name, as in train.lr=1.0e-3")
    try:
        tree = yaml.safe_load(value) if value else ""
    except yaml.YAMLError as error:
        raise ConfigError(f"override {text!r}: {value!r} is not valid YAML: {error}") from error
    first, *rest = name.split(".")
    for part in reversed(rest):
        tree = {part: tree}
    return {first: tree}


def _validated(model: type[Model], tree: Tree, origin: str, known: str) -> Model:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, item['loc']))}: {_explain(item, known)}" for item in error.errors()]
        raise ConfigError(f"{origin}: {len(lines)} problem(s)\n" + "\n".join(lines)) from error


def _explain(item: Mapping[str, Any], known: str) -> str:
    if item["type"] == "extra_forbidden":
        return f"no such setting; {known}"
    hint = ""
    if isinstance(item["input"], str) and item["type"] == "float_parsing":
        hint = "; YAML reads 1e-3 as text, write 1.0e-3"
    return f"{item['msg']}, got {item['input']!r}{hint}"

"""Names, types, defaults and descriptions of settings, read from the models of the configuration."""

import difflib
import re
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from carkp.config.loading import ConfigError
from carkp.config.schema import ExperimentConfig

ITEM = "[]"
"""Suffix of the name of a list of sections: ``data.sources[].share`` is the share of each source."""

REQUIRED = "required"
"""Shown in place of the default of a setting without one."""

NUM_NEAREST = 3

MIN_LIKENESS = 0.75
"""Smallest similarity ratio of difflib at which one name is suggested for another."""

_ITEM_OR_NUMBER = re.compile(r"\[\d*\]|\.\d+(?=\.|$)")


@dataclass(frozen=True)
class Setting:
    """A setting: its dotted name; its type and default in words; its description."""

    name: str
    type: str
    default: str
    description: str


@dataclass(frozen=True)
class SectionOfSettings:
    """A section, or the sections of a list: its dotted name ("" for the top), its purpose, and its own settings."""

    name: str
    summary: str
    settings: tuple[Setting, ...]


def explain(name: str = "", model: type[BaseModel] = ExperimentConfig) -> list[Setting]:
    """Return the settings of ``name``: a section, a setting, or "" for everything.

    ``data.sources`` gives the list and the settings of its sections; ``data.sources.0.share`` and
    ``data.sources[].share`` are the same setting.

    Raises:
        ConfigError: the name does not exist; the message suggests the closest.
    """
    every, wanted = sections(model), _plain(name)
    settings = [setting for section in every for setting in section.settings]
    found = [item for item in settings if not wanted or f"{_plain(item.name)}.".startswith(f"{wanted}.")]
    if not found:
        raise ConfigError(f"{name}: no such section or setting; {_hint(wanted, every)}")
    return found


def sections(model: type[BaseModel] = ExperimentConfig) -> list[SectionOfSettings]:
    """Return every section with its own settings. The top comes first; each section is followed by its subsections."""
    return list(_sections(model, ""))


def _sections(model: type[BaseModel], name: str) -> Iterator[SectionOfSettings]:
    prefix = f"{name}." if name else ""
    fields = model.model_fields.items()
    own = [_setting(f"{prefix}{key}", field) for key, field in fields if _section_in(field.annotation) is None]
    yield SectionOfSettings(name, _first_paragraph(model), tuple(own))
    for key, field in fields:
        if (inner := _section_in(field.annotation)) is not None:
            yield from _sections(inner, f"{prefix}{key}")
        elif (item := _listed_section(field.annotation)) is not None:
            yield from _sections(item, f"{prefix}{key}{ITEM}")


def _setting(name: str, field: FieldInfo) -> Setting:
    default = REQUIRED if field.is_required() else _shown(field.get_default(call_default_factory=True))
    return Setting(name, _type_in_words(field.annotation, field.metadata), default, field.description or "")


def _section_in(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _listed_section(annotation: Any) -> type[BaseModel] | None:
    """Return the section type of a list's items, or None if it is no list of sections."""
    return _section_in(get_args(annotation)[0]) if get_origin(annotation) in (tuple, list) else None


def _first_paragraph(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split("\n\n")[0].split()).replace("``", "")


def _type_in_words(annotation: Any, metadata: Sequence[Any] = (), is_many: bool = False) -> str:
    """Describe a type in words: "number from 0 to 1"; with ``is_many``: "numbers from 0 to 1"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    plural = "s" if is_many else ""
    if origin is Annotated:
        return _type_in_words(arguments[0], [*_constraints(arguments[1:])], is_many)
    if origin in (Union, types.UnionType):
        return ", or ".join(_type_in_words(item, (), is_many) for item in arguments)
    if origin is Literal:
        return _choice(arguments)
    if origin in (tuple, list):
        return _list_in_words(arguments)
    if annotation in (int, float):
        number = f"{'whole ' if annotation is int else ''}number{plural}"
        return number + _range(_constraints(metadata), is_whole=annotation is int)
    if annotation is str:
        return "texts" if is_many else f"text{', not empty' if _limit(metadata, 'min_length') else ''}"
    if _section_in(annotation) is not None:
        return f"section{plural}"
    return {bool: "true or false", types.NoneType: "null"}.get(annotation, str(annotation))


def _constraints(metadata: Sequence[Any]) -> list[Any]:
    """Return the limits in an annotation, including those inside a ``Field``."""
    return [part for item in metadata for part in (item.metadata if isinstance(item, FieldInfo) else [item])]


def _choice(values: Sequence[Any]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} or {last}" if first else last


def _list_in_words(arguments: Sequence[Any]) -> str:
    item = arguments[0]
    if Ellipsis not in arguments and len(arguments) > 1:
        return f"{len(arguments)} {_type_in_words(item, is_many=True)}"
    if get_origin(item) is Literal:
        return f"list of values from {', '.join(map(str, get_args(item)))}"
    return f"list of {_type_in_words(item, is_many=True)}"


def _range(constraints: Sequence[Any], is_whole: bool) -> str:
    """Describe the limits of a number in words, with a leading space; "" without limits."""
    ge, gt, le, lt = (_limit(constraints, name) for name in ("ge", "gt", "le", "lt"))
    if is_whole and gt is not None:
        ge, gt = gt + 1, None
    match (ge, gt, le, lt):
        case (None, None, None, None):
            return ""
        case (_, None, None, None):
            return f" from {_number(ge)} upwards"
        case (None, _, None, None):
            return f" above {_number(gt)}"
        case (None, None, _, None):
            return f" up to {_number(le)}"
        case (None, None, None, _):
            return f" below {_number(lt)}"
        case (None, _, _, None):
            return f" above {_number(gt)}, up to {_number(le)}"
        case (None, _, None, _):
            return f" above {_number(gt)} and below {_number(lt)}"
        case (_, None, _, None):
            return f" from {_number(ge)} to {_number(le)}"
        case _:
            return f" from {_number(ge)} to below {_number(lt)}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _limit(constraints: Sequence[Any], name: str) -> Any:
    return next((getattr(item, name) for item in constraints if hasattr(item, name)), None)


def _shown(value: Any) -> str:
    """Format a value as in YAML."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case tuple() | list():
            return f"[{', '.join(map(_shown, value))}]"
        case _:
            return str(value) or '""'


def _plain(name: str) -> str:
    """Return a name without the numbers and brackets of lists."""
    return _ITEM_OR_NUMBER.sub("", name.strip())


def _hint(wanted: str, every: Sequence[SectionOfSettings]) -> str:
    """Suggest names with the same last part in another section or a similar spelling; else list the existing names."""
    settings = [setting.name for section in every for setting in section.settings]
    known = [*settings, *(section.name for section in every if section.name and not section.name.endswith(ITEM))]
    by_plain = {_plain(name): name for name in known}
    last = _last(wanted.lower())
    alike = [name for name in by_plain if difflib.SequenceMatcher(None, _last(name), last).ratio() > MIN_LIKENESS]
    near = [
        *(name for name in alike if _last(name) == last),
        *difflib.get_close_matches(wanted.lower(), by_plain, n=1, cutoff=MIN_LIKENESS),
        *alike,
    ]
    same = [name for name in by_plain if name == wanted.lower()]
    if found := same or list(dict.fromkeys(near))[:NUM_NEAREST]:
        return f"did you mean {' or '.join(by_plain[name] for name in found)}?"
    place = wanted.rpartition(".")[0]
    siblings = [_last(name) for name in by_plain if name.rpartition(".")[0] == place]
    if place and siblings:
        return f"{place} has {', '.join(siblings)}"
    return f"there are {', '.join(name for name in by_plain if '.' not in name)}"


def _last(name: str) -> str:
    return name.rpartition(".")[2]

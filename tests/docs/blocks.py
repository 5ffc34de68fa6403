"""What a page of the documentation shows as code: fenced blocks, and commands in backticks."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHELL = ("sh", "bash", "console")

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>[\w+-]*)\s*$")
_MARK = re.compile(r"^ *<!-- *(?P<name>not run|not checked|file)\b:?(?P<value>.*?) *--> *$")
_SPAN = re.compile(r"(?<!`)`(?!`)([^`]+)`(?!`)")


class PageError(Exception):
    """A page whose blocks or marks cannot be read; the message says where."""


@dataclass(frozen=True)
class Marks:
    """HTML comments in front of a block or a paragraph, which readers do not see.

    Attributes:
        not_run: why the block is not executed; "": it is.
        not_checked: why its commands are not even looked at; "": they are.
        file: path in the project that the block is the content of; "": none.
    """

    not_run: str = ""
    not_checked: str = ""
    file: str = ""


@dataclass(frozen=True)
class Block:
    """A fenced block, without its fences and its indentation. ``line`` is that of its first line, from 1."""

    page: str
    line: int
    language: str
    text: str
    marks: Marks

    @property
    def is_shell(self) -> bool:
        return self.language in SHELL

    @property
    def script(self) -> str:
        """What a shell is given: of a console the lines after ``$``, without what was printed."""
        if self.language != "console":
            return self.text
        lines = self.text.splitlines()
        return "\n".join(line.removeprefix("$ ") if line.startswith("$ ") else "" for line in lines) + "\n"


@dataclass(frozen=True)
class Span:
    """Code in backticks; ``line`` is where it begins, from 1."""

    page: str
    line: int
    text: str
    marks: Marks


@dataclass(frozen=True)
class Page:
    """A page by its name in the project."""

    name: str
    blocks: tuple[Block, ...]
    spans: tuple[Span, ...]


def page_names() -> list[str]:
    """Of the project, as paths from its root."""
    return ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


def read_page(name: str, root: Path = ROOT) -> Page:
    """Raises PageError, see :func:`parse_page`."""
    return parse_page(name, (root / name).read_text(encoding="utf-8"))


def parse_page(name: str, text: str) -> Page:
    """The code of a page.

    Raises:
        PageError: a fence that is not closed, a mark without its reason or path, or one that stands before nothing.
    """
    lines = text.splitlines()
    blocks: list[Block] = []
    spans: list[Span] = []
    marks: dict[str, str] = {}
    number = 0
    while number < len(lines):
        line = lines[number]
        if mark := _MARK.match(line):
            marks |= _read_mark(mark, f"{name}:{number + 1}")
            number += 1
        elif fence := _FENCE.match(line):
            end = _closing(lines, number, fence, name)
            content = textwrap.dedent("\n".join(lines[number + 1 : end])) + "\n"
            blocks.append(Block(name, number + 2, fence["language"], content, Marks(**marks)))
            marks, number = {}, end + 1
        elif line.strip():
            end = _paragraph_end(lines, number)
            spans.extend(_spans(name, number, "\n".join(lines[number:end]), Marks(**marks)))
            marks, number = {}, end
        else:
            number += 1
    if marks:
        raise PageError(f"{name}: a mark at the end of the page stands before nothing: {marks}")
    return Page(name, tuple(blocks), tuple(spans))


def _read_mark(mark: re.Match[str], place: str) -> dict[str, str]:
    value = mark["value"].strip()
    if not value:
        what = "a path" if mark["name"] == "file" else "a reason"
        raise PageError(f"{place}: write {what}: <!-- {mark['name']}: … -->")
    return {mark["name"].replace(" ", "_"): value}


def _closing(lines: list[str], start: int, fence: re.Match[str], name: str) -> int:
    for number in range(start + 1, len(lines)):
        if lines[number].strip() == fence["ticks"]:
            return number
    raise PageError(f"{name}:{start + 1}: the block is never closed")


def _paragraph_end(lines: list[str], start: int) -> int:
    end = start
    while end < len(lines) and lines[end].strip() and not _FENCE.match(lines[end]) and not _MARK.match(lines[end]):
        end += 1
    return end


def _spans(name: str, start: int, paragraph: str, marks: Marks) -> Iterator[Span]:
    """Code in backticks may go on in the next line, but not in the next row of a table."""
    parts = paragraph.splitlines(keepends=True) if paragraph.lstrip().startswith("|") else [paragraph]
    line = start + 1
    for part in parts:
        for found in _SPAN.finditer(part):
            text = re.sub(r"\s*\n\s*", " ", found[1]).replace(r"\|", "|").strip()
            yield Span(name, line + part.count("\n", 0, found.start()), text, marks)
        line += part.count("\n")

"""Shell text as commands: lists of words, with loops unrolled and comments left out.

It knows what documentation uses - lists, pipes, loops with ``for``, continued lines - and nothing else of the shell.
"""

import re
import shlex
from collections.abc import Iterator, Sequence

PLACEHOLDER = "PLACEHOLDER"
"""Stands for what a reader fills in: ``<id>``, ``…``, ``$NAME`` of nothing that the text sets."""

_SEPARATORS = {";", "&&", "||", "|", "&", "(", ")", ";;"}
_KEYWORDS = ("do", "then", "else", "!", "if", "while", "until")
_ENDS = ("done", "fi")
_ASSIGNMENT = re.compile(r"^[A-Za-z_]\w*=")

Words = list[str]


def commands(text: str) -> list[Words]:
    """Every command of a script, in order.

    Raises:
        ValueError: a quotation that is never closed, or a loop without its end.
    """
    return [found for found in _unrolled(list(_simple_commands(filled(text)))) if found]


def filled(text: str) -> str:
    """A script with a word in the place of each ``<what a reader fills in>``, which a shell takes for redirections."""
    return re.sub(r"<[^<>\n=]+>", PLACEHOLDER, text)


def _simple_commands(text: str) -> Iterator[Words]:
    for line in _logical_lines(text):
        command: Words = []
        tokens = _tokens(line)
        for token in tokens:
            if token in _SEPARATORS:
                yield command
                command = []
            elif token in (">", ">>", "<"):
                next(tokens, None)
            else:
                command.append(token)
        yield command


def _logical_lines(text: str) -> Iterator[str]:
    """Lines, with those joined that a backslash or an open quotation continues."""
    kept = ""
    for line in text.replace("\\\n", " ").splitlines():
        kept += line
        try:
            list(_tokens(kept))
        except ValueError:
            kept += "\n"
            continue
        yield kept
        kept = ""
    if kept:
        raise ValueError(f"a quotation is never closed: {kept.strip()}")


def _tokens(line: str) -> Iterator[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return iter(lexer)


def _unrolled(simple: Sequence[Words]) -> Iterator[Words]:
    number = 0
    while number < len(simple):
        words = _without_keywords(simple[number])
        if words[:1] == ["for"] and words[2:3] == ["in"]:
            end = _loop_end(simple, number)
            for value in words[3:]:
                yield from _unrolled([_with_value(inner, words[1], value) for inner in simple[number + 1 : end]])
            number = end + 1
        else:
            yield words
            number += 1


def _without_keywords(words: Words) -> Words:
    while words and words[0] in _KEYWORDS:
        words = words[1:]
    return [] if words[:1] and words[0] in _ENDS else words


def _loop_end(simple: Sequence[Words], start: int) -> int:
    depth = 0
    for number in range(start, len(simple)):
        first = _first_of(simple[number])
        depth += (first == "for") - (first == "done")
        if depth == 0:
            return number
    raise ValueError(f"the loop {' '.join(simple[start])} has no done")


def _first_of(words: Words) -> str:
    rest = [word for word in words if word not in _KEYWORDS]
    return rest[0] if rest else ""


def _with_value(words: Words, name: str, value: str) -> Words:
    return [re.sub(rf"\$(?:{name}\b|\{{{name}\}})", lambda _: value, word) for word in words]


def without_assignments(words: Words) -> Words:
    """A command without the variables that are set in front of it."""
    number = 0
    while number < len(words) and _ASSIGNMENT.match(words[number]):
        number += 1
    return words[number:]


def is_open(word: str) -> bool:
    """Whether a reader, or the shell, has to fill in something."""
    return PLACEHOLDER in word or "…" in word or "$" in word

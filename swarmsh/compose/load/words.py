"""Commands as one string, split into words as Docker's CLI does: a shell's quotes, nothing else of one."""

from __future__ import annotations

_SPACE = " \t\r\n"


class UnclosedQuote(ValueError):
    """A quote or an escape that is never finished."""


def split_words(text: str) -> list[str]:
    """The words of a command. `#` at a word's start begins a comment. Raises UnclosedQuote."""
    words: list[str] = []
    at = 0
    while at < len(text):
        if text[at] in _SPACE:
            at += 1
        elif text[at] == "#":
            end = text.find("\n", at)
            at = len(text) if end < 0 else end
        else:
            word, at = _word(text, at)
            words.append(word)
    return words


def _word(text: str, at: int) -> tuple[str, int]:
    parts: list[str] = []
    while at < len(text) and text[at] not in _SPACE:
        char = text[at]
        if char == "'":
            end = text.find("'", at + 1)
            if end < 0:
                raise UnclosedQuote("a ' is never closed")
            parts.append(text[at + 1 : end])
            at = end + 1
        elif char == '"':
            part, at = _quoted(text, at + 1)
            parts.append(part)
        elif char == "\\":
            if at + 1 == len(text):
                raise UnclosedQuote("it ends in a backslash")
            parts.append(text[at + 1])
            at += 2
        else:
            parts.append(char)
            at += 1
    return "".join(parts), at


def _quoted(text: str, at: int) -> tuple[str, int]:
    parts: list[str] = []
    while at < len(text):
        if text[at] == '"':
            return "".join(parts), at + 1
        at += text[at] == "\\"
        parts.append(text[at : at + 1])
        at += 1
    raise UnclosedQuote('a " is never closed')

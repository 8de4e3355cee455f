"""What must not be read in plans and differences: values that look like credentials.

Secrets proper are objects of their own and never part of a spec. But people do put passwords into environments,
options, labels and arguments, and plans end up in logs of other systems. So this errs on the side of hiding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

HIDDEN = "(hidden)"

_LONG = (
    r"password|passwd|passphrase|secret|token|credential|basicauth|api[_.-]?key|access[_.-]?key|private[_.-]?key"
)
_IN_NAME = re.compile(_LONG, re.IGNORECASE)
_WHOLE_WORDS = frozenset({"pass", "pw", "pwd", "key", "keys", "auth", "authorization", "cookie", "dsn", "salt"})
_URL = re.compile(r"(://[^\s/:@]*:)\S+(?=@)")
_ASSIGNED = re.compile(
    rf"""((?:[\w.-]*(?:{_LONG})[\w.-]*|\b(?:pass|pwd|pw))["']?\s*[=:]\s*)("[^"]*"|'[^']*'|[^\s,;&"']+)""",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9+/=._~-]{8,}", re.IGNORECASE)


def names_a_secret(name: str) -> bool:
    """Whether what has this name (of a variable, a label, an option) is likely to be a credential."""
    parts = re.split(r"[^a-z0-9]+", name.lower())
    return bool(_IN_NAME.search(name)) or not _WHOLE_WORDS.isdisjoint(parts)


def masked(text: str) -> str:
    """The text without passwords of URLs, values of `password=…` and the like, and HTTP credentials."""
    text = _URL.sub(rf"\g<1>{HIDDEN}", text)
    text = _ASSIGNED.sub(rf"\g<1>{HIDDEN}", text)
    return _SCHEME.sub(rf"\g<1> {HIDDEN}", text)


def masked_words(words: Sequence[str]) -> list[str]:
    """A command line: also the word behind a flag that names a credential."""
    return list(_masked_words(words))


def _masked_words(words: Sequence[str]) -> Iterator[str]:
    hide = False
    for word in words:
        if hide:
            hide = False
            yield HIDDEN
            continue
        name, equals, _ = word.partition("=")
        named = bool(re.fullmatch(r"-{0,2}[\w.-]+", name)) and names_a_secret(name)
        hide = named and not equals and name.startswith("-")
        yield f"{name}={HIDDEN}" if named and equals else masked(word)

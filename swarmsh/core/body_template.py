"""Secrets and configs that are templates (`--template-driver golang`): Go's text/template, as swarmkit runs it.

There are the values of swarmkit's `template/context.go`, its functions `secret`, `config`, `env` and `join`, and
of Go's own `and or not eq ne lt le gt ge index len print println printf html urlquery`; pipelines, parentheses,
variables, `if`, `with` and `range` over maps. What is not known is an error that names its line; the error of a
secret has no word of it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swarmsh.core.template import Context
from swarmsh.core.template_functions import FUNCTIONS, Misused, Struct, as_text, is_true
from swarmsh.core.template_literals import unquoted
from swarmsh.errors import InvalidSpec

LONGEST_WORD = 80  # characters of a template in a message
DEEPEST = 50  # of nested blocks and parentheses
MOST_VARIABLES = 1000  # known at one place
LARGEST = 4 * 1024 * 1024  # characters of the result; nodes take no more than 16 MiB
MOST_WORK = 64 * 1024 * 1024  # characters that are read and made on the way there, and so many for each step
_STEP = 64  # what a step costs beside them: about as much time as to copy so many


class BodyError(InvalidSpec):
    """A template cannot be expanded; what the trouble is and with which word stay apart."""

    def __init__(self, line: int, what: str, word: str = "") -> None:
        super().__init__(f"line {line}: {what}{f': {shown_word(word)}' if word else ''}")
        self._line, self._what = line, what

    def shown(self, *, secret: bool) -> str:
        """The message; that of a secret has nothing of its text."""
        return f"its template cannot be expanded: {f'line {self._line}: {self._what}' if secret else self.message}"


def shown_word(word: str) -> str:
    """A word of a template as messages have it: short, and of nothing but what can be printed and written down.

    Templates are of any bytes; those that are no text are lone surrogates here, which no record can hold.
    """
    cut = word if len(word) <= LONGEST_WORD else word[:LONGEST_WORD] + "…"
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in cut)


class Wanted(Exception):
    """The template needs what a secret or config of the task holds; to be expanded again with it in `read`."""

    def __init__(self, kind: str, target: str) -> None:
        super().__init__(kind)
        self.kind, self.target = kind, target


class Costly(Exception):
    """The expansion takes more work than was allowed for; to be done again where that disturbs nobody."""


def expand_body(
    text: str,
    context: Context,
    env: Sequence[str],
    read: Mapping[tuple[str, str], str],
    allowed: int = MOST_WORK,
) -> str:
    """The text with all its actions carried out. `read`: (kind, target) -> contents, of `secret` and `config`.

    Raises BodyError, Wanted for what is not in `read`, and Costly for more work than `allowed`, which is in
    characters as MOST_WORK.
    """
    if "{{" not in text:
        return text
    if allowed < MOST_WORK and len(text) * _STEP > allowed:
        raise Costly
    return _Run(context, env, read, allowed).all_of(_parse(text))


# --- reading --------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Term:
    kind: str  # literal | field | variable | function | pipe
    value: Any
    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Pipe:
    commands: tuple[tuple[_Term, ...], ...]
    declares: tuple[str, ...] = ()
    assigns: bool = False  # `=`, and not `:=`


@dataclass(frozen=True, slots=True)
class _Node:
    kind: str  # text | pipe | if | with | range
    line: int
    text: str = ""
    pipe: _Pipe = _Pipe(())
    body: tuple[_Node, ...] = ()
    otherwise: tuple[_Node, ...] = ()


_GIVEN = ("secret", "config", "env")
_TOO_MUCH = "it expands to more than is reasonable"
_TOKEN = re.compile(
    r"""(?P<blank>\s+)
      | (?P<string>"(?:\\.|[^"\\\n])*"|`[^`]*`)
      | (?P<number>[-+]?\d+(?:\.\d+)?\b)
      | (?P<field>(?:\.[A-Za-z_]\w*)+|\.(?![\w]))
      | (?P<variable>\$\w*)
      | (?P<word>[A-Za-z_]\w*)
      | (?P<declare>:=)
      | (?P<mark>[|()=,])
    """,
    re.VERBOSE | re.ASCII,
)
_LONGEST_INT = 64  # characters; more than 64 bits have, with some zeros before them
_BLOCKS = ("if", "with", "range")
_NOT_THERE = ("define", "template", "block", "break", "continue", "nil")


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    glued: bool  # nothing between it and the one before it


def _parse(text: str) -> tuple[_Node, ...]:
    parser = _Parser(list(_pieces(text)))
    nodes = parser.block(())
    return nodes


def _pieces(text: str) -> Iterator[tuple[int, str, list[_Token]]]:
    """(line, text, []) and (line, "", tokens of an action), in order."""
    at, line, trim = 0, 1, False
    while True:
        start = text.find("{{", at)
        literal = text[at:] if start < 0 else text[at:start]
        shown = literal.lstrip(" \t\r\n") if trim else literal
        left = (
            start >= 0 and text[start + 2 : start + 3] == "-" and text[start + 3 : start + 4] in tuple(" \t\r\n")
        )
        if shown:
            yield line, shown.rstrip(" \t\r\n") if left else shown, []
        if start < 0:
            return
        line += literal.count("\n")
        inside = start + (3 if left else 2)
        tokens, at, trim = _action(text, inside, line)
        if tokens:
            yield line, "", tokens
        line += text.count("\n", start, at)


def _action(text: str, at: int, line: int) -> tuple[list[_Token], int, bool]:
    """(tokens, where the text goes on, whether white space is trimmed there); no tokens for a comment."""
    comment = re.compile(r"\s*/\*.*?\*/(\s-)?\}\}", re.DOTALL).match(text, at)
    if comment is not None:
        return [], comment.end(), bool(comment[1])
    tokens: list[_Token] = []
    glued = False
    while True:
        if text.startswith("}}", at):
            if not tokens:
                raise BodyError(line, "missing value for command")
            return tokens, at + 2, False
        if text.startswith("-}}", at) and text[at - 1] in " \t\r\n":
            if not tokens:
                raise BodyError(line, "missing value for command")
            return tokens, at + 3, True
        found = _TOKEN.match(text, at)
        if found is None:
            if at >= len(text):
                raise BodyError(line, "unclosed action")
            raise BodyError(line, "unexpected character in an action", repr(text[at]))
        kind = str(found.lastgroup)
        if kind != "blank":
            tokens.append(_Token(kind, found[0], glued))
        glued = kind != "blank"
        at = found.end()


class _Parser:
    def __init__(self, pieces: list[tuple[int, str, list[_Token]]]) -> None:
        self._pieces = pieces
        self._next = 0
        self._depth = 0
        self._line = 1
        self._variables = ["$"]

    def block(self, ends: tuple[str, ...]) -> tuple[_Node, ...]:
        """Nodes up to one of `ends`, which is the next piece then; up to the end without any."""
        nodes: list[_Node] = []
        known = len(self._variables)
        while self._next < len(self._pieces):
            self._line, text, tokens = self._pieces[self._next]
            word = tokens[0].text if tokens and tokens[0].kind == "word" else ""
            if word in ends:
                del self._variables[known:]
                return tuple(nodes)
            self._next += 1
            if not tokens:
                nodes.append(_Node("text", self._line, text=text))
            elif word in _BLOCKS:
                nodes.append(self._branch(word, tokens[1:]))
            elif word in ("else", "end"):
                raise BodyError(self._line, f"unexpected {{{{{word}}}}}")
            else:
                nodes.append(_Node("pipe", self._line, pipe=self._pipeline(tokens)))
        if ends:
            raise BodyError(self._line, "unexpected end: an {{end}} is missing")
        return tuple(nodes)

    def _branch(self, kind: str, tokens: list[_Token]) -> _Node:
        line, known = self._line, len(self._variables)
        self._deeper()
        pipe = self._pipeline(tokens, ranges=kind == "range")
        body = self.block(("else", "end"))
        otherwise: tuple[_Node, ...] = ()
        _, _, tokens = self._pieces[self._next]
        self._next += 1
        if tokens[0].text == "else" and len(tokens) > 1:
            if tokens[1].text not in ("if", "with") or (kind == "range"):
                raise BodyError(self._line, "unexpected words after else")
            otherwise = (self._branch(tokens[1].text, tokens[2:]),)  # its end is this one's as well
        elif tokens[0].text == "else":
            otherwise = self.block(("end",))
            self._next += 1
        del self._variables[known:]
        self._depth -= 1
        return _Node(kind, line, pipe=pipe, body=body, otherwise=otherwise)

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise BodyError(self._line, f"more than {DEEPEST} blocks or parentheses inside each other")

    def _pipeline(self, tokens: list[_Token], *, ranges: bool = False) -> _Pipe:
        names, assigns = [], False
        at = next((i for i, t in enumerate(tokens) if t.kind == "declare" or t.text == "="), None)
        if at is not None:
            names = [t.text for t in tokens[:at] if t.text != ","]
            if not names or len(names) > (2 if ranges else 1) or not all(n.startswith("$") for n in names):
                raise BodyError(self._line, "what is before := or = is no variable")
            assigns, tokens = tokens[at].text == "=", tokens[at + 1 :]
        rest = deque(tokens)
        commands = self._commands(rest)
        if rest:
            raise BodyError(
                self._line,
                "unexpected right parenthesis" if rest[0].text == ")" else "unexpected word",
                rest[0].text,
            )
        if assigns and not set(names) <= set(self._variables):
            raise BodyError(self._line, "undefined variable", names[0])
        if not assigns:
            self._variables += names
        if len(self._variables) > MOST_VARIABLES:
            raise BodyError(self._line, f"more than {MOST_VARIABLES} variables")
        return _Pipe(commands, tuple(names), assigns)

    def _commands(self, tokens: deque[_Token]) -> tuple[tuple[_Term, ...], ...]:
        """Up to a right parenthesis, which stays, or the end."""
        commands: list[tuple[_Term, ...]] = []
        terms: list[_Term] = []
        while tokens and tokens[0].text != ")":
            token = tokens.popleft()
            if token.kind == "mark" and token.text == "|":
                commands.append(self._command(terms))
                terms = []
            elif token.kind == "mark" and token.text == "(":
                self._deeper()
                inner = self._commands(tokens)
                if not tokens:
                    raise BodyError(self._line, "unclosed left parenthesis")
                self._depth -= 1
                tokens.popleft()
                terms.append(_Term("pipe", _Pipe(inner)))
            elif token.kind == "field" and token.glued and terms and terms[-1].kind in ("variable", "pipe"):
                terms[-1] = _Term(terms[-1].kind, terms[-1].value, _path(token.text))
            else:
                terms.append(self._term(token))
        commands.append(self._command(terms))
        return tuple(commands)

    def _command(self, terms: list[_Term]) -> tuple[_Term, ...]:
        if not terms:
            raise BodyError(self._line, "missing value for command")
        return tuple(terms)

    def _term(self, token: _Token) -> _Term:
        match token.kind:
            case "string":
                return _Term("literal", self._unquoted(token.text))
            case "number":
                return _Term("literal", self._number(token.text))
            case "field":
                return _Term("field", None, _path(token.text))
            case "variable":
                if token.text not in self._variables:
                    raise BodyError(self._line, "undefined variable", token.text)
                return _Term("variable", token.text)
            case "word" if token.text in ("true", "false"):
                return _Term("literal", token.text == "true")
            case "word" if token.text in FUNCTIONS or token.text in _GIVEN:
                return _Term("function", token.text)
            case "word" if token.text in _NOT_THERE:
                raise BodyError(
                    self._line, "templates inside of templates, nil and jumps are not supported", token.text
                )
            case "word":
                raise BodyError(self._line, "function not defined", token.text)
        raise BodyError(self._line, "unexpected word", token.text)

    def _number(self, text: str) -> int | float:
        if "." in text:
            return float(text)
        if len(text) > _LONGEST_INT or not -(2**63) <= int(text) < 2**63:
            raise BodyError(self._line, "integer overflow", text)
        return int(text)

    def _unquoted(self, quoted: str) -> str:
        text = unquoted(quoted)
        if text is None:
            raise BodyError(self._line, "malformed string", quoted)
        return text


def _path(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(".") if word)


# --- carrying out ---------------------------------------------------------------------------------------------
def _root(c: Context) -> Struct:
    platform = Struct(Architecture=c.architecture, OS=c.os)
    return Struct(
        Service=Struct(ID=c.service_id, Name=c.service_name, Labels=dict(c.service_labels)),
        Node=Struct(ID=c.node_id, Hostname=c.node_hostname, Platform=platform),
        Task=Struct(ID=c.task_id, Name=c.task_name, Slot=c.task_slot),
    )


class _Run:
    def __init__(
        self, context: Context, env: Sequence[str], read: Mapping[tuple[str, str], str], allowed: int
    ) -> None:
        variables = (one.partition("=") for one in reversed(env))
        self._env = {name: value for name, given, value in variables if given}  # of several the first
        self._read, self._allowed = read, allowed
        self._dot: Any = _root(context)
        self._variables: list[tuple[str, Any]] = [("$", self._dot)]
        self._line = 1
        self._work = self._size = 0

    def all_of(self, nodes: Sequence[_Node]) -> str:
        return "".join(self._texts(nodes))

    def _texts(self, nodes: Sequence[_Node]) -> Iterator[str]:
        for node in nodes:
            self._line = node.line
            self._spend(0)
            if node.kind == "text":
                text = node.text
            elif node.kind == "pipe":
                value = self._pipe(node.pipe)
                text = "" if node.pipe.declares else self._printed(value)
            else:
                yield from self._branch(node)
                continue
            self._size += len(text)
            if self._size > LARGEST:
                raise BodyError(self._line, _TOO_MUCH)
            self._spend(len(text))
            yield text

    def _spend(self, characters: int) -> None:
        self._work += characters + _STEP
        if self._work > MOST_WORK:
            raise BodyError(self._line, _TOO_MUCH)
        if self._work > self._allowed:
            raise Costly

    def _branch(self, node: _Node) -> Iterator[str]:
        known, dot = len(self._variables), self._dot
        value = self._pipe(node.pipe, declares=node.kind != "range")
        if node.kind == "range":
            if not isinstance(value, dict) or isinstance(value, Struct):
                raise BodyError(node.line, "range can iterate over maps only")
            self._spend(_size(value))
            for key in sorted(value):
                names = node.pipe.declares
                given = {1: (value[key],), 2: (key, value[key])}.get(len(names), ())
                self._variables += zip(names, given, strict=True)
                self._dot = value[key]
                yield from self._texts(node.body)
                del self._variables[known:]
                self._dot = dot
            if not value:
                self._variables += ((name, value) for name in node.pipe.declares)  # Go has them there too
                yield from self._texts(node.otherwise)
        else:
            chosen = node.body if is_true(value) else node.otherwise
            if node.kind == "with" and is_true(value):
                self._dot = value
            yield from self._texts(chosen)
        del self._variables[known:]
        self._dot = dot

    def _pipe(self, pipe: _Pipe, *, declares: bool = True) -> Any:
        value: Any = None
        for number, command in enumerate(pipe.commands):
            value = self._command(command, (value,) if number else ())
        if declares:
            for name in pipe.declares:
                self._declare(name, value, pipe.assigns)
        return value

    def _declare(self, name: str, value: Any, assigns: bool) -> None:
        if assigns:
            self._spend(8 * len(self._variables))
            at = max(i for i, (known, _) in enumerate(self._variables) if known == name)
            self._variables[at] = (name, value)
        else:
            self._variables.append((name, value))

    def _command(self, terms: Sequence[_Term], last: tuple[Any, ...]) -> Any:
        head = terms[0]
        if head.kind == "function":
            return self._call(head.value, (*(self._value(term) for term in terms[1:]), *last))
        if len(terms) > 1 or last:
            raise BodyError(self._line, "an argument is given to what is no function")
        return self._value(head)

    def _value(self, term: _Term) -> Any:
        self._spend(0)
        match term.kind:
            case "literal":
                return term.value
            case "function":
                return self._call(term.value, ())
            case "pipe":
                value = self._pipe(term.value)
            case "variable":
                self._spend(8 * len(self._variables))
                value = next(v for name, v in reversed(self._variables) if name == term.value)
            case _:
                value = self._dot
        for name in term.path:
            if not isinstance(value, dict) or name not in value:
                raise BodyError(self._line, "there is no such field or key", "." + ".".join(term.path))
            value = value[name]
        return value

    def _call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if name in _GIVEN:
            if len(arguments) != 1 or not isinstance(arguments[0], str):
                raise BodyError(self._line, f"{name} takes one text")
            return self._given(name, arguments[0])
        size = sum(len(value) for value in arguments if isinstance(value, str))
        if size * (len(arguments) if name == "join" else 1) > LARGEST:
            raise BodyError(self._line, _TOO_MUCH)
        self._spend(sum(_size(value) for value in arguments))
        try:
            made = FUNCTIONS[name](*arguments)
        except Misused as e:
            raise BodyError(self._line, f"{name}: {e}") from None
        except TypeError:
            raise BodyError(self._line, f"wrong arguments for {name}") from None
        self._spend(_size(made))
        return made

    def _given(self, name: str, what: str) -> str:
        if name == "env":
            return self._env.get(what, "")
        if (name, what) not in self._read:
            raise Wanted(name, what)
        return self._read[name, what]

    def _printed(self, value: Any) -> str:
        self._spend(_size(value))
        try:
            return as_text(value)
        except Misused as e:
            raise BodyError(self._line, str(e)) from None


def _size(value: Any) -> int:
    """Characters that it takes to look through a value."""
    if isinstance(value, dict):
        return sum(len(key) + _size(one) for key, one in value.items())
    return len(value) if isinstance(value, str) else _STEP

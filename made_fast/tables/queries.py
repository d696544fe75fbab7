"""Queries: conditions on columns, joined by ``and``, as text or as a mapping by names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from made_fast.arguments import shown
from made_fast.tables.predicates import Predicate, predicate_of
from made_fast.tables.schema import Schema

__all__ = ["allowed_of", "parse"]

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])|(?P<text>'(?:[^']|'')*')"""
    r"""|(?P<quoted>"(?:[^"]|"")+"|`[^`]+`)|(?P<name>[^\W\d]\w*)|(?P<sign><=|>=|<>|!=|==|[=<>(),]))"""
)
_SIGNS = {"=": "in", "==": "in", "!=": "not in", "<>": "not in", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_CONSTANTS = {"true": True, "false": False, "null": None}


class _Token(NamedTuple):
    """kind: number, text, quoted, name, sign or end; word: as it is written, of names in small letters."""

    kind: str
    written: str
    start: int

    @property
    def word(self) -> str:
        return self.written.lower() if self.kind == "name" else self.written if self.kind == "sign" else ""


def parse(query: str) -> dict[str, list[Predicate]]:
    """The conditions of a query by the names of columns.

    ``age between 30 and 40 and city in ('Rome', 'Oslo') and day >= '2024-01-01'``: ``=``, ``!=``, ``<``, ``<=``, ``>``,
    ``>=``, ``between .. and ..``, ``in (..)``, ``not in (..)``, ``is null``, ``is not null``, joined by ``and``. Text and
    dates stand in single quotes, names of columns with other signs than letters, digits and ``_`` in double ones. Each
    condition but ``is null`` holds for cells that are present alone.

    Raises:
        ValueError: it is no such query; the message shows where.
    """
    return _Reader(query).conditions()


def allowed_of(schema: Schema, query: object) -> dict[int, Any]:
    """What a query allows each variable.

    Args:
        schema: of the table.
        query: text, see ``parse``; or a mapping from names to ``Between``, a set, a range, one value, or None for a missing
            cell.

    Raises:
        ValueError: it is none, names no column, or compares one with what it never is.
    """
    if isinstance(query, str):
        conditions = parse(query)
    elif isinstance(query, Mapping):
        conditions = {name: predicate_of(name, wanted) for name, wanted in query.items()}
    else:
        raise ValueError(f"query must be text or a mapping by names of columns, got {shown(query)}")
    starts, allowed = schema.starts, {}
    for name, predicates in conditions.items():
        place = schema.place(name)
        for variable, values in schema.columns[place].allowed(predicates).items():
            allowed[starts[place] + variable] = values
    return allowed


class _Reader:
    """Reads a query from left to right."""

    def __init__(self, query: str) -> None:
        self.query, self.tokens, self.place = query, [], 0
        start, end = 0, len(query.rstrip())
        while start < end:
            found = _TOKEN.match(query, start)
            if found is None:
                self.refuse("a name, a value or a sign", query[start:].split(maxsplit=1)[0], start)
            kind = str(found.lastgroup)
            self.tokens.append(_Token(kind, found[kind], found.start(kind)))
            start = found.end()
        self.tokens.append(_Token("end", "its end", end))

    tokens: list[_Token]

    def refuse(self, wish: str, found: str, start: int) -> NoReturn:
        """Raises the error of what stands at a place."""
        raise ValueError(f"query must have {wish} at {start}, got {found!r} in {shown(self.query)}")

    def conditions(self) -> dict[str, list[Predicate]]:
        """All of them."""
        found: dict[str, list[Predicate]] = {}
        while True:
            name = self.name()
            found.setdefault(name, []).extend(self.condition())
            if self.tokens[self.place].kind == "end":
                return found
            self.take("and")

    def next(self) -> _Token:
        """The token here, which is then read."""
        token = self.tokens[self.place]
        self.place = min(self.place + 1, len(self.tokens) - 1)
        return token

    def take(self, *words: str) -> str:
        """One of these words or signs."""
        token = self.next()
        if token.word not in words:
            self.refuse(" or ".join(map(repr, words)), token.written, token.start)
        return token.word

    def name(self) -> str:
        """The name of a column."""
        token = self.next()
        if token.kind == "quoted":
            return token.written[1:-1].replace('""', '"')
        if token.kind != "name":
            self.refuse("the name of a column", token.written, token.start)
        return token.written

    def value(self) -> Any:
        """A number, a text or a constant."""
        token = self.next()
        if token.kind == "number":
            return int(token.written) if re.fullmatch(r"[+-]?\d+", token.written) else float(token.written)
        if token.kind == "text":
            return token.written[1:-1].replace("''", "'")
        if token.word in _CONSTANTS:
            return _CONSTANTS[token.word]
        self.refuse("a value, text in single quotes", token.written, token.start)

    def condition(self) -> list[Predicate]:
        """What comes after the name."""
        sign = self.take(*_SIGNS, "between", "in", "not", "is")
        if sign == "is":
            missing = self.take("null", "not") == "null"
            if not missing:
                self.take("null")
            return [Predicate("in", (None,)) if missing else Predicate("present")]
        if sign == "between":
            low = self.value()
            self.take("and")
            return [Predicate(">=", (low,)), Predicate("<=", (self.value(),))]
        if sign in ("in", "not"):
            if sign == "not":
                self.take("in")
            return [Predicate("in" if sign == "in" else "not in", self.values())]
        return [Predicate(_SIGNS[sign], (self.value(),))]

    def values(self) -> tuple[Any, ...]:
        """Values in brackets."""
        self.take("(")
        found = [self.value()]
        while self.take(",", ")") == ",":
            found.append(self.value())
        return tuple(found)

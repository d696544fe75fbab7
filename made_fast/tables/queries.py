"""Queries: conditions on columns, joined by ``and`` and ``or``, as text or as a mapping by names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import chain, combinations
from typing import Any, NamedTuple, NoReturn

from made_fast.arguments import shown
from made_fast.tables.predicates import Predicate, predicate_of
from made_fast.tables.schema import Schema

__all__ = ["Query", "allowed_of", "parse", "union_of"]

Query = str | Mapping[str, Any]
Conjunction = dict[str, list[Predicate]]  # by names of columns
_MOST = 8  # alternatives: there are 2**8 - 1 ways to take some of them

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


def parse(query: str) -> list[Conjunction]:
    """The conditions of a query by the names of columns, for each of the alternatives that ``or`` makes.

    ``age between 30 and 40 and (city in ('Rome', 'Oslo') or day >= '2024-01-01')``: ``=``, ``!=``, ``<``, ``<=``, ``>``,
    ``>=``, ``between .. and ..``, ``in (..)``, ``not in (..)``, ``is null``, ``is not null``, joined by ``and`` and
    ``or``, of which ``and`` binds more, and brackets. Text and dates stand in single quotes, names of columns with
    other signs than letters, digits and ``_`` in double ones. Each condition but ``is null`` holds for cells that
    are present alone.

    Raises:
        ValueError: it is no such query; the message shows where.
    """
    return _Reader(query).whole()


def allowed_of(schema: Schema, query: object) -> dict[int, Any]:
    """What a query allows each variable.

    Args:
        schema: of the table.
        query: text, see ``parse``; or a mapping from names to ``Between``, a set, a range, one value, or None for a missing
            cell.

    Raises:
        ValueError: it is none, names no column, compares one with what it never is, or has alternatives.
    """
    conjunctions = _conjunctions(query)
    if len(conjunctions) > 1:
        raise ValueError(
            f"where must be a query without 'or', got {shown(query)}: draw from each alternative by itself"
        )
    return _allowed(schema, conjunctions[0])


def union_of(schema: Schema, query: object) -> list[tuple[int, dict[int, Any]]]:
    """What a query allows each variable, as terms with a sign whose probabilities add up to its own.

    By inclusion and exclusion: those of all alternatives, less those of any two at once, and so on.

    Raises:
        ValueError: see ``allowed_of``; or there are too many alternatives.
    """
    conjunctions = _conjunctions(query)
    for each in conjunctions:
        _allowed(schema, each)  # whatever is wrong of one alone is said first
    terms = []
    for size in range(1, len(conjunctions) + 1):
        for chosen in combinations(conjunctions, size):
            terms.append((1 if size % 2 else -1, _allowed(schema, _joined(*chosen))))
    return terms


def _conjunctions(query: object) -> list[Conjunction]:
    if isinstance(query, str):
        return parse(query)
    if isinstance(query, Mapping):
        return [{name: predicate_of(name, wanted) for name, wanted in query.items()}]
    raise ValueError(f"query must be text or a mapping by names of columns, got {shown(query)}")


def _joined(*conjunctions: Conjunction) -> Conjunction:
    """What holds where all of them hold."""
    names = dict.fromkeys(chain(*conjunctions))
    return {name: [each for found in conjunctions for each in found.get(name, ())] for name in names}


def _allowed(schema: Schema, conjunction: Conjunction) -> dict[int, Any]:
    starts, allowed = schema.starts, {}
    for name, predicates in conjunction.items():
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

    def whole(self) -> list[Conjunction]:
        """The whole query as alternatives, of which one holds at least."""
        found = self.either()
        token = self.tokens[self.place]
        if token.kind != "end":
            self.refuse("'and' or 'or'", token.written, token.start)
        return found

    def either(self) -> list[Conjunction]:
        """Alternatives between ``or``."""
        found = self.all()
        while self.tokens[self.place].word == "or":
            self.place += 1
            found = self.few([*found, *self.all()])
        return found

    def all(self) -> list[Conjunction]:
        """Conditions and brackets between ``and``, multiplied out."""
        found = self.one()
        while self.tokens[self.place].word == "and":
            self.place += 1
            others = self.one()
            found = self.few([_joined(each, other) for each in found for other in others])
        return found

    def one(self) -> list[Conjunction]:
        """A condition, or alternatives in brackets."""
        if self.tokens[self.place].word != "(":
            return [{self.name(): self.condition()}]
        self.place += 1
        found = self.either()
        token = self.tokens[self.place]
        if token.word != ")":
            self.refuse("'and', 'or' or ')'", token.written, token.start)
        self.place += 1
        return found

    def few(self, found: list[Conjunction]) -> list[Conjunction]:
        """The alternatives, if they are few."""
        if len(found) > _MOST:
            raise ValueError(f"query must have at most {_MOST} alternatives, got {len(found)} in {shown(self.query)}")
        return found

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

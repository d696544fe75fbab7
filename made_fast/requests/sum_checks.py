"""Sums as a caller gives them: checked, and brought into the form of backends."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from made_fast.arguments import shown, whole_number
from made_fast.outputs.conditional import Conditional
from made_fast.requests.sums import MOST_SUMS, Patterns, Sums, SumTo, Totals

__all__ = ["SumWish", "split_query", "sums_of"]

_MOST_BYTES = 1 << 30  # of the flags of one pattern
_FARTHEST = 2**31  # a value from 0
_MOST_TOTAL = 2**62


class SumWish(NamedTuple):
    """What a query wants of a sum: what it calls it, variables, and their total."""

    name: str
    variables: tuple[int, ...]
    total: int


def split_query(
    query: Mapping[object, object] | SumTo, conditionals: Sequence[Conditional]
) -> tuple[dict[object, object], list[SumWish]]:
    """What a query says of single variables, by variable, and what it says of sums.

    Raises:
        ValueError: what it says of sums does not fit; the message names it.
    """
    if isinstance(query, SumTo):
        return {}, _checked([_wish_of("allowed", range(len(conditionals)), query, conditionals)])
    single, sums = {}, []
    for key, wanted in query.items():
        if isinstance(key, (tuple, range, frozenset)):
            sums.append(_wish_of(f"allowed[{shown(key)}]", key, wanted, conditionals))
        elif isinstance(wanted, SumTo):
            sums.append(_wish_of(f"allowed[{shown(key)}]", (key,), wanted, conditionals))
        else:
            single[key] = wanted
    return single, _checked(sums)


def _wish_of(name: str, key: object, wanted: object, conditionals: Sequence[Conditional]) -> SumWish:
    variables = []
    for each in key:  # type: ignore[attr-defined]
        variable = whole_number("a variable of allowed", each, 0, len(conditionals) - 1)
        if _whole_values(conditionals[variable]) is None:
            raise ValueError(
                f"{name} must be about variables that are whole numbers, and variable {variable} is "
                f"{conditionals[variable].expected if conditionals[variable].size else 'any real number'}"
            )
        variables.append(variable)
    if not variables:
        raise ValueError(f"{name} must name variables, got {shown(key)}")
    if not isinstance(wanted, SumTo):
        raise ValueError(f"{name} must be a SumTo, got {shown(wanted)}")
    total = whole_number(f"{name}.total", wanted.total, None)
    return SumWish(name, tuple(variables), total)


def _checked(wishes: list[SumWish]) -> list[SumWish]:
    named = [variable for wish in wishes for variable in wish.variables]
    if len(named) > len({*named}):
        twice = next(variable for place, variable in enumerate(named) if variable in named[:place])
        raise ValueError(f"allowed must have each variable in one SumTo at most, and once, got variable {twice} twice")
    if len(wishes) > MOST_SUMS:
        raise ValueError(f"allowed must have {MOST_SUMS} SumTo at most, got {len(wishes)}")
    return wishes


@functools.lru_cache(maxsize=1024)
def _whole_values(conditional: Conditional) -> tuple[int, ...] | None:
    """The values of a variable in the order of its flags, or None where they are not whole numbers."""
    values = conditional.values()
    if values is None or not bool(((values == values.floor()) & (values.abs() < _FARTHEST)).all()):
        return None
    return tuple(map(int, values.tolist()))


def sums_of(
    conditionals: Sequence[Conditional],
    wishes: Sequence[Sequence[SumWish]],
    support: Tensor,
    known: tuple[Tensor, Tensor] | None,
    nothing: Tensor,
    many: bool,
) -> tuple[Sums, Tensor, str]:
    """The sums of N conditions.

    Args:
        conditionals: of all variables.
        wishes: of one query for all conditions, or of N; there is one.
        support: (N, S) uint8, see ``Conditions``.
        known: given values (N, D), and which are observed, bool (N, D); or None.
        nothing: (N,) bool: conditions that are impossible already, which are held to no sum.
        many: whether messages say which of N queries they are about.

    Returns:
        The sums; (N,) bool, which conditions have a total that cannot be; and what the first of them
        asks for, in a sentence.

    Raises:
        ValueError: the sums have too many totals.
    """
    most = max(map(len, wishes))
    rows, features = len(support), len(conditionals)
    members, totals = _tables(wishes, features, most)
    query = np.arange(rows) if len(wishes) > 1 else np.zeros(rows, dtype=np.int64)
    members, lacking = members[query], totals[query]
    if known is not None:
        given, observed = known[0].numpy(), known[1].numpy()
        for number in range(most):
            mine = (members == number) & observed
            lacking[:, number] -= np.where(mine, given, 0).sum(1).astype(np.int64)
        members = np.where(observed, -1, members)
    flags = support.numpy().astype(bool)
    firsts, pattern = _distinct(members, flags, [each.size for each in conditionals])
    patterns = _patterns(conditionals, members[firsts], flags[firsts])
    found, _, ends = patterns.later(range(features))
    impossible = np.zeros((rows, most), dtype=bool)
    for place in range(most):
        end = np.array([each[place] for each in ends], dtype=np.int64)[pattern]
        for number in np.unique(end):
            mine = end == number
            impossible[mine, place] = ~found[number].has(lacking[mine, place])
    impossible &= ~nothing.numpy()[:, None]
    wrong, why = impossible.any(1), ""
    if wrong.any():
        row = int(wrong.argmax())
        place = int(impossible[row].argmax())
        held = int(totals[query[row], place] - lacking[row, place])
        which = f" of query {row}" if many else ""
        why = _refusal(wishes[query[row]][place], found[ends[pattern[row]][place]], held, which)
    pattern = np.where(wrong | nothing.numpy(), -1, pattern)
    return Sums(torch.from_numpy(lacking), torch.from_numpy(pattern), patterns), torch.from_numpy(wrong), why


def _tables(
    wishes: Sequence[Sequence[SumWish]], features: int, most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each query the sum that each variable is in, (Q, D), -1 for none; and the totals (Q, most)."""
    members = np.full((len(wishes), features), -1, dtype=np.int64)
    totals = np.zeros((len(wishes), most), dtype=np.int64)
    for query, sums in enumerate(wishes):
        for number, wish in enumerate(sums):
            members[query, list(wish.variables)] = number
            totals[query, number] = min(max(wish.total, -_MOST_TOTAL), _MOST_TOTAL)  # far out of reach
    return members, totals


def _distinct(
    members: NDArray[np.int64], flags: NDArray[np.bool_], sizes: Sequence[int]
) -> tuple[list[int], NDArray[np.int64]]:
    """Rows that differ in what is drawn for sums, and for each row the number of the one that it is like."""
    rows = len(members)
    if not rows:
        return [], np.zeros(0, dtype=np.int64)
    told = np.concatenate([members, flags & np.repeat(members >= 0, sizes, axis=1)], axis=1).astype(np.int8)
    if bool((told == told[:1]).all()):
        return [0], np.zeros(rows, dtype=np.int64)
    _, firsts, like = np.unique(told, axis=0, return_index=True, return_inverse=True)
    return firsts.tolist(), like.reshape(-1).astype(np.int64)


def _patterns(conditionals: Sequence[Conditional], members: NDArray[np.int64], flags: NDArray[np.bool_]) -> Patterns:
    """Those of rows that differ; raises ValueError where their flags would fill the memory."""
    known: dict[tuple[int, ...], int] = {(0,): 0}
    seen: dict[tuple[int, bytes], int] = {}  # of many variables that are alike

    def number_of(conditional: Conditional, own: NDArray[np.bool_]) -> int:
        key = (id(conditional), own.tobytes())
        if key not in seen:
            offered = tuple(sorted(compress(_whole_values(conditional) or (), own.tolist())))
            seen[key] = known.setdefault(offered, len(known))
        return seen[key]

    offers = np.zeros_like(members)
    named: Any = (members >= 0).any(0).tolist()
    first = 0
    for variable, conditional in enumerate(conditionals):
        own, first = flags[:, first : first + conditional.size], first + conditional.size
        if not named[variable]:
            continue
        if len(own) == 1 or bool((own == own[:1]).all()):
            offers[:, variable] = number_of(conditional, own[0])
            continue
        distinct, like = np.unique(own, axis=0, return_inverse=True)
        offers[:, variable] = np.array([number_of(conditional, each) for each in distinct])[like.reshape(-1)]
    found = Patterns(members, offers, tuple(known))
    spans = np.array([each[-1] - each[0] for each in known])
    span = int(np.where(members >= 0, spans[offers], 0).sum(1).max(initial=0))
    if span * members.shape[1] // 16 > _MOST_BYTES:
        raise ValueError(f"allowed must have sums of fewer totals, got {span + 1}")
    return found


def _refusal(wish: SumWish, possible: Totals, given: int, which: str) -> str:
    listed = [possible.low + given + place for place in range(possible.bits.bit_length()) if possible.bits >> place & 1]
    some = [*map(str, listed)] if len(listed) <= MOST_SUMS else [*map(str, listed[:3]), "...", str(listed[-1])]
    return (
        f"{wish.name}.total{which} must be a sum that its variables can have with what is given and allowed, one of "
        f"{', '.join(some)}, got {wish.total}: nothing can be drawn, and the probability is 0"
    )

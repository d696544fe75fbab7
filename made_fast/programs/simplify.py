"""The same program with fewer operations, joined as one would by hand."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from made_fast.programs.program import Add, Affine, Elementwise, Op, Term, term_of

__all__ = ["simplified"]


def simplified(ops: list[Op]) -> tuple[Op, ...]:
    """Returns operations that make the same last value.

    - An affine value of which all readers only pick and scale rows is replaced by those rows in each reader.
    - The sum of two affine values that nobody else reads is one affine operation.
    - What the last value does not need is left out.
    """
    values: dict[int, Op] = dict(enumerate(ops, start=2))
    _prune(values)
    while _compose_one(values) or _sum_one(values):
        _prune(values)
    number = {old: new for new, old in enumerate(values, start=2)} | {0: 0, 1: 1}
    return tuple(_renumbered(op, number) for op in values.values())


def _prune(values: dict[int, Op]) -> None:
    last = max(values)
    needed = {last}
    for value in sorted(values, reverse=True):
        if value in needed:
            needed.update(values[value].sources)
    for value in [each for each in values if each not in needed]:
        del values[value]


def _readers(values: dict[int, Op]) -> dict[int, list[int]]:
    readers: dict[int, list[int]] = {value: [] for value in values}
    for value, op in values.items():
        for source in op.sources:
            if source in readers:
                readers[source].append(value)
    return readers


def _compose_one(values: dict[int, Op]) -> bool:
    for inner, readers in _readers(values).items():
        op = values[inner]
        if not isinstance(op, Affine) or not readers:
            continue
        outer = {reader: values[reader] for reader in readers}
        picks = [
            term.weight
            for each in outer.values()
            if isinstance(each, Affine)
            for term in each.terms
            if term.source == inner
        ]
        if len(picks) < len(readers) or not all(map(_picks_rows, picks)):
            continue
        if sum(int((pick != 0).sum()) for pick in picks) > op.terms[0].weight.shape[0]:
            continue  # picking rows several times would cost more than it saves
        for reader, each in outer.items():
            assert isinstance(each, Affine)
            values[reader] = _composed(each, inner, op)
        return True
    return False


def _picks_rows(weight: Tensor) -> bool:
    return bool(((weight != 0).sum(1) <= 1).all())


def _picked(pick: Tensor, rows: Tensor) -> Tensor:
    """``pick @ rows`` for a matrix with at most one entry in each row: rows of a weight (n, m) or of a bias (n,)."""
    place = (pick != 0).long().argmax(1)
    factor = pick.gather(1, place[:, None]).reshape(-1, *[1] * (rows.ndim - 1))
    return torch.where(factor == 0, 0, rows[place] * factor)


def _composed(outer: Affine, inner: int, op: Affine) -> Affine:
    terms, bias = [], outer.bias
    for term in outer.terms:
        if term.source != inner:
            terms.append(term)
            continue
        terms.extend(term_of(each.source, _picked(term.weight, each.weight)) for each in op.terms)
        if op.bias is not None:
            added = _picked(term.weight, op.bias)
            bias = added if bias is None else bias + added
    return Affine(_merged(terms), bias)


def _merged(terms: list[Term]) -> tuple[Term, ...]:
    weights: dict[int, Tensor] = {}
    for term in terms:
        weights[term.source] = weights[term.source] + term.weight if term.source in weights else term.weight
    return tuple(term_of(source, weight) for source, weight in sorted(weights.items()))


def _sum_one(values: dict[int, Op]) -> bool:
    readers = _readers(values)
    for value, op in values.items():
        if not isinstance(op, Add) or op.left == op.right:
            continue
        left, right = values.get(op.left), values.get(op.right)
        if not isinstance(left, Affine) or not isinstance(right, Affine):
            continue
        if len(readers[op.left]) == len(readers[op.right]) == 1:
            biases = [each.bias for each in (left, right) if each.bias is not None]
            values[value] = Affine(_merged([*left.terms, *right.terms]), sum(biases[1:], biases[0]) if biases else None)
            return True
    return False


def _renumbered(op: Op, number: dict[int, int]) -> Op:
    if isinstance(op, Affine):
        return replace(op, terms=tuple(replace(term, source=number[term.source]) for term in op.terms))
    if isinstance(op, Elementwise):
        return replace(op, source=number[op.source])
    return replace(op, left=number[op.left], right=number[op.right])

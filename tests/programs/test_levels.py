"""Levels by the number of leading variables are those that counting unknown inputs finds; degrees say what masks do."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from models import CASES, masks_of

from made_fast import MADE
from made_fast.programs import levels
from made_fast.programs.connections import Connections, connections_of, leading_columns
from made_fast.programs.program import Affine, DegreeTerm, Op, Program, Term
from made_fast.programs.schedule import build_schedule


def _by_masks(program: Program) -> Program:
    """The same program with masks in place of degrees."""

    def whole(op: Op) -> Op:
        if not isinstance(op, Affine):
            return op
        return replace(op, terms=tuple(Term(term.source, term.weight, term.mask) for term in op.terms))

    return replace(program, ops=tuple(map(whole, program.ops)))


def _assert_same(one: Any, other: Any) -> None:
    for field in fields(one):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        if field.name == "affines":
            for pair in zip(ours, theirs, strict=True):
                _assert_same(*pair)
        else:
            assert (ours is None) == (theirs is None), field.name
            assert ours is None or np.array_equal(ours, theirs), field.name


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])
def test_every_way_finds_the_same_schedule(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = case.make()
    for mask in masks_of(model):
        program = model.program(mask=mask)
        connections = connections_of(program)
        assert levels._nested_levels(program, connections, levels.alive_units(program, connections)) is not None
        found, by_masks = build_schedule(program), build_schedule(_by_masks(program))
        with monkeypatch.context() as patched:
            patched.setattr(levels, "_nested_levels", lambda *arguments: None)
            counted = build_schedule(_by_masks(program))
        _assert_same(found, counted)
        _assert_same(by_masks, counted)


def test_dependencies_that_are_not_nested_are_counted() -> None:
    """A variable that reads none of those before it can be drawn at once, however late it comes."""
    model = MADE(6, (20,))
    model.hidden[0].mask[:, 2] = False  # type: ignore[union-attr, index]
    program = model.program()
    connections = connections_of(program)
    alive = levels.alive_units(program, connections)
    assert levels._nested_levels(program, connections, alive) is None
    assert build_schedule(program).levels.tolist() == [0, 1, 2, 2, 3, 4]


def _pairs(seed: int) -> list[tuple[Connections, Connections]]:
    """Terms that read side by side, by degrees and by the masks that these make."""
    chance = np.random.default_rng(seed)
    height = int(chance.integers(1, 9))
    rows, found = chance.integers(0, 6, height).astype(np.int32), []
    for _ in range(int(chance.integers(1, 4))):
        width = int(chance.integers(0, 8))
        if chance.random() < 0.3:
            found.append(
                (Connections((height, width), None), Connections((height, width), np.ones((height, width), dtype=bool)))
            )
            continue
        of_rows = rows if chance.random() < 0.8 else chance.integers(0, 6, height).astype(np.int32)
        columns = chance.integers(0, 7, width).astype(np.int32)
        by_degrees = Connections((height, width), None, of_rows, columns)
        found.append((by_degrees, Connections((height, width), by_degrees.whole)))
    return found


@pytest.mark.parametrize("seed", range(200))
def test_degrees_say_what_their_mask_does(seed: int) -> None:
    chance = np.random.default_rng(seed + 1000)
    pairs = _pairs(seed)
    for by_degrees, by_mask in pairs:
        height, width = by_mask.shape
        some = chance.random(height) < 0.4
        assert np.array_equal(by_degrees.read_by(some), by_mask.read_by(some))
        assert np.array_equal(by_degrees.read_by(some), by_mask.whole[some].any(0))
        values = chance.integers(0, 9, width)
        expected = [
            max((int(value) for value, read in zip(values, row, strict=True) if read), default=0)
            for row in by_mask.whole
        ]
        assert by_degrees.largest(values).tolist() == by_mask.largest(values).tolist() == expected
        groups = chance.permutation(np.repeat(np.arange(width), chance.integers(1, 3, width))[:width])
        groups = np.unique(groups, return_inverse=True)[1]
        ours, theirs = by_degrees.leading(groups), by_mask.leading(groups)
        for row, read in enumerate(by_mask.whole):
            leading = [count for count in range(groups.max(initial=-1) + 2) if np.array_equal(read, groups < count)]
            assert theirs is not None
            assert theirs[row] == (leading[0] if leading else -1)
        assert ours is None or np.array_equal(ours, theirs)  # type: ignore[arg-type]
    rows = chance.permutation(pairs[0][0].shape[0])
    columns = chance.permutation(sum(each.shape[1] for each, _ in pairs))
    needed, mask = leading_columns([one for one, _ in pairs], rows, columns)
    expected_needed, expected_mask = leading_columns([other for _, other in pairs], rows, columns)
    assert np.array_equal(needed, expected_needed)
    assert (mask is None) == (expected_mask is None)
    assert mask is None or np.array_equal(mask, expected_mask)  # type: ignore[arg-type]
    whole = np.concatenate([other.whole for _, other in pairs], axis=1)[np.ix_(rows, columns)]
    assert np.array_equal(np.arange(whole.shape[1]) < needed[:, None] if mask is None else mask, whole)


def test_a_term_of_degrees_is_the_term_of_their_mask() -> None:
    numbers, degrees = torch.randn(4, 3), torch.tensor([0, 1, 2, 3, 1, 2, 3])
    numbers[0, 2] = torch.inf
    term = DegreeTerm(0, numbers, degrees)
    mask = degrees[:4, None] >= degrees[None, 4:]
    assert torch.equal(term.mask, mask)
    assert torch.equal(term.weight, torch.where(mask, numbers, torch.zeros(())))
    assert term.weight is term.weight
    fresh = DegreeTerm(0, numbers, degrees)  # nothing that a transform has wrapped is kept
    jacobian = torch.func.jacrev(lambda x: torch.nn.functional.linear(x, fresh.weight))(torch.ones(3))
    assert torch.equal(jacobian, term.weight)
    assert torch.equal(fresh.weight, term.weight)
    double = term.with_numbers(numbers.double())
    assert double.weight.dtype == torch.float64
    assert torch.equal(double.mask, mask)  # type: ignore[arg-type]
    assert Term(0, numbers, None).degrees is None

"""Levels, counts and steps of a schedule against brute force, on programs made by hand and at random."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from made_fast import MADE, noise
from made_fast.programs.functions import FUNCTIONS
from made_fast.programs.program import CONTEXT, Add, Affine, Elementwise, Multiply, Op, Program, Term, X
from made_fast.programs.schedule import build_schedule

FUNCTION_NAMES = list(FUNCTIONS)


def _affine(generator: torch.Generator, masks: dict[int, Tensor | None], widths: list[int], size: int) -> Affine:
    terms = []
    for source, mask in masks.items():
        weight = torch.randn(size, widths[source], generator=generator, dtype=torch.float64)
        weight = weight / max(1, widths[source]) ** 0.5
        terms.append(Term(source, weight if mask is None else weight * mask, mask))
    bias = torch.randn(size, generator=generator, dtype=torch.float64) / 2
    return Affine(tuple(terms), bias if torch.rand((), generator=generator) < 0.8 else None)


def _random_program(seed: int) -> Program:
    """An autoregressive program of any shape: its masks are cut at random from those of a hidden order of drawing.

    Nothing is nested, some units are dead, values are read by several operations, twice by one, or by none.
    """
    chance, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    features, context = int(chance.integers(1, 14)), int(chance.integers(0, 4))
    rank = torch.from_numpy(chance.permutation(features))
    times = [rank + 1, torch.zeros(context, dtype=torch.int64)]  # when a unit may be known
    ops: list[Op] = []

    def push(op: Op, time: Tensor) -> None:
        ops.append(op)
        times.append(time)

    def affine(size: int, time: Tensor) -> None:
        sources = set(chance.integers(0, len(times), int(chance.integers(1, 4))).tolist())
        density = chance.choice([0.15, 0.5, 1.0])
        masks: dict[int, Tensor | None] = {}
        for source in sources:
            kept = torch.rand(size, len(times[source]), generator=generator) < density
            masks[source] = kept & (time[:, None] >= times[source])
        if CONTEXT in masks and chance.random() < 0.5:
            masks[CONTEXT] = None
        push(_affine(generator, masks, [len(each) for each in times], size), time)

    for _ in range(int(chance.integers(0, 7))):
        kind, source = chance.integers(0, 4), int(chance.integers(0, len(times)))
        partners = [value for value in range(len(times)) if len(times[value]) == len(times[source])]
        other = int(chance.choice(partners))
        if kind == 0 and len(times[source]):
            push(Elementwise(source, FUNCTION_NAMES[chance.integers(len(FUNCTION_NAMES))]), times[source])
        elif kind == 1 and len(times[source]):
            pair = (source, other) if chance.random() < 0.5 else (source, source)
            op = Add(*pair) if chance.random() < 0.5 else Multiply(*pair)
            push(op, torch.maximum(times[pair[0]], times[pair[1]]))
        else:
            size = int(chance.integers(1, 20))
            affine(size, torch.from_numpy(chance.integers(0, features + 1, size)))  # `features`: too late to be read
    affine(features, rank)
    last = len(times) - 1
    ending = chance.integers(0, 4)
    if ending == 0:
        push(Elementwise(last, "tanh"), rank)
    elif ending == 1:
        affine(features, rank)
        push(Add(last, last + 1), rank)
    order = torch.from_numpy(chance.permutation(features))  # says whose noise is whose, and nothing about the masks
    return Program(features, context, tuple(ops), order, (1,) * features)


def _masks(program: Program) -> list[list[Tensor]]:
    """The connections (n, m) of every operation to each of its sources."""
    widths = program.widths
    found = []
    for op in program.ops:
        if isinstance(op, Affine):
            found.append([torch.ones(t.weight.shape) if t.mask is None else t.mask.float() for t in op.terms])
        else:
            found.append([torch.eye(widths[source]) for source in op.sources])
    return found


def _depends(program: Program) -> Tensor:
    """Whether the parameters of variable i can depend on variable j: (D, D), by multiplying the masks."""
    reach = [torch.eye(program.features), torch.zeros(program.context_features, program.features)]
    for op, masks in zip(program.ops, _masks(program), strict=True):
        parts = [mask @ reach[source] for source, mask in zip(op.sources, masks, strict=True)]
        reach.append((torch.stack(parts).sum(0) > 0).float())
    return reach[-1] > 0


def _longest_paths(depends: Tensor) -> list[int]:
    """Length of the longest chain of variables that ends in each, by definition."""
    known: dict[int, int] = {}

    def length(variable: int) -> int:
        if variable not in known:
            before = depends[variable].nonzero()[:, 0].tolist()
            known[variable] = 1 + max(map(length, before)) if before else 0
        return known[variable]

    return [length(variable) for variable in range(len(depends))]


def _live_connections(program: Program) -> int:
    """Unmasked connections into units that reach a parameter."""
    masks = _masks(program)
    live = [torch.zeros(width) for width in program.widths]
    live[-1][:] = 1
    total = 0
    for value in range(len(live) - 1, 1, -1):
        op = program.ops[value - 2]
        for source, mask in zip(op.sources, masks[value - 2], strict=True):
            read = mask * live[value][:, None]
            live[source] = ((live[source] + read.sum(0)) > 0).float()
            total += int(read.sum()) if isinstance(op, Affine) else 0
    return total


def _fixed_point(
    program: Program, rows: int, seed: int, first_row: int, context: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Samples by definition, whatever the order of drawing: D passes over all variables at once leave nothing to change."""
    rank = torch.empty_like(program.order)
    rank[program.order] = torch.arange(program.features)
    uniforms = noise.uniform(seed, first_row + torch.arange(rows)[:, None], rank)
    x = torch.zeros(rows, program.features, dtype=torch.float64)
    for _ in range(program.features):
        x = (uniforms < torch.sigmoid(program.evaluate(x, context))).to(x.dtype)
    params = program.evaluate(x, context)
    assert torch.equal(x, (uniforms < torch.sigmoid(params)).to(x.dtype))
    return x, torch.nn.functional.logsigmoid((2 * x - 1) * params).sum(1)


@pytest.mark.parametrize("seed", range(60))
def test_levels_and_counts_of_random_programs(seed: int) -> None:
    program = _random_program(seed)
    schedule = build_schedule(program)
    expected = _longest_paths(_depends(program))
    assert schedule.levels.tolist() == expected
    assert schedule.num_levels == max(expected) + 1
    assert schedule.macs == _live_connections(program)
    assert schedule.macs <= program.dense_macs


@functools.cache
def _drawn(seed: int) -> tuple[Program, Tensor | None, Tensor, Tensor]:
    program = _random_program(seed)
    context = torch.randn(11, program.context_features, dtype=torch.float64) if program.context_features else None
    return program, context, *_fixed_point(program, 11, seed, 2**32 - 5, context)


@pytest.mark.parametrize("part", range(3))
def test_engines_draw_random_programs(engine: Any, part: int) -> None:
    for seed in range(100 + 12 * part, 112 + 12 * part):
        program, context, expected, log_prob = _drawn(seed)
        found, found_log_prob = engine.draw(program, 11, seed=seed, first_row=2**32 - 5, context=context)
        assert torch.equal(found, expected), seed
        torch.testing.assert_close(found_log_prob, log_prob, rtol=1e-12, atol=1e-12, msg=f"seed {seed}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_a_wholly_dead_operation_is_dropped(engine: Any, dtype: torch.dtype) -> None:
    """An affine operation that reaches no parameter costs nothing and hurts nobody."""
    mask = torch.ones(6, 6).tril(-1).bool()
    weight = torch.randn(6, 6, dtype=dtype) * mask
    dead = Affine((Term(X, torch.randn(4, 6, dtype=dtype), None),), torch.randn(4, dtype=dtype))
    alive = Affine((Term(X, weight, mask),), torch.randn(6, dtype=dtype))
    order = torch.arange(6)
    with_dead = Program(6, 0, (dead, Elementwise(2, "relu"), alive), order, (1,) * 6)
    without = Program(6, 0, (alive,), order, (1,) * 6)
    assert build_schedule(with_dead).macs == build_schedule(without).macs == 15
    assert torch.equal(engine.draw(with_dead, 20, seed=1)[0], engine.draw(without, 20, seed=1)[0])


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({"hidden_features": (32,)}, 8),
        ({"hidden_features": (32, 32), "order": "random"}, 8),
        ({"hidden_features": (), "direct": True}, 8),
        ({"hidden_features": ()}, 1),  # nothing depends on anything: one step
        ({"hidden_features": (1,)}, 2),  # the last variable depends on all the others, they on nothing
        ({"hidden_features": (3,)}, 4),  # degrees 1, 4 and 7: each is one barrier
        ({"hidden_features": (16, 16), "residual": True, "direct": True, "context_features": 2}, 8),
    ],
)
def test_number_of_steps_of_a_made(arguments: dict[str, Any], steps: int) -> None:
    model = MADE(8, **arguments)
    sampler = model.sampler()
    assert sampler.num_steps == steps
    assert sampler.macs == _live_connections(model.program())
    assert sampler.dense_macs == model.program().dense_macs
    assert sampler.levels.tolist() == _longest_paths(_depends(model.program()))


def test_levels_do_not_ask_the_order(build: Callable[..., MADE]) -> None:
    """Two independent halves take half the steps, though the order has them one after the other."""
    model = build({"hidden_features": (), "direct": True})
    with torch.no_grad():
        model.parameters_layer.mask[5:, :5] = False
    assert model.sampler().num_steps == 5
    assert model.sampler().levels.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]


def _connected(features: int, connections: list[tuple[int, int]], *, hidden: bool) -> Program:
    """A program in which the parameter of variable i reads variable j for each (i, j), through a hidden unit or not."""
    mask = torch.zeros(features, features, dtype=torch.bool)
    for reader, read in connections:
        mask[reader, read] = True
    eye, ops = torch.eye(features, dtype=torch.bool), [Affine((Term(X, mask.double(), mask),), None)]
    if hidden:
        ops = [
            Affine((Term(X, eye.double(), eye),), None),
            Elementwise(2, "tanh"),
            Affine((Term(3, mask.double(), mask),), None),
        ]
    return Program(features, 0, tuple(ops), torch.arange(features), (1,) * features)


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize(
    ("connections", "guilty"),
    [
        ([(6, 6)], {6}),
        ([(1, 0), (3, 3), (2, 1)], {3}),
        ([(6, 4), (4, 6)], {4, 6}),
        ([(5, 4), (6, 5), (4, 6), (1, 0)], {4, 5, 6}),
        ([(6, 6), (0, 6), (1, 6), (2, 6), (3, 6), (4, 6)], {6}),  # five variables wait for the leak, but are innocent
        ([(5, 6), (6, 5), (0, 5), (1, 0), (2, 1), (3, 2), (4, 3)], {5, 6}),
    ],
)
def test_leaks_and_rings_are_named(connections: list[tuple[int, int]], guilty: set[int], hidden: bool) -> None:
    with pytest.raises(ValueError, match="not autoregressive") as error:
        build_schedule(_connected(7, connections, hidden=hidden))
    message = str(error.value)
    assert "\n" not in message
    named = {int(word) for word in message.replace(",", " ").replace(";", " ").split() if word.isdigit()}
    assert named == guilty


def test_a_made_with_a_leak_cannot_be_sampled(build: Callable[..., MADE], every_option: dict[str, Any]) -> None:
    model = build(every_option["natural"])
    with torch.no_grad():
        model.parameters_layer.mask[:] = True
    with pytest.raises(ValueError, match=r"^parameters_layer.mask must follow the order"):
        model.sample(1)

"""Calls of the compiled module with numbers, shapes and types at the edges: each must raise or work."""

from __future__ import annotations

import copy
import os
import random
from typing import Any

import numpy as np
import torch

from benchmarks.campaigns import isolated
from made_fast import MADE, build_config
from made_fast.masks.plan import plan_from_degrees, plan_from_mask
from made_fast.outputs import Categorical, Mixed, MixtureOfLogistics, MixtureOfNormals, Normal
from made_fast.programs.schedule import build_schedule

COLUMNS = isolated.COLUMNS
NUMBERS = (
    -(2**63),
    -(2**31) - 1,
    -(2**31),
    -2,
    -1,
    0,
    1,
    2,
    3,
    7,
    2**31 - 1,
    2**31,
    2**32,
    2**32 + 1,
    2**62,
    2**63 - 1,
)
REALS = (float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1e-320, 0.5, 2.0, 1e308)
REFUSALS = (ValueError, TypeError, OverflowError, MemoryError, RuntimeError)
ROWS = 3  # of each draw
Arguments = dict[str, Any]


def tally(seed: int, count: int) -> list[dict[str, Any]]:
    """Rows of ``COLUMNS``; none where nothing is compiled."""
    return isolated.run("edges", seed, count) if build_config()["compiled"] else []


def child(seed: int, first: int, count: int, memory: float | None = 3.0) -> None:
    """The attempts [first, first + count), in this process."""
    torch.set_num_threads(1)
    isolated.use_module()
    calls = Calls()
    if memory is not None and isolated.MODULE not in os.environ:
        isolated.limited(memory)
    kinds = ("program", "program", "draw", "side", "product")
    for number in range(first, first + count):
        rng = isolated.rng_of(seed, number, "edges")
        kind = rng.choice(kinds)
        isolated.attempt(kind, number, lambda kind=kind, rng=rng: getattr(calls, kind)(rng), REFUSALS)


def changed(value: Any, rng: random.Random) -> Any:
    """Something near a value that need not fit."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((*NUMBERS, value + 1, value - 1))
    if isinstance(value, float):
        return rng.choice(REALS)
    if isinstance(value, np.ndarray):
        return _changed_array(value, rng)
    return rng.choice((0, None, np.zeros(3), "abc")) if rng.random() < 0.2 else value


def _changed_array(value: Any, rng: random.Random) -> Any:
    value = value.copy()
    how = rng.randrange(9)
    if how < 5 and value.size:  # one number
        place = rng.randrange(value.size)
        if value.dtype.kind == "f":
            value.flat[place] = rng.choice(REALS)
        elif value.dtype.kind == "b":
            value.flat[place] ^= True
        else:
            info = np.iinfo(value.dtype)
            near = int(value.flat[place]) + rng.choice((-1, 1))
            value.flat[place] = min(max(rng.choice((*NUMBERS, near)), info.min), info.max)
        return value
    if value.ndim and value.shape[0]:
        if how == 5:
            return value[:-1]
        if how == 6:
            return np.concatenate([value, value[-1:]])
    if how == 7:
        return np.ascontiguousarray(value.T) if value.ndim > 1 else value.reshape(-1, 1)
    return rng.choice((value[:0], value.ravel(), value.astype(np.float64), value[None], np.asfortranarray(value)))


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the parts of nested arguments lie."""
    if isinstance(value, dict):
        return [leaf for key, each in value.items() for leaf in leaves(each, (*path, key))]
    if isinstance(value, list):
        return [leaf for key, each in enumerate(value) for leaf in leaves(each, (*path, key))]
    return [path]


def with_change(arguments: Arguments, rng: random.Random) -> Arguments:
    """A copy of which one part, or two, are changed."""
    found = copy.deepcopy(arguments)
    for _ in range(rng.choice((1, 1, 2))):
        *path, last = rng.choice(leaves(found))
        part: Any = found
        for key in path:
            part = part[key]
        part[last] = changed(part[last], rng)
    return found


class Calls:
    """One valid call of each kind, and what is made of it."""

    def __init__(self) -> None:
        from made_fast import _core
        from made_fast.backends.cpp.arrays import layout

        self.core: Any = _core
        self.sets = _core.instruction_sets()
        mixed = Mixed(
            [
                *(Normal(), Categorical(7), Categorical(6, embedding=2), "spin", Categorical(3)),
                *(MixtureOfNormals(2), MixtureOfLogistics(2, levels=9), "bernoulli"),
            ]
        )
        torch.manual_seed(0)
        self.models = [
            MADE(8, (9, 8), output=mixed, context_features=2),
            MADE(8, (8, 8), output=mixed, context_features=2, residual=True, direct=True, degrees="random"),
            MADE(6, (7,)),
            MADE(4, (12,), output=Categorical(30), order="reversed"),
        ]
        programs = [model.program() for model in self.models]
        self.programs: list[Arguments] = [layout(each, build_schedule(each)) for each in programs]
        generator = np.random.default_rng(0)
        plans = [
            plan_from_degrees(generator.integers(0, 20, 50), generator.integers(0, 20, 30)),
            plan_from_mask(generator.random((50, 30)) < 0.3),
        ]
        names = ("rows", "columns", "groups", "longest_first", "positions", "bits", "contiguous")
        self.sides: list[Arguments] = [{name: getattr(plan.forward, name) for name in names} for plan in plans]

    def program(self, rng: random.Random) -> None:
        """Packs a changed program, and draws from it if it is taken."""
        arguments = with_change(rng.choice(self.programs), rng)
        kind = rng.choice((self.core.SamplerF32, self.core.SamplerF64))
        sampler = self._packed(kind, arguments)
        self._draw(sampler, kind, arguments, rng, {})

    def draw(self, rng: random.Random) -> None:
        """A valid program, and a draw with changed numbers; addresses and what they point to are right."""
        arguments, kind = rng.choice(self.programs), rng.choice((self.core.SamplerF32, self.core.SamplerF64))
        change: Arguments = rng.choice(
            (
                {"num_rows": rng.choice((-(2**63), -1, 0, 1, 2))},
                {"first_row": rng.choice(NUMBERS)},
                {"seed": rng.choice(NUMBERS)},
                {"rows_per_context": rng.choice(NUMBERS)},
                {"row_offset": rng.choice((-(2**63), -1))},
                {"num_threads": rng.choice((*NUMBERS[:9], 3))},
                {"rows_at_once": rng.choice(NUMBERS)},
                {"isa": rng.choice(("", "abacus", "avx512_bf16", self.sets[0]))},
                {"temperature": rng.choice(REALS)},
                {"top_k": rng.choice(NUMBERS)},
                {"top_p": rng.choice(REALS)},
                {"support_size": rng.choice(NUMBERS)},
                {"num_sums": rng.choice(NUMBERS)},
            )
        )
        self._draw(self._packed(kind, arguments), kind, arguments, rng, change)

    def side(self, rng: random.Random) -> None:
        """A changed side of a mask, and a product by it if it is taken."""
        side = with_change(rng.choice(self.sides), rng)
        self._product(self.core.MaskSide(**side), len(side["rows"]), len(side["columns"]), rng, {})

    def product(self, rng: random.Random) -> None:
        """A valid side, and a product with changed numbers."""
        side = rng.choice(self.sides)
        change = rng.choice(
            (
                {"batch": rng.choice((-(2**63), -1, 0, 1, 2))},
                {"function": rng.choice(NUMBERS)},
                {"num_threads": rng.choice((*NUMBERS[:9], 3))},
                {"isa": rng.choice(("", "abacus"))},
            )
        )
        self._product(self.core.MaskSide(**side), len(side["rows"]), len(side["columns"]), rng, change)

    def _packed(self, kind: Any, arguments: Arguments) -> Any:
        arguments = dict(arguments)
        arguments["conditionals"] = [self.core.Conditional(**each) for each in arguments["conditionals"]]
        arguments["affines"] = [self.core.Affine(**each) for each in arguments["affines"]]
        return kind(**arguments)

    def _draw(self, sampler: Any, kind: Any, arguments: Arguments, rng: random.Random, change: Arguments) -> None:
        dtype = np.float32 if kind is self.core.SamplerF32 else np.float64
        features = arguments["features"]
        sizes = sum(arguments["conditionals"][int(row[4])]["size"] for row in arguments["variables"])
        out, sums = np.zeros((ROWS, features), dtype), np.zeros((2, ROWS), dtype)
        context = np.zeros(max(1, min(arguments["context_features"], 1000)), dtype)
        conditions, held = self._conditions(features, sizes, dtype, rng, change)
        decoding = {key: change[key] for key in ("temperature", "top_k", "top_p") if key in change}
        call = {
            "isa": rng.choice(self.sets),
            "num_rows": ROWS,
            "first_row": 0,
            "rows": 0,
            "seed": 0,
            "context": context.ctypes.data,
            "row_offset": 0,
            "rows_per_context": ROWS,
            "out": out.ctypes.data,
            "log_prob": sums[0].ctypes.data,
            "log_weight": sums[1].ctypes.data,
            "conditions": conditions,
            "decoding": self.core.Decoding(greedy=rng.random() < 0.2, **decoding),
            "num_threads": 1,
            "rows_at_once": rng.choice((0, 1, 5)),
        }
        call |= {key: value for key, value in change.items() if key in call}
        if call["rows_per_context"] < ROWS:  # there is one condition
            call["num_rows"] = min(call["num_rows"], max(0, call["rows_per_context"]))
        sampler.scratch_bytes(self.sets[0], ROWS, 1)
        sampler.draw(**call)
        del held

    def _conditions(
        self, features: int, sizes: int, dtype: Any, rng: random.Random, change: Arguments
    ) -> tuple[Any, list[Any]]:
        if rng.random() < 0.4 and not {"support_size", "num_sums"} & {*change}:
            return self.core.Conditions(), []
        given, observed = np.zeros(features, dtype), np.asarray([rng.random() < 0.4 for _ in range(features)], np.uint8)
        support, bounds = np.ones(sizes + 1, np.uint8), np.tile(np.asarray([-1, 1], dtype), features + 1)
        constrained = np.ones(features + 1, np.uint8)
        pattern, lacking, bits = np.zeros(1, np.int64), np.ones(8, np.int64), np.full(8, 255, np.uint8)
        reaches = np.tile(np.asarray([0, 0, -8, 64], np.int64), (features + 1, 1))
        held = [given, observed, support, bounds, constrained, pattern, lacking, bits, reaches]
        found = self.core.Conditions(
            given=given.ctypes.data,
            observed=observed.ctypes.data,
            support=support.ctypes.data,
            bounds=bounds.ctypes.data,
            constrained=constrained.ctypes.data,
            support_size=change.get("support_size", sizes),
            sum_pattern=pattern.ctypes.data,
            sum_lacking=lacking.ctypes.data,
            sum_reaches=reaches.ctypes.data,
            sum_bits=bits.ctypes.data,
            num_sums=change.get("num_sums", rng.choice((0, 1, 8))),
        )
        return found, held

    def _product(self, side: Any, rows: int, columns: int, rng: random.Random, change: Arguments) -> None:
        ending = rng.choice(("f32", "f64"))
        dtype = np.float32 if ending == "f32" else np.float64
        batch = change.get("batch", 3)
        x, weight = np.ones((3, columns), dtype), np.ones((rows, columns), dtype)
        out, grad, square = np.zeros((3, rows), dtype), np.ones((3, rows), dtype), np.zeros((rows, columns), dtype)
        isa, threads = change.get("isa", rng.choice(self.sets)), change.get("num_threads", 1)
        if rng.random() < 0.5:
            run = getattr(self.core, f"masked_outer_{ending}")
            run(isa, side, batch, grad.ctypes.data, x.ctypes.data, square.ctypes.data, threads)
            return
        run = getattr(self.core, f"masked_matmul_{ending}")
        addresses = (x.ctypes.data, weight.ctypes.data, columns, 1, 0)
        run(isa, side, batch, *addresses, change.get("function", 0), out.ctypes.data, threads)

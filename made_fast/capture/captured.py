"""``capture``: a torch module that maps x (B, D) to the parameters of conditionals becomes a program."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized
from torch.utils._pytree import tree_leaves

from made_fast.capture.again import LastGraph
from made_fast.capture.bounds import why_no_parameters
from made_fast.capture.export import Call, CaptureError, Graph, exact_copy, export
from made_fast.capture.layouts import arrange
from made_fast.capture.rehearsal import what_stands_in_the_way
from made_fast.capture.symbols import Builder, Symbol
from made_fast.capture.translate import is_known, translate
from made_fast.outputs.codes import Encoding
from made_fast.outputs.conditional import Conditional
from made_fast.programs.dependencies import reads
from made_fast.programs.program import CONTEXT, Op, Program, X
from made_fast.programs.simplify import simplified

__all__ = ["Call", "CaptureError", "Captured", "call_of", "capture", "first_width"]

_CHECKED_ROWS = 7
_TOLERANCE = 1e-9  # of the captured program, relative above 1, in fp64
_CAST_TOLERANCE = 100  # in roundings of a dtype to which the module itself casts
_CONTEXT_NAMES = ("context", "cond", "condition", "conditions", "cond_inputs", "c", "y", "theta", "labels")


@dataclass(frozen=True)
class Captured:
    """A module as operations over units, weights in fp64.

    Attributes:
        features, context_features: D and C.
        ops: see ``Program``; the last one makes flat, variable-major parameters.
        order: int64 (D,), in which variables can be drawn, by the dependencies; lower numbers first where there is a choice.
        params_per_variable: K_d for each variable.
        layout: how the module arranges them, ``"variable-major"`` or ``"parameter-major"``.
        dtype: of the module's parameters.
        dense_macs: multiply-adds of the module's matrices for one row.
        difference: largest difference from the module itself in fp64 on random rows, relative above 1; nan if not checked.
    """

    features: int
    context_features: int
    ops: tuple[Op, ...]
    order: Tensor
    params_per_variable: tuple[int, ...]
    layout: str
    dtype: torch.dtype
    dense_macs: int
    difference: float

    def check_parameters(self, conditionals: Sequence[Conditional]) -> None:
        """Raises CaptureError where the module returns something else than the parameters of these conditionals."""
        sizes = (self.features, self.context_features)
        whole = Program(*sizes, self.ops, self.order, self.params_per_variable, tuple(conditionals))
        found = why_no_parameters(self.ops, whole.widths, conditionals)
        if found is not None:
            raise CaptureError(
                f"module must return parameters of its output, but its last function makes {found}: leave that function out "
                "of the module or undo it in call (call=lambda module, x, context: torch.logit(module(x)) after a sigmoid); "
                "bounded=True takes them as they are"
            )

    def program(
        self,
        conditionals: Sequence[Conditional] = (),
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> Program:
        """As a program; all Bernoulli if ``conditionals`` are left out."""
        sizes = (self.features, self.context_features)
        order = self.order.to(device)
        program = Program(*sizes, self.ops, order, self.params_per_variable, tuple(conditionals))
        return program.to(dtype, device)


def capture(
    module: nn.Module,
    features: int,
    context_features: int = 0,
    *,
    call: Call | None = None,
    layout: str | None = None,
    conditionals: Sequence[Conditional] = (),
    check: bool = True,
    hurry: bool = False,
    last: LastGraph | None = None,
) -> Captured:
    """Reads what a module computes, and proves it by comparison.

    A copy of the module in fp64 and evaluation mode is exported by ``torch.export`` for one row. What does not depend on the
    input is folded into constants, so that masks, however they are written, are the zeros of the folded weights; all else is
    translated operation by operation. Order and layout are found from the dependencies.

    Args:
        module: maps x (B, E) to parameters: one tensor (B, P), (B, D, K) or (B, K, D), or a tuple of such. E is D unless
            conditionals say that the network reads more of a variable. It is not changed.
        features: D.
        context_features: C; 0 for none.
        call: how the module is called: a function of (module, x, context) that returns the parameters. If left out
            ``module(x)``; with a context ``module(x, context)``, and for modules of one argument
            ``module(cat([x, context], dim=-1))``.
        layout: ``"variable-major"`` or ``"parameter-major"``, if it cannot be told from the dependencies.
        conditionals: one for each variable, which say how many parameters it has and what the network reads of it.
        check: compare with the module.
        hurry: refuse what cannot be translated before it is exported, in fewer words.
        last: of the same module called in the same way: its graph serves again where only weights have changed, and what
            comes of it is compared in any case.

    Raises:
        CaptureError: a ValueError. The module has an operation that no program has, is not autoregressive, is in training
            mode where that matters, or differs from what was captured.
    """
    call = call_of(module, context_features) if call is None else call
    exact = exact_copy(module)
    encoded = Encoded(features, tuple(conditionals), first_width(module) - context_features)
    x = torch.zeros(1, encoded.width, dtype=torch.float64)
    context = torch.zeros(1, context_features, dtype=torch.float64) if context_features else None
    reading = _Reading(module, exact, call, encoded, context_features, tuple(conditionals), layout)
    graph = None if last is None else last.renewed(module, exact)
    if graph is not None:
        try:
            return reading.of(graph)
        except CaptureError:  # something else is another too
            exact = exact_copy(module)
            reading = replace(reading, exact=exact)
    reason = what_stands_in_the_way(call, exact, x, context, is_known) if hurry else None
    if reason is not None:
        raise CaptureError(f"module must be of operations that can be translated, but {reason}")
    graph = export(exact, call, x, context, is_known)
    if last is not None:
        last.keep(module, graph)
    return reading.of(graph, check=check)


@dataclass(frozen=True)
class _Reading:
    """A module and its exact copy, and how both are called."""

    module: nn.Module
    exact: nn.Module
    call: Call
    encoded: Encoded
    context_features: int
    conditionals: tuple[Conditional, ...]
    layout: str | None

    def of(self, graph: Graph, *, check: bool = True) -> Captured:
        """What a graph of the exact copy says, compared with the copy."""
        features, context_features = self.encoded.features, self.context_features
        builder = Builder(self.encoded.units, context_features)
        inputs = (self.encoded.symbol(builder), builder.whole(CONTEXT).reshape((1, -1)))
        symbols, shapes = _results(translate(graph, builder, inputs[: len(graph.inputs)]))
        ops, widths = [*builder.ops], [*builder.widths]
        builder.rows(symbols)
        every = Program(features, context_features, tuple(builder.ops), torch.arange(features), (), self.conditionals)
        sizes = tuple(each.num_params for each in self.conditionals) or None
        arrangement = arrange(shapes, reads(every), features, layout=self.layout, params_per_variable=sizes)
        builder.ops, builder.widths = ops, widths
        builder.rows(symbols[arrangement.index])
        captured = Captured(
            *(features, context_features, simplified(builder.ops), arrangement.order, arrangement.params_per_variable),
            *(arrangement.layout, _dtype_of(self.module), builder.dense_macs, float("nan")),
        )
        if not check:
            return captured
        rows = _Rows(self.encoded, context_features)
        expected = rows.parameters(self.exact, self.call, arrangement.index)
        tolerance = max(_TOLERANCE, _CAST_TOLERANCE * builder.rounding)
        difference = rows.difference(captured.program(self.conditionals), expected, tolerance)
        for copied, original in zip(self.exact.modules(), self.module.modules(), strict=True):
            copied.training = original.training
        if not torch.equal(rows.parameters(self.exact, self.call, arrangement.index), expected):
            raise CaptureError(
                "module must be in evaluation mode, since training changes what it gives: call eval() first"
            )
        return replace(captured, difference=difference)


def _results(results: list[Any]) -> tuple[Symbol, list[tuple[int, ...]]]:
    """All results in one row, and the shape of each for one row of the batch."""
    symbols = [Symbol.constant(each) if isinstance(each, Tensor) else each for each in results if each is not None]
    shapes = [tuple(each.shape) for each in symbols]
    if not symbols or any(shape[:1] != (1,) for shape in shapes):
        raise CaptureError(f"module must return parameters (B, ...), got shapes {shapes} for one row")
    flat = [each.reshape((-1,)) for each in symbols]
    joined = Symbol(*(torch.cat([getattr(each, name) for each in flat]) for name in ("reference", "scale", "shift")))
    return joined, [shape[1:] for shape in shapes]


def call_of(module: nn.Module, context_features: int) -> Call:
    """How a module is called, by its signature.

    Raises:
        CaptureError: it has several arguments that could be the context.
    """
    if not context_features:
        return lambda module, x, context: module(x)
    named = list(inspect.signature(module.forward).parameters.values())[1:]
    plain = [each for each in named if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    keyword = [each for each in named if each.kind == each.KEYWORD_ONLY]
    known = [each for each in (*plain, *keyword) if each.name in _CONTEXT_NAMES]
    chosen = known[0] if known else plain[0] if len(plain) == 1 else None
    if chosen is None and plain:
        raise CaptureError(
            f"call must say how {type(module).__name__} takes its context, which could be any of "
            f"{', '.join(each.name for each in plain)}: give a function of (module, x, context)"
        )
    if chosen is None:
        return lambda module, x, context: module(torch.cat([x, _given(context)], dim=-1))
    if plain and chosen is plain[0]:
        return lambda module, x, context: module(x, context)
    return lambda module, x, context: module(x, **{chosen.name: context})


def _given(context: Tensor | None) -> Tensor:
    assert context is not None
    return context


def _dtype_of(module: nn.Module) -> torch.dtype:
    """The dtype of the first real parameter or buffer; torch's default if there is none."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype
    return torch.get_default_dtype()


def first_width(module: nn.Module) -> int:
    """Columns of the first weight matrix, 0 if there is none: most often what the module reads."""
    for layer in module.modules():
        if isinstance(layer, ParametrizationList):
            continue  # what weights are made from may have other shapes
        names = cast(nn.ModuleDict, layer.parametrizations) if is_parametrized(layer) else ()
        parametrized = [getattr(layer, name) for name in names]
        for weight in (*parametrized, *layer.parameters(recurse=False)):
            if weight.ndim == 2:
                return int(weight.shape[1])
    return 0


@dataclass(frozen=True)
class Encoded:
    """How the input of a module follows from what the program reads.

    Numbers are handed to the module as they are. Categories are handed over one-hot, (B, sum of sizes), or as numbers (B, D)
    if that is the width of its first weight matrix.

    Attributes:
        features: D.
        conditionals: one for each variable; empty where the module reads the variables as they are.
        weight_width: columns of the first weight matrix of the module for the variables, without those for a context.
    """

    features: int
    conditionals: tuple[Conditional, ...]
    weight_width: int

    def __post_init__(self) -> None:
        if self.conditionals and len(self.conditionals) != self.features:
            raise CaptureError(f"output must describe {self.features} variables, got {len(self.conditionals)}")
        if any(each.encoding == Encoding.EMBEDDING for each in self.conditionals):
            raise CaptureError("output must have no embedding of its own: the module reads one-hot categories")

    @property
    def units(self) -> int:
        """Columns of what the program reads."""
        return sum(each.units for each in self.conditionals) if self.conditionals else self.features

    @property
    def as_numbers(self) -> bool:
        """Whether the module reads one number of each variable."""
        return self.features in (self.weight_width, self.units)

    @property
    def width(self) -> int:
        """Columns of what the module reads."""
        return self.features if self.as_numbers else self.units

    def symbol(self, builder: Builder) -> Symbol:
        """The input of the module, (1, width)."""
        whole = builder.whole(X)
        if not self.conditionals:
            return whole.reshape((1, -1))
        scale = torch.tensor([each.scale for each in self.conditionals for _ in range(each.units)], dtype=torch.float64)
        shift = torch.tensor([each.shift for each in self.conditionals for _ in range(each.units)], dtype=torch.float64)
        numbers = whole.shifted(-shift).scaled(1 / scale)
        if self.as_numbers and self.units != self.features:
            parts = [
                torch.arange(each.size).double()[None] if each.encoding == Encoding.ONE_HOT else torch.ones(1, 1)
                for each in self.conditionals
            ]
            numbers = builder.linear(torch.block_diag(*parts), numbers)
        return numbers.reshape((1, -1))

    def of(self, x: Tensor) -> Tensor:
        """The input of the module for x (B, D)."""
        if self.as_numbers:
            return x
        columns = [
            each.encode(x[:, variable]) if each.encoding == Encoding.ONE_HOT else x[:, variable, None]
            for variable, each in enumerate(self.conditionals)
        ]
        return torch.cat(columns, dim=1)


class _Rows:
    """Random rows on which a program is compared with its module."""

    def __init__(self, encoded: Encoded, context_features: int) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(_CHECKED_ROWS, encoded.features, generator=generator, dtype=torch.float64)
        for variable, conditional in enumerate(encoded.conditionals):
            values = conditional.values()
            if values is not None:
                x[:, variable] = values[torch.randint(len(values), (_CHECKED_ROWS,), generator=generator)]
        context = torch.randn(_CHECKED_ROWS, context_features, generator=generator, dtype=torch.float64)
        self.x, self.context, self.units = x, context if context_features else None, encoded.of(x)

    def parameters(self, module: nn.Module, call: Call, index: Tensor) -> Tensor:
        """What the module itself gives, variable-major: (B, P)."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            result = call(module, self.units.clone(), self.context)  # some modules write into their input
        parts = [each.double().reshape(_CHECKED_ROWS, -1) for each in tree_leaves(result) if isinstance(each, Tensor)]
        return torch.cat(parts, dim=1)[:, index]

    def difference(self, program: Program, expected: Tensor, tolerance: float) -> float:
        """Largest difference between program and module, relative above 1.

        Raises:
            CaptureError: it is too large.
        """
        given = program.evaluate(self.x, self.context)
        largest = ((given - expected).abs() / expected.abs().clamp(min=1)).amax().item() if expected.numel() else 0.0
        if not largest <= tolerance:
            raise CaptureError(
                f"module must compute what was captured of it, but they differ by {largest:.3g}: its rows depend on one "
                "another, it is random, or it depends on the values of its input in a way that one row does not show"
            )
        return largest

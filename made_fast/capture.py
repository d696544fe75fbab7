"""Any torch module from x (B, D) to the parameters of autoregressive conditionals -> program."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from made_fast.conditionals import Conditional
from made_fast.dependencies import reads
from made_fast.graph import Call, CaptureError, exact_copy, export
from made_fast.layouts import arrange
from made_fast.program import CONTEXT, Op, Program, X
from made_fast.simplify import simplified
from made_fast.symbols import Builder, Symbol
from made_fast.translate import is_known, translate

__all__ = ["Call", "CaptureError", "Captured", "call_of", "capture"]

_CHECKED_ROWS = 7
_TOLERANCE = 1e-9  # of the captured program, relative above 1, in fp64
_CONTEXT_NAMES = ("context", "cond", "condition", "conditions", "cond_inputs", "c", "y", "theta", "labels")


@dataclass(frozen=True)
class Captured:
    """A module as operations over units, weights in fp64.

    Attributes:
        features, context_features: D and C.
        ops: see ``Program``; the last one makes flat, variable-major parameters.
        order: int64 (D,), in which variables can be drawn, found from the dependencies; ties by number.
        params_per_variable: K_d for each variable.
        layout: in which the module gives them, ``"variable-major"`` or ``"parameter-major"``.
        dtype: of the module's parameters.
        difference: largest difference from the module itself in fp64 on random rows, relative above 1; nan if not checked.
    """

    features: int
    context_features: int
    ops: tuple[Op, ...]
    order: Tensor
    params_per_variable: tuple[int, ...]
    layout: str
    dtype: torch.dtype
    difference: float

    def program(self, conditionals: Sequence[Conditional] = ()) -> Program:
        """As a program in fp64; all Bernoulli if ``conditionals`` are left out."""
        sizes = (self.features, self.context_features)
        return Program(*sizes, self.ops, self.order, self.params_per_variable, tuple(conditionals))


def capture(
    module: nn.Module,
    features: int,
    context_features: int = 0,
    *,
    call: Call | None = None,
    layout: str | None = None,
    conditionals: Sequence[Conditional] = (),
    check: bool = True,
) -> Captured:
    """Reads what a module computes, and proves it by comparison.

    A copy of the module in fp64 and evaluation mode is exported by ``torch.export`` for one row. What does not depend on the
    input is folded into constants, so that masks, however they are spelled, are the zeros of the folded weights; all else is
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

    Raises:
        CaptureError: a ValueError. The module has an operation that no program has, is not autoregressive, is in training
            mode where that matters, or differs from what was captured.
    """
    call = call_of(module, context_features) if call is None else call
    dtype = _dtype_of(module)
    exact = exact_copy(module)
    units = sum(each.units for each in conditionals) if conditionals else features
    x = torch.zeros(1, units, dtype=torch.float64)
    context = torch.zeros(1, context_features, dtype=torch.float64) if context_features else None
    graph = export(exact, call, x, context, is_known)
    builder = Builder(units, context_features)
    inputs = tuple(builder.whole(value).reshape((1, -1)) for value in (X, CONTEXT)[: len(graph.inputs)])
    results = [each for each in translate(graph, builder, inputs) if isinstance(each, Symbol | Tensor)]
    symbols = [each if isinstance(each, Symbol) else Symbol.constant(each) for each in results]
    shapes = [tuple(each.shape) for each in symbols]
    if not symbols or any(shape[:1] != (1,) for shape in shapes):
        raise CaptureError(f"module must return parameters (B, ...), got shapes {shapes} for one row")
    flat = _joined(symbols)
    ops = [*builder.ops]
    builder.rows(flat)
    sizes = tuple(each.num_params for each in conditionals) or None
    every = Program(features, context_features, tuple(builder.ops), torch.arange(features), (), tuple(conditionals))
    found = arrange([shape[1:] for shape in shapes], reads(every), features, layout=layout, params_per_variable=sizes)
    builder.ops, builder.widths = ops, builder.widths[:-1]
    builder.rows(flat[found.index])
    made = simplified(builder.ops)
    program = Program(features, context_features, made, found.order, found.params_per_variable, tuple(conditionals))
    difference = float("nan")
    if check:
        difference = _difference(program, lambda x, context: call(exact, x, context), found.index)
    return Captured(
        features, context_features, made, found.order, found.params_per_variable, found.layout, dtype, difference
    )


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


def _joined(symbols: list[Symbol]) -> Symbol:
    flat = [each.reshape((-1,)) for each in symbols]
    return Symbol(*(torch.cat([getattr(each, name) for each in flat]) for name in ("reference", "scale", "shift")))


def _difference(program: Program, module: Callable[[Tensor, Tensor | None], Any], index: Tensor) -> float:
    """Largest difference between program and module on random rows, relative above 1.

    Raises:
        CaptureError: it is too large.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_CHECKED_ROWS, sum(program.input_units), generator=generator, dtype=torch.float64)
    x[::2] = (x[::2] > 0).double()
    context = torch.randn(_CHECKED_ROWS, program.context_features, generator=generator, dtype=torch.float64)
    context_or_none = context if program.context_features else None
    with torch.no_grad():
        result = module(x, context_or_none)
        parts = [each for each in torch.utils._pytree.tree_leaves(result) if isinstance(each, Tensor)]
        expected = torch.cat([part.double().reshape(_CHECKED_ROWS, -1) for part in parts], dim=1)[:, index]
        found = program.evaluate_units(x, context_or_none)
    difference = ((found - expected).abs() / expected.abs().clamp(min=1)).max().item() if expected.numel() else 0.0
    if not difference <= _TOLERANCE:
        raise CaptureError(
            f"module must compute what was captured of it, but they differ by {difference:.3g}: its rows depend on one "
            "another, it is random, or it depends on the values of its input in a way that one row does not show"
        )
    return difference

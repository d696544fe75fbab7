"""A network as a short list of operations over units: what samplers are made from.

Values are numbered: 0 is ``x`` (B, D), 1 is the context (B, C), and operation ``i`` makes value ``2 + i`` of shape (B, n).
A program holds plain tensors and no modules, so it is a snapshot: later training does not change it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["CONTEXT", "FUNCTIONS", "Add", "Affine", "Elementwise", "Multiply", "Op", "Program", "Term", "X"]

X, CONTEXT = 0, 1

# The position in this table is the code by which compiled backends know a function (csrc/plan.h).
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "silu": F.silu,
    "softplus": F.softplus,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


@dataclass(frozen=True)
class Term:
    """One summand ``weight @ source``: weight (n, m) with zeros where masked, mask (n, m) bool or None for all."""

    source: int
    weight: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class Affine:
    """``bias + sum of terms``; bias (n,) or None."""

    terms: tuple[Term, ...]
    bias: Tensor | None

    @property
    def sources(self) -> tuple[int, ...]:
        """The values this operation reads."""
        return tuple(term.source for term in self.terms)


@dataclass(frozen=True)
class Elementwise:
    """A function of ``FUNCTIONS`` applied to each unit."""

    source: int
    function: str

    @property
    def sources(self) -> tuple[int, ...]:
        """The values this operation reads."""
        return (self.source,)


@dataclass(frozen=True)
class Add:
    """Unit by unit sum of two values of one width."""

    left: int
    right: int

    @property
    def sources(self) -> tuple[int, ...]:
        """The values this operation reads."""
        return (self.left, self.right)


@dataclass(frozen=True)
class Multiply:
    """Unit by unit product of two values of one width."""

    left: int
    right: int

    @property
    def sources(self) -> tuple[int, ...]:
        """The values this operation reads."""
        return (self.left, self.right)


Op = Affine | Elementwise | Add | Multiply


@dataclass(frozen=True)
class Program:
    """A network from ``x`` (B, D) and context (B, C) to flat, variable-major parameters (B, P).

    Attributes:
        ops: in an order in which every operation reads values made before it; the last one makes the parameters.
        order: int64 (D,), ``order[s]`` is the variable whose noise has step ``s``.
        params_per_variable: K_d for each variable; P is their sum.
    """

    features: int
    context_features: int
    ops: tuple[Op, ...]
    order: Tensor
    params_per_variable: tuple[int, ...]

    @property
    def widths(self) -> list[int]:
        """Number of units of each value."""
        widths = [self.features, self.context_features]
        for op in self.ops:
            widths.append(op.terms[0].weight.shape[0] if isinstance(op, Affine) else widths[op.sources[0]])
        return widths

    @property
    def affines(self) -> list[Affine]:
        """The affine operations, in order."""
        return [op for op in self.ops if isinstance(op, Affine)]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.affines[0].terms[0].weight.dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.affines[0].terms[0].weight.device

    @property
    def dense_macs(self) -> int:
        """Multiply-adds for one row of one dense forward pass."""
        return sum(term.weight.numel() for op in self.affines for term in op.terms)

    def to(self, dtype: torch.dtype) -> Program:
        """Returns the same program with weights and biases of another dtype."""
        return self._mapped(lambda weight: weight.to(dtype), lambda bias: bias.to(dtype))

    def with_rounded_weights(self, dtype: torch.dtype) -> Program:
        """Returns the program with weights rounded to another dtype but kept in their own; biases are left as they are."""
        return self._mapped(lambda weight: weight.to(dtype).to(weight.dtype), lambda bias: bias)

    def _mapped(self, weights: Callable[[Tensor], Tensor], biases: Callable[[Tensor], Tensor]) -> Program:
        def mapped(op: Op) -> Op:
            if not isinstance(op, Affine):
                return op
            terms = tuple(replace(term, weight=weights(term.weight)) for term in op.terms)
            return Affine(terms, None if op.bias is None else biases(op.bias))

        return replace(self, ops=tuple(map(mapped, self.ops)))

    def evaluate(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Runs the whole network on ``x`` (B, D) and context (B, C): parameters (B, P). Plain torch, differentiable."""
        values = [x, x.new_zeros(x.shape[0], 0) if context is None else context]
        for op in self.ops:
            match op:
                case Affine():
                    first, *others = op.terms
                    total = F.linear(values[first.source], first.weight, op.bias)
                    values.append(sum((F.linear(values[term.source], term.weight) for term in others), total))
                case Elementwise():
                    values.append(FUNCTIONS[op.function](values[op.source]))
                case Add():
                    values.append(values[op.left] + values[op.right])
                case Multiply():
                    values.append(values[op.left] * values[op.right])
        return values[-1]

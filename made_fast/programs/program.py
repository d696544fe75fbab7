"""A network as a short list of operations over units: what samplers are made from.

Values are numbered: 0 is what the network reads of ``x``, (B, E), 1 is the context (B, C), and operation ``i`` makes value
``2 + i`` of shape (B, n).
A program holds plain tensors and no modules, so it is a snapshot: later training does not change it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, chain

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from made_fast.masks import connectivity
from made_fast.outputs.binary import BernoulliConditional
from made_fast.outputs.codes import Encoding
from made_fast.outputs.conditional import Conditional
from made_fast.programs.functions import FUNCTIONS

__all__ = [
    "CONTEXT",
    "Add",
    "Affine",
    "DegreeTerm",
    "Elementwise",
    "Multiply",
    "Op",
    "Program",
    "Term",
    "X",
    "copied",
    "masked",
    "term_of",
]

X, CONTEXT = 0, 1


@dataclass(frozen=True)
class Term:
    """One summand ``weight @ source``: weight (n, m) with zeros where masked, mask (n, m) bool or None for all."""

    source: int
    weight: Tensor
    mask: Tensor | None

    @property
    def numbers(self) -> Tensor:
        """(n, m): the weight, with any numbers where masked."""
        return self.weight

    @property
    def degrees(self) -> Tensor | None:
        """int64 (n + m,), those of rows and columns, if they make the mask: it is where ``row >= column``."""
        return None

    def with_numbers(self, numbers: Tensor) -> Term:
        """The same with other numbers."""
        return replace(self, weight=numbers)


class DegreeTerm(Term):
    """A term whose mask is made by degrees; mask and weight are made when they are asked for."""

    def __init__(self, source: int, numbers: Tensor, degrees: Tensor) -> None:
        self.__dict__.update(source=source, _numbers=numbers, _degrees=degrees)

    @property
    def numbers(self) -> Tensor:
        """See ``Term``."""
        found: Tensor = self.__dict__["_numbers"]
        return found

    @property
    def degrees(self) -> Tensor:
        """See ``Term``."""
        found: Tensor = self.__dict__["_degrees"]
        return found

    @property
    def mask(self) -> Tensor:  # type: ignore[override]
        """bool (n, m)."""
        return self._kept("mask", lambda: connectivity(*self.degrees.split(list(self.numbers.shape))))

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(n, m), zeros where masked."""
        return self._kept("weight", lambda: masked(self.numbers, self.mask))

    def _kept(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What was made once; nothing is kept that a transform of ``torch.func`` may have wrapped."""
        found: Tensor | None = self.__dict__.get(name)
        if found is None:
            with torch.inference_mode(False):
                found = make()
            if not torch._C._are_functorch_transforms_active():
                self.__dict__[name] = found
        return found

    def with_numbers(self, numbers: Tensor) -> Term:
        """See ``Term``."""
        return DegreeTerm(self.source, numbers, self.degrees)


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
        conditionals: one for each variable, which says what its parameters mean and what the network reads of it; all
            Bernoulli if left out.
        tables: the embedding tables of all embedded variables, (size, units) each, one after another; or None.
    """

    features: int
    context_features: int
    ops: tuple[Op, ...]
    order: Tensor
    params_per_variable: tuple[int, ...]
    conditionals: tuple[Conditional, ...] = ()
    tables: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.conditionals:
            object.__setattr__(self, "conditionals", (BernoulliConditional(),) * self.features)

    @cached_property
    def input_units(self) -> tuple[int, ...]:
        """Units that the network reads of each variable; E is their sum."""
        return tuple(each.units for each in self.conditionals)

    @cached_property
    def table_starts(self) -> list[int]:
        """(D + 1,) where the table of each variable begins in ``tables``, and their end."""
        embedded = (each.size * each.units * (each.encoding == Encoding.EMBEDDING) for each in self.conditionals)
        return list(accumulate(embedded, initial=0))

    @cached_property
    def support_starts(self) -> list[int]:
        """(D + 1,) where the flags of each variable begin in a row of ``Conditions.support``, and their number."""
        return list(accumulate((each.size for each in self.conditionals), initial=0))

    @cached_property
    def widths(self) -> list[int]:
        """Number of units of each value."""
        widths = [sum(self.input_units), self.context_features]
        for op in self.ops:
            widths.append(op.terms[0].numbers.shape[0] if isinstance(op, Affine) else widths[op.sources[0]])
        return widths

    @cached_property
    def affines(self) -> list[Affine]:
        """The affine operations, in order."""
        return [op for op in self.ops if isinstance(op, Affine)]

    @cached_property
    def functions(self) -> frozenset[str]:
        """The functions that it applies."""
        return frozenset(op.function for op in self.ops if isinstance(op, Elementwise))

    @cached_property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.affines[0].terms[0].numbers.dtype

    @cached_property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.affines[0].terms[0].numbers.device

    @property
    def tensors(self) -> list[Tensor | None]:
        """Of each affine operation the ``numbers`` of its terms and its bias, or None; then the tables, or None."""
        of_ops = [[*(term.numbers for term in op.terms), op.bias] for op in self.affines]
        return [*chain.from_iterable(of_ops), self.tables]

    def with_weights(self, numbers: Tensor) -> Program:
        """Returns the program with other weights.

        Args:
            numbers: those of all ``tensors``, one after another, zeros where masked; they are not copied.
        """
        parts = iter(numbers.split([0 if each is None else each.numel() for each in self.tensors]))

        def like(tensor: Tensor) -> Tensor:
            numbers: Tensor = next(parts)
            return numbers.reshape(tensor.shape)

        def renewed(op: Op) -> Op:
            if not isinstance(op, Affine):
                return op
            terms = tuple(term.with_numbers(like(term.numbers)) for term in op.terms)
            bias = next(parts)
            return Affine(terms, None if op.bias is None else bias)

        ops = tuple(map(renewed, self.ops))
        return replace(self, ops=ops, tables=None if self.tables is None else next(parts))

    @property
    def dense_macs(self) -> int:
        """Multiply-adds for one row of one dense forward pass."""
        return sum(term.numbers.numel() for op in self.affines for term in op.terms)

    def to(self, dtype: torch.dtype, device: torch.device | str | None = None) -> Program:
        """Returns the same program with weights and biases of another dtype, and on another device if one is named."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype)

        return self._mapped(moved, moved)

    def with_rounded_weights(self, dtype: torch.dtype) -> Program:
        """Returns the program with weights rounded to another dtype but kept in their own; biases are left as they are."""
        return self._mapped(lambda weight: weight.to(dtype).to(weight.dtype), lambda bias: bias)

    def _mapped(self, weights: Callable[[Tensor], Tensor], biases: Callable[[Tensor], Tensor]) -> Program:
        def mapped(op: Op) -> Op:
            if not isinstance(op, Affine):
                return op
            terms = tuple(term.with_numbers(weights(term.numbers)) for term in op.terms)
            return Affine(terms, None if op.bias is None else biases(op.bias))

        tables = None if self.tables is None else weights(self.tables)
        return replace(self, ops=tuple(map(mapped, self.ops)), tables=tables)

    def encode_variable(self, variable: int, x: Tensor) -> Tensor:
        """What the network reads of one variable, (B, units) from x (B,)."""
        conditional = self.conditionals[variable]
        if conditional.encoding != Encoding.EMBEDDING:
            return conditional.encode(x)
        assert self.tables is not None
        first, last = self.table_starts[variable : variable + 2]
        table: Tensor = self.tables[first:last].unflatten(0, (conditional.size, conditional.units))
        return table[x.long()]

    def encode(self, x: Tensor) -> Tensor:
        """What the network reads, (B, E) from x (B, D)."""
        if all(each.reads_itself for each in self.conditionals):
            return x
        return torch.cat([self.encode_variable(variable, x[:, variable]) for variable in range(self.features)], dim=1)

    def evaluate(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Runs the whole network on ``x`` (B, D) and context (B, C): parameters (B, P). Plain torch, differentiable."""
        return self.evaluate_units(self.encode(x), context)

    def evaluate_units(self, units: Tensor, context: Tensor | None = None) -> Tensor:
        """The same from what the network reads of the variables, (B, E)."""
        values = [units, units.new_zeros(units.shape[0], 0) if context is None else context]
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


def masked(weight: Tensor, mask: Tensor) -> Tensor:
    """A copy of a weight (n, m), zeros where a mask (n, m) is not set."""
    if _by_numpy(weight):
        values = weight.detach().numpy()
        return torch.from_numpy(np.where(mask.numpy(), values, values.dtype.type(0)))
    return torch.where(mask, weight, weight.new_zeros(()))


def copied(tensor: Tensor) -> Tensor:
    """A copy."""
    return torch.from_numpy(tensor.detach().numpy().copy()) if _by_numpy(tensor) else tensor.clone()


def _by_numpy(tensor: Tensor) -> bool:
    """Whether numpy can make what torch would start threads for, after which no process can be forked."""
    plain = tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64, torch.int64, torch.bool)
    return plain and not tensor.is_neg() and not torch._C._are_functorch_transforms_active()


def term_of(source: int, weight: Tensor) -> Term:
    """A term whose mask is where its weight is not zero."""
    mask = weight != 0
    return Term(source, weight, None if bool(mask.all()) else mask)

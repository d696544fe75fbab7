"""Tensors whose elements are units of a program, each times a scale plus a shift; and the builder of that program.

A ``Symbol`` stands for a tensor of one row of a batch. Moving, copying or leaving out elements, and multiplying by or adding
constants, changes references, scales and shifts alone; only what mixes elements, or applies a function that is not linear,
adds an operation to the program.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from made_fast.programs.functions import FUNCTIONS
from made_fast.programs.program import CONTEXT, Add, Affine, Elementwise, Multiply, Op, X, term_of

__all__ = ["Builder", "Symbol"]

_UNITS = 1 << 32  # a reference is value * _UNITS + unit


@dataclass(frozen=True)
class Symbol:
    """A tensor of any shape: element = ``scale * unit + shift``; constants have scale 0 and reference 0.

    Attributes:
        reference: int64, which value of the program and which of its units.
        scale: fp64, of the same shape.
        shift: fp64, of the same shape.
    """

    reference: Tensor
    scale: Tensor
    shift: Tensor

    @classmethod
    def of_value(cls, value: int, width: int) -> Symbol:
        """All units of one value of a program, (width,)."""
        shift = torch.zeros(width, dtype=torch.float64)
        return cls(value * _UNITS + torch.arange(width), torch.ones_like(shift), shift)

    @classmethod
    def constant(cls, tensor: Tensor | float) -> Symbol:
        """A tensor that depends on nothing."""
        shift = torch.as_tensor(tensor, dtype=torch.float64).detach()
        return cls(torch.zeros(shift.shape, dtype=torch.int64), torch.zeros_like(shift), shift)

    @property
    def shape(self) -> torch.Size:
        """Of the tensor that it stands for."""
        return self.shift.shape

    @property
    def source(self) -> Tensor:
        """Which value each element reads."""
        return self.reference // _UNITS

    @property
    def unit(self) -> Tensor:
        """Which unit of it."""
        return self.reference % _UNITS

    def reshape(self, shape: torch.Size | tuple[int, ...]) -> Symbol:
        """The same elements in another shape."""
        return Symbol(self.reference.reshape(shape), self.scale.reshape(shape), self.shift.reshape(shape))

    def expand(self, shape: torch.Size) -> Symbol:
        """Broadcast to a shape."""
        return Symbol(self.reference.expand(shape), self.scale.expand(shape), self.shift.expand(shape))

    def __getitem__(self, index: Tensor) -> Symbol:
        """Some elements."""
        return Symbol(self.reference[index], self.scale[index], self.shift[index])

    def put(self, index: Tensor, other: Symbol) -> Symbol:
        """A copy in which some elements are those of another symbol."""
        parts = (self.reference.clone(), self.scale.clone(), self.shift.clone())
        for tensor, new in zip(parts, (other.reference, other.scale, other.shift), strict=True):
            tensor[index] = new
        return Symbol(*parts)

    def scaled(self, factor: Tensor | float) -> Symbol:
        """Every element times a constant, with broadcasting."""
        factor = torch.as_tensor(factor, dtype=torch.float64).detach()
        scale = self.scale * factor
        reference = torch.where(scale == 0, 0, self.reference.expand(scale.shape))
        return Symbol(reference, scale, self.shift * factor)

    def shifted(self, summand: Tensor | float) -> Symbol:
        """Every element plus a constant, with broadcasting."""
        shift = self.shift + torch.as_tensor(summand, dtype=torch.float64).detach()
        return replace(self.expand(shift.shape), shift=shift)


class Builder:
    """Makes a program, operation by operation; weights in fp64.

    Args:
        features: E, the units that the network reads of the variables.
        context_features: C.
    """

    def __init__(self, features: int, context_features: int) -> None:
        self.ops: list[Op] = []
        self.widths = [features, context_features]
        self.dense_macs = 0  # of all matrices as they were given, which may become fewer or more operations
        self.rounding = 0.0  # of the coarsest dtype to which the module casts on its way
        self._made: dict[Elementwise | Add | Multiply, int] = {}  # equal operations are made once

    def append(self, op: Op) -> int:
        """Adds an operation; returns the number of its value."""
        if not isinstance(op, Affine) and op in self._made:
            return self._made[op]
        width = op.terms[0].weight.shape[0] if isinstance(op, Affine) else self.widths[op.sources[0]]
        self.ops.append(op)
        self.widths.append(width)
        if not isinstance(op, Affine):
            self._made[op] = len(self.widths) - 1
        return len(self.widths) - 1

    def whole(self, value: int) -> Symbol:
        """All units of a value."""
        return Symbol.of_value(value, self.widths[value])

    def linear(self, matrix: Tensor, x: Symbol, bias: Tensor | None = None) -> Symbol:
        """``matrix @ x + bias``: (n,) from matrix (n, m), x (m,), bias (n,) or None."""
        matrix = matrix.detach().to(torch.float64)
        self.dense_macs += matrix.numel()
        total = matrix @ x.shift
        total = total if bias is None else total + bias.detach().to(torch.float64)
        weights = {}
        for source in x.source[x.scale != 0].unique().tolist():
            columns = (x.scale != 0) & (x.source == source)
            weight = torch.zeros(len(total), self.widths[source], dtype=torch.float64)
            weights[source] = weight.index_add_(1, x.unit[columns], matrix[:, columns] * x.scale[columns])
        if not any(bool(weight.any()) for weight in weights.values()):
            return Symbol.constant(total)
        return self.whole(self._affine(weights, total))

    def _affine(self, weights: dict[int, Tensor], bias: Tensor) -> int:
        """An affine value from weights (n, m) by source and bias (n,); what is all zero is left out."""
        terms = [term_of(source, weight) for source, weight in sorted(weights.items()) if bool(weight.any())]
        terms = terms or [term_of(X, torch.zeros(len(bias), self.widths[X], dtype=torch.float64))]
        return self.append(Affine(tuple(terms), bias.clone() if bool(bias.any()) else None))

    def rows(self, *summands: Symbol) -> int:
        """A new affine value whose unit i is the sum of elements i of symbols (n,)."""
        bias = torch.stack([summand.shift for summand in summands]).sum(0)
        weights: dict[int, Tensor] = {}
        for summand in summands:
            for source in summand.source[summand.scale != 0].unique().tolist():
                places = ((summand.scale != 0) & (summand.source == source)).nonzero()[:, 0]
                if source not in weights:
                    weights[source] = torch.zeros(len(bias), self.widths[source], dtype=torch.float64)
                weights[source][places, summand.unit[places]] += summand.scale[places]
        return self._affine(weights, bias)

    def combined(self, *summands: Symbol) -> Symbol:
        """The sum of symbols (n,): it reads one new affine value that has no unit twice, with scale 1 and shift 0."""
        keys = torch.stack([part.double() for each in summands for part in (each.reference, each.scale, each.shift)], 1)
        different, inverse = keys.unique(dim=0, return_inverse=True)
        if len(different) == len(keys):
            return self.whole(self.rows(*summands))
        places = torch.arange(len(keys))
        first = torch.full((len(different),), len(keys)).scatter_reduce(0, inverse, places, "amin")
        order = first.argsort()  # units are numbered as they first appear
        return self.whole(self.rows(*(each[first[order]] for each in summands)))[order.argsort()[inverse]]

    def elementwise(self, function: str, x: Symbol) -> Symbol:
        """A function of ``FUNCTIONS`` of every element."""
        if function == "identity":
            return x
        flat = x.reshape((-1,))
        varying = flat.scale != 0
        result = Symbol.constant(torch.where(varying, 0, FUNCTIONS[function](flat.shift)))
        if not bool(varying.any()):
            return result.reshape(x.shape)
        inner = flat[varying]
        if bool((inner.scale != 1).any() or (inner.shift != 0).any()):
            inner = self.combined(inner)
        reference = inner.reference.clone()
        for source in inner.source.unique().tolist():
            value = self.append(Elementwise(source, function))
            reference += torch.where(inner.source == source, (value - source) * _UNITS, 0)
        return result.put(varying, replace(inner, reference=reference)).reshape(x.shape)

    def under(self, function: str, x: Symbol) -> Symbol | None:
        """y, where every element of ``x`` is this function of an element of y; None if ``x`` is no such thing."""
        sources = x.source.unique().tolist()
        ops = [None if source <= CONTEXT else self.ops[source - 2] for source in sources]
        if bool((x.scale != 1).any() or x.shift.any()):
            return None
        reference = x.reference.clone()
        for source, op in zip(sources, ops, strict=True):
            if not isinstance(op, Elementwise) or op.function != function:
                return None
            reference += torch.where(x.source == source, (op.source - source) * _UNITS, 0)
        return replace(x, reference=reference)

    def add(self, a: Symbol, b: Symbol) -> Symbol:
        """The sum, with broadcasting."""
        shape = torch.broadcast_shapes(a.shape, b.shape)
        a, b = a.expand(shape).reshape((-1,)), b.expand(shape).reshape((-1,))
        free = (a.scale == 0) | (b.scale == 0) | (a.reference == b.reference)
        scale = a.scale + b.scale
        reference = torch.where(a.scale == 0, b.reference, a.reference)
        result = Symbol(torch.where(scale == 0, 0, reference), scale, a.shift + b.shift)
        mixed = ~free
        if bool(mixed.any()):
            left, right = a[mixed], b[mixed]
            pair = self._paired(left, right)
            if pair is not None and bool((left.scale == 1).all() and (right.scale == 1).all()):
                sums = self.whole(self.append(Add(*pair)))[left.unit].shifted(left.shift + right.shift)
            else:
                sums = self.combined(left, right)
            result = result.put(mixed, sums)
        return result.reshape(shape)

    def multiply(self, a: Symbol, b: Symbol) -> Symbol:
        """The product, with broadcasting."""
        shape = torch.broadcast_shapes(a.shape, b.shape)
        a, b = a.expand(shape).reshape((-1,)), b.expand(shape).reshape((-1,))
        result = a.scaled(b.shift).put(a.scale == 0, b.scaled(a.shift)[a.scale == 0])
        mixed = (a.scale != 0) & (b.scale != 0)
        if bool(mixed.any()):
            left, right = a[mixed], b[mixed]
            pair = self._paired(left, right)
            if pair is not None and not bool(left.shift.any() or right.shift.any()):
                products = self.whole(self.append(Multiply(*pair)))[left.unit].scaled(left.scale * right.scale)
            else:
                products = self.whole(self.append(Multiply(self.as_value(left), self.as_value(right))))
            result = result.put(mixed, products)
        return result.reshape(shape)

    def _paired(self, a: Symbol, b: Symbol) -> tuple[int, int] | None:
        """The two values that two symbols read, if each reads one, of the same width, and both the same units; else None."""
        sources = [each.source.unique().tolist() for each in (a, b)]
        if len(sources[0]) != 1 or len(sources[1]) != 1 or not torch.equal(a.unit, b.unit):
            return None
        left, right = sources[0][0], sources[1][0]
        return (left, right) if self.widths[left] == self.widths[right] else None

    def as_value(self, x: Symbol) -> int:
        """The number of a value whose unit i is element i of x (n,)."""
        value = int(x.source[0]) if len(x.shift) else X
        if len(x.shift) == self.widths[value]:
            same = self.whole(value)
            if all(map(torch.equal, (x.reference, x.scale, x.shift), (same.reference, same.scale, same.shift))):
                return value
        return self.rows(x)

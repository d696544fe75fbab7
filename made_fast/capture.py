"""A torch module as a program: ``torch.export`` of its forward pass, translated operation by operation.

While a graph is read, a tensor is a table of elements, each ``scale * unit + shift`` of a unit of the program; so views,
slices, permutations, concatenations and arithmetic with constants cost nothing. What depends on no input is computed at
once, and the nonzeros of the weights that come out are the dependencies, however masks were spelled.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from made_fast.conditionals import Conditional
from made_fast.program import CONTEXT, FUNCTIONS, Add, Affine, Elementwise, Multiply, Op, Program, Term, X
from made_fast.schedule import build_schedule

__all__ = ["Captured", "capture"]

ROWS = 2  # of the example
Call = Callable[..., Tensor]
aten = torch.ops.aten
MOVES = {
    *(aten.view.default, aten.reshape.default, aten.slice.Tensor, aten.select.int, aten.cat.default, aten.t.default),
    *(aten.unflatten.int, aten.flatten.using_ints, aten.squeeze.dim, aten.squeeze.default, aten.unsqueeze.default),
    *(aten.permute.default, aten.transpose.int, aten.expand.default, aten.broadcast_to.default, aten.index.Tensor),
    *(aten.index_select.default, aten.flip.default, aten.stack.default, aten.clone.default, aten.detach.default),
    *(aten.split_with_sizes.default, aten.split.Tensor, aten.chunk.default, aten.unbind.int, aten.alias.default),
    *(aten.contiguous.default, aten._unsafe_view.default, operator.getitem, aten.squeeze.dims, aten.gather.default),
}
UNARY = {
    **{getattr(aten, name).default: name for name in FUNCTIONS if name != "identity"},
    aten.silu.default: "silu",
}


@dataclass(frozen=True)
class Captured:
    """What was read of a module: operations in fp64 that make flat, variable-major parameters.

    Attributes:
        features, context_features: D and C.
        ops: see ``Program``.
        order: int64 (D,), found from the dependencies.
        params_per_variable: K of each variable.
    """

    features: int
    context_features: int
    ops: tuple[Op, ...]
    order: Tensor
    params_per_variable: tuple[int, ...]

    def program(self, conditionals: tuple[Conditional, ...] = ()) -> Program:
        """The program, fp64, with these conditionals."""
        sizes = (self.features, self.context_features)
        return Program(*sizes, self.ops, self.order, self.params_per_variable, conditionals)


def capture(
    module: nn.Module, features: int, context_features: int = 0, *, call: Call | None = None, layout: str = "variable"
) -> Captured:
    """Reads what a module computes from x (B, D), and context (B, C), in evaluation mode and fp64.

    Args:
        module: it is copied, and not changed.
        features: D.
        context_features: C.
        call: (module, x) or (module, x, context) -> parameters; the module's own call if left out.
        layout: ``"variable"``: parameters (B, D * K) or (B, D, K).

    Raises:
        ValueError: an operation has no counterpart in programs, or the module is not autoregressive.
    """
    if layout != "variable":
        raise ValueError(f"layout must be 'variable', got {layout!r}")
    frozen = copy.deepcopy(module).to("cpu", torch.float64).eval().requires_grad_(False)
    inputs = [torch.zeros(ROWS, width, dtype=torch.float64) for width in (features, context_features) if width]
    try:
        with torch.no_grad():
            exported = torch.export.export(_Called(frozen, call), tuple(inputs), strict=False).run_decompositions({})
    except RuntimeError as error:  # the base of all that torch.export raises
        first = next(iter(str(error).strip().splitlines()), "no reason given")
        raise ValueError(f"module must be one that torch.export can trace, but: {first}") from error
    reader = _Reader(features, context_features)
    flat = reader.read(exported)
    if flat.shape[0] % features:
        raise ValueError(f"module must make a multiple of {features} parameters, got {flat.shape[0]}")
    reader.finish(flat)
    sizes = (flat.shape[0] // features,) * features
    found = Captured(features, context_features, tuple(reader.ops), torch.arange(features), sizes)
    levels = build_schedule(found.program()).levels
    return Captured(features, context_features, found.ops, torch.from_numpy(np.argsort(levels, kind="stable")), sizes)


class _Called(nn.Module):
    def __init__(self, module: nn.Module, call: Call | None) -> None:
        super().__init__()
        self.module, self.call = module, call

    def forward(self, *inputs: Tensor) -> Tensor:
        found: Tensor = self.module(*inputs) if self.call is None else self.call(self.module, *inputs)
        return found


@dataclass(frozen=True)
class _Elements:
    """A tensor that depends on an input, (rows, ...), as numbers of elements."""

    ids: Tensor


class _Reader:
    """Goes through a graph and lists operations."""

    def __init__(self, features: int, context_features: int) -> None:
        self.widths = [features, context_features]
        self.ops: list[Op] = []
        self.source, self.unit = (np.zeros(0, dtype=np.int64) for _ in range(2))  # of elements; source -1: a constant
        self.scale, self.shift = (np.zeros(0) for _ in range(2))
        self.whole: dict[bytes, int] = {}

    # elements and values

    def new(self, source: Any, unit: Any, scale: Any, shift: Any, shape: tuple[int, ...]) -> _Elements:
        """Elements of a shape without rows, from what broadcasts to it."""
        first = len(self.unit)
        for name, values in (("source", source), ("unit", unit), ("scale", scale), ("shift", shift)):
            grown = np.broadcast_to(values, shape).reshape(-1)
            setattr(self, name, np.concatenate([getattr(self, name), grown]))
        ids = torch.arange(first, len(self.unit)).reshape(shape)
        return _Elements(ids.expand(ROWS, *shape))

    def value(self, number: int, shape: tuple[int, ...]) -> _Elements:
        """All units of a value."""
        return self.new(number, np.arange(self.widths[number]).reshape(shape), 1.0, 0.0, shape)

    def add(self, op: Op, width: int) -> int:
        self.ops.append(op)
        self.widths.append(width)
        return len(self.widths) - 1

    def affine(self, rows: np.ndarray[Any, Any], weights: np.ndarray[Any, Any], bias: np.ndarray[Any, Any]) -> int:
        """The value ``weights[i] @ elements(rows[i]) + bias[i]``: rows (n, m) of ids, weights (n, m), bias (n,)."""
        n = len(rows)
        source, unit = self.source[rows], self.unit[rows]
        bias = bias + (weights * self.shift[rows]).sum(1)
        scaled = weights * self.scale[rows]
        terms = []
        for number in sorted(set(source[source >= 0].tolist())):
            dense = np.zeros((n, self.widths[number]))
            at, column = np.nonzero(source == number)
            np.add.at(dense, (at, unit[at, column]), scaled[at, column])
            weight = torch.from_numpy(dense)
            terms.append(Term(number, weight, weight != 0))
        if not terms:
            weight = torch.zeros(n, self.widths[X], dtype=torch.float64)
            terms = [Term(X, weight, weight != 0)]
        return self.add(Affine(tuple(terms), torch.from_numpy(bias)), n)

    def materialised(self, elements: _Elements) -> int:
        """The number of a value that is these elements, one after the other."""
        ids = elements.ids[0].reshape(-1).numpy()
        parts = (self.source[ids], self.unit[ids], self.scale[ids], self.shift[ids])
        number = int(parts[0][0])
        exact = number >= 0 and len(ids) == self.widths[number] and (parts[0] == number).all()
        if exact and (parts[1] == np.arange(len(ids))).all() and (parts[2] == 1).all() and (parts[3] == 0).all():
            return number
        key = b"".join(part.tobytes() for part in parts)
        if key not in self.whole:
            self.whole[key] = self.affine(ids[:, None], np.ones((len(ids), 1)), np.zeros(len(ids)))
        return self.whole[key]

    def finish(self, flat: Tensor) -> None:
        """Makes the parameters the last value."""
        number = self.materialised(_Elements(flat[None].expand(ROWS, -1)))
        if number != len(self.widths) - 1:
            ids = flat.numpy()
            self.affine(ids[:, None], np.ones((len(ids), 1)), np.zeros(len(ids)))

    # the graph

    def read(self, exported: Any) -> Tensor:
        """Reads a graph; the ids (P,) of what it returns."""
        known: dict[Any, Any] = {}
        constants = {**exported.state_dict, **exported.constants}
        names = exported.graph_signature
        kept = {
            **names.inputs_to_parameters,
            **names.inputs_to_buffers,
            **names.inputs_to_lifted_tensor_constants,
        }
        inputs = iter([number for number in (X, CONTEXT) if self.widths[number]])
        graph = exported.graph_module.graph
        graph.eliminate_dead_code()
        self._refuse_unknown(graph, set(kept))
        for node in graph.nodes:
            if node.op == "placeholder" and node.name in kept:
                known[node] = constants[kept[node.name]]
            elif node.op == "placeholder":
                number = next(inputs)
                known[node] = self.value(number, (self.widths[number],))
            elif node.op == "get_attr":
                known[node] = getattr(exported.graph_module, node.target)
            elif node.op == "output":
                result = known[node.args[0][0]]
                if not isinstance(result, _Elements):
                    raise ValueError("module must depend on its input, but what it returns is constant")
                return result.ids[0].reshape(-1)
            else:
                arguments, options = torch.fx.node.map_arg((node.args, dict(node.kwargs)), lambda n: known[n])
                known[node] = self.call(node, list(arguments), dict(options))
        raise ValueError("module must return its parameters, but it returns nothing")

    @staticmethod
    def _refuse_unknown(graph: Any, kept: set[str]) -> None:
        """Raises ValueError for an operation on the input that has no counterpart, before anything is translated."""
        varying: set[Any] = set()
        for node in graph.nodes:
            if node.op == "placeholder" and node.name not in kept:
                varying.add(node)
            if node.op != "call_function" or not varying.intersection(node.all_input_nodes):
                continue
            varying.add(node)
            if node.target not in MOVES and node.target not in UNARY and node.target not in TRANSLATORS:
                lines = (node.meta.get("stack_trace") or "").strip().splitlines()
                where = lines[-1].strip() if lines else "unknown place"
                raise ValueError(f"operation {node.target} has no counterpart in programs (at: {where})")

    def call(self, node: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
        """The result of one node."""
        flat: list[Any] = []
        torch.utils._pytree.tree_map(flat.append, (arguments, options))
        if not any(isinstance(each, _Elements) for each in flat):
            return node.target(*arguments, **options)
        if node.target in MOVES:
            moved = torch.utils._pytree.tree_map(self.ids_of, (arguments, options))
            found = node.target(*moved[0], **moved[1])
            if isinstance(found, (list, tuple)):
                return [_Elements(each) for each in found]
            return found if isinstance(found, _Elements) else _Elements(found)
        if node.target in UNARY:
            return self.function(UNARY[node.target], arguments, options)
        return TRANSLATORS[node.target](self, *arguments, **options)

    def ids_of(self, value: Any) -> Any:
        """What an operation that moves elements is given: ids; constant floats become elements."""
        if isinstance(value, _Elements):
            return value.ids
        if isinstance(value, Tensor) and value.is_floating_point():
            values = value.double().numpy()
            if values.ndim and values.shape[0] == ROWS:
                return self.new(-1, 0, 0.0, values[0], values.shape[1:]).ids
            return self.new(-1, 0, 0.0, values, values.shape).ids[0]
        return value

    def function(self, name: str, arguments: list[Any], options: dict[str, Any]) -> _Elements:
        x, extra = arguments[0], [*arguments[1:], *options.values()]
        known: dict[str, list[Any]] = {"leaky_relu": [0.01], "softplus": [1, 20], "elu": [1], "gelu": ["none"]}
        usual = known.get(name, [])
        if list(extra) != usual[: len(extra)]:
            raise ValueError(f"function {name} has a counterpart in programs with arguments {usual} only, got {extra}")
        return self.applied(name, x)

    def applied(self, name: str, x: _Elements) -> _Elements:
        """A function of each element."""
        shape = tuple(x.ids.shape[1:])
        number = self.materialised(x)
        return self.value(self.add(Elementwise(number, name), self.widths[number]), shape)

    def scaled(self, x: _Elements, scale: Any, shift: Any) -> _Elements:
        """scale * x + shift, constants that broadcast."""
        ids, (scale, shift) = x.ids[0].numpy(), (_array(scale), _array(shift))
        shape = np.broadcast_shapes(ids.shape, scale.shape, shift.shape)
        ids = np.broadcast_to(ids, shape)
        constant = self.source[ids] < 0
        return self.new(
            self.source[ids],
            self.unit[ids],
            np.where(constant, 0.0, self.scale[ids] * scale),
            self.shift[ids] * scale + shift,
            tuple(shape),
        )

    def sum(self, left: Any, right: Any, alpha: float = 1) -> _Elements:
        """left + alpha * right."""
        if not isinstance(right, _Elements):
            return self.scaled(left, 1.0, alpha * _array(right))
        if not isinstance(left, _Elements):
            return self.scaled(right, float(alpha), left)
        a, b = torch.broadcast_tensors(left.ids[0], right.ids[0])
        shape, n = tuple(a.shape), a.numel()
        both = [self.materialised(_Elements(each.reshape(1, -1))) if alpha == 1 else -1 for each in (a, b)]
        plain = alpha == 1 and not any(self._selects(number) for number in both)
        if plain:
            return self.value(self.add(Add(both[0], both[1]), n), shape)
        rows = np.stack([a.reshape(-1).numpy(), b.reshape(-1).numpy()], 1)
        weights = np.broadcast_to(np.array([1.0, float(alpha)]), (n, 2))
        return self.value(self.affine(rows, weights, np.zeros(n)), shape)

    def _selects(self, number: int) -> bool:
        return number in self.whole.values()

    def product(self, left: Any, right: Any) -> _Elements:
        """left * right."""
        for one, other in ((left, right), (right, left)):
            if not isinstance(other, _Elements):
                return self.scaled(one, other, 0.0)
        a, b = torch.broadcast_tensors(left.ids[0], right.ids[0])
        numbers = [self.materialised(_Elements(each.reshape(1, -1))) for each in (a, b)]
        return self.value(self.add(Multiply(*numbers), a.numel()), tuple(a.shape))

    def linear(self, x: _Elements, weight: Tensor, bias: Tensor | None = None) -> _Elements:
        """x @ weight.T + bias."""
        if not isinstance(weight, Tensor):
            raise ValueError("a linear layer must have constant weights, got weights that depend on the input")
        n, shape = weight.shape[0], tuple(x.ids.shape[1:])
        own = torch.zeros(n, dtype=torch.float64) if bias is None else bias
        if len(shape) > 1:
            ids = x.ids[0].reshape(-1, shape[-1]).numpy()  # (L, m)
            rows, weights = np.repeat(ids, n, axis=0), np.tile(weight.numpy(), (len(ids), 1))
            return self.value(self.affine(rows, weights, np.tile(own.numpy(), len(ids))), (*shape[:-1], n))
        ids = x.ids[0].numpy()
        scaled, terms = weight * torch.from_numpy(self.scale[ids]), []
        for number in sorted(set(self.source[ids][self.source[ids] >= 0].tolist())):
            at = np.flatnonzero(self.source[ids] == number)
            columns = torch.from_numpy(self.unit[ids[at]])
            dense = torch.zeros(n, self.widths[number], dtype=torch.float64).index_add_(1, columns, scaled[:, at])
            terms.append(Term(number, dense, dense != 0))
        total = own + weight @ torch.from_numpy(self.shift[ids])
        if not terms:
            nothing = torch.zeros(n, self.widths[X], dtype=torch.float64)
            terms = [Term(X, nothing, nothing != 0)]
        return self.value(self.add(Affine(tuple(terms), total), n), (n,))

    def quotient(self, left: Any, right: Any) -> _Elements:
        """left / right."""
        if not isinstance(right, _Elements):
            return self.scaled(left, 1 / _array(right), 0.0)
        return self.product(self.applied("reciprocal", right), left)

    def glu(self, x: _Elements, dim: int = -1) -> _Elements:
        """The first half times the sigmoid of the second."""
        first, gate = (_Elements(each) for each in x.ids.chunk(2, dim))
        return self.product(first, self.applied("sigmoid", gate))

    def clamp(self, x: _Elements, low: float | None = None, high: float | None = None) -> _Elements:
        """By relu: low + relu(x - low) - relu(x - high)."""
        if low is not None:
            x = self.scaled(self.applied("relu", self.scaled(x, 1.0, -low)), 1.0, low)
        if high is not None:
            x = self.scaled(self.applied("relu", self.scaled(x, -1.0, high)), -1.0, high)
        return x

    def batch_norm(
        self, x: _Elements, weight: Any, bias: Any, mean: Tensor, var: Tensor, momentum: float, eps: float
    ) -> list[_Elements | None]:
        """In evaluation mode; the second and third result are of training."""
        scale = (var + eps).rsqrt() * (1 if weight is None else weight)
        return [self.scaled(x, scale, (0 if bias is None else bias) - mean * scale), None, None]


def _array(value: Any) -> np.ndarray[Any, Any]:
    """A constant without its rows."""
    found = value.double().numpy() if isinstance(value, Tensor) else np.asarray(value, dtype=np.float64)
    return found[0] if found.ndim > 1 and found.shape[0] in (1, ROWS) else found


TRANSLATORS: dict[Any, Callable[..., Any]] = {
    aten.linear.default: _Reader.linear,
    aten.addmm.default: lambda reader, bias, x, weight: reader.linear(x, weight.T, bias),
    aten.mm.default: lambda reader, x, weight: reader.linear(x, weight.T),
    aten.matmul.default: lambda reader, x, weight: reader.linear(x, weight.T),
    aten.add.Tensor: _Reader.sum,
    aten.sub.Tensor: lambda reader, a, b, alpha=1: reader.sum(a, b, -alpha),
    aten.rsub.Scalar: lambda reader, a, b, alpha=1: reader.scaled(a, -alpha, b),
    aten.mul.Tensor: _Reader.product,
    aten.div.Tensor: _Reader.quotient,
    aten.neg.default: lambda reader, x: reader.scaled(x, -1.0, 0.0),
    aten.abs.default: lambda reader, x: reader.sum(
        reader.applied("relu", x), reader.applied("relu", reader.scaled(x, -1.0, 0.0))
    ),
    aten.clamp.default: _Reader.clamp,
    aten.glu.default: _Reader.glu,
    aten._native_batch_norm_legit_no_training.default: _Reader.batch_norm,
    aten.dropout.default: lambda reader, x, *rest: x,
}

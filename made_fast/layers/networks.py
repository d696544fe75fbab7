"""A whole masked network as one operation of autograd: one native call forward, one backward.

Higher derivatives, and whatever watches the dispatcher, go through the operators of single layers.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from made_fast import backends
from made_fast.layers import operators
from made_fast.layers.linear import masked_linear
from made_fast.masks import mask_key, whole_mask
from made_fast.outputs.binary import BernoulliConditional
from made_fast.outputs.normal import NormalConditional
from made_fast.programs.functions import FUNCTIONS
from made_fast.programs.schedule import Kind
from made_fast.programs.wiring import Wiring
from made_fast.tracing import may_bypass

__all__ = ["Call", "WholeNetwork", "run"]

_KEPT = 64  # networks of one wiring: those of the masks of an ensemble


class WholeNetwork:
    """The network of one wiring under whatever masks it has at the moment.

    Args:
        wiring: its operations.
    """

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self._functions = sorted({wire.function for wire in wiring.wires} - {"identity"})
        self._chosen: dict[Any, backends.Backend | None] = {}
        self._ready: OrderedDict[Any, Any] = OrderedDict()

    def __deepcopy__(self, memo: dict[int, Any]) -> WholeNetwork:
        """What was made ready is made again."""
        return WholeNetwork(self.wiring)

    def __reduce__(self) -> tuple[Any, ...]:
        return WholeNetwork, (self.wiring,)

    def ready(self, x: Tensor, weights: Sequence[Tensor], masks: Mapping[int, Tensor]) -> Any:
        """What a backend made of the wiring under these masks; None where none can serve.

        Args:
            x: (..., D), for its device and dtype.
            weights: those of the wiring, by number.
            masks: of the weights that have one, by number: bool (out, in), or int64 (out + in,) degrees.
        """
        backend = self._backend(x)
        if backend is None:
            return None
        key = (backend, *map(mask_key, masks.values()))
        found = self._ready.get(key)
        if found is None:
            whole = {
                weight: whole_mask(masks[weight], weights[weight].shape)
                if weight in masks
                else torch.ones(weights[weight].shape, dtype=torch.bool)
                for wire in self.wiring.wires
                for _, weight in wire.terms
            }
            found = self._ready[key] = backends.load(backend).Network(self.wiring, whole)
            while len(self._ready) > _KEPT:
                self._ready.popitem(last=False)
        return found

    def _backend(self, x: Tensor) -> backends.Backend | None:
        wanted = os.environ.get("MADE_FAST_BACKEND", "auto")
        key = (x.device, x.dtype, wanted, backends.BACKENDS)
        if key not in self._chosen:
            needs = backends.Needs(x.device, x.dtype, functions=self._functions, networks=True)
            try:
                self._chosen[key] = backends.choose(wanted, needs)
            except ValueError:
                self._chosen[key] = None
        return self._chosen[key]


class Call(NamedTuple):
    """One network of a chain, for one call.

    Attributes:
        wiring: its operations.
        native: what a backend made of it.
        weights: those of the wiring, by number.
        masks: see ``WholeNetwork.ready``.
    """

    wiring: Wiring
    native: Any
    weights: Sequence[Tensor]
    masks: Mapping[int, Tensor]


def run(calls: Sequence[Call], head: str, floor: float, x: Tensor, context: Tensor | None) -> Any:
    """Networks one after another, each reading the z of the one before, as one operation of autograd.

    Args:
        calls: the networks; all but one alone have the head ``"affine"``.
        head: of ``HEADS``.
        floor: of scales.
        x: (..., D).
        context: (..., C) of the same rows, or None.

    Returns:
        (..., P); or z (..., D) and the log-determinant of all, (...); or the log-probability (...).
    """
    rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
    given = context if context is None or context.ndim == 2 else context.reshape(-1, context.shape[-1])
    weights = [weight for call in calls for weight in call.weights]
    chain = _Chain(tuple(calls), head, floor)
    if torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in (x, context, *weights)):
        found = _Network.apply(chain, rows, given, *weights)  # type: ignore[no-untyped-call]
    else:
        found = chain.forward(rows, given, weights, keep=False)[0]
    if x.ndim != 2:
        found = tuple(each.reshape((*x.shape[:-1], *each.shape[1:])) for each in found)
    return found[0] if len(found) == 1 else found


class _Chain(NamedTuple):
    """Networks one after another; see ``run``."""

    calls: tuple[Call, ...]
    head: str
    floor: float

    def parts(self, weights: Sequence[Tensor]) -> Iterator[tuple[Call, Sequence[Tensor]]]:
        """Each network with its weights among all."""
        first = 0
        for call in self.calls:
            last = first + call.wiring.num_weights
            yield call, weights[first:last]
            first = last

    def forward(
        self, x: Tensor, context: Tensor | None, weights: Sequence[Tensor], *, keep: bool
    ) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """Results that are not None, and of each network the values for the way back."""
        rows, given = _plain(x), None if context is None else _plain(context)
        sums, kept, out = None, [], None
        for call, part in self.parts([_plain(each) for each in weights]):
            out, total, values = call.native.forward(self.head, self.floor, rows, given, part, keep)
            sums = total if sums is None else sums.add_(total)
            if keep:
                kept.append(values)
            rows = out
        return tuple(each for each in (out, sums) if each is not None), kept

    def backward(
        self,
        grads: Sequence[Tensor | None],
        needed: Sequence[bool],
        x: Tensor,
        context: Tensor | None,
        kept: Sequence[Tensor],
        weights: Sequence[Tensor],
    ) -> list[Tensor | None]:
        """Gradients of x, the context and all weights; those that are not needed are None."""
        of = [None if grad is None else _plain(grad) for grad in grads]
        out, total = (of[0], None) if self.head == "parameters" else (None, of[0]) if len(of) == 1 else of
        plain = [_plain(each) for each in weights]
        made = [torch.empty_like(each) if need else None for each, need in zip(plain, needed[2:], strict=True)]
        parts = list(zip(self.parts(plain), self.parts(made), kept, strict=True))  # type: ignore[arg-type]
        to_context = None
        for number, ((call, part), (_, into), values) in reversed(list(enumerate(parts))):
            below = x.new_empty(x.shape) if number or needed[0] else None
            beside = context.new_empty(context.shape) if context is not None and needed[1] else None
            call.native.backward(self.head, self.floor, x.shape[0], part, values, (out, total), (below, beside), into)
            out = below
            to_context = beside if to_context is None or beside is None else to_context.add_(beside)
        return [out if needed[0] else None, to_context, *made]

    def by_layers(self, x: Tensor, context: Tensor | None, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The definition, by operators that can be differentiated again."""
        if self.head != "affine":
            params = _parameters(self.calls[0], x, context, weights)
            if self.head == "parameters":
                return (params,)
            if self.head == "bernoulli":
                return (BernoulliConditional().log_prob(params[..., None], x).sum(-1),)
            return (NormalConditional(self.floor).log_prob(params.unflatten(-1, (-1, 2)), x).sum(-1),)
        total = x.new_zeros(x.shape[:-1])
        for call, part in self.parts(weights):
            x, log_det = _affine(_parameters(call, x, context, part), x, self.floor)
            total = total + log_det
        return x, total


def _affine(params: Tensor, x: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    shift, scale = NormalConditional(floor).parts(params.unflatten(-1, (-1, 2)))
    return (x - shift) / scale, -torch.log(scale).sum(-1)


def _parameters(call: Call, x: Tensor, context: Tensor | None, weights: Sequence[Tensor]) -> Tensor:
    values: list[Any] = [x, context]
    for wire in call.wiring.wires:
        if wire.kind == Kind.AFFINE:
            bias = None if wire.bias < 0 else weights[wire.bias]
            made: Any = None
            for value, number in wire.terms:
                mask, of = call.masks.get(number), (values[value], weights[number])
                part = F.linear(*of, bias) if mask is None else masked_linear(*of, mask, bias)
                made, bias = part if made is None else made + part, None
        elif wire.kind == Kind.UNARY:
            made = FUNCTIONS[wire.function](values[wire.left])
        elif wire.kind == Kind.ADD:
            made = values[wire.left] + values[wire.right]
        else:
            made = values[wire.left] * values[wire.right]
        values.append(made)
    return values[-1]  # type: ignore[no-any-return]


class _Network(torch.autograd.Function):
    """Networks one after another; see ``run``."""

    @staticmethod
    def forward(ctx: Any, chain: _Chain, x: Tensor, context: Tensor | None, *weights: Tensor) -> tuple[Tensor, ...]:
        found, kept = chain.forward(x, context, weights, keep=True)
        ctx.chain = chain
        ctx.save_for_backward(x, context, *weights, *kept)
        ctx.set_materialize_grads(False)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        chain, needed = ctx.chain, ctx.needs_input_grad[1:]
        if all(grad is None for grad in grads):
            return (None,) * len(ctx.needs_input_grad)
        x, context, *rest = ctx.saved_tensors
        weights, kept = rest[: len(needed) - 2], rest[len(needed) - 2 :]
        if torch.is_grad_enabled() or not may_bypass(*grads) or operators.batched(*grads):
            return (None, *_by_layers(chain, (x, context, *weights), needed, grads))
        return (None, *chain.backward(grads, needed, x, context, kept, weights))


def _by_layers(
    chain: _Chain, inputs: tuple[Tensor | None, ...], needed: Sequence[bool], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradients by the definition, differentiable in everything if that is wanted."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        taken = [
            each if each is None or again or not need else each.detach().requires_grad_()
            for each, need in zip(inputs, needed, strict=True)
        ]
        found = chain.by_layers(taken[0], taken[1], taken[2:])  # type: ignore[arg-type]
        pairs = [(out, grad) for out, grad in zip(found, grads, strict=True) if grad is not None]
        wanted = [each for each, need in zip(taken, needed, strict=True) if need]
        outs, given = [out for out, _ in pairs], [grad for _, grad in pairs]
        made = iter(torch.autograd.grad(outs, wanted, given, create_graph=again, allow_unused=True))  # type: ignore[arg-type]
    return [next(made) if need else None for need in needed]


def _plain(tensor: Tensor) -> Tensor:
    """What an engine can read: its address is that of its first number, and the others follow."""
    return tensor if tensor.is_contiguous() and not tensor.is_neg() else tensor.detach().contiguous().resolve_neg()

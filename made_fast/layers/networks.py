"""A whole masked network as one operation of autograd: one native call forward, one backward.

Higher derivatives, and whatever watches the dispatcher, go through the operators of single layers.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from made_fast import backends
from made_fast.layers import operators
from made_fast.layers.linear import masked_linear
from made_fast.masks import find_plan, whole_mask
from made_fast.programs.functions import FUNCTIONS
from made_fast.programs.schedule import Kind
from made_fast.programs.wiring import Wiring

__all__ = ["WholeNetwork"]

_KEPT = 64  # networks of one wiring: those of the masks of an ensemble
_LOG_SQRT_2_PI = 0.5 * math.log(2 * math.pi)


class WholeNetwork:
    """The network of one wiring under whatever masks it has at the moment.

    Args:
        wiring: its operations.
    """

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.functions = sorted({wire.function for wire in wiring.wires} - {"identity"})
        self._ready: OrderedDict[Any, tuple[Any, Any]] = OrderedDict()

    def __deepcopy__(self, memo: dict[int, Any]) -> WholeNetwork:
        """What was made ready is made again."""
        return WholeNetwork(self.wiring)

    def __reduce__(self) -> tuple[Any, ...]:
        return WholeNetwork, (self.wiring,)

    def backend(self, x: Tensor, *others: Tensor | None) -> backends.Backend | None:
        """The backend that can run it now, on these tensors, which fit together; None where layers must run alone."""
        if not x.numel() or not operators.unwatched(x, *others) or operators.why_only_plain(x.device) is not None:
            return None
        needs = backends.Needs(x.device, x.dtype, functions=self.functions, networks=True)
        try:
            return backends.choose("auto", needs)
        except ValueError:
            return None

    def __call__(
        self,
        backend: backends.Backend,
        head: str,
        floor: float,
        x: Tensor,
        context: Tensor | None,
        weights: Sequence[Tensor],
        masks: Mapping[int, Tensor],
    ) -> Any:
        """What a head makes of the parameters.

        Args:
            backend: from ``backend``.
            head: of ``HEADS``.
            floor: of scales.
            x: (..., D).
            context: (..., C) of the same rows, or None.
            weights: those of the wiring, by number.
            masks: of the weights that have one, by number: bool (out, in), or int64 (out + in,) degrees.

        Returns:
            (..., P); or (..., D) and (...); or (...).
        """
        native = self._made_ready(backend, weights, masks)
        rows = x.reshape(-1, x.shape[-1])
        given = None if context is None else context.reshape(-1, context.shape[-1])
        call = _Call(self.wiring, native, dict(masks), head, floor)
        if torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in (x, context, *weights)):
            found = _Network.apply(call, rows, given, *weights)  # type: ignore[no-untyped-call]
        else:
            found = call.forward(rows, given, weights, keep=False)[0]
        shaped = [each.reshape(*x.shape[:-1], *each.shape[1:]) for each in found]
        return shaped[0] if len(shaped) == 1 else tuple(shaped)

    def _made_ready(self, backend: backends.Backend, weights: Sequence[Tensor], masks: Mapping[int, Tensor]) -> Any:
        plans = tuple(find_plan(mask, tuple(weights[number].shape)) for number, mask in masks.items())  # type: ignore[arg-type]
        key = (backend, *map(id, plans))
        found = self._ready.get(key)
        if found is None:
            whole = {
                weight: whole_mask(masks[weight], weights[weight].shape)
                if weight in masks
                else torch.ones(weights[weight].shape, dtype=torch.bool)
                for wire in self.wiring.wires
                for _, weight in wire.terms
            }
            # The plans are kept along, so that their identities stay taken.
            found = self._ready[key] = (backends.load(backend).Network(self.wiring, whole), plans)
            while len(self._ready) > _KEPT:
                self._ready.popitem(last=False)
        return found[0]


class _Call:
    """What one call of a network is of, besides its tensors."""

    def __init__(self, wiring: Wiring, native: Any, masks: dict[int, Tensor], head: str, floor: float) -> None:
        self.wiring, self.native, self.masks, self.head, self.floor = wiring, native, masks, head, floor

    def forward(
        self, x: Tensor, context: Tensor | None, weights: Sequence[Tensor], *, keep: bool
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Results that are not None, and the values for the way back."""
        plain = [_plain(each) for each in weights]
        rows, given = _plain(x), None if context is None else _plain(context)
        out, total, values = self.native.forward(self.head, self.floor, rows, given, plain, keep)
        return tuple(each for each in (out, total) if each is not None), values

    def by_layers(self, x: Tensor, context: Tensor | None, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The definition, by operators that can be differentiated again."""
        values = [x, context]
        for wire in self.wiring.wires:
            if wire.kind == Kind.AFFINE:
                bias = None if wire.bias < 0 else weights[wire.bias]
                made = None
                for value, number in wire.terms:
                    source, mask = values[value], self.masks.get(number)
                    assert source is not None
                    part = (
                        F.linear(source, weights[number], bias)
                        if mask is None
                        else masked_linear(source, weights[number], mask, bias)
                    )
                    made, bias = part if made is None else made + part, None
            elif wire.kind == Kind.UNARY:
                made = FUNCTIONS[wire.function](values[wire.left])
            else:
                left, right = values[wire.left], values[wire.right]
                assert left is not None and right is not None
                made = left + right if wire.kind == Kind.ADD else left * right
            values.append(made)
        params = values[-1]
        assert params is not None
        if self.head == "parameters":
            return (params,)
        if self.head == "bernoulli":
            return (F.logsigmoid((2 * x - 1) * params).sum(-1),)
        shift, raw = params.unflatten(-1, (-1, 2)).unbind(-1)
        scale = F.softplus(raw) + self.floor
        z, log_scale = (x - shift) / scale, torch.log(scale)
        if self.head == "affine":
            return z, -log_scale.sum(-1)
        return ((-0.5 * z**2 - _LOG_SQRT_2_PI - log_scale).sum(-1),)


class _Network(torch.autograd.Function):
    """A network; see ``_Call``."""

    @staticmethod
    def forward(ctx: Any, call: _Call, x: Tensor, context: Tensor | None, *weights: Tensor) -> tuple[Tensor, ...]:
        found, values = call.forward(x, context, weights, keep=True)
        ctx.call = call
        ctx.save_for_backward(x, context, values, *weights)
        ctx.set_materialize_grads(False)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        x, context, values, *weights = ctx.saved_tensors
        call, needed = ctx.call, ctx.needs_input_grad[1:]
        if torch.is_grad_enabled() or not operators.unwatched(*grads) or operators.batched(*grads):
            return (None, *_by_layers(call, (x, context, *weights), needed, grads))
        into = [
            torch.empty_like(_plain(each)) if each is not None and need else None
            for each, need in zip((x, context), needed[:2], strict=True)
        ]
        into_weights = [
            torch.zeros_like(each, memory_format=torch.contiguous_format) if need else None
            for each, need in zip(weights, needed[2:], strict=True)
        ]
        of = [None if grad is None else _plain(grad) for grad in grads]
        outs = (of[0], None) if call.head == "parameters" else (None, of[0]) if len(of) == 1 else (of[0], of[1])
        plain = [_plain(each) for each in weights]
        call.native.backward(call.head, call.floor, x.shape[0], plain, values, outs, tuple(into), into_weights)
        return (None, *into, *into_weights)


def _by_layers(
    call: _Call, inputs: tuple[Tensor | None, ...], needed: Sequence[bool], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradients by the definition, differentiable in everything if that is wanted."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        taken = [
            each if each is None or again or not need else each.detach().requires_grad_()
            for each, need in zip(inputs, needed, strict=True)
        ]
        wanted = [each for each, need in zip(taken, needed, strict=True) if need and each is not None]
        found = call.by_layers(taken[0], taken[1], taken[2:])  # type: ignore[arg-type]
        pairs = [(out, grad) for out, grad in zip(found, grads, strict=True) if grad is not None]
        made = iter(
            torch.autograd.grad(
                [out for out, _ in pairs],
                wanted,
                [grad for _, grad in pairs],
                create_graph=again,
                allow_unused=True,
                is_grads_batched=False,
            )
        )
    return [next(made) if need and each is not None else None for each, need in zip(taken, needed, strict=True)]


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().resolve_neg()

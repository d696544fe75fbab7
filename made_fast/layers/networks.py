"""A whole masked network as one operation of autograd: one native call forward, one backward.

Higher derivatives, and whatever watches the dispatcher, go through the operators of single layers.
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from made_fast import backends
from made_fast.layers import operators
from made_fast.layers.linear import masked_linear
from made_fast.masks import mask_digest, mask_key, whole_mask
from made_fast.outputs.binary import BernoulliConditional
from made_fast.outputs.normal import NormalConditional
from made_fast.outputs.rules import LOG_SQRT_2_PI
from made_fast.programs.functions import FUNCTIONS
from made_fast.programs.schedule import Kind
from made_fast.programs.wiring import Wiring
from made_fast.tracing import may_bypass

__all__ = ["MOST_AT_ONCE", "Call", "NotFinite", "WholeNetwork", "run"]

MOST_AT_ONCE = 64  # networks one after another in one call: kMostNetworks of csrc/plan/network.h
_KEPT = 64  # networks of one wiring: those of the masks of an ensemble


_chosen: dict[Any, backends.Backend | None] = {}


def backend_for(x: Tensor) -> backends.Backend | None:
    """The backend that runs whole networks on rows like these; None where none does."""
    wanted = os.environ.get("MADE_FAST_BACKEND", "auto")
    key = (x.device, x.dtype, wanted, backends.BACKENDS)
    if key not in _chosen:
        try:
            _chosen[key] = backends.choose(wanted, backends.Needs(x.device, x.dtype, networks=True))
        except ValueError:
            _chosen[key] = None
    return _chosen[key]


class WholeNetwork:
    """The network of one wiring under whatever masks it has at the moment.

    Args:
        wiring: its operations.
    """

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self._functions = sorted({wire.function for wire in wiring.wires} - {"identity"})
        self._ready: OrderedDict[Any, Any] = OrderedDict()
        self._last: _Last | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> WholeNetwork:
        """What was made ready is made again."""
        return WholeNetwork(self.wiring)

    def __reduce__(self) -> tuple[Any, ...]:
        return WholeNetwork, (self.wiring,)

    def ready(self, backend: backends.Backend, masks: Mapping[int, Tensor]) -> Any:
        """What a backend made of the wiring under these masks; None where it cannot serve.

        Args:
            backend: see ``backend_for``.
            masks: of the weights that have one, by number: bool (out, in), or int64 (out + in,) degrees; or of the dtype
                of the weights, and then of 0 and 1 alone.
        """
        last = self._last
        if last is not None and last.backend is backend and last.knows(masks):
            return last.native
        key = (backend, *map(mask_key, masks.values()))
        if key not in self._ready:
            self._ready[key] = self._made(backend, masks)
            while len(self._ready) > _KEPT:
                self._ready.popitem(last=False)
        self._last = _Last(backend, masks, self._ready[key])
        return self._ready[key]

    def _made(self, backend: backends.Backend, masks: Mapping[int, Tensor]) -> Any:
        needs = backends.Needs(torch.device("cpu"), torch.float32, functions=self._functions, networks=True)
        if backends.why_not(backend, needs) is not None:
            return None
        numbers = [mask for mask in masks.values() if mask.is_floating_point()]
        if not all(bool(((mask == 0) | (mask == 1)).all()) for mask in numbers):
            return None
        masks = {weight: mask != 0 if mask.is_floating_point() else mask for weight, mask in masks.items()}
        widths = [self.wiring.features, self.wiring.context_features, *(wire.width for wire in self.wiring.wires)]
        whole = {
            weight: whole_mask(masks[weight], (wire.width, widths[value]))
            if weight in masks
            else torch.ones(wire.width, widths[value], dtype=torch.bool)
            for wire in self.wiring.wires
            for value, weight in wire.terms
        }
        return backends.load(backend).Network(self.wiring, whole)


class _Last:
    """The masks of the last call, which most calls have again: the same tensors with the same content."""

    def __init__(self, backend: backends.Backend, masks: Mapping[int, Tensor], native: Any) -> None:
        self.backend, self.native = backend, native
        whole = [mask if mask.is_contiguous() else None for mask in masks.values()]
        self._masks = [(mask, 0, 0) if mask is None else (mask, mask.data_ptr(), mask_digest(mask)) for mask in whole]

    def knows(self, masks: Mapping[int, Tensor]) -> bool:
        """Whether these are they. Whatever is written to a mask is seen, also where torch counts no version."""
        for mask, (known, address, digest) in zip(masks.values(), self._masks, strict=True):
            if mask is not known or mask.data_ptr() != address or not mask.is_contiguous():
                return False
            if mask_digest(mask) != digest:
                return False
        return True


class Call(NamedTuple):
    """One network of a chain, for one call.

    Attributes:
        wiring: its operations.
        native: what a backend made of it.
        weights: those of the wiring, by number.
        masks: see ``WholeNetwork.ready``.
        product: of values, a weight, its mask and a bias: the definition of a masked product.
        reads: which variable of the z before it is its i-th, int64 (D,); None: the i-th.
    """

    wiring: Wiring
    native: Any
    weights: Sequence[Tensor]
    masks: Mapping[int, Tensor]
    product: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor] = masked_linear
    reads: Tensor | None = None


class NotFinite(ArithmeticError):
    """A number is not finite, and what becomes of it must be as the definition says."""


def run(
    calls: Sequence[Call], head: str, floor: float, x: Tensor, context: Tensor | None, *, finite: bool = False
) -> Any:
    """Networks one after another, each reading the z of the one before, as one operation of autograd.

    Args:
        calls: the networks, 64 at most; of several the head makes z, or is ``"flow"``.
        head: of ``HEADS``. Variables without parameters pass through ``"softplus_scale"`` and ``"softclip_scale"``.
        floor: of scales.
        x: (..., D).
        context: (..., C) of the same rows, or None.
        finite: whether numbers that are not finite are refused, and on the way back given to the definition. The engine
            keeps what is under a mask out of everything, be it nan; the product of a weight and a mask does not.

    Returns:
        (..., P); or z (..., D) and the log-determinant of all, (...); or the log-probability (...), of a flow under a
        standard normal base.

    Raises:
        NotFinite: a number that is read or made is not, with ``finite``.
    """
    rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
    given = context if context is None or context.ndim == 2 else context.reshape(-1, context.shape[-1])
    weights = [weight for call in calls for weight in call.weights]
    natives = [call.native for call in calls]
    chain = _Chain(tuple(calls), natives[0].one_after_another(natives), head, floor, finite)
    if torch.is_grad_enabled() and _any_needs_gradient(x, context, *weights):
        found = _Network.apply(chain, rows, given, *weights)  # type: ignore[no-untyped-call]
    else:
        found = chain.forward(rows, given, weights, keep=False)[0]
    if x.ndim != 2:
        found = tuple(each.reshape((*x.shape[:-1], *each.shape[1:])) for each in found)
    return found[0] if len(found) == 1 else found


def _any_needs_gradient(*tensors: Tensor | None) -> bool:
    for each in tensors:  # noqa: SIM110 - half the time of a generator
        if each is not None and each.requires_grad:
            return True
    return False


class _Chain(NamedTuple):
    """Networks one after another; see ``run``."""

    calls: tuple[Call, ...]
    native: Any
    head: str
    floor: float
    finite: bool

    @property
    def reads(self) -> list[Tensor | None]:
        """See ``Call``."""
        return [call.reads for call in self.calls]

    def forward(
        self, x: Tensor, context: Tensor | None, weights: Sequence[Tensor], *, keep: bool
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Results that are not None, and the values for the way back."""
        rows, given = _plain(x), None if context is None else _plain(context)
        found = self.native.forward(
            self.head, self.floor, self.reads, rows, given, [_plain(each) for each in weights], keep, self.finite
        )
        if found is None:
            raise NotFinite
        out, total, values = found
        return tuple([each for each in (out, total) if each is not None]), values

    def backward(
        self,
        grads: Sequence[Tensor | None],
        needed: Sequence[bool],
        x: Tensor,
        context: Tensor | None,
        values: Tensor,
        weights: Sequence[Tensor],
    ) -> list[Tensor | None] | None:
        """Gradients of x, the context and all weights; those that are not needed are None. None: see ``finite``."""
        of = [None if grad is None else _plain(grad) for grad in grads]
        out, total = (of[0], None) if self.head == "parameters" else (None, of[0]) if len(of) == 1 else of
        plain = [_plain(each) for each in weights]
        made = [torch.empty_like(each) if need else None for each, need in zip(plain, needed[2:], strict=True)]
        to_x = x.new_empty(x.shape) if needed[0] else None
        to_context = context.new_empty(context.shape) if context is not None and needed[1] else None
        given, into = (out, total), (to_x, to_context)
        done = self.native.backward(
            self.head, self.floor, self.reads, x.shape[0], plain, values, given, into, made, self.finite
        )
        return [to_x, to_context, *made] if done else None

    def by_layers(self, x: Tensor, context: Tensor | None, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The definition, by operators that can be differentiated again."""
        if self.head not in _TRANSFORMS:
            params = _parameters(self.calls[0], x, context, weights)
            if self.head == "parameters":
                return (params,)
            if self.head == "bernoulli":
                return (BernoulliConditional().log_prob(params[..., None], x).sum(-1),)
            return (NormalConditional(self.floor).log_prob(params.unflatten(-1, (-1, 2)), x).sum(-1),)
        total = x.new_zeros(x.shape[:-1])
        first = 0
        for call in self.calls:
            part = weights[first : first + call.wiring.num_weights]
            x = x if call.reads is None else x[..., call.reads]
            x, log_det = _TRANSFORMS[self.head](_parameters(call, x, context, part), x, self.floor)
            total, first = total + log_det, first + len(part)
        return (total - (0.5 * x**2 + LOG_SQRT_2_PI).sum(-1),) if self.head == "flow" else (x, total)


def _affine(params: Tensor, x: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    shift, scale = NormalConditional(floor).parts(params.unflatten(-1, (-1, 2)))
    return (x - shift) / scale, -torch.log(scale).sum(-1)


def _softplus_scale(params: Tensor, x: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Scale softplus(raw) + floor, parameters raw and shift."""
    raw, shift = params.unflatten(-1, (-1, 2)).unbind(-1)
    scale = F.softplus(raw) + floor
    return _scaled(x, scale, shift), torch.log(scale).sum(-1)


def _softclip_scale(params: Tensor, x: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Scale exp(raw / (1 + |raw / log(floor)|)), between floor and its inverse; parameters shift and raw."""
    shift, raw = params.unflatten(-1, (-1, 2)).unbind(-1)
    log_scale = raw / (1 + (raw / math.log(floor)).abs())
    return _scaled(x, log_scale.exp(), shift), log_scale.sum(-1)


def _scaled(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Of the first variables, those that have parameters; the others as they are."""
    variables = scale.shape[-1]
    scaled = x[..., :variables] * scale + shift
    return torch.cat([scaled, x[..., variables:]], -1) if variables < x.shape[-1] else scaled


_TRANSFORMS = {
    "affine": _affine,
    "flow": _affine,
    "softplus_scale": _softplus_scale,
    "softclip_scale": _softclip_scale,
}


def _parameters(call: Call, x: Tensor, context: Tensor | None, weights: Sequence[Tensor]) -> Tensor:
    values: list[Any] = [x, context]
    for wire in call.wiring.wires:
        if wire.kind == Kind.AFFINE:
            bias = None if wire.bias < 0 else weights[wire.bias]
            made: Any = None
            for value, number in wire.terms:
                mask, of = call.masks.get(number), (values[value], weights[number])
                part = F.linear(*of, bias) if mask is None else call.product(*of, mask, bias)
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
        found, values = chain.forward(x, context, weights, keep=True)
        ctx.chain = chain
        ctx.save_for_backward(x, context, values, *weights)
        ctx.set_materialize_grads(False)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        chain, needed = ctx.chain, ctx.needs_input_grad[1:]
        if all(grad is None for grad in grads):
            return (None,) * len(ctx.needs_input_grad)
        x, context, values, *weights = ctx.saved_tensors
        if torch.is_grad_enabled() or not may_bypass(*grads) or operators.batched(*grads):
            return (None, *_by_layers(chain, (x, context, *weights), needed, grads))
        made = chain.backward(grads, needed, x, context, values, weights)
        return (None, *(_by_layers(chain, (x, context, *weights), needed, grads) if made is None else made))


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

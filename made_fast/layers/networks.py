"""A whole masked network as one operation of autograd: one native call forward, one backward.

Higher derivatives, and whatever watches the dispatcher, go through the operators of single layers.
"""

from __future__ import annotations

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
from made_fast.outputs.binary import BernoulliConditional, SpinConditional
from made_fast.outputs.normal import NormalConditional
from made_fast.outputs.rules import LOG_SQRT_2_PI
from made_fast.programs.functions import FUNCTIONS
from made_fast.programs.schedule import Kind
from made_fast.programs.wiring import Wiring
from made_fast.tracing import may_bypass

__all__ = ["MOST_AT_ONCE", "Call", "Chain", "WholeNetwork", "run"]

MOST_AT_ONCE = 64  # networks one after another in one call: kMostNetworks of csrc/plan/network.h
_BINARY = {"bernoulli": BernoulliConditional(), "spin": SpinConditional()}
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
            masks: of the weights that have one, by number: bool (out, in), or int64 (out + in,) degrees.
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
    """

    wiring: Wiring
    native: Any
    weights: Sequence[Tensor]
    masks: Mapping[int, Tensor]


def run(calls: Sequence[Call], head: str, floor: float, x: Tensor, context: Tensor | None) -> Any:
    """``Chain(calls).run``."""
    return Chain(calls).run(head, floor, x, context)


class Chain:
    """Networks one after another, each reading the z of the one before, as one operation of autograd.

    Args:
        calls: the networks, 64 at most.

    Attributes:
        macs: multiply-adds of a forward pass of one row, of the largest network.
    """

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = calls
        natives = [call.native for call in calls]
        self._native = natives[0].one_after_another(natives)
        self.weights = [weight for call in calls for weight in call.weights]
        self._plain = [_plain(each) for each in self.weights]
        self._addresses = [each.data_ptr() for each in self._plain]
        self.macs = max(native.macs for native in natives)

    def run(self, head: str, floor: float, x: Tensor, context: Tensor | None) -> Any:
        """What a head makes of the last network.

        Args:
            head: of ``HEADS``; of several networks ``"affine"`` or ``"flow"``.
            floor: of scales.
            x: (..., D).
            context: (..., C) of the same rows, or None.

        Returns:
            (..., P); or z (..., D) and the log-determinant of all, (...); or the log-probability (...), of a flow under a
            standard normal base.
        """
        rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
        given = context if context is None or context.ndim == 2 else context.reshape(-1, context.shape[-1])
        if torch.is_grad_enabled() and _any_needs_gradient(x, context, *self.weights):
            found = _Network.apply(_Headed(self, head, floor), rows, given, *self.weights)  # type: ignore[no-untyped-call]
        else:
            found = self.forward(head, floor, rows, given, keep=False)[0]
        if x.ndim != 2:
            found = tuple(each.reshape((*x.shape[:-1], *each.shape[1:])) for each in found)
        return found[0] if len(found) == 1 else found

    def nll_with_gradients(
        self,
        head: str,
        floor: float,
        x: Tensor,
        into: Mapping[int, Tensor],
        density: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor | None:
        """The mean of minus the log-probabilities and its gradients, without a node of autograd.

        Args:
            head, floor: see ``run``; a head that makes log-probabilities, or ``"parameters"`` with ``density``.
            x: (B, D), B of 1 or more.
            into: by ``id`` of a weight, where its gradient is written: contiguous, of its shape and dtype.
            density: makes the log-probabilities (B,) of parameters (B, P).

        Returns:
            (); None, with nothing written, unless the weights that require gradients are those of ``into``, each once.
        """
        made = [into.get(id(weight)) if weight.requires_grad else None for weight in self.weights]
        wanted = [id(weight) for weight in self.weights if weight.requires_grad]
        if len(wanted) != len(into) or into.keys() != set(wanted):
            return None
        x = _plain(x)
        out, total, values = self._native.forward(head, floor, x, None, self._addresses, True)
        grads: tuple[Tensor | None, Tensor | None]
        if density is None:
            nll, grads = -total.mean(), (None, x.new_full((len(x),), -1 / len(x)))
        else:
            with torch.enable_grad():
                nll = -density(out.requires_grad_()).mean()
            grads = (_plain(torch.autograd.grad(nll, out)[0]), None)
        self._native.backward(head, floor, len(x), self._addresses, values, grads, (None, None), made)
        found: Tensor = nll.detach()
        return found

    def forward(
        self, head: str, floor: float, x: Tensor, context: Tensor | None, *, keep: bool
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Results that are not None, and the values for the way back; x (B, D), context (B, C) or None."""
        rows, given = _plain(x), None if context is None else _plain(context)
        out, total, values = self._native.forward(head, floor, rows, given, self._addresses, keep)
        return tuple([each for each in (out, total) if each is not None]), values

    def backward(
        self,
        head: str,
        floor: float,
        grads: Sequence[Tensor | None],
        needed: Sequence[bool],
        x: Tensor,
        context: Tensor | None,
        values: Tensor,
        weights: Sequence[Tensor],
    ) -> list[Tensor | None]:
        """Gradients of x, the context and all weights; those that are not needed are None."""
        of = [None if grad is None else _plain(grad) for grad in grads]
        out, total = (of[0], None) if head == "parameters" else (None, of[0]) if len(of) == 1 else of
        plain = [_plain(each) for each in weights]
        made = [torch.empty_like(each) if need else None for each, need in zip(plain, needed[2:], strict=True)]
        to_x = x.new_empty(x.shape) if needed[0] else None
        to_context = context.new_empty(context.shape) if context is not None and needed[1] else None
        addresses, into = [each.data_ptr() for each in plain], (to_x, to_context)
        self._native.backward(head, floor, x.shape[0], addresses, values, (out, total), into, made)
        return [to_x, to_context, *made]

    def by_layers(
        self, head: str, floor: float, x: Tensor, context: Tensor | None, weights: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """The definition, by operators that can be differentiated again."""
        if head not in ("affine", "flow"):
            params = _parameters(self.calls[0], x, context, weights)
            if head == "parameters":
                return (params,)
            if head in _BINARY:
                return (_BINARY[head].log_prob(params[..., None], x).sum(-1),)
            if head == "categorical":
                sizes = list(self.calls[0].wiring.categories)
                parts = zip(x.split(sizes, -1), params.split(sizes, -1), strict=True)
                return (torch.stack([(units * logits.log_softmax(-1)).sum(-1) for units, logits in parts]).sum(0),)
            return (NormalConditional(floor).log_prob(params.unflatten(-1, (-1, 2)), x).sum(-1),)
        total = x.new_zeros(x.shape[:-1])
        first = 0
        for call in self.calls:
            part = weights[first : first + call.wiring.num_weights]
            x, log_det = _affine(_parameters(call, x, context, part), x, floor)
            total, first = total + log_det, first + len(part)
        return (x, total) if head == "affine" else (total - (0.5 * x**2 + LOG_SQRT_2_PI).sum(-1),)


class _Headed(NamedTuple):
    """A chain and what is made of it."""

    chain: Chain
    head: str
    floor: float


def _any_needs_gradient(*tensors: Tensor | None) -> bool:
    for each in tensors:  # noqa: SIM110 - half the time of a generator
        if each is not None and each.requires_grad:
            return True
    return False


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
    def forward(ctx: Any, headed: _Headed, x: Tensor, context: Tensor | None, *weights: Tensor) -> tuple[Tensor, ...]:
        found, values = headed.chain.forward(headed.head, headed.floor, x, context, keep=True)
        ctx.headed = headed
        ctx.save_for_backward(x, context, values, *weights)
        ctx.set_materialize_grads(False)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        (chain, head, floor), needed = ctx.headed, ctx.needs_input_grad[1:]
        if all(grad is None for grad in grads):
            return (None,) * len(ctx.needs_input_grad)
        x, context, values, *weights = ctx.saved_tensors
        if torch.is_grad_enabled() or not may_bypass(*grads) or operators.batched(*grads):
            return (None, *_by_layers(ctx.headed, (x, context, *weights), needed, grads))
        return (None, *chain.backward(head, floor, grads, needed, x, context, values, weights))


def _by_layers(
    headed: _Headed, inputs: tuple[Tensor | None, ...], needed: Sequence[bool], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradients by the definition, differentiable in everything if that is wanted."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        taken = [
            each if each is None or again or not need else each.detach().requires_grad_()
            for each, need in zip(inputs, needed, strict=True)
        ]
        found = headed.chain.by_layers(*headed[1:], taken[0], taken[1], taken[2:])  # type: ignore[arg-type]
        pairs = [(out, grad) for out, grad in zip(found, grads, strict=True) if grad is not None]
        wanted = [each for each, need in zip(taken, needed, strict=True) if need]
        outs, given = [out for out, _ in pairs], [grad for _, grad in pairs]
        made = iter(torch.autograd.grad(outs, wanted, given, create_graph=again, allow_unused=True))  # type: ignore[arg-type]
    return [next(made) if need else None for need in needed]


def _plain(tensor: Tensor) -> Tensor:
    """What an engine can read: its address is that of its first number, and the others follow."""
    return tensor if tensor.is_contiguous() and not tensor.is_neg() else tensor.detach().contiguous().resolve_neg()

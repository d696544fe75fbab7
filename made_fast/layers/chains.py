"""Networks one after another as one operation of autograd: one native call forward, one backward.

Higher derivatives, and whatever watches the dispatcher, go through the operators of single layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from made_fast.layers import operators
from made_fast.layers.heads import by_layers
from made_fast.layers.networks import Call
from made_fast.tracing import may_bypass

__all__ = ["NLL", "Chain", "NotFinite"]


class NotFinite(ArithmeticError):
    """A number is not finite, and what becomes of it must be as the definition says."""


class Chain:
    """Networks one after another, each reading the z of the one before, as one operation of autograd.

    Args:
        calls: the networks, 64 at most.
        finite: whether numbers that are not finite are refused, and on the way back given to the definition. The engine
            keeps what is under a mask out of everything, be it nan; the product of a weight and a mask does not.

    Attributes:
        macs: multiply-adds of a forward pass of one row, of the largest network.
    """

    def __init__(self, calls: Sequence[Call], *, finite: bool = False) -> None:
        self.calls, self._finite = calls, finite
        self._reads = [call.reads for call in calls]
        natives = [call.native for call in calls]
        self._native = natives[0].one_after_another(natives)
        self.weights = [weight for call in calls for weight in call.weights]
        self._plain = [_plain(each) for each in self.weights]
        self._addresses = [each.data_ptr() for each in self._plain]
        self.macs = max(native.macs for native in natives)

    def run(self, head: str, floor: float, x: Tensor, context: Tensor | None) -> Any:
        """What a head makes of the last network.

        Args:
            head: of ``HEADS``; of several networks one that makes z, or ``"flow"``. Variables without parameters pass through
                ``"softplus_scale"`` and ``"softclip_scale"``.
            floor: of scales.
            x: (..., D).
            context: (..., C) of the same rows, or None.

        Returns:
            (..., P); or z (..., D) and the log-determinant of all, (...); or the log-probability (...), of a flow under a
            standard normal base.

        Raises:
            NotFinite: a number that is read or made is not, with ``finite``.
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

    def forward(
        self, head: str, floor: float, x: Tensor, context: Tensor | None, *, keep: bool
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Results that are not None, and the values for the way back; x (B, D), context (B, C) or None."""
        rows, given = _plain(x), None if context is None else _plain(context)
        found = self._native.forward(head, floor, self._reads, rows, given, self._addresses, keep, self._finite)
        if found is None:
            raise NotFinite
        out, total, values = found
        return tuple([each for each in (out, total) if each is not None]), values

    def write_gradients(
        self,
        head: str,
        floor: float,
        batch: int,
        values: Tensor,
        grads: tuple[Tensor | None, Tensor | None],
        into: Sequence[Tensor | None],
    ) -> bool:
        """Writes the gradients of the weights, of B rows whose values ``forward`` has kept. False: see ``finite``."""
        arguments = (head, floor, self._reads, batch, self._addresses, values)
        done: bool = self._native.backward(*arguments, grads, (None, None), into, self._finite)
        return done

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
    ) -> list[Tensor | None] | None:
        """Gradients of x, the context and all weights; those that are not needed are None. None: see ``finite``."""
        of = [None if grad is None else _plain(grad) for grad in grads]
        out, total = (of[0], None) if head == "parameters" else (None, of[0]) if len(of) == 1 else of
        plain = [_plain(each) for each in weights]
        made = [torch.empty_like(each) if need else None for each, need in zip(plain, needed[2:], strict=True)]
        to_x = x.new_empty(x.shape) if needed[0] else None
        to_context = context.new_empty(context.shape) if context is not None and needed[1] else None
        addresses, given, into = [each.data_ptr() for each in plain], (out, total), (to_x, to_context)
        arguments = (head, floor, self._reads, x.shape[0], addresses, values)
        done = self._native.backward(*arguments, given, into, made, self._finite)
        return [to_x, to_context, *made] if done else None


class NLL(NamedTuple):
    """The mean of minus the log-probabilities of rows, ready to be found with its gradients, without a node of autograd.

    Attributes:
        chain: the networks.
        head, floor: see ``Chain.run``; a head that makes log-probabilities, or ``"parameters"`` with ``density``.
        x: (B, D), B of 1 or more.
        context: (B, C), or None.
        density: makes the log-probabilities (B,) of parameters (B, P).
    """

    chain: Chain
    head: str
    floor: float
    x: Tensor
    context: Tensor | None
    density: Callable[[Tensor], Tensor] | None = None

    @property
    def weights(self) -> list[Tensor]:
        """Those of the chain."""
        return self.chain.weights

    def write_gradients(self, into: Sequence[Tensor | None]) -> Tensor:
        """Returns the mean, ().

        Args:
            into: for each of the weights where its gradient is written, contiguous, of its shape and dtype, or
                None.
        """
        chain, head, floor, x, context, density = self
        (result,), values = chain.forward(head, floor, x, context, keep=True)
        grads: tuple[Tensor | None, Tensor | None]
        if density is None:
            nll, grads = -result.mean(), (None, x.new_full((len(x),), -1 / len(x)))
        else:
            with torch.enable_grad():
                nll = -density(result.requires_grad_()).mean()
            nll.backward()  # type: ignore[no-untyped-call]  # a density of one's own may have parameters that we do not know
            assert result.grad is not None
            grads = (_plain(result.grad), None)
        chain.write_gradients(head, floor, len(x), values, grads, into)
        return nll.detach()


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


class _Network(torch.autograd.Function):
    """Networks one after another; see ``Chain.run``."""

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
        made = chain.backward(head, floor, grads, needed, x, context, values, weights)
        return (None, *(_by_layers(ctx.headed, (x, context, *weights), needed, grads) if made is None else made))


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
        found = by_layers(headed.chain.calls, *headed[1:], taken[0], taken[1], taken[2:])  # type: ignore[arg-type]
        pairs = [(out, grad) for out, grad in zip(found, grads, strict=True) if grad is not None]
        wanted = [each for each, need in zip(taken, needed, strict=True) if need]
        outs, given = [out for out, _ in pairs], [grad for _, grad in pairs]
        made = iter(torch.autograd.grad(outs, wanted, given, create_graph=again, allow_unused=True))  # type: ignore[arg-type]
    return [next(made) if need else None for need in needed]


def _plain(tensor: Tensor) -> Tensor:
    """What an engine can read: its address is that of its first number, and the others follow."""
    return tensor if tensor.is_contiguous() and not tensor.is_neg() else tensor.detach().contiguous().resolve_neg()

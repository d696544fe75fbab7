"""The three masked matmuls as torch operators, so that autograd, ``torch.compile`` and export know them.

They form a closed set: with ``W`` masked, ``y = x W^T`` has the gradients ``grad W`` and ``grad^T x`` (masked), and each of
those is linear in its two arguments with gradients out of the same three. So derivatives of any order run on the same
kernels. ``mask`` is bool (out, in) or int64 (out + in,) degrees, see ``layers.masked_linear``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from made_fast import backends
from made_fast.arguments import shown, why_not_dense
from made_fast.backends import reference
from made_fast.layers import definitions
from made_fast.layers.definitions import flat
from made_fast.masks import MaskPlan, find_plan, whole_mask
from made_fast.programs.functions import ACTIVATIONS, FUNCTIONS
from made_fast.tracing import may_bypass

__all__ = ["FROM_RESULT", "apply", "checked", "masked_linear", "masked_linear_grad_input", "masked_linear_grad_weight"]

MIN_BATCH = 8  # fewer rows do not fill the processor's vectors, and torch's product of a vector is as good

_threshold_backward = torch.ops.aten.threshold_backward.default

# Activations whose derivative follows from their result: grad of the sum from grad of the result, and the result. Torch's
# own, not a formula here: in half precision 1 - y^2 would lose what is left of it near 1.
FROM_RESULT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": lambda grad, y: grad,
    "relu": lambda grad, y: _threshold_backward(grad, y, 0),
    "tanh": torch.ops.aten.tanh_backward.default,
    "sigmoid": torch.ops.aten.sigmoid_backward.default,
}

_Prepared = tuple[Any, MaskPlan | Tensor]


def needs_of(x: Tensor, function: str = "identity") -> backends.Needs:
    """What a masked product of these rows asks of a backend, with this function of its sums."""
    functions = () if function == "identity" else (function,)
    return backends.Needs(x.device, x.dtype, functions=functions, products=True)


_LIBRARY = torch.library.Library("made_fast", "DEF")
_LIBRARY.define(
    "masked_linear(Tensor x, Tensor weight, Tensor mask, Tensor? bias, str activation, str backend) -> Tensor"
)
_LIBRARY.define("masked_linear_grad_input(Tensor grad, Tensor weight, Tensor mask, str backend) -> Tensor")
_LIBRARY.define("masked_linear_grad_weight(Tensor grad, Tensor x, Tensor mask, str backend) -> Tensor")

masked_linear = torch.ops.made_fast.masked_linear.default
masked_linear_grad_input = torch.ops.made_fast.masked_linear_grad_input.default
masked_linear_grad_weight = torch.ops.made_fast.masked_linear_grad_weight.default


def checked(
    x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, activation: str | None, backend: str
) -> Tensor:
    """See ``made_fast.masked_linear``: checks the arguments, chooses a backend, calls it."""
    check(x, weight, mask, bias, activation)
    name = activation or "identity"
    chosen = backends.choose(backend, needs_of(x, name))
    only_plain = None if chosen.name == "reference" else why_only_plain(x.device)
    if only_plain is not None and backend != "auto":
        raise ValueError(f"backend {backend!r} cannot be used: {only_plain}")
    if chosen.name == "reference" or only_plain is not None:
        return reference.masked_linear(x, weight, whole_mask(mask, weight.shape), bias, name)
    if name in FROM_RESULT or not _learns(x, weight, bias):
        return apply(x, weight, mask, bias, name, backend, chosen)
    return FUNCTIONS[name](apply(x, weight, mask, bias, "identity", backend, chosen))


def _learns(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    learns = x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    return learns and torch.is_grad_enabled()


def check(x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, activation: str | None) -> None:
    """Raises ValueError unless the arguments of ``masked_linear`` fit together; the message names the one that does not."""
    for name, tensor in (("x", x), ("weight", weight), ("mask", mask), ("bias", bias)):
        if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided or tensor.is_nested:
            _refuse(name, tensor)
    if weight.ndim != 2 or x.shape[-1:] != weight.shape[1:]:
        width = x.shape[-1] if x.ndim else "no"
        raise ValueError(f"weight must have shape (out, {width}) to match x, got {tuple(weight.shape)}")
    _check_mask(mask, (weight.shape[0], weight.shape[1]))
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have shape {tuple(weight.shape[:1])} to match weight, got {tuple(bias.shape)}")
    if activation is not None and not (isinstance(activation, str) and activation in ACTIVATIONS):
        raise ValueError(f"activation must be None or one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if weight.device != x.device or mask.device != x.device or (bias is not None and bias.device != x.device):
        name, other = next((n, t) for n, t in _named(weight, mask, bias) if t.device != x.device)
        raise ValueError(f"{name} must be on {x.device} like x, got {other.device}")
    if (weight.dtype != x.dtype or (bias is not None and bias.dtype != x.dtype)) and not _autocast(x.device):
        name, other = next((n, t) for n, t in _named(weight, None, bias) if t.dtype != x.dtype)
        raise ValueError(f"{name} must have dtype {x.dtype} like x, got {other.dtype}")


def _refuse(name: str, value: object) -> None:
    """Raises ValueError for what is no dense tensor."""
    if value is None and name == "bias":
        return
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a torch.Tensor, got {shown(value)}")
    raise ValueError(f"{name} must be a dense tensor, got {why_not_dense(value)}")


def _named(weight: Tensor, mask: Tensor | None, bias: Tensor | None) -> list[tuple[str, Tensor]]:
    return [(n, t) for n, t in (("weight", weight), ("mask", mask), ("bias", bias)) if t is not None]


def _check_mask(mask: Tensor, shape: tuple[int, int]) -> None:
    if mask.ndim == 1:
        if mask.dtype != torch.int64 or mask.shape[0] != sum(shape):
            expected = f"int64 ({sum(shape)},), out + in degrees"
            raise ValueError(f"mask must be {expected} to match weight, got {mask.dtype} {tuple(mask.shape)}")
    elif mask.shape != shape:
        raise ValueError(f"mask must have the shape of weight, {shape}, got {tuple(mask.shape)}")
    elif mask.dtype != torch.bool:
        raise ValueError(f"mask must have dtype torch.bool, got {mask.dtype}")


def _autocast(device: torch.device) -> bool:
    return torch._C._is_any_autocast_enabled() and (
        torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    )


def why_only_plain(device: torch.device) -> str | None:
    """Why the operators cannot serve now and plain torch has to, or None."""
    if torch._C._are_functorch_transforms_active():
        return "a transform of torch.func is active"
    if torch.autograd.forward_ad._current_level >= 0:
        return "forward-mode differentiation is active"
    return "autocast is on" if _autocast(device) else None


def _rows(x: Tensor) -> Tensor:
    return flat(x).contiguous().resolve_neg()


def _prepared(
    mask: Tensor, shape: tuple[int, int], x: Tensor, backend: str, chosen: backends.Backend | None = None
) -> _Prepared:
    """The backend's module and the mask as it wants it: its plan, or itself where a dense product is quicker."""
    chosen = chosen or backends.choose(backend, needs_of(x))
    planned = chosen.name != "reference" and 0 not in shape  # an empty product needs no plan
    if planned and (backend != "auto" or math.prod(x.shape[:-1]) >= MIN_BATCH):
        plan = find_plan(mask, shape)
        if backend != "auto" or plan.pays:
            return backends.load(chosen), plan
    return reference, whole_mask(mask, shape)


def _forward(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None,
    activation: str,
    backend: str,
    prepared: _Prepared | None = None,
) -> Tensor:
    rows, shape = _rows(x), (weight.shape[0], weight.shape[1])
    module, kept = prepared or _prepared(mask, shape, rows, backend)
    bias = None if bias is None else bias.detach().contiguous().resolve_neg()
    y: Tensor = module.masked_linear(rows, weight.contiguous().resolve_neg(), kept, bias, activation)
    return y if x.ndim == 2 else y.reshape(*x.shape[:-1], shape[0])


def _grad_input(grad: Tensor, weight: Tensor, mask: Tensor, backend: str, prepared: _Prepared | None = None) -> Tensor:
    rows, shape = _rows(grad), (weight.shape[0], weight.shape[1])
    module, kept = prepared or _prepared(mask, shape, rows, backend)
    y: Tensor = module.masked_linear_grad_input(rows, weight.contiguous().resolve_neg(), kept)
    return y if grad.ndim == 2 else y.reshape(*grad.shape[:-1], shape[1])


def _grad_weight(grad: Tensor, x: Tensor, mask: Tensor, backend: str, prepared: _Prepared | None = None) -> Tensor:
    rows, shape = _rows(grad), (grad.shape[-1], x.shape[-1])
    module, kept = prepared or _prepared(mask, shape, rows, backend)
    y: Tensor = module.masked_linear_grad_weight(rows, _rows(x), kept)
    return y


_BATCHED = torch._C._dispatch_key_parse("Batched")


def batched(*tensors: Tensor | None) -> bool:
    """Whether one of these gradients is one of many that are computed at once (``is_grads_batched``)."""
    return any(each is not None and torch._C._dispatch_keys(each).has(_BATCHED) for each in tensors)


def apply(
    x: Tensor,
    weight: Tensor,
    mask: Tensor,
    bias: Tensor | None,
    activation: str,
    backend: str,
    chosen: backends.Backend,
) -> Tensor:
    """``masked_linear`` by the shortest way that serves; ``chosen`` is the backend that ``backend`` stands for."""
    arguments = (x, weight, mask, bias, activation, backend)
    if not may_bypass(x, weight, mask, bias):
        if not torch.compiler.is_compiling():
            definitions.let_count()
        return masked_linear(*arguments)  # type: ignore[no-any-return]
    prepared = _prepared(mask, (weight.shape[0], weight.shape[1]), x, backend, chosen)
    if _learns(x, weight, bias):
        return _MaskedLinear.apply(prepared, *arguments)  # type: ignore[no-any-return,no-untyped-call]
    return _forward(*arguments, prepared)


class _MaskedLinear(torch.autograd.Function):
    """The operator without the dispatcher; the mask is read once for both directions."""

    @staticmethod
    def forward(ctx: Any, prepared: _Prepared, *inputs: Any) -> Tensor:
        ctx.prepared = prepared
        x, weight, mask, bias, activation, backend = inputs
        y = _forward(x, weight, mask, bias, activation, backend, prepared)
        _setup_forward(ctx, inputs, y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return (None, *_gradients(ctx, grad, ctx.needs_input_grad[1:]))


def _setup_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, mask, bias, ctx.activation, ctx.backend = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight, mask, output if ctx.activation != "identity" else None)


def _backward_forward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return _gradients(ctx, grad, ctx.needs_input_grad)


def _gradients(ctx: Any, grad: Tensor, needed: Sequence[bool]) -> tuple[Any, ...]:
    x, weight, mask, y = ctx.saved_tensors
    if ctx.activation not in FROM_RESULT:
        raise RuntimeError(f"activation {ctx.activation!r} cannot be fused where a gradient is needed")
    grad = FROM_RESULT[ctx.activation](grad, y)
    needs_x, needs_weight, _, needs_bias = needed[:4]
    grad_input: Callable[..., Tensor] = masked_linear_grad_input
    grad_weight: Callable[..., Tensor] = masked_linear_grad_weight
    known: dict[str, Any] = {}
    if batched(grad):
        grad_input, grad_weight = definitions.grad_input, definitions.grad_weight
    elif hasattr(ctx, "prepared") and not torch.is_grad_enabled() and may_bypass(grad, x, weight, mask):
        grad_input, grad_weight, known = _grad_input, _grad_weight, {"prepared": ctx.prepared}
    return (
        grad_input(grad, weight, mask, ctx.backend, **known) if needs_x else None,
        grad_weight(grad, x, mask, ctx.backend, **known) if needs_weight else None,
        None,
        flat(grad).sum(0) if needs_bias and ctx.has_bias else None,
        None,
        None,
    )


def _setup_product(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _backward_grad_input(ctx: Any, outer: Tensor) -> tuple[Any, ...]:
    grad, weight, mask = ctx.saved_tensors
    needs_grad, needs_weight = ctx.needs_input_grad[:2]
    return (
        masked_linear(outer, weight, mask, None, "identity", ctx.backend) if needs_grad else None,
        masked_linear_grad_weight(grad, outer, mask, ctx.backend) if needs_weight else None,
        None,
        None,
    )


def _backward_grad_weight(ctx: Any, outer: Tensor) -> tuple[Any, ...]:
    grad, x, mask = ctx.saved_tensors
    needs_grad, needs_x = ctx.needs_input_grad[:2]
    return (
        masked_linear(x, outer, mask, None, "identity", ctx.backend) if needs_grad else None,
        masked_linear_grad_input(grad, outer, mask, ctx.backend) if needs_x else None,
        None,
        None,
    )


def _fake_forward(
    x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, activation: str, backend: str
) -> Tensor:
    definitions.let_compile()
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _fake_grad_input(grad: Tensor, weight: Tensor, mask: Tensor, backend: str) -> Tensor:
    definitions.let_compile()
    return grad.new_empty(*grad.shape[:-1], weight.shape[1])


def _fake_grad_weight(grad: Tensor, x: Tensor, mask: Tensor, backend: str) -> Tensor:
    definitions.let_compile()
    return grad.new_empty(grad.shape[-1], x.shape[-1])


def _checked_forward(
    x: Tensor, weight: Tensor, mask: Tensor, bias: Tensor | None, activation: str, backend: str
) -> Tensor:
    check(x, weight, mask, bias, activation)
    return _forward(x, weight, mask, bias, activation, backend)


def _checked_grad_input(grad: Tensor, weight: Tensor, mask: Tensor, backend: str) -> Tensor:
    if weight.ndim != 2 or grad.shape[-1:] != weight.shape[:1] or grad.dtype != weight.dtype:
        raise ValueError(f"grad must have shape (..., {weight.shape[0]}) and the dtype of weight, got {_shown(grad)}")
    _check_mask(mask, (weight.shape[0], weight.shape[1]))
    return _grad_input(grad, weight, mask, backend)


def _checked_grad_weight(grad: Tensor, x: Tensor, mask: Tensor, backend: str) -> Tensor:
    if not grad.ndim or grad.shape[:-1] != x.shape[:-1] or grad.dtype != x.dtype:
        raise ValueError(f"grad must have shape ({x.shape[:-1]}, out) and the dtype of x, got {_shown(grad)}")
    _check_mask(mask, (grad.shape[-1], x.shape[-1]))
    return _grad_weight(grad, x, mask, backend)


def _shown(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"


def _register() -> None:
    rules: dict[str, tuple[Callable[..., Any], ...]] = {
        "masked_linear": (_checked_forward, _fake_forward, _setup_forward, _backward_forward),
        "masked_linear_grad_input": (_checked_grad_input, _fake_grad_input, _setup_product, _backward_grad_input),
        "masked_linear_grad_weight": (
            _checked_grad_weight,
            _fake_grad_weight,
            _setup_product,
            _backward_grad_weight,
        ),
    }
    for name, (run, fake, setup, backward) in rules.items():
        qualified = f"made_fast::{name}"
        _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
        torch.library.register_fake(qualified, fake, lib=_LIBRARY)
        torch.library.register_autograd(qualified, backward, setup_context=setup, lib=_LIBRARY)
    definitions.register()


_register()

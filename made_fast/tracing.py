"""Who watches torch's dispatcher: where calls are recorded, memory must not be read round it, nor values be looked at."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._subclasses import fake_tensor
from torch.utils._python_dispatch import _disable_current_modes

__all__ = [
    "are_real",
    "as_made_here",
    "have_values",
    "is_exporting",
    "is_recorded",
    "may_bypass",
    "may_look",
    "uncompiled",
    "unwatched",
]

P = ParamSpec("P")
R = TypeVar("R")

_PLAIN = (Tensor, nn.Parameter, type(None))
_RECORDING = tuple(getattr(torch._C._TorchDispatchModeKey, name) for name in ("PROXY", "FAKE", "FUNCTIONAL"))

is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # which torch 2.6 has not
_state_of_jit = torch._C._get_tracing_state
_in_a_transform = torch._C._are_functorch_transforms_active
_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_has_key = torch._C._dispatch_tls_is_dispatch_key_included
_FUNCTIONALIZE = torch._C.DispatchKey.Functionalize


def may_bypass(*tensors: Tensor | None) -> bool:
    """Whether nobody watches: then an operator's body may be called without the dispatcher, at a tenth of the cost.

    No compiler, trace, export, transform or mode is at work, and the tensors are plain ones with memory of their own. Whoever
    reads the memory of a tensor by its address or as an array, outside of an operator of ``torch.library``, asks here first:
    a trace would record the empty result and not what was written into it.
    """
    if torch.compiler.is_compiling() or _state_of_jit() is not None or _in_a_transform():
        return False
    if _dispatch_modes() or _function_modes() or _has_key(_FUNCTIONALIZE):
        return False
    for each in tensors:  # noqa: SIM110 - a third of the time of a generator
        if type(each) not in _PLAIN:
            return False
    return True


def may_look(*tensors: Tensor | None) -> bool:
    """Whether the values of tensors can be looked at, so that wrong ones can be refused: not while they are recorded."""
    if is_recorded() or _in_a_transform() or _has_key(_FUNCTIONALIZE):
        return False
    return have_values(*tensors)


def have_values(*tensors: Tensor | None) -> bool:
    """Whether there is memory behind tensors: not on the meta device, nor in ``FakeTensorMode``."""
    for each in tensors:
        if each is not None and (each.is_meta or (type(each) not in _PLAIN and fake_tensor.is_fake(each))):
            return False
    return True


def is_recorded() -> bool:
    """Whether what is called now is recorded, to be run later with other tensors: by a compiler, a trace or an export."""
    if torch.compiler.is_compiling() or _state_of_jit() is not None:
        return True
    return _dispatch_modes() > 0 and any(torch._C._get_dispatch_mode(key) is not None for key in _RECORDING)


def are_real(*tensors: Tensor) -> bool:
    """Whether tensors are plain ones, not those that stand for others in a trace or a transform."""
    return all(
        type(each) in _PLAIN and not _is_wrapped(each) and not torch._is_functional_tensor(each) for each in tensors
    )


_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor


@contextmanager
def unwatched() -> Iterator[None]:
    """Makes real tensors of real ones, whoever watches: what is kept for later calls must be no part of a trace.

    Modes, transforms and subclasses do not see what is called, and new tensors are as outside of ``torch.inference_mode``.
    """
    with (
        torch._C.DisableTorchFunction(),
        _disable_current_modes(),
        temporarily_clear_interpreter_stack(),
        torch.inference_mode(False),
    ):
        yield


def as_made_here(tensor: Tensor) -> Tensor:
    """A real tensor on the CPU as a new one would be: on the device of ``with torch.device``, or without memory.

    Args:
        tensor: of whole numbers or flags; it is returned itself where nobody redirects what is made.
    """
    if may_bypass():
        return tensor
    with unwatched():
        numbers = tensor.numpy()
    return torch.tensor(numbers)


_uncompiled: dict[Any, Any] = {}  # of what was called while something was compiled
_KNOWS_REASONS = "reason" in inspect.signature(torch.compiler.disable).parameters  # from torch 2.7 on


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function, at which ``torch.compile`` ends a graph and begins another; with ``fullgraph=True`` it refuses.

    ``torch.compiler.disable`` does so too, but loads the compiler, which takes seconds, and costs more with each call.
    """

    @wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> R:
        if torch.compiler.is_dynamo_compiling():
            return _disabled(function)(*args, **options)  # type: ignore[no-any-return]
        return function(*args, **options)

    return call


def _disabled(function: Any) -> Any:
    if function not in _uncompiled:
        told = {"reason": "what engines write cannot be recorded"} if _KNOWS_REASONS else {}
        _uncompiled[function] = torch.compiler.disable(function, **told)
    return _uncompiled[function]

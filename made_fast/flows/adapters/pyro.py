"""pyro: affine transforms with an ``arn``, or of a conditional kind with an ``nn``. Their slow direction is the density."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from made_fast.flows.adapters.networks import Reading, in_one_call, kind_of, parameters_of
from made_fast.flows.adapters.solving import Adapter, Inverter, copy_with
from made_fast.programs.program import X

__all__ = ["composed", "levelled", "recognises"]


def _net_of(module: Any) -> Any:
    return module.arn if hasattr(module, "arn") else module.nn


def _parts(params: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and raw scale (B, n) from params (B, n * 2)."""
    mean, raw = params.unflatten(-1, (-1, 2)).unbind(-1)
    return mean, raw


def recognises(module: nn.Module) -> bool:
    """Whether a module is such a transform."""
    affine = hasattr(module, "arn") and hasattr(module, "log_scale_min_clip") and hasattr(module, "_inverse")
    conditional = type(module).__name__ == "ConditionalAffineAutoregressive" and hasattr(module, "nn")
    return (affine or conditional) and isinstance(_net_of(module), nn.Module)


class _Adapter(Adapter):
    """The formulas are the library's, whose own inverse is one loop; the check compares with its ``_call``."""

    def __init__(self, module: Any) -> None:
        net = _net_of(module)
        affine = module if hasattr(module, "arn") else type(module).condition(module, torch.zeros(net.context_dim))
        self.features, self.context_features = int(net.input_dim), int(getattr(net, "context_dim", 0))
        self.stable, self.bias = bool(affine.stable), float(affine.sigmoid_bias)
        self.low, self.high = float(affine.log_scale_min_clip), float(affine.log_scale_max_clip)

    def network(self, module: Any, x: Tensor, context: Tensor | None) -> Tensor:
        net = _net_of(module)
        mean, raw = net(x) if context is None else net(x, context)
        found: Tensor = torch.stack([mean, raw], -1).flatten(-2)
        return found

    def apply(self, module: Any, before: Tensor, x: Tensor, context: Tensor | None) -> Tensor:
        mean, raw = _parts(self.network(module, before, context))
        if self.stable:
            scale = torch.sigmoid(raw + self.bias)
            return scale * x + (1 - scale) * mean
        clamped = raw + (raw.clamp(self.low, self.high) - raw).detach()  # whose gradient the library keeps
        return torch.exp(clamped) * x + mean

    def solve_each(self, module: Any, params: Tensor, z: Tensor, variables: Tensor | None) -> Tensor:
        mean, raw = _parts(params)
        if self.stable:
            return (z - mean) * (1 + torch.exp(-raw - self.bias)) + mean
        return (z - mean) * torch.exp(-raw.clamp(self.low, self.high))


class _Network:
    """Put before the class of a network: it runs in one call."""

    def _forward(self: Any, x: Tensor) -> Any:
        """What the library makes of x with its context (..., C + D): one tensor, or one for each kind of parameters."""
        made = parameters_of(self, x)
        if made is None:
            return super()._forward(x)  # type: ignore[misc]
        if self.output_multiplier == 1:
            return made
        made = made.reshape(*x.shape[:-1], self.output_multiplier, self.input_dim)
        if self.count_params == 1:
            return made
        return made.unbind(-2) if self.all_ones else tuple([made[..., each, :] for each in self.param_slices])


def _read(net: Any, with_context: bool) -> Reading:
    reading = Reading(int(net.input_dim + net.context_dim), 0)
    *hidden, last = reading.children(reading.attribute(net, "layers"))
    function, skip, value = reading.attribute(net, "f"), reading.attribute(net, "skip_layer"), X
    for layer in hidden:
        value = reading.apply(function, reading.linear(layer, value))
    value = reading.linear(last, value)
    if skip is not None:
        reading.add(value, reading.linear(skip, X))
    return reading


def _networks(module: Any) -> dict[str, nn.Module]:
    """The network of a transform, in one call, by its name; of other kinds none."""
    names = {"pyro.nn.auto_reg_nn.AutoRegressiveNN", "pyro.nn.auto_reg_nn.ConditionalAutoRegressiveNN"}
    found = {name: each for name, each in module._modules.items() if name in ("arn", "nn") and kind_of(each) in names}
    return {name: in_one_call(each, _Network, _read) for name, each in found.items()}


class _LevelledAffine:
    """Put before the class of an affine transform."""

    def _inverse(self: Any, y: Tensor) -> Any:
        inverter, context = self._inverter, self.__dict__.get("_context")
        rows = y.reshape(-1, y.shape[-1])
        if context is not None:
            context = context.expand(*y.shape[:-1], context.shape[-1]).reshape(-1, context.shape[-1])
        x = inverter(rows, context).reshape(y.shape)
        # The library reads the log-determinant from this afterwards.
        raw = self.arn(x)[1]
        if self.stable:
            self._cached_log_scale = self.logsigmoid(raw + self.sigmoid_bias)
        else:
            clamped = raw.clamp(self.log_scale_min_clip, self.log_scale_max_clip)
            self._cached_log_scale = raw + (clamped - raw).detach()
        return x


class _LevelledConditional:
    """Put before the class of a conditional affine transform."""

    def condition(self: Any, context: Tensor) -> Any:
        """The transform given a context (..., C), as the library makes it."""
        transform = _levelled_affine(super().condition(context), self._inverter)  # type: ignore[misc]
        transform.__dict__["_context"] = context
        return transform


_CACHES = {"_inv": None, "_cached_x_y": (None, None), "_cached_log_scale": None}  # results, some with their gradients


def _levelled_affine(module: nn.Module, inverter: Inverter) -> nn.Module:
    return _forgetful(copy_with(module, _LevelledAffine, _networks(module), _inverter=inverter))


def _forgetful(module: nn.Module) -> nn.Module:
    """A shallow copy, after it has lost what it keeps of the original: results, and methods bound to the original."""
    state = vars(module)
    state.update({name: value for name, value in _CACHES.items() if name in state})
    for name in ("_call", "_inverse"):  # of the stable kind
        state.pop(name, None)
    if getattr(module, "stable", False) and hasattr(module, "_call_stable"):
        state["_call"] = module._call_stable
    return module


def levelled(module: nn.Module, **options: Any) -> nn.Module:
    """The same transform, with the same parameters, an inverse in levels and a network in one call."""
    inverter = Inverter(_forgetful(copy.copy(module)), _Adapter(module), **options)
    if hasattr(module, "arn"):
        return _levelled_affine(module, inverter)
    return copy_with(module, _LevelledConditional, _networks(module), _inverter=inverter)


def composed(module: nn.Module) -> nn.Module:
    """A composition as it is: pyro's run one after another."""
    return module

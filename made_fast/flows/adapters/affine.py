"""Layers of a network with an elementwise map, by one rule: torchflows, denmarf and pytorch-flows, deeprob-kit, flowtorch.

A layer is told by what its network makes of x and by what it does with that; the rest is the same for all.
"""

from __future__ import annotations

import copy
import sys
from abc import abstractmethod
from inspect import signature
from math import prod
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from made_fast.flows.adapters.networks import derives
from made_fast.flows.adapters.solving import Adapter, Inverter, copy_with

__all__ = ["composed", "levelled", "recognises"]


class _Layer(Adapter):
    """A layer of a library.

    Its quick direction is ``x * scale + shift``, or with ``divides`` ``(x - shift) / scale``, of a shift and a raw scale that
    the network makes.
    """

    divides = True
    slow: type  # put before the class of the layer

    @staticmethod
    @abstractmethod
    def recognises(module: nn.Module) -> bool:
        """Whether a module is such a layer."""

    @abstractmethod
    def parts(self, module: Any, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Shift and raw scale, (B, D) each."""

    @abstractmethod
    def quick(self, module: Any, x: Tensor, context: Tensor | None) -> Tensor:
        """The layer's own quick direction, (B, D)."""

    def scale(self, module: Any, raw: Tensor) -> Tensor:
        """The scale of a raw one."""
        return torch.exp(raw)

    def network(self, module: nn.Module, x: Tensor, context: Tensor | None) -> Tensor:
        found: Tensor = torch.stack(self.parts(module, x, context), -1).flatten(-2)
        return found

    def apply(self, module: nn.Module, before: Tensor, x: Tensor, context: Tensor | None) -> Tensor:
        if before is x:  # so that what is solved is compared with the library
            return self.quick(module, x, context)
        return self.each(module, self.network(module, before, context), x)

    def each(self, module: nn.Module, params: Tensor, x: Tensor) -> Tensor:
        """The quick direction (B, D) of x (B, D), given parameters (B, D * K)."""
        shift, raw = params.unflatten(-1, (-1, 2)).unbind(-1)
        scale = self.scale(module, raw)
        found: Tensor = (x - shift) / scale if self.divides else x * scale + shift
        return found

    def solve_each(self, module: nn.Module, params: Tensor, z: Tensor, variables: Tensor | None) -> Tensor:
        shift, raw = params.unflatten(-1, (-1, 2)).unbind(-1)
        scale = self.scale(module, raw)
        found: Tensor = z * scale + shift if self.divides else (z - shift) / scale
        return found


class _Modes:
    """Put before the class of a layer of denmarf and pytorch-flows."""

    def forward(self: Any, inputs: Tensor, cond_inputs: Tensor | None = None, mode: str = "direct") -> Any:
        """z or, with ``mode="inverse"``, x (B, D), and the log-determinant (B, 1)."""
        if mode == "direct":
            return super().forward(inputs, cond_inputs, mode)  # type: ignore[misc]
        x = self._inverter(inputs, cond_inputs)
        return x, -super().forward(x, cond_inputs, "direct")[1]  # type: ignore[misc]


class _PytorchFlows(_Layer):
    slow = _Modes

    def __init__(self, module: Any) -> None:
        self.features = int(module.joiner.linear.in_features)
        given = getattr(module.joiner, "cond_linear", None)
        self.context_features = 0 if given is None else int(given.in_features)

    @staticmethod
    def recognises(module: Any) -> bool:
        """By its attributes: its file is copied from project to project."""
        if type(module).__name__ != "MADE" or not {"joiner", "trunk"} <= set(module._modules):
            return False
        return "mode" in signature(type(module).forward).parameters

    def parts(self, module: Any, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        shift, raw = module.trunk(module.joiner(x, context)).chunk(2, 1)
        return shift, raw

    def quick(self, module: Any, x: Tensor, context: Tensor | None) -> Tensor:
        found: Tensor = module(x, context)[0]
        return found


class _Forwards:
    """Put before the class of a layer of deeprob-kit."""

    def apply_forward(self: Any, u: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, D) and log |det dx/dz| (B,) from z (B, D)."""
        x = self._inverter(u, None)
        return x, -self.apply_backward(x)[1]


class _Deeprob(_Layer):
    slow, context_features = _Forwards, 0

    def __init__(self, module: Any) -> None:
        self.features = int(module.in_features)

    @staticmethod
    def recognises(module: nn.Module) -> bool:
        return derives(module, "deeprob.flows.layers.autoregressive.AutoregressiveLayer")

    def parts(self, module: Any, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        shift, raw = module.network(x).chunk(2, 1)
        return shift, module.scale_act(raw)

    def quick(self, module: Any, x: Tensor, context: Tensor | None) -> Tensor:
        found: Tensor = module.apply_backward(x)[0]
        return found


class _Inverse:
    """Put before the class of a layer of flowtorch."""

    def inverse(self: Any, y: Tensor, x: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """x (..., D) from y (..., D), which remembers its log-determinant as the library's does."""
        if context is not None or self._check_bijective_y(y, context):
            return super().inverse(y, x, context)  # type: ignore[misc,no-any-return]
        plain = y.as_subclass(Tensor)  # type: ignore[arg-type]
        found = self._inverter(plain.reshape(-1, y.shape[-1]), None).reshape(y.shape)
        loaded = sys.modules
        if not loaded["flowtorch.bijectors.utils"].is_record_flow_graph_enabled():
            return found  # type: ignore[no-any-return]
        log_det = self._log_abs_det_jacobian(found, plain, self._params_fn(found, None))
        remember = loaded["flowtorch.bijectors.bijective_tensor"].to_bijective_tensor
        return remember(found, y, context=None, bijector=self, mode="inverse", log_detJ=log_det)  # type: ignore[no-any-return]


class _Flowtorch(_Layer):
    divides, slow, context_features = False, _Inverse, 0

    def __init__(self, module: Any) -> None:
        if len(module._shape) != 1:
            raise ValueError(f"flow must have vectors as events, but that of a layer has shape {tuple(module._shape)}")
        self.features = int(module._shape[0])

    @staticmethod
    def recognises(module: nn.Module) -> bool:
        names = ("ops.affine.Affine", "autoregressive.Autoregressive")
        return all(derives(module, f"flowtorch.bijectors.{name}") for name in names)

    def parts(self, module: Any, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        shift, raw = module._params_fn(x, None)
        return shift, raw

    def scale(self, module: Any, raw: Tensor) -> Tensor:
        clamped = raw.clamp(module.log_scale_min_clip, module.log_scale_max_clip)
        return torch.exp(raw + (clamped - raw).detach())  # whose gradient the library keeps

    def quick(self, module: Any, x: Tensor, context: Tensor | None) -> Tensor:
        found: Tensor = module._forward(x, module._params_fn(x, None))[0]
        return found


class _Solved:
    """Put before the class of a layer of torchflows."""

    def _slowly(self: Any, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """The library's own loop has the log-determinant of splines at other points, (x_1, ..., x_D-1, z_D) in place of z."""
        adapter = self._inverter.adapter
        lead = z.shape[: z.ndim - len(adapter.event)]
        given = None if context is None else context.reshape(-1, adapter.context_features)
        x = self._inverter(z.reshape(-1, adapter.features), given).reshape(z.shape)
        log_det = self.transformer.inverse(z, self.conditioner_transform(x, context))[1]
        return x, log_det.reshape(lead)


class _SlowInverse(_Solved):
    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x and log |det dx/dz| (B,), from z (B, *event) and context (B, *shape) or None."""
        return self._slowly(z, context)


class _SlowForward(_Solved):
    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z and log |det dz/dx| (B,), from x (B, *event) and context (B, *shape) or None."""
        return self._slowly(x, context)


class _Torchflows(_Layer):
    """With any transformer of numbers: the library's own maps each, given its parameters."""

    def __init__(self, module: Any) -> None:
        self.features, self.event = int(module.n_dim), tuple(module.event_shape)
        self.given = tuple(module.conditioner_transform.context_shape or ())  # the layer's own is None
        self.context_features = prod(self.given) if self.given else 0
        kind = type(module.transformer)
        if not kind.__module__.startswith(_TRANSFORMERS):
            raise ValueError(
                "flow must have affine or spline transformers to be inverted in levels, but the inverse of "
                f"{kind.__name__} is a search or has weights of its own"
            )
        turned = derives(module, f"{_TORCHFLOWS}.InverseMaskedAutoregressiveBijection")
        self.slow = _SlowForward if turned else _SlowInverse

    @staticmethod
    def recognises(module: nn.Module) -> bool:
        return derives(module, f"{_TORCHFLOWS}.MaskedAutoregressiveBijection")

    def parts(self, module: Any, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def network(self, module: Any, x: Tensor, context: Tensor | None) -> Tensor:
        given = None if context is None else context.reshape(-1, *self.given)
        found: Tensor = module.conditioner_transform(x.reshape(-1, *self.event), given)
        return found.reshape(len(x), -1)

    def quick(self, module: Any, x: Tensor, context: Tensor | None) -> Tensor:
        given = None if context is None else context.reshape(-1, *self.given)
        found: Tensor = module.apply_conditioner_transformer(x.reshape(-1, *self.event), given, True)[0]
        return found.reshape(x.shape)

    def each(self, module: Any, params: Tensor, x: Tensor) -> Tensor:
        transformer, h = self._transformer(module, params, x.shape[1])
        found: Tensor = transformer.forward(x, h)[0]
        return found

    def solve_each(self, module: Any, params: Tensor, z: Tensor, variables: Tensor | None) -> Tensor:
        transformer, h = self._transformer(module, params, z.shape[1])
        found: Tensor = transformer.inverse(z, h)[0]
        return found

    @staticmethod
    def _transformer(module: Any, params: Tensor, count: int) -> tuple[Any, Tensor]:
        """That of so many numbers, and their parameters as it takes them."""
        transformer = copy.copy(module.transformer)
        transformer.event_shape, transformer.n_dim = (count,), count
        return transformer, params.reshape(-1, count, *transformer.parameter_shape_per_element)


_TORCHFLOWS = "torchflows.bijections.finite.autoregressive.layers_base"
_TRANSFORMERS = tuple(
    f"torchflows.bijections.finite.autoregressive.transformers.{name}." for name in ("linear", "spline")
)
_LAYERS: tuple[type[_Layer], ...] = (_Torchflows, _PytorchFlows, _Deeprob, _Flowtorch)


def _layer_of(module: nn.Module) -> type[_Layer] | None:
    return next((each for each in _LAYERS if each.recognises(module)), None)


def recognises(module: nn.Module) -> bool:
    """Whether a module is such a layer."""
    return _layer_of(module) is not None


def levelled(module: nn.Module, **options: Any) -> nn.Module:
    """The same layer, with the same parameters and its slow direction in levels."""
    kind: Any = _layer_of(module)
    adapter = kind(module)
    made = copy_with(module, adapter.slow, _inverter=Inverter(module, adapter, **options))
    for name, method in vars(module).items():  # those that torchflows has exchanged are bound to the original
        if isinstance(method, MethodType) and method.__self__ is module:
            made.__dict__[name] = MethodType(getattr(type(made), method.__name__), made)
    return made


def composed(module: nn.Module) -> nn.Module:
    """A composition as it is: their layers run one after another."""
    return module

"""What a forward pass would compute with: weights made by hooks and parametrizations, as plain tensors under plain names.

A program, a model file and what is kept of a model are made from these and not from ``parameters()``, which say nothing of
what ``torch.nn.utils.prune``, ``weight_norm``, ``spectral_norm`` or ``parametrize`` make of them.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from made_fast.layers.encoder import Encoder
from made_fast.layers.linear import MaskedLinear
from made_fast.masks import MaskSet

__all__ = ["class_of", "is_plain", "make_weights", "settled", "why_not_masked"]

N = TypeVar("N", bound=nn.Module)

# The names of what a forward pass reads of a layer, by its class.
_NAMES: dict[type[nn.Module], tuple[str, ...]] = {
    MaskedLinear: ("weight", "bias", "mask_weight"),  # before the class that it derives from
    nn.Linear: ("weight", "bias"),
    Encoder: ("embedding",),
}


def is_plain(layers: list[nn.Module]) -> bool:
    """Whether the weights of these layers are what a forward pass computes with, since nothing makes them anew."""
    return not any(type(layer) not in _NAMES or layer._forward_pre_hooks for layer in layers)


def make_weights(layer: nn.Module) -> None:
    """Lets hooks make the weights of a layer, as its call would, where these are read without a call."""
    if layer._forward_pre_hooks:
        names = next((names for kind, names in _NAMES.items() if isinstance(layer, kind)), ())
        _call_hooks(layer, set(names) - set(layer._parameters))


def settled(module: N, *, own: bool) -> N:
    """A copy in evaluation mode whose weights are what a forward pass would find; the module itself is not written to.

    A spectral norm, say, takes no step of its iteration. Hooks and parametrizations are left out, so that weights are plain
    parameters.

    Args:
        module: with masked and linear layers in it.
        own: whether the copy has tensors of its own; else it shares those that nothing makes anew.

    Raises:
        ValueError: a weight is distributed over several processes, or a layer is of a class that is not known.
    """
    with torch.no_grad():
        copied = _Copies(own).of(module)
    for layer in getattr(copied, "masked_layers", ()):
        if not callable(getattr(layer, "term", None)):
            raise ValueError(why_not_masked(layer))
    return copied


def why_not_masked(layer: nn.Module) -> str:
    """Why a layer with something round it, an adapter say, cannot be one of a masked network."""
    kind = type(layer)
    of = kind.__module__.partition(".")[0]
    return (
        f"layers must be MaskedLinear, got {kind.__name__} of {of}: what is put round a layer has no mask, so that variables "
        "would see those after them; merge it into the weights first, where the mask is (merge_and_unload() of peft)"
    )


class _Copies:
    """Copies of the modules of one model, each made once."""

    def __init__(self, own: bool) -> None:
        self.own = own
        self._done: dict[int, nn.Module] = {}

    def of(self, module: N) -> N:
        """The copy of a module and of all below it."""
        done = self._done.get(id(module))
        if done is None:
            names = _names_of(module)
            done = self._done[id(module)] = self._container(module) if names is None else self._layer(module, *names)
        return done  # type: ignore[return-value]

    def _container(self, module: nn.Module) -> nn.Module:
        copied = _shallow(module, class_of(parametrize.type_before_parametrizations(module)))
        children = {name: None if child is None else self.of(child) for name, child in module._modules.items()}
        buffers = {name: self._tensor(tensor) for name, tensor in module._buffers.items()}
        copied.__dict__.update(_without_hooks(), _modules=children, _buffers=buffers)
        if "structure" in copied.__dict__:  # what is known of the buffers of the other
            copied.__dict__["structure"] = copy.deepcopy(copied.__dict__["structure"])
        return copied

    def _layer(self, layer: nn.Module, kind: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
        values = _values(layer, names)
        copied = _shallow(layer, kind)
        weights = {
            name: None if value is None else nn.Parameter(self._tensor(value.detach()), requires_grad=False)
            for name, value in values.items()
        }
        buffers = {
            name: self._tensor(tensor) for name, tensor in layer._buffers.items() if name == "mask" or kind is Encoder
        }
        copied.__dict__.update(_without_hooks(), _modules={}, _parameters=weights, _buffers=buffers)
        for name in names:
            copied.__dict__.pop(name, None)  # where hooks leave what they make
        return copied

    def _tensor(self, tensor: Any) -> Any:
        if tensor is None:
            return None
        whole = _whole(tensor)
        return whole.detach().clone() if self.own else whole


def _names_of(module: nn.Module) -> tuple[type[nn.Module], tuple[str, ...]] | None:
    """The class that is known of a layer and the names of its weights; None where it is no layer."""
    for kind in type(module).__mro__:
        if kind in _NAMES:
            if type(module).forward is not kind.forward or "forward" in module.__dict__:
                raise ValueError(f"layers must compute what {kind.__name__} does, got one with a forward of its own")
            return kind, _NAMES[kind]
    return None


def class_of(kind: type[N]) -> type[N]:
    """The class that FSDP made this one of, or the class itself."""
    return kind.__mro__[2] if "FSDPModule" in {each.__name__ for each in kind.__bases__} else kind


def _shallow(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    copied: nn.Module = object.__new__(kind)
    state = module.__getstate__() if isinstance(module, MaskSet) else module.__dict__
    copied.__dict__.update(state, training=False)
    return copied


def _without_hooks() -> dict[str, Any]:
    """What ``nn.Module`` keeps of itself in a module that has no hooks."""
    return {name: value for name, value in vars(nn.Module()).items() if "hook" in name}


def _evaluating(module: nn.Module) -> nn.Module:
    """A shallow copy in evaluation mode, of all below it too: what writes to it leaves the module as it was."""
    copied = _shallow(module, type(module))
    children = {name: None if child is None else _evaluating(child) for name, child in module._modules.items()}
    copied.__dict__.update(_modules=children, _parameters=dict(module._parameters), _buffers=dict(module._buffers))
    return copied


def _values(layer: nn.Module, names: tuple[str, ...]) -> dict[str, Tensor | None]:
    """The weights of a layer as a forward pass would find them."""
    copied = _evaluating(layer)
    _call_hooks(copied, {name for name in names if name not in layer._parameters})
    of = copied._modules.get("parametrizations") if parametrize.is_parametrized(layer) else None
    made_by = {} if of is None else of._modules
    # Not by the attribute, which torch may keep by the address of its module, here a copy that is gone soon.
    return {name: made_by[name]() if name in made_by else getattr(copied, name) for name in names}  # type: ignore[misc]


def _call_hooks(layer: nn.Module, made: set[str]) -> None:
    """Calls the hooks of torch that make weights, and all hooks where some of the weights made are by none of them."""
    known = {number: _made_by(hook) for number, hook in layer._forward_pre_hooks.items()}
    unknown = made - set(known.values())
    if parametrize.is_parametrized(layer):
        unknown -= set(layer.parametrizations._modules)  # type: ignore[union-attr]
    row = (torch.zeros(1, int(getattr(layer, "in_features", 1))),)  # hooks that make weights do not look at it
    for number, hook in list(layer._forward_pre_hooks.items()):
        if known[number] or unknown:
            hook(layer, row, {}) if number in layer._forward_pre_hooks_with_kwargs else hook(layer, row)


def _made_by(hook: Any) -> str | None:
    """The name of the weight that a hook of torch makes."""
    if isinstance(hook, prune.BasePruningMethod):
        return hook._tensor_name  # type: ignore[no-any-return]
    if isinstance(hook, (WeightNorm, SpectralNorm)):
        return hook.name
    return None


def _whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or all of one that is distributed over one process alone."""
    if tensor.is_meta:
        raise ValueError(
            "weights must have memory, found none on meta: load them with load_state_dict(..., assign=True)"
        )
    mesh = getattr(tensor, "device_mesh", None)  # of a DTensor, whose module takes seconds to import
    if mesh is None:
        return tensor
    if mesh.size() > 1:
        raise ValueError(
            f"weights must be whole, got one distributed over {mesh.size()} processes: gather them with torch.distributed."
            "checkpoint.state_dict.get_model_state_dict, and load them into a model of one process"
        )
    local: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return local

"""The structure of a network, its order, masks and degrees: checked when it is loaded, watched afterwards.

It follows from the constructor and lies in buffers, so that it moves between devices and is part of the state dict.
Others write to buffers too: averages of models round whole numbers down, casts make floats of them, data-parallel training
copies them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from made_fast.layers.encoder import Encoder
from made_fast.layers.linear import MaskedLinear
from made_fast.layers.unchanged import Seen
from made_fast.masks import MaskSet, check_degrees, check_orders
from made_fast.models.settled import why_not_masked
from made_fast.tracing import as_made_here, have_values, unwatched

__all__ = ["Structure"]

Matrix = NDArray[np.float32]

_CHILDREN = ("hidden", "parameters_layer", "direct_layer", "encoder", "ensemble")
_UNKNOWN: Any = object()
_NEVER: list[Any] = [({}, "", _UNKNOWN, 0)]  # what was seen by one that has not looked yet
_CONSTANT = "encoder."  # buffers that follow from the output alone: whatever is written there is undone
_DERIVED = "ensemble.current_"  # what follows from other buffers, made anew where those change


class Structure:
    """What the structure of a network was when it was last found to be right.

    Looking again costs next to nothing while no buffer was written to or replaced. Copies and pickles take it along,
    without the masks.

    Args:
        network: as its constructor made it.
    """

    def __init__(self, network: Any) -> None:
        self._known: dict[str, Tensor] = {}
        self._buffers: list[tuple[dict[str, Any], str, Tensor, int]] = []  # holder, name, what it held, version
        self._modules: list[tuple[dict[str, Any], str, nn.Module | None]] = []
        with unwatched():
            self._adopt(_tensors_of(network))
        for holder, name, tensor in _places_of(network).values():
            holder[name] = as_made_here(tensor)
        self._note(network)

    @staticmethod
    def absent(network: Any) -> list[str]:
        """The names of the buffers on the meta device."""
        return [name for name, tensor in _tensors_of(network).items() if tensor.is_meta]

    def fill(self, network: Any, names: list[str]) -> None:
        """Gives buffers of these names, which had no memory, the values that they have by the constructor."""
        places = _places_of(network)
        if have_values(*(tensor for _, _, tensor in places.values())):
            for name in names:
                if name in self._known:
                    _write(places[name], self._known[name])
            if network.ensemble is not None:
                network.ensemble.refresh()

    def first_order(self, network: Any) -> Tensor:
        """(D,) int64, of mask 0; that of the constructor where the buffer has no memory."""
        name = "order" if network.ensemble is None else "ensemble.orders"
        order: Tensor = network.get_buffer(name)
        order = order if have_values(order) else self._known[name]
        return order if order.ndim == 1 else order[0]

    def check(self, network: Any) -> None:
        """Makes sure that the structure is right, if anything was done to it.

        What averaging or casting has rounded is put back as it was; what was changed in another way must be right as well.

        Raises:
            ValueError: an order is no permutation, a degree is out of bounds, or masks let a variable see what is not drawn
                before it.
        """
        for holder, name, module in self._modules:
            if holder.get(name) is not module:
                break
        else:
            for holder, name, tensor, version in self._buffers:
                if holder.get(name) is not tensor or tensor._version != version:
                    break
            else:
                return
        self._look(network)

    def admit(self, network: Any, state: dict[str, Any], prefix: str) -> None:
        """Makes sure that a structure can be loaded, before anything is; floats with whole values become whole numbers.

        Raises:
            ValueError: as for ``check``, or a value is no whole number.
        """
        here = _tensors_of(network)
        loaded = {
            name: state[prefix + name]
            for name, tensor in here.items()
            if isinstance(state.get(prefix + name), Tensor) and state[prefix + name].shape == tensor.shape
        }
        if not have_values(*loaded.values()):
            return
        loaded = {name: _converted(name, tensor, self._known.get(name)) for name, tensor in loaded.items()}
        changed = [name for name, tensor in loaded.items() if not _same(tensor, self._known.get(name))]
        if changed:
            _validate(network, {**here, **loaded}, changed)
        for name, tensor in loaded.items():
            if tensor.dtype != state[prefix + name].dtype:
                state[prefix + name] = tensor
        self._adopt({name: loaded[name] for name in changed})

    def _look(self, network: Any) -> None:
        if torch._C._are_functorch_transforms_active():  # whose tensors cannot be looked at
            return
        places = _places_of(network)
        device = network.parameters_layer.weight.device
        if not have_values(*(tensor for _, _, tensor in places.values())):
            if device.type == "meta" or not self._allot(places, device):
                return
            places = _places_of(network)  # those before hold tensors without memory
        found = {name: tensor for name, (_, _, tensor) in places.items()}
        changed = [name for name, tensor in found.items() if not _same(tensor, self._known.get(name))]
        constant = [name for name in changed if name.startswith(_CONSTANT) and name in self._known]
        changed = [name for name in changed if name not in constant and not name.startswith(_DERIVED)]
        if changed:
            constant += self._settle(network, found, changed)
        for name in constant:
            _write(places[name], self._known[name])
        ensemble = network.ensemble
        if ensemble is not None:
            ensemble.refresh()
        self._note(network)

    def _allot(self, places: Mapping[str, tuple[dict[str, Any], str, Tensor]], device: torch.device) -> bool:
        """Gives memory and values to what lies on the meta device while the weights do not; False where others are fake."""
        for name, (holder, buffer, tensor) in places.items():
            if tensor.is_meta:
                holder[buffer] = self._known.get(name, torch.zeros(tensor.shape, dtype=tensor.dtype)).to(
                    device, copy=True
                )
        return have_values(*(holder[buffer] for holder, buffer, _ in places.values()))

    def _settle(self, network: Any, found: dict[str, Tensor], changed: list[str]) -> list[str]:
        """Takes what is right of what has changed; returns the names of what is to be put back."""
        try:
            values = {name: _converted(name, found[name], self._known.get(name)) for name in found}
            _validate(network, values, changed)
        except ValueError:
            known = [name for name in changed if name in self._known]
            if not known or not all(_near(found[name], self._known[name]) for name in known):
                raise
            values = {**found, **{name: self._known[name] for name in known}}
            _validate(network, values, changed)
            self._adopt({name: values[name] for name in changed})
            return known
        self._adopt({name: values[name] for name in changed})
        return [name for name in changed if values[name].dtype != found[name].dtype]

    def _adopt(self, values: Mapping[str, Tensor]) -> None:
        kept = {
            name: torch.from_numpy(tensor.detach().cpu().numpy().copy())  # torch would start threads
            for name, tensor in values.items()
            if not name.startswith(_DERIVED)
        }
        self._known = {**self._known, **kept}

    def _note(self, network: Any) -> None:
        of = network._modules
        chosen = [(of, name) for name in of if name in _CHILDREN]
        if of.get("hidden") is not None:
            chosen += [(of["hidden"]._modules, name) for name in of["hidden"]._modules]
        self._modules = [(holder, name, holder[name]) for holder, name in chosen]
        # A tensor of inference mode does not say when it is written to, so that every look is a close one.
        self._buffers = [
            (holder, name, _UNKNOWN, 0) if tensor.is_inference() else (holder, name, tensor, tensor._version)
            for holder, name, tensor in _places_of(network).values()
        ]

    def show(self, seen: Seen) -> None:
        """What was seen when the structure was last found to be right."""
        seen.held += self._modules
        seen.held += [(holder, name, tensor) for holder, name, tensor, _ in self._buffers]
        seen.versions += [(tensor, version) for _, _, tensor, version in self._buffers]

    def __deepcopy__(self, memo: dict[int, Any]) -> Structure:
        """Tensors that nobody writes to are shared."""
        copied = object.__new__(type(self))
        copied._known, copied._buffers, copied._modules = self._known, _NEVER, []
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """Masks that lie in the buffers, with memory, are left out, and looked at again where they come back."""
        buffers = [holder.get(name) for holder, name, *_ in self._buffers]
        stored = len(buffers) > 0 and all(isinstance(each, Tensor) and have_values(each) for each in buffers)
        known = {name: tensor for name, tensor in self._known.items() if not stored or tensor.dtype != torch.bool}
        return {"_known": known, "_buffers": [], "_modules": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._known, self._buffers, self._modules = state["_known"], _NEVER, []


class _Reach:
    """Runs a wiring on what its units depend on: float32 (n, D), 1 where unit i may depend on variable d."""

    def __init__(self, masks: list[NDArray[np.bool_]], inputs: Matrix) -> None:
        self.masks, self.inputs = masks, inputs

    def read(self, layer: int, context: nn.Linear | None, function: str | None) -> Matrix:
        """See ``network._Engine``."""
        return self.affine(layer, self.inputs, function)

    def affine(self, layer: int, value: Matrix, function: str | None) -> Matrix:
        """See ``network._Engine``."""
        return (self.masks[layer].astype(np.float32) @ value > 0).astype(np.float32)

    def apply(self, function: str, value: Matrix) -> Matrix:
        """See ``network._Engine``."""
        return value

    def add(self, left: Matrix, right: Matrix) -> Matrix:
        """See ``network._Engine``."""
        return np.maximum(left, right)


def _places_of(network: Any) -> dict[str, tuple[dict[str, Any], str, Tensor]]:
    """By its name in the state dict, each buffer that is structure: who holds it, by which name, and the tensor."""
    found = {"order": (network._buffers, "order", network._buffers["order"])}
    for path, module in network.named_modules():
        if isinstance(module, (MaskedLinear, MaskSet, Encoder)):
            for name, tensor in module._buffers.items():
                if tensor is not None and (name == "mask" or not isinstance(module, MaskedLinear)):
                    found[f"{path}.{name}"] = (module._buffers, name, tensor)
    return found


def _tensors_of(network: Any) -> dict[str, Tensor]:
    return {name: tensor for name, (_, _, tensor) in _places_of(network).items()}


def _same(tensor: Tensor, known: Tensor | None) -> bool:
    if known is None or tensor.dtype != known.dtype:
        return False
    return np.array_equal(tensor.detach().cpu().numpy(), known.numpy())  # torch would start threads


def _near(tensor: Tensor, known: Tensor) -> bool:
    """Whether a tensor is what averages and casts can make of the known one.

    An average of equal whole numbers is rounded down by one at most, which never makes another permutation of one; those of
    equal flags are what they were.
    """
    if tensor.shape != known.shape or tensor.is_complex():
        return False
    found, exact = tensor.detach().cpu().double(), known.double()
    if known.dtype == torch.bool:
        return torch.equal(found != 0, known)
    if tensor.is_floating_point():
        return bool(((found - exact).abs() <= (exact / 128).clamp(min=1)).all())
    return bool(((found == exact) | (found == exact - 1)).all())


def _converted(name: str, tensor: Tensor, known: Tensor | None) -> Tensor:
    """The tensor in the dtype that a structure has. The mean of two flags that are set is half of one in torch.

    Raises:
        ValueError: its values are none of that dtype.
    """
    dtype = torch.bool if name.endswith("mask") else torch.int64
    if tensor.dtype == dtype:
        return tensor
    converted = tensor.detach().to(dtype)
    if torch.equal(converted.to(tensor.dtype), tensor) or (dtype == torch.bool and _same(converted, known)):
        return converted
    wanted = "0 and 1 alone" if dtype == torch.bool else "whole numbers"
    shown = str(tensor.tolist()) if tensor.numel() <= 8 else f"others, {tensor.dtype} {tuple(tensor.shape)}"
    raise ValueError(f"{name} must hold {wanted}, got {shown}")


def _write(place: tuple[dict[str, Any], str, Tensor], known: Tensor) -> None:
    holder, name, tensor = place
    if tensor.dtype == known.dtype and not tensor.is_inference():
        with torch.no_grad():
            tensor.copy_(known)
    else:
        holder[name] = known.to(tensor.device, copy=True)


def _validate(network: Any, values: Mapping[str, Tensor], changed: list[str]) -> None:
    """Raises ValueError where these tensors, some of which have changed, are no structure."""
    check_orders("order", values["order"])
    for name, tensor in values.items():
        if name == "ensemble.orders":
            check_orders(name, tensor)
        elif name.startswith("ensemble.degrees_"):
            check_degrees(name, tensor, network.features)
    if network.ensemble is None:  # the degrees of an ensemble, in bounds, make masks that follow their orders
        _check_masks(network, values, [name for name in changed if name.endswith("mask")] or ["masks"])


def _check_masks(network: Any, values: Mapping[str, Tensor], changed: list[str]) -> None:
    names, masks = {id(tensor): name for name, tensor in _tensors_of(network).items()}, []
    for layer in network.masked_layers:
        mask = getattr(layer, "mask", None)
        if id(mask) not in names:
            raise ValueError(why_not_masked(layer))
        masks.append(values[names[id(mask)]].cpu().numpy())
    units = [each.units for each in network.conditionals]
    reach = _Reach(masks, np.repeat(np.eye(network.features, dtype=np.float32), units, axis=0))
    hidden, number = network.wired(reach), len(network.hidden)
    of_params = reach.read(number, None, None) if hidden is None else reach.affine(number, hidden, None)
    if network.direct_layer is not None:
        of_params = reach.add(of_params, reach.read(-1, None, None))
    rank = np.argsort(values["order"].cpu().numpy())
    forbidden = np.repeat(rank, network.params_per_variable)[:, None] <= rank[None, :]
    wrong = np.argwhere((of_params > 0) & forbidden)
    if len(wrong):
        variable = int(np.repeat(np.arange(network.features), network.params_per_variable)[wrong[0, 0]])
        raise ValueError(
            f"{', '.join(changed)} must follow the order, but variable {variable} depends on variable {int(wrong[0, 1])}"
        )

"""The masks of an ensemble: mask k is a function of (seed, k), and one of them is the current one.

Mask 0 is the one that a model without an ensemble has. The others draw a new order of the variables, new degrees of the
hidden units, or both; weights belong to variables and units and not to positions, so every mask uses the same weights.
What is drawn comes from Philox and integer arithmetic alone, the same on every device and with every version of torch.

Source: Germain, Gregor, Murray, Larochelle, "MADE: Masked Autoencoder for Distribution Estimation", ICML 2015, sections
4.2 and 4.3 (order-agnostic and connectivity-agnostic training).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from made_fast import noise
from made_fast.arguments import whole_number
from made_fast.masks.degrees import layer_degrees
from made_fast.tracing import are_real, have_values, is_exporting, may_bypass, unwatched

__all__ = ["EVALUATION_MASKS", "SHUFFLES", "MaskSet", "check_degrees", "check_orders", "masks_of_rows"]

SHUFFLES = ("order", "connectivity", "both")
EVALUATION_MASKS = 32  # so many stand for an ensemble without end where all of it is asked for

# Counters that no sampler uses, so that masks and samples of one seed have nothing to do with each other.
_DRAW_OF_ROWS = 2**32 - 1
_DRAW_OF_ORDERS = 2**32 - 2
_DRAW_OF_DEGREES = 2**32 - 3  # of the first layer; one less for each layer after it

_CACHED_MASKS = 256  # of which the degrees of all layers are kept; tens of kilobytes each
# Numbers for which torch starts no threads, so that a process can be forked after a model was made.
_NO_THREADS = 1 << 13
_DRAWN_AT_ONCE = 16  # Philox in torch takes as long for this many masks as for one


def masks_of_rows(seed: int, rows: Tensor, num_masks: int) -> Tensor:
    """Returns the mask that each noise row of a draw from the whole ensemble takes; int64, shape (B,).

    Args:
        seed: of the draw.
        rows: (B,) int64 noise rows.
        num_masks: n of the ensemble; each mask is equally probable.
    """
    if not len(rows):
        return torch.zeros_like(rows)
    pieces = rows.split(1 << 18)  # Philox in torch needs a dozen times the memory of its result
    return torch.cat([_below(noise.uniform(seed, piece, 0, _DRAW_OF_ROWS), num_masks) for piece in pieces])


def check_orders(name: str, orders: Tensor) -> None:
    """Raises ValueError unless an order (D,), or each of several (n, D), is a permutation of 0 .. D - 1, int64."""
    features = orders.shape[-1]
    rows = orders.detach().reshape(-1, features).cpu()
    wrong = (rows.sort(1).values != torch.arange(features)).any(1)
    if rows.dtype == torch.int64 and not bool(wrong.any()):
        return
    found = f"{rows[wrong][0, :8].tolist()}{' ...' * (features > 8)}" if bool(wrong.any()) else rows.dtype
    kind = "a permutation" if orders.ndim == 1 else "permutations"
    raise ValueError(f"{name} must be {kind} of 0 .. {features - 1}, got {found}")


def check_degrees(name: str, degrees: Tensor, features: int) -> None:
    """Raises ValueError unless degrees of hidden units are int64 in 0 .. D - 1."""
    if degrees.dtype != torch.int64:
        raise ValueError(f"{name} must be int64, got {degrees.dtype}")
    if degrees.numel() and not 0 <= int(degrees.min()) <= int(degrees.max()) < features:
        raise ValueError(f"{name} must lie in 0 .. {features - 1}, got {int(degrees.min())} .. {int(degrees.max())}")


def _below(uniforms: Tensor, count: int | Tensor) -> Tensor:
    """Integers in 0 .. count - 1; the product is exact in fp64, and no less than 0."""
    return (uniforms.double() * count).long()


class _Mask(NamedTuple):
    """One mask: order (D,), and for each masked layer the degrees of rows and columns (out + in,)."""

    order: Tensor
    of_layers: list[Tensor]


class MaskSet(nn.Module):
    """The masks of one model, kept as orders and degrees, never as matrices.

    Attributes:
        orders: (n, D) int64, ``orders[k, s]`` is the variable that mask k draws at step s; (1, D) for masks without end.

    Args:
        order: (D,), of mask 0.
        degrees: (H,) for each set of hidden degrees, of mask 0.
        num_masks: n, two or more; or 0 for a fresh mask at each index 0, 1, 2, ..., made when asked for.
        shuffle: one of ``SHUFFLES``.
        seed: of the masks.
        context: whether the network has a context.
        sets: for each hidden layer, which set of degrees its units have.
        params_per_variable: K_d for each variable.
        direct: whether there are connections from the variables to the parameters.
        input_units: E_d for each variable.
    """

    orders: Tensor

    def __init__(
        self,
        order: Tensor,
        degrees: Sequence[Tensor],
        *,
        num_masks: int,
        shuffle: str,
        seed: int,
        context: bool,
        sets: Sequence[int],
        params_per_variable: Sequence[int],
        direct: bool,
        input_units: Sequence[int],
    ) -> None:
        super().__init__()
        self.num_masks, self.shuffle, self.seed, self.context = num_masks, shuffle, seed, context
        self.sets, self.params_per_variable, self.direct = tuple(sets), tuple(params_per_variable), direct
        self.input_units = tuple(input_units)
        orders, hidden = order[None], [of_set[None] for of_set in degrees]
        if num_masks > 1:
            at_once = max(1, min(_DRAWN_AT_ONCE, _NO_THREADS // (len(order) + sum(map(len, degrees)))))
            for indices in torch.arange(1, num_masks, device=order.device).split(at_once):
                more_orders, more = self._drawn(indices, order, degrees)
                orders = torch.cat([orders, more_orders])
                hidden = [torch.cat(pair) for pair in zip(hidden, more, strict=True)]
        self.register_buffer("orders", orders.clone())
        for number, of_set in enumerate(hidden):
            self.register_buffer(f"degrees_{number}", of_set.clone())
        self._index = 0
        self._cache: dict[int, _Mask] = {}
        self._seen: list[tuple[Tensor, int]] = []  # what the cache was made from, and the version of each
        self._copies: list[Tensor] = []
        for number, of_layer in enumerate(self._made(0, 1)[0].of_layers):
            self.register_buffer(f"current_{number}", of_layer, persistent=False)

    @property
    def degrees(self) -> list[Tensor]:
        """(n, H) int64 for each set of hidden degrees; (1, H) for masks without end."""
        return [tensor for name, tensor in self._buffers.items() if name.startswith("degrees_") and tensor is not None]

    @property
    def present(self) -> list[Tensor]:
        """What a forward pass reads while it is compiled: the degrees of the current mask, without its number."""
        return [tensor for name, tensor in self._buffers.items() if name.startswith("current_") and tensor is not None]

    @property
    def evaluated(self) -> range:
        """The masks that stand for the whole ensemble."""
        return range(self.num_masks or EVALUATION_MASKS)

    @property
    def index(self) -> int:
        """Number of the current mask."""
        return self._index

    @index.setter
    def index(self, value: int) -> None:
        self._index = self.checked(value, "mask_index")
        self.refresh()

    def checked(self, mask: object, name: str = "mask") -> int:
        """The index of a mask if it is one.

        Raises:
            ValueError: it is no integer, or out of range.
        """
        return whole_number(name, mask, 0, (self.num_masks or 2**62) - 1)

    def advance(self) -> None:
        """Makes the next mask the current one."""
        self.index = (self._index + 1) % self.num_masks if self.num_masks else self._index + 1

    def order_of(self, mask: int) -> Tensor:
        """(D,) int64: the order of a mask."""
        return self._kept(mask).order

    def of_layers(self, mask: int | None) -> list[Tensor]:
        """Degrees of rows and columns, int64 (out + in,), for each masked layer: hidden, parameters, direct.

        Args:
            mask: its index; the current one if None. The tensors of one mask stay the same ones from call to call.
        """
        # While compiled its number would be a constant, and each mask compiled anew; without memory no other can be made.
        if mask is None and (torch.compiler.is_compiling() or not have_values(self.orders)):
            return self.present
        return self._kept(self._index if mask is None else mask).of_layers

    def _kept(self, mask: int) -> _Mask:
        if torch.compiler.is_compiling() or not are_real(self.orders, *self.degrees):
            return self._made(mask, 1)[0]
        if may_bypass():
            return self._found(mask)
        with unwatched():
            return self._found(mask)

    def _found(self, mask: int) -> _Mask:
        """A mask out of the cache, which is filled first."""
        if self._changed():
            self._cache = {}
        kept = self._cache.get(mask)
        if kept is None:
            first, count = (mask, 1) if self.num_masks else (mask - mask % _DRAWN_AT_ONCE, _DRAWN_AT_ONCE)
            with torch.inference_mode(False):  # it may serve in training later
                drawn = self._made(first, count)
            kept = drawn[mask - first]
            self._cache.update(enumerate(drawn, first))
            for old in list(self._cache)[:-_CACHED_MASKS]:
                self._cache.pop(old, None)
        return kept

    def _changed(self) -> bool:
        """Whether orders or degrees have changed since the last call."""
        sources = [self.orders, *self.degrees]
        seen = [(tensor, 0 if tensor.is_inference() else tensor._version) for tensor in sources]
        if len(seen) == len(self._seen) and all(
            old is new and was == version for (old, was), (new, version) in zip(self._seen, seen, strict=True)
        ):
            return False
        # Written to, but perhaps with the same numbers: data-parallel training copies buffers at every step.
        known, self._seen = self._copies, seen
        if len(known) == len(sources) and all(
            old.device == new.device and torch.equal(old, new) for old, new in zip(known, sources, strict=True)
        ):
            return False
        self._copies = [tensor.clone() for tensor in sources]
        return True

    def check(self) -> None:
        """Makes sure that orders are permutations and degrees in bounds, as loaded ones may not be; then no mask can leak.

        A parameter has the rank of its variable, an input its own plus one, and connected units have degrees that do not
        grow towards the input, so whatever the hidden degrees are, a parameter sees variables before its own alone.

        Raises:
            ValueError: an order is no permutation, or a degree is not in 0 .. D - 1.
        """
        check_orders("orders", self.orders)
        for of_set in self.degrees:
            check_degrees("degrees", of_set, self.orders.shape[1])

    def _drawn(self, indices: Tensor, order: Tensor, degrees: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Orders (m, D) and hidden degrees (m, H) of masks 1, 2, ..., given those of mask 0, (D,) and (H,)."""
        features, sizes, device = len(order), [len(order), *map(len, degrees)], indices.device
        draws = [_DRAW_OF_ORDERS, *(_DRAW_OF_DEGREES - layer for layer in range(len(degrees)))]
        step = torch.cat([torch.arange(size, device=device) for size in sizes])
        draw = torch.cat(
            [torch.full((size,), number, device=device) for size, number in zip(sizes, draws, strict=True)]
        )
        of_orders, *of_layers = noise.uniform(self.seed, indices[:, None], step, draw).split(sizes, dim=1)
        orders = order.expand(len(indices), -1)
        if self.shuffle != "connectivity":
            orders = of_orders.argsort(dim=1, stable=True)
        if self.shuffle == "order":
            return orders, [of_layer.expand(len(indices), -1) for of_layer in degrees]
        drawn: list[Tensor] = []
        smallest = torch.ones(len(indices), 1, dtype=torch.int64, device=device)  # of the inputs
        for uniforms in of_layers:
            low = smallest.clamp(max=features - 1)
            of_layer = low + _below(uniforms, features - low)
            if self.context:
                of_layer[:, 0] = 0  # one unit at least carries the context to the first variable
            smallest = of_layer.amin(1, keepdim=True)
            drawn.append(of_layer)
        return orders, drawn

    def _made(self, first: int, count: int) -> list[_Mask]:
        """Masks first, first + 1, ..."""
        known = [self.orders, *self.degrees]
        if self.num_masks:
            orders, *degrees = (tensor[first : first + count] for tensor in known)
        elif not have_values(self.orders) and not is_exporting():  # which records how they are made
            raise ValueError("weights must have memory to make the masks of an ensemble without end, found none")
        else:
            order, *base = (tensor[0].cpu() for tensor in known)
            more_orders, more = self._drawn(torch.arange(first, first + count, device="cpu"), order, base)
            new = [tensor.to(self.orders.device) for tensor in (more_orders, *more)]
            if first == 0:  # mask 0 is known, not drawn
                new = [torch.cat([of_first, later[1:]]) for of_first, later in zip(known, new, strict=True)]
            orders, *degrees = new
        hidden = [degrees[number] for number in self.sets]
        sizes: dict[str, Any] = {"direct": self.direct, "input_units": self.input_units}
        layers = layer_degrees(orders, hidden, self.params_per_variable, **sizes)
        whole = [torch.cat(pair, dim=-1) for pair in layers]  # (count, out + in)
        return [_Mask(order, of_layers) for order, *of_layers in zip(orders, *whole, strict=True)]

    def refresh(self) -> None:
        """Makes what a compiled forward pass reads from the orders and degrees as they are now."""
        # Other tensors, not other numbers in the same ones: a backward pass to come may still need the old.
        for number, of_layer in enumerate(self.of_layers(None)):
            self._buffers[f"current_{number}"] = of_layer.clone()

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        arguments = (state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        super()._load_from_state_dict(*arguments)
        if not have_values(self.orders, *self.degrees):  # nor does the state have them
            return
        try:
            self.check()
        except ValueError as error:
            error_msgs.append(str(error))
        else:
            self.refresh()

    def __getstate__(self) -> dict[str, Any]:
        """Leaves what was built out of copies and pickles."""
        return {**self.__dict__, "_cache": {}, "_seen": [], "_copies": []}

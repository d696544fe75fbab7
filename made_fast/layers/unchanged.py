"""Whether what a call was made ready from is still what it was: modules, hooks, weights, masks and all that they rest on."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from made_fast import backends
from made_fast.masks import mask_digest

__all__ = ["Last", "Seen", "Unchanged", "is_watched", "own_attributes", "unchanged"]

T = TypeVar("T")
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))  # training, _parameters, _buffers, hooks and so on
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_watched(layer: nn.Module) -> bool:
    """Whether something besides its weights makes what a layer gives, or somebody looks at it."""
    of = layer.__dict__
    return bool(of["_forward_pre_hooks"] or of["_forward_hooks"] or of["_backward_hooks"] or "forward" in of) or bool(
        of["_backward_pre_hooks"]
    )


def own_attributes(module: nn.Module) -> dict[str, Any]:
    """The plain attributes of a module: masks may be among them."""
    return {name: value for name, value in vars(module).items() if name not in _OF_EVERY_MODULE}


@dataclass
class Seen:
    """What was looked at.

    Attributes:
        held: a dict, a key, and what the dict has there; None for what it has not.
        sizes: a dict, and how many keys it has.
        kinds: an object, and its class.
        tensors: whose memory, shape and dtype must stay, whatever is written to them; contiguous.
        contents: those whose numbers must stay too; contiguous.
        versions: a tensor, and its count of writes.
    """

    held: list[tuple[dict[Any, Any], Any, Any]] = field(default_factory=list)
    sizes: list[tuple[dict[Any, Any], int]] = field(default_factory=list)
    kinds: list[tuple[Any, type]] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    contents: list[Tensor] = field(default_factory=list)
    versions: list[tuple[Tensor, int]] = field(default_factory=list)

    def attributes(self, thing: Any, *names: str) -> None:
        """Attributes of an object that are its own."""
        self.kinds.append((thing, type(thing)))
        self.held += [(thing.__dict__, name, thing.__dict__.get(name)) for name in names]

    def module(self, module: nn.Module) -> None:
        """A module whose call nobody watches."""
        self.attributes(module, "forward", *_HOOKS)
        self.sizes += [(getattr(module, name), 0) for name in _HOOKS]

    def children(self, module: nn.Module, *names: str) -> None:
        """Children of a module; all of them, and no others, where no names are given."""
        self.attributes(module, "_modules")
        of = module._modules
        self.held += [(of, name, of.get(name)) for name in names or of]
        if not names:
            self.sizes.append((of, len(of)))

    def layer(self, layer: nn.Module) -> None:
        """A layer, which nobody watches and whose weights are plain parameters, with the buffer ``mask`` if it has one."""
        self.module(layer)
        self.attributes(layer, "_parameters")
        self.sizes.append((layer._parameters, len(layer._parameters)))
        for name, parameter in layer._parameters.items():
            self.held.append((layer._parameters, name, parameter))
            if parameter is not None:
                self.kinds.append((parameter, type(parameter)))
                self.tensors.append(parameter)
        self.buffer(layer, "mask")

    def buffer(self, module: nn.Module, name: str) -> None:
        """A buffer with its numbers, or that there is none."""
        self.attributes(module, "_buffers")
        tensor = module._buffers.get(name)
        self.held.append((module._buffers, name, tensor))
        if tensor is not None:
            self.kinds.append((tensor, type(tensor)))
            self.contents.append(tensor)

    def everything(self, top: nn.Module, *, deep: bool) -> bool:
        """Children, tensors, counts of writes to them and own attributes, but no hooks, of a module and of all below it.

        Args:
            top: the module.
            deep: whether tensors in attributes are seen too, and what dicts and tuples hold.

        Returns:
            Whether all of that can be seen: what is in a list cannot.
        """
        for module in top.modules():
            own = module.__dict__
            self.kinds.append((module, type(module)))
            self.sizes.append((own, len(own)))
            for name, value in own_attributes(module).items():
                self.held.append((own, name, value))
                if deep and not self._within(value):
                    return False
            for name in ("_modules", "_parameters", "_buffers"):
                self.held.append((own, name, own[name]))
                self._within(own[name])
        return True

    def _within(self, value: Any) -> bool:
        """What an attribute holds."""
        if isinstance(value, Tensor):
            self.kinds.append((value, type(value)))
            self.tensors.append(value)
        elif isinstance(value, dict):
            self.sizes.append((value, len(value)))
            self.held += [(value, key, each) for key, each in value.items()]
            return all(map(self._within, value.values()))
        elif isinstance(value, tuple):
            return all(map(self._within, value))
        return not isinstance(value, (list, set, np.ndarray))

    def but_contents(self) -> Seen:
        """The same with the counts of writes to all tensors, for one who compares their contents himself."""
        tensors = [*self.tensors, *self.contents]
        counted = [(each, each._version) for each in tensors if not each.is_inference()]
        return Seen(self.held, self.sizes, self.kinds, tensors, [], [*self.versions, *counted])


class Unchanged(Protocol):
    """What ``unchanged`` makes."""

    def same(self) -> bool:
        """Whether all is what it was."""


def unchanged(seen: Seen) -> Unchanged | None:
    """Watches what was seen, by native code where something was compiled; None where a tensor cannot be watched.

    Args:
        seen: as it is now.
    """
    if not all(map(_can_be_watched, (*seen.tensors, *seen.contents))):
        return None
    make = backends.watching() or InPython
    found: Unchanged = make(seen.held, seen.sizes, seen.kinds, seen.tensors, seen.contents, seen.versions)
    return found


class Last(Generic[T]):
    """What was made last, for as long as nothing has changed of what it was made from. Copies begin anew."""

    def __init__(self) -> None:
        self._kept: tuple[Sequence[Any], T, Unchanged] | None = None

    def of(self, key: Sequence[Any]) -> T | None:
        """What was made; None if it must be made again.

        Args:
            key: what it was made for, compared by identity: the attributes of that which keeps it, since a shallow copy has
                others, and all else that is not in what was seen.
        """
        if self._kept is None:
            return None
        known, value, watch = self._kept
        if len(known) != len(key) or not all(map(operator.is_, known, key)):
            return None
        return value if watch.same() else None

    def keep(self, key: Sequence[Any], value: T, seen: Seen) -> None:
        """Keeps something, and what was seen when it was made, if that can be watched."""
        watch = unchanged(seen)
        self._kept = None if watch is None else (key, value, watch)

    def current(self, key: Sequence[Any], make: Callable[[Seen], T | None]) -> T | None:
        """What was made, or is made and kept now; None where it cannot be.

        Args:
            key: see ``of``.
            make: lists what it has looked at.
        """
        value = self.of(key)
        if value is None:
            seen = Seen()
            value = make(seen)
            if value is not None:
                self.keep(key, value, seen)
        return value

    def __deepcopy__(self, memo: dict[int, Any]) -> Last[T]:
        return type(self)()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


def _can_be_watched(tensor: Tensor) -> bool:
    return tensor.is_cpu and tensor.layout is torch.strided and tensor.is_contiguous() and not tensor.is_neg()


class InPython:
    """The definition of what ``csrc/python/unchanged.cpp`` does."""

    def __init__(
        self,
        held: Sequence[tuple[dict[Any, Any], Any, Any]],
        sizes: Sequence[tuple[dict[Any, Any], int]],
        kinds: Sequence[tuple[Any, type]],
        tensors: Sequence[Tensor],
        contents: Sequence[Tensor],
        versions: Sequence[tuple[Tensor, int]],
    ) -> None:
        self._held, self._sizes, self._kinds, self._versions = held, sizes, kinds, versions
        self._tensors = [(each, _memory_of(each)) for each in tensors]
        self._contents = [(each, _memory_of(each), mask_digest(each)) for each in contents]

    def same(self) -> bool:
        """See ``Unchanged``."""
        return (
            all(of.get(key) is value for of, key, value in self._held)
            and all(len(of) == size for of, size in self._sizes)
            and all(type(thing) is kind for thing, kind in self._kinds)
            and all(tensor._version == version for tensor, version in self._versions)
            and all(_memory_of(each) == memory for each, memory in self._tensors)
            and all(
                _memory_of(each) == memory and mask_digest(each) == digest for each, memory, digest in self._contents
            )
        )


def _memory_of(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.is_neg()

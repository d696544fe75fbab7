"""What was made from tensors, kept until one of them changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor, nn

from made_fast import backends
from made_fast.arguments import one_of

__all__ = ["Kept", "Stale", "State", "check_stale"]

T = TypeVar("T")
# After a change: make it again, raise; or never look for one. ``"exact"`` is ``"refresh"`` that looks at everything.
Stale = Literal["refresh", "raise", "keep", "exact"]

_TRIES = 8  # to make something from tensors that another thread keeps writing to
_PLAIN = (Tensor, nn.Parameter, nn.Buffer)
_PART, _WHOLE = 1 << 15, 1 << 18  # bytes of large contents that one look compares, and of contents that are never cut


class State(NamedTuple):
    """All that something is made from.

    Attributes:
        tensors: compared by their contents; see ``Kept``.
        others: compared by ``==``.
        structure: how many of the tensors, from the first on, are structure: while they stay the same, what is made anew may
            use what follows from them alone in the last value.
    """

    tensors: Sequence[Tensor]
    others: list[Any] | None = None
    structure: int = 0


class _Contents:
    """What some tensors held.

    Of tensors whose memory can be read, digests of it are noted, in parts that are lines spread over all of them; of others,
    on a GPU say, copies.

    Args:
        tensors: as they are now.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        can_read = backends.memory_digests() is not None
        self._copies = {
            number: tensor.detach().clone()
            for number, tensor in enumerate(tensors)
            if not (can_read and _is_readable(tensor))
        }
        self._sizes = [tensor.nbytes for number, tensor in enumerate(tensors) if number not in self._copies]
        size = sum(self._sizes)
        self.parts = 1 if size <= _WHOLE else -(-size // _PART)
        self._digests = self._read(tensors, range(self.parts))

    def equal(self, tensors: Sequence[Tensor], parts: range) -> bool:
        """Whether tensors of the same kinds hold the same, in these parts as far as their memory can be read."""
        if not all(torch.equal(_dense(copy), _dense(tensors[number])) for number, copy in self._copies.items()):
            return False
        return all(self._read(tensors, range(part, part + 1)) == self._digests[part : part + 1] for part in parts)

    def _read(self, tensors: Sequence[Tensor], parts: range) -> list[int]:
        read = backends.memory_digests()
        if read is None:  # a copy where nothing was compiled has another number of digests, or nothing to read
            return []
        addresses = [tensor.data_ptr() for number, tensor in enumerate(tensors) if number not in self._copies]
        return read(addresses, self._sizes, parts.start, parts.stop, self.parts)


class _Found(NamedTuple, Generic[T]):
    """What is kept, and what it was made from.

    Attributes:
        value: what was made.
        others: see ``State``; None in a copy.
        held: the tensors, so that no other comes to lie where they are.
        kinds, marks: of them.
        contents: of those that are structure, and of the others.
    """

    value: T
    others: list[Any] | None
    held: Sequence[Tensor]
    kinds: list[Any]
    marks: list[Any]
    contents: tuple[_Contents, _Contents]

    def equal(self, now: State, look: int | None) -> bool:
        """Whether tensors hold the same: all of it, or with a number the part of one look."""
        for known, tensors in zip(self.contents, _in_two(now), strict=True):
            parts = range(known.parts) if look is None else range(look % known.parts, look % known.parts + 1)
            if not known.equal(tensors, parts):
                return False
        return True


class Kept(Generic[T]):
    """Something made from tensors; made again when they have changed.

    A look compares where the tensors are and how often torch counted writes to them, and then their contents, since writes
    through ``.data`` or ``.numpy()`` are not counted: all of them up to 256 KiB, beyond that 32 KiB in lines spread over all
    tensors, others with each look. So a write to all of a large tensor is seen at once, one to a single number of it after as
    many looks as the tensors have 32 KiB; ``stale="exact"`` compares everything with each look. Where a tensor has moved or
    was written to, everything is compared in any case.

    Copies and pickles leave it out, and make it again when it is asked for. Those of a ``portable`` one take it along; the
    other things that it was made from have other identities there, so they are noted anew.

    Args:
        read: gives the state as it is now; its tensors are no copies.
        make: makes the value from what ``read`` gives; it is handed the last value, None at first.
        stale: ``"refresh"`` and ``"exact"`` make it again after a change, ``"raise"`` raises, ``"keep"`` does not look.
        changed: what the error of ``"raise"`` says.
        portable: whether copies and pickles take the value along, which must itself allow it.
    """

    def __init__(
        self,
        read: Callable[[], State],
        make: Callable[[T | None], T],
        stale: str = "refresh",
        *,
        changed: str = "what this was made from has changed since; make it again",
        portable: bool = False,
    ) -> None:
        check_stale(stale)
        self.read, self.make, self.stale, self.changed, self.portable = read, make, stale, changed, portable
        self._found: _Found[T] | None = None  # replaced as a whole
        self._copied_stale = False
        self._looks = 0
        self._lock = threading.RLock()

    @property
    def last(self) -> T | None:
        """What was made last, whether or not it is stale; None if nothing was."""
        return None if self._found is None else self._found.value

    @property
    def is_stale(self) -> bool:
        """Whether there is nothing yet, or what it was made from has changed."""
        return self._has_changed(self.read())

    def current(self) -> T:
        """The value for the tensors as they are now.

        Raises:
            RuntimeError: they have changed, and ``stale`` is ``"raise"``.
        """
        entry = self._found
        if entry is not None and self.stale == "keep":
            return entry.value
        now = self.read()
        if not self._has_changed(now):
            assert self._found is not None
            return self._found.value
        if entry is not None and self.stale == "raise":
            raise RuntimeError(self.changed)
        with self._lock:
            if self._found is not entry:  # another thread has made it meanwhile
                now = self.read()
                if self._found is not None and not self._has_changed(now):
                    return self._found.value
            return self._made(now)

    def refresh(self) -> T:
        """Makes it anew, whatever has changed."""
        with self._lock:
            return self._made(self.read(), anew=True)

    def _has_changed(self, now: State) -> bool:
        entry = self._found
        if entry is None:
            return True
        if entry.others is None and now.others is not None and not self._copied_stale:
            self._found = entry = entry._replace(others=now.others)
        if entry.others != now.others:
            return True
        kinds, marks = _kinds(now.tensors), _marks(now.tensors)
        if kinds != entry.kinds:
            return True
        if marks == entry.marks:
            self._looks += 1
            return not entry.equal(now, None if self.stale == "exact" else self._looks)
        if not entry.equal(now, None):
            return True
        self._found = entry._replace(held=now.tensors, marks=marks)
        return False

    def _made(self, now: State, *, anew: bool = False) -> T:
        """Makes it from this state, without the last value if it is to be made anew.

        The contents are noted first. So what another thread writes to tensors meanwhile is a change that the next look sees,
        and what was made while their version counters moved is made again at once.
        """
        for _ in range(_TRIES):
            structure, others = _in_two(now)
            last = None if anew or not structure else self._last_of(now)
            held, kinds, marks = now.tensors, _kinds(now.tensors), _marks(now.tensors)
            contents = (_Contents(structure), _Contents(others))
            value = self.make(last)
            self._found = _Found(value, now.others, held, kinds, marks, contents)
            self._copied_stale = False
            if _marks(held) == marks:
                break
            now = self.read()
        return value

    def _last_of(self, now: State) -> T | None:
        """The last value, if it had the same structure."""
        entry, (structure, _) = self._found, _in_two(now)
        if entry is None or entry.others != now.others or entry.kinds[: now.structure] != _kinds(structure):
            return None
        known = entry.contents[0]
        return entry.value if known.equal(structure, range(known.parts)) else None

    def __getstate__(self) -> dict[str, Any]:
        """See the class: nothing is taken along, or the value without the identities of others."""
        state = {name: value for name, value in self.__dict__.items() if name != "_lock"}
        if not self.portable or self._found is None:
            return {**state, "_found": None, "_copied_stale": False}
        changed = self.is_stale
        return {
            **state,
            "_found": self._found._replace(others=None, held=()),
            "_copied_stale": changed,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()


def check_stale(stale: object) -> str:
    """Raises ValueError if it is not one of those that ``Kept`` has."""
    return one_of("stale", stale, get_args(Stale))


def _in_two(state: State) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """What is structure, and what is not."""
    return state.tensors[: state.structure], state.tensors[state.structure :]


def _marks(tensors: Sequence[Tensor]) -> list[Any]:
    """Where each tensor is, and how often it was written to (0 where nobody counts); None for those of other kinds."""
    return [
        (each.data_ptr(), 0 if each.is_inference() else each._version)
        if type(each) in _PLAIN and each.layout is torch.strided
        else None
        for each in tensors
    ]


def _kinds(tensors: Sequence[Tensor]) -> list[Any]:
    """All of each tensor but its contents."""
    return [
        (each.dtype, each.device, each.shape, each.stride(), each.is_neg())
        if type(each) in _PLAIN and each.layout is torch.strided
        else (type(each), each.dtype, each.device, each.shape)
        for each in tensors
    ]


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.layout is torch.strided else tensor.to_dense()


def _is_readable(tensor: Tensor) -> bool:
    """Whether the numbers of a tensor lie one after the other where its address says."""
    plain = type(tensor) in _PLAIN and tensor.device.type == "cpu" and tensor.layout is torch.strided
    return plain and tensor.is_contiguous() and not tensor.is_neg()

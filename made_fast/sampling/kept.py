"""What was made from tensors, kept until one of them changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar, get_args

import torch
from torch import Tensor, nn

from made_fast import backends
from made_fast.arguments import one_of

__all__ = ["Kept", "Stale", "State", "Watch", "check_stale"]

T = TypeVar("T")
# After a change: make it again, raise; or never look for one. ``"exact"`` is ``"refresh"`` that looks at everything.
Stale = Literal["refresh", "raise", "keep", "exact"]

_TRIES = 8  # to make something from tensors that another thread keeps writing to
_PLAIN = (Tensor, nn.Parameter, nn.Buffer)
_PART, _WHOLE = 1 << 15, 1 << 18  # bytes of large contents that one look compares, and of contents that are never cut
_PARTS_PER_THREAD = 32  # that are read together: fewer take less time than it takes to wake another thread
_WATCHES_IN_VAIN = 4  # one after another, each of which has seen something else before anything was asked for again


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


class Watch(Protocol):
    """Watches what a state is read from, at a fraction of the time that reading it takes."""

    def same(self) -> bool:
        """Whether all is as it was when this was made, but for numbers written to memory past torch's count of versions."""


class _Contents:
    """What some tensors held.

    Of tensors whose memory can be read, digests of it are noted, in parts that are lines spread over each of them; of others,
    on a GPU say, copies.

    Args:
        tensors: as they are now.
        parts: into how many they are cut.
        like: of other tensors of the same kinds, if there are some.
    """

    def __init__(self, tensors: Sequence[Tensor], parts: int, like: _Contents | None = None) -> None:
        can_read = backends.memory_digests() is not None
        self._copies: dict[int, Tensor] = {}
        self._sizes: list[int] = []
        self.parts = parts
        if like is not None and can_read and not like._copies:
            self._sizes = like._sizes
        else:
            for number, tensor in enumerate(tensors):
                if can_read and _is_readable(tensor):
                    self._sizes.append(tensor.nbytes)
                else:
                    self._copies[number] = tensor.detach().clone()
        self._digests = self._read(tensors, range(self.parts))
        self._addresses = [] if self._copies else [tensor.data_ptr() for tensor in tensors]

    @property
    def can_be_watched(self) -> bool:
        """Whether all was read from memory."""
        return not self._copies and len(self._digests) == self.parts

    def stayed(self, part: int | None) -> bool:
        """What ``equal`` says of tensors that are known to lie where they lay."""
        read: Any = backends.memory_digests()
        if part is not None:
            found: list[int] = read(self._addresses, self._sizes, part, part + 1, self.parts, 1)
            return found[0] == self._digests[part]
        threads = torch.get_num_threads() if self.parts > _PARTS_PER_THREAD else 1
        return read(self._addresses, self._sizes, 0, self.parts, self.parts, threads) == self._digests  # type: ignore[no-any-return]

    def equal(self, tensors: Sequence[Tensor], part: int | None) -> bool:
        """Whether tensors of the same kinds hold the same: all of it, or one part as far as their memory can be read."""
        parts = range(self.parts) if part is None else range(part, part + 1)
        if not all(torch.equal(_dense(copy), _dense(tensors[number])) for number, copy in self._copies.items()):
            return False
        return self._read(tensors, parts) == self._digests[parts.start : parts.stop]

    def same(self, other: _Contents) -> bool:
        """Whether tensors of the same kinds held the same."""
        if self._digests != other._digests or self._copies.keys() != other._copies.keys():
            return False
        return all(torch.equal(_dense(copy), _dense(other._copies[number])) for number, copy in self._copies.items())

    def _read(self, tensors: Sequence[Tensor], parts: range) -> list[int]:
        read = backends.memory_digests()
        if read is None:  # a copy where nothing was compiled has another number of digests, or nothing to read
            return []
        if self._copies:
            tensors = [tensor for number, tensor in enumerate(tensors) if number not in self._copies]
        addresses = [tensor.data_ptr() for tensor in tensors]
        threads = torch.get_num_threads() if len(parts) > _PARTS_PER_THREAD else 1
        return read(addresses, self._sizes, parts.start, parts.stop, self.parts, threads)


class _Seen:
    """A state as it was looked at.

    Args:
        state: its tensors are held, so that no other comes to lie where they are.

    Attributes:
        marks: where each tensor is, and how often it was written to; None for those of other classes than torch's own, and
            for the count where nobody counts.
        kinds: all else of them but their contents.
        contents: of those that are structure, and of the others; once they were noted.
    """

    def __init__(self, state: State) -> None:
        self.tensors, self.others, self.size = state
        self.marks: list[Any] = []
        self.kinds: list[Any] = []
        self.contents: tuple[_Contents, _Contents] | None = None
        self._alike: _Seen | None = None  # one that is known to be
        for each in self.tensors:
            if type(each) in _PLAIN and each.layout is torch.strided:
                self.marks.append((each.data_ptr(), None if each.is_inference() else each._version))
                self.kinds.append((each.dtype, each.device, each.shape, each.stride(), each.is_neg()))
            else:
                self.marks.append(None)
                self.kinds.append((type(each), each.dtype, each.device, each.shape))

    def is_alike(self, other: _Seen) -> bool:
        """Whether the kinds of all tensors are those of another look."""
        if self._alike is not other and self.size == other.size and self.kinds == other.kinds:
            self._alike = other
        return self._alike is other

    def forget(self) -> None:
        """Lets go of the other look."""
        self._alike = None

    @property
    def parts(self) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """The tensors that are structure, and the others."""
        return self.tensors[: self.size], self.tensors[self.size :]

    def note(self, like: _Seen | None) -> tuple[_Contents, _Contents]:
        """Notes the contents, if that was not done; those of another time may have the same kinds."""
        if self.contents is None:
            structure, others = self.parts
            known = like.contents if like is not None and self.is_alike(like) else None
            first, second = (None, None) if known is None else known
            size = sum([each.nbytes for each in self.tensors if _is_readable(each)]) if first is None else 0
            parts = first.parts if first is not None else 1 if size <= _WHOLE else -(-size // _PART)
            self.contents = (_Contents(structure, parts, first), _Contents(others, parts, second))
        return self.contents

    def without_tensors(self) -> _Seen:
        """What was seen, for a copy."""
        copied: _Seen = object.__new__(_Seen)
        copied.__dict__.update(self.__dict__, tensors=(), others=None, _alike=None)
        return copied

    def was_written(self) -> bool:
        """Whether somebody has written to tensors since, where that is counted."""
        for tensor, mark in zip(self.tensors, self.marks, strict=True):
            if mark is not None and mark[1] is not None and tensor._version != mark[1]:
                return True
        return False


class _Found(NamedTuple, Generic[T]):
    """What is kept, and what it was made from: others is None in a copy, see ``State``."""

    value: T
    others: list[Any] | None
    seen: _Seen
    watch: Watch | None = None


class Kept(Generic[T]):
    """Something made from tensors; made again when they have changed.

    A look compares where the tensors are and how often torch counted writes to them, and then their contents, since writes
    through ``.data`` or ``.numpy()`` are not counted: all of them up to 256 KiB, beyond that 32 KiB in lines spread over each
    tensor, others with each look. So a write to all of a tensor is seen at once, one to a single number of it after as many
    looks as the tensors have 32 KiB; ``stale="exact"`` compares everything with each look. Where a tensor has moved or
    was written to, everything is compared in any case.

    Copies and pickles leave it out, and make it again when it is asked for. Those of a ``portable`` one take it along; the
    other things that it was made from have other identities there, so they are noted anew.

    Args:
        read: gives the state as it is now; its tensors are no copies.
        make: makes the value from what ``read`` gives; it is handed the last value, None at first.
        stale: ``"refresh"`` and ``"exact"`` make it again after a change, ``"raise"`` raises, ``"keep"`` does not look.
        changed: what the error of ``"raise"`` says.
        portable: whether copies and pickles take the value along, which must itself allow it.
        renew: makes the value from the last one and the tensors as they are now, where structure and kinds of all tensors are
            the same; None where it must be made by ``make``.
        watch: watches all that ``read`` looks at, for as long as nothing changes; it gives None where that is not possible.
    """

    def __init__(
        self,
        read: Callable[[], State],
        make: Callable[[T | None], T],
        stale: str = "refresh",
        *,
        changed: str = "what this was made from has changed since; make it again",
        portable: bool = False,
        renew: Callable[[T, Sequence[Tensor]], T | None] | None = None,
        watch: Callable[[], Watch | None] | None = None,
    ) -> None:
        check_stale(stale)
        self.read, self.make, self.stale, self.changed, self.portable = read, make, stale, changed, portable
        self.renew, self.watch = renew, watch
        self._found: _Found[T] | None = None  # replaced as a whole
        self._copied_stale = False
        self._looks = self._watches = 0  # and of those, the ones in vain
        self._lock = threading.RLock()

    @property
    def last(self) -> T | None:
        """What was made last, whether or not it is stale; None if nothing was."""
        return None if self._found is None else self._found.value

    @property
    def is_stale(self) -> bool:
        """Whether there is nothing yet, or what it was made from has changed."""
        return self._has_changed(_Seen(self.read()), self._next_look())

    def current(self) -> T:
        """The value for the tensors as they are now.

        Raises:
            RuntimeError: they have changed, and ``stale`` is ``"raise"``.
        """
        entry, look = self._found, self._next_look()
        if entry is not None and (self.stale == "keep" or self._stayed(entry, look)):
            return entry.value
        now = _Seen(self.read())
        if not self._has_changed(now, look):
            assert self._found is not None
            self._begin_to_watch()
            return self._found.value
        if entry is not None and self.stale == "raise":
            raise RuntimeError(self.changed)
        with self._lock:
            if self._found is not entry:  # another thread has made it meanwhile
                now = _Seen(self.read())
                if self._found is not None and not self._has_changed(now, look):
                    return self._found.value
            return self._made(now)

    def refresh(self) -> T:
        """Makes it anew, whatever has changed."""
        with self._lock:
            return self._made(_Seen(self.read()), anew=True)

    def _next_look(self) -> int:
        self._looks = look = self._looks + 1
        return look

    def _stayed(self, entry: _Found[T], look: int) -> bool:
        """Whether all that was watched stayed as it was, with the contents that this look compares."""
        if entry.watch is None or not entry.watch.same():
            return False
        assert entry.seen.contents is not None
        for contents in entry.seen.contents:
            if not contents.stayed(None if self.stale == "exact" else look % contents.parts):
                return False
        self._watches = 0
        return True

    def _begin_to_watch(self) -> None:
        """After a look that has found nothing changed. What is watched is looked at once more: others may write to it."""
        if self.watch is None or self._watches >= _WATCHES_IN_VAIN:
            return
        with self._lock:
            entry = self._found
            assert entry is not None and entry.seen.contents is not None
            self._watches += 1
            watch = self.watch() if all(each.can_be_watched for each in entry.seen.contents) else None
            if watch is None:
                self._found = entry._replace(watch=None)
                return
            now = _Seen(self.read())
            same = now.marks == entry.seen.marks and now.others == entry.others and now.is_alike(entry.seen)
            self._found = entry._replace(watch=watch if same else None)

    def _has_changed(self, now: _Seen, look: int) -> bool:
        entry = self._found
        if entry is None:
            return True
        if entry.others is None and now.others is not None and not self._copied_stale:
            self._found = entry = entry._replace(others=now.others)
        last = entry.seen
        if entry.others != now.others or not now.is_alike(last):
            return True
        assert last.contents is not None
        if now.marks == last.marks:
            for contents, tensors in zip(last.contents, now.parts, strict=True):
                if not contents.equal(tensors, None if self.stale == "exact" else look % contents.parts):
                    return True
            return False
        if not all(one.same(two) for one, two in zip(last.contents, now.note(last), strict=True)):
            return True
        now.forget()
        self._found = entry._replace(seen=now, watch=None)
        return False

    def _made(self, now: _Seen, *, anew: bool = False) -> T:
        """Makes it from this state, without the last value if it is to be made anew.

        The contents are noted first. So what another thread writes to tensors meanwhile is a change that the next look sees,
        and what was made while their version counters moved is made again at once.
        """
        for _ in range(_TRIES):
            last = self._found
            now.note(None if last is None else last.seen)
            if last is None or anew or not self._is_alike(last, now):
                value = self.make(None)
            else:
                renewed = (
                    None if self.renew is None or not now.is_alike(last.seen) else self.renew(last.value, now.tensors)
                )
                value = self.make(last.value) if renewed is None else renewed
            now.forget()
            self._found = _Found(value, now.others, now)
            self._copied_stale = False
            if not now.was_written():
                break
            now = _Seen(self.read())
        return value

    @staticmethod
    def _is_alike(last: _Found[T], now: _Seen) -> bool:
        """Whether there is a structure, and it is that of what was found last."""
        size = now.size
        if not size or last.others != now.others:
            return False
        if not now.is_alike(last.seen) and last.seen.kinds[:size] != now.kinds[:size]:
            return False
        assert last.seen.contents is not None
        assert now.contents is not None
        return last.seen.contents[0].same(now.contents[0])

    def __getstate__(self) -> dict[str, Any]:
        """See the class: nothing is taken along, or the value without the identities of others."""
        state = {name: value for name, value in self.__dict__.items() if name != "_lock"}
        if not self.portable or self._found is None:
            return {**state, "_found": None, "_copied_stale": False}
        changed = self.is_stale
        return {
            **state,
            "_found": self._found._replace(others=None, seen=self._found.seen.without_tensors(), watch=None),
            "_copied_stale": changed,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()


def check_stale(stale: object) -> str:
    """Raises ValueError if it is not one of those that ``Kept`` has."""
    return one_of("stale", stale, get_args(Stale))


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.layout is torch.strided else tensor.to_dense()


def _is_readable(tensor: Tensor) -> bool:
    """Whether the numbers of a tensor lie one after the other where its address says."""
    plain = type(tensor) in _PLAIN and tensor.device.type == "cpu" and tensor.layout is torch.strided
    return plain and tensor.is_contiguous() and not tensor.is_neg()

"""What was made from tensors, kept until one of them changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from made_fast.arguments import one_of

__all__ = ["Kept", "Stale", "State", "check_stale"]

T = TypeVar("T")
Stale = Literal["refresh", "raise", "keep"]  # after a change: make it again, raise; or never look for one

_TRIES = 8  # to make something from tensors that another thread keeps writing to


class State(NamedTuple):
    """All that something is made from.

    Attributes:
        tensors: compared by their contents.
        others: compared by ``==``.
        structure: how many of the tensors, from the first on, are structure: while they stay the same, what is made anew may
            use what follows from them alone in the last value.
    """

    tensors: Sequence[Tensor]
    others: list[Any] | None = None
    structure: int = 0


class _Found(NamedTuple, Generic[T]):
    """What is kept, and a copy of all that it was made from."""

    state: State
    value: T


class Kept(Generic[T]):
    """Something made from tensors; made again when they have changed.

    Copies and pickles leave it out, and make it again when it is asked for. Those of a ``portable`` one take it along; the
    other things that it was made from have other identities there, so they are noted anew.

    Args:
        read: gives the state as it is now; its tensors are detached, but no copies.
        make: makes the value from what ``read`` gives; it is handed the last value, None at first.
        stale: ``"refresh"`` makes it again after a change, ``"raise"`` raises, ``"keep"`` looks for no change.
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
        self._lock = threading.RLock()

    @property
    def last(self) -> T | None:
        """What was made last, whether or not it is stale; None if nothing was."""
        return None if self._found is None else self._found.value

    @property
    def is_stale(self) -> bool:
        """Whether there is nothing yet, or what it was made from has changed."""
        return self._found is None or self._difference(self.read()) is not None

    def current(self) -> T:
        """The value for the tensors as they are now.

        Raises:
            RuntimeError: they have changed, and ``stale`` is ``"raise"``.
        """
        entry = self._found
        if entry is not None and self.stale == "keep":
            return entry.value
        now = self.read()
        difference = self._difference(now)
        if entry is not None and difference is None:
            return entry.value
        if entry is not None and self.stale == "raise":
            raise RuntimeError(self.changed)
        with self._lock:
            if self._found is not entry:  # another thread has made it meanwhile
                now = self.read()
                difference = self._difference(now)
                if self._found is not None and difference is None:
                    return self._found.value
            return self._made(now, difference)

    def refresh(self) -> T:
        """Makes it anew, whatever has changed."""
        with self._lock:
            return self._made(self.read(), 0)

    def _difference(self, now: State) -> int | None:
        """Number of the first tensor that is not what it was, 0 where others differ; None if nothing has changed."""
        entry = self._found
        if entry is None:
            return 0
        if entry.state.others is None and now.others is not None and not self._copied_stale:
            self._found = entry = entry._replace(state=entry.state._replace(others=now.others))
        known = entry.state.tensors
        if entry.state.others != now.others or len(known) != len(now.tensors):
            return 0
        return next((k for k, pair in enumerate(zip(known, now.tensors, strict=True)) if not _equal(*pair)), None)

    def _made(self, now: State, difference: int | None) -> T:
        """Makes it from this state, which differs from the last one from this tensor on.

        The tensors are copied first. So what another thread writes to them meanwhile is a change that the next look sees, and
        what was made while their version counters moved is made again at once.
        """
        last = self.last if difference is None or difference >= now.structure > 0 else None
        for _ in range(_TRIES):
            versions = _versions(now.tensors)
            copied = now._replace(tensors=[tensor.clone() for tensor in now.tensors])
            self._found = entry = _Found(copied, self.make(last))
            self._copied_stale = False
            if _versions(now.tensors) == versions:
                break
            now = self.read()
        return entry.value

    def __getstate__(self) -> dict[str, Any]:
        """See the class: nothing is taken along, or the value without the identities of others."""
        state = {name: value for name, value in self.__dict__.items() if name != "_lock"}
        if not self.portable or self._found is None:
            return {**state, "_found": None, "_copied_stale": False}
        changed = self.is_stale
        return {
            **state,
            "_found": self._found._replace(state=self._found.state._replace(others=None)),
            "_copied_stale": changed,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()


def check_stale(stale: object) -> str:
    """Raises ValueError if it is not one of those that ``Kept`` has."""
    return one_of("stale", stale, get_args(Stale))


def _versions(tensors: Sequence[Tensor]) -> list[int]:
    """How often each was written to; 0 for tensors that do not count it."""
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors]


def _equal(known: Tensor, now: Tensor) -> bool:
    """Whether a tensor has kept its dtype, device and values."""
    if known.dtype != now.dtype or known.device != now.device:
        return False
    if now.device.type == "cpu" and now.dtype in (torch.float32, torch.float64, torch.bool, torch.int64):
        return np.array_equal(known.numpy(), now.numpy())  # a third of the time of torch.equal
    return torch.equal(known, now)

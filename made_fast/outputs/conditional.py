"""Conditionals: the distribution of one variable given its parameters. One class each; the torch code is the definition.

All functions take the parameters of one variable in the last dimension, ``params`` (..., K), and broadcast over the rest, so
that they serve one variable of a draw as well as all equal variables of a training batch. Uniforms (..., num_draws) are
those of ``noise.uniform``: multiples of 2**-24 in [0, 1).
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from made_fast.outputs.codes import Code, Encoding
from made_fast.outputs.decoding import PLAIN, Decoding

__all__ = ["Conditional", "distinct_of"]


class Conditional(ABC):
    """The distribution of one variable given its K parameters; base class of those built in and of those of users.

    One of a user sets ``num_params`` and ``num_draws`` and defines ``log_prob`` and ``draw``; ``encoding`` stays a number. It
    is drawn by the reference backend, or by compiled ones if it has a draw that they can call.

    Attributes:
        code: its number in compiled backends.
        num_params: K.
        num_draws: uniforms that one draw needs.
        size: how many values it can take, numbered from 0 in what ``allowed`` says; 0 for real numbers.
        components: of a mixture.
        floor: least scale.
        encoding, units: what the network reads, and how many input units that is.
        scale, shift: of a number.
        native_draw: for the C++ and numba backends, or None: ``{"float32": f, "float64": f}``, functions compiled by
            ``numba.cfunc``, ctypes functions or addresses, of the C signature ``void(const T* params, const float*
            uniforms, T* x, int64_t rows, int64_t stride)``: ``x[r]`` from ``params[k * stride + r]`` and
            ``uniforms[i * stride + r]``.
        triton_draw: for the Triton backend, or None: a ``triton.jit`` function (see backends/triton/conditionals/draw.py).
    """

    code: ClassVar[Code] = Code.OWN
    num_params: int = 1
    num_draws: int = 1
    size: int = 0
    components: int = 0
    floor: float = 0.0
    encoding: Encoding = Encoding.NUMBER
    units: int = 1
    scale: float = 1.0
    shift: float = 0.0
    native_draw: dict[str, Any] | None = None
    triton_draw: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Conditional:
        """Itself: it never changes, and compiled functions that one of a user may hold cannot be copied."""
        return self

    @property
    def reads_itself(self) -> bool:
        """Whether the network reads the variable as it is."""
        return self.encoding == Encoding.NUMBER and (self.scale, self.shift) == (1, 0)

    @property
    def name(self) -> str:
        """The name of its code, as in the table of backends."""
        return self.code.name.lower()

    def native_address(self, dtype: torch.dtype) -> int:
        """The address of ``native_draw`` for parameters of this dtype."""
        assert self.native_draw is not None
        function = self.native_draw["float64" if dtype == torch.float64 else "float32"]
        if isinstance(function, int):
            return function
        address = getattr(function, "address", None)
        return int(address or ctypes.cast(function, ctypes.c_void_p).value or 0)

    def values(self) -> Tensor | None:
        """The values it can take, fp64 (size,), or None for real numbers."""
        return None

    def valid(self, x: Tensor) -> Tensor:
        """Which values of x it can take, bool of the same shape."""
        return torch.isfinite(x)

    @property
    def expected(self) -> str:
        """The values in words, for messages."""
        return "finite"

    @abstractmethod
    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log p(x) in nats, (...), from params (..., K) and x (...)."""

    @abstractmethod
    def draw(self, params: Tensor, uniforms: Tensor, decoding: Decoding = PLAIN) -> Tensor:
        """x (...) from params (..., K) and uniforms (..., num_draws)."""

    def draw_within(self, params: Tensor, uniforms: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        """A draw from what is allowed, and the log of the probability of all that is: (...) each.

        Args:
            params: (..., K).
            uniforms: (..., num_draws).
            allowed: (..., size) bool for finite variables, else (..., 2): the least and the greatest value.
        """
        raise ValueError(f"allowed has no meaning for {type(self).__name__}, which has no draw_within")

    def mean(self, params: Tensor) -> Tensor:
        """Expected value (...)."""
        raise NotImplementedError(f"{type(self).__name__} has no mean")

    def mode(self, params: Tensor) -> Tensor:
        """Most probable value (...)."""
        raise NotImplementedError(f"{type(self).__name__} has no mode")

    def cdf(self, params: Tensor, x: Tensor) -> Tensor:
        """P(X <= x), (...)."""
        raise NotImplementedError(f"{type(self).__name__} has no cdf")

    def encode(self, x: Tensor) -> Tensor:
        """What the network reads of numbers and categories, (..., units); not by a table, which the model holds."""
        if self.encoding == Encoding.ONE_HOT:
            return F.one_hot(x.long(), self.size).to(x.dtype)
        return (x if self.reads_itself else x * self.scale + self.shift)[..., None]


class _Same:
    """A key by identity."""

    def __init__(self, conditionals: tuple[Conditional, ...]) -> None:
        self.conditionals = conditionals

    def __hash__(self) -> int:
        return id(self.conditionals)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.conditionals is self.conditionals


def distinct_of(conditionals: Iterable[Conditional]) -> Sequence[Conditional]:
    """Those that differ, in the order of their first variables; models have few, of which many variables hold the same."""
    return _distinct(_Same(conditionals)) if type(conditionals) is tuple else _found_in(conditionals)


@lru_cache(maxsize=16)  # the masks of an ensemble have the same
def _distinct(same: _Same) -> Sequence[Conditional]:
    return _found_in(same.conditionals)


def _found_in(conditionals: Iterable[Conditional]) -> Sequence[Conditional]:
    by_identity = {id(each): each for each in conditionals}  # their own hashes and comparisons take much longer
    return tuple(dict.fromkeys(by_identity.values()))

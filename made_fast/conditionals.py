"""Conditionals: the distribution of one variable given its parameters. One class each; the torch code is the definition.

All functions take the parameters of one variable in the last dimension, ``params`` (..., K), and broadcast over the rest, so
that they serve one variable of a draw as well as all equal variables of a training batch. Uniforms (..., num_draws) are
those of ``noise.uniform``: multiples of 2**-24 in [0, 1).
"""

from __future__ import annotations

import ctypes
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "BernoulliConditional",
    "CategoricalConditional",
    "Code",
    "Conditional",
    "Decoding",
    "Encoding",
    "SpinConditional",
    "choose_category",
]

LOG_SQRT_2_PI = 0.5 * math.log(2 * math.pi)
HALF_STEP = 2.0**-25  # between two uniforms: added where neither 0 nor 1 may come out


class Code(IntEnum):
    """Numbers by which compiled backends know the conditionals (csrc/plan/codes.h)."""

    BERNOULLI = 0
    SPIN = 1
    CATEGORICAL = 2
    NORMAL = 3
    MIXTURE_OF_NORMALS = 4
    MIXTURE_OF_LOGISTICS = 5
    OWN = 6
    POINT = 7


class Encoding(IntEnum):
    """What the network reads of a variable."""

    NUMBER = 0  # scale * x + shift
    ONE_HOT = 1  # one unit for each value, the one of x is 1
    EMBEDDING = 2  # row x of a table of its own


@dataclass(frozen=True)
class Decoding:
    """How conditionals are changed while drawing; log-probabilities stay those of the model.

    Attributes:
        temperature: T > 0: each conditional is drawn from p(x)**(1 / T), of mixtures each part.
        greedy: takes the most probable value.
        top_k: keeps the k most probable categories, 0 for all.
        top_p: keeps the fewest most probable categories with at least this mass.
    """

    temperature: float = 1.0
    greedy: bool = False
    top_k: int = 0
    top_p: float = 1.0

    @cached_property  # asked for several times in a call that may take microseconds
    def features(self) -> tuple[str, ...]:
        """What of this a backend must be able to do; the names are those of ``Backend.features``."""
        used = {
            "temperature": self.temperature != 1,
            "greedy": self.greedy,
            "top_k": self.top_k > 0,
            "top_p": self.top_p < 1,
        }
        return tuple(name for name, wanted in used.items() if wanted)


PLAIN = Decoding()


class Conditional(ABC):
    """The distribution of one variable given its K parameters; base class of those built in and of a user's own.

    An own one sets ``num_params`` and ``num_draws`` and defines ``log_prob`` and ``draw``; ``encoding`` stays a number. It is
    drawn by the reference backend, or by compiled ones if it has a draw that they can call.

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
        triton_draw: for the Triton backend, or None: a ``triton.jit`` function (see backends/triton/variable_kernels.py).
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
        """Itself: it never changes, and compiled functions that an own one may hold cannot be copied."""
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
        """What the network reads of numbers and categories, (..., units); a table is the module's affair."""
        if self.encoding == Encoding.ONE_HOT:
            return F.one_hot(x.long(), self.size).to(x.dtype)
        return (x if self.reads_itself else x * self.scale + self.shift)[..., None]


def is_whole(x: Tensor) -> Tensor | bool:
    """Which values have no fraction; of whole numbers and flags all."""
    return x == x.floor() if x.is_floating_point() else True


def logit_of(uniform: Tensor) -> Tensor:
    """log(u / (1 - u)) of uniforms, fp64."""
    return torch.logit(uniform.double())


def choose_category(weights: Tensor, uniform: Tensor) -> Tensor:
    """The categorical rule: how many running sums are at most ``u * total``, at most the last category of weight > 0.

    Args:
        weights: (..., K), not negative, some positive.
        uniform: (...).

    Returns:
        (...) int64.
    """
    sums = weights.cumsum(-1)
    chosen = (sums <= (uniform.to(weights.dtype) * sums[..., -1])[..., None]).sum(-1)
    last = (weights > 0).long().cumsum(-1).argmax(-1)  # the first place at which the count is complete
    return torch.minimum(chosen, last)


def choose_allowed(log_weights: Tensor, uniform: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """The categorical rule among allowed categories; the first allowed one where none has a weight.

    Args:
        log_weights: (..., K), of any sum.
        uniform: (...).
        allowed: (..., K) bool.

    Returns:
        (...) int64, and the log of the allowed share of the whole weight.
    """
    weights = torch.exp(log_weights - log_weights.amax(-1, keepdim=True))
    kept = torch.where(allowed, weights, 0)
    log_mass = torch.log(kept.sum(-1)) - torch.log(weights.sum(-1))
    everything = allowed.all(-1)
    chosen = choose_category(torch.where(kept.sum(-1, keepdim=True) > 0, kept, allowed.to(kept)), uniform)
    first = allowed.long().argmax(-1)
    chosen = torch.where(torch.isinf(log_mass), first, chosen)
    return chosen, torch.where(everything, torch.zeros_like(log_mass), log_mass)


@dataclass(frozen=True)
class _Binary(Conditional):
    """Two values, low and high; the parameter is the logit of the high one."""

    low: ClassVar[float]
    high: ClassVar[float] = 1.0
    size = 2

    def values(self) -> Tensor:
        return torch.tensor([self.low, self.high], dtype=torch.float64)

    def valid(self, x: Tensor) -> Tensor:
        return (x == self.low) | (x == self.high)

    def _at(self, high: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * high

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """log sigmoid(+-logit): exact for large logits of either sign."""
        return F.logsigmoid((2 * x - (self.low + self.high)) / (self.high - self.low) * params[..., 0])

    def draw(self, params: Tensor, uniforms: Tensor, decoding: Decoding = PLAIN) -> Tensor:
        """The high value where logit > logit(u)."""
        if decoding.greedy:
            return self.mode(params)
        logit = params[..., 0] if decoding.temperature == 1 else params[..., 0] / decoding.temperature
        return self._at((uniforms[..., 0] < torch.sigmoid(logit)).to(params.dtype))

    def draw_within(self, params: Tensor, uniforms: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        both = allowed.all(-1)
        only = self._at((allowed[..., 1]).to(params.dtype))
        x = torch.where(both, self.draw(params, uniforms), only)
        return x, torch.where(both, 0, self.log_prob(params, x))

    def mean(self, params: Tensor) -> Tensor:
        return self._at(torch.sigmoid(params[..., 0]))

    def mode(self, params: Tensor) -> Tensor:
        return self._at((params[..., 0] > 0).to(params.dtype))

    def cdf(self, params: Tensor, x: Tensor) -> Tensor:
        below = torch.where(x >= self.low, torch.sigmoid(-params[..., 0]), 0)
        return torch.where(x >= self.high, 1, below)


@dataclass(frozen=True)
class BernoulliConditional(_Binary):
    """0 or 1; the parameter is the logit."""

    code = Code.BERNOULLI
    low = 0.0

    @property
    def expected(self) -> str:
        return "0 or 1"


@dataclass(frozen=True)
class SpinConditional(_Binary):
    """-1 or +1; the parameter is the logit of +1."""

    code = Code.SPIN
    low = -1.0

    @property
    def expected(self) -> str:
        return "-1 or 1"


@dataclass(frozen=True)
class CategoricalConditional(Conditional):
    """0 .. size - 1 with a logit for each; the network reads a unit for each category, or an embedding of so many numbers."""

    size: int
    embedding: int = 0
    code = Code.CATEGORICAL

    @property
    def num_params(self) -> int:  # type: ignore[override]
        return self.size

    @property
    def encoding(self) -> Encoding:  # type: ignore[override]
        return Encoding.EMBEDDING if self.embedding else Encoding.ONE_HOT

    @property
    def units(self) -> int:  # type: ignore[override]
        return self.embedding or self.size

    def values(self) -> Tensor:
        return torch.arange(self.size, dtype=torch.float64)

    def valid(self, x: Tensor) -> Tensor:
        return (x >= 0) & (x < self.size) & is_whole(x)

    @property
    def expected(self) -> str:
        return f"a category 0 .. {self.size - 1}"

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """Less the greatest logit before the log of the sum: large logits would swallow it."""
        chosen: Tensor = torch.take_along_dim(params.log_softmax(-1), x.long()[..., None], -1)[..., 0]
        return chosen

    def draw(self, params: Tensor, uniforms: Tensor, decoding: Decoding = PLAIN) -> Tensor:
        if decoding.greedy:
            return self.mode(params)
        weights = torch.exp((params - params.amax(-1, keepdim=True)) / decoding.temperature)
        if decoding.top_k or decoding.top_p < 1:
            weights = _truncated(weights, decoding)
        return choose_category(weights, uniforms[..., 0]).to(params.dtype)

    def draw_within(self, params: Tensor, uniforms: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        chosen, log_mass = choose_allowed(params, uniforms[..., 0], allowed)
        return chosen.to(params.dtype), log_mass

    def mode(self, params: Tensor) -> Tensor:
        return params.argmax(-1).to(params.dtype)

    def cdf(self, params: Tensor, x: Tensor) -> Tensor:
        below = torch.arange(self.size, device=params.device) <= x[..., None]
        return torch.where(below, params.softmax(-1), 0).sum(-1)


def _truncated(weights: Tensor, decoding: Decoding) -> Tensor:
    """Weights (..., K) with zeros where ``top_k`` or ``top_p`` drops a category; among equals the lower number stays."""
    sorted_, order = weights.sort(dim=-1, descending=True, stable=True)
    kept = torch.ones_like(sorted_, dtype=torch.bool)
    if decoding.top_k:
        kept[..., decoding.top_k :] = False
    sums = torch.where(kept, sorted_, 0).cumsum(-1)
    kept &= (sums - sorted_) < decoding.top_p * sums[..., -1:]  # what comes before is not yet enough
    kept[..., 0] = True
    return torch.where(torch.zeros_like(kept).scatter(-1, order, kept), weights, 0)

"""The table of backends, and how one is chosen.

To add a backend: write one file, or a package, with ``pack(program, schedule)`` and ``draw(packed, out, piece)`` as
``reference.py`` has them, and add one row here, best first. One that has the masked products too says so in its row, and so
does one with ``Network`` and ``Networks`` as ``numba`` has them; one that can pack other weights by what it has planned has
``repack(packed, tensors)`` and ``unpack(packed)`` as ``cpp`` has them.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import logging
import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import torch

__all__ = ["BACKENDS", "Backend", "Needs", "Row", "choose", "load", "table", "why_not"]

CODES = ("bernoulli", "spin", "categorical", "normal", "mixture_of_normals", "mixture_of_logistics", "own", "point")
ACTIVATIONS = ("identity", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus", "tanh", "sigmoid")
FUNCTIONS = (*ACTIVATIONS, "exp", "reciprocal")
OWN_DRAWS = ("native_draw", "triton_draw")
FEATURES = ("given", "allowed", "sums", "temperature", "greedy", "top_k", "top_p")

_log = logging.getLogger("made_fast")
_HAS_CORE = importlib.util.find_spec("made_fast._core") is not None
_HAS_NUMBA = importlib.util.find_spec("numba") is not None
_TRITON_FLOOR = (3, 6)
# Of Triton: for CUDA and Windows, as builds of torch for CUDA and for AMD bring it.
_TRITON_PACKAGES = ("triton", "triton-windows", "pytorch-triton", "pytorch-triton-rocm", "triton-rocm")
_TRITON_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # then its kernels run on CPU tensors, slowly


def _without_triton() -> str | None:
    """What of Triton is missing, by its metadata: to import it takes a tenth of a second."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install 'made_fast[triton]')"
    for name in _TRITON_PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if tuple(map(int, re.findall(r"\d+", version)[:2])) < _TRITON_FLOOR:
            return f"needs triton 3.6 or newer, which comes with torch 2.10 and newer, found {name} {version}"
    return None


class Needs(NamedTuple):
    """What is asked of a backend.

    Attributes:
        device, dtype: of the tensors.
        outputs: names of the conditionals to draw.
        own_draws: of ``OWN_DRAWS``, those that all conditionals of one's own have.
        functions: of ``made_fast.programs.FUNCTIONS``, applied to units while drawing.
        features: of ``FEATURES``, and others that no backend has.
        products: whether masked products are to be computed.
        networks: whether whole networks are, in one call.
        bf16: whether weights are to be kept in bf16.
    """

    device: torch.device
    dtype: torch.dtype
    outputs: Collection[str] = ()
    own_draws: Collection[str] = OWN_DRAWS
    functions: Collection[str] = ()
    features: Collection[str] = ()
    products: bool = False
    networks: bool = False
    bf16: bool = False


@dataclass(frozen=True, eq=False)  # found by identity: a key of what is loaded
class Backend:
    """One row: what a backend can do, as data. The module ``made_fast.backends.<name>`` has ``pack`` and ``draw``.

    Attributes:
        name: of the backend and of its module.
        summary: one line about it.
        missing: why it cannot be imported here, found once; or None.
        devices, dtypes: that it takes; an empty tuple means any.
        outputs: names of the conditionals that it draws; an empty tuple means any.
        functions: of programs that it applies to units; an empty tuple means any.
        features: what else it does while drawing, of ``FEATURES``; None means any.
        own_draw: the attribute of a ``Conditional`` by which it draws those of one's own; None if by their torch code.
        products: whether it has the masked products of ``reference``.
        networks: whether it runs whole networks in one call.
        has_bf16: asks whether weights can be kept in bf16 on this machine; None if it never can.
        build_config: how it was built; None where nothing is.
    """

    name: str
    summary: str
    missing: str | None
    devices: tuple[str, ...] = ()
    dtypes: tuple[torch.dtype, ...] = ()
    outputs: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    features: tuple[str, ...] | None = None
    own_draw: str | None = None
    products: bool = False
    networks: bool = False
    has_bf16: Callable[[], bool] | None = None
    build_config: Callable[[], dict[str, object]] | None = None


@functools.cache
def _load(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"made_fast.backends.{name}")
    except ImportError as error:  # what the loader of shared objects says where there is no memory for one
        if "map segment" in str(error) or "allocate memory" in str(error):
            raise MemoryError(f"there is not enough memory to load the backend {name!r}: {error}") from error
        raise


BACKENDS: tuple[Backend, ...] = (
    Backend(
        "cpp",
        "compiled engine, one build for each instruction set",
        None
        if _HAS_CORE
        else "the compiled module made_fast._core is not installed (pip install . with a C++ compiler)",
        devices=("cpu",),
        dtypes=(torch.float32, torch.float64),
        outputs=CODES,
        functions=FUNCTIONS,
        features=FEATURES,
        own_draw="native_draw",
        products=True,
        networks=True,
        has_bf16=lambda: bool(_load("cpp").has_bf16()),
        build_config=lambda: dict(_load("cpp").build_config()),
    ),
    Backend(
        "numba",
        "compiled at first use, where nothing was compiled at install",
        None if _HAS_NUMBA else "numba is not installed (pip install 'made_fast[numba]')",
        devices=("cpu",),
        dtypes=(torch.float32, torch.float64),
        outputs=CODES,
        functions=FUNCTIONS,
        features=tuple(name for name in FEATURES if name != "sums"),
        own_draw="native_draw",
        products=True,
        networks=True,
    ),
    Backend(
        "triton",
        "kernels for GPUs, compiled at first use",
        _without_triton(),
        devices=("cpu",) if _TRITON_INTERPRETED else ("cuda",),
        # The interpreter multiplies bf16 wrongly.
        dtypes=(torch.float32, torch.float16, *([] if _TRITON_INTERPRETED else [torch.bfloat16])),
        outputs=(
            *("bernoulli", "spin", "categorical", "normal", "mixture_of_normals", "mixture_of_logistics"),
            "own",
        ),
        functions=ACTIVATIONS,
        features=("given", "allowed", "temperature", "greedy"),
        own_draw="triton_draw",
        products=True,
    ),
    Backend("reference", "plain torch, any device and dtype: the definition", None, products=True),
)


@dataclass(frozen=True)
class Row:
    """One line of ``table()``: whether a backend can be used here, and if not, why."""

    name: str
    usable: bool
    reason: str | None
    summary: str


def table() -> list[Row]:
    """Returns the backends, best first, with what keeps each from being used on this machine.

    Examples:
        >>> [row.name for row in table()]
        ['cpp', 'numba', 'triton', 'reference']
        >>> table()[-1].usable  # plain torch always is
        True
    """
    return [Row(each.name, _absent(each) is None, _absent(each), each.summary) for each in BACKENDS]


def _absent(backend: Backend) -> str | None:
    """What this machine lacks for a backend."""
    if backend.missing is None and backend.devices == ("cuda",) and not torch.cuda.is_available():
        return "there is no CUDA device here"
    return backend.missing


def why_not(backend: Backend, needs: Needs) -> str | None:
    """Why a backend cannot serve, or None if it can. Reads metadata only, so ``torch.compile`` may trace it."""
    if backend.missing is not None:
        return backend.missing
    if backend.devices and needs.device.type not in backend.devices:
        return f"needs a tensor on {' or '.join(backend.devices)}, got {needs.device.type}"
    if backend.dtypes and needs.dtype not in backend.dtypes:
        return f"needs {' or '.join(map(str, backend.dtypes))}, got {needs.dtype}"
    if needs.products and not backend.products:
        return "has no masked products"
    if needs.networks and not backend.networks:
        return "runs networks by layers, not in one call"
    for output in needs.outputs:
        if backend.outputs and output not in backend.outputs:
            return f"has no output {output!r}, only {', '.join(backend.outputs)}"
    if "own" in needs.outputs and backend.own_draw is not None and backend.own_draw not in needs.own_draws:
        return f"draws own distributions by their {backend.own_draw}, which is None (see Conditional)"
    for function in needs.functions:
        if backend.functions and function not in backend.functions:
            return f"has no function {function!r} while drawing, only {', '.join(backend.functions)}"
    for feature in needs.features:
        if backend.features is not None and feature not in backend.features:
            return f"has no {feature!r} while drawing, only {', '.join(backend.features) or 'plain draws'}"
    if needs.bf16 and not (needs.dtype == torch.float32 and backend.has_bf16 is not None and backend.has_bf16()):
        return "has no bf16 weights here (they need an fp32 model and the processor's bf16 instruction)"
    return None


def choose(requested: str, needs: Needs) -> Backend:
    """Returns the backend to use: the requested one, or with ``"auto"`` the first that can.

    ``MADE_FAST_BACKEND`` in the environment stands in for ``"auto"``.

    Raises:
        ValueError: the name is unknown, or that backend cannot serve, or none can; the message says why.
    """
    if requested == "auto":
        requested = os.environ.get("MADE_FAST_BACKEND", "auto")
    if requested != "auto" and all(requested != backend.name for backend in BACKENDS):
        names = ", ".join(backend.name for backend in BACKENDS)
        raise ValueError(f"backend must be 'auto' or one of {names}, got {requested!r}")
    reason: str | None = None
    for backend in BACKENDS:
        if requested not in ("auto", backend.name):
            continue
        reason = why_not(backend, needs)
        if reason is None:
            return backend
        if requested == backend.name:
            raise ValueError(f"backend {backend.name!r} cannot be used: {reason}")
        if not torch.compiler.is_compiling():  # a log message would end what torch.compile traces
            _log.debug("backend %s passed over: %s", backend.name, reason)
    raise ValueError(f"no backend can serve; the last one, {BACKENDS[-1].name!r}, {reason}")


@functools.cache
def load(backend: Backend) -> ModuleType:
    """Imports a backend's module."""
    return _load(backend.name)


def config_reader() -> Callable[[], dict[str, object]] | None:
    """The function that says how the compiled module was built; None where nothing was compiled."""
    row = _compiled()
    return None if row is None else row.build_config


def _compiled() -> Backend | None:
    return next((row for row in BACKENDS if row.build_config and row.missing is None), None)


@functools.cache
def memory_digests() -> Callable[[Sequence[int], Sequence[int], int, int, int, int], list[int]] | None:
    """A function that makes numbers of what lies in memory: of the addresses of several pieces, their sizes in bytes, which
    parts of them are wanted, from one on and up to another, how many parts there are, and by how many threads they are read.
    None where nothing was compiled.
    """
    row = _compiled()
    return None if row is None else load(row).digest_parts  # type: ignore[no-any-return]


@functools.cache
def watching() -> Callable[..., Any] | None:
    """The class that says whether objects and tensors are as they were; None where nothing was compiled."""
    row = _compiled()
    return None if row is None else load(row).Unchanged  # type: ignore[no-any-return]

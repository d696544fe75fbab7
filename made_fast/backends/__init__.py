"""The table of backends, and how one is chosen.

To add a backend: write one file with the function names of ``reference.py`` and add one row here, best first.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

__all__ = ["BACKENDS", "Backend", "Row", "choose", "load", "table", "why_not"]

CODES = ("bernoulli", "spin", "categorical", "normal", "mixture_of_normals", "mixture_of_logistics", "own", "point")
ACTIVATIONS = ("identity", "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "tanh", "sigmoid")
OWN_DRAWS = ("native_draw", "triton_draw")
FEATURES = ("given", "allowed", "temperature", "greedy", "top_k", "top_p")

_log = logging.getLogger("made_fast")
_HAS_CORE = importlib.util.find_spec("made_fast._core") is not None
_HAS_NUMBA = importlib.util.find_spec("numba") is not None
_HAS_TRITON = importlib.util.find_spec("triton") is not None
_TRITON_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # then its kernels run on CPU tensors, slowly


def _core_has_bf16() -> bool:
    return _HAS_CORE and bool(_load("cpp").has_bf16())


@dataclass(frozen=True)
class Backend:
    """One row: what a backend needs, as data. An empty tuple means anything."""

    name: str
    summary: str
    missing: str | None  # why it cannot be imported here, found once
    devices: tuple[str, ...] = ()
    dtypes: tuple[torch.dtype, ...] = ()
    outputs: tuple[str, ...] = ()  # codes of the conditionals that it draws, in lower case
    features: tuple[str, ...] | None = None  # what else it does while drawing, of FEATURES; None for all
    functions: tuple[str, ...] = ()  # of made_fast.programs that it applies to units while drawing
    own: str | None = None  # the attribute of a Conditional by which it draws own distributions, of OWN_DRAWS
    bf16_weights: Callable[[], bool] | None = None  # asks whether weights can be kept in bf16 on this machine


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
        features=FEATURES,
        own="native_draw",
        bf16_weights=_core_has_bf16,
    ),
    Backend(
        "numba",
        "compiled at first use, where nothing was compiled at install",
        None if _HAS_NUMBA else "numba is not installed (pip install 'made_fast[numba]')",
        devices=("cpu",),
        dtypes=(torch.float32, torch.float64),
        outputs=CODES,
        features=FEATURES,
        own="native_draw",
    ),
    Backend(
        "triton",
        "kernels for GPUs, compiled at first use",
        None if _HAS_TRITON else "triton is not installed (pip install 'made_fast[triton]')",
        devices=("cpu",) if _TRITON_INTERPRETED else ("cuda",),
        dtypes=(
            torch.float32,
            torch.float16,
            *([] if _TRITON_INTERPRETED else [torch.bfloat16]),
        ),  # it multiplies bf16 wrongly
        outputs=(
            *("bernoulli", "spin", "categorical", "normal", "mixture_of_normals", "mixture_of_logistics"),
            "own",
        ),
        features=("given", "allowed", "temperature", "greedy"),
        functions=ACTIVATIONS,
        own="triton_draw",
    ),
    Backend("reference", "plain torch, any device and dtype: the definition", None),
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


def why_not(
    backend: Backend,
    *,
    device: torch.device,
    dtype: torch.dtype,
    outputs: Collection[str] = (),
    own: Collection[str] = (),
    features: Collection[str] = (),
    functions: Collection[str] = (),
    bf16_weights: bool = False,
) -> str | None:
    """Why a backend cannot serve, or None if it can. Reads metadata only, so it is safe while a graph is traced."""
    if backend.missing is not None:
        return backend.missing
    if backend.devices and device.type not in backend.devices:
        return f"needs a tensor on {' or '.join(backend.devices)}, got {device.type}"
    if backend.dtypes and dtype not in backend.dtypes:
        return f"needs {' or '.join(map(str, backend.dtypes))}, got {dtype}"
    for output in outputs:
        if backend.outputs and output not in backend.outputs:
            return f"has no output {output!r}, only {', '.join(backend.outputs)}"
    if "own" in outputs and backend.own is not None and backend.own not in own:
        return f"draws own distributions by their {backend.own}, which is None (see Conditional)"
    for function in functions:
        if backend.functions and function not in backend.functions:
            return f"has no function {function!r} while drawing, only {', '.join(backend.functions)}"
    for feature in features:
        if backend.features is not None and feature not in backend.features:
            return f"has no {feature!r} while drawing, only {', '.join(backend.features) or 'plain draws'}"
    if bf16_weights and not (dtype == torch.float32 and backend.bf16_weights and backend.bf16_weights()):
        return "has no bf16 weights here (they need an fp32 model and the processor's bf16 instruction)"
    return None


def choose(
    requested: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    outputs: Collection[str] = (),
    own: Collection[str] = (),
    features: Collection[str] = (),
    functions: Collection[str] = (),
    bf16_weights: bool = False,
) -> Backend:
    """Returns the backend to use: the requested one, or with ``"auto"`` the first that can.

    ``MADE_FAST_BACKEND`` in the environment stands in for ``"auto"``.

    Raises:
        ValueError: the name is unknown, or that backend cannot serve; the message says why.
    """
    if requested == "auto":
        requested = os.environ.get("MADE_FAST_BACKEND", "auto")
    if requested != "auto" and all(requested != backend.name for backend in BACKENDS):
        names = ", ".join(backend.name for backend in BACKENDS)
        raise ValueError(f"backend must be 'auto' or one of {names}, got {requested!r}")
    for backend in BACKENDS:
        if requested not in ("auto", backend.name):
            continue
        asked: dict[str, Any] = {
            "outputs": outputs,
            "own": own,
            "features": features,
            "functions": functions,
            "bf16_weights": bf16_weights,
        }
        reason = why_not(backend, device=device, dtype=dtype, **asked)
        if reason is None:
            return backend
        if requested == backend.name:
            raise ValueError(f"backend {backend.name!r} cannot be used: {reason}")
        if not torch.compiler.is_compiling():  # a log message would break the graph
            _log.debug("backend %s passed over: %s", backend.name, reason)
    raise ValueError("no backend has bf16 weights here: they need an fp32 model and the processor's bf16 instruction")


@functools.cache
def _load(name: str) -> ModuleType:
    return importlib.import_module(f"made_fast.backends.{name}")


def load(backend: Backend) -> ModuleType:
    """Imports a backend's module."""
    return _load(backend.name)


def config_reader() -> Callable[[], dict[str, object]] | None:
    """The compiled module's ``build_config``, or None where nothing was compiled."""
    return load(BACKENDS[0]).build_config if _HAS_CORE else None
